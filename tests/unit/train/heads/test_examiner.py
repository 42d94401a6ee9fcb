"""A whole examiner is fitted: what a fault costs, and that what was fitted is what the model computes."""

import numpy as np
import pytest
import torch

from mint_iqa.model.cnn import statistics
from mint_iqa.model.examiner import FIRST_GRID_STAGE, Examiner, cells_of
from mint_iqa.vocabulary import FAULTS
from tests.tiny import examiner_settings
from train.data.readings import Readings
from train.heads.examiner import MALFORMED_QUALITY, _keep_words, kept_share, reading_of
from train.heads.examining import WordBridge, named_by


def readings(severities, level):
    count = len(level)
    rng = np.random.default_rng(0)
    return Readings(
        rng.standard_normal((count, 136)).astype(np.float32), rng.random((count, 1280), np.float32),
        rng.standard_normal((count, 1000)).astype(np.float32), np.array(severities, np.float32),
        np.array(level), np.empty((count, 0), np.float16), np.zeros((count, 16, 16), np.float32),
    )  # fmt: skip


def test_a_strong_fault_costs_more_than_a_weak_one_and_none_costs_nothing():
    blur = np.eye(len(FAULTS))[FAULTS.index("blur")]
    malformed = np.eye(len(FAULTS))[FAULTS.index("malformation")]
    kept = kept_share(readings([0 * blur, 0.2 * blur, blur, malformed], [0, 1, 5, 4]))
    assert kept[0] == 1 and 1 > kept[1] > kept[2] > 0
    assert kept[3] == pytest.approx(MALFORMED_QUALITY)


@torch.inference_mode()
def test_the_model_s_bridge_computes_what_the_learned_one_did():
    torch.manual_seed(0)
    classes, pooled, logits = torch.randn(1000, 16), torch.rand(12, 1280), torch.randn(12, 1000)
    named = named_by(logits, classes)
    bridge = WordBridge(classes, pooled, named, 8)
    for parameter in bridge.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    examiner = Examiner(examiner_settings(), 16, len(FAULTS))
    _keep_words(examiner, bridge)
    assert torch.allclose(examiner.picture_vectors(pooled, logits), bridge.pictures(named, pooled), atol=1e-4)
    sentences = torch.nn.functional.normalize(torch.randn(5, 16), dim=-1)
    assert torch.allclose(examiner.prompt_vectors(sentences), bridge.texts(sentences), atol=1e-5)


@torch.inference_mode()
def test_a_picture_read_before_is_what_the_examiner_reads_of_it_now():
    torch.manual_seed(0)
    examiner = Examiner(examiner_settings(), 16, len(FAULTS)).eval()
    examiner.process.projection.normal_()
    detail, concept = torch.rand(2, 3, 512, 512), torch.rand(2, 3, 260, 260)
    now = examiner.read(detail, concept)
    before = before_of(examiner, detail, concept)
    again = reading_of(examiner, before, np.arange(2), regions=True)
    assert torch.allclose(again.axes, now.axes, atol=1e-3)
    assert torch.allclose(again.faults, now.faults, atol=1e-2)  # cells are kept as float16
    assert torch.allclose(again.vectors, now.vectors, atol=1e-4)
    one = reading_of(examiner, before, np.array([1]))
    assert torch.allclose(one.axes, again.axes[1:], atol=1e-4)
    assert (one.faults[:, -1] < -5).all()  # nobody asked for malformation


def before_of(examiner, detail, concept):
    outputs = examiner.detail.stages(detail)
    pooled = examiner.concepts.pooled(concept)
    return Readings(
        statistics(outputs).numpy(), pooled.numpy(), examiner.concepts.classifier(pooled).numpy(),
        np.zeros((2, len(FAULTS)), np.float32), np.zeros(2, int),
        cells_of(outputs[FIRST_GRID_STAGE:]).half().numpy(), np.zeros((2, 16, 16), np.float32),
    )  # fmt: skip
