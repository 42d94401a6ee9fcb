"""The records that leave the program, and their JSON Schema.

Every image ends in one record: an `Assessment` (or, for a question, an `Answer`), or its `Failed...` twin, in
which `error` stands where the results would have been. Records are frozen, reject unknown fields, and check
themselves: numbers are finite and in range, and the level words follow from the scores.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    model_validator,
)

from mint_iqa.errors import MintIQAError
from mint_iqa.vocabulary import Dimension, FaultName, Level, level_of

SCHEMA_VERSION: Literal["1.2"] = "1.2"
READABLE_VERSIONS = ("1.1",)  # of earlier records: what these lack is null
CLIP_AGIQA = "clip-agiqa="  # in front of the name of a model that is one
ModelKind = Literal["mint_iqa", "clip_agiqa"]


def kind_of(name: str) -> ModelKind:
    """What sort of model goes by this name on the command line and in records."""
    return "clip_agiqa" if name.startswith(CLIP_AGIQA) else "mint_iqa"


def _library_version() -> str:
    try:
        return version("mint-iqa")
    except PackageNotFoundError:
        return "0.2.0+source"


LIBRARY_VERSION = _library_version()


def _two_decimals(value: float) -> float:
    return round(value, 2) + 0.0  # turns -0.0 into 0.0


def encodable(value: Any) -> Any:
    """A text as records hold it: a file name that isn't UTF-8 reaches Python with lone surrogates (PEP 383),
    which JSON can't hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value


def _as_current(value: Any) -> Any:
    return SCHEMA_VERSION if value in READABLE_VERSIONS else value


_Percent = Annotated[float, Field(ge=0, le=100)]
_Unit = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[_Percent, PlainSerializer(_two_decimals, return_type=_Percent)]
Interval: TypeAlias = tuple[Score, Score]
Severity = Annotated[_Unit, PlainSerializer(_two_decimals, return_type=_Unit)]
Text = Annotated[str, BeforeValidator(encodable)]


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),
        json_schema_serialization_defaults_required=True,
    )


class Scores(_Frozen):
    """Three scores on 0..100, higher is better; kept in full, written with two decimals."""

    quality: Score = Field(
        description="How well the image is made: sharpness, noise, light, composition; 0..100."
    )
    authenticity: Score | None = Field(
        description="How much it looks like a real photograph or artwork; 0..100, null where the model does "
        "not rate it."
    )
    correspondence: Score | None = Field(
        description="How well it shows its prompt; 0..100, null without a prompt."
    )


class Intervals(_Frozen):
    """The 90 % interval of each score: its low and high end on 0..100, with two decimals when written."""

    quality: Interval | None = Field(description="null where the model gives none.")
    authenticity: Interval | None = Field(description="null where the model gives none, or no score.")
    correspondence: Interval | None = Field(description="null where the model gives none, or no score.")

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        for name, interval in iter(self):
            if interval is not None and interval[0] > interval[1]:
                raise ValueError(f"intervals.{name} must have its low end first")
        return self


class Levels(_Frozen):
    """The word for each score, from bad to excellent in equal steps of 20 points."""

    quality: Level
    authenticity: Level | None = Field(description="null where the model does not rate it.")
    correspondence: Level | None = Field(description="null without a prompt.")

    @classmethod
    def of(cls, scores: Scores) -> Self:
        """The words for `scores` as they are written: 79.996 is written 80.0, so it is excellent."""
        words = {
            name: None if score is None else level_of(_two_decimals(score)) for name, score in iter(scores)
        }
        return cls.model_validate(words)


class Fault(_Frozen):
    """A visible fault and how strong it is."""

    name: FaultName
    severity: Severity = Field(description="0 (barely there) .. 1 (as strong as it gets).")


class Explanation(_Frozen):
    """The model's reasons, in its own words."""

    quality: Text
    authenticity: Text
    correspondence: Text | None = Field(description="null without a prompt.")
    overall: Text = Field(description="Why the image gets these scores.")


class ModelInfo(_Frozen):
    """Which weights gave the result."""

    name: Text = Field(description="Preset, folder or hub id; clip-agiqa= and a folder for a CLIP-AGIQA.")
    revision: Text = Field(description="Identifies the exact weights.")


class Failure(_Frozen):
    """Why there is no result."""

    code: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Stable name of the kind of trouble.")
    message: Text = Field(description="One sentence: what is wrong, where, what to do.")

    @classmethod
    def of(cls, error: MintIQAError) -> Self:
        """The same code and message as `error`."""
        return cls(code=error.code, message=error.message)


class _Record(_Frozen):
    schema_version: Annotated[Literal["1.2"], BeforeValidator(_as_current)] = SCHEMA_VERSION
    image: Text = Field(description="The image as the user named it.")
    image_sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="Of the file's bytes; null when there was no file.",
    )
    prompt: Text | None = Field(
        default=None, description="The text the image was made from; null when not given."
    )
    metadata: dict[Text, Text] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Other columns of the manifest's row; absent when there are none.",
    )
    model: ModelInfo
    library_version: str = LIBRARY_VERSION

    def with_origin(self, image: str, metadata: dict[str, str] | None) -> Self:
        """The same record under the name the user gave the image, with their other columns."""
        data = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(data | {"image": image, "metadata": metadata or None})


def _check_correspondence(scores: Scores, prompt: str | None) -> None:
    if prompt is None and scores.correspondence is not None:
        raise ValueError("scores.correspondence must be None when there is no prompt")


def _check_intervals(scores: Scores, intervals: Intervals | None) -> None:
    """Compares as written: rounding may move a score and the end of its interval apart."""
    for name, interval in iter(intervals) if intervals else ():
        score = getattr(scores, name)
        if interval is None:
            continue
        if score is None:
            raise ValueError(f"intervals.{name} must be None when there is no such score")
        low, high = map(_two_decimals, interval)
        if not low <= _two_decimals(score) <= high:
            raise ValueError(f"intervals.{name} must contain scores.{name}")


class Assessment(_Record):
    """Scores, level words, faults and reasons for one image."""

    scores: Scores
    intervals: Intervals | None = Field(
        default=None, description="90 % interval of each score; null where the model gives none."
    )
    levels: Levels
    blind: bool = Field(
        default=False,
        exclude_if=lambda value: not value,
        description="true where correspondence was scored without reading the prompt; absent otherwise.",
    )
    faults: tuple[Fault, ...] = Field(default=(), description="Visible faults; a CLIP-AGIQA looks for none.")
    warnings: tuple[Text, ...] = Field(
        default=(), description="What was done to the image before scoring it."
    )
    explanation: Explanation | None = Field(default=None, description="null when it was not asked for.")

    @model_validator(mode="after")
    def _words_agree_with_numbers(self) -> Self:
        _check_correspondence(self.scores, self.prompt)
        _check_intervals(self.scores, self.intervals)
        if self.levels != Levels.of(self.scores):
            raise ValueError("levels must follow from scores: use Levels.of(scores)")
        return self

    def interval(self, dimension: Dimension) -> Interval | None:
        """Low and high end of the score's 90 % interval as they are written; None where there is none."""
        ends: Interval | None = getattr(self.intervals, dimension, None)
        return ends and (_two_decimals(ends[0]), _two_decimals(ends[1]))


class FailedAssessment(_Record):
    """What stands in the place of an `Assessment` when the image could not be scored."""

    error: Failure


class Answer(_Record):
    """The answer to one question about one image, with the image's scores."""

    question: Text
    answer: Text
    scores: Scores
    intervals: Intervals | None = Field(
        default=None, description="90 % interval of each score; null where the model gives none."
    )
    warnings: tuple[Text, ...] = Field(
        default=(), description="What was done to the image before scoring it."
    )

    @model_validator(mode="after")
    def _scores_fit_prompt_and_intervals(self) -> Self:
        _check_correspondence(self.scores, self.prompt)
        _check_intervals(self.scores, self.intervals)
        return self


class FailedAnswer(_Record):
    """What stands in the place of an `Answer` when the question could not be answered."""

    question: Text
    error: Failure


Record: TypeAlias = Assessment | FailedAssessment | Answer | FailedAnswer


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of everything `mint-iqa` exports: one record, or an array of them."""
    body = TypeAdapter(Record).json_schema(mode="serialization")
    definitions = body["$defs"] | {"Record": {"anyOf": body["anyOf"]}}
    one = {"$ref": "#/$defs/Record"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"MINT-IQA records {SCHEMA_VERSION}",
        "anyOf": [one, {"type": "array", "items": one}],
        "$defs": definitions,
    }
