"""Files that are whole or not there, whenever a process is killed, and where caches lie."""

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
    """An empty neighbor to write into, renamed to `folder` at the end: no interruption leaves half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as outer:
        temporary = Path(outer, folder.name)
        temporary.mkdir()  # a temporary folder itself may be read by its owner alone
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise


def write_whole(path: Path, text: str) -> None:
    """Under its name the file is whole at any moment."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
