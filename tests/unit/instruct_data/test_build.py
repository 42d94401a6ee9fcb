"""Instruction data from rated pictures: random draws, true answers, and no losses."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_data.__main__ import main
from instruct_data.answers.grammar import answer_for
from instruct_data.answers.templates import place_of
from instruct_data.build import Build, build, kept
from instruct_data.damage.distortions import DISTORTIONS, distort, kept_quality
from instruct_data.damage.faults import FAULT_OF
from instruct_data.importers.aigciqa2023 import QUESTIONS
from instruct_data.records import SPLITS, InstructionSample, RatedImage, read_jsonl, write_jsonl
from instruct_data.report import warnings_of, write_report
from mint_iqa.errors import MintIQAError
from mint_iqa.vocabulary import DIMENSIONS, LEVELS, level_of, named_faults

pytestmark = pytest.mark.slow


PROMPTS = ["a red fox in the snow", "two cats on a sofa", "a wooden boat", "an old castle, anime style"]


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rated pictures of four prompts, with a split."""
    folder = tmp_path_factory.mktemp("source")
    rated = []
    for i in range(12):
        picture(i).save(folder / f"{i}.png")
        split = SPLITS[(0, 0, 1, 2)[i % 4]]
        mos = {"quality": 30.0 + 5 * i, "authenticity": 80.0, "correspondence": 85.0}
        rated.append(RatedImage(image=f"{i}.png", prompt=PROMPTS[i % 4], mos=mos, source="mine", split=split))
    write_jsonl(folder / "rated.jsonl", rated)
    return folder


def recipe(source: Path, output: Path, **changes: object) -> Build:
    ratings = str(source / "rated.jsonl")
    return replace(Build(ratings, str(source), str(output), samples=200), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "data"
    assert build(recipe(source, output, samples=600), processes=2) == []
    return output


@pytest.fixture(scope="module")
def samples(built: Path) -> list[InstructionSample]:
    return [s for split in SPLITS for s in read_jsonl(built / f"{split}.jsonl", InstructionSample)]


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- what comes of it ---


def test_there_are_as_many_samples_as_asked_for_each_with_its_picture(built, samples):
    assert len(samples) == 600
    assert all((built / s.image).is_file() for s in samples)
    assert set(Counter(s.image for s in samples).values()) == {4}


def test_every_sample_stays_on_the_side_of_its_picture(source, samples):
    sides = {r.image: r.split for r in read_jsonl(source / "rated.jsonl", RatedImage)}
    assert all(s.split == sides[s.reference] for s in samples)
    assert {s.split for s in samples} == set(SPLITS)


def test_a_prompt_taken_from_another_picture_is_of_the_same_side(source, samples):
    sides = {r.prompt: r.split for r in read_jsonl(source / "rated.jsonl", RatedImage)}
    assert all(sides.get(s.prompt, s.split) == s.split for s in samples)


def test_answers_name_the_fault_that_was_made_and_no_other(samples):
    made = [(s, FAULT_OF.get(s.distortion or "")) for s in samples]
    assert all(named_faults(s.answer) <= ({fault} if fault else set()) for s, fault in made)
    assert sum(bool(named_faults(s.answer)) for s, _ in made) > 30


def test_level_words_are_those_of_the_scores(samples):
    for s in samples:
        for name in DIMENSIONS:
            said = [level for level in LEVELS if f"{name} is {level}" in s.answer]
            assert not said or said == [level_of(s.scores[name])]


def test_a_place_in_an_answer_is_that_of_the_region(samples):
    local = [s for s in samples if s.region and s.question.startswith(("Where", "Which part of the picture"))]
    named = [s for s in local if named_faults(s.answer)]
    assert named and all(place_of(s.region) in s.answer for s in named)


def test_exchanged_words_are_in_the_prompt_and_told_in_the_answer(samples):
    changed = [(s, s.changed_words[0]) for s in samples if s.changed_words]
    assert changed and all(
        w.replacement in s.prompt and w.original not in s.prompt.split() for s, w in changed
    )
    told = [(s, w) for s, w in changed if '"' in s.answer]
    assert told and all(f'"{w.replacement}"' in s.answer and f'"{w.original}"' in s.answer for s, w in told)


def test_what_was_changed_says_so(source, built, samples):
    own = {r.image: r.prompt for r in read_jsonl(source / "rated.jsonl", RatedImage)}
    for s in {s.image: s for s in samples}.values():
        same = (built / s.image).read_bytes() == (source / s.reference).read_bytes()
        assert same == (s.distortion is None)
        assert ("changed" in s.source) == (not same or s.prompt not in (None, own[s.reference]))


def test_without_a_prompt_there_is_no_correspondence(samples):
    bare = [s for s in samples if s.prompt is None]
    assert bare and all("correspondence" not in s.scores for s in bare)


def test_questions_may_be_those_of_the_published_data(source, tmp_path):
    build(recipe(source, tmp_path / "data", published=1.0))
    samples = read_jsonl(tmp_path / "data/train.jsonl", InstructionSample)
    assert {s.question for s in samples} == {QUESTIONS[name] for name in DIMENSIONS}
    assert all(s.answer == answer_for(s.mos, s.dimension) for s in samples)


def test_prompts_may_carry_notes(source, tmp_path):
    notes = tmp_path / "notes.jsonl"
    row = {"prompt": PROMPTS[1], "content": "cats", "style": "plain", "atmosphere": "calm"}
    notes.write_text(json.dumps(row) + "\n", encoding="utf-8")
    build(recipe(source, tmp_path / "data", notes=str(notes)))
    prompts = {
        s.prompt for split in SPLITS for s in read_jsonl(tmp_path / f"data/{split}.jsonl", InstructionSample)
    }
    assert f"{PROMPTS[1]}. Content: cats. Style: plain. Atmosphere: calm." in prompts
    assert f"{PROMPTS[3]}. Content: an old castle. Style: anime style." in prompts  # by the rules


# --- scores of changed pictures ---


def test_a_distortion_takes_off_what_people_took_off():
    fault = distort(picture(0), "gaussian_blur", 4, np.random.default_rng(0))
    assert kept("quality", fault) == pytest.approx(kept_quality(DISTORTIONS["gaussian_blur"].scores[3]))
    assert 0 < kept("quality", fault) < 0.3
    assert kept("correspondence", fault) == kept("quality", None) == 1


def test_in_one_place_it_counts_by_its_share_of_the_picture():
    whole = distort(picture(0), "jpeg", 5, np.random.default_rng(0))
    part = distort(picture(0), "jpeg", 5, np.random.default_rng(0), region=0.2)
    lost, all_lost = 1 - kept("quality", part), 1 - kept("quality", whole)
    assert lost == pytest.approx(all_lost * float(part.mask.mean()))


# --- the same again, interrupted, in another folder, and wrong ---


def test_the_same_recipe_gives_the_same_bytes_whatever_the_processes(source, tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        build(recipe(source, tmp_path / name, samples=240), processes)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    del one["recipe.json"], two["recipe.json"]  # it names the folder
    assert one == two and len(one) > 60


def test_another_seed_gives_other_samples(source, tmp_path, built):
    build(recipe(source, tmp_path / "other", samples=600, seed=1))
    assert (tmp_path / "other/train.jsonl").read_bytes() != (built / "train.jsonl").read_bytes()


def test_an_interrupted_build_goes_on_and_ends_the_same(source, tmp_path):
    again = recipe(source, tmp_path / "data", samples=480)
    build(again)
    whole = files(tmp_path / "data")
    for name in ("parts/00001.jsonl", "train.jsonl", "images/000055.png"):
        (tmp_path / "data" / name).unlink(missing_ok=True)
    untouched = (tmp_path / "data/parts/00000.jsonl").stat().st_mtime_ns
    build(again)
    assert files(tmp_path / "data") == whole
    assert (tmp_path / "data/parts/00000.jsonl").stat().st_mtime_ns == untouched


def test_a_folder_with_another_build_is_left_alone(source, built):
    before = files(built)
    with pytest.raises(MintIQAError, match="another output"):
        build(recipe(source, built, seed=5))
    assert files(built) == before


def test_an_unreadable_picture_loses_only_its_own_samples_and_is_named(source, tmp_path):
    broken = tmp_path / "source"
    broken.mkdir()
    for path in source.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 300 if path.name == "3.png" else None])
    problems = build(recipe(broken, tmp_path / "data"))
    assert problems and all("3.png" in problem for problem in problems)
    kept_samples = sum(len(read_jsonl(tmp_path / f"data/{s}.jsonl", InstructionSample)) for s in SPLITS)
    assert kept_samples == 200 - 4 * len(problems)
    assert set(warnings_of(tmp_path / "data", [])) >= set(problems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distortions": ["blurr"]}, "Unknown distortions"),
        ({"kinds": {"why": 1.0}}, "Unknown kinds"),
        ({"distorted": 0.9, "malformed": 0.2}, "the first two in sum"),
        ({"follow_ups": 1.5}, "between 0 and 1"),
        ({"kinds": {"why_low": 0.0}}, "kinds with a weight"),
        ({"artifacts": []}, "artifacts if"),
        ({"samples": 0}, "needs samples"),
    ],
)
def test_a_recipe_that_cannot_be_built_is_refused(source, tmp_path, change, message):
    with pytest.raises(MintIQAError, match=message):
        build(recipe(source, tmp_path / "data", **change))
    assert not (tmp_path / "data").exists()


def test_an_output_that_is_a_file_is_refused_in_a_sentence(source, tmp_path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(MintIQAError, match="can't be written"):
        build(recipe(source, tmp_path / "data"))
    assert (tmp_path / "data").read_text() == "mine"


def test_ratings_without_a_split_are_refused(source, tmp_path):
    rated = read_jsonl(source / "rated.jsonl", RatedImage)
    write_jsonl(tmp_path / "bare.jsonl", (r.model_copy(update={"split": None}) for r in rated))
    with pytest.raises(MintIQAError, match="run python -m instruct_data split"):
        build(replace(recipe(source, tmp_path / "data"), ratings=str(tmp_path / "bare.jsonl")))


# --- from the command line, and on a page ---


def test_build_and_report_from_the_command_line(source, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        json.dumps({"ratings": str(source / "rated.jsonl"), "images": str(source), "output": "x"})
    )
    folder = tmp_path / "data"
    assert main(["build", str(path), "--set", f"output={folder}", "samples=40"]) == 0
    assert main(["report", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out


def test_the_page_shows_counts_histograms_and_samples_and_loads_nothing(built, samples):
    page = write_report(built).read_text(encoding="utf-8")
    assert "600 samples of 150 pictures" in page
    assert page.count("<article>") == page.count("data:image/jpeg;base64,") == 24
    assert all(name.capitalize() in page for name in DIMENSIONS)
    assert "http" not in page and "<script" not in page


def test_what_the_data_says_is_shown_and_not_run(built, tmp_path, samples):
    evil = samples[0].model_copy(update={"prompt": "<script>alert(1)</script>"})
    (tmp_path / "images").mkdir()
    (tmp_path / evil.image).write_bytes((built / evil.image).read_bytes())
    write_jsonl(tmp_path / "train.jsonl", [evil])
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page


def test_leaks_and_missing_pictures_are_warned_of(tmp_path, samples):
    own = next(s for s in samples if s.prompt and "changed" not in s.source)
    both = [own.model_copy(update={"split": side}) for side in ("train", "test")]
    warnings = " ".join(warnings_of(tmp_path, both))
    assert "1 prompts are in more than one split" in warnings and "1 pictures are missing" in warnings


def test_a_folder_without_samples_is_an_error(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no samples" in capsys.readouterr().err
