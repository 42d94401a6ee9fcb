"""An assessment as a panel that reads well in a terminal of 80 columns."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mint_iqa.records import Assessment, Explanation, Interval, kind_of
from mint_iqa.text import plain, whole_points
from mint_iqa.vocabulary import DIMENSIONS, LEVELS, Level

LEVEL_COLORS = dict(zip(LEVELS, ("red", "dark_orange", "yellow", "green", "bright_green"), strict=True))
BAR_WIDTH = 30
INTERVAL_WIDTH = 11  # [97, 100] and two blanks


def panel(assessment: Assessment) -> RenderableType:
    """Scores with their words and intervals, faults and warnings in rows; then the explanation, if any.

    A bar is as long as its score; from the low to the high end of the interval it is broken.
    """
    parts: list[RenderableType] = [_rows(assessment)]
    if assessment.explanation:
        parts += _paragraphs(assessment.explanation)
    model = assessment.model
    brackets = "in brackets: 90 % interval; " if assessment.intervals else ""
    return Panel(
        Group(*parts),
        title=Text(plain(assessment.image), style="bold", overflow="ellipsis"),
        title_align="left",
        subtitle=Text(plain(f"{brackets}{model.name} {model.revision:.12}"), style="dim"),
        subtitle_align="right",
        border_style="dim",
        padding=(0, 1),
    )


def _rows(assessment: Assessment) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(ratio=1)
    for name in DIMENSIONS:
        level = getattr(assessment.levels, name)
        absent = "no prompt given" if name == "correspondence" and not assessment.prompt else "not rated"
        score, interval = getattr(assessment.scores, name), assessment.interval(name)
        width = INTERVAL_WIDTH if assessment.intervals else 0
        rows.add_row(name, _gauge(score, level, interval, width, absent))
    faults = ", ".join(f"{fault.name} {fault.severity:.2f}" for fault in assessment.faults)
    none = "not looked for" if kind_of(assessment.model.name) == "clip_agiqa" else "none found"
    rows.add_row("faults", Text(faults or none, style="" if faults else "dim"))
    for warning in assessment.warnings:
        rows.add_row("note", Text(plain(warning)))
    if assessment.prompt is not None:
        rows.add_row("prompt", Text(plain(assessment.prompt), style="italic"))
    return rows


def _gauge(
    score: float | None, level: Level | None, interval: Interval | None, width: int, absent: str
) -> Text:
    if score is None or level is None:
        return Text(f"     -  {absent}", style="dim")
    color, written = LEVEL_COLORS[level], round(score, 2)
    ends = interval or (written, written)
    low, filled, high = (round(points / 100 * BAR_WIDTH) for points in (ends[0], written, ends[1]))
    between = str(list(whole_points(*interval))) if interval else ""
    return Text.assemble(
        f"{score:6.2f}  ",
        (f"{level:<11}", color),
        (f"{between:<{width}}", "dim"),
        ("━" * low + "╍" * (filled - low) + "╌" * (high - filled), color),
        ("─" * (BAR_WIDTH - high), "dim"),
    )


def _paragraphs(explanation: Explanation) -> Iterator[Text]:
    for name in (*DIMENSIONS, "overall"):
        text = getattr(explanation, name)
        if text is not None:
            yield Text.assemble("\n", (name.capitalize(), "bold"), "  ", plain(text))
