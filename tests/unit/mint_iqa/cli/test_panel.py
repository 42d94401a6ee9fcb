"""An assessment in a terminal of 80 columns."""

import pytest
from rich.console import Console

from mint_iqa.cli.panel import panel
from mint_iqa.records import Assessment, Intervals, Levels, ModelInfo, Scores

FILLED, LIKELY, POSSIBLE, EMPTY = "━╍╌─"  # up to the interval, below the score, above it, beyond


@pytest.fixture
def lines():
    """The lines of the panel, without its frame."""

    def lines(scores, intervals=None, prompt="a red fox"):
        record = Assessment(
            image="a.png",
            prompt=prompt,
            model=ModelInfo(name="nano", revision="1"),
            scores=scores,
            levels=Levels.of(scores),
            intervals=intervals,
        )
        console = Console(width=80)
        with console.capture() as capture:
            console.print(panel(record))
        return [line.strip("│╭╮╰╯ ") for line in capture.get().splitlines()]

    return lines


def test_an_interval_stands_beside_its_score_and_on_the_bar(lines):
    scores = Scores(quality=63.2, authenticity=41.9, correspondence=100)
    intervals = Intervals(quality=(51.3, 73.2), authenticity=(20, 60), correspondence=(97.1, 100))
    shown = lines(scores, intervals)
    bar = FILLED * 15 + LIKELY * 4 + POSSIBLE * 3 + EMPTY * 8
    assert shown[1].split() == ["quality", "63.20", "good", "[51,", "74]", bar]
    assert "[20, 60] " in shown[2] and "[97, 100] " in shown[3]
    assert len({line.index(FILLED) for line in shown[1:4]}) == 1
    assert len(shown) == 7  # nothing wraps: frame, three scores, faults, prompt, frame
    assert "in brackets: 90 % interval; nano 1" in shown[-1]


def test_a_score_without_an_interval_has_a_plain_bar_in_the_same_place(lines):
    scores = Scores(quality=50, authenticity=40, correspondence=None)
    shown = lines(scores, Intervals(quality=(45, 55), authenticity=None, correspondence=None), prompt=None)
    assert shown[2].split() == ["authenticity", "40.00", "fair", FILLED * 12 + EMPTY * 18]
    assert shown[1].index(FILLED) == shown[2].index(FILLED)
    assert shown[3].endswith("-  no prompt given")


def test_a_model_without_intervals_takes_no_room_for_them(lines):
    shown = lines(Scores(quality=50, authenticity=40, correspondence=60))
    assert shown[1] == f"quality          50.00  fair       {FILLED * 15}{EMPTY * 15}"
    assert "interval" not in shown[-1]
