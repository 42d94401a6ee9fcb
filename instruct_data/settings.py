"""Typed recipes: YAML -> dataclass. An unknown key is an error that names the known ones."""

import reprlib
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from mint_iqa.errors import MintIQAError

S = TypeVar("S")


def read_settings(kind: type[S], path: str | Path, overrides: list[str] | None = None) -> S:
    """Settings of dataclass `kind` from a YAML file; `overrides` are "key=value" strings, values in YAML.

    MintIQAError for a missing file, broken YAML, an unknown key or a value of the wrong type.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise MintIQAError("config_missing", f"Recipe {path} cannot be read ({error.strerror}).") from error
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: 30 February, text that isn't UTF-8
        reason = str(error).splitlines()[0]
        raise MintIQAError("bad_config", f"Recipe {path} is not valid YAML: {reason}.") from error
    if not isinstance(values, dict):
        raise MintIQAError("bad_config", f"Recipe {path} must consist of lines of the form key: value.")
    values |= dict(_override(text) for text in overrides or [])
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in values.keys() - set(known))
    if unknown:
        raise MintIQAError(
            "bad_config",
            f"Recipe {path} has unknown keys {', '.join(unknown)}: known are {', '.join(known)}.",
        )
    try:
        # Not only a check: YAML reads "1e-4" as text, which becomes the number that it means.
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise MintIQAError("bad_config", f"Recipe {path}: {_first(error)}.") from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "missing":
        return f"{first['loc'][0]} is missing"
    # Cut short: a few lines of YAML can name one list so often that its text would fill the memory.
    return f"{first['loc'][0]} cannot be {reprlib.repr(first['input']):.80} ({first['msg']})"


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        equals = ""
    if not equals:
        raise MintIQAError("bad_argument", f"--set {text!r} is not of the form key=value.")
    return key, parsed
