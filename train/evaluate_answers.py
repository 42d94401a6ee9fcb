"""How often an answer is right: named faults, clean pictures left in peace, words that agree with scores.

    python -m train.evaluate_answers MODEL --fold 0       # pictures of prompts that fold 0 kept out

The same questions are asked with the soft tokens set to zero and with those of another picture: if the named
faults don't fall away then, the words do not come from the picture.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from instruct_data.faults import apply_fault
from mint_iqa.assessor import Assessor, Rated
from mint_iqa.images import read_image
from mint_iqa.metrics import bootstrap_interval
from mint_iqa.vocabulary import DIMENSIONS, GRADES, LEVELS, FaultName, level_of, named_faults
from train import pictures
from train.plan import split
from train.settings import Stage1

QUESTION = "Why does this image score low?"
OTHER_QUESTIONS = ("How is the quality of the image?", "Assess the image.", "What faults does it have?")
BATCH = 8
# Compression and pixelation both look blocky: either word is right for either.
FAMILY: dict[str, frozenset[str]] = {
    "compression": frozenset({"compression", "pixelation"}),
    "pixelation": frozenset({"compression", "pixelation"}),
}
CLEAN_MOS = 3.5  # of 5: "a clean picture with high scores"


@dataclass(frozen=True)
class Case:
    """One picture to ask about. fault: None for a clean one."""

    rated: Rated
    fault: FaultName | None
    level: int
    group: str  # prompt, for the bootstrap


def faulted_cases(
    assessor: Assessor, rows: Sequence[dict[str, str]], per_fault: int, seed: int = 4
) -> list[Case]:
    """Pictures with MOS >= 2.5 under each fault of KADID-10k at levels 4 and 5 in turn."""
    rng = np.random.default_rng(seed)
    good = [r for r in rows if float(r["mos_quality"]) >= 2.5]
    cases = []
    for fault in pictures.KADID_FAULTS:
        for i, k in enumerate(rng.permutation(len(good))[:per_fault]):
            image = apply_fault(read_image(good[k]["path"]).rgb, fault, 4 + i % 2, rng).image
            (rated,) = assessor.rate([(assessor.read(image), good[k]["prompt"])])
            cases.append(Case(rated, fault, 4 + i % 2, good[k]["prompt"]))
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
    jobs: dict[tuple[int, ...], list[tuple[int, torch.Tensor]]] = {}
    for i, case in enumerate(cases):
        source = i if soft_of is None else soft_of[i]
        seen = case if source is None else cases[source]
        soft = assessor.soft_prompt(seen.rated, question)
        soft = torch.zeros_like(soft) if source is None else soft
        prefix = assessor.prefix(case.rated, question, (), soft)
        banned = tuple(assessor.banned_tokens(seen.rated)) if guarded else ()
        jobs.setdefault(banned, []).append((i, prefix))
    answers = [""] * len(cases)
    for banned, items in tqdm(jobs.items(), desc=question, disable=None):
        for start in range(0, len(items), BATCH):
            part = items[start : start + BATCH]
            for (i, _), text in zip(
                part, language.answers([p for _, p in part], [banned] * len(part)), strict=True
            ):
                answers[i] = text
    return answers


def right(case: Case, answer: str) -> bool:
    named = named_faults(answer)
    return bool(named & FAMILY.get(case.fault or "", frozenset({case.fault}))) if case.fault else not named


def empty(answer: str) -> bool:
    """Whether it says how strong something is without naming a fault ("the picture is slightly uneven")."""
    return any(grade in answer.lower() for grade in GRADES) and not named_faults(answer)


def words_agree(case: Case, answer: str) -> bool:
    """Every level word said of a score ("the quality is poor") is the level of that score, and a score that
    is there is not called unrated."""
    text = answer.lower()
    for name in DIMENSIONS:
        score = getattr(case.rated.scores, name)
        said = {level for level in LEVELS if f"{name} is {level}" in text}
        if said and (score is None or said != {level_of(round(score, 2))}):
            return False
        if score is not None and f"{name} is not rated" in text:
            return False
    return True


def share(cases: Sequence[Case], hits: Sequence[bool]) -> str:
    values = np.array(hits, float)
    low, high = bootstrap_interval(
        lambda a, _: float(np.mean(a)), values, values, groups=[c.group for c in cases], samples=500
    )
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}] of {len(values)}"


def report(assessor: Assessor, rows: Sequence[dict[str, str]], per_fault: int) -> Iterator[str]:
    """Lines for people: shares with 95 % bootstrap intervals over prompts, then some answers to read."""
    faulted, clean = faulted_cases(assessor, rows, per_fault), clean_cases(assessor, rows, 4 * per_fault)
    own = ask(assessor, faulted, QUESTION)
    yield f"names the fault (levels 4-5): {right_share(faulted, own)}"
    for fault in pictures.KADID_FAULTS:
        hits = [right(c, a) for c, a in zip(faulted, own, strict=True) if c.fault == fault]
        yield f"  {fault}: {np.mean(hits):.3f} of {len(hits)}"
    precise = [no_other(*pair) for pair in zip(faulted, own, strict=True)]
    yield f"  and names no other: {share(faulted, precise)}"
    others = np.random.default_rng(5).permutation(len(faulted)).tolist()
    zeroed = ask(assessor, faulted, QUESTION, [None] * len(faulted))
    yield f"with soft tokens zeroed: {right_share(faulted, zeroed)}"
    shuffled = ask(assessor, faulted, QUESTION, others)
    yield f"with another picture's: {right_share(faulted, shuffled)}"
    free = ask(assessor, faulted, QUESTION, guarded=False)
    yield f"without the guard on fault words: {right_share(faulted, free)}"
    calm = ask(assessor, clean, QUESTION)
    yield f"names none on clean pictures (MOS >= {CLEAN_MOS}): {right_share(clean, calm)}"
    pairs = [*zip(faulted, own, strict=True), *zip(clean, calm, strict=True)]
    for question in OTHER_QUESTIONS:
        pairs += zip(faulted[::5], ask(assessor, faulted[::5], question), strict=True)
    agree = share([c for c, _ in pairs], [words_agree(*pair) for pair in pairs])
    yield f"level words agree with the scores: {agree}"
    yield f"grades a fault without naming one: {share([c for c, _ in pairs], [empty(a) for _, a in pairs])}"
    for case, answer in pairs[:: max(1, len(pairs) // 24)]:
        yield f"  [{case.fault or 'clean'} {case.level}] {case.rated.scores.model_dump()} -> {answer}"


def right_share(cases: Sequence[Case], answers: Sequence[str]) -> str:
    return share(cases, [right(*pair) for pair in zip(cases, answers, strict=True)])


def no_other(case: Case, answer: str) -> bool:
    return named_faults(answer) <= FAMILY.get(case.fault or "", frozenset({case.fault}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a preset or a folder")
    parser.add_argument("--fold", type=int, default=0, help="the fold that its training kept out")
    parser.add_argument("--per-fault", type=int, default=40, help="pictures under each fault")
    options = parser.parse_args()
    human = pictures.agiqa3k(pictures.data_root())
    rows = [human[i] for i in split(human, Stage1(test_fold=options.fold)).test]
    lines = list(report(Assessor.from_pretrained(options.model), rows, options.per_fault))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
