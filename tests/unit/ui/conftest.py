"""A tiny assessor, uploaded pictures, and a conversation about one of them."""

import numpy as np
import pytest
from PIL import Image

from mint_iqa.assessor import Assessor
from mint_iqa.records import Assessment, Fault, Levels, ModelInfo, Scores
from ui.inputs import Upload
from ui.session import MAX_COMPARED, Session

PROMPT = "a red fox in the snow"


@pytest.fixture(scope="module")
def assessor(tiny_checkpoint):
    return Assessor.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """Nine uploaded pictures."""
    folder, random = tmp_path_factory.mktemp("uploads"), np.random.default_rng(0)
    made = []
    for i in range(MAX_COMPARED + 1):
        path = folder / f"{i}.png"
        Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize((60, 40 + i)).save(path)
        made.append(Upload(str(path), f"fox {i}.png"))
    return made


@pytest.fixture
def shown(assessor, uploads):
    return Session().show(assessor, uploads[0], PROMPT)


@pytest.fixture
def assessment():
    """Makes a record: 70 points each unless given, and these faults."""

    def make(faults=(), prompt=PROMPT, image="fox.png", **scores):
        made = Scores(**{"quality": 70.0, "authenticity": 70.0, "correspondence": prompt and 70.0, **scores})
        found = [Fault(name=name, severity=0.5) for name in faults]
        info = ModelInfo(name="nano", revision="0")
        levels = Levels.of(made)
        return Assessment(image=image, prompt=prompt, model=info, scores=made, levels=levels, faults=found)

    return make
