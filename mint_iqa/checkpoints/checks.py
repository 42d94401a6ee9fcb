"""Whether a folder is a checkpoint that can be loaded, checked before any of its weights is read.

A config is a few lines of text from a stranger, and could ask for terabytes. So its numbers are limited,
weights come from files that run no code, and a model far larger than these is refused before it takes memory.
"""

import json
import math
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mint_iqa.errors import MintIQAError

VERSION = 1  # of the format of config.json; raised when an older reader could misread a newer file
LARGEST_NUMBER = 10_000_000
MAX_LAYERS_OR_LABELS = 500  # transformers makes a name for each
MAX_EXTRA_NUMBERS = 1_000_000  # of a model, beyond twice those in its files
RENEW = "download or convert the checkpoint again"
# transformers would fetch kernels, load other files or convert weights.
_FORBIDDEN = {
    "_attn_implementation", "attn_implementation", "auto_map", "experts_implementation", "fusion_config",
    "quantization_config", "transformers_weights",
}  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_config(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """config.json as a dict.

    MintIQAError (`bad_checkpoint`) if it is not JSON, describes another model than `kind` (None: any), was
    written in a later form, or asks for sizes that no model has.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise _bad(f"{path} is not a readable config: {RENEW}") from None
    if not isinstance(config, dict):
        raise _bad(f"{path} is not a readable config: {RENEW}")
    if (folder / "adapter_config.json").exists():  # transformers would load the model that it names instead
        raise _bad(f"{folder} holds an adapter beside a whole model: remove one of them")
    found = config.get("model_type")
    if kind is not None and found != kind:
        raise _bad(f"{folder} is a checkpoint of {found!r:.40}, not of {kind!r}: give one of the right kind")
    version = config.get("checkpoint_version", VERSION)
    if version != VERSION:
        found, known = f"checkpoint version {version!r:.20}", f"this mint-iqa reads version {VERSION}"
        raise _bad(f"{folder} has {found}, and {known}: update mint-iqa")
    check_settings(path, config)
    return config


def check_settings(path: Path, settings: Any) -> None:
    """MintIQAError (`bad_checkpoint`), by name, for settings that would exhaust memory or fetch code."""
    waiting = [("", settings)]
    while waiting:
        name, value = waiting.pop()
        if name in _FORBIDDEN and value is not None:
            raise _bad(f"{path} sets {name}, which is not taken from a checkpoint: remove it")
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, item) for item in value]
        elif isinstance(value, int | float) and not _is_possible(name, value):
            raise _bad(f"{path} sets {name:.40} to {value:.3g}, with which no model can be built: {RENEW}")


def _is_possible(name: str, value: float) -> bool:
    most = MAX_LAYERS_OR_LABELS if name.endswith(("layers", "labels")) else LARGEST_NUMBER
    return math.isfinite(value) and abs(value) <= most and not (name.endswith("eps") and value <= 0)


def check_size(folder: Path, model: nn.Module, elsewhere: Callable[[str], bool] = lambda _: False) -> None:
    """MintIQAError (`bad_checkpoint`) if `model`, on the meta device, is far larger than its files.

    Loading it would fill the memory with what the files lack. Weights whose names are `elsewhere` are not
    expected there. Also refuses files that are missing, damaged or pickled.
    """
    expected = sum(t.numel() for name, t in model.state_dict().items() if not elsewhere(name))
    found = _stored_numbers(folder)
    if expected > 2 * found + MAX_EXTRA_NUMBERS:
        raise _bad(
            f"The config in {folder} describes {expected:,} numbers and its weights hold {found:,}: {RENEW}"
        )


def _stored_numbers(folder: Path) -> int:
    """How many numbers the weights have, by the files' headers."""
    found = 0
    try:
        for path in _weight_files(folder):
            with safe_open(path, "pt") as file:
                found += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RecursionError, LookupError, AttributeError, TypeError):
        raise _bad(f"{folder} holds no complete weights: {RENEW}") from None
    return found


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        return [folder / Path(name).name for name in names]
    pickled = next((path for pattern in _PICKLES for path in folder.glob(pattern)), None)
    if pickled is not None:
        raise _bad(f"{pickled} may run code when it is read: save the weights as safetensors")
    raise _bad(f"{folder} holds no model.safetensors: {RENEW}")


def read_state(path: Path, mmap: bool) -> dict[str, Tensor]:
    """The state dict that torch.save wrote, read without running code; with `mmap` it stays on disk.

    MintIQAError (`bad_checkpoint`) if the file is damaged, packed, or holds anything but named plain tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:  # torch.save packs nothing: unpacking could exhaust memory
                if any(part.file_size > part.compress_size for part in parts.infolist()):
                    raise ValueError("packed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors of kinds that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch's reader and unpickler raise half a dozen kinds for a bad file
        raise _bad(f"{path} {_trouble(error)}") from error
    if not isinstance(state, dict) or not state or not all(map(_is_plain, state, state.values())):
        raise _bad(f"{path} is not a single state dict of tensors: save the model's state_dict() alone")
    return dict(state)


def _is_plain(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and (value.layout, value.device.type) == (torch.strided, "cpu")
        and not (value.is_quantized or value.is_complex() or value.is_nested)
    )


def _trouble(error: Exception) -> str:
    # By name: importing pickle for the sake of its exception would allow unpickling here.
    if type(error).__name__ == "UnpicklingError":
        return "holds other objects than tensors, which are never unpickled: save its state_dict() alone"
    return "is not a complete PyTorch checkpoint (torch.save, 1.6 or later): download it again"


def misfit(
    expected: Mapping[str, torch.Size],
    found: Mapping[str, torch.Size],
    may_lack: Collection[str] = (),
    may_have: Collection[str] = (),
) -> str:
    """How the weights found differ from those expected, in the form of `differences`; "" where they fit."""
    both = expected.keys() & found.keys()
    return differences(
        expected.keys() - found.keys() - set(may_lack),
        found.keys() - expected.keys() - set(may_have),
        (name for name in both if expected[name] != found[name]),
    )


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def differences(missing: Iterable[str], unknown: Iterable[str], reshaped: Iterable[str]) -> str:
    """Names of weights -> "missing: a, b, c and 2 more; of another shape: d"; "" where there are none."""
    trouble = {"missing": sorted(missing), "unknown": sorted(unknown), "of another shape": sorted(reshaped)}
    more = {what: f" and {len(names) - 3} more" * (len(names) > 3) for what, names in trouble.items()}
    return "; ".join(
        f"{what}: {', '.join(names[:3])}{more[what]}" for what, names in trouble.items() if names
    )


def check_finite(module: nn.Module, label: str | Path) -> None:
    """MintIQAError (`bad_checkpoint`), by name, for a weight with NaN or infinity in it."""
    check_all_finite({**dict(module.named_parameters()), **dict(module.named_buffers())}, label)


def check_all_finite(state: Mapping[str, Tensor], label: str | Path) -> None:
    """As `check_finite`, for the weights of a state dict."""
    for name, tensor in state.items():
        if not _is_finite(tensor):
            raise _bad(f"The weight {name} in {label} has numbers that are not finite: {RENEW}")


@torch.inference_mode()
def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    # The sum costs a third of looking at each number; only a sum that overflows needs the second look.
    return bool(tensor.sum(dtype=torch.float32).isfinite() or tensor.isfinite().all())


def _bad(sentence: str) -> MintIQAError:
    return MintIQAError("bad_checkpoint", f"{sentence}.")
