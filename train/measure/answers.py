"""How often answers are right: named faults, clean pictures without one, words that agree with scores,
answers that follow the question, and prompts that were not the picture's.

    python -m train.measure.answers MODEL --fold 0 --output answers.json   # prompts that fold 0 kept out

The same questions are asked with the soft tokens set to zero and with those of another picture: if the named
faults remain then, the words do not come from the picture. Slot accuracy: train/measure/slots.py.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from instruct_data.damage.faults import apply_fault
from instruct_data.prompts import unrelated_prompt
from mint_iqa.assessor import Assessor
from mint_iqa.evaluation.results import finite
from mint_iqa.images import read_image
from mint_iqa.vocabulary import EXPLAINED_BY, QUESTIONS, FaultName
from train.data import pictures, sets
from train.data.sets import split
from train.engine.commands import ends_in_a_sentence
from train.engine.recipes import HeldOut
from train.measure.judging import (
    FITTING,
    Case,
    Sensitivity,
    Share,
    claimed_fits,
    claims_hold,
    denies_faults,
    denies_prompt,
    grade_without_fault,
    no_other_fault,
    precision,
    recall,
    right_fault,
    sensitivity,
    share,
    words_agree,
)

QUESTION = "Why does this image score low?"
WHY_NOT_HIGHER = "Why is the {} not higher?"
BATCH_SIZE = 8
CLEAN_MOS = 3.5  # of 5: "a clean picture with high scores"
MATCHING_MOS = 3.0  # of 5, alignment: the picture shows its own prompt
OTHERS_EVERY = 5  # of the cases, every fifth is asked the other questions


def faulted_cases(
    assessor: Assessor,
    rows: Sequence[dict[str, str]],
    per_fault: int,
    seed: int = 4,
    faults: Sequence[FaultName] = pictures.KADID_FAULTS,
    levels: Sequence[int] = (4, 5),
) -> list[Case]:
    """Pictures with MOS >= 2.5 under each of `faults`, at each of `levels` in turn."""
    rng = np.random.default_rng(seed)
    good = [r for r in rows if float(r["mos_quality"]) >= 2.5]
    cases = []
    for fault in faults:
        for i, k in enumerate(rng.permutation(len(good))[:per_fault]):
            level = levels[i % len(levels)]
            image = apply_fault(read_image(good[k]["path"]).rgb, fault, level, rng).image
            (rated,) = assessor.rate([(assessor.read(image), good[k]["prompt"])])
            cases.append(Case(rated, fault, level, good[k]["prompt"]))
    return cases


def clean_cases(assessor: Assessor, rows: Sequence[dict[str, str]], most: int) -> list[Case]:
    good = [r for r in rows if float(r["mos_quality"]) >= CLEAN_MOS][:most]
    return [
        Case(assessor.rate([(assessor.read(r["path"]), r["prompt"])])[0], None, 0, r["prompt"])
        for r in tqdm(good, desc="Clean", disable=None)
    ]


@torch.inference_mode()
def ask(
    assessor: Assessor,
    cases: Sequence[Case],
    question: str,
    soft_of: Sequence[int | None] | None = None,
    guarded: bool = True,
) -> list[str]:
    """One answer a case. soft_of: whose soft tokens each case gets (None: zeros); default its own.

    guarded: words for faults that were not detected are banned, as in use.
    """
    language = assessor.language_model()
    prefixes, banned = [], []
    for i, case in enumerate(cases):
        source = i if soft_of is None else soft_of[i]
        seen = case if source is None else cases[source]
        soft = assessor.soft_prompt(seen.rated, question)
        soft = torch.zeros_like(soft) if source is None else soft
        prefixes.append(assessor.llm_input(case.rated, question, (), soft))
        banned.append(assessor.banned_sequences(seen.rated) if guarded else [])
    answers: list[str] = []
    for start in tqdm(range(0, len(cases), BATCH_SIZE), desc=question, disable=None):
        part = slice(start, start + BATCH_SIZE)
        answers += language.answers(prefixes[part], banned[part])
    return answers


@dataclass(frozen=True)
class FaultShares:
    """How often a fault is named. Compression and pixelation count for each other: both look blocky."""

    precision: Share
    recall: Share


@dataclass(frozen=True)
class PromptShares:
    """Claims about the correspondence, with the picture's own prompt and with an unrelated one.

    denied_wrong, denied_right: said to be bad or poor; told_apart: denied with the wrong one and not with the
    right one; scored_apart: the score with the right one is the higher one.
    """

    denied_wrong: Share
    denied_right: Share
    told_apart: Share
    scored_apart: Share


@dataclass(frozen=True)
class AnswerShares:
    """How often answers are right. named: the fault of a picture, levels 4 and 5; only: and no other; zeroed,
    shuffled, unguarded: `named` with zeros or another picture's soft tokens, and without banned words; clean:
    no fault named where there is none; agreeing: level words with scores; claims: what is said of the prompt
    agrees with its score, of the answers that say something of it; claims_unguarded: to the same questions,
    without banned words; admits: asked of a score that a detected fault explains, it denies no fault;
    admits_unguarded: the same without banned words; empty: a grade without a fault."""

    named: Share
    only: Share
    zeroed: Share
    shuffled: Share
    unguarded: Share
    clean: Share
    agreeing: Share
    claims: Share
    claims_unguarded: Share
    admits: Share
    admits_unguarded: Share
    empty: Share
    faults: dict[str, FaultShares]
    questions: Sensitivity
    prompts: PromptShares
    examples: list[str]


def measure_answers(assessor: Assessor, rows: Sequence[dict[str, str]], per_fault: int) -> AnswerShares:
    """Asks about faulted and clean pictures and about prompts. rows: of AGIQA-3K, with `path`."""
    faulted, clean = faulted_cases(assessor, rows, per_fault), clean_cases(assessor, rows, 4 * per_fault)
    own, calm = ask(assessor, faulted, QUESTION), ask(assessor, clean, QUESTION)
    others = np.random.default_rng(5).permutation(len(faulted)).tolist()
    asked = [*faulted[::OTHERS_EVERY], *clean[::OTHERS_EVERY]]
    answers = {question: ask(assessor, asked, question) for question in FITTING}
    pairs = [*zip(faulted, own, strict=True), *zip(clean, calm, strict=True)]
    everything = [*pairs, *(pair for texts in answers.values() for pair in zip(asked, texts, strict=True))]
    cases, texts = [case for case, _ in pairs], [text for _, text in pairs]
    fit = QUESTIONS["correspondence"]
    unguarded = ask(assessor, faulted, QUESTION, guarded=False)
    malformed = faulted_cases(assessor, rows, 2 * per_fault, faults=("malformation",), levels=(2, 3))
    blamed = [*faulted, *malformed]  # weak ones too, which are the ones that are denied
    free = [*unguarded, *ask(assessor, asked, fit, guarded=False)]
    return AnswerShares(
        named=share_of(faulted, own, right_fault),
        only=share_of(faulted, own, no_other_fault),
        zeroed=share_of(faulted, ask(assessor, faulted, QUESTION, [None] * len(faulted)), right_fault),
        shuffled=share_of(faulted, ask(assessor, faulted, QUESTION, others), right_fault),
        unguarded=share_of(faulted, unguarded, right_fault),
        clean=share_of(clean, calm, right_fault),
        agreeing=share([c.group for c, _ in everything], [words_agree(*pair) for pair in everything]),
        claims=claims([*faulted, *asked], [*own, *answers[fit]]),
        claims_unguarded=claims([*faulted, *asked], free),
        admits=admits(assessor, blamed),
        admits_unguarded=admits(assessor, blamed, guarded=False),
        empty=share([c.group for c, _ in everything], [grade_without_fault(text) for _, text in everything]),
        faults={
            f: FaultShares(precision(cases, texts, f), recall(cases, texts, f)) for f in pictures.KADID_FAULTS
        },
        questions=sensitivity(asked, answers),
        prompts=prompt_shares(assessor, rows, 4 * per_fault),
        examples=[_example(*pair) for pair in everything[:: max(1, len(everything) // 24)]],
    )


def prompt_shares(assessor: Assessor, rows: Sequence[dict[str, str]], most: int) -> PromptShares:
    """Asks how pictures that show their prompt (alignment MOS >= 3) correspond to it, and to another one."""
    rng = np.random.default_rng(6)
    good = [r for r in rows if float(r["mos_align"]) >= MATCHING_MOS]
    chosen = [good[k] for k in rng.permutation(len(good))[:most]]
    pool = sorted({r["prompt"] for r in rows})
    cases: dict[bool, list[Case]] = {True: [], False: []}
    for row in tqdm(chosen, desc="Prompts", disable=None):
        picture = assessor.read(row["path"])
        prompts = {True: row["prompt"], False: unrelated_prompt(row["prompt"], pool, rng)}
        for own, rated in zip(prompts, assessor.rate([(picture, p) for p in prompts.values()]), strict=True):
            cases[own].append(Case(rated, None, 0, row["prompt"]))
    question = QUESTIONS["correspondence"]
    denied = {own: [denies_prompt(a) for a in ask(assessor, cases[own], question)] for own in cases}
    groups = [row["prompt"] for row in chosen]
    apart = [other and not own for other, own in zip(denied[False], denied[True], strict=True)]
    higher = [_correspondence(a) > _correspondence(b) for a, b in zip(cases[True], cases[False], strict=True)]
    parts = (denied[False], denied[True], apart, higher)
    return PromptShares(*(share(groups, hits) for hits in parts))


def _correspondence(case: Case) -> float:
    return case.rated.scores.correspondence or 0.0


def share_of(cases: Sequence[Case], answers: Sequence[str], holds: Any) -> Share:
    """How often `holds(case, answer)`."""
    hits = [holds(case, answer) for case, answer in zip(cases, answers, strict=True)]
    return share([case.group for case in cases], hits)


def claims(cases: Sequence[Case], answers: Sequence[str]) -> Share:
    """How often what is said of the prompt agrees with the score, of the answers that say something of it."""
    telling = [pair for pair in zip(cases, answers, strict=True) if claimed_fits(pair[1])]
    return share([case.group for case, _ in telling], [claims_hold(*pair) for pair in telling])


def admits(assessor: Assessor, cases: Sequence[Case], guarded: bool = True) -> Share:
    """Asked why a score is not higher that a detected fault explains: how often none is denied."""
    groups, hits = [], []
    for name, explaining in EXPLAINED_BY.items():
        own = [case for case in cases if explaining & {fault.name for fault in case.rated.faults}]
        answers = ask(assessor, own, WHY_NOT_HIGHER.format(name), guarded=guarded)
        groups += [case.group for case in own]
        hits += [not denies_faults(answer) for answer in answers]
    return share(groups, hits)


def _example(case: Case, answer: str) -> str:
    return f"[{case.fault or 'clean'} {case.level}] {case.rated.scores.model_dump()} -> {answer}"


def report(found: AnswerShares) -> Iterator[str]:
    """Lines for people: shares with 95 % bootstrap intervals over prompts, then some answers to read."""
    yield f"names the fault (levels 4-5): {found.named}"
    for fault, shares in found.faults.items():
        yield f"  {fault}: recall {shares.recall}, precision {shares.precision}"
    yield f"  and names no other: {found.only}"
    yield f"with soft tokens zeroed: {found.zeroed}"
    yield f"with another picture's: {found.shuffled}"
    yield f"without the guard on fault words: {found.unguarded}"
    yield f"names none on clean pictures (MOS >= {CLEAN_MOS}): {found.clean}"
    yield f"level words agree with the scores: {found.agreeing}"
    yield f"what is said of the prompt agrees with its score: {found.claims}"
    yield f"  without the guard: {found.claims_unguarded}"
    yield f"denies no fault that was detected, asked why a score is not higher: {found.admits}"
    yield f"  without the guard: {found.admits_unguarded}"
    yield f"grades a fault without naming one: {found.empty}"
    yield f"different questions get different answers: {found.questions.different}"
    yield f"answers fit their question: {found.questions.fitting}"
    yield f"  if answers are exchanged between questions: {found.questions.exchanged}"
    yield from (f"  {question}: {fits}" for question, fits in found.questions.by_question.items())
    yield f"says that an unrelated prompt doesn't fit: {found.prompts.denied_wrong}"
    yield f"says so of the picture's own (alignment MOS >= {MATCHING_MOS}): {found.prompts.denied_right}"
    yield f"  tells the two apart: {found.prompts.told_apart}; by score: {found.prompts.scored_apart}"
    yield from (f"  {text}" for text in found.examples)


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a preset or a folder")
    parser.add_argument("--fold", type=int, default=0, help="the fold that its training kept out")
    parser.add_argument("--per-fault", type=int, default=40, help="pictures under each fault")
    parser.add_argument("--output", type=Path, help="file for the same as JSON")
    options = parser.parse_args()
    human = sets.agiqa3k(sets.data_root())
    rows = [human[i] for i in split(human, HeldOut(test_fold=options.fold)).test]
    found = measure_answers(Assessor.from_pretrained(options.model), rows, options.per_fault)
    print("\n".join(report(found)))
    if options.output:
        options.output.write_text(json.dumps(finite(asdict(found)), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
