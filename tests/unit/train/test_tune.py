"""Tower and heads learn from pixels: what the whole model sees, and nothing of the test."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import Tensor

from mint_iqa.errors import MintIQAError
from mint_iqa.model.fresh import load_model
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.vision import PIXEL_STATISTICS
from tests.training_world import CAPTIONS, GENERATORS, NANO, PROMPTS, SIZE, World, living_in, write_pictures
from train import prepare, tune
from train.data import features, sets
from train.data.features import load_features
from train.data.sets import folds_of, split
from train.engine.checkpoints import held_out
from train.engine.commands import step
from train.engine.recipes import FrozenFit, HeldOut, OwnUnitsFit, Tower, Tune
from train.heads import tuned
from train.heads.own_units import fit_own_units, originals
from train.heads.readout import FITTED, Readout, smoothed
from train.heads.tuned import TunedReadout, TuningState, image_vectors
from train.measure import generators, scores
from train.measure.generators import Job, rows_of
from train.measure.predictions import Predictions

SHORT = Tower(epochs=2, batch_size=4, learning_rate=1e-2, head_learning_rate=1e-2)
RECIPE = Tune(tower=SHORT)
PHOTOGRAPHS = len(CAPTIONS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with living_in(tmp_path_factory.mktemp("tuning")) as world:
        prepare.build_all(SIZE)
        yield world


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model and its features."""
    folder = tmp_path_factory.mktemp("align")
    load_model(str(world.config))[0].save_pretrained(folder / "model")
    (folder / "recipe.json").write_text(json.dumps(asdict(HeldOut(held_out_photographs=0))))
    loaded(folder)
    return folder


def loaded(folder: Path) -> dict[str, Tensor]:
    return load_features(folder, PHOTOGRAPHS)


@pytest.fixture(scope="module")
def human(world: World) -> list[dict[str, str]]:
    return sets.agiqa3k(sets.data_root())


def model_of(folder: Path) -> MintIQAModel:
    return MintIQAModel.from_pretrained(folder / "model", dtype=torch.float32).eval()


def run(folder: Path, found: dict[str, Tensor], rows: Tensor, human: list[dict[str, str]]) -> TunedReadout:
    with TemporaryDirectory() as place:
        return tuned.tune_model(folder, found, rows, human, RECIPE, Path(place) / "tune.pt")


def without(found: dict[str, Tensor], fold: int) -> Tensor:
    return (found["fold"] != fold).nonzero().squeeze(1)


@torch.no_grad()
def test_the_middle_of_a_picture_looks_to_tuning_as_it_does_to_the_whole_model(folder, human):
    found, model = loaded(folder), model_of(folder)
    readout = TunedReadout(model, found, human, RECIPE.heads)
    rows = torch.arange(len(found["fold"]))
    statistics, image = readout.picture(rows)
    # float16 and bfloat16 lie between them.
    torch.testing.assert_close(statistics, found["statistics"], atol=0.05, rtol=0.02)
    assert torch.nn.functional.cosine_similarity(image, found["image"]).min() > 0.999


@torch.no_grad()
def test_the_sentence_vector_of_statistics_is_that_of_the_tokens(folder):
    model = model_of(folder)
    for norm in model.vision.readout.norms:
        norm.weight.normal_()
        norm.bias.normal_()
    encoded = model.encode_image(torch.randn(3, 3, 28, 28))
    expected = model.alignment.image_vector(encoded.image_embeds)
    torch.testing.assert_close(image_vectors(model, encoded.statistics), expected, atol=1e-5, rtol=1e-4)


def test_while_it_learns_it_sees_a_picture_each_time_from_another_crop(folder):
    found = loaded(folder)
    crops = tuned.TowerCrops(model_of(folder), found)
    row = torch.zeros(1, dtype=torch.long)
    middle = [crops(row, None) for _ in range(2)]
    assert torch.equal(*middle)
    generator = torch.Generator().manual_seed(0)
    assert len({crops(row, generator).numpy().tobytes() for _ in range(8)}) > 4


def test_tuning_changes_the_heads_the_blocks_and_the_patch_embedding_alone(folder, human):
    before, found = model_of(folder), loaded(folder)
    tuned = run(folder, found, without(found, 0), human).model
    changed = {n for (n, a), b in zip(before.named_parameters(), tuned.parameters(), strict=True)
               if not torch.equal(a, b)}  # fmt: skip
    tower = ("vision.backbone.encoder.layer.", "vision.backbone.embeddings.patch_embeddings.")
    assert all(n.startswith((*FITTED, *tower)) for n in changed), changed
    for part in (*tower, "shortcut", "heads", "fault_head", "alignment.gain"):
        assert any(n.startswith(part) for n in changed), part


def test_a_stopped_run_goes_on_and_ends_with_the_same_weights(folder, human, tmp_path, monkeypatch):
    found = loaded(folder)
    rows = without(found, 0)
    through = run(folder, found, rows, human).model.state_dict()
    save = TuningState.save

    def stop_after_saving(state: TuningState, path: Path, epoch: int) -> None:
        save(state, path, epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(TuningState, "save", stop_after_saving)
    with pytest.raises(KeyboardInterrupt):
        tuned.tune_model(folder, found, rows, human, RECIPE, tmp_path / "tune.pt")
    monkeypatch.setattr(TuningState, "save", save)
    steps = []
    monkeypatch.setattr(
        TuningState, "step", lambda c, loss, step=TuningState.step: (steps.append(1), step(c, loss))
    )
    resumed = tuned.tune_model(folder, found, rows, human, RECIPE, tmp_path / "tune.pt").model.state_dict()
    assert all(torch.equal(through[k], v) for k, v in resumed.items())
    rated = int(found["human"][rows].sum())
    assert len(steps) == (rated + round(SHORT.others * rated)) // SHORT.batch_size


def test_nothing_of_the_tested_pictures_reaches_the_weights(folder, human):
    found = loaded(folder)
    rows = without(found, 1)
    other = {k: v.clone() for k, v in found.items()}
    tested = found["fold"] == 1
    for values in other.values():
        if values.is_floating_point():
            values[tested] = torch.rand_like(values[tested])
    other["row"][tested] = 0  # pixels of another picture
    other["set"][tested] = 0
    states = []
    for features_ in (found, other):
        readout = run(folder, features_, rows, human)
        fit_own_units(readout, rows, OwnUnitsFit(epochs=2))
        states.append(readout.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


@pytest.mark.parametrize("other", ["rows", "start", "settings"])
def test_a_stopped_run_is_not_gone_on_with_by_another(folder, human, tmp_path, monkeypatch, other):
    found, checkpoint = loaded(folder), tmp_path / "tune.pt"
    tuned.tune_model(folder, found, without(found, 0), human, RECIPE, checkpoint)
    rows, recipe = without(found, 1 if other == "rows" else 0), RECIPE
    if other == "settings":
        recipe = replace(RECIPE, tower=replace(SHORT, averaging=0.9))
    if other == "start":
        model = model_of(folder)
        model.vision.backbone.embeddings.patch_embeddings.projection.bias.data += 1e-3
        monkeypatch.setattr(MintIQAModel, "from_pretrained", lambda *_, **__: model)
    with pytest.raises(MintIQAError, match=r"tune\.pt is of a run with other settings") as caught:
        tuned.tune_model(folder, found, rows, human, recipe, checkpoint)
    assert caught.value.code == "other_recipe"


@pytest.mark.parametrize(
    "left", ["all but one part", "another model's", "other pictures'", "fewer photographs"]
)
def test_features_that_are_not_those_of_the_run_are_computed_anew(folder, tmp_path, monkeypatch, left):
    run = shutil.copytree(folder, tmp_path / "run")
    parts = sorted(run.glob("features-*of*.safetensors"))
    photographs, expected = PHOTOGRAPHS, len(parts)
    if left == "another model's":
        model = model_of(folder)
        model.shortcut.query_gain.data += 1
        model.save_pretrained(run / "model")
    elif left == "fewer photographs":
        photographs -= 1
    else:
        parts[0].unlink()
        expected = 1
    computed = []
    original = features.features_of
    monkeypatch.setattr(features, "features_of", lambda *a: (computed.append(a[-1]), original(*a))[1])
    load_features(run, photographs)
    assert len(computed) == expected
    load_features(run, photographs)
    assert len(computed) == expected


def test_features_are_not_computed_from_pictures_that_changed_since_they_were_stored(
    folder, tmp_path, monkeypatch
):
    write_pictures(tmp_path / "data", PROMPTS[:-1])
    monkeypatch.setenv("MINT_IQA_DATA", str(tmp_path))
    with pytest.raises(MintIQAError, match=r"run python -m train\.prepare") as caught:
        loaded(folder)
    assert caught.value.code == "pictures_missing"


def test_photographs_that_the_run_keeps_out_have_no_features(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    (run / "recipe.json").write_text(json.dumps(asdict(HeldOut(held_out_photographs=2))))
    before, after = ((loaded(f)["source"] < 0).sum().item() for f in (folder, run))
    assert before == 3 * len(CAPTIONS) and after == 3 * (len(CAPTIONS) - 2)


def test_settling_moves_authenticity_and_faults_and_no_other_score(folder, human, tmp_path):
    found = loaded(folder)
    rows, everything = without(found, 0), torch.arange(len(found["fold"]))
    readout = run(folder, found, rows, human)
    weights = {k: v.clone() for k, v in readout.model.state_dict().items()}

    def judged():
        with torch.no_grad():
            return readout.outputs(readout.picture(everything), everything, "first")

    before = judged()
    fit_own_units(readout, rows, OwnUnitsFit(epochs=2))
    after = judged()
    torch.testing.assert_close(after.scores[:, [0, 2]], before.scores[:, [0, 2]], atol=1e-5, rtol=0)
    assert (after.scores[:, 1] - before.scores[:, 1]).abs().mean() > 1e-3
    assert (after.faults - before.faults).abs().mean() > 1e-3
    settled = readout.model.state_dict()
    changed = {k for k, v in weights.items() if not torch.equal(v, settled[k])}
    assert {k.split(".layers.")[0] for k in changed} == {"heads.authenticity", "fault_head", "shortcut"}
    readout.model.save_pretrained(tmp_path)
    readout.model = MintIQAModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(judged().scores, after.scores)


def test_settling_puts_a_malformed_picture_below_its_original(folder, human):
    """On the pictures that it learned from, with a tower that tells them apart: the toy's own doesn't."""
    found = loaded(folder)
    rows = torch.arange(len(found["fold"]))
    readout = run(folder, found, rows, human)

    def telling(rows):
        statistics = found["statistics"][rows].clone()
        statistics[:, :PIXEL_STATISTICS] += found["faults"][rows, -1:].nan_to_num()
        return statistics, found["image"][rows]

    readout.picture = telling
    fit_own_units(readout, rows, OwnUnitsFit(epochs=200, batch_size=64, learning_rate=1e-2))
    first = originals(found["source"], found["human"])
    malformed = ((found["faults"][:, -1] > 0.5) & (found["source"] >= 0)).nonzero().squeeze(1)
    with torch.no_grad():
        scores = readout.outputs(readout.picture(rows), rows, "first").scores[:, 1]
    assert len(malformed) >= 5
    assert (scores[malformed] < scores[first[malformed]]).float().mean() > 0.7


def test_each_faulted_look_is_held_against_its_unspoilt_original():
    source = torch.tensor([4, 7, 4, -1, 7, 9])
    human = torch.tensor([True, False, False, False, True, False])
    assert originals(source, human).tolist() == [0, 4, 0, 3, 4, 5]


def test_fitting_twice_gives_the_same_heads_whatever_was_fitted_before(folder, human):
    found, rows = loaded(folder), torch.arange(20)
    model = model_of(folder)
    Readout(model, found, human, FrozenFit()).fit(rows, FrozenFit())
    once = {k: v.clone() for k, v in model.state_dict().items()}
    Readout(model, found, human, FrozenFit()).fit(rows + 5, FrozenFit())
    assert not torch.equal(once["shortcut.layers.0.weight"], model.shortcut.layers[0].weight)
    Readout(model, found, human, FrozenFit()).fit(rows, FrozenFit())
    assert all(torch.equal(once[k], v) for k, v in model.state_dict().items())


def test_the_smoothed_target_lies_between_the_votes_and_what_quality_says():
    quality = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.5])
    correspondence = torch.tensor([0.3, 0.3, 0.8, 0.6, 0.9])
    targets = torch.stack([quality, quality, correspondence], dim=1)
    human = torch.tensor([True, True, True, True, False])
    smooth = smoothed({"targets": targets, "human": human}, torch.arange(5), share=0.5)
    slope, offset = np.polyfit(quality[:4].numpy(), correspondence[:4].numpy(), 1)
    torch.testing.assert_close(smooth[:4, 2], 0.5 * correspondence[:4] + 0.5 * (offset + slope * quality[:4]))
    assert torch.equal(smooth[4], targets[4])  # nobody rated it
    assert torch.equal(smooth[:, :2], targets[:, :2])


def test_a_prompt_is_wrong_for_a_picture_only_if_they_share_no_content_word(folder, human):
    found = loaded(folder)
    readout = Readout(model_of(folder), found, human, FrozenFit())
    by_prompt = {human[s]["prompt"]: i for i, s in enumerate(found["source"].tolist()) if s >= 0}
    dog, car = (torch.tensor([by_prompt[p]]) for p in ("a dog on a beach", "red car"))
    photograph = (found["source"] < 0).nonzero()[0]
    assert readout._unrelated(dog, car).item() == pytest.approx(0.06)
    assert readout._unrelated(dog, dog).isnan().item()
    assert readout._unrelated(photograph, dog).isnan().item()


# --- cross-validation ---


def test_a_left_out_generator_and_the_prompts_of_its_fold_do_not_train():
    generator = np.array(["alpha", "beta", "alpha", "beta", "alpha", "beta", ""])
    fold, copy = torch.tensor([0, 0, 1, 1, 2, 2, -1]), np.array([1, 2, 3, 4, 5, 6, -1])
    train, test = rows_of(Job("beta", 0), fold, generator, copy)
    assert (train.tolist(), test.tolist()) == ([2, 4, 6], [1, 3, 5])
    train, test = rows_of(Job("", 1), fold, generator, copy)
    assert (train.tolist(), test.tolist()) == ([0, 1, 4, 5, 6], [2, 3])


def test_a_copy_of_a_tested_picture_does_not_train_whoever_made_it():
    generator, fold = np.array(["alpha", "beta", "alpha"]), torch.tensor([1, 1, 2])
    train, _ = rows_of(Job("beta", 0), fold, generator, np.array([7, 7, 8]))
    assert train.tolist() == [2]


def test_cross_validation_goes_on_where_it_was_stopped_and_sums_up(folder, human, monkeypatch, capsys):
    monkeypatch.setattr(generators, "PRINCIPAL_AXES", 4)  # of few pictures
    monkeypatch.setattr("sys.argv", ["generators", *arguments(folder)])
    names = [job.name for job in generators.jobs(list(GENERATORS))]
    assert len(names) == 5 + len(GENERATORS)
    assert generators.main() == 0
    results = generators.results_of(folder, SHORT.epochs)
    assert sorted(p.stem for p in results.iterdir()) == sorted(names)
    text = capsys.readouterr().out
    assert "| unseen prompts, 5 of 5 folds | svr | heads | tuned |" in text
    assert "**mean of 2 of 2, prompts seen with others**" in text
    beta, again = (json.loads((results / f"{name}.json").read_text()) for name in ("beta-0", "all-3"))
    assert {human[i]["generator"] for i in beta["pictures"]} == {"beta"} and len(beta["pictures"]) == 10
    assert again["pictures"] and set(folds_of(human)[again["pictures"]]) == {3}
    (results / "all-3.json").unlink()
    fitted = []
    tune = generators.tune_model
    monkeypatch.setattr(generators, "tune_model", lambda *a: (fitted.append(a[-1].stem), tune(*a))[1])
    assert generators.main() == 0
    assert fitted == ["all-3"]
    assert json.loads((results / "all-3.json").read_text()) == again


def test_fits_of_another_model_are_not_gone_on_with(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    model = model_of(folder)
    model.shortcut.query_gain.data.add_(1)
    model.save_pretrained(tmp_path / "run" / "model")
    places = [generators.results_of(run, 2).name for run in (folder, tmp_path / "run")]
    assert places[0] != places[1]


def predictions(human: list[dict[str, str]], **scores: np.ndarray) -> Predictions:
    """One job a generator; scores of every picture by model."""
    jobs = []
    for generator in GENERATORS:
        numbers = [i for i, row in enumerate(human) if row["generator"] == generator]
        found = {model: {"quality": values[numbers].tolist()} for model, values in scores.items()}
        jobs.append({"pictures": numbers} | found)
    return Predictions(jobs, human)


def test_two_models_with_the_same_scores_differ_by_nothing_however_uncertain_they_are(human):
    noisy = np.random.default_rng(0).random(len(human))
    found, every = predictions(human, svr=noisy, tuned=noisy), np.arange(len(human))
    assert found.interval("quality", every, "tuned", "svr") == "0.000 [0.000, 0.000]"
    level, low, high = (float(x.strip("[],")) for x in found.interval("quality", every, "svr").split())
    assert low < level < high


def test_generators_are_judged_one_by_one_and_not_for_their_level(human):
    """In the right order within each generator, and the better generator far below the other."""
    quality = np.array([float(row["mos_quality"]) for row in human])
    shift = np.array([10.0 if row["generator"] == "alpha" else 0.0 for row in human])
    found = predictions(human, tuned=quality + shift)
    assert found.mean_srcc("tuned", "quality", np.arange(len(human))) == pytest.approx(1)
    few = np.array([0, 1, len(human) - 1])
    assert np.isnan(found.mean_srcc("tuned", "quality", few))
    assert found.interval("quality", few, "tuned") == "-"


def arguments(folder: Path, **other: object) -> list[str]:
    """The shipped recipe, short, from `folder`."""
    short = {
        f"tower.{name}": getattr(SHORT, name)
        for name in ("epochs", "batch_size", "learning_rate", "head_learning_rate")
    }
    settings = {"start": folder, "photographs": PHOTOGRAPHS, "held_out_photographs": 0, **short, **other}
    return [str(NANO / "tune.yaml"), "--set", *(f"{key}={value}" for key, value in settings.items())]


def test_the_command_leaves_a_run_that_stage_2_can_start_from_and_that_is_evaluated(
    folder, human, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "tune"
    command = ["tune", *arguments(folder, output=output, test_fold=2)]
    monkeypatch.setattr("sys.argv", command)
    assert step(Tune, tune.tune, "") == 0
    assert "Figure: quality SRCC" in capsys.readouterr().out
    assert step(Tune, tune.tune, "") == 2  # a finished run is not overwritten
    kept = held_out(output)
    assert (kept.test_fold, kept.folds) == (2, 5)
    before, after = model_of(folder).state_dict(), model_of(output).state_dict()
    assert not torch.equal(before["shortcut.layers.0.weight"], after["shortcut.layers.0.weight"])
    (output / "recipe.json").write_text(json.dumps(asdict(replace(kept, held_out_photographs=len(CAPTIONS)))))
    found = scores.evaluate(output)
    tested = {human[i]["image"] for i in split(human, kept).test}
    assert {p["image"] for p in found["predictions"]} == tested
    assert len(found["captions"]) == len(CAPTIONS)
    inside = [pair for pair in found["captions"] if pair != [0.0, 0.0]]  # the toy goes below the scale
    assert len(inside) > 1 and all(own != other for own, other in inside)
    (output / "recipe.json").write_text(json.dumps(asdict(replace(kept, test_fold=None))))
    with pytest.raises(MintIQAError, match="kept no prompt out"):
        scores.evaluate(output)
    lines = list(scores.summary([output]))
    assert any(text.startswith("a photograph's caption above an unrelated one") for text in lines)


@pytest.mark.parametrize("settings", [{"test_fold": 5}, {"folds": 3}, {"leave_out": "alpha"}])
def test_what_tuning_cannot_keep_out_is_refused_before_anything_is_computed(settings, tmp_path):
    with pytest.raises(MintIQAError) as caught:
        tune.tune(replace(RECIPE, start="none", output=str(tmp_path), **settings))
    assert caught.value.code == "bad_config"
