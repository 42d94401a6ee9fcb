"""Instruction data from rated pictures: `python -m instruct_data build configs/...yaml`.

Every picture is shown unchanged, or with one known fault that covers all of it or one region. It comes with
its own prompt, no prompt, another picture's prompt, or its own prompt with one word exchanged, and it gets
several questions. So everything that is true of it is known, and the answers say only that. The scores of a
changed picture are estimates: the human scores times what the change leaves of them (see `kept`). The
`source` says whether the picture or the prompt was changed.

The same recipe gives the same bytes, for any number of processes and after any interruption.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from instruct_data.answers.grammar import answer_for
from instruct_data.answers.templates import KINDS, Box, Sample, make_sample
from instruct_data.damage.artifacts import ARTIFACTS, add_artifact, kept_authenticity
from instruct_data.damage.distortions import DISTORTIONS, Distorted, distort, kept_quality
from instruct_data.damage.faults import FAULT_OF
from instruct_data.importers.aigciqa2023 import QUESTIONS as PUBLISHED_QUESTIONS
from instruct_data.prompts import EXCHANGED_SHARE, UNRELATED_SCORE, exchange_word, unrelated_prompt
from instruct_data.records import (
    SPLITS,
    ChangedWord,
    InstructionSample,
    RatedImage,
    Turn,
    read_jsonl,
    write_jsonl,
)
from instruct_data.segmentation import Segments, annotated, read_notes, segment
from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image
from mint_iqa.vocabulary import DIMENSIONS, Dimension

PICTURES_PER_PART = 50  # written to disk together
REGION_SHARES = (0.1, 0.3)  # smallest and largest share of the picture for a fault in one place
SHARE_FIELDS = (
    "distorted", "malformed", "in_one_place", "no_prompt", "unrelated_prompt", "exchanged_word", "published",
    "follow_ups",
)  # fmt: skip


@dataclass(frozen=True)
class Build:
    """Recipe of a build. Shares are shares of the pictures, 0..1."""

    ratings: str  # JSON Lines of RatedImage with a split
    images: str  # the folder of the pictures
    output: str
    samples: int = 10_000
    questions: int = 4  # for each picture
    distorted: float = 0.45  # get one of KADID-10k's distortions
    malformed: float = 0.15  # get a structural artifact
    in_one_place: float = 0.3  # share of the distorted pictures: the fault covers a region only
    distortions: list[str] = field(default_factory=lambda: list(DISTORTIONS))
    artifacts: list[str] = field(default_factory=lambda: list(ARTIFACTS))
    no_prompt: float = 0.2
    unrelated_prompt: float = 0.15
    exchanged_word: float = 0.15
    # Whether prompts carry their content, style and atmosphere: "" (no), "rules", or a file written by
    # `python -m instruct_data segment`. The rules split the prompts that the file lacks.
    notes: str = ""
    published: float = 0.0  # share of the questions in the words of AIGCIQA2023+
    follow_ups: float = 0.15  # share of the questions that follow another one
    kinds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))  # sampling weights
    seed: int = 0


@dataclass(frozen=True)
class PreparedPicture:
    """A picture as the questions see it, with everything that is true of it. scores: 0..100."""

    image: Image.Image | None  # None: the file is unchanged
    fault: Distorted | None
    prompt: str | None
    exchanged: ChangedWord | None
    scores: dict[Dimension, float]


def build(recipe: Build, processes: int | None = None) -> list[str]:
    """Write train.jsonl, validation.jsonl, test.jsonl and images/ into `output`; finished parts are kept.

    Returns one sentence for each picture that could not be read; its samples are missing. Raises MintIQAError
    for ratings without a split, for an invalid recipe, and for an output folder that holds another build or
    can't be written.
    """
    _check(recipe)
    rated, _ = _sources(recipe.ratings)
    if not rated or any(r.split is None for r in rated):
        raise MintIQAError(
            "not_split", f"{recipe.ratings} has no split: run python -m instruct_data split on it first."
        )
    try:
        return _make(recipe, Path(recipe.output), processes)
    except OSError as error:
        raise MintIQAError(
            "output_unwritable",
            f"{recipe.output} can't be written ({error.strerror}): choose another output.",
        ) from error


def _make(recipe: Build, output: Path, processes: int | None) -> list[str]:
    _claim(output, recipe)
    numbers = range(-(-recipe.samples // (recipe.questions * PICTURES_PER_PART)))
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        found = pool.map(partial(_make_part, recipe), numbers)
        problems = [p for part in tqdm(found, "Building", len(numbers), disable=None) for p in part]
    _join(output, numbers)
    (output / "problems.txt").write_text("".join(f"{p}\n" for p in problems), encoding="utf-8")
    return problems


def _check(recipe: Build) -> None:
    known = {"distortions": DISTORTIONS, "artifacts": ARTIFACTS, "kinds": KINDS}
    for name, names in known.items():
        if unknown := sorted(set(getattr(recipe, name)) - set(names)):
            raise MintIQAError("bad_config", f"Unknown {name} {unknown}: known are {', '.join(names)}.")
    shares = [getattr(recipe, name) for name in SHARE_FIELDS]
    fine = min(shares) >= 0 and max(shares) <= 1 and recipe.distorted + recipe.malformed <= 1
    named = (recipe.distortions or not recipe.distorted) and (recipe.artifacts or not recipe.malformed)
    asked = min(recipe.kinds.values(), default=0) >= 0 and any(recipe.kinds.values())
    if recipe.samples < 1 or recipe.questions < 1 or not (fine and named and asked):
        raise MintIQAError(
            "bad_config",
            "A build needs samples, questions, kinds with a weight, distortions if `distorted` is above 0, "
            f"artifacts if `malformed` is, and {', '.join(SHARE_FIELDS)} between 0 and 1 (the first two in "
            "sum, too): correct the recipe.",
        )
    _notes(recipe.notes)  # a broken file is reported once, before the first picture


def _claim(output: Path, recipe: Build) -> None:
    """Reserve the folder for this recipe, so that parts of two builds never mix.

    Raises MintIQAError (`output_exists`) if it holds the build of another recipe.
    """
    path, text = output / "recipe.json", json.dumps(asdict(recipe), indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise MintIQAError("output_exists", f"{output} holds another build: choose another output.")
    (output / "parts").mkdir(parents=True, exist_ok=True)
    (output / "images").mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _part_path(output: Path, number: int) -> Path:
    return output / "parts" / f"{number:05d}.jsonl"


def _make_part(recipe: Build, number: int) -> list[str]:
    """Make the pictures of one part unless it exists; returns what went wrong, in sentences."""
    path = _part_path(Path(recipe.output), number)
    failures = path.with_suffix(".txt")
    if not path.exists():
        samples: list[InstructionSample] = []
        problems: list[str] = []
        last = -(-recipe.samples // recipe.questions)
        for i in range(number * PICTURES_PER_PART, min((number + 1) * PICTURES_PER_PART, last)):
            try:
                samples += _picture(recipe, i)
            except MintIQAError as error:
                problems.append(error.message)
        failures.write_text("".join(f"{p}\n" for p in problems), encoding="utf-8")
        write_jsonl(path, samples)  # written last: an existing part is complete
    return failures.read_text(encoding="utf-8").splitlines()


def _join(output: Path, numbers: Sequence[int]) -> None:
    parts = [sample for n in numbers for sample in read_jsonl(_part_path(output, n), InstructionSample)]
    for split in SPLITS:
        write_jsonl(output / f"{split}.jsonl", (s for s in parts if s.split == split))


# --- one picture ---


def _picture(recipe: Build, number: int) -> Iterator[InstructionSample]:
    """Write the file of one picture and yield its samples."""
    rng = np.random.default_rng([recipe.seed, number])
    rated, prompts = _sources(recipe.ratings)
    record = rated[rng.integers(len(rated))]
    source = Path(recipe.images) / record.image
    shown = show(recipe, record, source, prompts[record.split], rng)
    name = f"images/{number:06d}{'.png' if shown.image else source.suffix.lower()}"
    if shown.image:
        shown.image.save(Path(recipe.output) / name, compress_level=1)
    else:
        shutil.copyfile(source, Path(recipe.output) / name)
    for _ in range(min(recipe.questions, recipe.samples - number * recipe.questions)):
        yield ask(recipe, record, shown, name, rng)


@lru_cache(maxsize=1)
def _sources(ratings: str) -> tuple[list[RatedImage], dict[str | None, list[str]]]:
    """The rated pictures, and the sorted prompts of each split; read once in each process."""
    rated = read_jsonl(Path(ratings), RatedImage)
    prompts: dict[str | None, set[str]] = defaultdict(set)
    for record in rated:
        prompts[record.split].update([record.prompt] if record.prompt else [])
    return rated, {split: sorted(texts) for split, texts in prompts.items()}


def show(
    recipe: Build, record: RatedImage, source: Path, pool: Sequence[str], rng: np.random.Generator
) -> PreparedPicture:
    """Draw what is done to a picture and to its prompt. pool: prompts of the same split.

    Raises MintIQAError if the picture can't be read.
    """
    image = read_image(source).rgb
    fault = _damage(recipe, image, rng)
    prompt, exchanged, correspondence = _prompt(recipe, record, pool, rng)
    scores = {name: kept(name, fault) * mos for name, mos in record.mos.items()}
    scores.pop("correspondence", None)
    if correspondence is not None:
        scores["correspondence"] = correspondence
    return PreparedPicture(fault.image if fault else None, fault, prompt, exchanged, scores)


def _damage(recipe: Build, image: Image.Image, rng: np.random.Generator) -> Distorted | None:
    draw, level = rng.random(), int(rng.integers(1, 6))
    if draw < recipe.malformed:
        return add_artifact(image, recipe.artifacts[rng.integers(len(recipe.artifacts))], level, rng)
    if draw < recipe.malformed + recipe.distorted:
        region = float(rng.uniform(*REGION_SHARES)) if rng.random() < recipe.in_one_place else None
        name = recipe.distortions[rng.integers(len(recipe.distortions))]
        return distort(image, name, level, rng, region)
    return None


def _prompt(
    recipe: Build, record: RatedImage, pool: Sequence[str], rng: np.random.Generator
) -> tuple[str | None, ChangedWord | None, float | None]:
    """A prompt, the word exchanged in it, and the picture's correspondence with it, 0..100 or unknown."""
    known, prompt, draw = record.mos.get("correspondence"), record.prompt, rng.random() - recipe.no_prompt
    if prompt is None or draw < 0:
        return None, None, None
    if draw < recipe.unrelated_prompt:
        try:
            return unrelated_prompt(prompt, pool, rng), None, 100 * UNRELATED_SCORE
        except ValueError:  # no prompt of the pool is unrelated: keep its own
            return prompt, None, known
    if draw < recipe.unrelated_prompt + recipe.exchanged_word and (changed := exchange_word(prompt, rng)):
        word = ChangedWord(original=changed.original, replacement=changed.replacement)
        return changed.prompt, word, None if known is None else EXCHANGED_SHARE * known
    return prompt, None, known


def kept(dimension: Dimension, fault: Distorted | None) -> float:
    """The share of a human score that remains with a fault, 0..1.

    Quality keeps the share that people gave KADID-10k's photographs with this distortion, weighted by the
    area of the fault. Authenticity keeps an assumed share, since nobody rated artifacts.
    """
    if fault is None or dimension == "correspondence":
        return 1.0
    area = float(fault.mask.mean())
    if dimension == "quality":
        return 1.0 if fault.mean_score is None else 1 - area * (1 - kept_quality(fault.mean_score))
    return 1.0 if fault.mean_score is not None else kept_authenticity(fault.severity)


def ask(
    recipe: Build, record: RatedImage, shown: PreparedPicture, name: str, rng: np.random.Generator
) -> InstructionSample:
    """A question about a picture, with the answer that is true of it."""
    write = partial(_write, shown, rng)
    history: tuple[Turn, ...] = ()
    if rng.random() < recipe.follow_ups:
        first = write("why_low")
        history = (Turn(question=first.question, answer=first.answer),)
    kinds = [k for k, weight in recipe.kinds.items() if weight > 0]
    weights = np.array([recipe.kinds[k] for k in kinds])
    sample = _published(shown, rng) if rng.random() < recipe.published else None
    sample = sample or write(kinds[rng.choice(len(kinds), p=weights / weights.sum())])
    prompt = shown.prompt
    if prompt and recipe.notes:
        prompt = annotated(prompt, _notes(recipe.notes).get(prompt) or segment(prompt))
    other_prompt = shown.prompt not in (record.prompt, None)
    about = sample.about or ("overall" if sample.kind == "overall" else None)
    fault = shown.fault
    return InstructionSample(
        image=name,
        prompt=prompt,
        source=f"{record.source}, changed" if fault or other_prompt else record.source,
        split=record.split,
        generator=record.generator,
        reference=record.image,
        distortion=fault.name if fault else record.distortion,
        level=int(fault.level) if fault else record.level,
        dimension=about,
        mos=shown.scores.get(about) if about in DIMENSIONS else None,
        scores=shown.scores,
        question=sample.question,
        answer=sample.answer,
        history=history,
        region=box_of(fault) if fault else None,
        changed_words=(shown.exchanged,) if shown.exchanged else (),
    )


def _published(shown: PreparedPicture, rng: np.random.Generator) -> Sample | None:
    """The published question about one of the scores, and its answer."""
    if not shown.scores:
        return None
    name = list(shown.scores)[rng.integers(len(shown.scores))]
    return Sample(PUBLISHED_QUESTIONS[name], answer_for(shown.scores[name], name), name, name)


@lru_cache(maxsize=1)
def _notes(source: str) -> dict[str, Segments]:
    return {} if source in ("", "rules") else read_notes(Path(source))


def _write(shown: PreparedPicture, rng: np.random.Generator, kind: str) -> Sample:
    fault, word = shown.fault, shown.exchanged
    faults = [(FAULT_OF[fault.name], fault.severity)] if fault and fault.name in FAULT_OF else []
    scores = {name: shown.scores.get(name) for name in DIMENSIONS}
    exchanged = (word.replacement, word.original) if word else None
    region = box_of(fault) if fault else None
    return make_sample(kind, scores, faults, shown.prompt, rng, region, exchanged)


def box_of(fault: Distorted) -> Box | None:
    """The smallest box around a fault, as shares of width and height; None if it covers the whole picture."""
    rows, columns = (np.flatnonzero((fault.mask > 0).any(axis=axis)) for axis in (1, 0))
    if not len(rows) or fault.mask.min() > 0:
        return None
    height, width = fault.mask.shape
    left, top = columns[0] / width, rows[0] / height
    return float(left), float(top), float((columns[-1] + 1) / width), float((rows[-1] + 1) / height)
