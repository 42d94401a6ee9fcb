"""Folders, patterns, manifests and images -> the items to score."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mint_iqa.errors import MintIQAError
from mint_iqa.records import Failure
from mint_iqa.scoring.manifest import Item, read_manifest

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MAGIC = frozenset("*?[")


def is_list(argument: str) -> bool:
    """True for a folder, a manifest (.csv) or a pattern: what may hold more than one image."""
    return _is_manifest(argument) or _is_pattern(argument) or Path(argument).is_dir()


def find_items(arguments: Sequence[str], prompt: str | None = None) -> list[Item]:
    """The items that `arguments` name, in their order, and by name within a folder or pattern.

    A folder stands for the image files in it and in the folders below, links included, each folder entered
    once however many links lead to it; one that can't be opened becomes an item with a `problem`. A path that
    is reached twice is one item; the rows of a manifest are all kept, as their prompts may differ. Raises
    MintIQAError (`nothing_found`, `bad_argument`, and what `read_manifest` raises).
    """
    items: list[Item] = []
    seen: set[str] = set()
    for argument in arguments:
        if _is_manifest(argument):
            _refuse_prompt(argument, prompt)
            items += read_manifest(Path(argument))
            continue
        found = list(_find(argument, prompt))
        if not found:
            raise MintIQAError("nothing_found", f"{argument} holds no image files: check the path.")
        for item in found:
            path = os.path.abspath(item.source)
            if path not in seen:
                seen.add(path)
                items.append(item)
    return items


def _is_manifest(argument: str) -> bool:
    return argument.lower().endswith(".csv") and not Path(argument).is_dir()


def _is_pattern(argument: str) -> bool:
    return bool(_MAGIC & set(argument)) and not os.path.lexists(argument)  # [1].png may be a file's name


def _refuse_prompt(argument: str, prompt: str | None) -> None:
    if prompt is not None:
        raise MintIQAError(
            "bad_argument", f"--prompt is for images: give {argument} a prompt column instead."
        )


def _find(argument: str, prompt: str | None) -> Iterator[Item]:
    for name in _matches(argument) if _is_pattern(argument) else [argument]:
        if Path(name).is_dir():
            yield from _walk(name, prompt)
        else:
            yield Item(name, name, prompt)


def _matches(pattern: str) -> list[str]:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if _MAGIC & set(part))
    # pathlib's, because `glob.glob` would follow a loop of links until the path is too long.
    return sorted(str(path) for path in Path(*parts[:fixed]).glob(str(Path(*parts[fixed:]))))


def _walk(root: str, prompt: str | None) -> Iterator[Item]:
    unreadable: list[OSError] = []
    entered: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=unreadable.append):
        yield from (_closed(error, prompt) for error in unreadable)
        unreadable.clear()
        if (real := os.path.realpath(folder)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                path = os.path.join(folder, name)
                yield Item(path, path, prompt)
    yield from (_closed(error, prompt) for error in unreadable)


def _closed(error: OSError, prompt: str | None) -> Item:
    folder = str(error.filename)
    message = (
        f"{folder} can't be opened ({error.strerror}), so its images are missing: check its permissions."
    )
    return Item(folder, folder, prompt, problem=Failure(code="folder_unreadable", message=message))
