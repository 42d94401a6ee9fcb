"""Pictures and texts become tensors in one way, and what is lost on the way is said."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mint_iqa.errors import MintIQAError
from mint_iqa.model.processing import MintIQAProcessor
from tests import tiny
from train.data.pictures import stored_side

REPOSITORY = Path(__file__).resolve().parents[4]
SIZE = tiny.PROCESSOR["image_size"]


def processor(**changes):
    return MintIQAProcessor(tiny.config(processor={**tiny.PROCESSOR, **changes}), tiny.text_tokenizer())


def striped(width, height, stripes):
    """Equal stripes across the longer side, in these shades of grey."""
    row = np.repeat(np.array(stripes, dtype=np.uint8), max(width, height) // len(stripes))
    grey = np.broadcast_to(row, (min(width, height), max(width, height)))
    return Image.fromarray(grey if width >= height else grey.T).convert("RGB")


def shades(image):
    return set(np.asarray(image).ravel().tolist())


def test_a_picture_of_the_right_size_is_left_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(processor().fit(Image.fromarray(pixels))), pixels)


@pytest.mark.parametrize("size", [(560, 280), (280, 560)])
def test_a_picture_of_two_to_one_is_squeezed_whole(size):
    fitted = processor().fit(striped(*size, [0, 80, 160, 240]))
    assert fitted.size == (SIZE, SIZE)
    assert {0, 80, 160, 240} <= shades(fitted)
    along = (
        np.asarray(fitted.convert("L"))[SIZE // 2]
        if size[0] > size[1]
        else np.asarray(fitted.convert("L")).T[0]
    )
    assert [int(along[i * SIZE // 4 + 3]) for i in range(4)] == [0, 80, 160, 240]


@pytest.mark.parametrize("size", [(1400, 280), (280, 1400)])
def test_of_a_picture_of_five_to_one_the_middle_two_fifths_survive(size):
    # Ten stripes: the middle four are 80, 120, 160 and 200; what is cut off is black and white.
    fitted = processor().fit(striped(*size, [0, 255, 0, 80, 120, 160, 200, 255, 0, 255]))
    along = np.asarray(fitted.convert("L"))[0] if size[0] > size[1] else np.asarray(fitted.convert("L"))[:, 0]
    assert [int(along[i * SIZE // 4 + 3]) for i in range(4)] == [80, 120, 160, 200]
    assert fitted.size == (SIZE, SIZE)
    assert min(shades(fitted)) > 60 and max(shades(fitted)) < 220


def test_with_a_longest_ratio_of_one_the_middle_square_survives():
    fitted = processor(max_aspect=1.0).fit(striped(600, 200, [0, 128, 255]))
    assert (
        min(shades(fitted)) >= 116 and max(shades(fitted)) <= 140
    )  # the edges blend a little of what is outside


def test_shrinking_averages_instead_of_skipping_pixels():
    checks = (np.indices((280, 280)).sum(axis=0) % 2 * 255).astype(np.uint8)
    fitted = np.asarray(processor().fit(Image.fromarray(checks).convert("RGB")))
    assert fitted.min() >= 120 and fitted.max() <= 135


def test_a_model_that_learned_from_crops_sees_the_middle_at_their_scale():
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    looking = processor(fitted_size=SIZE + 12)
    fitted = np.asarray(picture.resize((SIZE + 12, SIZE + 12), Image.Resampling.BICUBIC))
    assert np.array_equal(looking.pixels([picture])[0], fitted[6:-6, 6:-6])
    again = looking.pixels([looking.fit(picture)])  # as where another process has fitted it
    assert np.array_equal(again, looking.pixels([picture]))


def test_a_fitted_size_below_what_the_tower_sees_is_refused():
    with pytest.raises(MintIQAError, match="fitted_size is below image_size") as caught:
        processor(fitted_size=SIZE - 1)
    assert caught.value.code == "bad_config"


@pytest.mark.parametrize("recipe", ["nano", "clip_l"])
def test_models_are_served_pictures_at_the_scale_that_they_learn_from(recipe):
    settings = json.loads((REPOSITORY / "configs" / recipe / "model.json").read_text())["processor"]
    assert settings["fitted_size"] == stored_side(settings["image_size"])


def test_pixels_are_normalized_channel_by_channel():
    values = processor().pixel_values([Image.new("RGB", (40, 40), (255, 0, 51))])
    assert values.shape == (1, 3, SIZE, SIZE) and values.dtype == torch.float32
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(values.amax(dim=(0, 2, 3)), torch.tensor(expected))
    torch.testing.assert_close(values.amin(dim=(0, 2, 3)), torch.tensor(expected))


def test_rows_stay_rows_and_columns_stay_columns():
    top_white = Image.new("RGB", (SIZE, SIZE))
    top_white.paste((255, 255, 255), (0, 0, SIZE, SIZE // 2))
    values = processor().pixel_values([top_white])[0, 0]
    assert values[0, -1] > 0 > values[-1, 0]


def test_no_text_is_the_empty_text():
    text = processor().tokenize([None, "", "a fox"])
    assert text.ids[0].tolist() == text.ids[1].tolist()
    assert text.mask.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert text.cut == (False, False, False)


def test_texts_are_padded_on_the_right():
    text = processor().tokenize(["a fox", "a red fox under snow"])
    assert text.mask[0].tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert text.ids[0, 4:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("words, cut", [(14, False), (15, True), (400, True)])
def test_a_text_is_cut_at_the_limit_with_its_special_tokens_and_flagged(words, cut):
    text = processor().tokenize(["fox " * words, "a cat"])
    assert text.cut == (cut, False)
    assert text.ids.shape == (2, 16)


def test_a_text_of_many_short_tokens_is_flagged_although_it_has_few_characters():
    text = processor().tokenize(["!" * 15])
    assert text.cut == (True,) and text.ids.shape == (1, 16)


@pytest.mark.parametrize("piece", ["a fox ", "x", "狐", "e\u0301", ".", "🦊"])
def test_a_text_of_a_megabyte_costs_no_more_than_its_first_part(piece):
    first = processor().tokenize([piece * 10_000])
    start = time.process_time()
    text = processor().tokenize([piece * (1_000_000 // len(piece.encode()))])
    assert time.process_time() - start < 1
    assert text.cut == (True,) and torch.equal(text.ids, first.ids)


def test_the_tokenizer_comes_from_the_checkpoints_folder(tmp_path):
    tiny.text_tokenizer().save_pretrained(tmp_path)
    loaded = MintIQAProcessor.from_config(tiny.config(), tmp_path)
    assert torch.equal(loaded.tokenize(["a red fox"]).ids, processor().tokenize(["a red fox"]).ids)
    assert loaded.image_size == SIZE


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(MintIQAError, match=r"No tokenizer\.json") as caught:
        MintIQAProcessor.from_config(tiny.config(), tmp_path)
    assert caught.value.code == "tokenizer_missing"


def test_an_empty_tokenizer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "WORDPIECES", tiny.WORDPIECES[:50])
    tiny.text_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(MintIQAError, match="is empty") as caught:
        MintIQAProcessor.from_config(tiny.config(), tmp_path)
    assert caught.value.code == "tokenizer_missing"
