"""Typed recipes: YAML -> dataclass. An unknown key is an error that names the known ones."""

from dataclasses import dataclass, field, fields
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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
        first = error.errors()[0]
        raise MintIQAError(
            "bad_config", f"Recipe {path}: {first['loc'][0]} cannot be {first['input']!r} ({first['msg']})."
        ) from error


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        equals = ""
    if not equals:
        raise MintIQAError("bad_argument", f"--set {text!r} is not of the form key=value.")
    return key, parsed


@dataclass
class Optimisation:
    """How a run learns; shared by every stage."""

    batch_size: int = 32
    learning_rate: float = 2e-4  # of Q-Formers
    head_learning_rate: float = 6e-4  # of all else that trains: heads, shortcut, read-out, projections
    tower_learning_rate: float = 1e-4  # of the vision tower's last block
    layer_decay: float = 0.8  # factor from each block to the one below it
    freeze_blocks: int = 3  # the first blocks (and the patch embedding) stay as they are
    weight_decay: float = 0.05
    warmup: float = 0.05  # share of the steps
    bf16: bool = True
    seed: int = 0
    stop_after: int | None = None  # steps after which the run ends, whatever its schedule
    save_steps: int = 100
    log_steps: int = 10


@dataclass
class Stage1(Optimisation):
    """Recipe of a stage-1 run: captions first (`photographs`), then human scores (`human_epochs`)."""

    output: str = "runs/stage1"
    model: str = "configs/nano/model.json"  # a config to start from its parts, or a saved checkpoint's folder
    human_epochs: float = 0.0  # passes over the clean AGIQA-3K training pictures
    faulted_share: float = 0.35  # faulted and small twins per clean picture and pass
    photograph_epochs: float = 0.0  # passes over Flickr8k, each picture clean or faulted in turn
    held_out_photographs: int = 500
    folds: int = 5
    test_fold: int | None = None  # None trains on every prompt
    leave_out: str | None = None  # a generator that is only tested on
    contrastive_weight: float = 0.2
    rank_weight: float = 0.5
    fault_weight: float = 0.5
    no_prompt_share: float = 0.3  # of second looks at a picture: without prompt instead of a wrong one
    resume: bool = True
    threads: int = field(default=0)  # 0: torch's choice
