"""EfficientNet-Lite: a small CNN that sees a picture at full resolution (Tan and Le, arXiv 1905.11946; the
"lite" variants have no squeeze-and-excitation and ReLU6 throughout).

transformers has no such network. Batch normalization is folded into the convolutions when the weights are
converted (checkpoints.wheels), so a network here is convolutions alone.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

# Per stage: expansion, output channels, blocks, kernel size, stride.
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
STEM, HEAD, CLASSES = 32, 1280, 1000  # channels
# What the weights were trained on: 0..1 -> (x - MEAN) / STD.
MEAN, STD = 0.498, 0.502


class EfficientNetLite(nn.Module):
    """width, depth: multipliers of channels and blocks: 1.0 and 1.0 in Lite0, 1.1 and 1.2 in Lite2."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, stride=2)
        self.blocks = nn.ModuleList()
        self.ends: list[int] = []  # number of blocks up to the end of each stage
        channels = STEM
        for number, (expansion, base, count, kernel, stride) in enumerate(STAGES):
            out = _scaled(base, width)
            # The first and the last stage are never deepened.
            repeats = count if number in (0, len(STAGES) - 1) else math.ceil(count * depth)
            for first in [True] + [False] * (repeats - 1):
                self.blocks.append(Block(channels, out, expansion, kernel, stride if first else 1))
                channels = out
            self.ends.append(len(self.blocks))
        self.head = SameConv(channels, HEAD, 1)
        self.classifier = nn.Linear(HEAD, CLASSES)
        self.stage_channels = [_scaled(base, width) for _, base, *_ in STAGES]

    def stages(self, pixel_values: Tensor) -> list[Tensor]:
        """pixel_values float[B, 3, H, W] -> the output of every stage, float[B, C, h, w]."""
        hidden = _relu6(self.stem(pixel_values.contiguous(memory_format=torch.channels_last)))
        outputs = []
        for number, block in enumerate(self.blocks, 1):
            hidden = block(hidden)
            if number in self.ends:
                outputs.append(hidden)
        return outputs

    def pooled(self, pixel_values: Tensor) -> Tensor:
        """pixel_values float[B, 3, H, W] -> what the classifier reads, float[B, HEAD]."""
        pooled: Tensor = _relu6(self.head(self.stages(pixel_values)[-1])).mean(dim=(2, 3))
        return pooled


class Block(nn.Module):
    """Inverted residual: expand the channels, filter each by itself, project back."""

    def __init__(self, channels: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = SameConv(channels, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.project = SameConv(hidden, out, 1)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else _relu6(self.expand(x))
        hidden = self.project(_relu6(self.depthwise(hidden)))
        out: Tensor = x + hidden if self.residual else hidden
        return out


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, as the weights were trained: at stride 2, the odd pixel
    of padding of an even side comes last, where PyTorch's `padding=1` would put it first."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        weight = self.weight
        if stride == 2:
            # Zeros before the kernel shift it by a pixel, as padding behind the picture would, which takes a
            # quarter of the network's time: it copies the picture.
            down, across = ((length + 1) % 2 for length in x.shape[-2:])
            weight = pad(weight, [across, 0, down, 0])
        return conv2d(x, weight, self.bias, stride, padding=kernel // 2, groups=self.groups)


def statistics(outputs: list[Tensor]) -> Tensor:
    """Each channel's mean and standard deviation over the positions, stage by stage: float[B, 2 * sum(C)]."""
    parts = []
    for output in outputs:
        # Written out: on a CPU, torch.var_mean takes five times as long over channels-last outputs.
        flat = output.float().flatten(2)
        mean = flat.mean(dim=2)
        parts += [mean, (flat - mean.unsqueeze(2)).square().mean(dim=2).sqrt()]
    return torch.cat(parts, dim=1)


def _relu6(x: Tensor) -> Tensor:
    """In place: a fifth of the time of a network that is bound by memory, and no gradient ever comes back."""
    return x.clamp_(0, 6)


def _scaled(channels: int, width: float) -> int:
    """Channels times width, in eights, and at most a tenth less than that."""
    wanted = channels * width
    near = max(8, int(wanted + 4) // 8 * 8)
    return near + 8 if near < 0.9 * wanted else near
