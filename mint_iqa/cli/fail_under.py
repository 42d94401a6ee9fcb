"""`mint-iqa score --fail-under quality=60`: an exit code that stops a pipeline."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import typer

from mint_iqa.cli.output import complain, remark
from mint_iqa.errors import MintIQAError
from mint_iqa.records import Assessment, Record
from mint_iqa.text import counted
from mint_iqa.vocabulary import DIMENSIONS, Dimension

EXIT_BELOW = 3  # exit code
MAX_NAMED = 20  # images in a message
Scored = TypeVar("Scored", bound=Record)

FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SCORE",
        help=f"End with exit code {EXIT_BELOW} if an image and its 90 % interval, if any, are below SCORE, "
        "or if it has no such score. Repeatable.",
    ),
]


def limits_of(texts: Sequence[str]) -> dict[Dimension, float]:
    """quality=60, ... as scores by dimension. Raises MintIQAError (`bad_argument`)."""
    limits: dict[Dimension, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        dimension = next((d for d in DIMENSIONS if d == name.strip()), None)
        limit = _number(number)
        if dimension is None or dimension in limits or not 0 <= limit <= 100:
            raise MintIQAError(
                "bad_argument",
                f"--fail-under {text!r:.100} can't be used: give one of {', '.join(DIMENSIONS)} once, = and "
                "0 to 100.",
            )
        limits[dimension] = limit
    return limits


@dataclass
class Images:
    """How many, and the first `MAX_NAMED` of them with their scores."""

    number: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, image: str, scores: Sequence[str]) -> None:
        self.number += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(f"{image} ({', '.join(scores)})")

    def listed(self) -> str:
        more = f" and {self.number - MAX_NAMED:,} more" if self.number > MAX_NAMED else ""
        return f"{', '.join(self.named)}{more}"


class Gate:
    """Counts the records below `limits` as they pass, and apart from them those that are below a limit which
    the interval of their score reaches: these pass."""

    def __init__(self, limits: dict[Dimension, float]) -> None:
        self.limits = limits
        self.seen = 0
        self.below, self.within = Images(), Images()

    def watch(self, records: Iterable[Scored]) -> Iterator[Scored]:
        """The same records; failed ones don't count: they have a complaint and an exit code of their own."""
        for record in records:
            self.note(record)
            yield record

    def note(self, record: Record) -> None:
        if not isinstance(record, Assessment):
            return
        self.seen += 1
        below = [name for name in self.limits if self._is_below(record, name)]
        short = [name for name in below if not self._reaches(record, name)]
        if short:
            self.below.add(record.image, [_written(record, name) for name in short])
        elif below:
            self.within.add(record.image, [_written(record, name) for name in below])

    def sentence(self) -> str:
        """How many are below, and which."""
        return f"{self._counted(self.below)}: {self.below.listed()}."

    def sentence_of_passed(self) -> str:
        """How many are below and pass all the same, and which."""
        its = "its" if self.within.number == 1 else "their"
        return f"{self._counted(self.within)}, but within {its} 90 % interval: {self.within.listed()}."

    def report(self) -> bool:
        """Say on stderr what passed within its interval and what is below; whether anything is below."""
        if self.within.number:
            remark(self.sentence_of_passed())
        if self.below.number:
            complain(self.sentence())
        return self.below.number > 0

    def _counted(self, images: Images) -> str:
        wanted = ", ".join(f"{name}={limit:g}" for name, limit in self.limits.items())
        are = "is" if images.number == 1 else "are"
        return f"{images.number:,} of {counted(self.seen, 'image')} {are} below --fail-under {wanted}"

    def _is_below(self, record: Assessment, name: Dimension) -> bool:
        score = getattr(record.scores, name)
        return score is None or round(score, 2) < self.limits[name]  # as it is written

    def _reaches(self, record: Assessment, name: Dimension) -> bool:
        interval = record.interval(name)
        return interval is not None and interval[1] >= self.limits[name]


def _written(record: Assessment, name: Dimension) -> str:
    score, interval = getattr(record.scores, name), record.interval(name)
    if score is None:
        return f"no {name}"
    return f"{name} {score:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


@contextmanager
def gate(limits: dict[Dimension, float]) -> Iterator[Gate]:
    """After the body, which writes all output, report the images below. End with `EXIT_BELOW` if there are
    any whose interval does not reach the limit; an exit code that the body ended with is kept."""
    watching = Gate(limits)
    try:
        yield watching
    except typer.Exit:
        watching.report()
        raise
    if watching.report():
        raise typer.Exit(EXIT_BELOW)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
