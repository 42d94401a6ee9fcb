"""Label files of published sets: every line becomes a record or a named problem."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_data.__main__ import main
from instruct_data.importers.agiqa3k import read_agiqa3k
from instruct_data.importers.aigciqa2023 import read_aigciqa2023, read_aigciqa2023_raw
from instruct_data.importers.distortions import KADID_DISTORTIONS, read_clive, read_kadid, read_live
from instruct_data.importers.llava import read_llava
from instruct_data.importers.table import TableColumns, read_table
from instruct_data.records import InstructionSample, RatedImage, ratings_of, read_jsonl
from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import Findings, json_records
from mint_iqa.tables.scales import ScoreColumn, percent

LABELS = Path(__file__).parents[3] / "labels"
COLUMNS = TableColumns({"quality": ScoreColumn("dmos", 100, 0)}, image="file", prompt="text")
AS_GIVEN = TableColumns({"quality": ScoreColumn("q", 1, 5)})


def table(path, findings):
    return read_table(path, AS_GIVEN, findings)


JSON_READERS = [read_aigciqa2023, read_live, read_clive, read_kadid, read_llava]
READERS = [*JSON_READERS, read_aigciqa2023_raw, read_agiqa3k, table]


def load(reader, path):
    """All records of a valid file."""
    findings = Findings(path)
    records = reader(path, findings)
    findings.check()
    return records


def problems(reader, path):
    """(line, problem) of a file."""
    findings = Findings(path)
    reader(path, findings)
    return findings.problems


def changed(tmp_path, name, *exchanges):
    """A copy of a label file with some text replaced."""
    text = (LABELS / name).read_text("utf-8")
    for old, new in exchanges:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.fixture
def run(tmp_path, capsys):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


# --- the real files ---


@pytest.fixture(scope="module")
def labels(data_root):
    if not (data_root / "labels").is_dir():
        pytest.skip(f"no label files at {data_root / 'labels'}")
    return data_root / "labels"


@pytest.mark.data
def test_aigciqa2023_as_published(labels):
    samples = load(read_aigciqa2023, labels / "AIGIQA2023.json")
    asked = Counter(sample.dimension for sample in samples)
    assert asked == dict.fromkeys(["quality", "authenticity", "correspondence", "overall"], 2400)
    rated = ratings_of(samples)
    assert len(rated) == 2400 and len({rating.prompt for rating in rated}) == 100
    assert set(Counter(rating.generator for rating in rated).values()) == {400}
    corgi = rated[0]
    assert (corgi.image, corgi.prompt, corgi.generator) == ("0.png", "a corgi", "Controlnet")
    assert corgi.mos == pytest.approx(
        {"quality": 60.164, "authenticity": 47.247, "correspondence": 59.986}, abs=1e-3
    )


@pytest.mark.data
def test_the_annotation_of_aigciqa2023_says_what_the_published_answers_say(labels):
    published = load(read_aigciqa2023, labels / "AIGIQA2023.json")
    findings = Findings(labels / "AIGIQA2023+.csv")
    written = read_aigciqa2023_raw(findings.path, findings)
    assert findings.problems == [
        (765, "authenticity '0' is not in 1..3"),
        (2262, "correspondence '11' is not in 1..3"),
    ]
    assert len(written) == 4 * 2398

    def texts(samples):  # some published answers end with two full stops
        return {(s.image, s.dimension, s.generator): re.sub(r"\s*\.[.\s]*", ". ", s.answer) for s in samples}

    assert texts(written).items() <= texts(published).items()


@pytest.mark.data
def test_agiqa3k_as_shared(data_root):
    rated = load(read_agiqa3k, data_root / "agiqa3k" / "scores.csv")
    assert len(rated) == 2387 and len({rating.prompt for rating in rated}) == 240
    assert Counter(rating.generator for rating in rated)["sd1.5"] == 960
    assert max(rating.mos["quality"] for rating in rated) == pytest.approx(89.775, abs=1e-3)


@pytest.mark.data
@pytest.mark.parametrize(
    ("reader", "name", "count", "lowest", "highest"),
    [(read_live, "LIVE_test.json", 156, 19.92, 80.46), (read_clive, "CLIVE_test1.json", 233, 4.81, 92.43)],
)
def test_live_and_clive_as_published(labels, reader, name, count, lowest, highest):
    rated = load(reader, labels / name)
    values = [rating.mos["quality"] for rating in rated]
    assert len(rated) == count and all(rating.prompt is None for rating in rated)
    assert (min(values), max(values)) == pytest.approx((lowest, highest))


# --- formats, on small files ---


def test_an_aigciqa2023_sample_has_the_score_it_is_asked_about():
    quality, authenticity, _, overall = load(read_aigciqa2023, LABELS / "AIGIQA2023.json")[:4]
    assert (quality.mos, quality.dimension) == (60, "quality")
    assert authenticity.answer == "The image is partially distorted. The mast is bent."
    assert (overall.mos, overall.dimension, len(overall.scores)) == (None, "overall", 3)


def test_the_raw_annotation_gives_the_same_answers():
    def texts(samples):
        return [(s.image, s.dimension, s.generator, s.answer) for s in samples]

    written = load(read_aigciqa2023_raw, LABELS / "AIGIQA2023+.csv")
    assert texts(written) == texts(load(read_aigciqa2023, LABELS / "AIGIQA2023.json"))


def test_both_layouts_of_agiqa3k_give_the_same_scores():
    official, local = (load(read_agiqa3k, LABELS / name) for name in ("data.csv", "scores.csv"))
    for a, b in zip(official, local, strict=False):
        assert f"images/{a.image}" == b.image
        assert (a.prompt, a.generator, a.mos, a.mos_std) == (b.prompt, b.generator, b.mos, b.mos_std)
    assert official[1].mos == {"quality": 50, "correspondence": 75}
    assert official[1].mos_std == {"quality": 6, "correspondence": 10}


def test_kadid_names_say_reference_distortion_and_level():
    rating = load(read_kadid, LABELS / "KADID_test1.json")[1]
    assert (rating.image, rating.reference) == ("I01_10_04.png", "I01.png")
    assert (rating.distortion, rating.level) == ("jpeg", 4)
    assert rating.mos["quality"] == pytest.approx(25)  # .4 is 2 on KADID's 1..5


@pytest.mark.data
def test_kadid_distortions_are_in_the_order_of_their_codes(data_root):
    table = (data_root / "kadid_levels.csv").read_text().splitlines()[1:]
    assert tuple(dict.fromkeys(row.split(",")[1] for row in table)) == KADID_DISTORTIONS


def test_live_difference_scores_are_turned_round():
    rating = load(read_live, LABELS / "LIVE_test.json")[0]
    assert (rating.mos["quality"], rating.distortion) == (75, "fast_fading")


def test_llava_turns_become_samples_with_their_history():
    first, second, other = load(read_llava, LABELS / "llava.json")
    assert first.question == "What is wrong with it?" and first.history == ()
    assert second.question == "Where?"
    assert [turn.answer for turn in second.history] == ["It is blurry."]
    assert other.question == "Is it sharp?"


def test_a_table_is_mapped_from_worst_to_best():
    rated = load(lambda path, findings: read_table(path, COLUMNS, findings), LABELS / "ratings.csv")
    assert [rating.mos["quality"] for rating in rated] == [80, 24.5, 100]
    assert [rating.prompt for rating in rated] == ["a red boat", None, "a still lake"]
    assert {rating.source for rating in rated} == {"ratings"}


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(0, 1))
def test_every_score_in_range_maps_into_0_to_100(worst, best, share):
    if worst == best:
        return
    value = min(max(worst + share * (best - worst), min(worst, best)), max(worst, best))
    assert 0 <= percent("x", value, worst, best) <= 100
    assert (percent("x", worst, worst, best), percent("x", best, worst, best)) == (0, 100)


@pytest.mark.parametrize("text", ["mos", "mos:1", ":1:5", "mos:a:b", "mos:3:3", "mos:nan:1", "mos:0:inf"])
def test_an_invalid_score_column_is_refused(text):
    with pytest.raises(MintIQAError, match="COLUMN:WORST:BEST"):
        ScoreColumn.parse(text)


def test_a_score_column_may_have_colons_in_its_name():
    assert ScoreColumn.parse("a:b:5:1") == ScoreColumn("a:b", 5, 1)


# --- what is wrong is named ---


def test_all_bad_rows_of_a_table_are_named_at_once(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,q\na.png,3\nb.png,7\n,2\nc.png,\nd.png,2,9\na.png,4\n../e.png,3\nf.png,nan\n")
    found = dict(problems(table, path))
    assert list(found) == [6, 3, 4, 5, 8, 9, 7]
    assert found[3] == "q 7 is outside 1..5"
    assert found[4] == "image: the image name is empty"
    assert found[5] == "q '' is not a number"
    assert found[6] == "3 cells under 2 columns"
    assert found[7] == "a.png has other scores here than on line 2"
    assert "below the folder" in found[8]
    with pytest.raises(MintIQAError, match=r"a\.csv has 7 problems: line 3: .*and 2 more"):
        load(table, path)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"moz1": 0.55', '"moz1": 1.55', "moz1 1.55 is outside 0..1"),
        ('"moz1": 0.55', '"moz1": NaN', "moz1 nan is outside 0..1"),
        ('"moz1": 0.55', '"moz1": "0.55"', "moz1: Input should be a valid number"),
        ('"moz1": 0.55', '"moz1": 0.56', "1.png has other scores"),
        ('"img": "1.png"', '"img": ""', "image: the image name is empty"),
        ('"prompt": "two cats on a wall",', "", "prompt: Field required"),
        ("What is the quality", "How is the quality", "q1 is not one of the four questions"),
    ],
)
def test_a_bad_aigciqa2023_record_is_named_with_its_line(tmp_path, old, new, problem):
    path = changed(tmp_path, "AIGIQA2023.json", (old, new))
    found = problems(read_aigciqa2023, path)
    assert found and problem in found[0][1]
    assert path.read_text().splitlines()[found[0][0] - 1].strip() == "{"


def test_a_picture_under_another_makers_name_is_a_problem(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text("3,000-4.png,DALLE,4,4,4,3,3,,,,\n4,000-1.png,Controlnet,4,4\n")
    assert problems(read_aigciqa2023_raw, path) == [
        (1, "picture 3 was not made by DALLE"),
        (2, "5 cells instead of 12"),
    ]


@pytest.mark.parametrize("name", ["I01.png", "I01_26_01.png", "I01_00_01.png", "I01_01_06.png"])
def test_a_file_that_is_not_named_as_in_kadid_is_a_problem(tmp_path, name):
    path = changed(tmp_path, "KADID_test1.json", ("I01_01_01.png", name))
    assert "not named like" in problems(read_kadid, path)[0][1]


@pytest.mark.parametrize(
    ("old", "new"), [('"gpt"', '"human"'), ('"human"', '"system"'), ('"image": "boats/1.jpg",', "")]
)
def test_a_conversation_that_does_not_alternate_is_a_problem(tmp_path, old, new):
    assert len(problems(read_llava, changed(tmp_path, "llava.json", (old, new)))) == 1


def test_fields_without_room_are_counted():
    findings = Findings(LABELS / "llava.json")
    read_llava(findings.path, findings)
    assert findings.ignored == {"model": 1}


@pytest.mark.parametrize("text", ["", "image", "image,image\n", "name,q\n", 'image,q\n"a.png,3\n'])
def test_a_table_without_its_columns_is_refused_as_a_whole(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(MintIQAError) as caught:
        read_table(path, AS_GIVEN, Findings(path))
    assert caught.value.code == "unreadable_file" and str(path) in caught.value.message


@pytest.mark.parametrize(
    ("text", "line"),
    [("{}", 1), ("[1,\n2", 2), ("[1,\n]", 2), ("[1]\n[2]", 2), ("[\n1 2]", 2), ("", 1), ("[\n{]", 2)],
)
def test_broken_json_is_named_with_its_line(tmp_path, text, line):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(MintIQAError, match=f"a.json, line {line}: it is not JSON"):
        json_records(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "9" * 5000 + "]"])
def test_json_that_would_upset_the_parser_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(MintIQAError, match="not JSON that can be read"):
        json_records(path)


# --- nothing but records or one error, whatever the bytes ---

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["img", "moz1", "image", "conversations", "from", "value"]), inner)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("labels") / "labels"


def records_or_one_error(reader, path):
    try:
        records = reader(path, Findings(path))
    except MintIQAError as error:
        assert error.code == "unreadable_file"
    else:
        assert all(isinstance(record, RatedImage | InstructionSample) for record in records)


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=15, deadline=None)
@given(content=st.binary(max_size=60))
def test_any_bytes_give_records_or_one_error(file, reader, content):
    file.write_bytes(content)
    records_or_one_error(reader, file)


@pytest.mark.parametrize("reader", JSON_READERS)
@settings(max_examples=15, deadline=None)
@given(content=st.lists(values, max_size=4))
def test_any_json_array_gives_records_or_one_error(file, reader, content):
    file.write_text(json.dumps(content))
    records_or_one_error(reader, file)


@pytest.mark.parametrize(
    "header", ["image,q", "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"]
)
@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.text(max_size=5) | st.sampled_from(["3", '"', "a.png"]), max_size=10), max_size=4
    )
)
def test_any_rows_give_records_or_one_error(file, header, rows):
    text = "\n".join([header, *(",".join(row) for row in rows)])
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    records_or_one_error(read_agiqa3k if header.startswith("name") else table, file)


# --- the command ---


def test_missing_pictures_are_counted_and_are_not_an_error(run, tmp_path):
    (tmp_path / "887.JPG").touch()
    output = tmp_path / "out.jsonl"
    code, out, _ = run(
        "import", "clive", LABELS / "CLIVE_test1.json", "--output", output, "--images", tmp_path
    )
    assert code == 0 and len(read_jsonl(output, RatedImage)) == 4
    assert f"4 pictures, 3 of them not in {tmp_path}" in out


def test_a_broken_file_writes_nothing_unless_told_to_skip(run, tmp_path):
    path = changed(tmp_path, "CLIVE_test1.json", ("0.428", "4.28"))
    output = tmp_path / "out.jsonl"
    code, out, err = run("import", "clive", path, "--output", output)
    assert (code, out) == (2, "") and "line 8: moz1 4.28" in err and err.count("\n") == 1
    assert not output.exists()
    code, _, err = run("import", "clive", path, "--output", output, "--skip-broken")
    assert code == 0 and "left out" in err and len(read_jsonl(output, RatedImage)) == 3


def test_a_file_without_records_is_an_error(run, tmp_path):
    (tmp_path / "a.json").write_text("[]")
    code, _, err = run("import", "live", tmp_path / "a.json", "--output", tmp_path / "out.jsonl")
    assert code == 2 and "no usable record" in err


def test_a_table_without_scores_is_an_error(run, tmp_path):
    code, _, err = run("import", "csv", LABELS / "ratings.csv", "--output", tmp_path / "out.jsonl")
    assert code == 2 and "--quality mos:1:5" in err


def test_a_reader_that_has_had_enough_ends_the_command_quietly():
    command = f"{sys.executable} -m instruct_data schema | true"
    done = subprocess.run(command, shell=True, cwd=LABELS.parents[1], capture_output=True, text=True)
    assert done.stderr == ""


def test_the_schema_is_printed(run):
    assert json.loads(run("schema", "ratings")[1])["title"] == "RatedImage"
