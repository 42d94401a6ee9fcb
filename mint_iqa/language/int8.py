"""Linear layers in 8 bits, for an LLM that writes on a CPU."""

import copy
import warnings

import torch
from torch import Tensor, nn

from mint_iqa.errors import MintIQAError

# Without VNNI the kernel adds pairs of products in 16 bits, which 8-bit activations would overflow.
SEVEN_BITS = not torch.cpu._is_vnni_supported()


class Int8Linear(nn.Module):
    """A linear layer whose weights have 8 bits and a scale for each output; it can't be trained or saved.

    Activations get one scale for each call: rows of one batch influence each other a little.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        zeros = torch.zeros(len(scales), dtype=torch.long)  # floats would choose another kind of tensor
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its successor, torchao, needs a compiler on a CPU
            quantized = torch.quantize_per_channel(weight, scales, zeros, axis=0, dtype=torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float[..., in] -> float[..., out]"""
        output: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, SEVEN_BITS)
        return output


def in_int8(model: nn.Module) -> nn.Module:
    """`model` with an Int8Linear for every nn.Linear; it shares all other weights with `model`.

    Raises MintIQAError unless the model is on the CPU in float32, with LoRA merged.
    """
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()):
        raise MintIQAError("bad_argument", "int8 steps are for a CPU and float32: leave out other options.")
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    shared: dict[int, object] = {id(tensor): tensor for tensor in model.parameters()}
    small = copy.deepcopy(model, shared)
    for name, layer in linear.items():
        small.set_submodule(name, Int8Linear(layer))
    return small
