"""The fits of the examiner's parts, each on a problem whose answer is known."""

import numpy as np
import pytest
import torch
from torch import nn

from mint_iqa.metrics import roc_auc
from mint_iqa.model.examiner import GRID, GaussianProcess, RegionHead
from train.engine.recipes import Kernel, Regions, Words
from train.heads.examining import Pictures, fit_axes, fit_lines, fit_process, fit_regions, fit_words, named_by


def process(statistics=6, axes=3, pictures=40, anchors=40, outputs=2):
    return GaussianProcess(statistics, axes, pictures, anchors, outputs)


def test_axes_are_centered_and_every_tap_counts_alike():
    torch.manual_seed(0)
    narrow, wide = torch.randn(200, 2) * 100 + 5, torch.randn(200, 4)
    seen = torch.cat([narrow, wide], dim=1)
    found = process(axes=6)
    fit_axes(found, seen, [2, 4], Kernel(axes=6))
    axes = found.axes(seen)
    assert torch.allclose(axes.mean(dim=0), torch.zeros(6), atol=1e-4)
    # All axes together keep the distances: half of the variance is the narrow tap's.
    assert axes.var(dim=0).sum().item() == pytest.approx(1, abs=0.02)
    narrow_alone = torch.cat([narrow, wide.mean(dim=0).expand(200, 4)], dim=1)
    assert found.axes(narrow_alone).var(dim=0).sum().item() == pytest.approx(0.5, abs=0.02)


def test_fewer_pictures_than_axes_leave_the_rest_of_them_empty():
    found = process(statistics=6, axes=8)
    fit_axes(found, torch.randn(4, 6), [2, 4], Kernel(axes=8))
    assert found.axes(torch.randn(2, 6)).shape == (2, 8)
    assert found.projection[:, 6:].abs().max() == 0


def test_the_process_learns_what_it_is_shown_and_each_output_from_its_own_pictures():
    torch.manual_seed(0)
    pictures = torch.randn(40, 3)
    targets = torch.stack([pictures[:, 0].sin(), pictures[:, 1].cos()], dim=1)
    targets[:10, 0] = targets[30:, 1] = torch.nan
    found = process()
    fit_process(
        found, pictures, targets, torch.ones(40, 2), Kernel(axes=3, gamma=0.5, noise=1e-4, anchors=40)
    )
    predicted, novelty = found(pictures)
    known = ~targets.isnan()
    assert (predicted - targets)[known].abs().max() < 0.02
    assert novelty.max() < 0.01
    assert found(torch.full((1, 3), 30.0))[1].item() == pytest.approx(1)


def test_a_noisy_rating_is_followed_less():
    pictures = torch.tensor([[0.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0]])
    targets = torch.tensor([[1.0], [1.0], [0.0]])
    found = process(pictures=3, anchors=3, outputs=1)
    fit_process(found, pictures, targets, torch.tensor([[0.1], [20.0], [1.0]]), Kernel(3, 0.6, 1.0, 0.1, 3))
    near, noisy, _ = found(pictures)[0][:, 0].tolist()
    middle = 2 / 3
    assert near > 0.95
    assert abs(noisy - middle) < 0.15


def test_lines_tell_what_they_were_shown_and_rows_without_weight_teach_nothing():
    torch.manual_seed(0)
    seen = torch.randn(300, 4) * torch.tensor([1, 10, 100, 0.1])
    targets = torch.stack([(seen[:, 0] > 0).float(), (seen[:, 2] > 0).float()], dim=1)
    weights = torch.ones(300, 2)
    targets[200:, 1], weights[200:, 1] = 1 - targets[200:, 1], 0  # wrong, but nobody listens
    line = nn.Linear(4, 2)
    line.requires_grad_(False)
    fit_lines(line, seen, targets, weights, decay=1e-4)
    fresh = torch.randn(300, 4) * torch.tensor([1, 10, 100, 0.1])
    assert roc_auc(line(fresh)[:, 0].numpy(), (fresh[:, 0] > 0).numpy()) > 0.97
    assert roc_auc(line(fresh)[:, 1].numpy(), (fresh[:, 2] > 0).numpy()) > 0.97


def test_pictures_and_texts_find_each_other_on_pairs_that_were_not_learned_from():
    torch.manual_seed(0)
    width, names = 6, torch.nn.functional.normalize(torch.randn(20, 6), dim=-1)
    turn = torch.linalg.qr(torch.randn(width, width))[0]

    def pairs(count):
        topic = torch.randint(0, 20, (count,))
        pooled = names[topic] @ turn + 0.1 * torch.randn(count, width)
        return topic, pooled, torch.randn(count, 20)  # the classes tell nothing

    topic, pooled, logits = pairs(200)
    sets = [
        Pictures(pooled[:150], logits[:150], [[int(t)] for t in topic[:150]], [], torch.ones(150)),
        Pictures(
            pooled[150:],
            logits[150:],
            [[int(t)] for t in topic[150:]],
            [[i] for i in range(50)],
            torch.ones(50),
        ),
    ]
    settings = Words(axes=6, steps=150, photographs=64, learning_rate=0.05, decay=0.0, dropout=0.0)
    bridge = fit_words(names, names, sets, settings, seed=0)
    topic, pooled, logits = pairs(100)
    with torch.no_grad():
        seen = bridge.pictures(named_by(logits, names), pooled)
        right = (seen @ bridge.texts(names).T).argmax(dim=1) == topic
    assert right.float().mean() > 0.8


def test_the_region_head_finds_where_a_picture_is_malformed_and_that_it_is():
    torch.manual_seed(0)
    count = 120

    def pictures(count):
        cells = torch.randn(count, 5, GRID, GRID)
        masks = torch.zeros(count, GRID, GRID)
        strength = torch.zeros(count)
        for i in range(0, count, 2):
            y, x = np.random.default_rng(i).integers(0, GRID - 4, 2)
            masks[i, y : y + 4, x : x + 4] = 1
            strength[i] = 0.75
        cells[:, 2] += 3 * masks
        return cells, masks, strength

    cells, masks, strength = pictures(count)
    head = RegionHead(5)
    fit_regions(head, cells.half(), masks, strength, Regions(passes=12, learning_rate=0.01), seed=0)
    cells, masks, strength = pictures(40)
    with torch.no_grad():
        grid, whole = head(cells)
    assert roc_auc(whole.numpy(), (strength > 0).numpy()) > 0.95
    assert roc_auc(grid[::2].flatten().numpy(), masks[::2].flatten().bool().numpy()) > 0.9
