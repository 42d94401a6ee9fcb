"""Measures a stage-1 run on pictures and prompts that it has not seen.

    python -m train.measure.scores runs/match                 # writes runs/match/evaluation.json
    python -m train.measure.scores --summary runs/fold*       # means over folds, intervals

Everything is computed by the code that serves users: images.read_image, MintIQAProcessor, MintIQAModel.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from tqdm import tqdm

from instruct_data.damage.faults import apply_fault
from instruct_data.prompts import unrelated_prompt
from mint_iqa.errors import MintIQAError
from mint_iqa.evaluation.agreement import MIN_IMAGES, ScoredLabels, baselines
from mint_iqa.evaluation.logistic import fit_logistic
from mint_iqa.images import ReadImage, read_image
from mint_iqa.metrics import Metric, bootstrap_interval, krcc, plcc, rmse, roc_auc, srcc, t_interval
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.pictures import encode, judge
from mint_iqa.tables.reading import read_bytes
from mint_iqa.vocabulary import AUTHENTICITY, CORRESPONDENCE, DIMENSIONS, FAULTS, NAMED_FROM, QUALITY
from train.data import sets
from train.data.pictures import KADID_FAULTS
from train.data.sets import LABELS, learned_of, split
from train.engine.checkpoints import held_out
from train.engine.commands import ends_in_a_sentence

Floats = NDArray[np.float64]
BATCH_SIZE = 16
FAULT_PICTURES = 24  # test pictures of a fold that get every fault at every level
GOOD_MOS = 2.5
SOUND_MOS = 3.0


class Rater:
    """Pictures and prompts -> scores float[N, K] and fault severities float[N, F], on 0..100 and 0..1.

    F is 0 for a model without a fault head.
    """

    def __init__(self, folder: Path) -> None:
        self.model = MintIQAModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = MintIQAProcessor.from_config(self.model.config, folder)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], *prompts: Sequence[str]) -> list[tuple[Floats, Floats]]:
        """One result per list of prompts; the pictures are encoded once."""
        found: list[list[tuple[Any, Any]]] = [[] for _ in prompts]
        for start in range(0, len(images), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            read = [("", ReadImage(image, image.size, None, ())) for image in images[part]]
            pictures = encode(self.model, self.processor, read, explain=False)
            for results, texts in zip(found, prompts, strict=True):
                text = self.processor.tokenize(texts[part])
                judged = judge(self.model, pictures, text.ids, text.mask)
                none = torch.empty(len(judged.points), 0)
                results.append((judged.points, none if judged.severities is None else judged.severities))
        return [
            (np.concatenate([s for s, _ in r]).astype(float), np.concatenate([f for _, f in r]).astype(float))
            for r in found
        ]


def evaluate(run: Path) -> dict[str, Any]:
    """All figures of one run; predictions are kept beside them, so that summaries need no second pass."""
    kept = held_out(run)
    human = sets.agiqa3k(sets.data_root())
    rows = [human[i] for i in split(human, kept).test]
    if not rows:
        raise MintIQAError(
            "nothing_to_test", f"{run} has kept no prompt out to be tested on: train it with a test_fold."
        )
    rater = Rater(run / "model")
    images = [read_image(row["path"]).rgb for row in tqdm(rows, desc="Reading", disable=None)]
    pool = sorted({row["prompt"] for row in rows})
    rng = np.random.default_rng(0)
    wrong = [unrelated_prompt(row["prompt"], pool, rng) for row in rows]
    (right, faults), (other, _) = rater(images, [row["prompt"] for row in rows], wrong)
    predictions = [
        {"image": row["image"], "prompt": row["prompt"], "generator": row["generator"],
         "mos_quality": float(row["mos_quality"]), "mos_align": float(row["mos_align"]),
         **dict(zip(DIMENSIONS, scores, strict=True)), "wrong_prompt": wrong[i],
         "wrong_correspondence": other[i, CORRESPONDENCE], "faults": faults[i].round(3).tolist()}
        for i, (row, scores) in enumerate(zip(rows, right.tolist(), strict=True))
    ]  # fmt: skip
    result: dict[str, Any] = {"run": run.name, "predictions": predictions}
    if not kept.leave_out and rater.model.fault_head is not None:
        good = [i for i, row in enumerate(rows) if float(row["mos_quality"]) >= GOOD_MOS]
        chosen = np.random.default_rng(1).permutation(good)[:FAULT_PICTURES]
        result |= _faults(rater, [images[i] for i in chosen], [rows[i]["prompt"] for i in chosen])
        result |= _malformation(rater, images, [row["prompt"] for row in rows], right)
    photographs = sets.flickr8k(sets.data_root())
    if apart := photographs[learned_of(photographs, kept.held_out_photographs) :]:
        result["captions"] = _captions(rater, apart)
    (run / "evaluation.json").write_text(json.dumps(result))
    return result


def _faults(rater: Rater, images: list[Image.Image], prompts: list[str]) -> dict[str, Any]:
    """quality[picture][fault][level 0..5] and the fault head's answers: level 0 is the clean picture."""
    rng = np.random.default_rng(2)
    ladder = []
    for image, prompt in tqdm(list(zip(images, prompts, strict=True)), desc="Faults", disable=None):
        versions = [image] + [
            apply_fault(image, f, level, rng).image for f in KADID_FAULTS for level in range(1, 6)
        ]
        ((scores, found),) = rater(versions, [prompt] * len(versions))
        quality = scores[:, QUALITY]
        ladder.append({
            "quality": [[quality[0], *quality[1 + 5 * k : 6 + 5 * k]] for k in range(len(KADID_FAULTS))],
            "clean_faults": found[0].tolist(),
            "faults": [
                [found[1 + 5 * k + level].tolist() for level in range(5)] for k in range(len(KADID_FAULTS))
            ],
        })  # fmt: skip
    return {"ladder": ladder}


def _malformation(
    rater: Rater, images: list[Image.Image], prompts: list[str], clean: Floats
) -> dict[str, Any]:
    """Authenticity of clean pictures and of their twins with one malformed region, level 1..5 in turn."""
    rng = np.random.default_rng(3)
    twins = [apply_fault(image, "malformation", 1 + i % 5, rng).image for i, image in enumerate(images)]
    ((malformed, found),) = rater(twins, prompts)
    return {
        "clean": clean.tolist(), "malformed": malformed.tolist(), "malformed_faults": found.tolist(),
    }  # fmt: skip


def _captions(rater: Rater, photographs: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Correspondence of photographs kept apart: [with a caption of its own, with an unrelated one] each."""
    images = [read_image(p["path"]).rgb for p in tqdm(photographs, desc="Photographs", disable=None)]
    own = [p["captions"][0] for p in photographs]
    rng = np.random.default_rng(0)
    (right, _), (wrong, _) = rater(images, own, [unrelated_prompt(text, own, rng) for text in own])
    return np.stack([right[:, CORRESPONDENCE], wrong[:, CORRESPONDENCE]], axis=1).tolist()


def monotone_share(ladders: Sequence[dict[str, Any]], tolerance: float = 1.0) -> dict[str, float]:
    """Share of pictures whose quality never rises by over `tolerance` points from level to level (0..5)."""
    steps = np.diff(np.array([item["quality"] for item in ladders]), axis=2)
    fine = np.all(steps <= tolerance, axis=2)
    return {"all": float(fine.mean()), **{f: float(fine[:, k].mean()) for k, f in enumerate(KADID_FAULTS)}}


def summary(runs: Sequence[Path]) -> Iterator[str]:
    """Lines for people, each figure with its 95 % interval."""
    results = [json.loads(read_bytes(run / "evaluation.json")) for run in runs]
    for predicted, label in LABELS.items():
        for name, metric in (("SRCC", srcc), ("PLCC", plcc), ("KRCC", krcc)):
            yield f"{predicted} {name}: {_over_runs(results, metric, predicted, label)}"
        yield from _beside_people(results, predicted, label)
    pairs = _over_runs(results, _share_above, "correspondence", "wrong_correspondence")
    yield f"right prompt above a wrong one: {pairs}"
    if captions := [pair for r in results for pair in r.get("captions", [])]:
        own, other = np.array(captions).T
        low, high = bootstrap_interval(_share_above, own, other)
        yield (
            f"a photograph's caption above an unrelated one: {_share_above(own, other):.3f} "
            f"[{low:.3f}, {high:.3f}] of {len(own)}"
        )
    yield f"authenticity SRCC with quality: {_over_runs(results, srcc, 'authenticity', 'quality')}"
    ladders = [item for r in results for item in r.get("ladder", [])]
    if ladders:
        yield f"no rise above 1 point between levels, {len(ladders)} pictures: {monotone_share(ladders)}"
        yield from _malformation_summary([r for r in results if "clean" in r])
        yield from _detections([r for r in results if "clean" in r])


def _beside_people(results: Sequence[dict[str, Any]], predicted: str, label: str) -> Iterator[str]:
    """Figures after the logistic, and of baselines, as `mint-iqa evaluate` has them; of large runs only."""
    if min(len(r["predictions"]) for r in results) < MIN_IMAGES:
        return
    mapped = [_with_columns(r, predicted, label) for r in results]
    for name, metric in (("PLCC", plcc), ("RMSE", rmse)):
        yield f"{predicted} {name} after the logistic: {_over_runs(mapped, metric, 'mapped', label)}"
    for name in ("generator mean", "prompt mean"):
        if all(name in r["predictions"][0] for r in mapped):
            yield f"{predicted} SRCC of the {name} alone: {_over_runs(mapped, srcc, name, label)}"


def _with_columns(result: dict[str, Any], predicted: str, label: str) -> dict[str, Any]:
    """The run's predictions with `mapped` and each baseline, in the unit of the labels."""
    rows, scores, labels = result["predictions"], _column(result, predicted), _column(result, label)
    groups, generators = ([row[key] for row in rows] for key in ("prompt", "generator"))
    data = ScoredLabels(scores, labels, groups, [""] * len(rows), generators, same_unit=False)
    columns = {"mapped": fit_logistic(scores, labels)(scores), **baselines(data)}
    found = [{name: float(values[i]) for name, values in columns.items()} for i in range(len(rows))]
    return {"predictions": [row | more for row, more in zip(rows, found, strict=True)]}


def _over_runs(results: Sequence[dict[str, Any]], metric: Metric, first: str, second: str) -> str:
    """Of several runs the mean with its t interval, of one run the figure with a bootstrap over prompts."""
    values = [metric(_column(r, first), _column(r, second)) for r in results]
    if len(values) > 1:
        mean, half = t_interval(values)
        return f"{mean:.4f} +- {half:.4f} (95 % over runs) [{' '.join(f'{v:.3f}' for v in values)}]"
    (only,) = results
    low, high = bootstrap_interval(
        metric, _column(only, first), _column(only, second),
        groups=[p["prompt"] for p in only["predictions"]], samples=500,
    )  # fmt: skip
    return f"{values[0]:.4f} [{low:.4f}, {high:.4f}] (95 % over prompts) of {len(only['predictions'])}"


def _share_above(higher: ArrayLike, lower: ArrayLike) -> float:
    return float(np.mean(np.asarray(higher) > np.asarray(lower)))


def _malformation_summary(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    clean = np.concatenate([np.array(r["clean"]) for r in results])
    malformed = np.concatenate([np.array(r["malformed"]) for r in results])
    prompts = [p["prompt"] for r in results for p in r["predictions"]]
    for column, name in ((AUTHENTICITY, "authenticity"), (QUALITY, "quality")):
        values = np.concatenate([clean[:, column], malformed[:, column]])
        labels = np.repeat([1.0, 0.0], len(clean))
        low, high = bootstrap_interval(roc_auc, values, labels, groups=[*prompts, *prompts], samples=300)
        lower = np.mean(malformed[:, column] < clean[:, column])
        auc = roc_auc(values, labels)
        interval = f"[{low:.3f}, {high:.3f}]"
        yield f"malformed twins by {name}: AUC {auc:.3f} {interval}, twin below its original {lower:.3f}"


def _detections(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How often each fault is found where it is strong, and where there is none."""
    ladders = [item["faults"] for r in results for item in r["ladder"]]
    twins = [found for r in results for i, found in enumerate(r["malformed_faults"]) if 1 + i % 5 >= 4]
    clean = [p["faults"] for r in results for p in r["predictions"] if p["mos_quality"] >= SOUND_MOS]
    for k, fault in enumerate(FAULTS):
        if fault == "malformation":
            strong = [found[k] for found in twins]
        else:
            strong = [found[k][level - 1][k] for found in ladders for level in (4, 5)]
        false = [found[k] for found in clean]
        yield f"{fault} found: at levels 4-5 {_named(strong)}, clean with MOS >= {SOUND_MOS} {_named(false)}"


def _named(severities: Sequence[float]) -> str:
    share = f"{np.mean(np.array(severities) >= NAMED_FROM):.3f}" if severities else "none"
    return f"{share} of {len(severities)}"


def _column(result: dict[str, Any], name: str) -> Floats:
    return np.array([p[name] for p in result["predictions"]])


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--summary", action="store_true", help="only read evaluation.json of each run")
    options = parser.parse_args()
    if not options.summary:
        for run in options.runs:
            evaluate(run)
    print("\n".join(summary(options.runs)))


if __name__ == "__main__":
    sys.exit(main())
