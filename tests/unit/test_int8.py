"""An LLM in dynamic int8: smaller, for answers only, and nearly the same."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from mint_iqa.errors import MintIQAError
from mint_iqa.int8 import to_int8
from mint_iqa.language import LanguageModel
from tests import tiny


@pytest.fixture(scope="module")
def plain(tiny_language: Path) -> LanguageModel:
    return LanguageModel.load(tiny.config(language={"hidden_size": 32, "source": str(tiny_language)}), None)


@pytest.fixture(scope="module")
def small(plain: LanguageModel) -> LanguageModel:
    return LanguageModel(to_int8(copy.deepcopy(plain.model)), plain.tokenizer)


def test_every_linear_layer_has_8_bits_with_a_scale_for_each_output(plain, small):
    linear = {name for name, m in plain.model.named_modules() if type(m) is nn.Linear}
    weights = {name: small.model.get_submodule(name).weight() for name in linear}
    assert len(linear) == 2 * 7 + 1  # of each block, and the vocabulary
    assert {(w.dtype, w.qscheme()) for w in weights.values()} == {(torch.qint8, torch.per_channel_affine)}
    assert not [m for m in small.model.modules() if type(m) is nn.Linear]


def test_embeddings_stay_as_they_were_though_the_vocabulary_shares_their_weights(plain, small):
    assert plain.model.config.tie_word_embeddings
    assert torch.equal(small.embed([5, 6, 7]), plain.embed([5, 6, 7]))


@torch.inference_mode()
def test_logits_are_nearly_those_of_float32(plain, small):
    embeds = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    expected, found = (m.model(inputs_embeds=embeds).logits for m in (plain, small))
    assert 0 < (found - expected).norm() / expected.norm() < 0.05


def test_answers_are_streamed_as_before(small):
    prefix = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    assert "".join(small.stream(prefix)) == small.answers([prefix])[0] != ""


def test_no_warning_of_the_library_underneath_is_shown(plain, recwarn):
    to_int8(copy.deepcopy(plain.model))
    assert not recwarn.list


def test_another_precision_is_refused(plain):
    with pytest.raises(MintIQAError, match="for a CPU and float32"):
        to_int8(copy.deepcopy(plain.model).bfloat16())
