"""Fits the examiner: the scores, intervals and faults that ship. All else of the model keeps its bytes.

    python -m train.examine configs/nano/examine.yaml

Its networks read AGIQA-3K, BIQ2021 and Flickr8k once, whole and with known faults (half an hour on 2 cores,
kept in the user cache). Then it is fitted six times, a minute or two each: five times without a fold of
prompts, for the figures and to learn how sure it is; at last on all of them.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from instruct_data.prompts import unrelated_prompt
from mint_iqa.checkpoints.finding import find_checkpoint
from mint_iqa.errors import MintIQAError
from mint_iqa.files import written_whole
from mint_iqa.metrics import roc_auc, srcc, t_interval
from mint_iqa.model.cnn import CLASSES
from mint_iqa.model.examiner import Examiner
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.model.references import EXAMINER_PARTS, part_state
from mint_iqa.vocabulary import DIMENSIONS, NAMED_FROM
from train.data import sets
from train.data.readings import KINDS, read
from train.data.sets import FOLDS, folds_of, learned_of
from train.engine.checkpoints import RUN_AGAIN, leave, writing
from train.engine.commands import step
from train.heads.examiner import (
    PHOTOGRAPH_FIT,
    SOUND_FROM,
    Captioned,
    Examine,
    Learned,
    Material,
    Rated,
    fit,
    reading_of,
)  # fmt: skip

Floats = NDArray[np.float64]
EVERY_OTHER = ("fault", "malformed", "resaved")  # of photographs, every second has these variants
STRONG = 4  # level of a fault from which the truth test takes it for strong
SHOWN_FROM = 0.6  # human alignment, 0..1, from which a picture shows its prompt
COVERED = 0.9  # share of the pictures whose human score lies inside its interval
NAMED_SHARE = 0.02  # of sound pictures, of which malformation may be named
PHOTOGRAPH_SCORE = 0.85  # authenticity of the median photograph
FAMILIAR_SHARE = 0.995  # of pictures that were not learned from, which no warning calls unusual
TAKEN = 0.8  # of authenticity, by a malformation of severity 1
WEIGHTS = "examiner.safetensors"


# --- what is learned from ---


def gather(examiner: Examiner, encode: Any) -> Material:
    """Read everything; `encode`: texts -> sentence vectors float[N, D]."""
    root = sets.data_root()
    human, photographs, captioned = sets.agiqa3k(root), sets.biq2021(root), sets.flickr8k(root)
    generated = _rated(
        examiner, "agiqa3k", [float(r["mos_quality"]) / 5 for r in human], folds_of(human),
        [float(r["mos_align"]) / 5 for r in human], 1,
    )  # fmt: skip
    liked = [float(row["mos"]) for row in photographs]
    folds = np.arange(len(liked)) % FOLDS
    real = _rated(examiner, "biq2021", liked, folds, [PHOTOGRAPH_FIT] * len(liked), 2)
    numbers: list[list[int]] = []
    texts: list[str] = []
    for row in captioned:
        numbers.append(list(range(len(texts), len(texts) + len(row["captions"]))))
        texts += row["captions"]
    prompts = sorted({row["prompt"] for row in human})
    vectors = dict(zip(prompts, encode(prompts), strict=True))
    return Material(
        generated, torch.stack([vectors[r["prompt"]] for r in human]), [r["prompt"] for r in human],
        np.array([r["generator"] for r in human]), real,
        Captioned(read(examiner, "flickr8k", "clean", range(len(captioned))), numbers, encode(texts)),
        class_vectors(encode),
    )  # fmt: skip


def class_vectors(encode: Any) -> Tensor:
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
) -> Rated:
    numbers = {k: np.arange(0, len(quality), stride if k in EVERY_OTHER else 1) for k in KINDS}
    readings = {kind: read(examiner, name, kind, numbers[kind].tolist()) for kind in KINDS}
    return Rated(torch.tensor(quality), torch.tensor(fit), fold, readings, numbers)


# --- predictions of folds that were not learned from ---


def out_of_fold(fresh: Any, material: Material, recipe: Examine) -> dict[str, Floats]:
    """Predictions by fits without a picture's fold. Of generated pictures: quality, fit, sign, novelty, own
    and wrong (similarities to the own and an unrelated prompt), float[N]; of every faulted one, faulted_fit,
    faulted_own, and rival_fit, rival_own of a clean picture of another prompt held against the faulted one's
    prompt; of photographs, liked, photo_quality, photo_sign, photo_novelty. Logits of malformation, of the
    first fold alone: NaN elsewhere."""
    generated, real = material.generated, material.photographs
    found: dict[str, Floats] = {}

    def put(name: str, size: int, rows: NDArray[Any], values: Tensor) -> None:
        found.setdefault(name, np.full(size, np.nan))[rows] = values.double().numpy()

    rng = np.random.default_rng(recipe.seed)
    for fold in range(FOLDS):
        learned = Learned(generated.fold != fold, real.fold != fold, _captioned(material, recipe))
        examiner = fresh(_pictures(material, learned))
        fit(examiner, material, learned, recipe, regions=fold == 0)
        for kind in generated.numbers:
            numbers = generated.numbers[kind]
            rows = (~learned.generated[numbers]).nonzero()[0]
            reading = reading_of(examiner, generated.readings[kind], rows)
            predicted, novelty = examiner.process(reading.axes)
            own = (reading.vectors * examiner.prompt_vectors(material.prompts[numbers[rows]])).sum(dim=1)
            for name, values in (
                ("quality", predicted[:, 0]), ("liked", predicted[:, 1]), ("fit", predicted[:, 2]), ("sign",
                reading.signs[:, 0]), ("novelty", novelty), ("own", own), ("malformed", reading.signs[:, -1]),
                *((f"sign{i}", reading.signs[:, i]) for i in range(1, reading.signs.shape[1] - 1)),
            ):  # fmt: skip
                if name != "malformed" or fold == 0:
                    put(f"{kind}_{name}", len(numbers), rows, values)
            if kind == "clean":
                clean = (rows, reading.vectors, predicted[:, 2])
                wrong = _unrelated(material, rows, rng)
                similarity = (reading.vectors * examiner.prompt_vectors(material.prompts[wrong])).sum(dim=1)
                put("clean_wrong", len(numbers), rows, similarity)
            if kind == "fault":
                rivals = _rivals(material, rows, clean[0], rng)
                vectors = examiner.prompt_vectors(material.prompts[numbers[rows]])
                put("rival_own", len(numbers), rows, (clean[1][rivals] * vectors).sum(dim=1))
                put("rival_fit", len(numbers), rows, clean[2][rivals])
        for kind in real.numbers:
            rows = (~learned.photographs[real.numbers[kind]]).nonzero()[0]
            reading = reading_of(examiner, real.readings[kind], rows)
            predicted, novelty = examiner.process(reading.axes)
            for name, values in (
                ("liked", predicted[:, 1]), ("quality", predicted[:, 0]), ("sign", reading.signs[:, 0]),
                ("novelty", novelty), ("malformed", reading.signs[:, -1]),
            ):  # fmt: skip
                if name != "malformed" or fold == 0:
                    put(f"photo_{kind}_{name}", len(real.numbers[kind]), rows, values)
        right = _captions_right(examiner, material, recipe)
        put("captions", FOLDS, np.array([fold]), torch.tensor([right]))
        print(f"fold {fold + 1} of {FOLDS}", flush=True)
    return found


def _captioned(material: Material, recipe: Examine) -> int:
    return learned_of(material.captioned.captions, recipe.held_out_photographs)


def _pictures(material: Material, learned: Learned) -> int:
    """How many pictures the Gaussian process keeps."""
    sides = ((material.generated, learned.generated), (material.photographs, learned.photographs))
    return sum(int(own[rated.numbers[k]].sum()) for rated, own in sides for k in ("clean", "fault"))


def _unrelated(material: Material, rows: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """For each picture a row whose prompt shares no content word with its own."""
    pool = sorted({material.groups[row] for row in rows})
    first = {material.groups[row]: row for row in rows[::-1]}
    return np.array([first[unrelated_prompt(material.groups[row], pool, rng)] for row in rows])


def _rivals(
    material: Material, faulted: NDArray[Any], clean: NDArray[Any], rng: np.random.Generator
) -> NDArray[Any]:
    """For each faulted picture the number in `clean` of a sound picture of another prompt."""
    sound = [n for n, row in enumerate(clean) if material.generated.quality[row] >= SOUND_FROM]
    chosen = []
    for row in faulted:
        others = [n for n in sound if material.groups[clean[n]] != material.groups[row]]
        chosen.append(others[rng.integers(len(others))])
    return np.array(chosen)


def _captions_right(examiner: Examiner, material: Material, recipe: Examine) -> float:
    """How often a photograph that was kept apart is nearer to its own caption than to another's."""
    captioned, count = material.captioned, _captioned(material, recipe)
    rows = np.arange(count, len(captioned.captions))
    if len(rows) < 2:
        return float("nan")
    vectors = reading_of(examiner, captioned.readings, rows).vectors
    first = [captioned.captions[row][0] for row in rows]
    cosines = vectors @ examiner.prompt_vectors(captioned.sentences[first]).T
    others = ~torch.eye(len(rows), dtype=torch.bool)
    return float((cosines.diag().unsqueeze(1) > cosines)[others].float().mean())


# --- how the parts make scores ---


def settle(examiner: Examiner, found: dict[str, Floats], material: Material) -> None:
    """Set how scores follow from the parts, and their intervals, by predictions out of fold."""
    quality, fit_ = material.generated.quality.double().numpy(), material.generated.fit.double().numpy()
    sound = quality >= SOUND_FROM
    resaved = quality[material.generated.numbers["resaved"]] >= SOUND_FROM
    innocent = np.concatenate(
        [found["clean_malformed"][sound], found["resaved_malformed"][resaved],
         found["photo_clean_malformed"], found["photo_resaved_malformed"]]
    )  # fmt: skip
    limit = np.nanquantile(innocent, 1 - NAMED_SHARE)
    examiner.regions.line[1] += float(np.log(NAMED_FROM / (1 - NAMED_FROM)) - limit)
    found["malformed_limit"] = np.array([limit])
    signs = found["photo_clean_sign"]
    low = float(np.quantile(found["clean_sign"], 0.9))
    examiner.ramp.copy_(torch.tensor([low, max(low + 1, float(np.median(signs)))]))
    gain = 1.5 / float(np.quantile(signs, 0.5) - np.quantile(signs, 0.1))
    shift = np.log(PHOTOGRAPH_SCORE / (1 - PHOTOGRAPH_SCORE)) - gain * np.median(signs)
    examiner.likeness.copy_(torch.tensor([gain, shift, TAKEN]))
    weight, slope, cap, tail = MATCHING
    line = weight * found["clean_fit"] + slope * found["clean_own"].clip(max=cap) + tail * found["clean_own"]
    stretch, start = np.polyfit(line, fit_, 1)
    examiner.matching.copy_(torch.tensor([start, stretch * weight, stretch * slope, cap, stretch * tail]))
    everywhere = np.concatenate([found["clean_novelty"], found["photo_clean_novelty"]])
    examiner.familiar.fill_(float(np.quantile(everywhere, FAMILIAR_SHARE)))
    scores = out_of_fold_scores(examiner, found)
    real = material.photographs.quality.double().numpy()
    stay = found["resaved_sign"], found["clean_sign"][material.generated.numbers["resaved"]]
    moved = np.abs(np.subtract(*(_authenticity(examiner, sign) for sign in stay)))
    novelty = found["clean_novelty"]
    residuals = {
        "quality": (
            np.concatenate([novelty, found["photo_clean_novelty"]]),
            np.concatenate([np.abs(scores["quality"] - quality), np.abs(scores["photo_quality"] - real)]),
        ),
        # Nobody rated authenticity: its interval says how far saving again moves it.
        "authenticity": (found["resaved_novelty"], moved),
        "correspondence": (novelty, np.abs(scores["correspondence"] - fit_)),
    }
    for row, name in enumerate(DIMENSIONS):
        examiner.spread[row] = torch.tensor(spread_of(*residuals[name]))


MATCHING = (
    0.6,
    0.5,
    0.35,
    0.15,
)  # weight of fit, slope of similarity up to its cap, cap, tail; see docs/ablation.md


def spread_of(novelty: Floats, errors: Floats) -> tuple[float, float]:
    """start and slope of half an interval as a line of novelty, of which `COVERED` of the errors stay below
    (split-conformal, with errors scaled by what novelty predicts of them)."""
    slope, start = np.polyfit(novelty, errors, 1)
    slope = max(0.0, float(slope))
    start = max(float(errors.mean()) - slope * float(novelty.mean()), 0.2 * float(errors.mean()))
    rank = min(1.0, np.ceil(COVERED * (len(errors) + 1)) / len(errors))
    factor = float(np.quantile(errors / (start + slope * novelty), rank))
    return factor * start, factor * slope


def _authenticity(examiner: Examiner, sign: Floats) -> Floats:
    """Without what malformation takes."""
    return examiner.authenticity(torch.from_numpy(sign), torch.zeros(len(sign))).double().numpy()


def out_of_fold_scores(examiner: Examiner, found: dict[str, Floats]) -> dict[str, Floats]:
    """Scores 0..1 of clean pictures, made of predictions out of fold as `Examiner.judge` makes them."""

    def mixed(kind: str) -> Floats:
        share = examiner.photograph(torch.from_numpy(found[f"{kind}_sign"])).double().numpy()
        quality = found[f"{kind}_quality"]
        return quality + share * (found[f"{kind}_liked"] - quality)

    def matched(fits: Floats, cosines: Floats) -> Floats:
        return examiner.correspondence(torch.from_numpy(fits), torch.from_numpy(cosines)).double().numpy()

    return {
        "quality": mixed("clean"), "faulted_quality": mixed("fault"), "photo_quality": mixed("photo_clean"),
        "authenticity": _authenticity(examiner, found["clean_sign"]),
        "photo_authenticity": _authenticity(examiner, found["photo_clean_sign"]),
        "correspondence": matched(found["clean_fit"], found["clean_own"]),
        "wrong": matched(found["clean_fit"], found["clean_wrong"]),
        "faulted": matched(found["fault_fit"], found["fault_own"]),
        "rival": matched(found["rival_fit"], found["rival_own"]),
    }  # fmt: skip


# --- figures ---


def figures(examiner: Examiner, found: dict[str, Floats], material: Material) -> dict[str, Any]:
    """Means over folds with half of a 95 % t interval, by predictions out of fold."""
    scores = out_of_fold_scores(examiner, found)
    generated, real = material.generated, material.photographs
    quality, fit_ = generated.quality.double().numpy(), generated.fit.double().numpy()
    liked = real.quality.double().numpy()
    fold = generated.fold
    strong = (generated.readings["fault"].level >= STRONG) & (fit_ >= SHOWN_FROM)

    def over(metric: Any, *arrays: Floats, folds: NDArray[Any] = fold) -> tuple[float, float]:
        return t_interval([metric(*(a[folds == f] for a in arrays)) for f in range(FOLDS)])

    def covered(
        name: str, label: Floats, row: int, novelty: Floats, folds: NDArray[Any]
    ) -> tuple[float, float]:
        start, slope = examiner.spread[row].tolist()
        inside = np.abs(scores[name] - label) <= start + slope * novelty
        return over(lambda a: float(a.mean()), inside.astype(float), folds=folds)

    limit = found["malformed_limit"][0]
    both = [scores["authenticity"], scores["photo_authenticity"]]
    named = {
        kind: float(np.nanmean(np.where(np.isnan(found[kind]), np.nan, found[kind] > limit)[rows]))
        for kind, rows in (
            ("clean_malformed", quality >= SOUND_FROM), ("photo_clean_malformed", slice(None)),
            ("resaved_malformed", quality[generated.numbers["resaved"]] >= SOUND_FROM),
            ("photo_resaved_malformed", slice(None)),
            ("malformed_malformed", generated.readings["malformed"].level >= STRONG),
            ("photo_malformed_malformed", real.readings["malformed"].level >= STRONG),
        )
    }  # fmt: skip
    return {
        "quality SRCC": over(srcc, scores["quality"], quality),
        "quality SRCC of generated pictures alone": over(srcc, found["clean_quality"], quality),
        "quality SRCC of photographs": over(srcc, scores["photo_quality"], liked, folds=real.fold),
        "correspondence SRCC": over(srcc, scores["correspondence"], fit_),
        "correspondence, partial given quality": over(_partial, scores["correspondence"], fit_, quality),
        "right prompt above unrelated": over(_above, scores["correspondence"], scores["wrong"]),
        "faulted picture with its prompt above a clean one with that prompt": over(
            _above, scores["faulted"][strong], scores["rival"][strong], folds=fold[strong]
        ),
        "photograph's caption above another's": t_interval(found["captions"].tolist()),
        "photograph above generated, AUC": roc_auc(np.concatenate(both), np.repeat([0, 1], list(map(len,
        both)))), "photographs' mean authenticity": float(scores["photo_authenticity"].mean()),
        "quality covered": covered("quality", quality, 0, found["clean_novelty"], fold),
        "photographs' quality covered": covered("photo_quality", liked, 0, found["photo_clean_novelty"],
        real.fold), "correspondence covered": covered("correspondence", fit_, 2, found["clean_novelty"],
        fold), "malformation named": named,
        "spread": examiner.spread.tolist(),
    }  # fmt: skip


def _above(a: Floats, b: Floats) -> float:
    return float((a > b).mean())


def _partial(score: Floats, label: Floats, given: Floats) -> float:
    """SRCC of what a line of `given` leaves of both."""

    def rest(values: Floats) -> Floats:
        return values - np.polyval(np.polyfit(given, values, 1), given)

    return srcc(rest(score), rest(label))


# --- the command ---


def examine(recipe: Examine) -> None:
    """Run the recipe: OUTPUT/model, the start's folder with an examiner. MintIQAError if the output
    exists."""
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
    processor = MintIQAProcessor.from_config(model.config, start)
    networks = {role: part_state(model.config, role) for role in EXAMINER_PARTS}

    def fresh(pictures: int) -> Examiner:
        settings = settings_of(recipe, pictures)
        examiner = Examiner(settings, model.config.alignment["hidden_size"], len(model.config.faults)).eval()
        for role, state in networks.items():
            getattr(examiner, role).load_state_dict(state)
        return examiner

    def encode(texts: list[str]) -> Tensor:
        parts = []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            text = processor.tokenize(texts[first : first + TEXTS_AT_ONCE])
            parts.append(model.alignment.encode_text(text.ids, text.mask))
        return torch.cat(parts)

    with torch.inference_mode():
        material = gather(fresh(1), encode)
    found = out_of_fold(fresh, material, recipe)
    everything = Learned(
        np.ones(len(material.generated.fold), bool), np.ones(len(material.photographs.fold), bool),
        _captioned(material, recipe),
    )  # fmt: skip
    examiner = fresh(_pictures(material, everything))
    fit(examiner, material, everything, recipe, regions=True)
    settle(examiner, found, material)
    told = figures(examiner, found, material)
    write(output, start, model, examiner, settings_of(recipe, len(examiner.process.pictures)))
    (output / "evaluation.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    quality, half = told["quality SRCC"]
    leave(output, recipe, recipe, f"quality SRCC {quality:.3f} ± {half:.3f} over {FOLDS} folds by prompt")


TEXTS_AT_ONCE = 64


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
    """An index for a model in one file."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = list(file.keys())
    listed = {"metadata": {}, "weight_map": dict.fromkeys(names, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(listed), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(step(Examine, examine, __doc__))
