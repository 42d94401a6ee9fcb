"""Outputs of a model's frozen part, cached on disk by weights, picture and prompt.

One small file per picture and prompt in the user cache: a second fit, with other ratings or settings, waits
only for new pictures.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mint_iqa.assessor import Assessor
from mint_iqa.checkpoints.finding import revision_of
from mint_iqa.files import cache_root
from mint_iqa.images import read_image
from mint_iqa.model.examiner import Reading
from mint_iqa.model.modeling import EncodedImage
from mint_iqa.pictures import encode

Floats = NDArray[np.float32]
BATCH_SIZE = 8
# Raised when the files or what is computed into them change.
FORMAT = "2"


@dataclass(frozen=True)
class ShownPicture:
    """A picture with its prompt. sha256: of the file's bytes; prompt: "" for none."""

    path: Path
    sha256: str
    prompt: str


@dataclass(frozen=True)
class FrozenVectors:
    """vectors float32[N, V]: mean quality vectors, or the examiner's axes; similarity
    float32[N]: cosine of picture and prompt, 0 without an alignment encoder; scores float32[N, K]: around
    0..1, not clamped."""

    vectors: Floats
    similarity: Floats
    scores: Floats


def vectors_of(assessor: Assessor, pictures: Sequence[ShownPicture]) -> FrozenVectors:
    """The model's outputs for each, from disk if computed before; MintIQAError for a bad picture."""
    width = len(assessor.model.config.dimensions)
    folder = cache_root() / "frozen" / _weights(assessor)
    paths = [folder / f"{_key(picture)}.npy" for picture in pictures]
    new = [(picture, path) for picture, path in zip(pictures, paths, strict=True) if not path.is_file()]
    for start in tqdm(range(0, len(new), BATCH_SIZE), "Looking at pictures", disable=None, leave=False):
        part = new[start : start + BATCH_SIZE]
        for row, (_, path) in zip(_encode(assessor, [p for p, _ in part]), part, strict=True):
            _write(path, row)
    rows = np.stack([np.load(path) for path in paths])
    return FrozenVectors(rows[:, : -width - 1], rows[:, -width - 1], rows[:, -width:])


@torch.inference_mode()
def _encode(assessor: Assessor, pictures: Sequence[ShownPicture]) -> Floats:
    """float32[B, V + 1 + K]: vectors, similarity and scores side by side."""
    model, processor = assessor.model, assessor.processor
    text = processor.tokenize([p.prompt for p in pictures])
    ids, mask = text.ids.to(model.device), text.mask.to(model.device)
    shown = encode(model, processor, [(str(p.path), read_image(p.path)) for p in pictures], explain=False)
    readings = [picture.reading for picture in shown if picture.reading is not None]
    if readings:
        reading = Reading.together(readings)
        examined = model.examine(reading, ids, mask)
        vectors, similarity, scores = reading.axes, examined.similarity, examined.scores
    else:
        parts = [picture.encoded for picture in shown if picture.encoded is not None]
        output = model.score(EncodedImage.together(parts), ids, mask)
        vectors, scores = output.quality_vectors.float().mean(dim=1), output.scores
        none = vectors.new_zeros(len(vectors))
        similarity = none if output.similarity is None else output.similarity.float()
    return torch.cat([vectors, similarity.unsqueeze(1), scores.float()], dim=1).cpu().numpy()


def _weights(assessor: Assessor) -> str:
    """A name for everything that the features depend on besides picture and prompt."""
    model = assessor.model
    settings = model.config.to_json_string(use_diff=False) + str(model.dtype) + FORMAT
    assert model.folder is not None
    return f"{revision_of(model.folder)}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def _key(picture: ShownPicture) -> str:
    return hashlib.sha256(f"{picture.sha256}\n{picture.prompt}".encode()).hexdigest()


def _write(path: Path, row: Floats) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when whole: another run may look for the same file.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.save(file, row)
    os.replace(file.name, path)
