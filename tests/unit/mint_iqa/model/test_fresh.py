"""A new model starts from its parts, and parts that do not fit are refused by name."""

import pytest
import torch
from transformers import BertConfig, BertModel

from mint_iqa.errors import MintIQAError
from mint_iqa.model import fresh, references
from tests import tiny


def test_a_config_that_names_no_part_says_so():
    with pytest.raises(MintIQAError, match="no part for 'vision'"):
        fresh.load_part(torch.nn.Linear(1, 1), "vision", tiny.config())


@torch.no_grad()
def test_training_starts_from_the_sentence_encoder_in_every_place_that_has_one(tmp_path, monkeypatch):
    """The tower from `vision`, both Q-Formers and the alignment from `text`."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, **tiny.TEXT}
    model = tiny.model(
        alignment=sizes, parts={"vision": "v", "text": "t"}, referenced=["alignment.text_encoder."]
    )
    tower = tiny.lively(tiny.model(seed=1)).vision.backbone.state_dict()
    torch.manual_seed(2)
    text = BertModel(BertConfig(**sizes), add_pooling_layer=False).state_dict()
    for module in (fresh, references):
        monkeypatch.setattr(module, "part_state", lambda _, role: {"vision": tower, "text": text}[role])
    fresh.initialize(model)
    assert all(torch.equal(v, tower[k]) for k, v in model.vision.backbone.state_dict().items())
    assert all(torch.equal(v, text[k]) for k, v in model.alignment.text_encoder.state_dict().items())
    query = "encoder.layer.0.attention.attention.query.weight"
    for qformer in (model.qformer1, model.qformer2):
        assert torch.equal(
            qformer.encoder.state_dict()[query], text[query.replace("attention.query", "self.query")]
        )


def test_a_part_that_does_not_fit_is_refused_and_its_weights_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = {"weight": torch.zeros(2, 2), "gain": torch.zeros(1)}
    monkeypatch.setattr(fresh, "part_state", lambda *_: state)
    layer = torch.nn.Linear(1, 1)
    before = layer.weight.clone()
    with pytest.raises(MintIQAError) as caught:
        fresh.load_part(layer, "vision", tiny.config())
    assert caught.value.code == "bad_checkpoint"
    assert "missing: bias; unknown: gain; of another shape: weight" in caught.value.message
    assert torch.equal(layer.weight, before)
