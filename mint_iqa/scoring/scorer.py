"""What scores pictures: one protocol for MINT-IQA and CLIP-AGIQA, and the function that opens either."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from mint_iqa.errors import MintIQAError
from mint_iqa.images import Fitting, ReadImage, Source
from mint_iqa.language.chat import Turn
from mint_iqa.records import Answer, Assessment, FailedAssessment, ModelInfo, kind_of


class Scorer(Protocol):
    """Assessor and ClipAgiqaAssessor, whose docstrings say more."""

    model_info: ModelInfo

    @property
    def fit(self) -> Fitting | None:
        """What makes a picture small enough to be handed between processes; None where it must stay whole."""

    def assess(self, image: Source, prompt: str | None = None, *, explain: bool = ...) -> Assessment: ...

    def assess_many(
        self,
        items: Iterable[tuple[Source | ReadImage, str | None]],
        batch_size: int = ...,
        explain: bool = ...,
    ) -> Iterator[Assessment | FailedAssessment]: ...

    def ask(
        self, image: Source, question: str, prompt: str | None = None, history: Sequence[Turn] = ()
    ) -> Iterator[str]: ...

    def answer(self, image: Source, question: str, prompt: str | None = None) -> Answer: ...


def open_model(
    name: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    device_map: str | None = None,
) -> Scorer:
    """A preset, folder, hub id, or clip-agiqa=FOLDER; the others are as for `Assessor.from_pretrained`.

    MintIQAError where there is none.
    """
    # Imported here, so that --help and schema need not wait for torch.
    if kind_of(str(name)) == "clip_agiqa":
        from mint_iqa.clip_agiqa.assessor import ClipAgiqaAssessor

        return ClipAgiqaAssessor.from_pretrained(name, device=device, dtype=dtype)
    from mint_iqa.assessor import Assessor

    return Assessor.from_pretrained(
        name, device=device, dtype=dtype, quantization=quantization, device_map=device_map
    )


def explains(name: str, wanted: bool | None, usual: bool = True) -> bool:
    """Whether to explain: as `wanted`, else as `usual`. MintIQAError if asked of a model that can't."""
    if kind_of(name) == "mint_iqa":
        return usual if wanted is None else wanted
    if wanted:
        raise MintIQAError(
            "no_explanation",
            "CLIP-AGIQA scores a picture and can't explain: leave out --explain, or ask another --model.",
        )
    return False
