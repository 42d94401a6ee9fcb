"""Deliberate faults: of the right strength, in the right place, and repeatable."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from instruct_data.damage.distortions import CLEAN_SCORE, Distorted
from instruct_data.damage.faults import KADID_SCORES, apply_fault, severity_of
from mint_iqa.vocabulary import FAULTS, FaultName
from tests.textures import change, hills

EVERY_LEVEL = [(name, level) for name in FAULTS for level in range(1, 6)]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return hills()


def fault(picture: Image.Image, name: FaultName, level: int, seed: int = 0, scale: float = 1.0) -> Distorted:
    return apply_fault(picture, name, level, np.random.default_rng(seed), scale)


@pytest.mark.parametrize(("name", "level"), EVERY_LEVEL)
def test_size_and_mode_stay(picture: Image.Image, name: FaultName, level: int) -> None:
    result = fault(picture, name, level)
    assert (result.image.size, result.image.mode) == (picture.size, "RGB")
    assert result.mask.shape == (128, 160) and result.mask.dtype == np.float32
    assert result.mask.min() >= 0 and result.mask.max() <= 1


@pytest.mark.parametrize(("name", "level"), EVERY_LEVEL)
def test_the_same_seed_gives_the_same_bytes(picture: Image.Image, name: FaultName, level: int) -> None:
    assert fault(picture, name, level).image.tobytes() == fault(picture, name, level).image.tobytes()


@pytest.mark.parametrize(("name", "digest"), [
    ("blur", "dd7ba7e69c45ea40"), ("noise", "3a37edcd5a7845ee"), ("compression", "2ec4985000095670"),
    ("darkness", "92a3d4677522d496"), ("pixelation", "d33ec17e233ecacd"),
    ("malformation", "2d2ce0b01d767c22"),
])  # fmt: skip
def test_the_bytes_are_those_that_the_shipped_model_learned_from(
    picture: Image.Image, name: FaultName, digest: str
) -> None:
    results = [fault(picture, name, level, level, scale) for level in range(1, 6) for scale in (1.0, 0.5)]
    assert hashlib.sha256(b"".join(r.image.tobytes() for r in results)).hexdigest().startswith(digest)


@pytest.mark.parametrize("name", FAULTS)
def test_the_original_is_left_alone(picture: Image.Image, name: FaultName) -> None:
    before = picture.tobytes()
    fault(picture, name, 5)
    assert picture.tobytes() == before


@pytest.mark.parametrize("name", ["noise", "malformation"])
def test_another_seed_gives_another_picture(picture: Image.Image, name: FaultName) -> None:
    assert fault(picture, name, 3, seed=1).image.tobytes() != fault(picture, name, 3, seed=2).image.tobytes()


@pytest.mark.parametrize("name", KADID_SCORES)
def test_a_higher_level_changes_more(picture: Image.Image, name: FaultName) -> None:
    changes = [change(picture, fault(picture, name, level)).mean() for level in range(1, 6)]
    assert changes == sorted(changes)
    assert changes[4] > 2 * changes[1]


@pytest.mark.parametrize("name", FAULTS)
def test_severity_grows_with_the_level_within_0_to_1(name: FaultName) -> None:
    severities = [severity_of(name, level) for level in range(1, 6)]
    assert severities == sorted(severities)
    assert 0 <= severities[0] < 0.25 < severities[4] <= 1


def test_severity_follows_the_human_scores() -> None:
    assert severity_of("blur", 5) == pytest.approx((CLEAN_SCORE - 0.2605) / (CLEAN_SCORE - 0.25))
    assert severity_of("malformation", 2) == 0.4


def test_only_human_rated_faults_carry_a_score(picture: Image.Image) -> None:
    assert fault(picture, "compression", 4).mean_score == 0.3891
    assert fault(picture, "malformation", 4).mean_score is None


def test_noise_has_the_published_variance() -> None:
    gray = Image.new("RGB", (256, 256), (128, 128, 128))
    noisy = np.asarray(fault(gray, "noise", 5).image, float) / 255
    assert noisy.var() == pytest.approx(0.01, rel=0.03)


def test_blur_has_the_published_width() -> None:
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 255
    profile = np.asarray(fault(Image.fromarray(step), "blur", 4).image, float)[32, :, 0]
    # One sigma (2 px) on either side of an edge, a Gaussian blur gives 16 % and 84 %.
    assert np.interp([30 - 0.5, 34 - 0.5], np.arange(64), profile) / 255 == pytest.approx(
        [0.16, 0.84], abs=0.03
    )


def test_darkening_is_the_published_curve() -> None:
    gray = Image.new("RGB", (8, 8), (128, 128, 128))
    assert fault(gray, "darkness", 4).image.getpixel((0, 0))[0] == pytest.approx(128 - 0.2 * 255, abs=1)
    ends = Image.fromarray(np.array([[[0] * 3, [255] * 3]], np.uint8))
    assert fault(ends, "darkness", 5).image.tobytes() == ends.tobytes()


def test_pixelation_repeats_whole_pixels(picture: Image.Image) -> None:
    result = np.asarray(fault(picture, "pixelation", 5).image)
    # Strength .5 keeps 29 % of the columns, so about 71 % equal their left neighbor.
    equal = (result[:, 1:] == result[:, :-1]).all(axis=(0, 2)).mean()
    assert equal == pytest.approx(0.71, abs=0.02)


@pytest.mark.parametrize("name", ["blur", "pixelation"])
def test_a_smaller_scale_is_a_weaker_fault(picture: Image.Image, name: FaultName) -> None:
    whole, half = (change(picture, fault(picture, name, 5, scale=scale)).mean() for scale in (1.0, 0.5))
    assert 0 < half < whole


def test_a_malformation_does_not_give_itself_away_by_blur_or_brightness(picture: Image.Image) -> None:
    pictures = [fault(picture, "malformation", 5, seed).image for seed in range(20)]
    before, after = np.asarray(picture, float), np.array([np.asarray(p, float) for p in pictures])
    assert after.mean() == pytest.approx(before.mean(), rel=0.03)
    assert after.std() == pytest.approx(before.std(), rel=0.05)
    sharpness = [np.abs(np.diff(values, axis=-2)).mean() for values in (before, after)]
    assert sharpness[1] > 0.9 * sharpness[0]


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (40, 3)])
@pytest.mark.parametrize("name", FAULTS)
def test_tiny_pictures_survive(name: FaultName, size: tuple[int, int]) -> None:
    assert fault(Image.new("RGB", size, (9, 90, 200)), name, 5).image.size == size


@pytest.mark.parametrize(("mode", "name", "level", "scale"), [
    ("L", "blur", 1, 1.0), ("RGB", "scratches", 1, 1.0), ("RGB", "blur", 0, 1.0),
    ("RGB", "blur", 6, 1.0), ("RGB", "blur", 1, 0.0), ("RGB", "blur", 2.5, 1.0),
    ("RGB", "jpeg", 1, 1.0),
])  # fmt: skip
def test_impossible_requests_are_refused(mode: str, name: str, level: int, scale: float) -> None:
    with pytest.raises(ValueError, match="cannot apply"):
        apply_fault(Image.new(mode, (8, 8)), name, level, np.random.default_rng(0), scale)  # type: ignore[arg-type]
