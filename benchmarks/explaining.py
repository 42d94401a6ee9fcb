"""python benchmarks/explaining.py    # a few minutes on one thread; prints a table, writes nothing

The time of scores with all four answers, with the published schedule and with ours.

The published schedule asks one question after another about one picture after another. For each it runs both
towers, both Q-Formers and the LLM in float32. Our schedule encodes a picture once for scores and answers, and
generates the answers about all pictures of a batch together. Both use the same weights, and equal texts are
counted. Seconds are CPU time of one thread, which a busy machine changes less than wall-clock time.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mint_iqa.assessor import Assessor
from mint_iqa.images import read_image
from mint_iqa.model.vision import VisionBranch, VisionTower
from mint_iqa.records import Assessment
from mint_iqa.vocabulary import QUESTIONS

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.jpg"))
PROMPT = "a cup of coffee on a wooden table"
TOWER_BATCH = 8
MATMUL = 2048


def published(assessor: Assessor, paths: list[Path]) -> list[list[str]]:
    """The answers of the published schedule, by picture and question."""
    texts = []
    for path in paths:
        texts.append([])
        for question in QUESTIONS.values():
            opened = read_image(path)
            rated = assessor.rate([(assessor.read(opened), PROMPT)])[0]
            assessor.read(opened)  # again, in place of the second tower
            prefix = assessor.llm_input(rated, question, ())
            texts[-1] += assessor.language_model().answers([prefix], [assessor.banned_sequences(rated)])
    return texts


def ours(assessor: Assessor, paths: list[Path]) -> list[list[str]]:
    items = [(path, PROMPT) for path in paths]
    records = assessor.assess_many(items, batch_size=len(items), explain=True)
    texts = []
    for record in records:
        assert isinstance(record, Assessment) and record.explanation is not None
        texts.append([getattr(record.explanation, name) for name in QUESTIONS])
    return texts


def timed(job: Callable[..., Any], *arguments: object) -> tuple[float, Any]:
    """The CPU seconds and the result of a call."""
    start = time.process_time()
    result = job(*arguments)
    return time.process_time() - start, result


def answers(assessor: Assessor, count: int) -> None:
    paths = (EXAMPLES * count)[:count]
    ours(assessor, paths[:1])  # fills caches
    slow, expected = timed(published, assessor, paths)
    fast, found = timed(ours, assessor, paths)
    equal = sum(a == b for x, y in zip(expected, found, strict=True) for a, b in zip(x, y, strict=True))
    print(
        f"scores and answers, {count} pictures: published {slow / count:.2f} s a picture, "
        f"ours {fast / count:.2f} s, {slow / fast:.1f} times as fast; "
        f"{equal} of {count * len(QUESTIONS)} texts equal"
    )


@torch.inference_mode()
def towers(assessor: Assessor) -> None:
    """The time of both towers' image_embeds if they share all blocks except the last two (branch_at)."""
    vision = {**assessor.model.config.vision, "branch_at": 10}
    tower = VisionTower(vision).eval()
    tower.load_state_dict(assessor.model.vision.state_dict())
    branch = VisionBranch(vision).eval()
    side = assessor.processor.image_size
    pixels = torch.randn(TOWER_BATCH, 3, side, side)

    def together() -> None:
        _, _, shared = tower(pixels)
        branch(shared)

    def apart() -> None:
        tower(pixels)
        tower(pixels)

    together()
    twice, once = (min(timed(job)[0] for _ in range(3)) for job in (apart, together))
    print(
        f"both towers' image_embeds, 10 of 12 blocks shared: {twice / once:.2f} times as fast as two passes"
    )


@torch.inference_mode()
def efficiency(assessor: Assessor) -> None:
    """Operations per second of the tower, compared with one large matrix product."""
    square = torch.randn(MATMUL, MATMUL)
    square @ square
    peak = 2 * MATMUL**3 / min(timed(torch.matmul, square, square)[0] for _ in range(5))
    config = assessor.model.config.vision
    side = assessor.processor.image_size
    tokens, width, depth = (
        1 + (side // config["patch_size"]) ** 2,
        config["hidden_size"],
        config["num_hidden_layers"],
    )
    each = depth * (
        24 * tokens * width**2 + 4 * tokens**2 * width
    )  # operations per picture; a multiply-add counts as two
    pixels = torch.randn(TOWER_BATCH, 3, side, side)
    tower = assessor.model.vision
    seconds = min(timed(tower, pixels)[0] for _ in range(3))
    reached = TOWER_BATCH * each / seconds
    print(f"tower: {reached / 1e9:.0f} GFLOP/s, {reached / peak:.0%} of a matrix product's {peak / 1e9:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--pictures", type=int, default=8, help="pictures with answers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    assessor = Assessor.from_pretrained("nano", device="cpu")
    efficiency(assessor)
    towers(assessor)
    answers(assessor, options.pictures)


if __name__ == "__main__":
    main()
