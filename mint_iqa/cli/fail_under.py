"""`mint-iqa score --fail-under quality=60`: an exit code that stops a pipeline."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TypeVar

import typer

from mint_iqa.cli.output import complain
from mint_iqa.errors import MintIQAError
from mint_iqa.records import Assessment, Record
from mint_iqa.text import counted
from mint_iqa.vocabulary import DIMENSIONS, Dimension

EXIT_BELOW = 3  # exit code
MAX_NAMED = 20  # images in the message
Scored = TypeVar("Scored", bound=Record)

FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SCORE",
        help=f"End with exit code {EXIT_BELOW} if an image scores less, or has no such score. Repeatable.",
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


class Gate:
    """Counts the records below `limits` as they pass, and keeps the names of the first."""

    def __init__(self, limits: dict[Dimension, float]) -> None:
        self.limits = limits
        self.below = self.seen = 0
        self.named: list[str] = []

    def watch(self, records: Iterable[Scored]) -> Iterator[Scored]:
        """The same records; failed ones don't count: they have a complaint and an exit code of their own."""
        for record in records:
            self.note(record)
            yield record

    def note(self, record: Record) -> None:
        if not isinstance(record, Assessment):
            return
        self.seen += 1
        if short := [text for name in self.limits if (text := self._below(record, name))]:
            self.below += 1
            if len(self.named) < MAX_NAMED:
                self.named.append(f"{record.image} ({', '.join(short)})")

    def sentence(self) -> str:
        """How many are below, and which."""
        wanted = ", ".join(f"{name}={limit:g}" for name, limit in self.limits.items())
        more = f" and {self.below - MAX_NAMED:,} more" if self.below > MAX_NAMED else ""
        are = "is" if self.below == 1 else "are"
        return (
            f"{self.below:,} of {counted(self.seen, 'image')} {are} below --fail-under {wanted}: "
            f"{', '.join(self.named)}{more}."
        )

    def _below(self, record: Assessment, name: Dimension) -> str:
        score = getattr(record.scores, name)
        if score is None:
            return f"no {name}"
        return f"{name} {score:.2f}" if round(score, 2) < self.limits[name] else ""  # as it is written


@contextmanager
def gate(limits: dict[Dimension, float]) -> Iterator[Gate]:
    """After the body, which writes all output, report the images below and end with `EXIT_BELOW`; an exit
    code that the body ended with is kept."""
    watching = Gate(limits)
    try:
        yield watching
    except typer.Exit:
        if watching.below:
            complain(watching.sentence())
        raise
    if watching.below:
        complain(watching.sentence())
        raise typer.Exit(EXIT_BELOW)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
