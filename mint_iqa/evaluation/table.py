"""Figures as rows of text, for the terminal and for the page."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.table import Table

from mint_iqa.evaluation.agreement import Agreement, Figure, Figures
from mint_iqa.evaluation.results import Judged
from mint_iqa.text import plain
from mint_iqa.vocabulary import Dimension

NAMES: dict[str, str] = {
    "srcc": "SRCC", "krcc": "KRCC", "plcc": "PLCC", "plcc_mapped": "PLCC mapped", "rmse": "RMSE",
    "rmse_mapped": "RMSE mapped",
}  # fmt: skip
NOTHING = "-"


@dataclass(frozen=True)
class Grid:
    """A table of texts: the first column says what, the others hold figures."""

    title: str
    header: list[str]
    rows: list[list[str]]


def grids(name: Dimension, judged: Judged) -> Iterator[Grid]:
    """The figures of one dimension, with the baselines beside them, and those of each generator."""
    found = judged.agreement
    title = f"{name}: {found.overall.n:,} images, labels {judged.unit}"
    yield Grid(title, ["", "all", "95 %", *_others(found)], [_row(key, found) for key in NAMES])
    if found.generators:
        header = ["generator", "images", NAMES["srcc"], NAMES["plcc_mapped"], NAMES["rmse_mapped"]]
        rows = [_of_generator(*each) for each in found.generators.items()]
        yield Grid(f"{name} by generator", header, rows)


def rich_table(grid: Grid) -> Table:
    """The same for the terminal."""
    table = Table(title=grid.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, name in enumerate(grid.header):
        table.add_column(name.replace(" ", "\n"), justify="right" if i else "left", no_wrap=i > 0)
    for row in grid.rows:
        table.add_row(*map(plain, row))
    return table


def _others(found: Agreement) -> list[str]:
    rounds = ["rounds"] if found.rounds else []
    return [*rounds, *found.baselines]


def _row(key: str, found: Agreement) -> list[str]:
    figure = found.overall.values[key]
    rounds = [_spread(key, found.rounds.mean, found.rounds.std)] if found.rounds else []
    baselines = [_text(f.values[key].value) for f in found.baselines.values()]
    return [NAMES[key], _text(figure.value), _interval(figure), *rounds, *baselines]


def _spread(key: str, mean: Mapping[str, float], std: Mapping[str, float]) -> str:
    return NOTHING if math.isnan(mean[key]) else f"{mean[key]:.3f} ± {std[key]:.3f}"


def _of_generator(name: str, figures: Figures) -> list[str]:
    values = figures.values
    correlations = [f"{_text(f.value)} {_interval(f)}" for f in (values["srcc"], values["plcc_mapped"])]
    return [name, f"{figures.n:,}", *correlations, _text(values["rmse_mapped"].value)]


def _text(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.3f}"


def _interval(figure: Figure) -> str:
    return "" if math.isnan(figure.value) else f"[{figure.low:.3f}, {figure.high:.3f}]"
