"""Checks what clients send: uploads, prompts and histories."""

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mint_iqa.assessor import MAX_QUESTION_CHARACTERS
from mint_iqa.errors import MintIQAError
from mint_iqa.images import ReadImage, read_image
from mint_iqa.language.chat import MAX_HISTORY, Turn

MAX_PROMPT_CHARACTERS = 2000
MAX_NAME_CHARACTERS = 120
THUMBNAIL_SIDE = 112  # pixels; the page shows it at half that size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """A file in the upload cache and its owner's name for it. The cache names files by their content."""

    path: str
    name: str

    def read(self) -> ReadImage:
        """The picture. MintIQAError shows the owner's name for the file, not the server's path."""
        try:
            return read_image(self.path)
        except MintIQAError as error:
            raise MintIQAError(error.code, error.message.replace(self.path, self.name)) from None


def sentence(error: Exception) -> str:
    """The message for a person. The traceback of an unexpected error goes to the log."""
    if isinstance(error, MintIQAError):
        return error.message
    logger.error("unexpected", exc_info=error)
    return "Something went wrong on the server; its log says what. Please try again."


def checked_prompt(prompt: str | None) -> str | None:
    """The prompt without surrounding blanks, None for an empty one. MintIQAError for an invalid one."""
    if prompt is not None and not isinstance(prompt, str):
        raise MintIQAError("bad_argument", "The prompt has to be text.")
    text = (prompt or "").strip()
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise MintIQAError(
            "prompt_too_long",
            f"The prompt has {len(text)} characters: give at most {MAX_PROMPT_CHARACTERS}.",
        )
    return text or None


def checked_history(history: object) -> list[Turn]:
    """The last turns of a client's history: [[question, answer], ...].

    Raises MintIQAError for another form, and for overlong questions and answers.
    """
    if not isinstance(history, list | tuple):
        raise MintIQAError("bad_history", "The history has to be a list of [question, answer] pairs.")
    turns = []
    for number, turn in enumerate(history[-MAX_HISTORY:], max(0, len(history) - MAX_HISTORY) + 1):
        if not (isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(t, str) for t in turn)):
            raise MintIQAError(
                "bad_history", f"Turn {number} of the history is not a [question, answer] pair."
            )
        if max(map(len, turn)) > 4 * MAX_QUESTION_CHARACTERS:
            raise MintIQAError(
                "bad_history",
                f"Turn {number} of the history is longer than {4 * MAX_QUESTION_CHARACTERS} characters.",
            )
        turns.append((turn[0], turn[1]))
    return turns


def upload_of(payload: object, cache: Path) -> Upload:
    """The file that a client's file description names. It has to be in `cache`.

    Raises MintIQAError otherwise: a client can send any path.
    """
    if payload is None:
        raise MintIQAError("image_missing", "There is no picture yet: drop one, or choose an example.")
    path = payload.get("path") if isinstance(payload, dict) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(cache.resolve()):
        raise MintIQAError("image_missing", "That file was not uploaded here: upload the picture itself.")
    given = payload.get("orig_name") if isinstance(payload, dict) else None
    name = given if isinstance(given, str) and given else Path(path).name
    return Upload(path, name[-MAX_NAME_CHARACTERS:])


def thumbnail(rgb: Image.Image) -> str:
    """A small square JPEG from the middle of the picture, as a data URI that needs no file on the server."""
    width, height = rgb.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    small = rgb.resize(size, Image.Resampling.BOX, box=(left, top, left + side, top + side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
