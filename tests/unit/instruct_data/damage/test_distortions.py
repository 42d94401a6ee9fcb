"""KADID-10k's distortions: of the right strength, in the right place, and repeatable."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from instruct_data.damage.distortions import (
    CLEAN_SCORE,
    DISTORTIONS,
    LEVELS,
    WORST_SCORE,
    Distorted,
    distort,
    severity_of_score,
)
from instruct_data.damage.pixels import blur, lab_to_rgb, rgb_to_lab
from tests.textures import change, hills

# These run from one side of the original to the other, so the middle levels change least, also for raters.
TWO_SIDED = ("mean_shift", "contrast_change")
ONE_SIDED = tuple(name for name in DISTORTIONS if name not in TWO_SIDED)
PATCHES = ("color_block", "non_eccentricity_patch")
DRAWN = (
    "motion_blur", "color_shift", "white_noise_rgb", "white_noise_ycbcr", "impulse_noise",
    "multiplicative_noise", "denoise", "jitter", "non_eccentricity_patch", "color_block",
)  # fmt: skip


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return hills()


def damage(
    image: Image.Image,
    name: str,
    level: float,
    seed: int = 0,
    region: float | None = None,
    scale: float = 1.0,
) -> Distorted:
    return distort(image, name, level, np.random.default_rng(seed), region, scale)


def gray(value: int, side: int = 64) -> Image.Image:
    return Image.new("RGB", (side, side), (value,) * 3)


@st.composite
def images(draw: st.DrawFn) -> Image.Image:
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    low, high = sorted(draw(st.tuples(st.integers(0, 255), st.integers(0, 255))))
    return Image.fromarray(rng.integers(low, high + 1, (height, width, 3)).astype(np.uint8))


@given(
    image=images(),
    name=st.sampled_from(sorted(DISTORTIONS)),
    level=st.floats(1, 5),
    region=st.none() | st.floats(0.001, 1),
    scale=st.floats(0.1, 2),
    seed=st.integers(0, 9),
)
@settings(max_examples=250, deadline=None)
def test_whatever_the_picture(
    image: Image.Image, name: str, level: float, region: float | None, scale: float, seed: int
) -> None:
    before = image.tobytes()
    result, again = (damage(image, name, level, seed, region, scale) for _ in range(2))
    assert image.tobytes() == before, "the original is left alone"
    assert (result.image.size, result.image.mode) == (image.size, "RGB")
    assert result.image.tobytes() == again.image.tobytes(), "the same seed gives the same bytes"
    assert result.mask.shape == image.size[::-1] and result.mask.dtype == np.float32
    assert result.mask.min() >= 0 and result.mask.max() <= 1
    assert not change(image, result)[result.mask == 0].any(), "outside the mask not a bit is touched"
    assert 0 <= result.severity <= 1 and (result.name, result.level) == (name, level)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 7)])
@pytest.mark.parametrize("name", DISTORTIONS)
def test_odd_sizes_survive_every_level(name: str, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (9, 90, 200))
    for level in LEVELS:
        for region in (None, 0.2):
            assert damage(image, name, level, region=region).image.size == size


@pytest.mark.parametrize("name", ONE_SIDED)
def test_a_higher_level_changes_more(picture: Image.Image, name: str) -> None:
    levels = (1, 1.5, 2, 3, 4, 4.5, 5)
    results = [damage(picture, name, level) for level in levels]
    changes = [change(picture, result).mean() for result in results]
    if (
        name == "color_block"
    ):  # one block over another may be nearer to the original; they cover more and more
        changes = [result.mask.mean() for result in results]
    assert changes == sorted(changes)
    assert changes[-1] > 1.5 * changes[0]


@pytest.mark.parametrize(
    ("name", "levels"), [("mean_shift", (1, 2, 3, 4, 5)), ("contrast_change", (1, 2, 3.5, 5))]
)
def test_two_sided_ones_change_more_away_from_the_middle(
    picture: Image.Image, name: str, levels: tuple[float, ...]
) -> None:
    changes = [change(picture, damage(picture, name, level)).mean() for level in levels]
    middle = changes.index(0)
    assert changes[: middle + 1] == sorted(changes[: middle + 1], reverse=True)
    assert changes[middle:] == sorted(changes[middle:])


@pytest.mark.parametrize(("name", "statistic"), [("mean_shift", np.mean), ("contrast_change", np.std)])
def test_two_sided_ones_raise_first_and_lower_last(
    picture: Image.Image, name: str, statistic: Callable[[np.ndarray], float]
) -> None:
    raised, lowered = (statistic(np.asarray(damage(picture, name, level).image)) for level in (1, 5))
    assert raised > statistic(np.asarray(picture)) > lowered


@pytest.mark.parametrize("name", DRAWN)
def test_another_seed_gives_another_picture(picture: Image.Image, name: str) -> None:
    assert (
        damage(picture, name, 3, seed=1).image.tobytes() != damage(picture, name, 3, seed=2).image.tobytes()
    )


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_region_is_distorted_inside_and_soft_at_its_edge(picture: Image.Image, name: str) -> None:
    result = damage(picture, name, 5, region=0.2)
    changed = change(picture, result)
    assert changed[result.mask > 0.9].mean() > 1
    assert changed[result.mask == 0].max() == 0
    if name in PATCHES:
        assert 0 < result.mask.mean() < 0.2 and set(np.unique(result.mask)) == {0, 1}
    else:
        assert result.mask.mean() == pytest.approx(0.2, rel=0.25)
        assert np.abs(np.diff(result.mask, axis=0)).max() < 0.3


@pytest.mark.parametrize("name", PATCHES)
def test_the_mask_of_patches_is_the_patches(picture: Image.Image, name: str) -> None:
    result = damage(picture, name, 3)
    assert np.array_equal(result.mask > 0, change(picture, result) > 0)


def test_score_and_strength_lie_between_those_of_the_whole_levels(picture: Image.Image) -> None:
    result = damage(picture, "gaussian_blur", 3.25)
    assert result.mean_score == pytest.approx(0.75 * 0.5822 + 0.25 * 0.3746)
    assert result.severity == pytest.approx((CLEAN_SCORE - result.mean_score) / (CLEAN_SCORE - WORST_SCORE))
    plane = ndimage.gaussian_filter(np.asarray(picture, np.float32)[..., 0], 1.25, truncate=2.0)
    assert np.abs(np.asarray(result.image)[..., 0] - plane).max() <= 0.51


def test_severity_is_bounded() -> None:
    assert severity_of_score(1.0) == 0 and severity_of_score(0.0) == 1


@pytest.mark.data
def test_the_scores_are_those_of_the_ratings(data_root: Path) -> None:
    file = data_root / "kadid_levels.csv"
    if not file.exists():
        pytest.skip(f"no ratings at {file}")
    rated: dict[str, tuple[float, ...]] = {}
    with file.open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            rated[row["distortion"]] = (*rated.get(row["distortion"], ()), float(row["mean_score_0_to_1"]))
    assert {name: kind.scores for name, kind in DISTORTIONS.items()} == rated
    assert list(DISTORTIONS) == list(rated), "in KADID-10k's order, which is that of its codes 1 to 25"


# --- strengths: what the number means ---


def test_a_lens_blurs_a_point_to_a_disk_of_the_radius() -> None:
    point = np.zeros((65, 65, 3), np.uint8)
    point[32, 32] = 255
    white = 255 - np.asarray(damage(Image.fromarray(255 - point), "lens_blur", 4).image, float)[..., 0]
    y, x = np.nonzero(white)
    assert np.hypot(y - 32, x - 32).max() == pytest.approx(6, abs=0.6)
    assert white[white > 0].max() == pytest.approx(255 / (np.pi * 36), abs=1)


def test_motion_blurs_a_point_to_a_line_of_the_length() -> None:
    point = np.zeros((65, 65, 3), np.uint8)
    point[32, 32] = 255
    for seed in range(5):
        light = np.asarray(damage(Image.fromarray(point), "motion_blur", 5, seed).image, float)[..., 0]
        y, x = np.nonzero(light > 3)
        assert np.hypot(y - 32, x - 32).max() == pytest.approx(4.5, abs=0.8)
        assert light.sum() == pytest.approx(255, rel=0.1)
    assert damage(Image.fromarray(point), "motion_blur", 1).image.tobytes() == point.tobytes()


def test_saturation_ends_in_gray_or_in_the_complement() -> None:
    orange = Image.new("RGB", (4, 4), (200, 120, 40))
    assert damage(orange, "color_saturation_hsv", 4).image.getpixel((0, 0)) == (200, 200, 200)
    red, _, blue = damage(orange, "color_saturation_hsv", 5).image.getpixel((0, 0))
    assert red < blue
    same = np.asarray(damage(orange, "color_saturation_lab", 1).image, int)
    assert np.abs(same - (200, 120, 40)).max() <= 1


@pytest.mark.parametrize(
    ("name", "level", "most"), [("color_quantization", 5, 8), ("color_quantization", 2, 48)]
)
def test_a_palette_has_so_many_colors(picture: Image.Image, name: str, level: int, most: int) -> None:
    colors = np.unique(np.asarray(damage(picture, name, level).image).reshape(-1, 3), axis=0)
    assert most / 2 < len(colors) <= most


def test_quantization_leaves_one_step_more_than_thresholds() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    values = np.unique(np.asarray(damage(ramp, "quantization", 5).image))
    assert len(values) == 8 and (values[0], values[-1]) == (0, 255)


def test_noise_has_its_variance_and_its_density() -> None:
    middle = gray(128, 256)
    luma = np.asarray(damage(middle, "white_noise_ycbcr", 5).image, float) @ (0.299, 0.587, 0.114) / 255
    assert luma.var() == pytest.approx(1.164**2 * 0.003, rel=0.05)
    speckled = np.asarray(damage(middle, "multiplicative_noise", 4).image, float) / 128
    assert speckled.var() == pytest.approx(0.02, rel=0.05)
    salted = np.asarray(damage(middle, "impulse_noise", 5).image)
    assert (salted == 0).mean() == pytest.approx(0.015, rel=0.05) == (salted == 255).mean()


def test_brightness_and_contrast_follow_their_curves() -> None:
    assert damage(gray(128), "brighten", 3).image.getpixel((0, 0))[0] == pytest.approx(128 + 0.2 * 255, abs=2)
    assert damage(gray(128), "mean_shift", 5).image.getpixel((0, 0))[0] == pytest.approx(128 - 38, abs=1)
    for value, moved in ((0.3, 0.4), (0.5, 0.5), (0.7, 0.6)):  # level 5 is -.6
        pixel = damage(gray(round(255 * value)), "contrast_change", 5).image.getpixel((0, 0))
        assert pixel[0] == pytest.approx(255 * moved, abs=2)


def test_blocks_have_their_number_and_size() -> None:
    result = damage(gray(128, 400), "color_block", 1, seed=3)
    assert result.mask.sum() == 2 * 32**2
    assert damage(gray(128, 400), "color_block", 1, seed=3, scale=0.5).mask.sum() == 2 * 16**2


def test_sharpening_overshoots_at_an_edge() -> None:
    step = np.full((40, 40, 3), 90, np.uint8)
    step[:, 20:] = 160
    row = np.asarray(damage(Image.fromarray(step), "high_sharpen", 1).image, int)[20, :, 0]
    assert row[19] < 90 - 15 and row[20] > 160 + 15 and abs(row[2] - 90) <= 1


def test_color_shift_moves_green_alone(picture: Image.Image) -> None:
    moved = np.asarray(damage(picture, "color_shift", 5).image, int) - np.asarray(picture, int)
    assert not moved[..., [0, 2]].any() and moved[..., 1].any()


def test_denoising_takes_the_texture_and_leaves_the_edges(picture: Image.Image) -> None:
    rng = np.random.default_rng(0)
    step = np.full((64, 64, 3), 80.0) + rng.normal(0, 8, (64, 64, 1))
    step[:, 32:] += 100
    textured = Image.fromarray(step.clip(0, 255).astype(np.uint8))
    after = np.asarray(damage(textured, "denoise", 1).image, float)[..., 1]
    assert after[8:56, 4:28].std() < 4 < 7 < np.asarray(textured, float)[8:56, 4:28, 1].std()
    assert after[:, 36:].mean() - after[:, :28].mean() == pytest.approx(100, abs=5)


@pytest.mark.parametrize("name", ["lens_blur", "color_diffusion", "color_shift", "jitter", "high_sharpen"])
def test_a_smaller_scale_is_a_weaker_fault(picture: Image.Image, name: str) -> None:
    whole, half = (change(picture, damage(picture, name, 4, scale=scale)).mean() for scale in (1.0, 0.4))
    assert 0 < half < whole


# --- color and blur underneath ---


def test_cielab_is_the_standard_one() -> None:
    pixels = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]]], np.uint8)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    assert np.abs(rgb_to_lab(pixels)[:, 0].T - expected).max() < 0.05


def test_cielab_and_back_changes_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8)
    assert np.array_equal(lab_to_rgb(rgb_to_lab(pixels)), pixels)


def test_the_fast_wide_blur_is_a_gaussian_one() -> None:
    plane = np.random.default_rng(0).standard_normal((120, 150)).astype(np.float32)
    plane = 100 * ndimage.gaussian_filter(plane, 3)
    exact = ndimage.gaussian_filter(plane, 12)
    assert np.abs(blur(plane, 12) - exact).max() < 0.1 * np.ptp(exact)


@pytest.mark.parametrize(("mode", "name", "level", "region", "scale"), [
    ("L", "jpeg", 1, None, 1.0), ("RGB", "scratches", 1, None, 1.0), ("RGB", "jpeg", 0.9, None, 1.0),
    ("RGB", "jpeg", 5.1, None, 1.0), ("RGB", "jpeg", 1, 0.0, 1.0), ("RGB", "jpeg", 1, 1.1, 1.0),
    ("RGB", "jpeg", 1, None, 0.0), ("RGB", "jpeg", float("nan"), None, 1.0),
])  # fmt: skip
def test_impossible_requests_are_refused(
    mode: str, name: str, level: float, region: float | None, scale: float
) -> None:
    with pytest.raises(ValueError, match="cannot apply"):
        damage(Image.new(mode, (8, 8)), name, level, 0, region, scale)
