"""What earlier code and weights gave stays as it was, to the bit where the processor is of the same kind.

The files were written by version 0.1.0 on a processor with AMX: a toy's outputs in
tests/golden/tiny/forward.safetensors, and the digests of nano's files.
"""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
SAME_PROCESSOR = torch.cpu._is_amx_tile_supported()  # others round in another order


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
    if SAME_PROCESSOR:
        assert torch.equal(outputs[name], golden[name])
    torch.testing.assert_close(outputs[name], golden[name], atol=1e-5, rtol=1e-5)


def test_the_weights_are_what_they_were() -> None:
    """After a release: sha256sum of all files in mint_iqa/weights/nano > tests/golden/nano/weights.sha256."""
    folder = ROOT / "mint_iqa" / "weights" / "nano"
    listed = [line.split() for line in (GOLDEN / "nano" / "weights.sha256").read_text().splitlines()]
    assert {name for _, name in listed} == {
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != "README.md"
    }
    assert [name for d, name in listed if hashlib.sha256((folder / name).read_bytes()).hexdigest() != d] == []
