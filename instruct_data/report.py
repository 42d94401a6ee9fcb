"""What is in a folder of instruction data, on one page: `python -m instruct_data report DIR`.

One self-contained HTML file, thumbnails included: counts, histograms of scores, levels, samples with their
pictures and answers, and every warning.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import ImageDraw

from instruct_data.records import SPLITS, InstructionSample, read_jsonl
from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image
from mint_iqa.vocabulary import DIMENSIONS, LEVELS, level_of

SHOWN = 24  # samples
THUMBNAIL = 224  # pixels
STYLE = Path(__file__).with_name("report.css")


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html and return its path.

    Raises MintIQAError if the folder has no samples or a broken line.
    """
    samples = [s for split in SPLITS for s in _read(folder / f"{split}.jsonl")]
    if not samples:
        raise MintIQAError("no_samples", f"{folder} holds no samples: give a folder that build has made.")
    path = folder / "report.html"
    path.write_text("\n".join(_page(folder, samples)), encoding="utf-8")
    return path


def _read(path: Path) -> list[InstructionSample]:
    return read_jsonl(path, InstructionSample) if path.exists() else []


def warnings_of(folder: Path, samples: Sequence[InstructionSample]) -> Iterator[str]:
    """What a person should know before training on this, a sentence each."""
    problems = folder / "problems.txt"
    if problems.exists():
        yield from problems.read_text(encoding="utf-8").splitlines()
    for key in ("prompt", "reference"):
        sides: dict[str, set[str]] = {}
        for s in samples:
            # A prompt that was given to another picture on purpose belongs to neither side.
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
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(folder.name)}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{STYLE.read_text()}</style>'
    yield f"<h1>{len(samples):,} samples of {len(pictures):,} pictures in {escape(folder.name)}</h1>"
    if warnings := list(warnings_of(folder, samples)):
        yield f"<h2>Warnings ({len(warnings)})</h2>"
        yield from (f'<p class="warning">{escape(text)}</p>' for text in warnings)
    yield '<h2>What is in it</h2><div class="charts">'
    yield _chart("Split", Counter(s.split or "none" for s in samples))
    yield _chart("Asked about", Counter(s.dimension or "something else" for s in samples))
    yield _chart("Source", Counter(s.source for s in samples))
    yield _chart("Done to the picture", Counter(s.distortion or "nothing" for s in pictures))
    yield _chart("Level of it", Counter(sorted(str(s.level or "-") for s in pictures)), in_order=True)
    yield _chart("Prompt", Counter(map(_prompt_kind, pictures)))
    yield '</div><h2>Scores</h2><div class="charts">'
    for name in DIMENSIONS:
        scores = [s.scores[name] for s in pictures if name in s.scores]
        if scores:
            yield _histogram(name, scores)
            words = [level_of(score) for score in scores]
            levels: Counter[str] = Counter({level: words.count(level) for level in LEVELS})
            yield _chart(f"{name.capitalize()} in words", levels, in_order=True)
    yield '</div><h2>Samples</h2><div class="samples">'
    rng = np.random.default_rng(0)
    chosen = sorted(rng.permutation(len(samples))[:SHOWN].tolist())
    yield from (_sample(folder, samples[i]) for i in chosen)
    yield "</div></html>"


def _prompt_kind(sample: InstructionSample) -> str:
    if sample.prompt is None:
        return "none"
    return "a word exchanged" if sample.changed_words else "whole"


def _chart(title: str, counts: Counter[str], in_order: bool = False) -> str:
    """A table whose last column is a bar: read by people and by screen readers alike."""
    most = max(counts.values(), default=1)
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{n:,}</td>'
        f'<td class="bar"><div style="width:{100 * n / max(most, 1):.1f}%"></div></td></tr>'
        for name, n in (counts.items() if in_order else counts.most_common())
    )
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def _histogram(name: str, scores: Sequence[float]) -> str:
    counts, _ = np.histogram(scores, bins=10, range=(0, 100))
    bins = {f"{10 * i}-{10 * (i + 1)}": int(n) for i, n in enumerate(counts)}
    title = f"{name.capitalize()}, mean {np.mean(scores):.1f}, standard deviation {np.std(scores):.1f}"
    return _chart(title, Counter(bins), in_order=True)


def _sample(folder: Path, sample: InstructionSample) -> str:
    scores = ", ".join(f"{name} {score:.0f}" for name, score in sample.scores.items()) or "no scores"
    done = f"{sample.distortion} at level {sample.level}" if sample.distortion else "nothing done to it"
    turns = [*((t.question, t.answer) for t in sample.history), (sample.question, sample.answer)]
    talk = "".join(f"<p><b>{escape(q)}</b></p><p>{escape(a)}</p>" for q, a in turns)
    words = "".join(f" ({escape(w.original)} → {escape(w.replacement)})" for w in sample.changed_words)
    prompt = escape(sample.prompt or "no prompt")
    known = escape(f"{scores}; {done}; {sample.split}, {sample.source}")
    return (
        f'<article>{_thumbnail(folder, sample)}<p class="small">{prompt}{words}</p>'
        f'{talk}<p class="small">{known}</p></article>'
    )


def _thumbnail(folder: Path, sample: InstructionSample) -> str:
    """The picture as a data URI, with a frame around what is wrong with it if that is in one place."""
    try:
        image = read_image(folder / sample.image).rgb
    except MintIQAError as error:
        return f'<p class="warning">{escape(error.message)}</p>'
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    if sample.region:
        box = [share * side for share, side in zip(sample.region, image.size * 2, strict=True)]
        ImageDraw.Draw(image).rectangle(box, outline="#e8a13a", width=2)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(sample.image)}" src="data:image/jpeg;base64,{data}">'
