"""What each part of the recipe contributes: one fold kept out, equal passes for all rows of a group.

    python -m train.measure.ablation configs/nano/tune.yaml nano        # tables
    python -m train.measure.ablation configs/nano/tune.yaml nano --only tower &        # or a group a core
    python -m train.measure.ablation configs/nano/tune.yaml nano --only heads answers

Heads: fresh heads on features of the frozen tower, as train.heads.readout fits them; rows without some
pictures have fewer steps. Sizes: the same on clean pictures alone, by what the tower, as it comes from its
part, says of whole pictures; without Q-Former 1. Tower: a short tuning of one pass, where only what trains
differs. Answers: the named model without one of its inputs. A row is written as soon as it is known, and not
measured again. Each row of a group is compared with its first one, on the same pictures.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from tqdm import tqdm

from instruct_data.recipes import add_recipe, read_settings
from mint_iqa.assessor import Assessor
from mint_iqa.checkpoints.finding import find_checkpoint, revision_of
from mint_iqa.files import write_whole
from mint_iqa.images import Fit, read_image
from mint_iqa.model.fresh import initialize
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.model.vision import PIXEL_STATISTICS
from train.data import sets
from train.data.features import load_features
from train.data.sets import split
from train.engine.commands import ends_in_a_sentence
from train.engine.parameters import alignment_of
from train.engine.precision import autocast
from train.engine.recipes import FrozenFit, HeldOut, Tower, Tune
from train.heads.readout import Readout
from train.heads.tuned import TunedReadout, image_vectors
from train.measure.answers import QUESTION, ask, clean_cases, faulted_cases, share_of
from train.measure.judging import right_fault, words_agree
from train.measure.predictions import Predictions, predicted, right_above_wrong

FOLD = 0
GROUPS = ("heads", "tower", "answers")
SIZES = (168, 224, 336)  # pixels a side; 14 to a patch
PASSES = 1  # of the tunings; train.tune makes four
LORA_RANK = 16
PER_FAULT = 10
Features = dict[str, Tensor]
Row = dict[str, Any]  # `predicted` and the pictures' numbers, or shares in words


class Ablation:
    """Rows of the tables, kept in JSON files: of the run's model as it is, and of the preset's answers."""

    def __init__(self, recipe: Tune, preset: str) -> None:
        run = Path(recipe.start)
        self.recipe, self.run, self.preset = recipe, run, find_checkpoint(preset)
        self.path = run / f"ablation-{revision_of(run / 'model')}.json"
        self.answers_path = run / f"answers-{revision_of(self.preset)}.json"
        self.human = sets.agiqa3k(sets.data_root())

    @property
    def rows(self) -> dict[str, Row]:
        own = {k: v for k, v in _read(self.path).items() if not k.startswith("answers: ")}
        return own | _read(self.answers_path)

    def row(self, name: str, measure: Callable[[], Row]) -> None:
        path = self.answers_path if name.startswith("answers: ") else self.path
        if name in _read(path):
            return
        found = measure()
        with FileLock(path.with_suffix(".lock")):  # another process may write other rows
            write_whole(path, json.dumps(_read(path) | {name: found}))
        print(name, "done", flush=True)

    def model(self) -> MintIQAModel:
        return MintIQAModel.from_pretrained(self.run / "model", dtype=torch.float32).eval()

    # --- heads on frozen features ---

    def heads(self) -> None:
        features = load_features(self.run, self.recipe.photographs)
        model = self.model()
        pixels, last = slice(PIXEL_STATISTICS), 3 * model.config.vision["hidden_size"]
        own_size = model.config.processor["image_size"]
        lower = slice(PIXEL_STATISTICS, -last)
        self.row("heads: all", lambda: self._fitted(features))
        self.row(
            "heads: without faulted pictures and photographs", lambda: self._fitted(clean_only(features))
        )
        self.row(
            "heads: without the caption projection", lambda: self._fitted(self._without_captions(features))
        )
        self.row("heads: without Q-Former 1's queries", lambda: self._fitted(emptied(features, "_queries")))
        self.row("heads: without pixel statistics", lambda: self._fitted(constant(features, pixels)))
        self.row("heads: without statistics of lower taps", lambda: self._fitted(constant(features, lower)))
        for size in sorted(SIZES, key=lambda size: size != own_size):
            self.row(f"sizes: {size} px", partial(self._at, features, size, None))
        self.row(
            f"sizes: {own_size} px, after captions and faults", partial(self._at, features, own_size, model)
        )

    def _untrained(self) -> MintIQAModel:
        torch.manual_seed(0)
        model = MintIQAModel(self.model().config).eval()
        initialize(model)
        return model

    def _fitted(self, features: Features) -> Row:
        fit = FrozenFit()
        readout = Readout(self.model(), features, self.human, fit)
        readout.fit((features["fold"] != FOLD).nonzero().squeeze(1), fit)
        return self._judged(readout, features)

    def _judged(self, readout: Readout, features: Features) -> Row:
        rows = ((features["fold"] == FOLD) & features["human"]).nonzero().squeeze(1)
        return {"pictures": features["source"][rows].tolist(), **predicted(readout, rows)}

    @torch.no_grad()
    def _without_captions(self, features: Features) -> Features:
        model = self.model()
        torch.manual_seed(0)
        for layer in alignment_of(model).image_projection:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        return features | {"image": image_vectors(model, features["statistics"])}

    def _at(self, features: Features, size: int, model: MintIQAModel | None) -> Row:
        """model: whose tower sees the pictures; None: as it comes from its part."""
        features = clean_only(features)
        statistics, image = zip(
            *self._encoded(model or self._untrained(), features["source"].tolist(), size), strict=True
        )
        seen = {"statistics": torch.cat(statistics), "image": torch.cat(image)}
        return self._fitted(emptied(features, "_queries") | seen)  # the queries are those at the run's size

    @torch.inference_mode()
    def _encoded(self, model: MintIQAModel, sources: list[int], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Statistics and sentence vectors of the pictures' files at `size` px, a batch at a time."""
        processor = MintIQAProcessor.from_config(model.config)
        processor.image_size = processor.fitted_size = size
        processor.fit = Fit(size, processor.max_aspect)
        for start in tqdm(range(0, len(sources), 16), desc=f"{size} px", disable=None):
            paths = [self.human[i]["path"] for i in sources[start : start + 16]]
            pixels = processor.pixel_values([read_image(path).rgb for path in paths])
            with autocast():
                encoded = model.encode_image(pixels, explain=False)
                vectors = alignment_of(model).image_vector(encoded.image_embeds)
                yield encoded.statistics.float(), vectors.float()

    # --- the tower ---

    def tower(self) -> None:
        depth = len(self.model().vision.blocks())
        upper = [f".layer.{n}." for n in range(depth // 2, depth)]
        whole = replace(self.recipe.tower, epochs=PASSES)
        self._tower("all", whole)
        self._tower("frozen", replace(whole, trains=[]))
        self._tower(f"LoRA of rank {LORA_RANK}", replace(whole, trains=["lora_"], learning_rate=1e-3))
        self._tower("upper half", replace(whole, trains=upper))

    def _tower(self, name: str, settings: Tower) -> None:
        self.row(f"tower: {name}", lambda: self._tuned(name, settings))

    def _tuned(self, name: str, settings: Tower) -> Row:
        features = load_features(self.run, self.recipe.photographs)
        rows = (features["fold"] != FOLD).nonzero().squeeze(1)
        model = self.model()
        torch.manual_seed(settings.seed)
        if settings.trains == ["lora_"]:
            adapter = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear")
            inject_adapter_in_model(adapter, model.vision.backbone)
        readout = TunedReadout(model, features, self.human, self.recipe.heads)
        checkpoint = self.path.with_suffix(f".{name.replace(' ', '_')}.pt")
        readout.tune(rows, settings, name, checkpoint)
        checkpoint.unlink()
        return self._judged(readout, features)

    # --- answers ---

    def answers(self) -> None:
        assessor = Assessor.from_pretrained(self.preset)
        rows = [self.human[i] for i in split(self.human, HeldOut(test_fold=FOLD)).test]
        self.row("answers: all", lambda: answered(assessor, rows))
        self.row("answers: another picture's scores in words", lambda: answered(assessor, rows, told=False))
        self.row("answers: without soft tokens", lambda: answered(assessor, rows, soft=False))
        bridge = assessor.model.bridge
        kept = {k: v.clone() for k, v in bridge.state_dict().items()}
        for weight in bridge.parameters():
            weight.data.zero_()
        self.row("answers: without the bridge", lambda: answered(assessor, rows))
        bridge.load_state_dict(kept)


def _read(path: Path) -> dict[str, Row]:
    return json.loads(path.read_text()) if path.exists() else {}


def clean_only(features: Features) -> Features:
    human = features["human"]
    return {k: v[human] for k, v in features.items()}


def emptied(features: Features, ending: str) -> Features:
    return {k: torch.zeros_like(v) if k.endswith(ending) else v for k, v in features.items()}


def constant(features: Features, columns: slice) -> Features:
    """The same statistics for every picture in `columns`: standardized, they are zeros."""
    statistics = features["statistics"].clone()
    statistics[:, columns] = 0
    return features | {"statistics": statistics}


def answered(
    assessor: Assessor, rows: Sequence[dict[str, str]], told: bool = True, soft: bool = True
) -> dict[str, str]:
    """How often faults are named and level words right. told: whether the LLM reads the picture's own
    scores as words; soft: whether it has soft tokens."""
    cases = faulted_cases(assessor, rows, PER_FAULT) + clean_cases(assessor, rows, 4 * PER_FAULT)
    others = cases if told else cases[1::2] + cases[::2]
    asked = [
        replace(c, rated=replace(c.rated, scores=o.rated.scores)) for c, o in zip(cases, others, strict=True)
    ]
    answers = ask(assessor, asked, QUESTION, None if soft else [None] * len(cases))
    faulted = [pair for pair in zip(cases, answers, strict=True) if pair[0].fault]
    return {
        "names the fault": str(share_of([c for c, _ in faulted], [a for _, a in faulted], right_fault)),
        "level words agree": str(share_of(cases, answers, words_agree)),
    }


def markdown(rows: dict[str, Row], human: Sequence[dict[str, str]]) -> Iterator[str]:
    """One table a group of rows; figures of scores with 95 % intervals over prompts."""
    for group in dict.fromkeys(name.split(": ")[0] for name in rows):
        own = {n.split(": ", 1)[1]: row for n, row in rows.items() if n.startswith(f"{group}: ")}
        first = next(iter(own.values()))
        cells = {n: compared(row, first, human) if "pictures" in row else row for n, row in own.items()}
        columns = list(next(iter(cells.values())))
        yield f"| {group} | {' | '.join(columns)} |"
        yield "|---" * (1 + len(columns)) + "|"
        yield from (f"| {name} | {' | '.join(figures.values())} |" for name, figures in cells.items())
        yield ""


def compared(row: Row, first: Row, human: Sequence[dict[str, str]]) -> dict[str, str]:
    """SRCC of a row and by how much it is above that of its group's first one, on the same pictures."""
    tested = Predictions([{"pictures": row["pictures"], "own": row, "first": first}], human)
    every = np.arange(len(row["pictures"]))
    figures = {"right prompt above an unrelated one": f"{right_above_wrong(row):.3f}"}
    for name in sets.LABELS:
        figures[f"{name} SRCC"] = tested.interval(name, every, "own")
        above = "-" if row is first else tested.interval(name, every, "own", "first")
        figures[f"{name}, above the first row"] = above
    return figures


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe(parser)
    parser.add_argument("preset", help="the model whose answers are asked for; its training kept fold 0 out")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="groups to measure")
    options = parser.parse_args()
    ablation = Ablation(read_settings(Tune, options.recipe, options.set), options.preset)
    if "heads" in options.only:
        ablation.heads()
    if "tower" in options.only:
        ablation.tower()
    if "answers" in options.only:
        ablation.answers()
    print("\n".join(markdown(ablation.rows, ablation.human)))


if __name__ == "__main__":
    sys.exit(main())
