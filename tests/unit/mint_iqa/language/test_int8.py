"""An LLM that writes in int8: nearly the same, and what is trained and saved is untouched."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from mint_iqa.assessor import Assessor
from mint_iqa.errors import MintIQAError
from mint_iqa.language.int8 import Int8Linear, in_int8
from mint_iqa.language.llm import LanguageModel
from mint_iqa.model.references import load_language
from tests import tiny


@pytest.fixture
def language(tiny_language: Path) -> LanguageModel:
    return load_language(tiny.config(language={"hidden_size": 32, "source": str(tiny_language)}), None)


def prefix(seed: int = 0) -> torch.Tensor:
    return torch.randn(12, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_gives_nearly_what_it_gave_in_float32(bias):
    torch.manual_seed(0)
    layer = nn.Linear(256, 128, bias=bias)
    with torch.no_grad():
        layer.weight *= torch.logspace(-3, 1, 128)[:, None]  # each output needs a scale of its own
        layer.weight[5] = 0
        x = torch.randn(4, 1, 256)
        expected, found = layer(x), Int8Linear(layer)(x)
    assert found.shape == expected.shape
    apart = (found - expected).norm(dim=(0, 1)) / expected.norm(dim=(0, 1)).clamp(min=1e-6)
    assert apart.max() < 0.2  # with one scale for all it would be 1 for the smallest


def test_every_linear_layer_is_replaced_and_the_model_itself_left_alone(language):
    before = {name: tensor.clone() for name, tensor in language.state_dict().items()}
    language.step_in_int8()
    kinds = [type(module) for module in language.steps.modules()]
    assert kinds.count(Int8Linear) == 2 * 7 + 1 and nn.Linear not in kinds  # two blocks, and the vocabulary
    after = language.model.state_dict()
    assert {f"model.{name}" for name in after} == before.keys()
    assert all(torch.equal(tensor, before[f"model.{name}"]) for name, tensor in after.items())


def test_other_weights_are_shared(language):
    small = in_int8(language.model)
    assert small.get_input_embeddings().weight is language.model.get_input_embeddings().weight


def test_what_stands_before_the_answer_is_read_in_float32(language):
    """Soft tokens are far larger than others: at one scale for all, the others would be rounded away."""
    first = [next(language.decode([prefix(i)])) for i in range(20)]
    language.step_in_int8()
    assert [next(language.decode([prefix(i)])) for i in range(20)] == first


def test_the_answer_itself_is_written_in_int8(language):
    language.step_in_int8()
    for module in language.steps.modules():
        if isinstance(module, Int8Linear):
            module.forward = lambda x: 1 / 0
    steps = language.decode([prefix()], ignore_eos=True)
    next(steps)
    with pytest.raises(ZeroDivisionError):
        next(steps)


def test_answers_are_streamed_as_before(language):
    language.step_in_int8()
    assert "".join(language.stream(prefix())) == language.answers([prefix()])[0] != ""


def test_no_warning_of_the_library_underneath_is_shown(language, recwarn):
    language.step_in_int8()
    assert not recwarn.list


def test_it_is_chosen_like_any_other_precision(tiny_checkpoint):
    assessor = Assessor.from_pretrained(tiny_checkpoint, device="cpu", quantization="int8-steps")
    plain = Assessor.from_pretrained(tiny_checkpoint, device="cpu")
    assert assessor.language_model().steps is not None and plain.language_model().steps is None
    picture = Image.effect_noise((64, 64), 90)
    record = assessor.assess(picture, "a cat")
    assert record.explanation is not None
    assert record.scores == plain.assess(picture, "a cat", explain=False).scores


@pytest.mark.parametrize("other", [{"dtype": "bfloat16"}, {"device_map": "auto"}])
def test_other_options_beside_it_are_refused(tiny_checkpoint, other):
    with pytest.raises(MintIQAError, match="for a CPU and float32"):
        Assessor.from_pretrained(tiny_checkpoint, device="cpu", quantization="int8-steps", **other)


def test_another_precision_is_refused(language):
    language.model.bfloat16()
    with pytest.raises(MintIQAError, match="for a CPU and float32"):
        language.step_in_int8()
