"""MINT-IQA: scores for AI-generated images, with reasons.

>>> from mint_iqa import Assessor
>>> assessor = Assessor.from_pretrained("nano")
>>> assessor.assess("picture.png", prompt="a red fox in the snow").scores
"""

from typing import TYPE_CHECKING, Any

from mint_iqa.errors import MintIQAError

if TYPE_CHECKING:
    from mint_iqa.assessor import Assessor

__all__ = ["Assessor", "MintIQAError"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: only who scores should wait for it.
    if name == "Assessor":
        from mint_iqa.assessor import Assessor

        return Assessor
    raise AttributeError(f"module 'mint_iqa' has no attribute {name!r}")
