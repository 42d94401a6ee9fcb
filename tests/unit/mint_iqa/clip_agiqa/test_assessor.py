"""CLIP-AGIQA behind the Assessor's methods and the command line: what it scores, owns up to and refuses."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from mint_iqa import cli, records
from mint_iqa.assessor import Assessor
from mint_iqa.clip_agiqa.assessor import ClipAgiqaAssessor
from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image
from mint_iqa.records import Assessment, FailedAssessment
from tests import tiny_clip
from tests.unit.mint_iqa.clip_agiqa.test_model import Watch

PROMPT = "a red fox in the snow"
DOCUMENT = (Path(__file__).resolve().parents[4] / "docs" / "clip_agiqa.md").read_text(encoding="utf-8")
VALIDATOR = jsonschema.Draft202012Validator(records.schema())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip.save(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def assessor(folder):
    return ClipAgiqaAssessor.from_pretrained(f"clip-agiqa={folder}", device="cpu")


@pytest.fixture
def picture(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((128, 96)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def written(record):
    data = json.loads(record.model_dump_json())
    VALIDATOR.validate(data)
    return data


def test_perceptual_is_quality_and_there_is_no_authenticity(assessor, picture):
    data = written(assessor.assess(picture))
    expected = assessor.model.score(np.asarray(read_image(picture).rgb))
    assert data["scores"]["quality"] == pytest.approx(expected.perceptual.item() * 100, abs=0.01)
    assert data["scores"]["authenticity"] is data["levels"]["authenticity"] is None
    assert data["scores"]["correspondence"] is None
    assert data["explanation"] is None and data["faults"] == [] and "blind" not in data


def test_alignment_is_correspondence_where_a_prompt_is_given_and_the_record_says_that_it_is_blind(
    assessor, picture
):
    data = written(assessor.assess(picture, PROMPT))
    expected = assessor.model.score(np.asarray(read_image(picture).rgb), alignment=True)
    assert data["scores"]["correspondence"] == pytest.approx(expected.alignment.item() * 100, abs=0.01)
    assert data["blind"] is True and data["prompt"] == PROMPT
    assert data["warnings"] == ["Correspondence is blind: this model does not read the prompt."]


def test_another_prompt_changes_no_score(assessor, picture):
    first, second = (assessor.assess(picture, text) for text in (PROMPT, "two cats"))
    assert first.scores == second.scores
    assert assessor.assess(picture, "  \n").prompt is None


def test_the_alignment_pass_is_left_out_unless_a_prompt_is_given(assessor, picture):
    def passes(prompt):
        with Watch(assessor.model.backbone.vision_model.post_layernorm) as watch:
            assessor.assess(picture, prompt)
        return len(watch.inputs)

    assert passes(PROMPT) == 2 * passes(None)


def test_a_model_without_the_alignment_task_rates_no_correspondence(tmp_path, picture):
    alone = ClipAgiqaAssessor.from_pretrained(tiny_clip.save(tmp_path / "alone", auxiliary=False))
    data = written(alone.assess(picture, PROMPT))
    assert data["scores"]["correspondence"] is None and "blind" not in data and data["warnings"] == []


def test_pictures_that_cannot_be_scored_fail_alone_and_in_order(assessor, picture, tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "small.png")
    names = [picture, tmp_path / "small.png", tmp_path / "none.png", picture]
    results = list(assessor.assess_many([(name, PROMPT) for name in names]))
    assert [r.image for r in results] == [str(name) for name in names]
    assert [type(r) for r in results] == [Assessment, FailedAssessment, FailedAssessment, Assessment]
    assert [r.error.code for r in results[1:3]] == ["image_too_small", "image_missing"]
    assert results[0] == results[3] == assessor.assess(picture, PROMPT)
    assert {r.model.name for r in results} == {assessor.model_info.name}


def test_pixels_in_memory_score_as_their_file_does(assessor, picture):
    assert assessor.assess(Image.open(picture)).scores == assessor.assess(picture).scores
    assert assessor.assess(read_image(picture)).image_sha256 == assessor.assess(picture).image_sha256


@pytest.mark.parametrize(
    "call",
    [
        lambda a, p: a.assess(p, explain=True),
        lambda a, p: next(a.assess_many([(p, None)], explain=True)),
        lambda a, p: a.ask(p, "Why?"),
        lambda a, p: a.answer(p, "Why?"),
    ],
)
def test_reasons_are_refused_in_one_sentence(assessor, picture, call):
    with pytest.raises(MintIQAError, match="can't explain") as caught:
        call(assessor, picture)
    assert caught.value.code == "no_explanation"


def test_its_methods_are_those_of_the_assessor():
    for name in ("from_pretrained", "assess", "assess_many", "ask", "answer"):
        theirs, ours = (getattr(kind, name).__annotations__ for kind in (Assessor, ClipAgiqaAssessor))
        of_an_llm = ("quantization", "device_map", "max_new_tokens")
        assert [k for k in theirs if k not in ("return", *of_an_llm)] == [k for k in ours if k != "return"]


def test_the_revision_names_the_weights_of_the_backbone_too(assessor, folder, tmp_path):
    again = ClipAgiqaAssessor.from_pretrained(folder)
    assert again.model_info == assessor.model_info
    config = json.loads((folder / "config.json").read_text())
    tiny_clip.clip(seed=5).save_pretrained(tmp_path / "other")
    (tmp_path / "config.json").write_text(json.dumps(config | {"backbone": str(tmp_path / "other")}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    other = ClipAgiqaAssessor.from_pretrained(tmp_path)
    assert other.model_info.revision != assessor.model_info.revision


def test_half_precision_gives_nearly_the_same_scores(folder, assessor, picture):
    half = ClipAgiqaAssessor.from_pretrained(folder, dtype="bfloat16").assess(picture, PROMPT).scores
    whole = assessor.assess(picture, PROMPT).scores
    assert half.quality == pytest.approx(whole.quality, abs=5)
    assert half.correspondence == pytest.approx(whole.correspondence, abs=5)


# --- the command line ---


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def test_the_command_scores_without_being_told_not_to_explain(run, folder, assessor, picture):
    model = f"clip-agiqa={folder}"
    code, out, err = run("score", picture, "--prompt", PROMPT, "--model", model, "--format", "json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    VALIDATOR.validate(data)
    assert data == written(assessor.assess(str(picture), PROMPT))
    assert data["model"]["name"] == model and data["blind"] is True


def test_the_table_says_what_is_not_rated(run, folder, picture):
    code, out, _ = run("score", picture, "--model", f"clip-agiqa={folder}")
    lines = out.splitlines()
    assert code == 0
    assert "not rated" in next(line for line in lines if "authenticity" in line)
    assert "no prompt given" in next(line for line in lines if "correspondence" in line)
    assert "not looked for" in next(line for line in lines if "faults" in line)


@pytest.mark.parametrize("arguments", [("score", "{}", "--explain"), ("ask", "{}", "Why?")])
def test_reasons_are_refused_before_anything_is_loaded(run, picture, arguments):
    filled = [text.format(picture) for text in arguments]
    code, out, err = run(*filled, "--model", "clip-agiqa=nowhere")
    assert (code, out) == (2, "")
    assert err.startswith("error: CLIP-AGIQA scores a picture and can't explain") and err.count("\n") == 1


def test_the_documented_example_and_command_run(run, folder, picture, monkeypatch):
    monkeypatch.chdir(picture.parent)
    (picture.parent / "converted").symlink_to(folder)
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(example, {})
    (command,) = re.findall(r"^mint-iqa (score .*)$", DOCUMENT, re.MULTILINE)
    code, _, err = run(*shlex.split(command))
    assert (code, err) == (0, "")


def test_a_folder_that_holds_none_is_named(run, picture, tmp_path):
    code, _, err = run("score", picture, "--model", f"clip-agiqa={tmp_path}")
    assert code == 2 and err == f"error: {tmp_path}/config.json can't be read: check the path.\n"


def test_help_and_schema_wait_for_no_torch():
    probe = "import sys, mint_iqa.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe]).returncode == 0
