"""Predictions of the examiner on folds that it did not learn from, and their figures."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instruct_data.prompts import unrelated_prompt
from mint_iqa.metrics import plcc, roc_auc, srcc, t_interval
from mint_iqa.model.examiner import OUTPUTS, Examiner, Reading
from mint_iqa.vocabulary import FAULTS, NAMED_FROM
from train.data.readings import Readings
from train.data.sets import FOLDS, learned_of
from train.engine.recipes import Examine
from train.heads.examiner import SOUND_FROM, Learned, Material, fit, pictures_of, reading_of
from train.heads.examining import PHOTOGRAPH

Floats = NDArray[np.float64]
NAMED_LOGIT = float(np.log(NAMED_FROM / (1 - NAMED_FROM)))
STRONG = 4  # level of a fault from which the truth test takes it for strong
SHOWN_FROM = 0.6  # human alignment, 0..1, from which a picture shows its prompt


def out_of_fold(fresh: Callable[[int], Examiner], material: Material, recipe: Examine) -> dict[str, Floats]:
    """Predictions by fits without a picture's fold, by name: KIND_NAME with the names of `_predictions`, of
    photographs photo_KIND_NAME; those of `_matches`; and captions float[FOLDS], of `_captions_right`. Logits
    of malformation are of the first fold alone: NaN elsewhere."""
    found: dict[str, Floats] = {}
    rng = np.random.default_rng(recipe.seed)
    for fold in range(FOLDS):
        learned = Learned(
            material.generated.fold != fold, material.photographs.fold != fold, captioned_of(material, recipe)
        )
        examiner = fresh(pictures_of(material, learned))
        fit(examiner, material, learned, recipe, regions=fold == 0)
        for prefix, rated, own in (
            ("", material.generated, learned.generated),
            ("photo_", material.photographs, learned.photographs),
        ):
            for kind, numbers in rated.numbers.items():
                rows = (~own[numbers]).nonzero()[0]
                reading = reading_of(examiner, rated.readings[kind], rows, regions=fold == 0)
                for name, values in _predictions(examiner, reading):
                    if name != "malformed" or fold == 0:
                        _put(found, f"{prefix}{kind}_{name}", len(numbers), rows, values)
        for name, rows, values in _matches(examiner, material, ~learned.generated, rng):
            _put(found, name, len(material.generated.fold), rows, values)
        right = _captions_right(examiner, material, recipe)
        _put(found, "captions", FOLDS, np.array([fold]), torch.tensor([right]))
        print(f"fold {fold + 1} of {FOLDS}", flush=True)
    return found


def _put(found: dict[str, Floats], name: str, size: int, rows: NDArray[Any], values: Tensor) -> None:
    found.setdefault(name, np.full(size, np.nan))[rows] = values.double().numpy()


def _predictions(examiner: Examiner, reading: Reading) -> Iterator[tuple[str, Tensor]]:
    """quality, liked (quality as of a photograph), fit, likely (to be a photograph), novelty, and logits of
    faults: fault0 ... and malformed; each float[B]."""
    predicted, novelty = examiner.process(reading.axes)
    yield from zip(("quality", "liked", "fit", "likely"), predicted.T, strict=True)
    yield "novelty", novelty
    *faults, malformed = reading.faults.T
    yield from ((f"fault{number}", logits) for number, logits in enumerate(faults))
    yield "malformed", malformed


def _matches(
    examiner: Examiner, material: Material, tested: NDArray[np.bool_], rng: np.random.Generator
) -> Iterator[tuple[str, NDArray[Any], Tensor]]:
    """Of the tested pictures: own and wrong, similarities to the own and to an unrelated prompt; of every
    faulted one, fault_own, and rival_own, rival_fit, rival_likely of a clean picture of another prompt held
    against the faulted one's prompt."""
    readings = material.generated.readings
    rows = tested.nonzero()[0]
    clean = reading_of(examiner, readings["clean"], rows)
    faulted = reading_of(examiner, readings["fault"], rows)
    prompts = examiner.prompt_vectors(material.prompts)

    def similarity(seen: Reading, texts: NDArray[Any], pictures: Any = slice(None)) -> Tensor:
        return (seen.vectors[pictures] * prompts[texts]).sum(dim=1)

    yield "clean_own", rows, similarity(clean, rows)
    yield "clean_wrong", rows, similarity(clean, _unrelated(material, rows, rng))
    yield "fault_own", rows, similarity(faulted, rows)
    rivals = _rivals(material, rows, rows, rng)
    yield "rival_own", rows, similarity(clean, rows, rivals)
    predicted, _ = examiner.process(clean.axes)
    yield "rival_fit", rows, predicted[rivals, OUTPUTS.index("fit")]
    yield "rival_likely", rows, predicted[rivals, PHOTOGRAPH]


def captioned_of(material: Material, recipe: Examine) -> int:
    return learned_of(material.captioned.captions, recipe.held_out_photographs)


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
    captioned, count = material.captioned, captioned_of(material, recipe)
    rows = np.arange(count, len(captioned.captions))
    if len(rows) < 2:
        return float("nan")
    vectors = reading_of(examiner, captioned.readings, rows).vectors
    first = [captioned.captions[row][0] for row in rows]
    cosines = vectors @ examiner.prompt_vectors(captioned.sentences[first]).T
    others = ~torch.eye(len(rows), dtype=torch.bool)
    return float((cosines.diag().unsqueeze(1) > cosines)[others].float().mean())


def authenticity_of(examiner: Examiner, likely: Floats) -> Floats:
    """Without what malformation takes."""
    return examiner.authenticity(torch.from_numpy(likely), torch.zeros(len(likely))).double().numpy()


def out_of_fold_scores(examiner: Examiner, found: dict[str, Floats]) -> dict[str, Floats]:
    """Scores 0..1 of clean pictures, made of predictions out of fold as `Examiner.judge` makes them."""

    def mixed(kind: str) -> Floats:
        quality, liked, likely = (
            torch.from_numpy(found[f"{kind}_{name}"]) for name in ("quality", "liked", "likely")
        )
        return examiner.quality(quality, liked, examiner.photograph(likely)).double().numpy()

    def matched(fits: Floats, cosines: Floats, likely: Floats) -> Floats:
        share = examiner.photograph(torch.from_numpy(likely))
        parts = (torch.from_numpy(fits), share, torch.from_numpy(cosines))
        return examiner.correspondence(*parts).double().numpy()

    return {
        "quality": mixed("clean"), "photo_quality": mixed("photo_clean"),
        "authenticity": authenticity_of(examiner, found["clean_likely"]),
        "photo_authenticity": authenticity_of(examiner, found["photo_clean_likely"]),
        "correspondence": matched(found["clean_fit"], found["clean_own"], found["clean_likely"]),
        "wrong": matched(found["clean_fit"], found["clean_wrong"], found["clean_likely"]),
        "faulted": matched(found["fault_fit"], found["fault_own"], found["fault_likely"]),
        "rival": matched(found["rival_fit"], found["rival_own"], found["rival_likely"]),
    }  # fmt: skip


def figures(examiner: Examiner, found: dict[str, Floats], material: Material) -> dict[str, Any]:
    """By predictions out of fold: means over folds with half of a 95 % t interval, and shares."""
    scores = out_of_fold_scores(examiner, found)
    generated, real = material.generated, material.photographs
    quality, fit_ = generated.quality.double().numpy(), generated.fit.double().numpy()
    liked, fold = real.quality.double().numpy(), generated.fold
    strong = (generated.readings["fault"].level >= STRONG) & (fit_ >= SHOWN_FROM)

    def over(metric: Any, *arrays: Floats, folds: NDArray[Any] = fold) -> tuple[float, float]:
        return t_interval([metric(*(a[folds == f] for a in arrays)) for f in range(FOLDS)])

    def covered(score: Floats, label: Floats, row: int, kind: str, folds: NDArray[Any] = fold) -> Any:
        start, slope = examiner.spread[row].tolist()
        inside = np.abs(score - label) <= start + slope * found[f"{kind}_novelty"]
        return over(lambda a: float(a.mean()), inside.astype(float), folds=folds)

    both = scores["authenticity"], scores["photo_authenticity"]
    shown = scores["correspondence"]
    return {
        "quality SRCC": over(srcc, scores["quality"], quality),
        "quality SRCC of the first output alone": over(srcc, found["clean_quality"], quality),
        "quality PLCC": over(plcc, scores["quality"], quality),
        "quality SRCC of photographs": over(srcc, scores["photo_quality"], liked, folds=real.fold),
        "quality SRCC within parts of BIQ2021": {
            part: _srcc_of_any(
                *(torch.from_numpy(a[material.subsets == part]) for a in (scores["photo_quality"], liked))
            )
            for part in sorted(set(material.subsets.tolist()))
        },
        "correspondence SRCC": over(srcc, shown, fit_),
        "correspondence PLCC": over(plcc, shown, fit_),
        "correspondence, partial given quality": over(_partial, shown, fit_, quality),
        "right prompt above unrelated": over(_above, shown, scores["wrong"]),
        "faulted picture with its prompt above a clean one with that prompt": over(
            _above, scores["faulted"][strong], scores["rival"][strong], folds=fold[strong]
        ),
        "photograph's caption above another's": t_interval(found["captions"].tolist()),
        "photograph above generated, AUC": roc_auc(
            np.concatenate(both), np.repeat([0, 1], [len(one) for one in both])
        ),
        "photographs' mean authenticity": float(scores["photo_authenticity"].mean()),
        "quality covered": covered(scores["quality"], quality, 0, "clean"),
        "photographs' quality covered": covered(scores["photo_quality"], liked, 0, "photo_clean", real.fold),
        "correspondence covered": covered(shown, fit_, 2, "clean"),
        "spread": examiner.spread.tolist(),
        **_named(found, material),
    }


def _named(found: dict[str, Floats], material: Material) -> dict[str, dict[str, float]]:
    """How often faults are named: of strong ones (malformation also of every picture with none), and of sound
    pictures. Of malformation on fold 0 alone."""
    generated, real = material.generated, material.photographs
    quality = generated.quality.double().numpy()
    sound, faulted = quality >= SOUND_FROM, generated.readings["fault"]
    limit = found["malformed_limit"][0]
    malformed = {
        kind: _share_above(found[kind][rows], limit)
        for kind, rows in (
            ("clean_malformed", sound), ("photo_clean_malformed", slice(None)),
            ("resaved_malformed", sound[generated.numbers["resaved"]]),
            ("photo_resaved_malformed", slice(None)),
            ("malformed_malformed", generated.readings["malformed"].level >= STRONG),
            ("photo_malformed_malformed", real.readings["malformed"].level >= STRONG),
        )
    }  # fmt: skip
    strong: dict[str, float] = {}
    clean: dict[str, float] = {}
    for number, shift in enumerate(found["fault_shifts"]):
        with_it = (faulted.severities[:, number] > 0) & (faulted.level >= STRONG)
        strong[FAULTS[number]] = _share_above(found[f"fault_fault{number}"][with_it], NAMED_LOGIT - shift)
        clean[FAULTS[number]] = _share_above(found[f"clean_fault{number}"][sound], NAMED_LOGIT - shift)
    return {"malformation named": malformed, "strong faults named": strong, "named on sound pictures": clean}


def _share_above(logits: Floats, limit: float) -> float:
    """Of those that are known; nan if none is."""
    known = logits[~np.isnan(logits)]
    return float((known > limit).mean()) if len(known) else float("nan")


def _above(a: Floats, b: Floats) -> float:
    return float((a > b).mean()) if len(a) else float("nan")


def _partial(score: Floats, label: Floats, given: Floats) -> float:
    """SRCC of what a line of `given` leaves of both."""

    def rest(values: Floats) -> Floats:
        return values - np.polyval(np.polyfit(given, values, 1), given)

    return srcc(rest(score), rest(label))


def left_out(
    fresh: Callable[[int], Examiner], settled: Examiner, material: Material, recipe: Examine
) -> dict[str, Any]:
    """Each generator in turn out of the fit, and with it fold 0 of the prompts and of the photographs. Of the
    generator's pictures with unseen prompts: quality SRCC, share covered by the intervals of `settled`,
    and how often a photograph is above all pictures of the generator by authenticity (AUC); and the means,
    with half of a 95 % t interval over the generators."""
    generated, real = material.generated, material.photographs
    apart = (real.fold == 0).nonzero()[0]
    table: dict[str, Any] = {}
    for name in sorted(set(material.generators.tolist())):
        own = material.generators == name
        learned = Learned(~own & (generated.fold != 0), real.fold != 0, captioned_of(material, recipe))
        examiner = fresh(pictures_of(material, learned))
        examiner.ramp.copy_(settled.ramp)
        fit(examiner, material, learned, recipe, regions=False)
        reading = reading_of(examiner, generated.readings["clean"], own.nonzero()[0])
        predicted, novelty = examiner.process(reading.axes)
        likely = predicted[:, PHOTOGRAPH]
        unseen = torch.from_numpy(generated.fold[own] == 0)
        predicted, novelty = predicted[unseen], novelty[unseen]
        share = examiner.photograph(predicted[:, PHOTOGRAPH])
        quality = examiner.quality(predicted[:, 0], predicted[:, 1], share)
        human = generated.quality[torch.from_numpy(own)][unseen]
        half = settled.spread[0, 0] + settled.spread[0, 1] * novelty
        photographs = _likely(examiner, real.readings["clean"], apart)
        signs = torch.cat([likely, photographs]).numpy()
        table[name] = {
            "pictures": len(human), "quality SRCC": _srcc_of_any(quality, human),
            "without the ramp": _srcc_of_any(predicted[:, 0], human),
            "covered": float(((quality - human).abs() <= half).float().mean()),
            "photograph above, AUC": roc_auc(signs, np.repeat([0, 1], [len(likely), len(apart)])),
        }  # fmt: skip
    columns = next(iter(table.values()))
    means = {column: t_interval([row[column] for row in table.values()]) for column in columns}
    return {**table, "mean": means}


def _srcc_of_any(predicted: Tensor, human: Tensor) -> float:
    return srcc(predicted.numpy(), human.numpy()) if len(human) > 2 else float("nan")


def _likely(examiner: Examiner, readings: Readings, rows: NDArray[Any]) -> Tensor:
    predicted, _ = examiner.process(reading_of(examiner, readings, rows).axes)
    return predicted[:, PHOTOGRAPH]
