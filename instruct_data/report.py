"""A page about a folder of instruction data: `python -m instruct_data report DIR`.

It is one self-contained HTML file with counts, histograms of scores, levels, warnings, and samples with their
pictures and answers.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from instruct_data.records import SPLITS, InstructionSample, read_jsonl
from mint_iqa.errors import MintIQAError
from mint_iqa.pages.html import bars, head, thumbnail, warning
from mint_iqa.vocabulary import DIMENSIONS, LEVELS, level_of

SAMPLES_SHOWN = 24


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html and return its path.

    Raises MintIQAError if the folder has no samples or a broken line.
    """
    samples = [s for split in SPLITS for s in _read(folder / f"{split}.jsonl")]
    if not samples:
        raise MintIQAError("no_samples", f"{folder} holds no samples: give the output folder of a build.")
    path = folder / "report.html"
    path.write_text("\n".join(_page(folder, samples)), encoding="utf-8")
    return path


def _read(path: Path) -> list[InstructionSample]:
    return read_jsonl(path, InstructionSample) if path.exists() else []


def warnings_of(folder: Path, samples: Sequence[InstructionSample]) -> Iterator[str]:
    """Sentences that a person should read before training on this data."""
    problems = folder / "problems.txt"
    if problems.exists():
        yield from problems.read_text(encoding="utf-8").splitlines()
    for key in ("prompt", "reference"):
        sides: dict[str, set[str]] = {}
        for s in samples:
            # A prompt that was deliberately given to another picture does not count.
            if (value := getattr(s, key)) and s.split and "changed" not in s.source:
                sides.setdefault(value, set()).add(s.split)
        if shared := [value for value, splits in sides.items() if len(splits) > 1]:
            yield f"{len(shared)} {key}s are in more than one split, the first is {shared[0]!r}."
    for name in DIMENSIONS:
        if not any(name in s.scores for s in samples):
            yield f"No sample has a score for {name}."
    if missing := sorted({s.image for s in samples if not (folder / s.image).is_file()}):
        yield f"{len(missing)} pictures are missing, the first is {missing[0]}."


def _page(folder: Path, samples: Sequence[InstructionSample]) -> Iterator[str]:
    pictures = list({s.image: s for s in samples}.values())  # one sample of each
    yield head(folder.name)
    yield f"<h1>{len(samples):,} samples of {len(pictures):,} pictures in {escape(folder.name)}</h1>"
    if warnings := list(warnings_of(folder, samples)):
        yield f"<h2>Warnings ({len(warnings)})</h2>"
        yield from map(warning, warnings)
    yield '<h2>What is in it</h2><div class="charts">'
    yield _chart("Split", Counter(s.split or "none" for s in samples))
    yield _chart("Asked about", Counter(s.dimension or "something else" for s in samples))
    yield _chart("Source", Counter(s.source for s in samples))
    yield _chart("Done to the picture", Counter(s.distortion or "nothing" for s in pictures))
    yield bars("Level of it", Counter(sorted(str(s.level or "-") for s in pictures)))
    yield _chart("Prompt", Counter(map(_prompt_kind, pictures)))
    yield '</div><h2>Scores</h2><div class="charts">'
    for name in DIMENSIONS:
        scores = [s.scores[name] for s in pictures if name in s.scores]
        if scores:
            yield _histogram(name, scores)
            words = [level_of(score) for score in scores]
            yield bars(f"{name.capitalize()} in words", {level: words.count(level) for level in LEVELS})
    yield '</div><h2>Samples</h2><div class="samples">'
    rng = np.random.default_rng(0)
    chosen = sorted(rng.permutation(len(samples))[:SAMPLES_SHOWN].tolist())
    yield from (_sample(folder, samples[i]) for i in chosen)
    yield "</div></html>"


def _prompt_kind(sample: InstructionSample) -> str:
    if sample.prompt is None:
        return "none"
    return "a word exchanged" if sample.changed_words else "whole"


def _chart(title: str, counts: Counter[str]) -> str:
    """Bars, the most common value first."""
    return bars(title, dict(counts.most_common()))


def _histogram(name: str, scores: Sequence[float]) -> str:
    counts, _ = np.histogram(scores, bins=10, range=(0, 100))
    tens = {f"{10 * i}-{10 * (i + 1)}": int(n) for i, n in enumerate(counts)}
    title = f"{name.capitalize()}, mean {np.mean(scores):.1f}, standard deviation {np.std(scores):.1f}"
    return bars(title, tens)


def _sample(folder: Path, sample: InstructionSample) -> str:
    scores = ", ".join(f"{name} {score:.0f}" for name, score in sample.scores.items()) or "no scores"
    done = f"{sample.distortion} at level {sample.level}" if sample.distortion else "nothing done to it"
    turns = [*((t.question, t.answer) for t in sample.history), (sample.question, sample.answer)]
    talk = "".join(f"<p><b>{escape(q)}</b></p><p>{escape(a)}</p>" for q, a in turns)
    words = "".join(f" ({escape(w.original)} → {escape(w.replacement)})" for w in sample.changed_words)
    prompt = escape(sample.prompt or "no prompt")
    known = escape(f"{scores}; {done}; {sample.split}, {sample.source}")
    picture = thumbnail(folder / sample.image, sample.image, sample.region)
    return (
        f'<article>{picture}<p class="small">{prompt}{words}</p>{talk}<p class="small">{known}</p></article>'
    )
