"""AIGCIQA2023+ (arXiv 2405.07346): 2,400 pictures (100 prompts x 6 generators x 4) with four questions each.

`AIGIQA2023.json` holds scores, questions and answers. `AIGIQA2023+.csv` holds the annotation from which the
answers were written. A picture has the same number in both.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from instruct_data.answers.grammar import SLOTS, Slot, answer_of
from instruct_data.importers.scores import drop_conflicts
from instruct_data.records import Asked, InstructionSample
from mint_iqa.tables.reading import Findings, csv_lines, json_records
from mint_iqa.tables.scales import percent
from mint_iqa.vocabulary import Dimension

SOURCE = "aigciqa2023"
PICTURES = 2400
# In the order of the picture numbers, 400 pictures each. Only the annotation names them.
GENERATORS = ("Controlnet", "DALLE", "Glide", "Lafite", "stable-diffusion", "Unidiffuser")

QUESTIONS: dict[Asked, str] = {
    "quality": "What is the quality of the image?",
    "authenticity": "What is the authenticity of the image?",
    "correspondence": "What is the correspondence of the image?",
    "overall": "Assess the image from three perspectives: quality, authenticity, and correspondence",
}
_ASKED = {question: dimension for dimension, question in QUESTIONS.items()}

_Score = Annotated[float, Field(strict=True)]


class _AnswerRow(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    img: str
    prompt: str
    moz1: _Score
    moz2: _Score
    moz3: _Score
    q1: str
    a1: str


def read_aigciqa2023(path: Path, findings: Findings) -> list[InstructionSample]:
    """Samples of `AIGIQA2023.json`: scores 0..1 -> 0..100, answers as published without outer spaces.

    The question about all three perspectives has no score (None).
    """
    samples = []
    for line, value in json_records(path):
        with findings.at(line):
            row = _AnswerRow.model_validate(value)
            findings.ignored.update((row.model_extra or {}).keys() - {"id"})
            samples.append((line, _sample(row)))
    return drop_conflicts(samples, findings)


def _sample(row: _AnswerRow) -> InstructionSample:
    if row.q1 not in _ASKED:
        raise ValueError(f"q1 is not one of the four questions: {row.q1!r:.80}")
    scores: dict[Dimension, float] = {
        "quality": percent("moz1", row.moz1),
        "authenticity": percent("moz2", row.moz2),
        "correspondence": percent("moz3", row.moz3),
    }
    asked = _ASKED[row.q1]
    return InstructionSample(
        image=row.img, prompt=row.prompt, source=SOURCE, generator=generator_of(row.img), dimension=asked,
        mos=None if asked == "overall" else scores[asked], scores=scores, question=row.q1,
        answer=row.a1.strip(),
    )  # fmt: skip


def generator_of(image: str) -> str | None:
    """The generator of picture `N.png`, by its number; None for another name."""
    number = number_of(image)
    return None if number is None else GENERATORS[number * len(GENERATORS) // PICTURES]


def number_of(image: str) -> int | None:
    """The number of picture `N.png`, 0..2399; None for another name."""
    stem = image.removesuffix(".png")
    known = stem != image and stem.isascii() and stem.isdigit() and len(stem) <= 4 and int(stem) < PICTURES
    return int(stem) if known else None


def read_aigciqa2023_raw(path: Path, findings: Findings) -> list[InstructionSample]:
    """Samples of `AIGIQA2023+.csv`: the same four answers for each picture, without prompt and scores.

    The file is in gb18030 and has no header. Its columns: number, file name in the generator's folder,
    generator, clarity, outline, detail (1..4), authenticity, correspondence (1..3, higher is better), remarks
    on the last two in Chinese, the same in English. The Chinese remarks are left out.
    """
    samples: list[InstructionSample] = []
    for line, cells in csv_lines(path, "gb18030"):
        with findings.at(line):
            samples += _raw_samples(cells)
    return samples


def _raw_samples(cells: list[str]) -> list[InstructionSample]:
    if len(cells) != 12:
        raise ValueError(f"{len(cells)} cells instead of 12")
    number, _, generator, clarity, outline, detail, authenticity, correspondence, *remarks = cells
    grades = zip(SLOTS, (clarity, outline, detail, authenticity, correspondence), strict=True)
    levels = {slot.name: _level(slot, grade) for slot, grade in grades}
    answers: dict[Asked, str] = {
        "quality": answer_of(levels, "quality"),
        "authenticity": _with_remark(answer_of(levels, "authenticity"), remarks[2]),
        "correspondence": _with_remark(answer_of(levels, "correspondence"), remarks[3]),
    }
    answers["overall"] = " ".join(answers.values())
    image = f"{number}.png"
    if generator_of(image) != generator:
        raise ValueError(f"picture {number:.20} was not made by {generator:.40}")
    return [
        InstructionSample(
            image=image, source=SOURCE, generator=generator, dimension=asked, question=QUESTIONS[asked],
            answer=answer,
        )
        for asked, answer in answers.items()
    ]  # fmt: skip


def _level(slot: Slot, grade: str) -> int:
    if grade not in [str(number) for number in range(1, len(slot.words) + 1)]:
        raise ValueError(f"{slot.name} {grade!r:.20} is not in 1..{len(slot.words)}")
    return int(grade) - 1


def _with_remark(answer: str, remark: str) -> str:
    remark = remark.strip()
    return f"{answer} {remark}{'' if remark.endswith('.') else '.'}" if remark else answer
