"""Structural artifacts: visible in one place, and no change anywhere else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from instruct_data.damage.artifacts import AREA_SHARES, ARTIFACTS, BENDS, add_artifact
from instruct_data.damage.distortions import LEVELS, Distorted
from tests.textures import change, hills


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return hills()


def artifact(image: Image.Image, name: str, level: float, seed: int = 0) -> Distorted:
    return add_artifact(image, name, level, np.random.default_rng(seed))


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    name=st.sampled_from(ARTIFACTS),
    level=st.floats(1, 5),
    seed=st.integers(0, 999),
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_picture(size: tuple[int, int], name: str, level: float, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    result, again = (artifact(image, name, level, seed) for _ in range(2))
    assert image.tobytes() == pixels.tobytes(), "the original is left alone"
    assert (result.image.size, result.image.mode) == (image.size, "RGB")
    assert result.image.tobytes() == again.image.tobytes(), "the same seed gives the same bytes"
    assert result.mask.shape == size and result.mask.dtype == np.float32
    assert result.mask.min() >= 0 and result.mask.max() <= 1
    assert not change(image, result)[result.mask == 0].any(), "outside the mask not a bit is touched"
    assert result.severity == level / 5 and result.mean_score is None


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ARTIFACTS)
def test_it_is_seen_inside_its_mask(picture: Image.Image, name: str, level: int) -> None:
    for seed in range(3):
        result = artifact(picture, name, level, seed)
        assert change(picture, result)[result.mask > 0.9].mean() > 2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ARTIFACTS)
def test_it_takes_its_share_of_the_picture(picture: Image.Image, name: str, level: int) -> None:
    shares = [artifact(picture, name, level, seed).mask.mean() for seed in range(4)]
    assert np.mean(shares) == pytest.approx(AREA_SHARES[level - 1], rel=0.25)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_higher_level_changes_more(picture: Image.Image, name: str) -> None:
    def mean_change(level: float) -> float:
        return float(np.mean([change(picture, artifact(picture, name, level, s)).mean() for s in range(6)]))

    changes = [mean_change(level) for level in (1, 2, 3, 4, 5)]
    assert changes == sorted(changes)
    assert changes[1] < mean_change(2.5) < changes[2]


@pytest.mark.parametrize("name", ARTIFACTS)
def test_another_seed_gives_another_picture(picture: Image.Image, name: str) -> None:
    assert artifact(picture, name, 3, 1).image.tobytes() != artifact(picture, name, 3, 2).image.tobytes()


@pytest.mark.parametrize("name", ARTIFACTS)
def test_the_mask_has_a_soft_edge(picture: Image.Image, name: str) -> None:
    mask = artifact(picture, name, 4).mask
    assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1)) < 0.7
    assert ((mask > 0) & (mask < 1)).mean() > 0.01


@pytest.mark.parametrize("name", BENDS)
def test_it_prefers_a_place_with_structure(name: str) -> None:
    pixels = np.full((128, 128, 3), 200, np.uint8)
    pixels[:, :64] = np.random.default_rng(0).integers(0, 255, (128, 64, 3))
    masks = np.array([artifact(Image.fromarray(pixels), name, 1, seed).mask for seed in range(30)])
    assert masks[:, :, :64].sum() > 4 * masks[:, :, 64:].sum()


def test_text_is_ink_on_a_plate_that_it_stands_out_from() -> None:
    for value in (20, 128, 235):
        image = Image.new("RGB", (256, 192), (value,) * 3)
        result = artifact(image, "garbled_text", 5)
        written = np.asarray(result.image.convert("L"), float)[result.mask == 1]
        plate = np.median(written)
        assert abs(plate - value) < 60 and np.abs(written - plate).max() > 70
        assert 0.05 < (np.abs(written - plate) > 40).mean() < 0.4, "lines of marks, neither bare nor filled"


def test_a_seam_is_one_straight_cut_across_the_picture(picture: Image.Image) -> None:
    before = np.asarray(picture, float)
    for seed in range(6):
        result = artifact(picture, "seam", 5, seed)
        lines = [(result.mask > 0).all(axis=axis) for axis in (0, 1)]
        axis = int(lines[1].any())  # 0: some columns are covered from top to bottom; 1: some rows
        jumps = np.abs(np.diff(np.asarray(result.image, float), axis=1 - axis)).mean(axis=(axis, 2))
        steps = jumps - np.abs(np.diff(before, axis=1 - axis)).mean(axis=(axis, 2))
        assert result.mask.mean(axis=axis).max() > 0.9
        assert abs(int(steps.argmax()) + 0.5 - result.mask.mean(axis=axis).argmax()) <= 1.5


@pytest.mark.parametrize(("mode", "name", "level"), [
    ("L", "warp", 1), ("RGB", "crack", 1), ("RGB", "warp", 0.5), ("RGB", "seam", 5.5),
])  # fmt: skip
def test_impossible_requests_are_refused(mode: str, name: str, level: float) -> None:
    with pytest.raises(ValueError, match="cannot apply"):
        artifact(Image.new(mode, (8, 8)), name, level)
