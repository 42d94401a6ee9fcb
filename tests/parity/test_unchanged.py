"""What earlier code and weights gave stays as it was: files that version 0.1.0 wrote.

They are a toy's outputs in tests/golden/tiny/forward.safetensors, and the digests of nano's files. What nano
says of the demo is compared to the byte in tests/e2e/test_nano.py, in a process of its own: beside other
tests the last bits depend on where in memory a matrix lies.
"""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "tiny" / "forward.safetensors")


@pytest.fixture(scope="module")
def outputs(golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The toy with every head on the golden pictures and prompts."""
    alignment = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 24, **tiny.TEXT}
    settings = {"shortcut": True, "alignment": alignment, "matching": True, "faults": ["blur", "noise"]}
    model = tiny.lively(tiny.model(**settings))
    ids, mask = golden["ids"], torch.ones_like(golden["ids"])
    with torch.no_grad():
        scored = model(golden["pixel_values"], ids, mask)
        encoded = model.encode_image(golden["pixel_values"])
        soft = model.soft_prompt(encoded, scored.quality_vectors, ids, mask)
    return {
        "scores": scored.scores, "faults": scored.faults, "quality_vectors": scored.quality_vectors,
        "similarity": scored.similarity, "image_embeds": encoded.image_embeds,
        "statistics": encoded.statistics, "soft_prompt": soft, "novelty": model.novelty(encoded),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "scores",
        "faults",
        "quality_vectors",
        "similarity",
        "image_embeds",
        "statistics",
        "soft_prompt",
        "novelty",
    ],
)
def test_every_output_of_the_forward_is_what_it_was(
    name: str, outputs: dict[str, torch.Tensor], golden: dict[str, torch.Tensor]
) -> None:
    torch.testing.assert_close(outputs[name], golden[name], atol=1e-5, rtol=1e-5)


def test_the_weights_are_what_they_were() -> None:
    """After a release: sha256sum of all files in mint_iqa/weights/nano > tests/golden/nano/weights.sha256."""
    folder = ROOT / "mint_iqa" / "weights" / "nano"
    listed = [line.split() for line in (GOLDEN / "nano" / "weights.sha256").read_text().splitlines()]
    assert {name for _, name in listed} == {
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != "README.md"
    }
    assert [name for d, name in listed if hashlib.sha256((folder / name).read_bytes()).hexdigest() != d] == []
