"""Names of devices and number types -> those of torch."""

import torch

from mint_iqa.errors import MintIQAError


def device_of(name: str | None) -> torch.device:
    """The device of this name, by default the GPU if there is one; MintIQAError for an unknown name."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device  # "cuda" is a valid name even without a GPU
    except (RuntimeError, AssertionError) as error:
        raise MintIQAError("bad_argument", f"There is no device {name!r} here: use cpu or cuda.") from error


def dtype_of(name: str | None) -> torch.dtype:
    """float32 unless named; MintIQAError for any other than float32, bfloat16, float16."""
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if (name or "float32") not in kinds:
        raise MintIQAError("bad_argument", f"There is no dtype {name!r}: use {', '.join(kinds)}.")
    return kinds[name or "float32"]
