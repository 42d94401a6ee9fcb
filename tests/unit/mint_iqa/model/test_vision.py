"""The towers give patch features for the Q-Formers, and both stages share what they should."""

import pytest
import torch

from mint_iqa.errors import MintIQAError
from mint_iqa.model.vision import (
    BACKBONES,
    PIXEL_STATISTICS,
    VisionBranch,
    VisionTower,
    _stem_blocks_norm,
    pixel_statistics,
)
from tests import tiny

TOWERS = {
    "dinov2": {"mlp_ratio": 2},
    "clip_vision_model": {"intermediate_size": 48},
    "instructblip_vision_model": {"intermediate_size": 48},
}
POSITIONS = 1 + 2 * 2  # the class token and 2 x 2 patches


def settings(kind="dinov2", **changes):
    return tiny.vision(model_type=kind, **TOWERS[kind], **changes)


def tower(kind="dinov2", **changes):
    torch.manual_seed(0)
    built = VisionTower(settings(kind, **changes)).eval()
    with torch.no_grad():
        for parameter in built.parameters():  # biases and norms too: a skipped one must show
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return built


def pictures(count=2):
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def test_every_kind_of_tower_is_covered_here():
    assert set(TOWERS) == set(BACKBONES)


@pytest.mark.parametrize("kind", TOWERS)
def test_one_tap_gives_one_vector_per_position(kind):
    embeds, *_ = tower(kind, taps=[4])(pictures())
    assert embeds.shape == (2, POSITIONS, 32)


@pytest.mark.parametrize("kind", TOWERS)
def test_several_taps_are_fused_to_the_given_width_and_add_the_spread_token(kind):
    embeds, *_ = tower(kind)(pictures())
    assert embeds.shape == (2, POSITIONS + 1, 24)


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("branch_at", [0, 2, 4])
@torch.no_grad()
def test_one_tap_at_full_depth_is_the_backbones_own_normalized_output(kind, branch_at):
    built = tower(kind, taps=[4], branch_at=branch_at)
    output = built.backbone(pictures())
    expected = output.last_hidden_state
    if kind == "clip_vision_model":  # CLIP normalizes its class token only, InstructBLIP reads all positions
        expected = built.backbone.post_layernorm(expected)
        assert torch.equal(expected[:, 0], output.pooler_output)
    torch.testing.assert_close(built(pictures())[0], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_taps_are_counted_from_the_first_block():
    built = tower(taps=[1, 2, 4])
    hidden = built.backbone(pictures(), output_hidden_states=True).hidden_states  # [0] is before any block
    _, tapped = built.trunk(pictures(), 4)
    assert len(tapped) == 3
    for number, output in zip([1, 2, 4], tapped, strict=True):
        torch.testing.assert_close(output, hidden[number], atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_spread_token_ignores_where_things_are_and_the_class_token():
    built = tower(taps=[1, 4])
    taps = [torch.randn(1, POSITIONS, 32), torch.randn(1, POSITIONS, 32)]
    moved = [
        t[:, [0, 3, 1, 4, 2]] + torch.tensor([1.0, 0, 0, 0, 0]).view(1, -1, 1) * torch.randn(32) for t in taps
    ]
    before, after = (built.readout(t, built.backbone.layernorm)[:, -1] for t in (taps, moved))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_spread_of_an_even_picture_is_zero():
    built = tower(taps=[1, 4])
    even = [torch.randn(1, 1, 32).expand(1, POSITIONS, 32)] * 2
    spread = built.readout(even, built.backbone.layernorm)[:, -1]
    torch.testing.assert_close(spread[0], built.readout.spread.bias, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("branch_at", [1, 2, 3])
@pytest.mark.parametrize("taps", [[4], [1, 2, 4]])
@torch.no_grad()
def test_a_branch_with_the_same_weights_continues_the_trunk_to_the_same_embeds(kind, branch_at, taps):
    built = tower(kind, taps=taps, branch_at=branch_at)
    branch = VisionBranch(settings(kind, taps=taps, branch_at=branch_at)).eval()
    own = {
        k.split("layers." if "layers." in k else "layer.")[-1]: v
        for k, v in built.backbone.state_dict().items()
    }
    for number, block in enumerate(branch.blocks):
        prefix = f"{branch_at + number}."
        block.load_state_dict({k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)})
    norm = built.backbone.layernorm if kind == "dinov2" else built.backbone.post_layernorm
    branch.norm.load_state_dict(norm.state_dict())
    branch.readout.load_state_dict(built.readout.state_dict())
    embeds, _, trunk = built(pictures())
    assert len(branch.blocks) == 4 - branch_at
    assert torch.equal(branch(trunk), embeds)


@pytest.mark.parametrize("kind", TOWERS)
@torch.no_grad()
def test_a_branch_at_0_is_a_whole_tower_of_its_own_from_the_picture_on(kind):
    first, other = tower(kind, taps=[4], branch_at=0), tower(kind, taps=[4])
    branch = VisionBranch(settings(kind, taps=[4], branch_at=0)).eval()
    for name, parameter in other.backbone.named_parameters():
        parameter.add_(torch.full_like(parameter, 0.01 * len(name)))
    branch.stem, branch.blocks, branch.norm = _stem_blocks_norm(other.backbone)
    embeds, _, shared = first(pictures())
    expected, *_ = other(pictures())
    assert torch.equal(branch(shared), expected)
    assert not torch.allclose(embeds, expected, atol=1e-2)
    names = {name.split(".")[0] for name, _ in VisionBranch(settings(kind, branch_at=0)).named_parameters()}
    assert "stem" in names


@pytest.mark.parametrize("kind", TOWERS)
def test_the_last_layer_norm_may_have_an_epsilon_of_its_own(kind):
    built = tower(kind, taps=[4], final_norm_eps=0.5)
    _, blocks, norm = _stem_blocks_norm(built.backbone)
    assert norm.eps == 0.5
    assert {n.eps for n in blocks.modules() if isinstance(n, torch.nn.LayerNorm)} <= {1e-5, 1e-6}


@torch.no_grad()
def test_statistics_are_each_taps_class_token_mean_and_deviation_normalized():
    built = tower(taps=[1, 4])
    _, tapped = built.trunk(pictures(), 4)
    _, statistics, _ = built(pictures())
    first = torch.nn.functional.layer_norm(tapped[0], (32,))
    expected = torch.cat([first[:, 0], first[:, 1:].mean(dim=1), first[:, 1:].std(dim=1)], dim=1)
    assert statistics.shape == (len(tapped[0]), PIXEL_STATISTICS + 2 * 3 * 32)
    torch.testing.assert_close(statistics[:, PIXEL_STATISTICS:][:, :96], expected)
    torch.testing.assert_close(statistics[:, :PIXEL_STATISTICS], pixel_statistics(pictures()))


def test_a_darker_picture_has_lower_light_levels_and_a_blurred_one_smaller_steps():
    sharp = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    dark, blurred = 0.4 * sharp, torch.nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2)
    of_sharp, of_dark, of_blurred = pixel_statistics(torch.cat([sharp, dark, blurred]))
    assert (of_dark[:7] < of_sharp[:7]).all()
    assert (of_blurred[-3:] < 0.5 * of_sharp[-3:]).all()


def test_pixel_statistics_do_not_depend_on_the_neighbors_in_the_batch():
    together = pixel_statistics(pictures())
    alone = torch.cat([pixel_statistics(one.unsqueeze(0)) for one in pictures()])
    torch.testing.assert_close(together, alone)
    assert together.shape[1] == PIXEL_STATISTICS


@torch.no_grad()
def test_the_blocks_after_the_trunk_give_the_rest_of_the_taps():
    built = tower(taps=[1, 2, 4])
    hidden, early = built.trunk(pictures(), 2)
    _, everything = built.trunk(pictures(), 4)
    assert [len(early), len(built.remaining(hidden, 2))] == [2, 1]
    assert torch.equal(built.remaining(hidden, 2)[0], everything[2])


@pytest.mark.parametrize("taps", [[], [0, 4], [2, 1], [2, 2], [1, 5]])
def test_taps_that_name_no_ascending_blocks_are_refused(taps):
    with pytest.raises(MintIQAError, match="between 1 and 4") as caught:
        VisionTower(settings(taps=taps))
    assert caught.value.code == "bad_config"


def test_an_unknown_tower_is_refused_with_the_known_ones():
    with pytest.raises(MintIQAError, match="'resnet' is unknown: use one of dinov2") as caught:
        VisionTower({**settings(), "model_type": "resnet"})
    assert caught.value.code == "unknown_vision_tower"
