"""What trains is what the recipe names: a name that fits nothing, or the other stage's, is refused."""

import pytest
import torch

from mint_iqa.errors import MintIQAError
from tests import tiny
from train.engine.parameters import STAGE2_PARTS, Learner, declare, describe, restore, trained_state


@pytest.fixture
def learner() -> Learner:
    learner = Learner()
    learner.model = tiny.model(referenced=["alignment.text_encoder."])
    return learner


def trains(learner: Learner, *patterns: str) -> set[str]:
    declare(learner, patterns, learner.model.config.is_referenced, STAGE2_PARTS)
    return {name for name, p in learner.model.named_parameters() if p.requires_grad}


def refusal(learner: Learner, *patterns: str) -> str:
    with pytest.raises(MintIQAError) as caught:
        trains(learner, *patterns)
    assert caught.value.code == "bad_config"
    return str(caught.value)


def test_a_module_s_name_stands_for_all_its_parameters(learner: Learner) -> None:
    assert trains(learner, "heads.quality") == {
        f"heads.quality.layers.{i}.{end}" for i in (0, 1) for end in ("weight", "bias")
    }


def test_a_parameter_is_named_whole(learner: Learner) -> None:
    assert trains(learner, "qformer1.query_tokens") == {"qformer1.query_tokens"}
    assert "'qformer1.query'" in refusal(learner, "qformer1.query")


def test_block_1_is_not_block_10(learner: Learner) -> None:
    learner.model = tiny.model(vision=tiny.vision(num_hidden_layers=11, taps=[11], branch_at=11))
    blocks = {name.split(".")[4] for name in trains(learner, "vision.backbone.encoder.layer.1")}
    assert blocks == {"1"}


def test_what_was_trainable_before_is_so_no_more(learner: Learner) -> None:
    trains(learner, "heads")
    assert trains(learner, "alignment.gain") == {"alignment.gain"}


def test_what_a_part_brings_never_trains(learner: Learner) -> None:
    named = trains(learner, "alignment")
    assert named and not [name for name in named if name.startswith("alignment.text_encoder")]
    assert "'alignment.text_encoder'" in refusal(learner, "alignment.text_encoder")


def test_a_name_that_fits_nothing_is_refused_and_the_parts_are_listed(learner: Learner) -> None:
    message = refusal(learner, "heads", "head.quality")
    assert "'head.quality'" in message and "heads.quality" in message and "qformer1.encoder" in message


def test_the_other_stage_s_parts_are_refused(learner: Learner) -> None:
    assert "qformer2" in refusal(learner, "qformer.")


def test_a_broken_expression_is_refused(learner: Learner) -> None:
    assert "'layer.(3'" in refusal(learner, "layer.(3")


def test_the_table_counts_every_part_that_trains(learner: Learner) -> None:
    names = trains(learner, "heads.quality", "alignment.gain")
    lines = describe(learner).splitlines()
    counts = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in lines[1:]}
    head = sum(p.numel() for p in learner.model.heads["quality"].parameters())
    assert counts == {"heads.quality": head, "alignment.gain": 1}
    assert lines[0].startswith(f"Trains: {head + 1:,} of ") and len(names) == 5


def test_frozen_parts_are_not_put_into_training_mode(learner: Learner) -> None:
    trains(learner, "qformer1")
    learner.train()
    assert learner.model.qformer1.encoder.training and learner.model.qformer1.encoder.encoder.training
    assert not learner.model.vision.training and not learner.model.qformer2.encoder.training


def test_what_was_trained_can_be_put_back(learner: Learner) -> None:
    trains(learner, "heads")
    state = trained_state(learner)
    with torch.no_grad():
        learner.model.heads["quality"].layers[0].weight.zero_()
    restore(learner, state)
    assert all(torch.equal(learner.model.get_parameter(name), tensor) for name, tensor in state.items())


def test_a_checkpoint_of_another_declaration_is_refused(learner: Learner) -> None:
    trains(learner, "heads")
    state = trained_state(learner)
    trains(learner, "heads.quality")
    with pytest.raises(MintIQAError, match=r"heads\.authenticity") as caught:
        restore(learner, state)
    assert caught.value.code == "bad_checkpoint"
