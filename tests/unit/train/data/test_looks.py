"""What a run looks at: drawn from a seed, labeled by what is known, never what it is tested on."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instruct_data.damage.distortions import kept_quality
from instruct_data.damage.faults import KADID_SCORES, severity_of
from instruct_data.prompts import content_words
from mint_iqa.errors import MintIQAError
from mint_iqa.model import fresh
from mint_iqa.vocabulary import FAULTS
from tests.training_world import CAPTIONS, GENERATORS, PROMPTS, SIZE, World, living_in
from train import prepare, stage1
from train.data import captions, features, looks, pictures, sets
from train.data.looks import Example, draw_examples
from train.data.pictures import Row
from train.data.sets import split
from train.data.sources import Sources, read_sources, sources_of
from train.engine.recipes import Stage1

KADID = "blur", "noise", "compression", "darkness", "pixelation"
BOTH = Stage1(human_epochs=2, faulted_share=0.5, photograph_epochs=3, held_out_photographs=2, test_fold=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("plan")) as world:
        prepare.build_all(SIZE)
        yield world


@pytest.fixture(scope="module")
def sources(world: World) -> Sources:
    return read_sources(SIZE)


@pytest.fixture(scope="module")
def examples(sources: Sources) -> list[Example]:
    return draw_examples(sources, BOTH)


def row_of(sources: Sources, example: Example) -> Row:
    return sources.rows[example.pixels[0]][example.pixels[1]]


def label_of(sources: Sources, example: Example) -> dict[str, str]:
    return sources.human[row_of(sources, example).source]


def drawn(examples: list[Example]) -> str:
    return repr(examples)  # NaN equals itself in text only


def known(*values: float) -> list[bool]:
    return [not math.isnan(v) for v in values]


# --- the same again ---


def test_the_same_seed_draws_the_same_plan(sources: Sources, examples: list[Example]) -> None:
    assert drawn(draw_examples(sources, BOTH)) == drawn(examples)


def test_another_seed_draws_another_order_of_as_many(sources: Sources, examples: list[Example]) -> None:
    other = draw_examples(sources, replace(BOTH, seed=1))
    assert len(other) == len(examples)
    assert [e.pixels for e in other] != [e.pixels for e in examples]


# --- what is tested on is not trained on ---


@pytest.mark.parametrize("fold", range(5))
def test_no_test_prompt_and_no_copy_of_a_test_picture_is_trained_on(sources: Sources, fold: int) -> None:
    recipe = replace(BOTH, test_fold=fold)
    test = [sources.human[i] for i in split(sources.human, recipe).test]
    trained = [e for e in draw_examples(sources, recipe) if e.pixels[0] == "agiqa3k"]
    assert trained and test
    assert not {e.prompt for e in trained} & {row["prompt"] for row in test}
    assert not {label_of(sources, e)["sha256"] for e in trained} & {row["sha256"] for row in test}


def test_identical_pictures_share_a_fold_whatever_their_prompts(sources: Sources) -> None:
    assert sources.human[0]["sha256"] == sources.human[3]["sha256"]
    assert sources.human[0]["prompt"] != sources.human[3]["prompt"]
    for fold in range(5):
        test = set(split(sources.human, replace(BOTH, test_fold=fold)).test.tolist())
        assert (0 in test) == (3 in test) == (1 in test) == (2 in test)


def test_every_picture_is_tested_on_once(sources: Sources) -> None:
    tests = [split(sources.human, replace(BOTH, test_fold=fold)).test.tolist() for fold in range(5)]
    assert sorted(i for fold in tests for i in fold) == list(range(len(sources.human)))


def test_without_a_test_fold_everything_is_trained_on(sources: Sources) -> None:
    parts = split(sources.human, replace(BOTH, test_fold=None))
    assert parts.train.tolist() == list(range(2 * len(PROMPTS))) and len(parts.test) == 0


def test_leaving_out_a_generator_keeps_out_it_and_the_unseen_prompts(sources: Sources) -> None:
    recipe = replace(BOTH, leave_out="beta", test_fold=1)
    parts = split(sources.human, recipe)
    test = [sources.human[i] for i in parts.test]
    assert {row["generator"] for row in test} == {"beta"}
    trained = [label_of(sources, e) for e in draw_examples(sources, recipe) if e.pixels[0] == "agiqa3k"]
    assert {row["generator"] for row in trained} == set(GENERATORS) - {"beta"}
    assert not {row["prompt"] for row in trained} & {row["prompt"] for row in test}
    assert not {row["sha256"] for row in trained} & {row["sha256"] for row in test}


def test_leaving_out_a_generator_needs_a_fold_to_test_on(sources: Sources) -> None:
    with pytest.raises(MintIQAError, match="test_fold"):
        split(sources.human, replace(BOTH, leave_out="beta", test_fold=None))


def test_held_out_photographs_are_never_looked_at(sources: Sources, examples: list[Example]) -> None:
    seen = {row_of(sources, e).source for e in examples if e.pixels[0] == "flickr8k"}
    assert seen == set(range(len(CAPTIONS) - 2))


def test_captions_of_held_out_photographs_are_not_even_wrong_prompts(world: World, sources: Sources) -> None:
    recipe = replace(BOTH, photograph_epochs=30, no_prompt_share=0.0)
    assert set(CAPTIONS[:-2]) == {p for p in CAPTIONS if taught(p, draw_examples(sources, recipe))}
    model, processor = fresh.load_model(str(world.config))
    _, bank = stage1.data_of(recipe, model, processor)
    assert bank is not None and len(bank) == len(CAPTIONS) - 2
    drawn = [features.draw_looks(sources, len(CAPTIONS) - 2, seed) for seed in range(20)]
    looks = [look for each in drawn for look, _, _ in each]
    assert set(CAPTIONS[:-2]) == {p for p in CAPTIONS if taught(p, looks)}


def test_captions_are_encoded_once_and_others_anew(world: World, sources: Sources) -> None:
    model, processor = fresh.load_model(str(world.config))
    bank = captions.caption_bank(model, processor, sources.photographs)
    others = [{"captions": list(reversed(p["captions"]))} for p in sources.photographs]
    assert torch.allclose(captions.caption_bank(model, processor, others), bank.flip(1), atol=1e-4)
    with torch.no_grad():
        for weight in model.alignment.text_encoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    moved = captions.caption_bank(model, processor, sources.photographs)
    assert not torch.allclose(moved, bank)
    model.alignment.encode_text = None  # not asked again
    assert torch.equal(captions.caption_bank(model, processor, sources.photographs), moved)


def taught(caption: str, examples: list[Example]) -> bool:
    """Whether one of them is read with the caption of a photograph, in one of its five endings."""
    return any(text.startswith(f"{caption} ") for e in examples for text in (e.prompt, e.second_prompt))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"test_fold": 5}, "test_fold is 5 of 5 folds"),
        ({"test_fold": -1}, "test_fold is -1 of 5 folds"),
        ({"leave_out": "Beta"}, "'Beta' is not a generator: give one of alpha, beta"),
    ],
)
def test_what_would_keep_nothing_out_is_refused(
    sources: Sources, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(MintIQAError, match=words):
        split(sources.human, replace(BOTH, **settings))


# --- how often ---


def test_counts_follow_the_epochs(sources: Sources, examples: list[Example]) -> None:
    pictures_trained = len(split(sources.human, BOTH).train)
    variants = Counter((e.pixels[0], row_of(sources, e).variant == "clean") for e in examples)
    assert variants["agiqa3k", True] == 2 * pictures_trained
    assert variants["agiqa3k", False] == 2 * 0.5 * pictures_trained
    assert variants["flickr8k", True] + variants["flickr8k", False] == 3 * (len(CAPTIONS) - 2)


def test_no_picture_is_looked_at_twice_more_often_than_another(sources: Sources) -> None:
    recipe = Stage1(human_epochs=2.5, faulted_share=0)
    looks = Counter(e.pixels for e in draw_examples(sources, recipe))
    assert len(looks) == 2 * len(PROMPTS) and set(looks.values()) == {2, 3}
    assert looks.total() == 2.5 * 2 * len(PROMPTS)


def test_without_epochs_there_is_nothing_to_look_at(sources: Sources) -> None:
    assert draw_examples(sources, Stage1(human_epochs=0, photograph_epochs=0)) == []


# --- what is known of each kind of picture ---


def looks_at(
    sources: Sources, examples: list[Example], name: str, fault: str | None, variant: str
) -> list[Example]:
    rows = [(e, row_of(sources, e)) for e in examples if e.pixels[0] == name]
    return [e for e, row in rows if (row.fault, row.variant) == (fault, variant)]


@pytest.fixture(scope="module")
def everything(sources: Sources) -> list[Example]:
    """Every picture of either set and every twin, at least once."""
    recipe = Stage1(human_epochs=4, faulted_share=1, photograph_epochs=3, held_out_photographs=0)
    examples = draw_examples(sources, recipe)
    assert {e.pixels for e in examples} >= {
        (n, i) for n, rows in sources.rows.items() for i in range(len(rows))
    }
    return examples


def test_a_clean_picture_has_its_human_scores(sources: Sources, everything: list[Example]) -> None:
    for example in looks_at(sources, everything, "agiqa3k", None, "clean"):
        label = label_of(sources, example)
        quality = float(label["mos_quality"]) / 5
        wanted = quality, 0.126 + 0.745 * quality, float(label["mos_align"]) / 5
        assert example.targets == pytest.approx(wanted)
        assert example.prompt == label["prompt"] and example.human and example.caption == -1


def test_a_good_picture_has_no_fault_and_a_poor_one_unknown_faults(
    sources: Sources, everything: list[Example]
) -> None:
    for example in looks_at(sources, everything, "agiqa3k", None, "clean"):
        if float(label_of(sources, example)["mos_quality"]) >= 3:
            assert example.faults == (0.0,) * len(FAULTS)
        else:
            assert known(*example.faults) == [False] * len(FAULTS)


def is_good(sources: Sources, example: Example) -> bool:
    return example.pixels[0] == "flickr8k" or float(label_of(sources, example)["mos_quality"]) >= 3


def test_a_small_copy_has_unknown_quality_and_the_faults_of_its_original(
    sources: Sources, everything: list[Example]
) -> None:
    copies = looks_at(sources, everything, "agiqa3k", None, "small")
    assert copies
    for example in copies:
        assert known(*example.targets) == [False, True, True]
        assert known(*example.faults) == [is_good(sources, example)] * len(FAULTS)
        assert example.targets[2] == pytest.approx(float(label_of(sources, example)["mos_align"]) / 5)
        assert not example.human


@pytest.mark.parametrize("fault", KADID)
def test_a_degraded_picture_loses_the_quality_that_people_said(
    sources: Sources, everything: list[Example], fault: str
) -> None:
    for name, fallback in (("agiqa3k", None), ("flickr8k", 0.75)):
        for example in looks_at(sources, everything, name, fault, "fault"):
            level = row_of(sources, example).level
            before = fallback or float(label_of(sources, example)["mos_quality"]) / 5
            authenticity = 0.95 if fallback else 0.126 + 0.745 * before
            kept = kept_quality(KADID_SCORES[fault][level - 1])  # type: ignore[index]
            assert example.targets[:2] == pytest.approx((before * kept, authenticity))
            assert math.isnan(example.targets[2]) and not example.human


def test_every_kind_of_fault_is_in_the_plan(sources: Sources, everything: list[Example]) -> None:
    assert {row_of(sources, e).fault for e in everything} == {None, *FAULTS}


def test_a_malformed_picture_is_less_authentic_and_its_quality_unknown(
    sources: Sources, everything: list[Example]
) -> None:
    for example in looks_at(sources, everything, "flickr8k", "malformation", "fault"):
        severity = row_of(sources, example).severity
        assert example.targets[1] == pytest.approx(0.95 * (1 - 0.8 * severity)) and severity > 0
        assert known(*example.targets) == [False, True, True]


def test_a_faulted_twin_has_its_fault_at_its_severity_and_others_only_where_known(
    sources: Sources, everything: list[Example]
) -> None:
    twins = [e for e in everything if row_of(sources, e).fault]
    assert twins
    for example in twins:
        row = row_of(sources, example)
        assert row.severity == severity_of(row.fault, row.level)  # type: ignore[arg-type]
        told = {name: s for name, s in zip(FAULTS, example.faults, strict=True) if not math.isnan(s)}
        others = dict.fromkeys(FAULTS, 0.0) if is_good(sources, example) else {}
        assert told == others | {row.fault: row.severity}


def test_a_photograph_comes_with_one_of_its_captions_and_its_place_in_the_bank(
    sources: Sources, everything: list[Example]
) -> None:
    for example in (e for e in everything if e.pixels[0] == "flickr8k"):
        source, which = divmod(example.caption, 5)
        assert source == row_of(sources, example).source
        assert sources.photographs[source]["captions"][which] == example.prompt


# --- second prompts ---


def second_prompts(examples: list[Example]) -> tuple[list[Example], list[Example], list[Example]]:
    """Without prompt, one word exchanged, another picture's; told apart by the words, not by the targets."""
    none = [e for e in examples if not e.second_prompt]
    shared = [e for e in examples if content_words(e.prompt) & content_words(e.second_prompt)]
    one_word = [e for e in examples if e.second_prompt and differing_words(e) == 1]
    assert all(e in one_word for e in shared)
    return none, one_word, [e for e in examples if e.second_prompt and e not in one_word]


def differing_words(example: Example) -> int:
    first, second = (p.replace(" an ", " a ").removeprefix("a ").removeprefix("an ").split()
                     for p in (example.prompt, example.second_prompt))  # fmt: skip
    return (
        sum(a != b for a, b in zip(first, second, strict=True)) if len(first) == len(second) else len(first)
    )


def test_a_second_prompt_is_empty_or_one_word_off_or_shares_nothing(
    sources: Sources, everything: list[Example]
) -> None:
    none, one_word, unrelated = second_prompts(everything)
    assert len(none) + len(one_word) + len(unrelated) == len(everything)
    for example in unrelated:
        assert not content_words(example.prompt) & content_words(example.second_prompt)
        assert example.second_prompt in (*PROMPTS, *(p["captions"][0] for p in sources.photographs))
    shares = [len(part) / len(everything) for part in (none, one_word, unrelated)]
    assert shares == pytest.approx([0.3, 0.2, 0.5], abs=0.1)


def test_a_second_prompt_is_worth_less_than_the_right_one(everything: list[Example]) -> None:
    none, one_word, unrelated = second_prompts(everything)
    assert all(math.isnan(e.second_correspondence) for e in none)
    assert {e.second_correspondence for e in unrelated if len(e.prompt.split()) > 2} <= {0.06}
    for example in one_word:
        right = 0.85 if math.isnan(example.targets[2]) else example.targets[2]
        assert example.second_correspondence in (pytest.approx(right * 0.4 / 0.85), 0.06)


def test_wrong_prompts_are_those_of_training_pictures(sources: Sources, examples: list[Example]) -> None:
    test = {sources.human[i]["prompt"] for i in split(sources.human, BOTH).test}
    assert not test & {e.second_prompt for e in examples}


# --- tensors ---


class Feeder:
    """Just enough of a processor: an image size, and texts that keep their words."""

    image_size = 28

    def tokenize(self, texts: list[str]) -> "Feeder":
        return self

    ids = mask = None

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        return pixels


def test_a_look_is_a_seeded_crop_of_the_stored_picture(sources: Sources, everything: list[Example]) -> None:
    seen = looks.Looks(everything, sources, Feeder())  # type: ignore[arg-type]
    assert len(seen) == len(everything)
    mirrored = 0
    for index in range(8):
        crop = np.asarray(seen[index]["pixels"])
        assert crop.shape == (28, 28, 3)
        assert np.array_equal(crop, seen[index]["pixels"])
        name, row = everything[index].pixels
        spare = pictures.stored_side(28) - 28
        top, left = np.random.default_rng(everything[index].seed).integers(0, spare + 1, 2)
        stored = sources.pixels[name][row][top : top + 28, left : left + 28]
        assert np.array_equal(crop, stored) or np.array_equal(crop, stored[:, ::-1])
        mirrored += not np.array_equal(crop, stored)
    assert 0 < mirrored < 8


def test_a_batch_carries_every_target(sources: Sources, everything: list[Example]) -> None:
    seen = looks.Looks(everything, sources, Feeder())  # type: ignore[arg-type]
    batch = seen.collate([seen[i] for i in range(4)])
    for i, example in enumerate(everything[:4]):
        for key, value in (("targets", example.targets), ("faults", example.faults)):
            assert batch[key][i].tolist() == pytest.approx(list(value), nan_ok=True)
        assert batch["captions"][i] == example.caption and bool(batch["human"][i]) is example.human
        assert batch["second_correspondence"][i].item() == pytest.approx(
            example.second_correspondence, nan_ok=True
        )


# --- the stored pictures ---


def build_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("MINT_IQA_CACHE", str(folder))
    return [row["path"] for row in sets.agiqa3k(sets.data_root())[:3]]


def test_built_pictures_load_with_one_row_each(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures.build("set", SIZE, build_twice(tmp_path, monkeypatch), ("small", "kadid", "malformation"))
    pixels, rows = pictures.load("set", SIZE)
    side = pictures.stored_side(SIZE)
    assert pixels.shape == (12, side, side, 3) and pixels.dtype == np.uint8
    assert [row.source for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert [row.variant for row in rows[:4]] == ["clean", "small", "fault", "fault"]
    assert rows[2].fault in KADID and rows[3].fault == "malformation"
    assert all(row.level in range(1, 6) for row in rows if row.fault)
    assert all(pixels[i].std() > 1 for i in range(12))
    assert not np.array_equal(pixels[0], pixels[3])


def test_a_finished_build_is_left_as_it_is(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = build_twice(tmp_path, monkeypatch)
    pictures.build("set", SIZE, paths, ())
    before = (tmp_path / "pictures" / "28" / "set.npy").stat().st_mtime_ns
    pictures.build("set", SIZE, paths, ("small",))
    assert (tmp_path / "pictures" / "28" / "set.npy").stat().st_mtime_ns == before
    assert len(pictures.load("set", SIZE)[1]) == 3


def test_an_interrupted_build_is_done_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = build_twice(tmp_path, monkeypatch)
    pictures.build("set", SIZE, paths, ("kadid",))
    pixels, rows = pictures.load("set", SIZE)
    whole = pixels.copy()
    half = np.lib.format.open_memmap(tmp_path / "pictures" / "28" / "set.npy", "r+")
    half[3:] = 0  # as a killed build leaves it: the file at full size, its table missing
    half.flush()
    (tmp_path / "pictures" / "28" / "set.json").unlink()
    pictures.build("set", SIZE, paths, ("kadid",))
    pixels, again = pictures.load("set", SIZE)
    assert np.array_equal(pixels, whole) and again == rows


def test_pictures_of_other_files_are_built_anew_and_never_taken_for_these(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = build_twice(tmp_path, monkeypatch)
    pictures.build("set", SIZE, paths, ())
    pixels = pictures.load("set", SIZE, paths)[0].copy()
    others, reading = list(reversed(paths)), pictures.load("set", SIZE)[0]
    with pytest.raises(MintIQAError, match=r"are of other files: run python -m train\.prepare"):
        pictures.load("set", SIZE, others)
    pictures.build("set", SIZE, others, ())
    assert np.array_equal(pictures.load("set", SIZE, others)[0], pixels[::-1])
    assert np.array_equal(reading, pixels)  # of a run that was reading them


def test_of_several_that_want_the_same_pictures_one_builds_and_the_others_wait(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = build_twice(tmp_path, monkeypatch)
    built, build = [], pictures._build
    monkeypatch.setattr(pictures, "_build", lambda *args: (built.append(args[1]), build(*args)))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: pictures.build("set", SIZE, paths, ()), range(3)))
    assert built == ["set"] and len(pictures.load("set", SIZE)[1]) == 3


def test_captions_lose_their_full_stop_and_keep_their_order(world: World) -> None:
    photographs = sets.flickr8k(sets.data_root())
    assert [len(p["captions"]) for p in photographs] == [5] * len(CAPTIONS)  # type: ignore[arg-type]
    assert photographs[0]["captions"] == [f"{CAPTIONS[0]} {n}" for n in "abcde"]


def test_the_table_is_plain_json(world: World) -> None:
    rows = json.loads((pictures.pictures_folder(SIZE) / "agiqa3k.json").read_text())["rows"]
    assert len(rows) == 5 * 2 * len(PROMPTS)
    assert [row["variant"] for row in rows[:5]] == ["clean", "small", "fault", "fault", "fault"]


def test_twins_have_wrong_prompts_where_no_photograph_brings_captions(world: World) -> None:
    alone = Stage1(human_epochs=3, faulted_share=1.0, test_fold=0, no_prompt_share=0.0)
    sources = sources_of(alone, SIZE, 2.0)
    assert not sources.photographs
    twins = [e for e in draw_examples(sources, alone) if not e.human]
    assert twins and all(e.second_prompt for e in twins)


def test_ratings_of_prompts_that_agiqa_tests_on_are_refused(world: World, tmp_path: Path) -> None:
    folder = world.data / "data" / "agiqa3k"
    ratings = tmp_path / "ratings.csv"
    ratings.write_text(f"image,prompt,quality\nimages/0.png,{PROMPTS[0]},3\nimages/5.png,{PROMPTS[2]},4\n")
    both = replace(BOTH, ratings=str(ratings), images=str(folder))
    with pytest.raises(MintIQAError, match="of prompts or pictures of AGIQA-3K"):
        sources_of(both, SIZE, 2.0)
    assert sources_of(replace(both, test_fold=None), SIZE, 2.0).ratings
