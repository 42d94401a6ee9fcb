"""A local folder or a hub id -> a folder on this machine."""

from pathlib import Path

from mint_iqa.errors import MintIQAError

# Nothing that runs or unpickles: weights, settings, tokenizers and chat templates.
SAFE_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def find_folder(name: str | Path, what: str, presets: str = "") -> Path:
    """The folder `name`, if it has a config.json, or what the hub holds under that id, fetched once.

    what, presets: how the error calls it, and what may be named beside folders ("nano, ").
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
