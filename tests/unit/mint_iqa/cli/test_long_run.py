"""Scores of many images into a file: cut off at any byte, the run goes on to the same file."""

import csv
import io
import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mint_iqa import cli
from mint_iqa.assessor import Assessor
from mint_iqa.cli import output as cli_output
from mint_iqa.scoring.columns import COLUMNS

pytestmark = pytest.mark.slow


PICTURES, BATCH = 11, 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """pictures/ with ten pictures and a broken one, and the folder to be in."""
    random = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(PICTURES - 1):
        coarse = Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        coarse.resize((30 + i, 40)).save(tmp_path / "pictures" / f"狐 {i}.png")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but not for long")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(tiny_checkpoint, capsys):
    def run(output, *options, pictures="pictures"):
        arguments = ["score", pictures, "--model", tiny_checkpoint, "--output", output, "--device", "cpu"]
        code = cli.main([str(a) for a in [*arguments, "--batch-size", BATCH, *options]])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return code, err

    return run


@pytest.fixture
def scored(monkeypatch):
    """The sizes of the batches that are scored from here on."""
    sizes = []
    original = Assessor.assess_many

    def counted(self, items, batch_size, explain):
        sizes.append(batch_size)
        return original(self, items, batch_size, explain)

    monkeypatch.setattr(Assessor, "assess_many", counted)
    return sizes


def images(path):
    return [json.loads(line)["image"] for line in Path(path).read_text("utf-8").splitlines()]


def test_a_folder_becomes_one_line_an_image_by_name(folder, run, scored):
    code, err = run("out.jsonl")
    assert code == 1 and err.startswith("error: ") and "broken.png" in err  # the others went on
    assert images("out.jsonl") == sorted(f"pictures/{path.name}" for path in (folder / "pictures").iterdir())
    assert scored == [4, 4, 3]


@pytest.mark.parametrize("lines, torn", [(0, 0), (0, 30), (1, 0), (4, 0), (4, 500), (6, 1), (8, 0), (10, 99)])
def test_a_run_cut_off_at_any_byte_goes_on_to_the_same_file(folder, run, scored, lines, torn):
    run("out.jsonl")
    whole = (folder / "out.jsonl").read_bytes()
    cut = sum(map(len, whole.splitlines(keepends=True)[:lines])) + torn
    (folder / "out.jsonl").write_bytes(whole[:cut])
    scored.clear()
    code, _ = run("out.jsonl", "--resume")
    assert code == 1  # the broken one is known, whichever run met it
    assert (folder / "out.jsonl").read_bytes() == whole
    assert scored == [4, 4, 3][lines // BATCH :]  # whole batches again, and none of those that are done


def test_a_run_that_is_complete_has_nothing_left_to_do(folder, run, scored):
    run("out.jsonl", "--resume")  # nothing to go on with: it starts
    whole = (folder / "out.jsonl").read_bytes()
    scored.clear()
    assert run("out.jsonl", "--resume")[0] == 1
    assert ((folder / "out.jsonl").read_bytes(), scored) == (whole, [])


def test_a_run_that_version_1_1_of_the_records_began_is_resumed(folder, run, scored):
    run("out.csv")
    table, journal = (folder / "out.csv").read_bytes(), folder / "out.csv.jsonl"
    lines = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    for line in lines:
        line["schema_version"] = "1.1"
        line.pop("intervals", None)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines[:BATCH]), "utf-8")
    scored.clear()
    assert run("out.csv", "--resume")[0] == 1
    assert scored == [4, 3] and (folder / "out.csv").read_bytes() == table


def test_without_resume_a_run_starts_over(folder, run, scored):
    run("out.jsonl")
    run("out.jsonl")
    assert scored == [4, 4, 3] * 2 and len(images("out.jsonl")) == PICTURES


def test_ctrl_c_finishes_the_batch_in_hand_and_resume_the_rest(folder, run, monkeypatch):
    run("whole.jsonl")
    original = Assessor.assess_many

    def pressed(self, items, batch_size, explain):
        signal.raise_signal(signal.SIGINT)
        return original(self, items, batch_size, explain)

    with monkeypatch.context() as patch:
        patch.setattr(Assessor, "assess_many", pressed)
        code, err = run("out.jsonl")
    assert code == 130 and "4 of 11 done" in err and "--resume" in err
    assert len(images("out.jsonl")) == BATCH
    run("out.jsonl", "--resume")
    assert (folder / "out.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


@pytest.fixture
def at_a_terminal():
    """Python ends at Ctrl-C, as it does unless a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("at_a_terminal")
def test_a_second_ctrl_c_ends_at_once_and_leaves_whole_batches(folder, run, monkeypatch):
    presses = []

    def pressed(self, items, batch_size, explain):
        presses.append(1)
        if len(presses) == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return original(self, items, batch_size, explain)

    original = Assessor.assess_many
    monkeypatch.setattr(Assessor, "assess_many", pressed)
    assert run("out.jsonl")[0] == 130
    assert len(images("out.jsonl")) == BATCH
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def change(folder, how):
    if how == "fewer images":
        (folder / "pictures" / "狐 9.png").unlink()
    elif how == "another image":
        shutil.copy(folder / "pictures" / "狐 0.png", folder / "pictures" / "a.png")
    elif how == "no record":
        (folder / "out.jsonl").write_text("a shopping list\n" + (folder / "out.jsonl").read_text("utf-8"))
    else:
        text = (folder / "out.jsonl").read_text("utf-8")
        (folder / "out.jsonl").write_text(text.replace('"revision":"', '"revision":"f'), "utf-8")


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("fewer images", "more than the 10 images"),
        ("another image", "pictures/broken.png' where this run has 'pictures/a.png'"),
        ("no record", "line 1 is not a record"),
        ("other weights", "scores by"),
    ],
)
def test_what_is_of_another_run_is_not_resumed_and_not_touched(folder, run, how, word):
    run("out.jsonl")
    change(folder, how)
    before = (folder / "out.jsonl").read_bytes()
    code, err = run("out.jsonl", "--resume")
    assert code == 2 and word in err and len(err.splitlines()) == 1
    assert (folder / "out.jsonl").read_bytes() == before


def test_another_prompt_or_explanations_are_another_run(folder, run):
    run("out.jsonl", "--prompt", "  a fox ")
    assert run("out.jsonl", "--prompt", "a fox", "--resume")[0] == 1
    for options in (["--prompt", "a cat"], [], ["--prompt", "a fox", "--explain"]):
        assert run("out.jsonl", *options, "--resume")[0] == 2


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_table_has_a_row_a_record_and_its_run_can_be_resumed(folder, run, scored, name):
    if name.endswith("parquet"):
        parquet = pytest.importorskip("pyarrow.parquet")
    (folder / "m.csv").write_text(
        "image,prompt,id\n" + "".join(f"pictures/狐 {i}.png,a fox,{i}\n" for i in range(9)), "utf-8"
    )
    assert run(name, pictures="m.csv")[0] == 0
    whole = (folder / name).read_bytes()
    journal = folder / f"{name}.jsonl"
    (folder / name).unlink()
    journal.write_bytes(journal.read_bytes()[:-10])
    scored.clear()
    assert run(name, "--resume", pictures="m.csv")[0] == 0
    assert ((folder / name).read_bytes(), scored) == (whole, [1])
    if name.endswith("parquet"):
        rows = parquet.read_table(folder / name).to_pylist()
    else:
        rows = list(csv.DictReader(io.StringIO((folder / name).read_bytes().decode(), newline="")))
    records = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    assert list(rows[0]) == [*COLUMNS, "metadata_id"]
    assert [float(row["correspondence"]) for row in rows] == [r["scores"]["correspondence"] for r in records]
    assert [row["metadata_id"] for row in rows] == [str(i) for i in range(9)]


def test_a_disk_that_is_full_is_one_sentence(folder, run):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    (folder / "out.csv").symlink_to("/dev/full")
    (folder / "out.csv.jsonl").symlink_to("/dev/full")
    code, err = run("out.csv")
    assert code == 2 and "can't be written" in err and len(err.splitlines()) <= 2


def test_the_bar_says_how_many_a_second_and_how_long_it_will_take():
    names = [type(column).__name__ for column in cli_output.progress_bar().columns]
    assert names == ["BarColumn", "MofNCompleteColumn", "Rate", "TimeRemainingColumn"]
    assert cli_output.Rate().render(SimpleNamespace(speed=9.96)).plain == "10.0/s"
    assert cli_output.Rate().render(SimpleNamespace(speed=None)).plain == ""
