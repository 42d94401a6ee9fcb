"""Writes files that are complete or absent even if the process is killed; finds the cache folder."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root() -> Path:
    """$MINT_IQA_CACHE, or mint-iqa in the user's cache folder."""
    base = os.environ.get("MINT_IQA_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mint-iqa"


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, renamed to `folder` at the end: `folder` is never half-written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as outer:
        temporary = Path(outer, folder.name)
        temporary.mkdir()  # a temporary folder itself may be read by its owner alone
        yield temporary
        # safetensors lets only the owner read its files; a model may be served by somebody else.
        mode = temporary.stat().st_mode & 0o666
        for path in temporary.rglob("*"):
            if path.is_file():
                path.chmod(mode)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise


def write_whole(path: Path, text: str) -> None:
    """Write a file that is never half-written under its name."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
