"""CLIP-AGIQA behind the methods of `Assessor`: scores, and neither faults nor reasons."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from mint_iqa.clip_agiqa.model import ClipAgiqa
from mint_iqa.devices import device_of, dtype_of
from mint_iqa.errors import MintIQAError
from mint_iqa.images import ReadImage, Source, read_image
from mint_iqa.language.llm import Turn
from mint_iqa.records import CLIP_AGIQA, Assessment, FailedAssessment, Failure, Levels, ModelInfo, Scores


class ClipAgiqaAssessor:
    """Perceptual is quality; alignment is correspondence, where a prompt is given. The prompt is not read.

    Records say so in `blind`. There is no authenticity. Several threads may use it.
    """

    fit = None  # crops are cut from the picture at its own size

    def __init__(self, model: ClipAgiqa, info: ModelInfo) -> None:
        self.model, self.model_info = model.eval(), info

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: str | None = None, dtype: str | None = None
    ) -> "ClipAgiqaAssessor":
        """`model`: a folder that training or `mint-iqa convert` wrote, with or without clip-agiqa= before it.

        device, dtype: as for `Assessor`. Raises MintIQAError when weights or backbone are missing or unfit.
        """
        kind, place = dtype_of(dtype), device_of(device)
        folder = str(model).removeprefix(CLIP_AGIQA)
        loaded = ClipAgiqa.from_pretrained(Path(folder))
        info = ModelInfo(name=f"{CLIP_AGIQA}{folder}", revision=revision_of(loaded))
        return cls(loaded.to(device=place, dtype=kind), info)

    def assess(
        self, image: Source | ReadImage, prompt: str | None = None, explain: bool = False
    ) -> Assessment:
        """Scores 0..100. MintIQAError for a bad picture, for one smaller than a crop, and with `explain`."""
        if explain:
            _refuse()
        prompt = (prompt or "").strip() or None
        read = image if isinstance(image, ReadImage) else read_image(image)
        asked = prompt is not None and self.model.auxiliary is not None
        output = self.model.score(np.asarray(read.rgb), alignment=asked)
        aligned = None if output.alignment is None else output.alignment.item() * 100
        scores = Scores(quality=output.perceptual.item() * 100, authenticity=None, correspondence=aligned)
        note = ("Correspondence is blind: this model does not read the prompt.",) if asked else ()
        return Assessment(
            image=_name(image),
            image_sha256=read.sha256,
            prompt=prompt,
            model=self.model_info,
            scores=scores,
            levels=Levels.of(scores),
            blind=asked,
            warnings=(*read.warnings, *note),
        )

    def assess_many(
        self,
        items: Iterable[tuple[Source | ReadImage, str | None]],
        batch_size: int = 8,
        explain: bool = False,
    ) -> Iterator[Assessment | FailedAssessment]:
        """One record per item, in order, produced lazily; a picture that can't be scored fails alone.
        MintIQAError with `explain`.

        batch_size changes nothing: the crops of a picture fill batches of their own.
        """
        if explain:
            _refuse()
        for image, prompt in items:
            try:
                yield self.assess(image, prompt)
            except MintIQAError as error:
                failure = Failure.of(error)
                yield FailedAssessment(
                    image=_name(image), prompt=prompt, model=self.model_info, error=failure
                )

    def ask(
        self, image: Source, question: str, prompt: str | None = None, history: Sequence[Turn] = ()
    ) -> NoReturn:
        """Raises MintIQAError: nothing in this model writes."""
        _refuse()

    def answer(self, image: Source, question: str, prompt: str | None = None) -> NoReturn:
        """Raises MintIQAError, as `ask` does."""
        _refuse()


def revision_of(model: ClipAgiqa) -> str:
    """The first 12 hex digits of the sha256 over all weights, the backbone's included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _name(image: Source | ReadImage) -> str:
    return os.fspath(image) if isinstance(image, str | Path) else "image"


def _refuse() -> NoReturn:
    raise MintIQAError(
        "no_explanation", "CLIP-AGIQA scores a picture and can't explain: ask a model such as nano instead."
    )
