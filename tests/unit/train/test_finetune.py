"""Fine-tuning on one's own ratings: scores follow them, all else stays, and what can't be used is said."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from instruct_data.importers.own import read_own
from instruct_data.records import RatedImage, write_jsonl
from mint_iqa import cli
from mint_iqa.assessor import Assessor
from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import Findings
from tests import tiny
from train import finetune
from train.data.ratings import read_ratings
from train.data.vectors import ShownPicture, vectors_of
from train.finetune import Finetune
from train.heads import ridge
from train.heads.ridge import (
    Adjustment,
    HeadInputs,
    choose_strength,
    fit_adjustment,
    head_inputs,
    learn_adjustment,
)

ROOT = Path(__file__).resolve().parents[3]
PROMPTS = ("red fox", "a cat", "snow", "a painting", "under a cat", "red snow", "fox painting", "a fox")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINT_IQA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, tiny_language: Path) -> Path:
    return tiny.save(tmp_path_factory.mktemp("start"), tiny_language, shortcut=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures, darker and lighter; `light` tells how light each is, 0..1."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(60):
        rng = np.random.default_rng(number)
        pixels = 200 * light(number) + rng.uniform(0, 55, (8, 8, 3))
        image = Image.fromarray(pixels.astype(np.uint8)).resize((40, 40), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")
    return folder


def light(number: int) -> float:
    return float(np.random.default_rng([7, number]).uniform())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows(count: int = 40, **changes: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Pictures rated from 1 to 5 by how light they are."""
    columns: dict[str, Callable[[int], Any]] = {
        "image": lambda i: f"{i}.png",
        "prompt": lambda i: PROMPTS[i % len(PROMPTS)],
        "quality": lambda i: round(1 + 4 * light(i), 2),
        **changes,
    }
    return [{name: value(i) for name, value in columns.items()} for i in range(count)]


@pytest.fixture(scope="module")
def mine(start: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of 40 ratings."""
    output = tmp_path_factory.mktemp("runs") / "mine"
    ratings = write(folder / "ratings.csv", rows())
    return finetune.finetune(Finetune(str(ratings), model=str(start), output=str(output)))


# --- the whole command ---


def test_an_examiner_learns_own_ratings_too_and_its_intervals_stay(
    folder: Path, tiny_language: Path, tmp_path: Path
) -> None:
    start = tiny.save(tmp_path / "start", tiny_language, examiner=tiny.examiner_settings())
    ratings = write(tmp_path / "ratings.csv", rows())
    settings = Finetune(str(ratings), images=str(folder), model=str(start), output=str(tmp_path / "mine"))
    mine = finetune.finetune(settings)
    shown = [(folder / f"{i}.png", "a fox") for i in range(40, 60)]
    scored = [list(Assessor.from_pretrained(path).assess_many(shown)) for path in (start, mine)]
    before, after = (
        np.mean([abs(assessed.scores.quality - 100 * light(i)) for i, assessed in enumerate(one, 40)])
        for one in scored
    )
    assert after < 0.7 * before
    for old, new in zip(*scored, strict=True):
        assert new.scores.authenticity == old.scores.authenticity
        low, high = new.intervals.quality
        assert low <= new.scores.quality <= high
    changed = {
        name
        for name, tensor in load_file(mine / "model.safetensors").items()
        if not torch.equal(tensor, load_file(start / "model.safetensors")[name])
    }
    assert changed <= {"examiner.own_direction", "examiner.own_line"}


def test_the_error_falls_on_pictures_that_no_fit_saw(start: Path, mine: Path, folder: Path) -> None:
    before, after = (
        np.mean([abs(assessed.scores.quality - 100 * light(i)) for i, assessed in enumerate(scored, 40)])
        for scored in (
            list(
                Assessor.from_pretrained(path).assess_many(
                    [(folder / f"{i}.png", None) for i in range(40, 60)]
                )
            )
            for path in (start, mine)
        )
    )
    assert after < 0.6 * before


def test_the_report_says_so_with_intervals(mine: Path) -> None:
    told = json.loads((mine / finetune.REPORT).read_text())
    figures = told["figures"]["quality"]
    assert told["figures"].keys() == {"quality"}
    assert (figures["pictures"], figures["groups"]) == (40, len(PROMPTS))
    value, low, high = figures["error_less_by"]
    assert 0 < low < value < high
    assert figures["error_before"][0] - figures["error_after"][0] == pytest.approx(value)


def test_only_the_rated_head_changes(start: Path, mine: Path) -> None:
    before, after = (load_file(path / "model.safetensors") for path in (start, mine))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"heads.quality.layers.0.weight", "heads.quality.layers.1.bias"}


def test_faults_and_what_an_explanation_sees_stay_to_the_bit(start: Path, mine: Path, folder: Path) -> None:
    one, two = (Assessor.from_pretrained(path) for path in (start, mine))
    rated = [a.rate([(a.read(folder / "3.png"), "red fox")])[0] for a in (one, two)]
    assert rated[0].faults == rated[1].faults
    assert rated[0].scores.authenticity == rated[1].scores.authenticity
    assert torch.equal(rated[0].quality_vectors, rated[1].quality_vectors)
    question = "Why does it score low?"
    assert torch.equal(one.soft_prompt(rated[0], question), two.soft_prompt(rated[1], question))


def test_the_folder_scores_and_explains_from_the_command_line(
    mine: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["score", str(folder / "1.png"), "--model", str(mine), "--format", "jsonl"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["explanation"]["quality"]
    assert record["scores"]["quality"] == pytest.approx(
        Assessor.from_pretrained(mine).assess(folder / "1.png", explain=False).scores.quality, abs=0.01
    )


def test_ratings_that_the_model_gives_already_change_nothing(
    start: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assessor = Assessor.from_pretrained(start)
    scores = [assessor.assess(folder / f"{i}.png", PROMPTS[i % 8], explain=False).scores for i in range(20)]
    ratings = write(folder / "own.csv", rows(20, quality=lambda i: scores[i].quality))
    columns = {"quality": "quality:0:100"}
    output = finetune.finetune(Finetune(str(ratings), None, columns, str(start), str(tmp_path / "same")))
    before, after = (load_file(path / "model.safetensors") for path in (start, output))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "stays as it was" in capsys.readouterr().out


def test_pictures_that_a_file_keeps_for_testing_are_not_learnt_from(
    start: Path, folder: Path, tmp_path: Path
) -> None:
    def run(name: str, wrong: float) -> dict[str, Any]:
        records = [
            RatedImage(
                image=f"{i}.png", source="own", split="test" if i % 4 == 0 else "train",
                mos={"quality": wrong if i % 4 == 0 and wrong else 100 * light(i)},
            ) for i in range(40)
        ]  # fmt: skip
        write_jsonl(folder / f"{name}.jsonl", records)
        recipe = Finetune(str(folder / f"{name}.jsonl"), model=str(start), output=str(tmp_path / name))
        output = finetune.finetune(recipe)
        figures = json.loads((output / finetune.REPORT).read_text())["figures"]["quality"]
        return {"figures": figures, "weights": load_file(output / "model.safetensors")}

    right, wrong = run("right", 0), run("wrong", 50)
    assert right["figures"]["pictures"] == 10 and right["figures"]["own_test"]
    name = "heads.quality.layers.0.weight"
    assert torch.equal(right["weights"][name], wrong["weights"][name])


def test_two_test_pictures_are_too_few_to_judge_by_and_are_not_learnt_from_either(
    start: Path, folder: Path, tmp_path: Path
) -> None:
    records = [
        RatedImage(
            image=f"{i}.png", source="own", split="test" if i < 2 else "train",
            mos={"quality": 100 * light(i)},
        ) for i in range(30)
    ]  # fmt: skip
    write_jsonl(folder / "two.jsonl", records)
    recipe = Finetune(str(folder / "two.jsonl"), model=str(start), output=str(tmp_path / "run"))
    figures = json.loads((finetune.finetune(recipe) / finetune.REPORT).read_text())["figures"]["quality"]
    assert (figures["pictures"], figures["own_test"]) == (28, False)


@pytest.mark.parametrize("kept", [25, 30])
def test_test_pictures_do_not_count_among_those_to_learn_from(
    start: Path, folder: Path, tmp_path: Path, kept: int
) -> None:
    records = [
        RatedImage(
            image=f"{i}.png", source="own", split="test" if i < kept else "train",
            mos={"quality": 100 * light(i)},
        ) for i in range(30)
    ]  # fmt: skip
    write_jsonl(folder / "kept.jsonl", records)
    with pytest.raises(MintIQAError, match=f"has {30 - kept} ratings of quality to learn from") as caught:
        finetune.finetune(
            Finetune(str(folder / "kept.jsonl"), model=str(start), output=str(tmp_path / "run"))
        )
    assert caught.value.code == "too_few_ratings"


def test_test_pictures_take_no_fold_from_those_to_learn_from(start: Path, folder: Path) -> None:
    """One prompt of 30 test pictures would fill a fold by itself."""
    records = [
        RatedImage(
            image=f"{i}.png", source="own", split="test" if i < 30 else "train",
            prompt="a fox" if i < 30 else f"thing {i % 10}", mos={"quality": 100 * light(i)},
        ) for i in range(60)
    ]  # fmt: skip
    write_jsonl(folder / "large.jsonl", records)
    ratings, assessor = read_ratings(str(folder / "large.jsonl"), None, {}), Assessor.from_pretrained(start)
    seen = head_inputs(assessor.model, "quality", vectors_of(assessor, ratings.pictures))
    case = finetune._case(Finetune(), ratings, "quality", np.arange(60), seen)
    assert set(case.folds[~case.test]) == set(range(Finetune().folds))


def test_a_prompt_in_another_spelling_is_the_same_prompt(start: Path, folder: Path, tmp_path: Path) -> None:
    spelt = [("a fox", "A  fox", "a cat", "snow")[i % 4] for i in range(40)]
    path = write(folder / "spelt.csv", rows(prompt=lambda i: spelt[i]))
    output = finetune.finetune(Finetune(str(path), model=str(start), output=str(tmp_path / "run")))
    assert json.loads((output / finetune.REPORT).read_text())["figures"]["quality"]["pictures"] == 40


# --- several sets ---


def test_sets_of_different_range_mix_and_what_one_lacks_is_masked(
    start: Path, folder: Path, tmp_path: Path
) -> None:
    """One set has authenticity in tenths and a prompt, the other one difference score and none."""
    first = write(folder / "first.csv", rows(20, authenticity=lambda i: round(light(i), 3)))
    records = [
        RatedImage(image=f"{i}.png", source="live", mos={"quality": 100 * light(i)}) for i in range(20, 50)
    ]
    write_jsonl(folder / "live.jsonl", records)
    ratings = read_ratings([str(first), str(folder / "live.jsonl")], None, {})
    assert ratings.targets("quality") == pytest.approx([light(i) for i in range(50)], abs=0.01)
    assert np.isnan(ratings.targets("authenticity")).tolist() == [False] * 20 + [True] * 30
    assert np.isnan(ratings.targets("correspondence")).all()
    output = finetune.finetune(
        Finetune([str(first), str(folder / "live.jsonl")], model=str(start), output=str(tmp_path / "both"))
    )
    figures = json.loads((output / finetune.REPORT).read_text())["figures"]
    assert {name: f["pictures"] for name, f in figures.items()} == {"quality": 50, "authenticity": 20}
    assert figures["quality"]["error_less_by"][1] > 0


def test_raters_who_disagree_count_less_within_their_set(folder: Path) -> None:
    spread = {0: 0.4, 1: 0.8, 2: 1.6}
    path = write(folder / "spread.csv", rows(3, quality_std=lambda i: spread[i]))
    ratings = read_ratings([str(path)], None, {"quality": "quality:1:5"})
    assert [r.mos_std["quality"] for r in ratings.records] == pytest.approx([10, 20, 40])
    weights = ratings.weights("quality")
    assert weights.mean() == pytest.approx(1)
    assert weights / weights[1] == pytest.approx([2 / 1.25, 1, 2 / 5])
    assert (ratings.weights("authenticity") == 1).all()


def test_pictures_of_one_prompt_and_copies_of_a_picture_share_a_fold(folder: Path, tmp_path: Path) -> None:
    names = [*(f"{i}.png" for i in range(20)), "copy.png"]
    (folder / "copy.png").write_bytes((folder / "5.png").read_bytes())
    prompts = [f"prompt {i % 10}" for i in range(20)] + [""]
    listed = zip(names, prompts, strict=True)
    path = write(folder / "copies.csv", [{"image": n, "prompt": p, "quality": 3} for n, p in listed])
    folds = read_ratings([str(path)], None, {}).folds(np.arange(21), 5, seed=0)
    assert (folds[:10] == folds[10:20]).all()
    assert folds[20] == folds[5]


# --- reading one's own CSV ---


@pytest.mark.parametrize(
    ("values", "ends"),
    [("0 .5 1", (0, 1)), ("1 5", (1, 5)), ("1.5 3", (1, 5)), ("0 5", (0, 5)), ("1 9", (1, 10)),
     ("0 9", (0, 10)), ("12 80", (0, 100))],
)  # fmt: skip
def test_the_range_is_found_where_none_is_stated(tmp_path: Path, values: str, ends: tuple[int, int]) -> None:
    path = write(tmp_path / "a.csv", [{"image": f"{v}.png", "quality": v} for v in values.split()])
    _, columns = read_own(path, {}, Findings(path))
    assert (columns.scores["quality"].worst, columns.scores["quality"].best) == ends


def test_columns_may_have_other_names_and_stated_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"file": "a.png", "text": "a cat", "dmos": 20}])
    named = {"image": "file", "prompt": "text", "quality": "dmos:100:0"}
    (rating,), _ = read_own(path, named, Findings(path))
    assert (rating.image, rating.prompt, rating.mos) == ("a.png", "a cat", {"quality": 80})


# --- the fit ---


def seen(count: int, width: int = 6) -> HeadInputs:
    rng = np.random.default_rng(1)
    return HeadInputs(rng.normal(size=(count, width)), rng.normal(size=count), rng.uniform(size=count))


def test_the_fit_is_weighted_ridge_regression_towards_the_start() -> None:
    """Against the normal equations in the features' own space, with an intercept that is not held."""
    data, rng = seen(30), np.random.default_rng(2)
    wanted, weights = rng.uniform(size=30), rng.uniform(0.5, 2, 30)
    share = weights / weights.sum()
    parts = [data.score[:, None], data.vectors, data.similarity[:, None]]
    even = [p - share @ p for p in parts]
    x = np.concatenate([e / np.sqrt(share @ (e**2).sum(axis=1)) for e in even], axis=1)
    x = np.concatenate([x, np.ones((30, 1))], axis=1)
    held = np.diag([3.0] * 8 + [0.0])
    w = np.diag(share * 30)
    coefficients = np.linalg.solve(x.T @ w @ x + held, x.T @ w @ (wanted - data.score))
    assert fit_adjustment(data, wanted, weights, 3.0)(data) == pytest.approx(data.score + x @ coefficients)


def test_the_stronger_it_is_held_the_less_a_score_moves() -> None:
    data, wanted = seen(30), np.random.default_rng(2).uniform(size=30)
    moved = [np.ptp(fit_adjustment(data, wanted, np.ones(30), s)(data) - data.score) for s in ridge.STRENGTHS]
    assert moved[:2] == [0, pytest.approx(0)]
    assert moved[2:] == sorted(moved[2:])


def test_the_strongest_hold_that_is_as_good_as_the_best_is_chosen() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (3, 100)) * 0.5 + 1
    noise -= noise.mean(axis=1, keepdims=True)
    assert choose_strength(noise + np.array([[1.01], [1.0], [1.005]])) == 0
    assert choose_strength(noise + np.array([[2.0], [1.0], [1.005]])) == 1


@pytest.mark.parametrize("dimension", ["quality", "correspondence"])
def test_the_weights_say_what_the_adjustment_says(start: Path, folder: Path, dimension: str) -> None:
    assessor = Assessor.from_pretrained(start)
    shown = [ShownPicture(folder / f"{i}.png", f"{i}", PROMPTS[i % 8]) for i in range(6)]
    data = head_inputs(assessor.model, dimension, vectors_of(assessor, shown))
    rng = np.random.default_rng(3)
    gain = 0.3 if dimension == "correspondence" else 0.0
    change = Adjustment(-0.4, rng.normal(size=data.vectors.shape[1]) / 9, gain, 0.2)
    ridge.apply(assessor.model, dimension, change)
    assessor.model.config.heads[dimension] = 1  # another key in the cache: its weights are not the folder's
    again = head_inputs(assessor.model, dimension, vectors_of(assessor, shown))
    assert again.score == pytest.approx(change(data), abs=1e-5)


def test_what_an_unrelated_prompt_costs_follows_the_adjustment() -> None:
    model = tiny.lively(tiny.model(matching=True))
    vectors, similarity = torch.randn(5, 4, 32), torch.linspace(-0.2, 0.6, 5)
    with torch.no_grad():
        model.alignment.knee.fill_(0.3)
        model.alignment.slope.fill_(2.0)
        before = model.heads["correspondence"](vectors) + model.alignment.bonus(similarity)
        ridge.apply(model, "correspondence", Adjustment(-0.4, np.zeros(32), 0.3, 0.2))
        after = model.heads["correspondence"](vectors) + model.alignment.bonus(similarity)
    assert torch.allclose(after, 0.6 * before + 0.3 * similarity + 0.2, atol=1e-5)


def test_a_head_of_several_outputs_changes_the_one_that_is_read() -> None:
    model = tiny.lively(tiny.model(heads={"hidden": 8, "outputs": 3, "index": 1}))
    vectors = torch.randn(5, 4, 32, generator=torch.Generator().manual_seed(0))
    head = model.heads["authenticity"]
    with torch.no_grad():
        before = head(vectors)
        direction = np.random.default_rng(0).normal(size=32) / 9
        ridge.apply(model, "authenticity", Adjustment(0.5, direction, 0.0, -0.1))
        wanted = 1.5 * before + vectors.mean(dim=1) @ torch.from_numpy(direction).float() - 0.1
        assert torch.allclose(head(vectors), wanted, atol=1e-5)


def test_what_is_learnt_is_the_same_every_time() -> None:
    data, wanted = seen(30), np.random.default_rng(2).uniform(size=30)
    one, two = (learn_adjustment(data, wanted, np.ones(30), np.arange(30) % 5) for _ in range(2))
    assert one[1] == two[1] and (one[0].direction == two[0].direction).all()


# --- the cache ---


def test_a_picture_is_encoded_once_for_each_prompt_and_for_each_weights(
    start: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assessor = Assessor.from_pretrained(start)
    encoded: list[int] = []
    encode = assessor.model.encode_image
    monkeypatch.setattr(
        assessor.model,
        "encode_image",
        lambda pixels, explain: (encoded.append(len(pixels)), encode(pixels))[1],
    )
    one = [
        ShownPicture(folder / "50.png", "fifty", "red fox"),
        ShownPicture(folder / "51.png", "fifty-one", "red fox"),
    ]
    first = vectors_of(assessor, one)
    again = vectors_of(assessor, one)
    assert encoded == [2]
    assert (first.vectors == again.vectors).all() and (first.scores == again.scores).all()
    vectors_of(assessor, [ShownPicture(folder / "50.png", "fifty", "snow")])
    assert encoded == [2, 1]
    assessor.model.config.processor["image_size"] = 28.0
    vectors_of(assessor, one)
    assert encoded == [2, 1, 2]


# --- what can't be used ---


def broken(folder: Path, change: Callable[[list[dict[str, Any]]], Any], name: str) -> Path:
    changed = rows()
    return write(folder / f"{name}.csv", change(changed) or changed)


@pytest.mark.parametrize(
    ("name", "change", "code", "words"),
    [
        ("bad_number", lambda r: r[3].update(quality="good"), "unusable_lines", "line 5"),
        ("no_file", lambda r: r[3].update(image="x.png"), "image_missing", "'x.png'"),
        ("equal", lambda r: [row | {"quality": 3} for row in r], "ratings_equal", "Every rating of quality"),
        ("few", lambda r: r[:7], "too_few_ratings", "has 7 ratings of quality"),
        ("prompts", lambda r: [row | {"prompt": "a cat"} for row in r], "too_few_ratings", "1 prompts"),
        ("names", lambda r: [{"image": "1.png", "stars": 3}], "bad_argument", "it has: image, stars"),
        ("pictures", lambda r: [{"picture": "1.png", "quality": 3}], "unreadable_file", "no column 'image'"),
        ("range", lambda r: r[3].update(quality=700), "bad_argument", "no usual scale"),
        ("words", lambda r: [row | {"quality": "bad"} for row in r], "bad_argument", "has no number"),
        ("twice", lambda r: [*r, r[3] | {"quality": 1}], "unusable_lines", "other scores here"),
        ("no_prompt", lambda r: [{"image": "1.png", "correspondence": 3}], "prompt_missing", "no prompt"),
    ],
)
def test_what_is_wrong_with_ratings_is_one_sentence(
    start: Path, folder: Path, tmp_path: Path, name: str, change: Any, code: str, words: str
) -> None:
    path = broken(folder, change, name)
    with pytest.raises(MintIQAError) as caught:
        finetune.finetune(Finetune(str(path), model=str(start), output=str(tmp_path / "run")))
    assert caught.value.code == code
    assert words in caught.value.message and path.name in caught.value.message
    assert not (tmp_path / "run").exists()


def test_a_damaged_picture_is_named(start: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "damaged.png").write_bytes((folder / "1.png").read_bytes()[:200])
    path = broken(folder, lambda r: r[3].update(image="damaged.png"), "damaged")
    with pytest.raises(MintIQAError, match=r"damaged\.png is cut short"):
        finetune.finetune(Finetune(str(path), model=str(start), output=str(tmp_path / "run")))


def test_a_folder_that_is_there_is_not_overwritten(mine: Path, start: Path, folder: Path) -> None:
    with pytest.raises(MintIQAError) as caught:
        finetune.finetune(Finetune(str(folder / "ratings.csv"), model=str(start), output=str(mine)))
    assert caught.value.code == "output_exists"


def test_the_command_ends_with_the_sentence_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"ratings={tmp_path}/none.csv", f"output={tmp_path}/run"]
    recipe = str(ROOT / "configs" / "nano" / "finetune.yaml")
    monkeypatch.setattr(sys, "argv", ["finetune", recipe, "--set", *settings])
    assert finetune.main() == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"error: {tmp_path}/none.csv does not exist: check the path.\n")


def test_a_disk_that_fills_up_is_said_in_one_sentence(
    start: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(finetune, "save_file", full)
    path = write(folder / "full.csv", rows())
    with pytest.raises(MintIQAError, match="No space left") as caught:
        finetune.finetune(Finetune(str(path), model=str(start), output=str(tmp_path / "run")))
    assert caught.value.code == "output_unwritable" and not (tmp_path / "run").exists()


def test_settings_may_be_given_one_by_one(
    start: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recipe = write(folder / "one.csv", rows()), ROOT / "configs" / "nano" / "finetune.yaml"
    settings = [f"ratings={path}", f"model={start}", f"output={tmp_path / 'run'}"]
    monkeypatch.setattr(sys, "argv", ["finetune", str(recipe), *(x for s in settings for x in ("--set", s))])
    assert finetune.main() == 0
    told = json.loads((tmp_path / "run" / finetune.REPORT).read_text())
    assert (told["recipe"]["ratings"], told["recipe"]["model"]) == (str(path), str(start))
