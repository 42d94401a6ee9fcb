"""Half precision where it is faster.

Without instructions for it a processor computes in bfloat16 dozens of times more slowly than in float32: one
with AVX2 alone multiplies matrices at 1.2 GFLOP/s and not 59.
"""

import platform
from functools import cache

import torch


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether devices of this kind ("cpu", "cuda") compute in bfloat16 themselves."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported()
    # What torch.compile goes by; on x86 it also counts processors that only have AVX-512.
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def half_type(kind: str = "cpu") -> torch.dtype:
    """bfloat16 where the device has it, else float32."""
    return torch.bfloat16 if has_bfloat16(kind) else torch.float32


def autocast(kind: str = "cpu", wanted: bool = True) -> torch.autocast:
    """A context that computes in bfloat16 if that is `wanted` and the device has it."""
    return torch.autocast(kind, torch.bfloat16, enabled=wanted and has_bfloat16(kind))
