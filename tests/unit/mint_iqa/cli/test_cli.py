"""The command line, with a model that scores by file name so that no weights are needed."""

import csv
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from mint_iqa import cli
from mint_iqa.cli import output
from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image
from mint_iqa.records import (
    Answer,
    Assessment,
    Explanation,
    FailedAssessment,
    Failure,
    Fault,
    Levels,
    ModelInfo,
    Scores,
    schema,
)

MODEL = ModelInfo(name="fake", revision="1")


class FakeAssessor:
    """Reads real images; the scores depend only on their width."""

    calls: list

    model_info = MODEL
    fit = None

    @classmethod
    def from_pretrained(cls, model="nano", *, device=None, dtype=None, **_):
        cls.calls.append(("load", model, device, dtype))
        if model == "nowhere":
            raise MintIQAError("weights_missing", "There is no model nowhere: name a preset or a folder.")
        return cls()

    def assess(self, image, prompt=None, explain=True):
        read = read_image(image)
        width = float(read.rgb.width)
        scores = Scores(quality=width, authenticity=41.876, correspondence=90 if prompt else None)
        text = Explanation(
            quality="A [bold]sharp fox.",
            authenticity="Real.",
            correspondence=None,
            overall="All in all.",
        )
        return Assessment(
            image=str(image), image_sha256=read.sha256, prompt=prompt, model=MODEL, scores=scores,
            levels=Levels.of(scores), faults=[Fault(name="blur", severity=0.62)], warnings=read.warnings,
            explanation=text if explain else None,
        )  # fmt: skip

    def assess_many(self, items, batch_size=8, explain=False):
        self.calls.append(("assess_many", batch_size, explain))
        for image, prompt in items:
            try:
                yield self.assess(image, prompt, explain)
            except MintIQAError as error:
                yield FailedAssessment(image=str(image), prompt=prompt, model=MODEL, error=Failure.of(error))

    def ask(self, image, question, prompt=None, history=()):
        read_image(image)
        yield from ("It is ", "a bit ", f"soft ({prompt}).")

    def answer(self, image, question, prompt=None):
        text = "".join(self.ask(image, question, prompt))
        assessed = self.assess(image, prompt)
        return Answer(
            image=str(image),
            image_sha256=assessed.image_sha256,
            prompt=prompt,
            model=MODEL,
            question=question,
            answer=text,
            scores=assessed.scores,
        )


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    module = types.ModuleType("mint_iqa.assessor")
    module.Assessor = FakeAssessor
    monkeypatch.setitem(sys.modules, "mint_iqa.assessor", module)
    monkeypatch.setattr(FakeAssessor, "calls", [], raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return FakeAssessor


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, width in (("fair.png", 50), ("good.png", 70)):
        Image.new("RGB", (width, 20), "red").save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def write_csv(path, *rows, encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)
    return path


def lines(text):
    values = [json.loads(line) for line in text.splitlines()]
    for value in values:
        jsonschema.validate(value, schema())
    return values


def refused(result, word):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and len(err.splitlines()) == 1
    assert word in err


# Scoring images named on the command line


def test_a_table_shows_scores_words_faults_and_reasons(folder, run):
    code, out, err = run("score", "fair.png")
    assert (code, err) == (0, "")
    for word in ("fair.png", "50.00", "fair", "41.88", "no prompt given", "blur 0.62", "All in all."):
        assert word in out
    assert "A [bold]sharp fox." in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_table_leaves_out_reasons_when_told_to(folder, run, fake):
    assert "All in all." not in run("score", "fair.png", "--no-explain")[1]
    assert ("assess_many", 1, False) in fake.calls


def test_a_table_stays_on_the_screen_and_the_file_gets_the_same_as_json(folder, run):
    code, out, _ = run("score", "fair.png", "good.png", "--format", "table", "--output", "both.json")
    assert code == 0
    assert "fair.png" in out and "All in all." in out
    (written,) = lines(json.dumps(json.loads((folder / "both.json").read_text())))
    assert [record["image"] for record in written] == ["fair.png", "good.png"]


def test_control_characters_do_not_reach_the_terminal(folder, run):
    _, out, _ = run("score", "fair.png", "--prompt", "a \x1b[31mfox\x07")
    assert "fox" in out
    assert "\x1b" not in out and "\x07" not in out


def test_one_image_gives_an_object_and_several_an_array(folder, run):
    code, out, _ = run("score", "fair.png", "--prompt", "a fox", "--format", "json")
    one = json.loads(out)
    assert code == 0
    assert (one["image"], one["prompt"], one["scores"]["quality"]) == ("fair.png", "a fox", 50.0)
    assert one["explanation"]["overall"] == "All in all."
    several = json.loads(run("score", "fair.png", "./good.png", "--format", "json")[1])
    assert [each["image"] for each in several] == ["fair.png", "./good.png"]
    jsonschema.validate(one, schema())
    jsonschema.validate(several, schema())


def test_json_lines_are_one_record_a_line(folder, run):
    found = lines(run("score", "fair.png", "good.png", "--format", "jsonl")[1])
    assert [each["levels"]["quality"] for each in found] == ["fair", "good"]


def test_a_blank_prompt_is_no_prompt(folder, run):
    one = json.loads(run("score", "fair.png", "--prompt", " ", "--format", "json")[1])
    assert (one["prompt"], one["scores"]["correspondence"]) == (None, None)


def test_one_bad_image_of_several_is_reported_and_the_rest_go_on(folder, run):
    code, out, err = run("score", "fair.png", "broken.png", "good.png", "--format", "jsonl")
    first, failed, last = lines(out)
    assert code == 1
    assert (first["scores"]["quality"], last["scores"]["quality"]) == (50, 70)
    assert failed["image"] == "broken.png"
    assert failed["error"]["code"] == "image_truncated"
    assert "scores" not in failed
    assert err == f"error: {failed['error']['message']}\n"


def test_a_single_bad_image_is_unusable_input(folder, run):
    refused(run("score", "none.png"), "none.png does not exist")
    code, out, _ = run("score", "none.png", "--format", "json")
    assert code == 2
    assert json.loads(out)["error"]["code"] == "image_missing"


def test_output_goes_to_a_file(folder, run):
    code, out, _ = run("score", "fair.png", "--format", "json", "--output", "out.json")
    assert (code, out) == (0, "")
    assert json.loads((folder / "out.json").read_text("utf-8"))["image"] == "fair.png"


def test_model_options_reach_the_model(folder, run, fake):
    options = ("--model", "m", "--device", "cpu", "--dtype", "float32", "--batch-size", "1")
    run("score", "fair.png", "good.png", *options)
    assert fake.calls == [("load", "m", "cpu", "float32"), *[("assess_many", 1, True)] * 2]


def test_a_missing_model_is_one_sentence(folder, run):
    refused(run("score", "fair.png", "--model", "nowhere"), "no model nowhere")


# Scoring a manifest


def test_a_manifest_gives_one_line_an_item_in_order(folder, run, fake):
    (folder / "lists").mkdir()
    manifest = write_csv(
        folder / "lists" / "m.csv",
        ["id", "image", "prompt"],
        ["1", "../good.png", "a fox,\nred"],
        ["2", "../broken.png", ""],
        ["3", "", "lost"],
        ["4", "../fair.png", " "],
    )
    code, out, err = run("score", "--manifest", manifest, "--output", "out.jsonl")
    found = lines((folder / "out.jsonl").read_text("utf-8"))
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert [each["image"] for each in found] == ["../good.png", "../broken.png", "", "../fair.png"]
    assert [each["metadata"] for each in found] == [{"id": str(number)} for number in (1, 2, 3, 4)]
    assert [each.get("error", {}).get("code") for each in found] == [
        None,
        "image_truncated",
        "image_missing",
        None,
    ]
    assert [each["prompt"] for each in found] == ["a fox,\nred", None, "lost", None]
    assert found[0]["scores"]["correspondence"] == 90
    assert ("assess_many", 4, False) in fake.calls


def test_a_manifest_a_folder_and_a_pattern_may_stand_where_an_image_does(folder, run):
    write_csv(folder / "m.csv", ["image", "prompt"], ["fair.png", "a fox"])
    for argument, count in (("m.csv", 1), (".", 3), ("*.png", 3), ("[fg]*.png", 2)):
        code, out, _ = run("score", argument)
        found = lines(out)
        assert (code, len(found)) == (count == 3, count)  # broken.png fails
        assert all(record.get("explanation") is None for record in found)
    assert lines(run("score", "m.csv")[1])[0]["prompt"] == "a fox"


def test_a_manifest_without_other_columns_leaves_no_metadata(folder, run):
    write_csv(folder / "m.csv", ["image"], ["fair.png"])
    (record,) = lines(run("score", "--manifest", "m.csv")[1])
    assert "metadata" not in record
    assert record["explanation"] is None


def test_a_byte_order_mark_and_spaces_in_the_header_do_no_harm(folder, run):
    write_csv(folder / "m.csv", [" image", "prompt "], ["fair.png", "ein Füchslein"], encoding="utf-8-sig")
    code, out, _ = run("score", "--manifest", "m.csv", "--explain")
    assert code == 0
    assert lines(out)[0]["prompt"] == "ein Füchslein"
    assert lines(out)[0]["explanation"]["overall"] == "All in all."


def test_a_row_with_too_many_cells_is_an_error_record(folder, run):
    (folder / "m.csv").write_text("image,prompt\nfair.png,a fox, red\ngood.png\n")
    code, out, err = run("score", "--manifest", "m.csv")
    long, short = lines(out)
    assert code == 1
    assert long["error"]["code"] == "manifest_bad_row"
    assert "quotes" in err
    assert short["scores"]["quality"] == 70


def test_lines_are_written_batch_by_batch(folder, run, monkeypatch):
    write_csv(folder / "m.csv", ["image"], ["fair.png"], ["good.png"])
    seen = []

    def slowly(self, items, batch_size, explain):
        for image, _ in items:
            seen.append((folder / "out.jsonl").read_text().count("\n"))
            yield self.assess(image, None, explain)

    monkeypatch.setattr(FakeAssessor, "assess_many", slowly)
    run("score", "--manifest", "m.csv", "--output", "out.jsonl", "--batch-size", "1")
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"image,prompt\n", "no rows"),
        (b"file;prompt\na.png;x\n", "no column 'image'"),
        (b"image,prompt\ncaf\xe9.png,x\n", "not UTF-8"),
        (b'image,prompt\nfair.png,"open\ngood.png,x\n', "not a readable CSV"),
        (b"image,image\na.png,b.png\n", "two columns"),
    ],
)
def test_a_manifest_of_no_use_is_one_sentence_before_the_model_is_loaded(content, word, folder, run, fake):
    (folder / "m.csv").write_bytes(content)
    refused(run("score", "--manifest", "m.csv", "--output", "out.jsonl"), word)
    assert not (folder / "out.jsonl").exists()
    assert fake.calls == []


def test_a_manifest_that_cannot_be_opened_is_one_sentence(folder, run):
    refused(run("score", "--manifest", "none.csv"), "none.csv does not exist")
    refused(run("score", "--manifest", folder), "can't be read")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["score"], "Nothing to work on"),
        (["score", "fair.png", "--manifest", "m.csv"], "Both IMAGE and --manifest"),
        (["score", "--manifest", "m.csv", "--prompt", "a fox"], "prompt column"),
        (["score", "fair.png", "--output", "none/out.json"], "missing folder"),
        (["score", "fair.png", "--output", "."], "is a folder"),
        (["score", "fair.png", "--resume"], "--resume needs an --output"),
        (["score", "fair.png", "--output", "out.json", "--resume"], "in .jsonl, .csv or .parquet"),
        (["score", "fair.png", "--format", "csv"], "give --output"),
        (["score", "m.csv", "--prompt", "a fox"], "prompt column"),
        (["score", "*.gif"], "holds no image files"),
        (["score", "fair.png", "--output", "fair.png"], "is also an input"),
        (["score", "--manifest", "m.csv", "--output", "m.csv"], "is also an input"),
        (["ask", "fair.png"], "no question"),
        (["ask", "fair.png", "Why?", "--output", "none/out.json"], "missing folder"),
        (["ask", "--manifest", "m.csv"], "no column 'question'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_the_model_is_loaded(
    arguments, word, folder, run, fake
):
    write_csv(folder / "m.csv", ["image"], ["fair.png"])
    refused(run(*arguments), word)
    assert fake.calls == []


def test_a_terminal_shows_the_bar_before_the_table_and_not_in_it(folder, run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal
    events = []
    stop = output.Progress.stop
    monkeypatch.setattr(output.Progress, "stop", lambda self: (stop(self), events.append("bar gone")))
    monkeypatch.setattr(output, "put", lambda text, stream: events.append("table"))
    run("score", "fair.png")
    assert events == ["bar gone", "table"]


def test_an_unknown_option_and_a_bad_value_exit_with_2(folder, run):
    assert run("score", "fair.png", "--color", "red")[0] == 2
    assert run("score", "fair.png", "--format", "xml")[0] == 2
    assert run("score", "fair.png", "--batch-size", "0")[0] == 2


# Asking


def test_an_answer_is_streamed_as_plain_text(folder, run):
    assert run("ask", "fair.png", "Why?", "--prompt", "a fox") == (0, "It is a bit soft (a fox).\n", "")


def test_an_answer_can_be_a_record(folder, run):
    code, out, _ = run("ask", "fair.png", "Why?", "--json")
    record = json.loads(out)
    jsonschema.validate(record, schema())
    assert code == 0
    assert (record["question"], record["answer"]) == ("Why?", "It is a bit soft (None).")
    assert record["scores"]["quality"] == 50


def test_asking_about_a_bad_image_is_one_sentence(folder, run):
    refused(run("ask", "broken.png", "Why?"), "broken.png is cut short")
    code, out, _ = run("ask", "broken.png", "Why?", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "image_truncated")


def test_a_manifest_of_questions_gives_one_answer_a_line(folder, run):
    write_csv(
        folder / "m.csv",
        ["image", "question", "prompt", "id"],
        ["fair.png", "Why?", "a fox", "1"],
        ["none.png", "Why?", "", "2"],
        ["good.png", "", "", "3"],
    )
    code, out, err = run("ask", "--manifest", "m.csv", "--output", "out.jsonl")
    good, missing, mute = lines((folder / "out.jsonl").read_text("utf-8"))
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert (good["image"], good["answer"]) == ("fair.png", "It is a bit soft (a fox).")
    assert (missing["image"], missing["error"]["code"]) == ("none.png", "image_missing")
    assert (mute["metadata"], mute["error"]["code"]) == ({"id": "3"}, "question_missing")


# The program itself


def test_the_schema_is_printed(run):
    code, out, _ = run("schema")
    assert (code, json.loads(out)) == (0, schema())


def test_the_version_is_printed(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("mint-iqa ")


def test_help_names_every_command_and_option(run):
    assert all(word in run("--help")[1] for word in ("score", "ask", "schema"))
    out = run("score", "--help")[1]
    for option in (
        "prompt",
        "manifest",
        "output",
        "format",
        "explain",
        "model",
        "device",
        "dtype",
        "batch-size",
        "resume",
        "engine",
        "workers",
    ):
        assert f"--{option}" in out


def test_ctrl_c_ends_without_a_traceback(folder, run, monkeypatch):
    def interrupted(self, items, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeAssessor, "assess_many", interrupted)
    assert run("score", "fair.png")[0] == 130


def python(code, shell="", **environment):
    """Run `code` as a program of its own, its output piped on to `shell`."""
    command = ["bash", "-c", f'"$0" -c "$1" {shell}', sys.executable, code]
    root = str(Path(cli.__file__).parents[2])
    return subprocess.run(command, capture_output=True, timeout=60, env=os.environ | environment, cwd=root)


def test_help_and_schema_do_not_wait_for_torch():
    code = "import sys; from mint_iqa.cli import main; main(['schema']); assert 'torch' not in sys.modules"
    assert python(code).returncode == 0


def test_a_reader_that_goes_away_leaves_no_traceback():
    code = "import sys; from mint_iqa.cli import main; sys.exit(main(['schema']))"
    assert python(code, shell="| true").stderr == b""


def test_json_is_utf8_whatever_the_locale_says():
    code = """
import sys
from mint_iqa import cli
from mint_iqa.cli import output
from mint_iqa.records import FailedAssessment, Failure, ModelInfo
model, failure = ModelInfo(name="n", revision="r"), Failure(code="x", message="m")
cli.speak_utf8()
record = FailedAssessment(image="f\\u00fc.png", model=model, error=failure)
output.write_together([record], True, "json", sys.stdout)
"""
    done = python(code, PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout.decode("utf-8"))["image"] == "f\u00fc.png"
