"""EfficientNet-Lite: its sizes, its padding, and the statistics that are taken of it."""

import pytest
import torch
from torch import nn

from mint_iqa.model.cnn import CLASSES, HEAD, EfficientNetLite, SameConv, statistics

# https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: Lite0 and Lite2.
SIZES = {(1.0, 1.0): (16, 320, 4_652_008), (1.1, 1.2): (21, 352, 6_092_072)}
# Of batch normalization only a bias is left, where the published counts have a gain besides.


@pytest.mark.parametrize("size", SIZES)
def test_it_has_the_published_number_of_blocks_channels_and_weights(size):
    network = EfficientNetLite(*size)
    blocks, last, published = SIZES[size]
    gains = sum(m.out_channels for m in network.modules() if isinstance(m, SameConv))
    assert (len(network.blocks), network.stage_channels[-1]) == (blocks, last)
    assert sum(p.numel() for p in network.parameters()) + gains == published


@torch.inference_mode()
def test_seven_stages_halve_the_picture_five_times():
    network = EfficientNetLite(0.2, 0.3).eval()
    outputs = network.stages(torch.rand(2, 3, 128, 96))
    assert [tuple(o.shape[2:]) for o in outputs] == [
        (64, 48), (32, 24), (16, 12), (8, 6), (8, 6), (4, 3), (4, 3)
    ]  # fmt: skip
    assert [o.shape[1] for o in outputs] == network.stage_channels
    pooled = network.pooled(torch.rand(2, 3, 128, 96))
    assert pooled.shape == (2, HEAD) and network.classifier(pooled).shape == (2, CLASSES)


@pytest.mark.parametrize(("length", "first", "last"), [(8, 0, 1), (7, 1, 1)])
def test_at_stride_two_the_odd_pixel_of_padding_comes_last(length, first, last):
    convolution = SameConv(1, 1, 3, stride=2)
    nn.init.ones_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    picture = torch.rand(1, 1, length, length)
    padded = nn.functional.pad(picture, [first, last, first, last])
    expected = nn.functional.conv2d(padded, convolution.weight, stride=2)
    assert torch.allclose(convolution(picture), expected)


def test_statistics_are_the_mean_and_deviation_of_each_channel_stage_by_stage():
    outputs = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)]
    found = statistics(outputs)
    assert found.shape == (2, 16)
    assert torch.allclose(found[:, :3], outputs[0].mean(dim=(2, 3)))
    assert torch.allclose(found[:, 11:], outputs[1].std(dim=(2, 3), unbiased=False), atol=1e-6)


@torch.inference_mode()
def test_a_picture_is_seen_alike_alone_and_in_a_batch_and_stays_as_it_was():
    network = EfficientNetLite(0.2, 0.3).eval()
    pictures = torch.rand(3, 3, 64, 64)
    before = pictures.clone()
    together = statistics(network.stages(pictures))
    alone = torch.cat([statistics(network.stages(p.unsqueeze(0))) for p in pictures])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(pictures, before)
