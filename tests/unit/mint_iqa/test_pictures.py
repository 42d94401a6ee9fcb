"""Pictures as the Assessor holds them, and what a model with an examiner says of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mint_iqa.assessor import Assessor
from mint_iqa.images import read_image
from mint_iqa.pictures import ScoredBatch, encode, judge, name_of, warnings_of
from mint_iqa.records import Fault
from mint_iqa.vocabulary import DIMENSIONS, FAULTS
from tests import tiny


@pytest.fixture(scope="module")
def examining(tmp_path_factory):
    """A model with an examiner, and its processor."""
    folder = tmp_path_factory.mktemp("examining")
    language = tiny.save_language(folder / "language")
    checkpoint = tiny.save(folder / "model", language, examiner=tiny.examiner_settings())
    assessor = Assessor.from_pretrained(checkpoint, device="cpu")
    return assessor.model, assessor.processor


def read(*pixels):
    return [(f"{n}.png", read_image(Image.fromarray(array))) for n, array in enumerate(pixels)]


def drawn(seed, width=60, height=60):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def test_where_only_scores_are_wanted_the_tower_does_not_look(examining, monkeypatch):
    model, processor = examining
    monkeypatch.setattr(model, "encode_image", lambda *_: pytest.fail("the tower looked"))
    (picture,) = encode(model, processor, read(drawn(0)), explain=False)
    assert picture.encoded is None and picture.reading is not None
    found = judge(model, [picture], *texts(processor, ["a dog"]))
    assert found.quality_vectors is None and found.points.shape == (1, len(DIMENSIONS))


def texts(processor, prompts):
    text = processor.tokenize(prompts)
    return text.ids, text.mask


def test_scores_are_the_same_with_and_without_what_an_answer_needs_and_in_any_batch(examining):
    model, processor = examining
    pictures = read(drawn(0), drawn(1, 90, 60), drawn(2))
    prompts = texts(processor, ["a dog", "two cats", ""])
    with torch.inference_mode():
        scored = judge(model, encode(model, processor, pictures, explain=False), *prompts)
        explained = judge(model, encode(model, processor, pictures, explain=True), *prompts)
        alone = [
            judge(
                model,
                encode(model, processor, pictures[i : i + 1], explain=False),
                *(part[i : i + 1] for part in prompts),
            ).points
            for i in range(3)
        ]
    assert torch.equal(scored.points, explained.points) and torch.equal(scored.half, explained.half)
    assert explained.quality_vectors is not None
    assert torch.allclose(torch.cat(alone), scored.points, atol=1e-3)
    assert len({round(p, 2) for p in scored.points[:, 0].tolist()}) == 3  # they see the pictures


def batch(points, half, severities=None):
    return ScoredBatch(torch.tensor([points]), half and torch.tensor([half]), severities, None)


def test_an_interval_ends_where_the_scale_does():
    scores, intervals = batch([95.0, 3.0, 50.0], [10.0, 8.0, 20.0]).scores(0, prompted=True)
    assert scores.quality == 95
    assert (intervals.quality, intervals.authenticity, intervals.correspondence) == (
        (85, 100), (0, 11), (30, 70)
    )  # fmt: skip


def test_without_a_prompt_there_is_neither_correspondence_nor_its_interval():
    scores, intervals = batch([95.0, 3.0, 50.0], [10.0, 8.0, 20.0]).scores(0, prompted=False)
    assert scores.correspondence is None and intervals.correspondence is None
    assert intervals.quality == (85, 100)


def test_a_model_without_an_examiner_gives_no_intervals():
    assert batch([95.0, 3.0, 50.0], None).scores(0, prompted=True)[1] is None


def test_faults_are_named_from_the_strongest_on_and_never_against_the_pixels():
    severities = torch.zeros(1, len(FAULTS))
    severities[0, FAULTS.index("blur")], severities[0, FAULTS.index("noise")] = 0.75, 1.0
    found = batch([1.0, 1.0, 1.0], None, severities)
    assert found.faults(0, FAULTS, frozenset()) == (
        Fault(name="noise", severity=1.0), Fault(name="blur", severity=0.75)
    )  # fmt: skip
    assert [f.name for f in found.faults(0, FAULTS, frozenset({"noise"}))] == ["blur"]
    assert batch([1.0, 1.0, 1.0], None).faults(0, FAULTS, frozenset()) == ()


def test_an_empty_picture_has_no_fault_and_a_warning(examining):
    model, processor = examining
    (picture,) = encode(model, processor, read(np.zeros((50, 50, 3), np.uint8)), explain=False)
    found = judge(model, [picture], *texts(processor, [""]))
    assert found.faults(0, model.config.faults, picture.acquitted) == ()
    assert any("empty" in line for line in warnings_of(picture, False, processor, False))


def test_each_reason_for_doubt_is_a_warning_of_its_own():
    picture = SimpleNamespace(size=(900, 100), acquitted=frozenset(), distance=1.5)
    processor = SimpleNamespace(max_aspect=2.0, max_prompt_tokens=77)
    lines = list(warnings_of(picture, True, processor, True))
    assert len(lines) == 4
    for words, line in zip(
        ("elongated", "first 77 tokens", "never been trained", "unlike"), lines, strict=True
    ):
        assert words in line
    calm = SimpleNamespace(size=(100, 100), acquitted=frozenset(), distance=0.9)
    assert list(warnings_of(calm, False, processor, False)) == []


def test_a_picture_goes_by_its_path_and_pixels_by_image():
    assert name_of("a/b.png") == "a/b.png"
    assert name_of(Image.new("RGB", (2, 2))) == "image"
