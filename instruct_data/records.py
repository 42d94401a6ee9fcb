"""The records of instruction data: pictures with human scores, and questions with their answers.

Both are written as JSON Lines, one record per line, without the fields at their default. `python -m
instruct_data schema` prints the JSON Schema of either.
"""

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import Findings, read_bytes
from mint_iqa.vocabulary import DIMENSIONS, Dimension

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Asked = Literal["quality", "authenticity", "correspondence", "overall"]


def _relative(path: str) -> str:
    """Check that a path stays below the folder of pictures: a data file must not name files elsewhere."""
    if not path.strip():
        raise ValueError("the image name is empty")
    windows = PureWindowsPath(path)
    outside = windows.drive or windows.root or ".." in windows.parts or ".." in PurePosixPath(path).parts
    if outside or not path.isprintable():
        raise ValueError("the image must be a path below the folder of pictures")
    return path


def _blank_is_none(text: Any) -> Any:
    return None if isinstance(text, str) and not text.strip() else text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return text


Percent = Annotated[float, Field(ge=0, le=100)]
Unit = Annotated[float, Field(ge=0, le=1)]
ImageName = Annotated[str, AfterValidator(_relative)]
FilledText = Annotated[str, AfterValidator(_not_blank)]
OptionalText = Annotated[str | None, BeforeValidator(_blank_is_none)]


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Record(_FrozenModel):
    """What both kinds of records say about a picture."""

    image: ImageName = Field(description="Path of the file, relative to the folder of pictures.")
    prompt: OptionalText = Field(
        default=None, description="The text it was made from; an empty one counts as none."
    )
    source: FilledText = Field(description="The data set it comes from.")
    split: Split | None = Field(default=None, description="Which side it is on; null before splitting.")
    generator: OptionalText = Field(default=None, description="The model that made it.")
    reference: ImageName | None = Field(
        default=None, description="The pristine image that a distorted one derives from."
    )
    distortion: OptionalText = Field(default=None, description="What was done to it, e.g. gaussian_blur.")
    level: int | None = Field(default=None, ge=1, le=5, description="How strongly: 1 (weakest) .. 5.")

    @property
    def known_scores(self) -> dict[Dimension, float]:
        """All human scores of the picture, 0..100."""
        return {}


class RatedImage(Record):
    """One picture with human scores on 0..100, higher is better."""

    mos: dict[Dimension, Percent] = Field(min_length=1, description="Mean opinion scores, 0..100.")
    mos_std: dict[Dimension, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Standard deviations between raters, in the same points."
    )

    @property
    def known_scores(self) -> dict[Dimension, float]:
        """All human scores of the picture, 0..100."""
        return self.mos

    @model_validator(mode="after")
    def _spread_has_a_mean(self) -> Self:
        if extra := self.mos_std.keys() - self.mos.keys():
            raise ValueError(f"mos_std has {min(extra)}, but mos doesn't")
        return self


class Turn(_FrozenModel):
    """An earlier question about the same picture, with its answer."""

    question: FilledText
    answer: FilledText


class ChangedWord(_FrozenModel):
    """A word of the prompt exchanged on purpose: `replacement` stands where `original` stood."""

    original: FilledText
    replacement: FilledText


class InstructionSample(Record):
    """One question about one picture, with the answer to be learned."""

    dimension: Asked | None = Field(
        default=None, description="What is asked about; null where it is none of these."
    )
    mos: Percent | None = Field(
        default=None, description="Human score of that dimension, 0..100; the one in `scores`."
    )
    scores: dict[Dimension, Percent] = Field(
        default_factory=dict, description="All human scores of the picture that are known, 0..100."
    )
    question: FilledText
    answer: FilledText
    history: tuple[Turn, ...] = Field(default=(), description="Earlier turns, first to last.")
    region: tuple[Unit, Unit, Unit, Unit] | None = Field(
        default=None,
        description="Where the fault is: left, top, right, bottom as shares of width and height.",
    )
    changed_words: tuple[ChangedWord, ...] = Field(
        default=(), description="Words of the prompt that were exchanged, so that it no longer fits."
    )

    @property
    def known_scores(self) -> dict[Dimension, float]:
        """All human scores of the picture, 0..100."""
        return self.scores

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.dimension is None and self.mos is not None:
            raise ValueError("mos needs a dimension")
        if self.dimension in DIMENSIONS and self.mos != self.scores.get(self.dimension):
            raise ValueError(f"mos must equal scores.{self.dimension}")
        if self.region and not (self.region[0] < self.region[2] and self.region[1] < self.region[3]):
            raise ValueError("region must be [left, top, right, bottom] with left < right and top < bottom")
        return self


R = TypeVar("R", bound=Record)


def ratings_of(samples: Iterable[InstructionSample]) -> list[RatedImage]:
    """One RatedImage for each scored pair of picture and prompt, in the order of the samples."""
    first: dict[tuple[str, str | None], InstructionSample] = {}
    for sample in samples:
        if sample.scores:
            first.setdefault((sample.image, sample.prompt), sample)
    shared = Record.model_fields.keys()
    return [
        RatedImage(mos=sample.scores, **{name: getattr(sample, name) for name in shared})
        for sample in first.values()
    ]


def read_jsonl(path: Path, kind: type[R]) -> list[R]:
    """All records of a JSON Lines file (UTF-8), in order; blank lines are skipped.

    Raises MintIQAError: `file_missing`, `unreadable_file`, or one `unusable_lines` for all broken lines.
    """
    findings = Findings(path)
    records: list[R] = []
    # Not splitlines(): it also splits at separators that a JSON string may contain.
    for number, line in enumerate(read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            with findings.at(number):
                records.append(kind.model_validate_json(line, strict=True))
    findings.check()
    return records


def read_any_jsonl(path: Path) -> Sequence[Record]:
    """Like `read_jsonl`; the first record decides the kind of all: samples if it has a question."""
    first = next((line for line in read_bytes(path).splitlines() if line.strip()), b"")
    return read_jsonl(path, InstructionSample) if b'"question"' in first else read_jsonl(path, RatedImage)


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write records as they arrive and return their number; `path` is replaced after the last one.

    Raises MintIQAError (`output_unwritable`) if the file can't be written.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}-")
        temporary = Path(name)
        with open(handle, "w", encoding="utf-8", newline="\n") as stream:
            count = 0
            for count, record in enumerate(records, 1):  # noqa: B007
                stream.write(record.model_dump_json(exclude_defaults=True) + "\n")
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        os.replace(temporary, path)
        return count
    except OSError as error:
        raise MintIQAError(
            "output_unwritable", f"{path} can't be written ({error.strerror}): choose another --output."
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def schema(kind: type[Record]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one record."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema()}
