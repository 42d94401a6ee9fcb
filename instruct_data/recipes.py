"""Typed recipes: YAML -> dataclass. An unknown key is an error that names the known ones."""

import reprlib
from argparse import ArgumentParser
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from mint_iqa.errors import MintIQAError

S = TypeVar("S")


def add_recipe(parser: ArgumentParser) -> None:
    """Add the arguments `recipe` and `--set` for `read_settings`; `--set` may be given several times."""
    parser.add_argument("recipe", help="a YAML file of configs/")
    parser.add_argument(
        "--set", nargs="*", default=[], action="extend", metavar="KEY=VALUE", help="override settings"
    )


def read_settings(kind: type[S], path: str | Path, overrides: list[str] | None = None) -> S:
    """Settings of dataclass `kind` from a YAML file; `overrides` are "key=value" strings, values in YAML.

    A setting that is itself a dataclass is a group: "group.key=value" overrides one of its settings.
    MintIQAError for a missing file, broken YAML, an unknown key or a value of the wrong type.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise MintIQAError("config_missing", f"Recipe {path} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 30 February, invalid UTF-8
        reason = str(error).splitlines()[0]
        raise MintIQAError("bad_config", f"Recipe {path} is not valid YAML: {reason}.") from error
    if not isinstance(values, dict):
        raise MintIQAError("bad_config", f"Recipe {path} must consist of lines of the form key: value.")
    for text in overrides or []:
        _override(values, text)
    if unknown := sorted(_unknown(kind, values)):
        raise MintIQAError(
            "bad_config",
            f"Recipe {path} has unknown keys {', '.join(unknown)}: known are {', '.join(_known(kind))}.",
        )
    try:
        # More than a check: YAML reads "1e-4" as text, and pydantic converts it to the number.
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise MintIQAError("bad_config", f"Recipe {path}: {_first(error)}.") from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{key} is missing"
    # Truncated: a few lines of YAML can repeat one list so often that its text would fill the memory.
    return f"{key} cannot be {reprlib.repr(first['input']):.80} ({first['msg']})"


def _known(kind: Any) -> list[str]:
    """Every key that a recipe of `kind` may have, those of groups as "group.key"."""
    groups = {f.name: _known(f.type) if is_dataclass(f.type) else [] for f in fields(kind)}
    return [key for name, own in groups.items() for key in ([f"{name}.{k}" for k in own] or [name])]


def _unknown(kind: Any, values: dict[Any, Any]) -> list[str]:
    types = {f.name: f.type for f in fields(kind)}
    found = [str(key) for key in values if key not in types]
    for name, value in values.items():
        if is_dataclass(types.get(name)) and isinstance(value, dict):
            found += [f"{name}.{key}" for key in _unknown(types[name], value)]
    return found


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        equals = ""
    if not equals:
        raise MintIQAError("bad_argument", f"--set {text!r} does not have the form key=value.")
    *groups, name = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise MintIQAError("bad_argument", f"--set {text!r}: {group} is a single setting, not a group.")
    values[name] = parsed
