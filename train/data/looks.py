"""The examples of stage 1 in their order: a list drawn once from a seed.

The whole run is one pass over this list, so a resumed run sees exactly what an uninterrupted one sees, and
the same seed gives the same batches on any machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from instruct_data.damage.artifacts import kept_authenticity
from instruct_data.prompts import EXCHANGED_SHARE, UNRELATED_SCORE, exchange_word, unrelated_prompt
from mint_iqa.errors import MintIQAError
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.vocabulary import DIMENSIONS, FAULTS, Dimension
from train.data import pictures
from train.data.pictures import CLEAN, Row
from train.data.ratings import Ratings
from train.data.sets import check_fold, learned_of, split
from train.data.sources import OWN_SET, Sources, split_rated
from train.engine.recipes import Stage1

NAN = float("nan")
# Authenticity from quality, both 0..1: least squares on the 2,400 human pairs of AIGCIQA2023+ (SRCC .86), the
# only human authenticity scores at hand. It sets the level of generated pictures; faults and photographs set
# the rest.
AUTHENTICITY_SLOPE, AUTHENTICITY_OFFSET = 0.745, 0.126
PHOTOGRAPH_AUTHENTICITY = 0.95
PHOTOGRAPH_QUALITY = 0.75
MATCHING_CAPTION = 0.85
# Below this MOS (0..1) a generated picture may well be blurred or malformed by itself: its faults are
# unknown.
CLEAN_FROM = 0.6


@dataclass(frozen=True)
class Example:
    """One look at one picture. Targets are 0..1, NaN where unknown."""

    pixels: tuple[str, int]  # set, index
    prompt: str
    second_prompt: str  # a wrong one, or "" for none
    targets: tuple[float, ...]  # one for each of DIMENSIONS
    second_correspondence: float
    faults: tuple[float, ...]
    seed: int
    caption: int = -1  # row of the caption bank, -1: no contrastive loss
    human: bool = False  # takes part in the rank loss


@dataclass
class KnownPicture:
    """One training picture, before a look at it is drawn."""

    pixels: tuple[str, int]
    row: Row
    prompts: Sequence[str]
    scores: dict[Dimension, float]  # 0..1; NaN or absent: unknown
    human: bool
    clean_before: bool  # whether it is known to have had no fault of its own
    caption: int = -1


def draw_examples(sources: Sources, recipe: Stage1) -> list[Example]:
    """The run's examples in order."""
    passes = {k: getattr(recipe, k) for k in ("human_epochs", "photograph_epochs", "rating_epochs")}
    if negative := [k for k, value in passes.items() if value < 0]:
        raise MintIQAError("bad_config", f"{negative[0]} is below 0: give the number of passes.")
    check_fold(recipe.test_fold, recipe.folds)
    rng = np.random.default_rng(recipe.seed)
    learned = learned_of(sources.photographs, recipe.held_out_photographs)
    known: list[KnownPicture] = []
    if recipe.human_epochs:
        chosen = split(sources.human, recipe).train
        human = [_human(sources, row, i) for i, row in _rows(sources, "agiqa3k", set(chosen.tolist()))]
        known += _repeat([p for p in human if p.row.variant == CLEAN], recipe.human_epochs, rng)
        share = recipe.human_epochs * recipe.faulted_share / 4  # four twins a picture
        known += _repeat([p for p in human if p.row.variant != CLEAN], share, rng)
    if sources.ratings:
        rated = [_rated(sources.ratings, int(i)) for i in split_rated(sources.ratings, recipe).train]
        known += _repeat(rated, recipe.rating_epochs, rng)
    if recipe.photograph_epochs:
        used = set(range(learned))
        photographs = [_photograph(sources, row, i) for i, row in _rows(sources, "flickr8k", used)]
        known += _repeat(photographs, recipe.photograph_epochs / 3, rng)  # clean and two twins each
    order = rng.permutation(len(known))
    pool = sorted({text for picture in known if picture.human for text in picture.prompts if text})
    captions = [p["captions"][0] for p in sources.photographs[:learned]]
    # Twins take captions for wrong prompts, where photographs bring some.
    return [
        draw_look(known[i], pool if known[i].human else captions or pool, recipe.no_prompt_share, rng)
        for i in order
    ]


def _rows(sources: Sources, name: str, used: set[int]) -> list[tuple[int, Row]]:
    return [(i, row) for i, row in enumerate(sources.rows[name]) if row.source in used]


def picture_of(sources: Sources, name: str, row: Row, index: int) -> KnownPicture:
    """Picture `index` of set `name`."""
    return (_human if name == "agiqa3k" else _photograph)(sources, row, index)


def _repeat(items: list[KnownPicture], times: float, rng: np.random.Generator) -> list[KnownPicture]:
    """Every item `times` times on average; counts differ by one at most."""
    count = round(times * len(items))
    passes = [rng.permutation(len(items)) for _ in range(count // len(items) + 1)] if items else []
    return [items[i] for i in np.concatenate(passes)[:count]] if count else []


def _human(sources: Sources, row: Row, index: int) -> KnownPicture:
    label = sources.human[row.source]
    quality, correspondence = float(label["mos_quality"]) / 5, float(label["mos_align"]) / 5
    authenticity = AUTHENTICITY_OFFSET + AUTHENTICITY_SLOPE * quality
    scores = _scores(quality=quality, authenticity=authenticity, correspondence=correspondence)
    clean = row.variant == CLEAN
    picture = KnownPicture(("agiqa3k", index), row, [label["prompt"]], scores, clean, quality >= CLEAN_FROM)
    return _faulted(picture)


def _photograph(sources: Sources, row: Row, index: int) -> KnownPicture:
    captions = sources.photographs[row.source]["captions"]
    scores = _scores(
        quality=PHOTOGRAPH_QUALITY, authenticity=PHOTOGRAPH_AUTHENTICITY, correspondence=MATCHING_CAPTION
    )
    picture = KnownPicture(
        ("flickr8k", index), row, captions, scores, human=False, clean_before=True, caption=row.source
    )
    return _faulted(picture)


def _rated(ratings: Ratings, index: int) -> KnownPicture:
    """One of your own pictures: scores without a rating are unknown, and so are its faults."""
    record = ratings.records[index]
    scores = {name: mos / 100 for name, mos in record.mos.items()}
    prompts, row = [record.prompt or ""], Row(index, CLEAN)
    return KnownPicture((OWN_SET, index), row, prompts, scores, human=True, clean_before=False)


def _scores(**known: float) -> dict[Dimension, float]:
    return {name: known[name] for name in DIMENSIONS if name in known}


def _faulted(picture: KnownPicture) -> KnownPicture:
    """Targets of a twin. Each fault is labeled where people's judgment of it is known, and nowhere else."""
    row, scores = picture.row, picture.scores
    if row.variant == "small":
        scores["quality"] = NAN
    elif row.fault == "malformation":
        scores["quality"] = NAN
        scores["authenticity"] *= kept_authenticity(row.severity)
    elif row.fault:
        scores["quality"] *= pictures.kept_quality(row.fault, row.level)
        scores["correspondence"] = NAN
    return picture


def _fault_targets(picture: KnownPicture) -> tuple[float, ...]:
    row = picture.row
    other = 0.0 if picture.clean_before else NAN
    return tuple(row.severity if name == row.fault else other for name in FAULTS)


def draw_look(
    picture: KnownPicture, pool: Sequence[str], no_prompt_share: float, rng: np.random.Generator
) -> Example:
    """A picture with one of its prompts and a second one: none, one word exchanged, or one of `pool`.

    no_prompt_share: how often none.
    """
    which = int(rng.integers(len(picture.prompts)))
    prompt = picture.prompts[which]
    # Nobody measured what a fault does to correspondence: a faulted photograph still matches its caption.
    known = picture.scores.get("correspondence", NAN)
    if picture.row.fault and np.isnan(known):
        known = MATCHING_CAPTION
    try:
        second, target = _second_look(prompt, known, pool, no_prompt_share, rng)
    except ValueError:
        if picture.pixels[0] != OWN_SET:
            raise
        second, target = "", NAN  # your own ratings may be of one subject
    caption = picture.caption * 5 + which if picture.caption >= 0 else -1
    return Example(
        picture.pixels,
        prompt,
        second,
        tuple(picture.scores.get(name, NAN) for name in DIMENSIONS),
        target,
        _fault_targets(picture),
        int(rng.integers(2**31)),
        caption,
        picture.human,
    )


def _second_look(
    prompt: str, correspondence: float, pool: Sequence[str], no_prompt_share: float, rng: np.random.Generator
) -> tuple[str, float]:
    """The same picture with no prompt, with one word exchanged, or with a prompt of another picture."""
    draw = rng.random()
    if draw < no_prompt_share or not prompt:
        return "", NAN
    if draw < no_prompt_share + 0.2 and (exchange := exchange_word(prompt, rng)):
        return exchange.prompt, correspondence * EXCHANGED_SHARE
    # Without a rating of the right prompt, only low scores of wrong ones would be learned.
    return unrelated_prompt(prompt, pool, rng), NAN if np.isnan(correspondence) else UNRELATED_SCORE


class Looks(Dataset[dict[str, Any]]):
    """Examples as tensors: a crop of `image_size`, mirrored half of the time, both by the example's seed."""

    def __init__(self, examples: list[Example], sources: Sources, processor: MintIQAProcessor) -> None:
        self.examples, self.sources, self.processor = examples, sources, processor

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.examples[index]
        name, row = example.pixels
        rng = np.random.default_rng(example.seed)
        size = self.processor.image_size
        top, left = rng.integers(0, pictures.stored_side(size) - size + 1, 2)
        crop = self.sources.pixels[name][row][top : top + size, left : left + size]
        return {"example": example, "pixels": crop[:, ::-1] if rng.random() < 0.5 else crop}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        examples = [item["example"] for item in items]
        prompt = self.processor.tokenize([e.prompt for e in examples])
        second = self.processor.tokenize([e.second_prompt for e in examples])
        return {
            "pixel_values": self.processor.normalize(np.stack([item["pixels"] for item in items])),
            "prompt_ids": prompt.ids,
            "prompt_mask": prompt.mask,
            "second_ids": second.ids,
            "second_mask": second.mask,
            "targets": torch.tensor([e.targets for e in examples]),
            "second_correspondence": torch.tensor([e.second_correspondence for e in examples]),
            "faults": torch.tensor([e.faults for e in examples]),
            "captions": torch.tensor([e.caption for e in examples]),
            "human": torch.tensor([e.human for e in examples]),
        }
