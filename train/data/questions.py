"""Stage 2's examples: a picture, its scores in words, a question, and the true answer."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from instruct_data.answers.templates import make_sample
from instruct_data.damage.artifacts import kept_authenticity
from instruct_data.prompts import UNRELATED_SCORE, unrelated_prompt
from mint_iqa.language.llm import LanguageModel, Turn
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.vocabulary import NAMED_FROM, Dimension, FaultName
from train.data import pictures
from train.data.looks import (
    AUTHENTICITY_OFFSET,
    AUTHENTICITY_SLOPE,
    CLEAN_FROM,
    MATCHING_CAPTION,
    PHOTOGRAPH_AUTHENTICITY,
    PHOTOGRAPH_QUALITY,
)
from train.data.pictures import CLEAN, Row
from train.data.sources import Sources

KIND_SHARES = {
    "why_low": 0.26, "overall": 0.16, "quality": 0.12, "authenticity": 0.08, "correspondence": 0.08,
    "what_faults": 0.09, "how_bad": 0.05, "what_to_change": 0.06, "is_it_the_prompt": 0.04,
    "number_meaning": 0.02, "unanswerable": 0.02, "compare": 0.02,
}  # fmt: skip
# The picture of an example. Faults are drawn evenly, or darkness, which people hardly mind below level 4,
# would be one example in thirty. Few pictures have no visible fault: those look all alike to the LLM.
PICTURE_SHARES = {
    "clean": 0.2, "unsure": 0.08, "faint": 0.05, "malformation": 0.12,
    "blur": 0.11, "noise": 0.11, "compression": 0.11, "darkness": 0.11, "pixelation": 0.11,
}  # fmt: skip
# Scores in words vary around the truth as predictions do, so that the model reads the words and not the
# picture for them; points on 0..100.
SCORE_SPREAD = 4.0
# Without soft tokens there is no ground to name a fault: such examples name none. The Assessor zeroes them
# where stage 1 detects nothing, so pictures without a visible fault are learned that way too.
BLIND_SHARE = 0.08
FOLLOW_UP_SHARE = 0.15
NO_PROMPT_SHARE, WRONG_PROMPT_SHARE = 0.2, 0.25

Found = dict[int, list[tuple[FaultName, float]]]


@dataclass(frozen=True)
class Instruction:
    """One training example of stage 2. scores: 0..100 or None; blind: soft tokens are set to zero;
    fault: the strongest that the soft tokens have to show, None for a blind one."""

    pixels: tuple[str, int]
    prompt: str
    scores: dict[Dimension, float | None]
    question: str
    answer: str
    kind: str
    history: tuple[Turn, ...]
    blind: bool
    fault: FaultName | None


def draw_instructions(
    sources: Sources, human: Sequence[int], photographs: Sequence[int], found: Found, count: int, seed: int
) -> list[Instruction]:
    """`count` seeded examples over the given rows of both sets.

    found: faults that stage 1 detects in clean pictures of low quality (by pixel row), since nobody labeled
    them.
    """
    rng = np.random.default_rng(seed)
    pools = _pools(sources, set(human), set(photographs), found)
    names = [name for name in PICTURE_SHARES if pools[name]]
    shares = np.array([PICTURE_SHARES[name] for name in names])
    kinds, weights = list(KIND_SHARES), np.array(list(KIND_SHARES.values()))
    prompts = sorted({sources.human[i]["prompt"] for i in human})
    drawn = []
    for _ in range(count):
        pool = pools[names[rng.choice(len(names), p=shares / shares.sum())]]
        pixels, row, faults = pool[rng.integers(len(pool))]
        kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
        drawn.append(_instruction(sources, pixels, row, faults, kind, prompts, rng))
    return drawn


_Pool = list[tuple[tuple[str, int], Row, Sequence[tuple[FaultName, float]]]]


def _pools(sources: Sources, human: set[int], photographs: set[int], found: Found) -> dict[str, _Pool]:
    """Pictures by what may truly be said about them: "clean", "unsure" (nobody knows), "faint" (a fault too
    weak to be named), or the name of the fault."""
    pools: dict[str, _Pool] = {name: [] for name in PICTURE_SHARES}
    for name, used in (("agiqa3k", human), ("flickr8k", photographs)):
        for i, row in enumerate(sources.rows[name]):
            if row.source not in used or row.variant == "small":
                continue
            sure = name == "flickr8k" or float(sources.human[row.source]["mos_quality"]) / 5 >= CLEAN_FROM
            own: Sequence[tuple[FaultName, float]] = [] if sure else found.get(i, [])
            if row.fault:
                own = [(row.fault, row.severity)]
            if sure or row.variant == CLEAN:
                kind = "clean" if sure else "unsure"
                if row.fault:
                    kind = row.fault if row.severity >= NAMED_FROM else "faint"
                pools[kind].append(((name, i), row, own))
    return pools


def _instruction(
    sources: Sources,
    pixels: tuple[str, int],
    row: Row,
    faults: Sequence[tuple[FaultName, float]],
    kind: str,
    prompts: Sequence[str],
    rng: np.random.Generator,
) -> Instruction:
    prompt, scores = _scores(sources, pixels[0], row, prompts, rng)
    visible = [fault for fault in faults if fault[1] >= NAMED_FROM]
    blind = rng.random() < BLIND_SHARE or not visible
    known = [] if blind else faults
    strongest = None if blind else max(visible, key=lambda fault: fault[1])[0]
    history: tuple[Turn, ...] = ()
    if rng.random() < FOLLOW_UP_SHARE:
        first = make_sample("why_low", scores, known, prompt or None, rng)
        history = ((first.question, first.answer),)
    sample = make_sample(kind, scores, known, prompt or None, rng)
    return Instruction(
        pixels, prompt, scores, sample.question, sample.answer, kind, history, blind, strongest
    )


def _scores(
    sources: Sources, name: str, row: Row, prompts: Sequence[str], rng: np.random.Generator
) -> tuple[str, dict[Dimension, float | None]]:
    if name == "agiqa3k":
        label = sources.human[row.source]
        quality, matching = float(label["mos_quality"]) / 5, float(label["mos_align"]) / 5
        authenticity, prompt = AUTHENTICITY_OFFSET + AUTHENTICITY_SLOPE * quality, label["prompt"]
    else:
        quality, matching, authenticity = PHOTOGRAPH_QUALITY, MATCHING_CAPTION, PHOTOGRAPH_AUTHENTICITY
        captions = sources.photographs[row.source]["captions"]
        prompt = captions[rng.integers(len(captions))]
    if row.fault == "malformation":
        quality, authenticity = 0.9 * quality, authenticity * kept_authenticity(row.severity)
    elif row.fault:
        quality *= pictures.kept_quality(row.fault, row.level)
    draw = rng.random()
    if draw < NO_PROMPT_SHARE:
        prompt = ""
    elif draw < NO_PROMPT_SHARE + WRONG_PROMPT_SHARE:
        prompt, matching = unrelated_prompt(prompt, prompts, rng), UNRELATED_SCORE + 0.1 * rng.random()
    points = np.clip(
        100 * np.array([quality, authenticity, matching]) + SCORE_SPREAD * rng.standard_normal(3), 0, 100
    )
    scores = {
        "quality": points[0],
        "authenticity": points[1],
        "correspondence": points[2] if prompt else None,
    }
    return prompt, {k: None if v is None else float(v) for k, v in scores.items()}  # type: ignore[misc]


def detected(severities: Sequence[float], names: Sequence[FaultName]) -> list[tuple[FaultName, float]]:
    return [(n, float(s)) for n, s in zip(names, severities, strict=True) if s >= NAMED_FROM]


class InstructionSet(Dataset[Instruction]):
    """Examples as padded token ids; a subclass provides the pictures."""

    def __init__(
        self, examples: list[Instruction], processor: MintIQAProcessor, language: LanguageModel
    ) -> None:
        self.examples, self.processor, self.language = examples, processor, language

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Instruction:
        return self.examples[index]

    @abstractmethod
    def crops(self, items: Sequence[Instruction]) -> NDArray[np.uint8]:
        """uint8[B, S, S, 3] of the size that the tower sees."""

    def collate(self, items: Sequence[Instruction]) -> dict[str, Any]:
        prompt = self.processor.tokenize([i.prompt for i in items])
        question = self.processor.tokenize([i.question for i in items])
        scores = [{str(name): score for name, score in i.scores.items()} for i in items]
        tokens = [self.language.tokens(s, i.question, i.history) for s, i in zip(scores, items, strict=True)]
        tokenizer, end = self.language.tokenizer, self.language.end_of_turn
        answers = [[*tokenizer(i.answer, add_special_tokens=False)["input_ids"], end] for i in items]
        return {
            "pixel_values": self.processor.normalize(self.crops(items)),
            "prompt_ids": prompt.ids, "prompt_mask": prompt.mask,
            "question_ids": question.ids, "question_mask": question.mask,
            "blind": torch.tensor([i.blind for i in items]),
            "fault": [i.fault for i in items],
            "tokens": tokens, "answers": answers,
        }  # fmt: skip


class StoredInstructions(InstructionSet):
    """The picture is the middle of its stored square."""

    def __init__(
        self,
        examples: list[Instruction],
        sources: Sources,
        processor: MintIQAProcessor,
        language: LanguageModel,
    ) -> None:
        super().__init__(examples, processor, language)
        self.sources = sources

    def crops(self, items: Sequence[Instruction]) -> NDArray[np.uint8]:
        inner = pictures.center(self.processor.image_size)
        return np.stack([self.sources.pixels[i.pixels[0]][i.pixels[1]][inner, inner] for i in items])
