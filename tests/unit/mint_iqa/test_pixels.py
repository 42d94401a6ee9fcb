"""What pixels prove: some faults can't be there, whatever a network believes."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from instruct_data.damage.faults import apply_fault
from mint_iqa.pixels import contradicted
from mint_iqa.vocabulary import FAULTS
from tests.textures import hills


@pytest.mark.parametrize("color", ["black", "white", "gray", "red"])
def test_an_empty_frame_has_no_fault_at_all(color):
    assert contradicted(Image.new("RGB", (64, 64), color)) == frozenset(FAULTS)


def test_a_bright_graphic_is_not_dark_and_its_flat_ground_has_no_noise():
    graphic = Image.new("RGB", (512, 512), "white")
    ImageDraw.Draw(graphic).rectangle((100, 100, 300, 260), fill="navy")
    assert {"darkness", "noise"} <= contradicted(graphic)


def test_hard_edges_are_not_blurred_until_somebody_blurs_them():
    art = Image.fromarray(np.kron(np.eye(64), np.ones((8, 8))).astype(np.uint8) * 255).convert("RGB")
    assert "blur" in contradicted(art)
    assert "blur" not in contradicted(art.filter(ImageFilter.GaussianBlur(4)))


def lettering():
    page = Image.new("RGB", (512, 512), "white")
    pen = ImageDraw.Draw(page)
    for number in range(30):
        pen.text(
            (20 + 160 * (number % 3), 15 + 48 * (number // 3)), f"line {number}", fill="black", font_size=28
        )
    return page


@pytest.mark.parametrize("level", [1, 3, 5])
def test_lettering_saved_without_loss_is_not_compressed_until_somebody_does(level):
    assert "compression" in contradicted(lettering())
    compressed = apply_fault(lettering(), "compression", level, np.random.default_rng(0)).image
    assert "compression" not in contradicted(compressed)


@pytest.mark.parametrize("fault", ["blur", "noise", "darkness", "compression"])
@pytest.mark.parametrize("level", [3, 4, 5])
def test_a_picture_with_a_fault_is_not_acquitted_of_it(fault, level):
    # Two thirds as bright: a bright sky stays bright when darkened.
    picture = hills().resize((512, 512)).point(lambda value: value * 2 // 3)
    faulted = apply_fault(picture, fault, level, np.random.default_rng(0)).image
    assert fault not in contradicted(faulted)
