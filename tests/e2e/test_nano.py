"""The shipped model, through its public interfaces."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch

from mint_iqa.records import LIBRARY_VERSION, schema
from mint_iqa.vocabulary import LEVELS, level_of, named_faults

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NANO = ROOT / "mint_iqa" / "weights" / "nano"


@pytest.fixture(scope="module")
def lines():
    """The lines that `make demo` writes, one record each, from a separate process."""
    command = [
        sys.executable,
        "-m",
        "mint_iqa.cli",
        "score",
        "--manifest",
        str(EXAMPLES / "demo.csv"),
        "--explain",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # A first run shows conversion bars.
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def demo(lines):
    """The records of the demo by image and prompt."""
    records = [json.loads(line) for line in lines]
    return {(r["image"], r["prompt"]): r for r in records}


def test_the_demo_says_what_it_said_when_these_weights_were_released(lines):
    """Byte for byte on the same kind of processor; elsewhere scores agree up to rounding."""
    golden = (ROOT / "tests" / "golden" / "nano" / "demo.jsonl").read_text(encoding="utf-8")
    before = golden.replace(
        '"library_version":"0.2.0"', f'"library_version":"{LIBRARY_VERSION}"'
    ).splitlines()
    if torch.cpu._is_amx_tile_supported():
        assert lines == before
    for line, earlier in zip(lines, before, strict=True):
        now, then = json.loads(line), json.loads(earlier)
        assert now["levels"] == then["levels"] and now["image_sha256"] == then["image_sha256"]
        for name, score in then["scores"].items():
            assert now["scores"][name] == pytest.approx(score, abs=0.02)


def test_the_same_call_gives_the_same_bytes_from_this_process_and_another(nano, lines):
    (line,) = (line for line in lines if "coffee_blurred" in line)
    record = json.loads(line)
    picture = EXAMPLES / record["image"]
    again = nano.assess(picture, record["prompt"], explain=True).with_origin(record["image"], None)
    assert again.model_dump_json() == line
    once_more = nano.assess(picture, record["prompt"], explain=True).with_origin(record["image"], None)
    assert once_more.model_dump_json() == line


def of(demo, image):
    return next(record for (name, _), record in demo.items() if name == image)


def test_the_demo_scores_and_explains_every_picture_in_records_that_validate(demo):
    with (EXAMPLES / "demo.csv").open(newline="") as file:
        assert list(demo) == [(row["image"], row["prompt"]) for row in csv.DictReader(file)]
    for record in demo.values():
        jsonschema.validate(record, schema())
        assert all(record["explanation"].values())


def test_a_blurred_picture_scores_below_its_original_and_is_called_blurred(demo):
    sharp, blurred = of(demo, "coffee.jpg"), of(demo, "coffee_blurred.jpg")
    assert blurred["scores"]["quality"] < sharp["scores"]["quality"] - 10
    assert blurred["faults"][0]["name"] == "blur"
    assert "blur" in named_faults(blurred["explanation"]["quality"])


def test_a_noisy_picture_scores_below_its_original_and_is_called_noisy(demo):
    clean, noisy = of(demo, "rocket.jpg"), of(demo, "rocket_noisy.jpg")
    assert noisy["scores"]["quality"] < clean["scores"]["quality"]
    assert "noise" in {fault["name"] for fault in noisy["faults"]}


def test_a_wrong_prompt_lowers_correspondence(demo):
    right, wrong = (record for (name, _), record in demo.items() if name == "chelsea.jpg")
    assert wrong["scores"]["correspondence"] < right["scores"]["correspondence"] - 10


def test_a_named_fault_is_a_detected_fault_and_level_words_follow_the_scores(demo):
    for record in demo.values():
        detected = {fault["name"] for fault in record["faults"]}
        for text in filter(None, record["explanation"].values()):
            assert named_faults(text) <= detected
        for name, score in record["scores"].items():
            said = {
                level for level in LEVELS if f"{name} is {level}" in record["explanation"]["overall"].lower()
            }
            assert said <= {level_of(score)}


def test_a_score_does_not_depend_on_batch_neighbors_or_history(nano):
    paths = sorted(EXAMPLES.glob("*.jpg"))
    prompts = [
        "a cup of coffee",
        None,
        "a photograph of a very tall rocket on its launch pad at dusk, wide angle",
    ]
    items = [(path, prompts[i % 3]) for i, path in enumerate(paths)]
    alone = [nano.assess(path, prompt, explain=False).scores for path, prompt in items]
    "".join(nano.ask(paths[0], "Why does it score low?"))
    for size in (2, 5):
        for one, record in zip(alone, nano.assess_many(items, batch_size=size), strict=True):
            for name, score in record.scores:
                assert score == pytest.approx(getattr(one, name), abs=0.01)  # 1e-4 on the 0..1 scale


def test_the_streamed_answer_is_the_whole_answer(nano):
    picture = nano.read(EXAMPLES / "coffee_blurred.jpg")
    question = "Why does this image score low?"
    pieces = list(nano.ask(picture, question))
    assert len(pieces) > 5
    assert "".join(pieces) == nano.answer(picture, question).answer
    detected = {fault.name for fault in nano.assess(picture, explain=False).faults}
    assert named_faults("".join(pieces)) and named_faults("".join(pieces)) <= detected


def test_the_explanation_is_what_asking_the_same_question_answers(nano):
    picture = nano.read(EXAMPLES / "coffee_blurred.jpg")
    assessed = nano.assess(picture, "a cup of coffee")
    assert (
        assessed.explanation.quality
        == nano.answer(picture, "How is the quality of the image?", "a cup of coffee").answer
    )


def test_the_shipped_weights_are_small_half_precision_and_safe():
    files = [path for path in NANO.rglob("*") if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in files) < 140e6
    assert max(path.stat().st_size for path in files) < 95e6
    assert {path.suffix for path in NANO.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".md"}
    assert (NANO / "README.md").is_file()


def test_every_shipped_weight_is_finite(nano):
    assert all(torch.isfinite(tensor).all() for tensor in nano.model.state_dict().values())
