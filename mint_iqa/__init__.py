"""MINT-IQA: scores for AI-generated images, with reasons.

>>> from mint_iqa import Assessor
>>> assessor = Assessor.from_pretrained("nano")
>>> assessor.assess("picture.png", prompt="a red fox in the snow").scores
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mint_iqa.errors import MintIQAError

if TYPE_CHECKING:
    from mint_iqa.assessor import Assessor
    from mint_iqa.clip_agiqa.assessor import ClipAgiqaAssessor
    from mint_iqa.images import read_image
    from mint_iqa.records import LIBRARY_VERSION as __version__
    from mint_iqa.records import Answer, Assessment, Explanation, Fault, Scores

__all__ = [
    "Answer",
    "Assessment",
    "Assessor",
    "ClipAgiqaAssessor",
    "Explanation",
    "Fault",
    "MintIQAError",
    "Scores",
    "__version__",
    "read_image",
]

# torch takes seconds to import: only who scores should wait for it.
_HOMES = {
    "Answer": "mint_iqa.records",
    "Assessment": "mint_iqa.records",
    "Assessor": "mint_iqa.assessor",
    "ClipAgiqaAssessor": "mint_iqa.clip_agiqa.assessor",
    "Explanation": "mint_iqa.records",
    "Fault": "mint_iqa.records",
    "Scores": "mint_iqa.records",
    "read_image": "mint_iqa.images",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("mint_iqa.records").LIBRARY_VERSION
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mint_iqa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
