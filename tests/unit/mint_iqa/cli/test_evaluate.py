"""`mint-iqa evaluate` from files to figures, JSON and page, and every way in which files can be of no use."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from mint_iqa import cli
from mint_iqa.evaluation import agreement
from tests.evaluated import failure, perfect, record, rows, write_labels, write_scores

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(agreement, "BOOTSTRAP_SAMPLES", 5)


def evaluate(folder: Path, *options: str, scores: str = "scores.jsonl", labels: str = "labels.csv") -> int:
    files = [str(folder / scores), str(folder / labels)]
    return cli.main(["evaluate", *files, "--output", str(folder / "out"), *options])


def written(folder: Path) -> dict:
    return json.loads((folder / "out" / "evaluation.json").read_text())


def complaint(folder: Path, capsys, *options: str, **files: str) -> str:
    capsys.readouterr()
    assert evaluate(folder, *options, **files) == 2
    printed, error = capsys.readouterr()
    assert printed == "" and error.count("\n") == 1 and not (folder / "out").exists()
    return error


def test_agreement_is_found_in_both_dimensions_and_written(tmp_path, capsys):
    perfect(tmp_path)
    assert evaluate(tmp_path) == 0
    found = written(tmp_path)
    assert (found["images"], found["notes"], found["models"]) == (60, [], ["stand-in 1"])
    assert found["dimensions"].keys() == {"quality", "correspondence"}
    for part in found["dimensions"].values():
        assert part["overall"]["values"]["srcc"]["value"] == pytest.approx(1)
        assert part["overall"]["values"]["rmse"]["value"] is None  # a scale of its own
        assert part["generators"].keys() == {"alpha", "beta"}
        assert part["baselines"].keys() == {"generator mean", "prompt mean"}
        assert part["rounds"]["mean"]["srcc"] == pytest.approx(1)
        assert len(part["calibration"]) == 10 and len(part["worst"]) == 12
    printed = capsys.readouterr().out
    assert re.search(r"SRCC +1\.000 +\[1\.000, 1\.000\] +1\.000 ± 0\.000", printed)
    assert "generator" in printed and "report.html" in printed


def test_records_of_version_1_1_are_evaluated_as_those_of_today(tmp_path):
    scores, _ = perfect(tmp_path)
    evaluate(tmp_path)
    today = written(tmp_path)
    records = [json.loads(line) | {"schema_version": "1.1"} for line in scores.read_text().splitlines()]
    for each in records:
        del each["intervals"]
    scores.write_text("".join(json.dumps(each) + "\n" for each in records))
    assert evaluate(tmp_path) == 0 and written(tmp_path) == today


def test_lines_fit_a_terminal_of_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    perfect(tmp_path)
    evaluate(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("wrote")) <= 80
    assert not [line for line in lines if line.strip().endswith(",")]  # no interval is torn


def test_a_scale_puts_labels_on_the_scores_unit(tmp_path):
    perfect(tmp_path)
    assert evaluate(tmp_path, "--quality", "mos_quality:0:5", "--correspondence", "mos_align:5:0") == 0
    found = written(tmp_path)["dimensions"]
    assert found["quality"]["overall"]["values"]["rmse"]["value"] == pytest.approx(0, abs=0.01)
    assert found["correspondence"]["overall"]["values"]["srcc"]["value"] == pytest.approx(-1)


def test_labels_where_less_is_better_are_pointed_out(tmp_path, capsys):
    perfect(tmp_path)
    evaluate(tmp_path, "--quality", "mos_align")
    assert "If lower labels are better, say so: --quality mos_align:100:0" in capsys.readouterr().out


def test_the_page_is_whole_in_itself_and_shows_the_worst_images(tmp_path):
    perfect(tmp_path)
    (tmp_path / "images").mkdir()
    for i in range(60):
        Image.new("RGB", (20, 20), (4 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    assert evaluate(tmp_path) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg ") == 4 and page.count('src="data:image/jpeg;base64,') == 24
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def test_texts_of_others_stay_texts_on_the_page_and_in_the_terminal(tmp_path, capsys):
    perfect(tmp_path)
    labels = [
        {**row, "prompt": "<script>alert(1)</script>", "generator": "<b>[red]x\x1b[2J"} for row in rows(60)
    ]
    write_labels(tmp_path / "labels.csv", labels)
    assert evaluate(tmp_path) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page and "<b>[" not in page and "&lt;b&gt;[red]" in page
    assert "<b>[red]x" in (printed := capsys.readouterr().out) and "\x1b" not in printed


def test_folders_of_names_do_not_matter_where_no_whole_name_matches(tmp_path):
    records = [record(f"/elsewhere/{i}.png", i) for i in range(60)]
    write_scores(tmp_path / "scores.jsonl", records)
    write_labels(tmp_path / "labels.csv", rows(60))
    assert evaluate(tmp_path) == 0
    assert written(tmp_path)["images"] == 60


def test_what_has_no_partner_is_counted(tmp_path, capsys):
    records = [record(f"images/{i}.png", i) for i in range(5, 62)]
    write_scores(tmp_path / "scores.jsonl", [failure("images/0.png"), *records])
    write_labels(tmp_path / "labels.csv", rows(60))
    assert evaluate(tmp_path) == 0
    assert written(tmp_path)["notes"] == [
        "1 image could not be scored.", "2 of 57 scored images have no label.",
        "5 of 60 labeled images have no score.",
    ]  # fmt: skip
    assert "2 of 57 scored images have no label." in capsys.readouterr().out


def test_images_scored_without_a_prompt_have_no_correspondence(tmp_path):
    records = [record(f"images/{i}.png", i, None if i < 55 else "a fox") for i in range(60)]
    write_scores(tmp_path / "scores.jsonl", records)
    write_labels(tmp_path / "labels.csv", rows(60))
    assert evaluate(tmp_path) == 0
    found = written(tmp_path)
    assert found["dimensions"].keys() == {"quality"}
    assert "correspondence: 55 images had no prompt when scored." in found["notes"]


def test_without_prompts_images_are_resampled_and_split_one_by_one(tmp_path):
    write_scores(tmp_path / "scores.jsonl", [record(f"{i}.bmp", i, None) for i in range(60)])
    write_labels(tmp_path / "labels.csv", [{"img": f"{i}.bmp", "moz1": i / 60} for i in range(60)])
    assert evaluate(tmp_path) == 0
    part = written(tmp_path)["dimensions"]["quality"]
    assert part["baselines"] == {} and part["rounds"]["mean"]["srcc"] == pytest.approx(1)


def test_ratings_are_taken_with_their_scale_and_a_score_of_0_is_one(tmp_path):
    perfect(tmp_path)
    ratings = [
        {"image": f"images/{i}.png", "source": "mine", "prompt": f"p{i}", "mos": {"quality": 100 * i / 60}}
        for i in range(60)
    ]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ratings))
    assert evaluate(tmp_path, labels="ratings.jsonl") == 0
    part = written(tmp_path)["dimensions"]["quality"]
    assert part["overall"]["n"] == 60
    assert part["overall"]["values"]["rmse"]["value"] == pytest.approx(0, abs=0.01)


def test_a_blank_score_is_one_that_nobody_gave(tmp_path):
    perfect(tmp_path)
    half = [{**row, "mos_align": ""} if i % 2 else row for i, row in enumerate(rows(60))]
    write_labels(tmp_path / "labels.csv", half)
    assert evaluate(tmp_path) == 0
    assert written(tmp_path)["dimensions"]["correspondence"]["overall"]["n"] == 30


def test_folds_take_the_place_of_rounds(tmp_path):
    perfect(tmp_path)
    assert evaluate(tmp_path, "--folds", "3") == 0
    assert written(tmp_path)["dimensions"]["quality"]["rounds"]["protocol"] == "3 folds by prompt"


# --- what is of no use ---


def test_no_common_image_is_said_with_the_first_of_both(tmp_path, capsys):
    perfect(tmp_path)
    write_labels(tmp_path / "labels.csv", [{"image": "other.png", "quality": 3}])
    error = complaint(tmp_path, capsys)
    assert "No image of" in error and "'images/0.png'" in error and "'other.png'" in error


@pytest.mark.parametrize("file", ["scores.jsonl", "labels.csv"])
def test_an_image_twice_is_refused(tmp_path, capsys, file):
    perfect(tmp_path)
    lines = (tmp_path / file).read_text().splitlines(keepends=True)
    (tmp_path / file).write_text("".join([*lines, lines[1]]))
    error = complaint(tmp_path, capsys)
    assert file in error and "more than once" in error and "/" in error


def test_a_column_that_is_not_there_is_named_beside_those_that_are(tmp_path, capsys):
    perfect(tmp_path)
    error = complaint(tmp_path, capsys, "--quality", "sharpness")
    assert "no column 'sharpness' (it has: image, prompt, generator, mos_quality, mos_align)" in error


@pytest.mark.parametrize(("kept", "what"), [("image", "scores"), ("mos_quality", "images")])
def test_a_table_without_scores_or_images_says_which(tmp_path, capsys, kept, what):
    perfect(tmp_path)
    write_labels(tmp_path / "labels.csv", [{kept: row[kept]} for row in rows(60)])
    assert f"no column of {what} that is known by its name (it has: {kept})" in complaint(tmp_path, capsys)


def test_an_unknown_dimension_is_refused_on_the_command_line_and_in_ratings(tmp_path, capsys):
    perfect(tmp_path)
    assert evaluate(tmp_path, "--sharpness", "mos_quality") == 2
    assert "--sharpness" in capsys.readouterr().err
    (tmp_path / "ratings.jsonl").write_text('{"image": "0.png", "mos": {"sharpness": 3}}\n')
    error = complaint(tmp_path, capsys, labels="ratings.jsonl")
    assert "line 1: 'sharpness' is not one of quality, authenticity, correspondence" in error


@pytest.mark.parametrize("bad", ["nan", "inf", "good"])
def test_a_score_that_is_no_number_is_named_with_its_line(tmp_path, capsys, bad):
    perfect(tmp_path)
    labels = rows(60)
    labels[3]["mos_quality"] = bad
    write_labels(tmp_path / "labels.csv", labels)
    assert f"line 5: mos_quality '{bad}' is not a number" in complaint(tmp_path, capsys)


def test_a_score_outside_its_scale_is_named_with_its_line(tmp_path, capsys):
    perfect(tmp_path)
    assert "is outside 0..4" in complaint(tmp_path, capsys, "--quality", "mos_quality:0:4")


@pytest.mark.parametrize("text", ["", "nonsense\n", '{"image": "a.png"}\n', '[{"image": "a.png"}]'])
def test_scores_that_are_no_records_are_refused(tmp_path, capsys, text):
    perfect(tmp_path)
    (tmp_path / "scores.jsonl").write_text(text)
    assert "mint-iqa score --format jsonl" in complaint(tmp_path, capsys)


def test_failures_alone_are_no_scores(tmp_path, capsys):
    perfect(tmp_path)
    write_scores(tmp_path / "scores.jsonl", [failure("images/0.png")])
    assert "holds no scores" in complaint(tmp_path, capsys)


@pytest.mark.parametrize("text", ["", "image,mos\n", "image,mos\na.png,1,2\n", 'image,mos\n"a.png,1\n'])
def test_labels_that_are_no_table_are_refused(tmp_path, capsys, text):
    perfect(tmp_path)
    (tmp_path / "labels.csv").write_text(text)
    assert "labels.csv" in complaint(tmp_path, capsys)


@pytest.mark.parametrize("name", ["scores", "labels"])
def test_a_missing_file_is_named(tmp_path, capsys, name):
    perfect(tmp_path)
    assert "gone.csv does not exist" in complaint(tmp_path, capsys, **{name: "gone.csv"})


def test_too_few_images_are_counted(tmp_path, capsys):
    perfect(tmp_path, 9)
    assert "quality: 9 images with both, fewer than 10." in complaint(tmp_path, capsys)


def test_more_folds_than_prompts_are_refused(tmp_path, capsys):
    perfect(tmp_path)
    assert "can't make 16 folds: use 2..15" in complaint(tmp_path, capsys, "--folds", "16")


def test_an_output_that_can_be_no_folder_is_refused_before_anything_is_read(tmp_path, capsys):
    for target in (tmp_path / "missing" / "out", Path(__file__)):
        assert cli.main(["evaluate", "a", "b", "--output", str(target)]) == 2
        assert "is not a folder, and none can be made there" in " ".join(capsys.readouterr().err.split())
