"""Stage 1 on one's own ratings: several sets on different ranges, of which each rates what it rates."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from instruct_data.prompts import UNRELATED_SCORE
from instruct_data.records import RatedImage, write_jsonl
from mint_iqa.errors import MintIQAError
from mint_iqa.evaluation.labels import read_labels
from mint_iqa.model import fresh
from tests.training_world import PROMPTS, SIZE, TRAINS, living_in
from train import stage1
from train.data.looks import draw_examples
from train.data.sources import OWN_SET, sources_of, split_rated
from train.engine.recipes import Stage1

COUNT = 12
OWN = [
    {"image": f"{i}.png", "prompt": PROMPTS[i % 6], "quality": 1 + i % 5, "correspondence": 5 - i % 4}
    for i in range(COUNT)
]
LIVE = [{"image": f"{i}.png", "quality": 100 - 4 * i} for i in range(COUNT, 2 * COUNT)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The toy's parts, and none of the sets that nano learns from."""
    with living_in(tmp_path_factory.mktemp("own")) as world:
        (world.data / "data").rename(world.data / "elsewhere")
        yield world


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Generated pictures with prompts, rated 1 to 5, and photographs with a quality on 0 to 100 alone."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(2 * COUNT):
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90 if i else 40, 40), Image.Resampling.BICUBIC).save(
            folder / f"{i}.png"
        )
    return [write(folder / "own.csv", OWN), write(folder / "live.csv", LIVE)]


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def folder_of(files):
    return files[0].removesuffix("own.csv")


def recipe(world, ratings, output="unused", **settings):
    small = {"batch_size": 4, "log_steps": 1, "bf16": False, "threads": 1, "warmup": 0.0, "test_fold": 0}
    small |= {"trains": list(TRAINS), "rating_epochs": 2.0}
    return Stage1(model=str(world.config), ratings=ratings, output=str(output), **(small | settings))


def planned(recipe):
    sources = sources_of(recipe, SIZE, 2.0)
    return sources, draw_examples(sources, recipe)


def test_what_a_set_does_not_rate_is_unknown(world, files):
    sources, examples = planned(recipe(world, files))
    assert {e.pixels[0] for e in examples} == {OWN_SET}
    for example in examples:
        number = example.pixels[1]
        quality, authenticity, correspondence = example.targets
        assert math.isnan(authenticity) and all(map(math.isnan, example.faults))
        if number < COUNT:
            assert quality == pytest.approx((number % 5) / 4)
            assert correspondence == pytest.approx((4 - number % 4) / 4)
            assert example.prompt == PROMPTS[number % 6]
        else:
            assert math.isnan(correspondence) and example.prompt == example.second_prompt == ""
            assert math.isnan(example.second_correspondence)
            assert quality == pytest.approx((100 - 4 * number) / 100)
    assert sources.human == sources.photographs == []


def test_a_column_may_be_worst_at_its_highest(world, files):
    _, examples = planned(recipe(world, files[1], columns={"quality": "quality:100:0"}))
    assert examples
    for example in examples:
        assert example.targets[0] == pytest.approx((4 * example.pixels[1] + 4 * COUNT) / 100)


def test_a_wrong_prompt_is_only_known_to_be_wrong_where_the_right_one_is_rated(world, files, tmp_path):
    bare = write(tmp_path / "bare.csv", [{k: row[k] for k in ("image", "prompt", "quality")} for row in OWN])
    settings = recipe(world, bare, images=folder_of(files), no_prompt_share=0.0, rating_epochs=20.0)
    _, examples = planned(settings)
    assert all(math.isnan(e.second_correspondence) and e.second_prompt for e in examples)
    _, rated = planned(replace(settings, ratings=files[0]))
    assert not any(math.isnan(e.second_correspondence) for e in rated)


def test_pictures_of_one_prompt_alone_get_no_wrong_prompt(world, files, tmp_path):
    one = write(tmp_path / "one.csv", [row | {"prompt": "a tree"} for row in OWN])
    settings = recipe(world, one, images=folder_of(files), test_fold=None, no_prompt_share=0.0)
    _, examples = planned(settings)
    assert examples and UNRELATED_SCORE not in {e.second_correspondence for e in examples}
    assert "" in {e.second_prompt for e in examples}


def test_no_prompt_is_on_both_sides(world, files):
    settings = recipe(world, files)
    sources, examples = planned(settings)
    parts = split_rated(sources.ratings, settings)
    assert len(parts.test) and not set(parts.test) & set(parts.train)
    assert {e.pixels[1] for e in examples} == set(parts.train.tolist())
    prompts = sources.ratings.groups()
    assert not {prompts[i] for i in parts.test} & {prompts[i] for i in parts.train}
    whole = split_rated(sources.ratings, replace(settings, test_fold=None))
    assert len(whole.train) == 2 * COUNT and not len(whole.test)


def test_what_a_file_keeps_apart_stays_apart_in_every_file(world, files, tmp_path):
    """Picture 0 is marked as test: no picture of its prompt trains, nor the same picture in another file."""
    rows = (("0.png", PROMPTS[0], "test"), ("3.png", "something else", "validation"), ("5.png", "", "train"))
    marked = [
        RatedImage(source="mine", image=image, prompt=prompt or None, mos={"quality": 40.0}, split=split)
        for image, prompt, split in rows
    ]
    write_jsonl(tmp_path / "marked.jsonl", marked)
    both = [files[0], str(tmp_path / "marked.jsonl")]
    settings = recipe(world, both, images=folder_of(files), test_fold=None)
    sources, examples = planned(settings)
    learned = {sources.ratings.pictures[e.pixels[1]].path.name for e in examples}
    assert learned == {f"{i}.png" for i in range(COUNT) if i % 6 not in (0, 3)}
    assert {e.prompt for e in examples}.isdisjoint({PROMPTS[0], PROMPTS[3], "something else"})


def test_what_no_fold_can_be_made_of_is_said(world, files, tmp_path):
    one = write(tmp_path / "one.csv", [row | {"prompt": "a tree"} for row in OWN])
    with pytest.raises(MintIQAError, match="set test_fold=null") as caught:
        planned(recipe(world, one, images=folder_of(files)))
    assert caught.value.code == "too_few_ratings"
    for wrong, message in (({"test_fold": 5}, "give 0..4, or null"), ({"rating_epochs": -1.0}, "below 0")):
        with pytest.raises(MintIQAError, match=message):
            planned(recipe(world, files, **wrong))


def test_distorted_pictures_without_references_train_but_make_no_fold(world, files, tmp_path):
    """As LIVE is imported: nobody knows which of them show the same scene."""
    live = [
        RatedImage(source="live", image=f"{i}.png", distortion="blur", mos={"quality": 4.0 * i})
        for i in range(6)
    ]
    write_jsonl(tmp_path / "live.jsonl", live)
    settings = recipe(world, str(tmp_path / "live.jsonl"), images=folder_of(files), test_fold=None)
    assert len(planned(settings)[1]) == 12
    with pytest.raises(MintIQAError, match="does not say what it derives from"):
        planned(replace(settings, test_fold=0))


def test_a_run_that_keeps_nothing_apart_leaves_no_list_of_an_earlier_one(world, files, tmp_path):
    settings = recipe(world, files, tmp_path / "run", stop_after=1)
    (tmp_path / "run").mkdir()
    stage1.data_of(settings, *fresh.load_model(str(world.config)))
    assert (tmp_path / "run" / "test.csv").is_file()
    stage1.data_of(replace(settings, test_fold=None), *fresh.load_model(str(world.config)))
    assert not (tmp_path / "run" / "test.csv").exists()


def test_long_pictures_are_stored_as_the_model_will_see_them(world, files):
    sources, _ = planned(recipe(world, files))
    stored = sources.pixels[OWN_SET][1]
    picture = Image.open(files[0].replace("own.csv", "1.png"))
    middle = picture.resize(stored.shape[:2], Image.Resampling.BICUBIC, box=(5, 0, 85, 40))
    assert np.array_equal(stored, np.asarray(middle))


def test_a_run_learns_from_them_alone_and_says_what_it_kept_apart(world, files, tmp_path, capsys):
    settings = recipe(world, files, tmp_path / "run", learning_rate=3e-3, head_learning_rate=3e-3)
    folder = stage1.train(settings)
    start, _ = stage1.learner_of(settings)
    learned = load_file(folder / "model.safetensors")
    before = start.model.state_dict()
    assert any(not torch.equal(before[name].half(), value) for name, value in learned.items())
    assert not any(value.isnan().any() for value in learned.values())
    assert "own.csv: 12 pictures with quality 1 (worst) .. 5 (best)" in capsys.readouterr().err
    labels = read_labels(tmp_path / "run" / "test.csv", {})
    parts = split_rated(sources_of(settings, SIZE, 2.0).ratings, settings)
    assert len(labels.rows) == len(parts.test)


def test_a_run_does_not_go_on_with_other_ratings(world, files, tmp_path):
    path = write(tmp_path / "mine.csv", LIVE)
    settings = recipe(world, path, tmp_path / "run", images=folder_of(files), stop_after=1, save_steps=1)
    stage1.train(settings)
    write(tmp_path / "mine.csv", [row | {"quality": 50} for row in LIVE])
    with pytest.raises(MintIQAError, match="begun with other ratings") as caught:
        stage1.train(replace(settings, stop_after=None), resume=True)
    assert caught.value.code == "other_recipe"
    write(tmp_path / "mine.csv", LIVE)
    assert json.loads(
        (stage1.train(replace(settings, stop_after=None), resume=True) / "config.json").read_text()
    )
