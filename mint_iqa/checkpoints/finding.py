"""A local folder or a hub id -> a folder on this machine."""

import hashlib
from pathlib import Path

from mint_iqa.errors import MintIQAError
from mint_iqa.records import ModelInfo

# Nothing that runs or unpickles: weights, settings, tokenizers and chat templates.
SAFE_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def find_folder(name: str | Path, what: str, presets: str = "") -> Path:
    """The folder `name`, if it has a config.json, or what the hub holds under that id, fetched once.

    what: the noun in the error message; presets: names that it lists beside folders ("nano, ").
    MintIQAError where there is neither.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if str(name).count("/") != 1 or folder.exists() or str(name).startswith((".", "/", "~")):
        raise MintIQAError(
            "model_missing",
            f"There is no {what} {str(name)!r}: use {presets}a folder with a config.json, or a hub id.",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=SAFE_FILES))
    except Exception as error:
        raise MintIQAError(
            "model_missing",
            f"{name} could not be fetched from the hub ({type(error).__name__}): check the name and the "
            "network, log in with `hf auth login` if it is gated, or give a local folder.",
        ) from error


PRESETS = Path(__file__).parents[1] / "weights"


def find_checkpoint(model: str | Path) -> Path:
    """The folder of a preset, a local checkpoint, or a hub id (downloaded)."""
    preset = PRESETS / str(model)
    return preset if (preset / "config.json").is_file() else find_folder(model, "model", "nano, ")


def info_of(model: str | Path, folder: Path) -> ModelInfo:
    """What records say of a model, without loading it. folder: what `find_checkpoint` gave."""
    return ModelInfo(name=str(model), revision=revision_of(folder))


def revision_of(folder: Path) -> str:
    """The first 12 hex digits of the sha256 over all weight files, adapter included."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:12]
