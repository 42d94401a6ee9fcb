"""Stage 2's examples from instruction data: the samples that `python -m instruct_data` writes.

An example shows the LLM what the Assessor shows it in use: the whole picture, its scores in words, and soft
tokens only where a fault is known or detected.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from instruct_data.damage.faults import FAULT_OF, severity_of
from instruct_data.records import InstructionSample, read_jsonl
from instruct_data.splits import image_hashes
from mint_iqa.assessor import Assessor
from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image
from mint_iqa.language.llm import LanguageModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.vocabulary import DIMENSIONS, NAMED_FROM, Dimension, FaultName
from train.data.questions import Instruction, InstructionSet, detected
from train.data.vectors import ShownPicture, vectors_of


class FileInstructions(InstructionSet):
    """Pictures are read when needed, and whole, as the Assessor reads them."""

    def __init__(
        self,
        examples: list[Instruction],
        paths: Sequence[Path],
        processor: MintIQAProcessor,
        language: LanguageModel,
    ) -> None:
        """paths: the pictures' files, by the number in each example's `pixels`."""
        super().__init__(examples, processor, language)
        self.paths = paths

    def crops(self, items: Sequence[Instruction]) -> NDArray[np.uint8]:
        read = [read_image(self.paths[item.pixels[1]]).rgb for item in items]
        return self.processor.pixels(read)


@dataclass(frozen=True)
class Samples:
    """The contents of a source without test samples; pictures: one per sample."""

    source: str
    samples: list[InstructionSample]
    pictures: list[ShownPicture]

    def digest(self) -> str:
        """Of all training and validation samples."""
        digest = hashlib.sha256()
        for sample, picture in zip(self.samples, self.pictures, strict=True):
            digest.update(f"{picture.sha256} {sample.model_dump_json()}\n".encode())
        return digest.hexdigest()


def read_samples(source: str, images: str | None) -> Samples:
    """A file, whose samples train unless their split says otherwise, or a folder that a build wrote.

    images: the folder of the pictures; None for the source's own.
    Raises MintIQAError for broken lines, missing pictures, and where there is nothing to learn.
    """
    path = Path(source)
    names = [path / "train.jsonl", path / "validation.jsonl"] if path.is_dir() else [path]
    samples = [s for name in names for s in read_jsonl(name, InstructionSample) if s.split != "test"]
    if all(s.split == "validation" for s in samples):
        raise MintIQAError("nothing_to_learn", f"{source} has no sample to learn from: none is in train.")
    folder = Path(images) if images else names[0].parent
    hashes = image_hashes(samples, folder)
    if missing := [s.image for s in samples if s.image not in hashes]:
        raise MintIQAError(
            "image_missing",
            f"{missing[0]!r:.200} of {source} was not found in {folder} ({len(missing)} of {len(samples)} "
            "images are missing): give their folder with images=FOLDER.",
        )
    return Samples(
        source, samples, [ShownPicture(folder / s.image, hashes[s.image], s.prompt or "") for s in samples]
    )


def examples_of(
    read: Samples, assessor: Assessor, language: LanguageModel, passes: float, seed: int
) -> tuple[FileInstructions, FileInstructions]:
    """Training examples, `passes` times in a seeded order, and validation examples (may be empty)."""
    examples = _examples(read, assessor)
    held_out = [s.split == "validation" for s in read.samples]
    learned = [e for e, held in zip(examples, held_out, strict=True) if not held]
    measured = [e for e, held in zip(examples, held_out, strict=True) if held]
    rng = np.random.default_rng(seed)
    order = [i for _ in range(int(np.ceil(passes))) for i in rng.permutation(len(learned))]
    kept = [learned[i] for i in order[: max(1, round(passes * len(learned)))]]
    paths = [picture.path for picture in read.pictures]
    learning, measuring = (FileInstructions(e, paths, assessor.processor, language) for e in (kept, measured))
    return learning, measuring


@torch.inference_mode()
def _examples(read: Samples, assessor: Assessor) -> list[Instruction]:
    model = assessor.model
    frozen = vectors_of(assessor, read.pictures)
    severities: list[list[float]] = [[] for _ in read.samples]
    if model.fault_head is not None:
        vectors = torch.from_numpy(frozen.vectors).unsqueeze(1).to(model.device, model.dtype)
        severities = model.fault_head(vectors).float().sigmoid().tolist()
    return [
        _example(i, sample, 100 * scores.clip(0, 1), detected(found, model.config.faults[: len(found)]))
        for i, (sample, scores, found) in enumerate(zip(read.samples, frozen.scores, severities, strict=True))
    ]


def _example(
    number: int,
    sample: InstructionSample,
    predicted: NDArray[np.float32],
    found: list[tuple[FaultName, float]],
) -> Instruction:
    """predicted: the model's own scores, 0..100, K of them; found: the faults that it detects."""
    fault = _known_fault(sample)
    return Instruction(
        ("file", number),
        sample.prompt or "",
        _scores(sample, predicted),
        sample.question,
        sample.answer,
        sample.dimension or "",
        tuple((turn.question, turn.answer) for turn in sample.history),
        # As the Assessor does where nothing is detected: see `Assessor.soft_prompt`.
        blind=fault is None and not found,
        fault=fault,
    )


def _known_fault(sample: InstructionSample) -> FaultName | None:
    """The fault that was put into the picture, if it has a name and is strong enough to be named."""
    name = FAULT_OF.get(sample.distortion or "")
    if name is None or sample.level is None or severity_of(name, sample.level) < NAMED_FROM:
        return None
    return name


def _scores(sample: InstructionSample, predicted: NDArray[np.float32]) -> dict[Dimension, float | None]:
    """The scores that the answer was written from; the model's own if there were none."""
    if sample.scores:
        return {name: sample.scores.get(name) for name in DIMENSIONS}
    own: dict[Dimension, float | None] = dict(zip(DIMENSIONS, predicted.tolist(), strict=True))
    return own | ({} if sample.prompt else {"correspondence": None})
