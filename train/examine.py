"""Fits the examiner: the scores, intervals and faults that ship. All else of the model keeps its bytes.

    python -m train.examine configs/nano/examine.yaml

Its networks read AGIQA-3K, BIQ2021 and Flickr8k once, whole and with known faults (half an hour on 2 cores,
kept in the user cache). Then it is fitted six times, a minute or two each: five times without a fold of
prompts, for the figures and to learn how sure it is; at last on all of them.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from mint_iqa.checkpoints.finding import find_checkpoint
from mint_iqa.errors import MintIQAError
from mint_iqa.files import written_whole
from mint_iqa.model.cnn import CLASSES
from mint_iqa.model.examiner import Examiner
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.model.references import EXAMINER_PARTS, part_state
from train.data import sets
from train.data.captions import caption_bank, sentence_vectors
from train.data.readings import KINDS, read
from train.data.sets import FOLDS, check_fold, folds_of
from train.engine.checkpoints import RUN_AGAIN, kept_arrays, leave, writing
from train.engine.commands import step
from train.engine.parameters import alignment_of
from train.engine.recipes import Examine, HeldOut
from train.heads.examiner import (
    MOS_SCALE,
    SOUND_FROM,
    Captioned,
    Learned,
    Material,
    RatedSet,
    fit,
)  # fmt: skip
from train.measure.examiner import (
    NAMED_LOGIT,
    authenticity_of,
    captioned_of,
    figures,
    left_out,
    out_of_fold,
    out_of_fold_scores,
    pictures_of,
)

Floats = NDArray[np.float64]
EVERY_OTHER = ("fault", "malformed", "resaved", "small")  # variants that every second photograph has
COVERED = 0.9  # share of the pictures whose human score lies inside its interval
# Among pictures like those learned from, novelty says nothing about errors. Those of a generator that was
# left out are larger: so half an interval grows by at least this many mean errors from novelty 0 to 1.
GROWTH = 2.0
NAMED_SHARE = 0.02  # of sound pictures, of each of which a fault may be named wrongly
RAMP = (0.5, 1.0)  # predictions between which a picture turns into a photograph
# Of the logits of faults, which are severities as taught: more would call every strong fault as strong as it
# gets.
LARGEST_SHIFT = 0.7
PHOTOGRAPH_FIT = 0.75  # how well a photograph shows its own caption, 0..1: nobody rated that
PHOTOGRAPH_SCORE = 0.85  # authenticity of the median photograph
FAMILIAR_SHARE = 0.995  # of pictures that were not learned from, which no warning calls unusual
TAKEN = 0.8  # of authenticity, by a malformation of severity 1
WEIGHTS = "examiner.safetensors"


# --- what is learned from ---


def gather(examiner: Examiner, model: MintIQAModel, processor: MintIQAProcessor) -> Material:
    """Read everything: pictures by the networks of `examiner`, texts by the sentence encoder of `model`."""
    encode = partial(sentence_vectors, model, processor)
    root = sets.data_root()
    human, photographs, captioned = sets.agiqa3k(root), sets.biq2021(root), sets.flickr8k(root)
    generated = _rated(
        examiner, "agiqa3k", [float(r["mos_quality"]) / 5 for r in human], folds_of(human),
        [float(r["mos_align"]) / 5 for r in human], 1,
    )  # fmt: skip
    liked = [MOS_SCALE[0] + MOS_SCALE[1] * float(row["mos"]) for row in photographs]
    folds = np.arange(len(liked)) % FOLDS
    real = _rated(examiner, "biq2021", liked, folds, [float("nan")] * len(liked), 2)
    sentences = caption_bank(model, processor, captioned)
    numbers = torch.arange(sentences[..., 0].numel()).view(sentences.shape[:2]).tolist()
    prompts = sorted({row["prompt"] for row in human})
    vectors = dict(zip(prompts, encode(prompts), strict=True))
    return Material(
        generated, torch.stack([vectors[r["prompt"]] for r in human]), [r["prompt"] for r in human],
        np.array([r["generator"] for r in human]), real, np.array([r["subset"] for r in photographs]),
        Captioned(
            read(examiner, "flickr8k", "clean", range(len(captioned))), numbers, sentences.flatten(0, 1)
        ),
        class_vectors(encode),
    )  # fmt: skip


def class_vectors(encode: Callable[[list[str]], Tensor]) -> Tensor:
    """A sentence vector for every class of ImageNet, float[C, D]: the mean of those of its names, of its name
    with its definition, and of "a photo of a ..."."""
    texts, owners = [], []
    for number, (names, definition) in enumerate(sets.imagenet_classes()):
        own = [*names, f"{names[0]}: {definition}", f"a photo of a {names[0]}"]
        texts += own
        owners += [number] * len(own)
    vectors = encode(texts)
    sums = torch.zeros(CLASSES, vectors.shape[1]).index_add_(0, torch.tensor(owners), vectors)
    return normalize(sums, dim=-1)


def _rated(
    examiner: Examiner, name: str, quality: list[float], fold: Any, fit: list[float], stride: int
) -> RatedSet:
    strides = {kind: 2 if kind == "small" else stride if kind in EVERY_OTHER else 1 for kind in KINDS}
    numbers = {kind: np.arange(0, len(quality), strides[kind]) for kind in KINDS}
    readings = {kind: read(examiner, name, kind, numbers[kind].tolist()) for kind in KINDS}
    return RatedSet(torch.tensor(quality), torch.tensor(fit), fold, readings, numbers)


# --- how the parts make scores ---


def settle(examiner: Examiner, found: dict[str, Floats], material: Material) -> None:
    """Set how scores follow from the parts, and their intervals, by predictions out of fold."""
    _settle_faults(examiner, found, material)
    likely = found["photo_clean_likely"]
    examiner.ramp.copy_(torch.tensor(RAMP))
    gain = 1.5 / float(np.quantile(likely, 0.5) - np.quantile(likely, 0.1))
    shift = np.log(PHOTOGRAPH_SCORE / (1 - PHOTOGRAPH_SCORE)) - gain * np.median(likely)
    examiner.likeness.copy_(torch.tensor([gain, shift, TAKEN]))
    weight, slope, cap, tail = MATCHING
    share = examiner.photograph(torch.from_numpy(found["clean_likely"])).double().numpy()
    shown = found["clean_fit"] + share * (PHOTOGRAPH_FIT - found["clean_fit"])
    line = weight * shown + slope * found["clean_own"].clip(max=cap) + tail * found["clean_own"]
    stretch, start = np.polyfit(line, material.generated.fit.double().numpy(), 1)
    examiner.matching.copy_(
        torch.tensor([start, stretch * weight, stretch * slope, cap, stretch * tail, PHOTOGRAPH_FIT])
    )
    everywhere = np.concatenate([found["clean_novelty"], found["photo_clean_novelty"]])
    examiner.familiar.fill_(float(np.quantile(everywhere, FAMILIAR_SHARE)))
    for row, (novelty, errors) in enumerate(_residuals(examiner, found, material)):
        examiner.spread[row] = torch.tensor(spread_of(novelty, errors))


def _settle_faults(examiner: Examiner, found: dict[str, Floats], material: Material) -> None:
    """The limits above which faults are named; kept in `found`, as their figures need them."""
    sound = material.generated.quality.numpy() >= SOUND_FROM
    liked = material.photographs.quality.numpy() >= SOUND_FROM
    innocent = np.concatenate(
        [found["clean_malformed"][sound],
         found["resaved_malformed"][sound[material.generated.numbers["resaved"]]],
         found["photo_clean_malformed"], found["photo_resaved_malformed"]]
    )  # fmt: skip
    limit = np.nanquantile(innocent, 1 - NAMED_SHARE)
    examiner.regions.line[1] += float(NAMED_LOGIT - limit)
    found["malformed_limit"] = np.array([limit])
    found["fault_shifts"] = np.zeros(len(examiner.fault_lines.bias))
    for number in range(len(examiner.fault_lines.bias)):
        name = f"fault{number}"
        clean = np.concatenate([found[f"clean_{name}"][sound], found[f"photo_clean_{name}"][liked]])
        room = float(NAMED_LOGIT - np.quantile(clean, 1 - NAMED_SHARE))
        found["fault_shifts"][number] = min(room, LARGEST_SHIFT)
    examiner.fault_lines.bias.add_(torch.from_numpy(found["fault_shifts"]))


def _residuals(
    examiner: Examiner, found: dict[str, Floats], material: Material
) -> Iterator[tuple[Floats, Floats]]:
    """Novelty and absolute error of each score, dimension by dimension. Nobody rated authenticity: its
    interval says how far saving again moves it."""
    generated, real = material.generated, material.photographs
    scores = out_of_fold_scores(examiner, found)

    def errors(score: Floats, label: Tensor) -> Floats:
        return np.abs(score - label.double().numpy())

    yield (
        np.concatenate([found["clean_novelty"], found["photo_clean_novelty"]]),
        np.concatenate(
            [errors(scores["quality"], generated.quality), errors(scores["photo_quality"], real.quality)]
        ),
    )
    moved = [
        authenticity_of(examiner, found[f"{prefix}resaved_likely"])
        - authenticity_of(examiner, found[f"{prefix}clean_likely"][rated.numbers["resaved"]])
        for prefix, rated in (("", generated), ("photo_", real))
    ]
    yield (
        np.concatenate([found["resaved_novelty"], found["photo_resaved_novelty"]]),
        np.abs(np.concatenate(moved)),
    )
    yield found["clean_novelty"], errors(scores["correspondence"], generated.fit)


# Weight of fit, slope of similarity up to its cap, cap, tail. More weight on fit follows people's scores
# better (SRCC .649 at .6), but then a faulted picture falls below one that shows something else
# (docs/ablation.md).
MATCHING = (0.45, 0.7, 0.35, 0.15)


def spread_of(novelty: Floats, errors: Floats) -> tuple[float, float]:
    """start and slope of half an interval as a line of novelty, of which `COVERED` of the errors stay below
    (split-conformal, with errors scaled by what novelty predicts of them)."""
    mean = float(errors.mean())
    slope = max(GROWTH * mean, float(np.polyfit(novelty, errors, 1)[0]))
    start = max(mean - slope * float(novelty.mean()), 0.2 * mean)
    rank = min(1.0, np.ceil(COVERED * (len(errors) + 1)) / len(errors))
    factor = float(np.quantile(errors / (start + slope * novelty), rank))
    return factor * start, factor * slope


# --- the command ---


def examine(recipe: Examine) -> None:
    """Run the recipe: OUTPUT/model, the start's folder with an examiner. MintIQAError if the output
    exists."""
    check_fold(recipe.test_fold, FOLDS)
    output = Path(recipe.output)
    if (output / "model").exists():
        raise MintIQAError(
            "output_exists", f"{output} holds another run: name another --set output=, or delete it."
        )
    start = find_start(recipe.start)
    model = MintIQAModel.from_pretrained(start, dtype=torch.float32).eval()
    if model.alignment is None or "malformation" not in model.config.faults[-1:]:
        raise MintIQAError(
            "bad_config", f"{recipe.start} has no sentence encoder or no fault head: start from nano's runs."
        )
    model.config.parts |= recipe.parts
    fresh = partial(_fresh, recipe, model, {role: part_state(model.config, role) for role in EXAMINER_PARTS})
    with torch.inference_mode():
        material = gather(fresh(1), model, MintIQAProcessor.from_config(model.config, start))
    # What took long is kept until the end, under a name that only this recipe has.
    begun = output / hashlib.sha256(json.dumps(asdict(recipe)).encode()).hexdigest()[:12]
    begun.mkdir(parents=True, exist_ok=True)
    found = kept_arrays(begun / "out_of_fold.npz", lambda: out_of_fold(fresh, material, recipe))
    state = kept_arrays(begun / "fitted.npz", lambda: _fitted(fresh, material, recipe))
    examiner = fresh(len(state["process.pictures"]))
    examiner.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    settle(examiner, found, material)
    told = figures(examiner, found, material)
    told["left-out generators"] = left_out(fresh, examiner, material, recipe)
    write(output, start, model, examiner, settings_of(recipe, len(examiner.process.pictures)))
    (output / "evaluation.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    quality, half = told["quality SRCC"]
    shutil.rmtree(begun)
    kept = HeldOut(FOLDS, recipe.test_fold, None, recipe.held_out_photographs)
    leave(output, recipe, kept, f"quality SRCC {quality:.3f} ± {half:.3f} over {FOLDS} folds by prompt")


def _fresh(
    recipe: Examine, model: MintIQAModel, networks: dict[str, dict[str, Tensor]], pictures: int
) -> Examiner:
    """An examiner that has learned nothing, with its networks."""
    torch.manual_seed(recipe.seed)
    settings, text = settings_of(recipe, pictures), alignment_of(model).text_encoder.config
    examiner = Examiner(settings, text.hidden_size, len(model.config.faults)).eval()
    for role, state in networks.items():
        getattr(examiner, role).load_state_dict(state)
    return examiner


def _fitted(fresh: Callable[[int], Examiner], material: Material, recipe: Examine) -> dict[str, NDArray[Any]]:
    """The examiner that ships, as arrays."""
    apart = -1 if recipe.test_fold is None else recipe.test_fold
    learned = Learned(
        material.generated.fold != apart, material.photographs.fold != apart, captioned_of(material, recipe)
    )
    examiner = fresh(pictures_of(material, learned))
    fit(examiner, material, learned, recipe, regions=True)
    return {name: tensor.numpy() for name, tensor in examiner.state_dict().items()}


def find_start(name: str) -> Path:
    """The folder of a run's model, or of a preset or folder."""
    return Path(name) / "model" if (Path(name) / "model").is_dir() else find_checkpoint(name)


def settings_of(recipe: Examine, pictures: int) -> dict[str, Any]:
    """`MintIQAConfig.examiner`."""
    kernel = recipe.kernel
    return {
        **recipe.networks, "axes": kernel.axes, "pictures": pictures, "anchors": min(kernel.anchors, pictures)
    }  # fmt: skip


def write(
    output: Path, start: Path, model: MintIQAModel, examiner: Examiner, settings: dict[str, Any]
) -> None:
    """The start's folder, with the examiner's own weights in a file of their own: all others keep their
    bytes."""
    own = {
        f"examiner.{name}": tensor.half().contiguous()
        for name, tensor in examiner.state_dict().items()
        if name.split(".")[0] not in EXAMINER_PARTS
    }
    config = model.config
    config.examiner = settings
    config.referenced = sorted({*config.referenced, *(f"examiner.{role}." for role in EXAMINER_PARTS)})
    with writing(output, RUN_AGAIN), written_whole(output / "model") as folder:
        shutil.copytree(
            start, folder, ignore=shutil.ignore_patterns("README.md", WEIGHTS), dirs_exist_ok=True
        )
        save_file(own, folder / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(folder)
        index = folder / "model.safetensors.index.json"
        if not index.is_file():  # one file so far
            save_index(folder)
        listed = json.loads(index.read_text(encoding="utf-8"))
        kept = {k: v for k, v in listed["weight_map"].items() if not k.startswith("examiner.")}
        listed["weight_map"] = dict(sorted({**kept, **dict.fromkeys(own, WEIGHTS)}.items()))
        index.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def save_index(folder: Path) -> None:
    """An index for a model in one file, under another name: beside model.safetensors none is read."""
    only = (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with safe_open(only, "pt") as file:
        names = list(file.keys())
    listed = {"metadata": {}, "weight_map": dict.fromkeys(names, only.name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(step(Examine, examine, __doc__))
