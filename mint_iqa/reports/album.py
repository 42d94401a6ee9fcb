"""Thumbnails for contact sheets."""

import os
from collections.abc import Sequence
from pathlib import Path

from mint_iqa.pages.html import thumbnail, warning
from mint_iqa.reports.parts import short


class Album:
    """Pictures of a run, looked for in `folders` in their order; asked: how many; missing: not found."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.asked = self.missing = 0

    def picture(self, image: str) -> str:
        """A thumbnail as HTML, or what is wrong with the file."""
        self.asked += 1
        for folder in self.folders:
            if os.path.isfile(path := folder / image):  # Path.is_file raises on names that are too long
                return thumbnail(path, short(image))
        self.missing += 1
        return warning("The picture is not on this disk.")
