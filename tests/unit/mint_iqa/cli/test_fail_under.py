"""`mint-iqa score --fail-under`, over pictures that a tiny model scores."""

import csv
import json

import numpy as np
import pytest
import typer
from PIL import Image

from mint_iqa import cli
from mint_iqa.cli.fail_under import Gate, gate, limits_of
from mint_iqa.errors import MintIQAError
from mint_iqa.records import Assessment, FailedAssessment, Failure, Intervals, Levels, ModelInfo, Scores

MODEL = ModelInfo(name="tiny", revision="1")


@pytest.fixture
def run(tmp_path, tiny_checkpoint, monkeypatch, capsys):
    """Scores pictures by the command: (exit code, records, stderr)."""
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256 >> i, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    def run(*arguments):
        options = ["--no-explain", "--format", "jsonl", "--model", str(tiny_checkpoint)]
        code = cli.main(["score", *arguments, *options])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return run


IMAGES = ["0.png", "1.png", "2.png", "3.png"]


def test_items_below_are_counted_and_named_after_all_output(run):
    _, records, _ = run(*IMAGES)
    ranked = sorted(records, key=lambda record: record["scores"]["quality"])
    limit = (ranked[1]["scores"]["quality"] + ranked[2]["scores"]["quality"]) / 2
    code, written, error = run(*IMAGES, "--fail-under", f"quality={limit}")
    assert (code, written) == (3, records)
    assert error.startswith("error: 2 of 4 images are below --fail-under quality=")
    assert len(error.splitlines()) == 1
    for i, record in enumerate(ranked):
        assert (f"{record['image']} (quality {record['scores']['quality']:.2f})" in error) == (i < 2)


def test_nothing_below_is_no_trouble(run):
    assert run(*IMAGES, "--fail-under", "quality=0", "--fail-under", "authenticity=0")[::2] == (0, "")


def test_a_score_of_exactly_the_limit_is_not_below(run):
    _, [record], _ = run("0.png")
    assert run("0.png", "--fail-under", f"quality={record['scores']['quality']}")[0] == 0


def test_a_missing_prompt_does_not_pass_a_limit_on_correspondence(run, tmp_path):
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "prompt"), ("0.png", "a fox"), ("1.png", "")])
    code, _, error = run("--manifest", "list.csv", "--fail-under", "correspondence=0")
    assert code == 3
    assert "1 of 2 images is below --fail-under correspondence=0: 1.png (no correspondence)." in error


def test_an_image_that_fails_keeps_its_own_exit_code(run):
    code, records, error = run("0.png", "torn.png", "--fail-under", "quality=100")
    assert (code, len(records)) == (1, 2)
    assert "torn.png is cut short" in error and "1 of 1 image is below --fail-under quality=100" in error
    assert run("torn.png", "--fail-under", "quality=100")[0] == 2


def test_output_goes_to_its_file_first(run, tmp_path):
    code, _, _ = run("0.png", "--output", "scores.jsonl", "--fail-under", "quality=100")
    assert code == 3 and len((tmp_path / "scores.jsonl").read_text().splitlines()) == 1


def test_what_an_earlier_run_has_scored_counts_as_well(run):
    assert run("0.png", "--output", "scores.jsonl")[0] == 0
    code, _, error = run("0.png", "--output", "scores.jsonl", "--resume", "--fail-under", "quality=100")
    assert code == 3 and "1 of 1 image is below" in error


@pytest.mark.parametrize(
    "texts", [["quality"], ["quality=high"], ["quality=nan"], ["quality=101"], ["sharpness=5"], ["=5"],
              ["quality=1", "quality=2"]],
)  # fmt: skip
def test_a_limit_that_makes_no_sense_is_refused_before_the_model_is_loaded(texts, capsys):
    with pytest.raises(MintIQAError, match="--fail-under") as caught:
        limits_of(texts)
    assert caught.value.code == "bad_argument"
    options = [part for text in texts for part in ("--fail-under", text)]
    assert cli.main(["score", "nowhere.png", "--model", "nowhere", *options]) == 2
    assert "--fail-under" in capsys.readouterr().err


def assessed(i, quality, ends=None):
    scores = Scores(quality=quality, authenticity=quality, correspondence=None)
    intervals = ends and Intervals(quality=ends, authenticity=None, correspondence=None)
    return Assessment(
        image=f"{i}.png", model=MODEL, scores=scores, levels=Levels.of(scores), intervals=intervals
    )


def test_a_long_list_is_cut_off_and_counted():
    watching = Gate(limits_of(["quality=60", "authenticity=20.5"]))
    list(watching.watch(assessed(i, 10) for i in range(1500)))
    sentence = watching.sentence()
    assert "1,500 of 1,500 images are below --fail-under quality=60, authenticity=20.5: 0.png" in sentence
    assert "0.png (quality 10.00, authenticity 10.00), 1.png" in sentence
    assert sentence.endswith("19.png (quality 10.00, authenticity 10.00) and 1,480 more.")


def test_scores_count_as_they_are_written_and_failures_not_at_all():
    watching = Gate({"quality": 60})
    failure = FailedAssessment(image="x.png", model=MODEL, error=Failure(code="x", message="x"))
    records = [assessed(0, 59.996), failure, assessed(1, 59.994)]
    assert list(watching.watch(records)) == records
    assert (watching.seen, watching.below.number) == (2, 1)
    assert watching.below.named == ["1.png (quality 59.99)"]


def test_an_image_below_whose_interval_reaches_the_limit_passes_and_is_named(capsys):
    with gate({"quality": 60}) as watching:
        for record in (assessed(0, 55, (48, 62.5)), assessed(1, 70, (65, 75)), assessed(2, 59, (50, 60))):
            watching.note(record)
    error = " ".join(capsys.readouterr().err.split())
    assert error == (
        "2 of 3 images are below --fail-under quality=60, but within their 90 % interval: "
        "0.png (quality 55.00 [48.00, 62.50]), 2.png (quality 59.00 [50.00, 60.00])."
    )


def test_an_image_fails_if_its_whole_interval_is_below(capsys):
    with pytest.raises(typer.Exit) as ended, gate({"quality": 60}) as watching:
        for record in (assessed(0, 55, (48, 59.994)), assessed(1, 59, (50, 70)), assessed(2, 58)):
            watching.note(record)
    passed, error = capsys.readouterr().err.splitlines()
    assert ended.value.exit_code == 3
    assert passed == (
        "1 of 3 images is below --fail-under quality=60, but within its 90 % interval: "
        "1.png (quality 59.00 [50.00, 70.00])."
    )
    assert error == (
        "error: 2 of 3 images are below --fail-under quality=60: 0.png (quality 55.00 [48.00, 59.99]), "
        "2.png (quality 58.00)."
    )


def test_an_interval_saves_its_own_score_only():
    watching = Gate({"quality": 60, "authenticity": 60})
    watching.note(assessed(0, 55, (48, 62)))
    assert (watching.below.named, watching.within.number) == (["0.png (authenticity 55.00)"], 0)


def test_a_long_list_of_passed_images_is_cut_off_too(capsys):
    with gate({"quality": 60}) as watching:
        list(watching.watch(assessed(i, 50, (40, 60)) for i in range(30)))
    error = capsys.readouterr().err
    assert error.count(".png") == 20 and error.rstrip().endswith(" and 10 more.")
