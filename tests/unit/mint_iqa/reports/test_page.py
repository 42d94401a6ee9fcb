"""Pages of known records: what they say, what they leave out, and that nothing in them can run."""

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mint_iqa import cli
from mint_iqa.errors import MintIQAError
from mint_iqa.metrics import bootstrap_interval
from mint_iqa.records import (
    Assessment,
    FailedAssessment,
    Failure,
    Fault,
    Intervals,
    Levels,
    ModelInfo,
    Scores,
)
from mint_iqa.reports.comparison import compare
from mint_iqa.reports.intervals import mean_interval, mean_of
from mint_iqa.reports.run import read_run

pytestmark = pytest.mark.slow


MODEL = ModelInfo(name="nano", revision="1")


def scored(image, quality, prompt=None, correspondence=None, faults=(), **known):
    scores = Scores(quality=quality, authenticity=50, correspondence=correspondence)
    found = [Fault(name=name, severity=severity) for name, severity in faults]
    model = known.pop("model", MODEL)
    if ends := known.pop("ends", None):
        known["intervals"] = Intervals(quality=ends, authenticity=None, correspondence=None)
    return Assessment(
        image=image,
        prompt=prompt,
        model=model,
        scores=scores,
        levels=Levels.of(scores),
        faults=found,
        **known,
    )


def failed(image, message, code="image_truncated", **known):
    return FailedAssessment(image=image, model=MODEL, error=Failure(code=code, message=message), **known)


def write(path, *records):
    path.write_text("".join(record.model_dump_json() + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Writes files of records, runs the command over them and gives back the page."""
    monkeypatch.chdir(tmp_path)

    def report(*runs, options=()):
        names = [str(write(tmp_path / f"{i}.jsonl", *records)) for i, records in enumerate(runs)]
        code = cli.main(["report", *names, "--output", "page.html", *options])
        assert (code, capsys.readouterr().err) == (0, "")
        return Path("page.html").read_text(encoding="utf-8")

    return report


class Texts(HTMLParser):
    """The tags with their attributes, and what a person reads."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def text_of(page):
    body = page.split("</style>")[-1]
    return " ".join(" ".join(Texts(body).words).split())


def rows_of(page, caption):
    """The cells of the table that has this caption, row by row."""
    table = page.split(f"<caption>{caption}</caption>", 1)[1].split("</table>", 1)[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")]
    return [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in cells if row]


def test_the_commands_of_the_docs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("scores", "new", "old"):
        write(tmp_path / f"{name}.jsonl", scored("a.png", 50, metadata={"sampler": "x"}))
    docs = Path(__file__).parents[4] / "docs" / "reports.md"
    commands = re.findall(r"^mint-iqa (report .*)$", docs.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert cli.main(shlex.split(command)) == 0


# One run


def test_the_page_counts_describes_and_names(report):
    page = report(
        [
            scored("a.png", 90, "a fox", 80, [("blur", 0.5)]),
            scored("b.png", 10, faults=[("blur", 0.7), ("noise", 0.3)], warnings=["it is very small"]),
            scored("c.png", 50, "a boat", 20),
            failed("d.png", "d.png is cut short or damaged: copy it again."),
        ]
    )
    text = text_of(page)
    assert "3 images scored by nano 1" in text
    assert "1 image could not be scored" in text
    assert "1 image of 3 has no score for correspondence" in text
    assert rows_of(page, "Distribution")[0] == [
        "quality",
        "3",
        "50.0",
        "32.7",
        "10.0",
        "14.0",
        "50.0",
        "86.0",
        "90.0",
    ]
    assert rows_of(page, "Distribution")[2][:3] == ["correspondence", "2", "50.0"]
    assert [row[:2] for row in rows_of(page, "Images with")] == [
        ["blur", "2"],
        ["noise", "1"],
        ["none found", "1"],
    ]
    assert rows_of(page, "Of these")[0] == ["blur", "66.7 %", "0.60", "50.0"]
    assert "Of 1 image: it is very small." in text
    assert "d.png is cut short or damaged: copy it again." in text


def test_best_and_worst_are_in_their_order_and_no_image_is_both(report):
    page = report([scored(f"{i}.png", i) for i in range(40)])
    sheets = re.findall(r"<h3>(Best|Worst)</h3>(.*?)</div>", page, re.DOTALL)
    names = [re.findall(r">(\d+)\.png<", cards) for _, cards in sheets[:2]]
    assert names == [[str(i) for i in range(39, 27, -1)], [str(i) for i in range(12)]]
    few = report([scored("low.png", 1), scored("high.png", 2), scored("middle.png", 1.5)])
    best, worst = (cards for _, cards in re.findall(r"<h3>(Best|Worst)</h3>(.*?)</div>", few, re.DOTALL)[:2])
    assert best.index("high.png") < best.index("middle.png") and "low.png" not in best
    assert "low.png" in worst and "middle.png" not in worst


def test_a_picture_shows_the_interval_of_its_score_if_it_has_one(report):
    page = report([scored("a.png", 70, ends=(61.5, 77.2)), scored("b.png", 30)])
    assert "<b>70.00 good [61, 78]</b>" in page and "<b>30.00 poor</b>" in page
    assert "After the score of a picture, its 90 % interval." in page
    assert "90 % interval" not in report([scored("a.png", 70), scored("b.png", 30)])


def test_groups_are_generators_else_folders_or_what_is_asked_for(report):
    by_column = [
        scored(f"{name}{i}.png", 10 * i, metadata={"generator": name, "seed": str(i % 2)})
        for name in ("old", "new")
        for i in (1, 2)
    ]
    page = report([*by_column, scored("x.png", 90, metadata={"generator": "best"})])
    assert "By generator" in page
    assert [row[:3] for row in rows_of(page, "Quality")] == [
        ["best", "1", "90.0"],
        ["old", "2", "15.0"],
        ["new", "2", "15.0"],
    ]
    assert "By seed" in report(by_column, options=["--by", "seed"])
    page = report([scored("red/1.png", 20), scored("blue/1.png", 30), failed("red/2.png", "It is empty.")])
    assert "By folder" in page and "Could not be scored: red 1." in text_of(page)
    assert "<h2>By" not in report([scored("red/1.png", 20), scored("red/2.png", 30)])


def test_many_groups_and_many_failures_are_cut_off_and_counted(report):
    records = [scored(f"{i:03}/a.png", 5) for i in range(60)]
    records += [failed(f"{i:03}.png", f"Number {i:03} is damaged.") for i in range(250)]
    page = report(records)
    assert len(rows_of(page, "Quality")) == 25 and "These are the 25 largest of 60." in page
    assert page.count(" is damaged.") == 200 and "And 50 more." in page


def test_thumbnails_are_embedded_and_bounded(report, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    for i in range(60):
        Image.fromarray(noise).save(tmp_path / f"{i}.bmp")
    page = report([scored(f"{i}.bmp", i, "fox", i) for i in range(60)])
    assert page.count("data:image/jpeg;base64,") == 72
    assert len(page) < 6_000_000  # of noise, which compresses worst


def test_pictures_are_looked_for_here_beside_the_records_and_where_told(report, tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (30, 30)).save(tmp_path / folder / f"{folder}.png")
    records = [scored("here.png", 1), scored("there.png", 2), scored("n" * 5000, 3)]
    page = report(records)
    assert page.count("data:image") == 0 and "6 of the 6 pictures to be shown are not on this disk" in page
    page = report(records, options=["--images", "there"])
    assert page.count("data:image") == 2 and "4 of the 6 pictures" in page
    lines = write(tmp_path / "here" / "scores.jsonl", *records)
    assert cli.main(["report", str(lines), "--output", "page.html"]) == 0
    assert Path("page.html").read_text().count("data:image") == 2


def test_a_picture_that_is_damaged_says_so_in_its_place(report, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "torn.png is cut short or damaged" in report([scored("torn.png", 1)])


def test_nothing_from_the_records_becomes_markup_and_nothing_is_asked_of_a_server(report):
    evil = '"><script src=https://x.example/a.js></script><img src=x onerror=alert(1)>\u202e'
    model = ModelInfo(name=evil, revision=evil)
    records = [
        scored(
            f"{evil}/{i}", i, evil, i, model=model, metadata={"generator": f"{evil}{i}"}, warnings=[evil]
        )
        for i in range(3)
    ]  # fmt: skip
    records.append(failed(evil, evil, metadata={"generator": evil}))
    other = [scored(record.image, 50, evil, 50, model=model) for record in records[:2]]
    page = report(records, other)
    tags = Texts(page).tags
    assert {tag for tag, _ in tags} <= {
        "html", "meta", "title", "style", "h1", "h2", "h3", "p", "b", "i", "ul", "li", "br", "div", "table",
        "caption", "tr", "th", "td", "figure", "figcaption", "svg", "rect", "circle", "line", "path", "text",
        "article", "img",
    }  # fmt: skip
    for _, attributes in tags:
        assert not any(name.startswith("on") or name in ("href", "srcset") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
    assert "\u202e" not in page and "url(" not in page and "@import" not in page


def test_texts_of_a_megabyte_do_not_swell_the_page(report):
    long = "word " * 200_000
    page = report([scored(f"{i}{long}", i, long, i, metadata={"generator": long}) for i in range(3)])
    assert len(page) < 100_000


def test_a_run_of_failures_alone_has_a_page_too(report):
    text = text_of(report([failed("a.png", "a.png is empty."), failed("b.png", "b.png is empty.", "other")]))
    assert "0 images scored" in text and "a.png is empty." in text and "other" in text


def test_a_hundred_thousand_points_are_drawn_as_cells(report):
    rng = np.random.default_rng(0)
    page = report([scored(f"{i}.png", q, "p", c) for i, (q, c) in enumerate(rng.uniform(0, 100, (2000, 2)))])
    assert "<circle" not in page and len(page) < 700_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"image": "a.png"}\n', "1 problem: line 1: it is not a record"),
        (b"[]\n{\xff}\n", "2 problems: line 1"),
        (b"", "holds no records"),
        (None, "No such file"),
    ],
)
def test_what_is_no_run_ends_in_one_sentence(tmp_path, capsys, content, words):
    path = tmp_path / "scores.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["report", str(path), "--output", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


def test_a_line_torn_by_a_kill_is_named(tmp_path):
    path = write(tmp_path / "scores.jsonl", *[scored(f"{i}.png", 50) for i in range(3)])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(MintIQAError, match="1 problem: line 3: it is not a record") as caught:
        read_run(path)
    assert caught.value.code == "unusable_lines"


def test_an_unknown_column_is_refused_with_the_known_ones(tmp_path):
    path = write(tmp_path / "scores.jsonl", scored("a.png", 50, metadata={"seed": "1", "sampler": "x"}))
    with pytest.raises(MintIQAError, match="no metadata 'sed': group by one of sampler, seed, folder"):
        read_run(path, "sed")


def test_the_page_never_overwrites_the_records(tmp_path, capsys):
    path = write(tmp_path / "scores.jsonl", scored("a.png", 50))
    assert cli.main(["report", str(path), "--output", str(path)]) == 2
    assert "also an input" in capsys.readouterr().err and "a.png" in path.read_text()


# Two runs


def test_a_comparison_has_the_right_numbers(report):
    new = [scored(f"{i}.png", 50 + d, f"prompt {i}", 40) for i, d in enumerate([3, 1, -2, 0, 8])]
    old = [scored(f"{i}.png", 50, f"prompt {i}", 40) for i in range(5)]
    page = report([*new, scored("only here.png", 1)], [*old[::-1], scored("0.png", 99, "another prompt")])
    quality, authenticity, _ = rows_of(page, "Differences")
    low, high = bootstrap_interval(
        lambda x, y: float(np.mean(x - y)), [53, 51, 48, 50, 58], [50] * 5
    )  # fmt: skip
    assert quality == [
        "quality", "5", "52.0", "50.0", "+2.00", f"[{low:+.2f}, {high:+.2f}]", "60.0 %", "20.0 %", "20.0 %",
    ]  # fmt: skip
    assert authenticity[4:6] == ["+0.00", "[+0.00, +0.00]"]
    text = text_of(page)
    assert "5 pairs by image name and prompt. Unpaired: 1 of this run and 1 of the other." in text
    gained = page.split("Quality gained most", 1)[1]
    gained, lost = gained.split("Quality lost most", 1)
    assert re.findall(r">(\d)\.png<", gained) == ["4", "0", "1"]
    assert re.findall(r">(\d)\.png<", lost.split("<h", 1)[0]) == ["2"]


WIDE = (40, 60)


@pytest.mark.parametrize(
    ("new", "old", "sign"),
    [
        ((55, WIDE), (45, WIDE), 0),  # each in the other's
        ((55, (54, 56)), (45, WIDE), 0),  # one in the other's
        ((55, WIDE), (45, (44, 46)), 0),
        ((60, (55, 65)), (50, WIDE), 0),  # on its end
        ((70, (55, 80)), (50, WIDE), 1),  # the intervals overlap, the scores are outside
        ((50, WIDE), (70, (55, 80)), -1),
        ((51, None), (50, WIDE), 1),  # one interval is no pair of them
        ((51, WIDE), (52, None), -1),
        ((50, None), (50, None), 0),
    ],
)
def test_a_picture_is_better_or_worse_only_outside_the_intervals(tmp_path, new, old, sign):
    (one, ends), (other, other_ends) = new, old
    both = runs(tmp_path, [scored("a.png", one, ends=ends)], [scored("a.png", other, ends=other_ends)])
    change = compare(*both).changes["quality"]
    assert change.signs.tolist() == [sign]
    known = ends is not None and other_ends is not None
    assert (change.with_intervals, change.within) == (known, known and sign == 0)


def test_a_comparison_counts_what_is_no_difference_by_the_intervals(report):
    pairs = [
        ((90, (85, 95)), (50, WIDE)),
        ((55, WIDE), (50, WIDE)),
        ((45, WIDE), (50, WIDE)),
        ((60, None), (50, None)),
    ]
    new, old = (
        [scored(f"{i}.png", pair[k][0], ends=pair[k][1]) for i, pair in enumerate(pairs)] for k in (0, 1)
    )
    page = report(new, old)
    quality, authenticity = rows_of(page, "Differences")
    assert quality[-3:] == ["50.0 %", "0.0 %", "50.0 %"]
    assert authenticity[-3:] == ["0.0 %", "0.0 %", "100.0 %"]
    text = text_of(page)
    assert "No difference by that: quality 2 of 3 pairs." in text
    assert re.findall(r">(\d)\.png<", page.split("Quality gained most", 1)[1].split("<h2", 1)[0]) == [
        "0",
        "3",
    ]
    assert "50.00 [40, 60] → 90.00 [85, 95]" in text and "50.00 → 60.00" in text
    assert "Quality lost most" not in page


def test_a_comparison_without_intervals_says_nothing_of_them(report):
    page = report([scored("a.png", 51)], [scored("a.png", 50)])
    assert "90 % interval" not in page and "No difference by that" not in page


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (5, "Quality is better by 5.00 points [+4."),
        (-5, "Quality is worse by 5.00 points [-5."),
        (0, "Quality: no difference shown"),
    ],
)
def test_the_verdict_follows_the_interval(report, shift, words):
    noise = np.random.default_rng(0).normal(0, 2, 40)
    noise -= noise.mean()
    new = [scored(f"{i}.png", 50 + shift + x, f"prompt {i}") for i, x in enumerate(noise)]
    old = [scored(f"{i}.png", 50, f"prompt {i}") for i in range(40)]
    assert words in text_of(report(new, old))


def runs(tmp_path, new, old):
    return read_run(write(tmp_path / "new.jsonl", *new)), read_run(write(tmp_path / "old.jsonl", *old))


def test_the_same_image_scored_twice_is_paired_in_order(tmp_path):
    both = runs(
        tmp_path, [scored("a.png", 10), scored("a.png", 20)], [scored("a.png", 1), scored("a.png", 2)]
    )
    found = compare(*both)
    assert found.changes["quality"].differences.tolist() == [9, 18]
    assert found.unpaired == (0, 0)


def test_other_folders_are_compared_by_file_name_where_that_is_clear(tmp_path):
    new = [scored("new/1.png", 10), scored("new/2.png", 10), scored("new/x/2.png", 10)]
    old = [scored("old/1.png", 4), scored("old/2.png", 4)]
    found = compare(*runs(tmp_path, new, old))
    assert (found.by_file_name, found.pairs, found.unpaired) == (True, 1, (2, 1))
    assert found.changes["quality"].difference.value == 6


def test_pictures_that_differ_are_both_shown(report, tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (30, 30), "red" if name == "new" else "blue").save(tmp_path / name / "1.png")
    new = [scored("new/1.png", 60, image_sha256="a" * 64)]
    old = [scored("old/1.png", 50, image_sha256="b" * 64)]
    page = report(new, old)
    assert "In 1 pair the pictures themselves differ: both are shown." in page
    (gained,) = re.findall(r"Quality gained most</h3>(.*?)</article>", page, re.DOTALL)
    assert gained.count("data:image") == 2
    same = report([new[0].model_copy(update={"image_sha256": "b" * 64})], old)
    (gained,) = re.findall(r"Quality gained most</h3>(.*?)</article>", same, re.DOTALL)
    assert gained.count("data:image") == 1


def test_a_dimension_that_one_run_lacks_is_left_out(tmp_path):
    found = compare(*runs(tmp_path, [scored("a.png", 5, "fox", 70)], [scored("a.png", 5, "fox")]))
    assert list(found.changes) == ["quality", "authenticity"]


def test_runs_over_other_images_are_refused(tmp_path, capsys):
    new, old = (
        write(tmp_path / "n", scored("a.png", 5, "fox")),
        write(tmp_path / "o", scored("a.png", 5, "ox")),
    )
    assert cli.main(["report", str(new), str(old), "--output", str(tmp_path / "p.html")]) == 2
    assert "No image that" in (error := capsys.readouterr().err) and len(error.splitlines()) == 1


# Intervals


def test_an_interval_is_that_of_the_general_bootstrap():
    rng = np.random.default_rng(1)
    values, prompts = rng.normal(3, 2, 60), [f"prompt {i % 12}" for i in range(60)]
    expected = bootstrap_interval(lambda x, y: float(np.mean(x - y)), values, np.zeros(60), groups=prompts)
    assert mean_interval(values, prompts) == pytest.approx(expected, abs=1e-12)


def test_images_of_one_prompt_are_drawn_together_and_few_prompts_not_at_all():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.normal(0, 5, 20), 30)
    together = mean_of(values, [f"prompt {i // 30}" for i in range(600)])
    alone = mean_of(values, [f"prompt {i}" for i in range(600)])
    assert together.high - together.low > 3 * (alone.high - alone.low)
    one_prompt, none = mean_of(values, ["a fox"] * 600), mean_of(values, [""] * 600)
    assert (one_prompt.low, one_prompt.high) == (none.low, none.high) == (alone.low, alone.high)
    assert np.isnan(mean_of(values[:4], ["a fox"] * 4).low)


def test_three_pairs_alike_prove_nothing(report):
    new, old = ([scored(f"{i}.png", quality) for i in range(3)] for quality in (60, 50))
    assert "Quality: +10.00, from too few images for an interval." in text_of(report(new, old))


def test_a_run_is_read_as_it_was_written(tmp_path):
    run = read_run(
        write(tmp_path / "scores.jsonl", scored("a.png", 12.346, "fox", 99.999), scored("b.png", 7))
    )
    np.testing.assert_array_equal(run.scores, [[12.35, 50, 100], [7, 50, np.nan]])
    assert np.isnan(run.intervals).all() and run.intervals.shape == (2, 3, 2)
    assert json.loads(run.path.read_text().splitlines()[0])["scores"]["quality"] == 12.35


def test_a_run_of_version_1_1_is_read_too(tmp_path):
    path = write(tmp_path / "scores.jsonl", scored("a.png", 12))
    earlier = json.loads(path.read_text()) | {"schema_version": "1.1"}
    del earlier["intervals"]
    path.write_text(json.dumps(earlier) + "\n" + scored("b.png", 7, ends=(5, 9.126)).model_dump_json() + "\n")
    run = read_run(path)
    assert run.of("quality").tolist() == [12, 7]
    np.testing.assert_array_equal(run.intervals_of("quality"), [[np.nan, np.nan], [5, 9.13]])
