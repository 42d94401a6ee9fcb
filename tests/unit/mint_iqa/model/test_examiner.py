"""The examiner's parts: what each computes, and how they make scores."""

import pytest
import torch

from mint_iqa.model.cnn import CLASSES, HEAD
from mint_iqa.model.examiner import (
    FIRST_GRID_STAGE,
    GRID,
    OUTPUTS,
    GaussianProcess,
    Reading,
    RegionHead,
    cells_of,
    rbf,
)
from mint_iqa.vocabulary import DIMENSIONS, FAULTS
from tests import tiny

WORDS = 16  # numbers of a sentence vector


@pytest.fixture
def examiner():
    return tiny.examining(tiny.model(examiner=tiny.examiner_settings())).examiner


def reading(examiner, pictures=3):
    return Reading(
        torch.randn(pictures, examiner.process.pictures.shape[1]), torch.randn(pictures, len(FAULTS)),
        torch.nn.functional.normalize(torch.randn(pictures, WORDS), dim=-1),
    )  # fmt: skip


@torch.inference_mode()
def test_pictures_are_read_into_axes_faults_and_unit_vectors_alike_alone_and_together(examiner):
    detail, concept = torch.rand(3, 3, 512, 512), torch.rand(3, 3, 260, 260)
    together = examiner.read(detail, concept)
    assert together.axes.shape == (3, 6) and together.faults.shape == (3, len(FAULTS))
    assert torch.allclose(together.vectors.norm(dim=1), torch.ones(3))
    parts = [examiner.read(detail[i : i + 1], concept[i : i + 1]) for i in range(3)]
    again = Reading.together(parts)
    for name in ("axes", "faults", "vectors"):
        assert torch.allclose(getattr(again, name), getattr(together, name), atol=1e-3), name
        assert torch.equal(getattr(again.one(1), name), getattr(parts[1], name))


def test_the_process_is_certain_beside_its_anchors_and_falls_back_on_the_mean_far_away():
    process = GaussianProcess(10, 2, 3, 3, 1)
    process.gamma.fill_(1.0)
    process.pictures.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    process.weights.fill_(1.0)
    process.offsets.fill_(0.25)
    process.precision.copy_(torch.linalg.inv(rbf(process.pictures, process.pictures, 1.0)))
    predicted, novelty = process(torch.tensor([[0.0, 0.0], [50.0, 50.0]]))
    assert novelty.tolist() == pytest.approx([0, 1], abs=1e-5)
    assert predicted[1].item() == pytest.approx(0.25)
    assert predicted[0].item() > 1


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch():
    torch.manual_seed(0)
    process = GaussianProcess(10, 64, 3000, 500, 2)
    process.gamma.fill_(0.01)
    process.pictures.normal_()
    process.weights.normal_(std=30)  # they nearly cancel out
    near = process.pictures[:500]
    process.precision.copy_(torch.linalg.inv(rbf(near, near, 0.01) + 0.01 * torch.eye(500)))
    axes = torch.randn(9, 64)
    together, alone = process(axes), [process(row.unsqueeze(0)) for row in axes]
    for number in (0, 1):
        assert torch.equal(together[number], torch.cat([one[number] for one in alone]))
    assert torch.equal(together[1], process.novelty(axes))


def test_cells_are_means_and_deviations_of_the_places_of_a_grid():
    fine, whole = torch.randn(1, 2, 4 * GRID, 4 * GRID), torch.randn(1, 3, GRID, GRID)
    cells = cells_of([fine, whole])
    corner = fine[..., :4, :4]
    assert cells.shape == (1, 2 + 2 + 3, GRID, GRID)
    assert torch.allclose(cells[:, :2, 0, 0], corner.mean(dim=(2, 3)), atol=1e-6)
    assert torch.allclose(cells[:, 2:4, 0, 0], corner.std(dim=(2, 3), unbiased=False), atol=1e-5)
    assert torch.equal(cells[:, 4:], whole)


def test_one_suspicious_place_raises_the_whole_picture_s_logit(examiner):
    outputs = examiner.detail.stages(torch.rand(1, 3, 512, 512))[FIRST_GRID_STAGE:]
    cells = cells_of(outputs)
    head = RegionHead(cells.shape[1])
    grid, whole = head(cells)
    assert grid.shape == (1, GRID, GRID) and whole.shape == (1,)
    with torch.no_grad():
        head.judge.bias += 1.0
    assert head(cells)[1].item() == pytest.approx(whole.item() + 1.0, abs=1e-4)


@torch.inference_mode()
def test_a_photograph_is_rated_as_photographs_are_and_a_generated_picture_as_those(examiner):
    seen, sentences = reading(examiner, 1), torch.randn(1, WORDS)
    quality, liked, *_ = examiner.process(seen.axes)[0][0].tolist()
    examiner.process.weights[:, OUTPUTS.index("photograph")] = 0
    rated = {}
    for likely in (0.0, 0.5, 1.0):
        examiner.process.offsets[OUTPUTS.index("photograph")] = likely
        rated[likely] = examiner.judge(seen, sentences).scores[0, 0].item()
    assert rated == pytest.approx({0.0: quality, 0.5: (quality + liked) / 2, 1.0: liked}, abs=1e-5)


@torch.inference_mode()
def test_malformed_parts_take_from_authenticity_and_from_nothing_else(examiner):
    seen = reading(examiner, 1)
    sentences = torch.randn(1, WORDS)
    seen.faults[:, -1] = -9
    sound = examiner.judge(seen, sentences)
    seen.faults[:, -1] = 9
    malformed = examiner.judge(seen, sentences)
    gained = dict(zip(DIMENSIONS, (malformed.scores - sound.scores)[0].tolist(), strict=True))
    assert gained["authenticity"] < 0 and gained["quality"] == gained["correspondence"] == 0
    assert malformed.severities[0, -1] > 0.99 > sound.severities[0, -1]


def test_similarity_counts_much_below_the_cap_and_little_above(examiner):
    fit, photograph = torch.tensor([0.5] * 4), torch.zeros(4)
    low, cap, above, far = examiner.correspondence(
        fit, photograph, torch.tensor([0.0, 0.3, 0.6, 0.9])
    ).tolist()
    assert cap - low == pytest.approx(0.3 * (0.6 + 0.1))
    assert far - above == pytest.approx(above - cap, abs=1e-5) == pytest.approx(0.3 * 0.1, abs=1e-5)


def test_how_well_a_photograph_shows_its_caption_does_not_depend_on_how_it_looks(examiner):
    score = examiner.correspondence(torch.tensor([0.2, 0.9]), torch.ones(2), torch.tensor([0.4, 0.4]))
    assert score[0] == score[1]


@torch.inference_mode()
def test_the_interval_is_wider_where_a_picture_is_unlike_those_learned_from(examiner):
    near, far = reading(examiner, 1), reading(examiner, 1)
    near.axes[:] = examiner.process.pictures[0]
    far.axes[:] = 100.0
    sentences = torch.randn(1, WORDS)
    narrow, wide = examiner.judge(near, sentences), examiner.judge(far, sentences)
    assert narrow.novelty < 0.5 < wide.novelty
    assert (narrow.spread < wide.spread).all()
    assert examiner.distance(far) > examiner.distance(near)


@torch.inference_mode()
def test_own_ratings_move_scores_by_a_line_and_nothing_before_they_are_learned(examiner):
    seen, sentences = reading(examiner, 2), torch.randn(2, WORDS)
    before = examiner.judge(seen, sentences)
    examiner.own_line[0] = torch.tensor([-0.5, 0.0, 0.2])
    after = examiner.judge(seen, sentences)
    assert torch.allclose(after.scores[:, 0], 0.5 * before.scores[:, 0] + 0.2)
    assert torch.equal(after.scores[:, 1:], before.scores[:, 1:])


@torch.inference_mode()
def test_class_names_are_the_bridge_from_a_picture_to_words(examiner):
    for parameter in examiner.picture_map.parameters():
        parameter.zero_()
    logits = torch.full((1, CLASSES), -50.0)
    logits[0, 7] = 50.0
    vector = examiner.picture_vectors(torch.zeros(1, HEAD), logits)
    assert torch.allclose(
        vector[0], torch.nn.functional.normalize(examiner.class_vectors[7], dim=0), atol=1e-5
    )
