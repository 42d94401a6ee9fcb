"""Slot accuracy on AIGCIQA2023+: how often an answer chooses the annotators' level word.

    python -m train.measure.slots MODEL AIGIQA2023.json FOLDER_OF_PICTURES --output slots.json

The 480 official test pictures are asked the published questions, or as many of them as the folder has. Beside
the model stand the commonest word, thresholds on the pictures' true scores, and the same thresholds on the
model's scores, all fitted on the official training side: if the model doesn't beat the
last, its words say no more than its scores.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from instruct_data.answers.grammar import SLOTS, Slot, fit_cuts, levels_in
from instruct_data.importers.aigciqa2023 import read_aigciqa2023
from instruct_data.records import InstructionSample
from instruct_data.splits import official_aigciqa2023
from mint_iqa.assessor import Assessor
from mint_iqa.errors import MintIQAError
from mint_iqa.evaluation.results import finite
from mint_iqa.tables.reading import Findings
from train.engine.commands import ends_in_a_sentence
from train.measure.judging import Share, share


@dataclass(frozen=True)
class SlotShares:
    """Shares of one slot's level words that are right. answered: how often the answer fills the slot at all;
    an answer that doesn't is wrong."""

    slot: str
    answered: Share
    model: Share
    score_thresholds: Share
    commonest: Share
    true_score_thresholds: Share


@dataclass(frozen=True)
class SlotReply:
    """What a model says to one published question, and its score (0..100) of that dimension."""

    sample: InstructionSample
    answer: str
    score: float


def replies(assessor: Assessor, samples: Sequence[InstructionSample], folder: Path) -> list[SlotReply]:
    """Asks every question about one dimension whose picture is in the folder.

    Raises MintIQAError (`no_pictures`) if there is none.
    """
    asked = [s for s in samples if s.dimension not in (None, "overall") and (folder / s.image).is_file()]
    if not asked:
        raise MintIQAError(
            "no_pictures",
            f"{folder} has none of the pictures (such as {samples[0].image}): give their folder.",
        )
    found = []
    for sample in tqdm(asked, desc="Slots", disable=None):
        record = assessor.answer(folder / sample.image, sample.question, prompt=sample.prompt)
        found.append(SlotReply(sample, record.answer, getattr(record.scores, sample.dimension or "")))
    return found


def slot_shares(train: Sequence[InstructionSample], given: Sequence[SlotReply]) -> Iterator[SlotShares]:
    """Every slot that the replies' own truths fill. train: samples to fit words and thresholds on."""
    for slot in SLOTS:
        words, scores = _truths(train, slot)
        own = [
            r
            for r in given
            if r.sample.dimension == slot.dimension and slot.name in levels_in(r.sample.answer)
        ]
        if not own or not len(words):
            continue
        cuts = fit_cuts(scores, words, len(slot.words))
        truth = np.array([levels_in(r.sample.answer)[slot.name] for r in own])
        said = np.array([levels_in(r.answer).get(slot.name, -1) for r in own])
        groups = [r.sample.prompt or r.sample.image for r in own]
        guesses = (
            said,
            np.searchsorted(cuts, [r.score for r in own], "right"),
            np.full(len(own), np.bincount(words).argmax()),
            np.searchsorted(cuts, np.array([r.sample.mos for r in own], float), "right"),
        )
        shares = [share(groups, (guess == truth).tolist()) for guess in guesses]
        yield SlotShares(slot.name, share(groups, (said >= 0).tolist()), *shares)


def _truths(samples: Sequence[InstructionSample], slot: Slot) -> tuple[np.ndarray, np.ndarray]:
    """The annotators' words (0 is the worst) and the scores (0..100) of the samples that fill the slot."""
    own = [(levels_in(s.answer), s.mos) for s in samples if s.dimension == slot.dimension]
    filled = [(levels[slot.name], mos) for levels, mos in own if slot.name in levels]
    return np.array([word for word, _ in filled], int), np.array([mos for _, mos in filled], float)


def evaluate_slots(assessor: Assessor, labels: Path, folder: Path) -> list[SlotShares]:
    """Figures of every slot. Raises MintIQAError for unreadable labels and a folder without pictures."""
    findings = Findings(labels)
    samples = official_aigciqa2023(read_aigciqa2023(labels, findings))
    findings.check()
    test = [s for s in samples if s.split == "test"]
    return list(slot_shares([s for s in samples if s.split == "train"], replies(assessor, test, folder)))


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a preset or a folder")
    parser.add_argument("labels", type=Path, help="AIGIQA2023.json")
    parser.add_argument("pictures", type=Path, help="folder of 0.png..2399.png")
    parser.add_argument("--output", type=Path, help="file for the same as JSON")
    options = parser.parse_args()
    results = evaluate_slots(Assessor.from_pretrained(options.model), options.labels, options.pictures)
    for result in results:
        print(
            result.slot,
            *(f"  {name}: {value}" for name, value in vars(result).items() if name != "slot"),
            sep="\n",
        )
    if options.output:
        options.output.write_text(json.dumps([finite(asdict(r)) for r in results], indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
