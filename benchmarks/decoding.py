"""python benchmarks/decoding.py               # minutes on one thread; prints two tables, writes nothing
python benchmarks/decoding.py --levels 2 4  # more pictures

The speed of answers from the LLM in int8, and their agreement with float32.

Speed: single decoding steps in float32 and in int8 take turns, in CPU time of one thread, so that a busy
machine slows both. Agreement: all four answers about clean pictures and about the same pictures with each
fault. Two answers agree if they name the same faults and use the same level words in the same order.
"""

import argparse
import re
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from instruct_data.damage.faults import apply_fault
from mint_iqa.assessor import Assessor
from mint_iqa.images import read_image
from mint_iqa.language.llm import LanguageModel
from mint_iqa.records import Assessment
from mint_iqa.vocabulary import FAULTS, LEVELS, QUESTIONS, FaultName, named_faults

EXAMPLES = Path(__file__).parents[1] / "examples"
CLEAN = {
    "astronaut": "a smiling astronaut in an orange space suit",
    "chelsea": "a close photo of a ginger tabby cat",
    "coffee": "a cup of coffee on a wooden table",
    "rocket": "a rocket on its launch pad at dusk",
}
PREFIX_TOKENS = 80  # the usual length of what the LLM reads before an answer
ROUNDS, STEPS = 4, 6


def step_seconds(language: LanguageModel, batch: int) -> list[float]:
    """CPU seconds of single decoding steps, without the first, which reads the prefix."""
    width = language.model.get_input_embeddings().weight.shape[1]
    prefixes = list(0.1 * torch.randn(batch, PREFIX_TOKENS, width))
    steps = language.decode(prefixes, max_new_tokens=STEPS + 1, ignore_eos=True)
    next(steps)
    seconds = []
    for _ in range(STEPS):
        start = time.thread_time()
        next(steps)
        seconds.append(time.thread_time() - start)
    return seconds


def speed(plain: LanguageModel, small: LanguageModel) -> None:
    for batch in (1, len(QUESTIONS)):
        slow, fast = [], []
        for _ in range(ROUNDS):
            slow += step_seconds(plain, batch)
            fast += step_seconds(small, batch)
        for name, of in (("median", statistics.median), ("least", min)):
            before, after = of(slow), of(fast)
            print(
                f"{batch} answers at once, {name} of {len(slow)} steps: float32 {1e3 * before:.0f} ms, "
                f"int8 {1e3 * after:.0f} ms, {before / after:.2f} times as fast",
                flush=True,
            )


def test_set(levels: list[int]) -> list[tuple[Image.Image, str]]:
    rng, items = np.random.default_rng(0), []
    faults: list[tuple[FaultName, int]] = [(fault, level) for fault in FAULTS for level in levels]
    for name, prompt in CLEAN.items():
        clean = read_image(EXAMPLES / f"{name}.jpg").rgb
        items.append((clean, prompt))
        items += [(apply_fault(clean, fault, level, rng).image, prompt) for fault, level in faults]
    return items


def answers(assessor: Assessor, items: list[tuple[Image.Image, str]]) -> tuple[list[str], float]:
    """All answers, and the CPU seconds of everything up to them."""
    start, texts = time.process_time(), []
    for record in assessor.assess_many(items, batch_size=1, explain=True):
        assert isinstance(record, Assessment) and record.explanation is not None
        texts += [getattr(record.explanation, name) for name in QUESTIONS]
    return texts, time.process_time() - start


def said(text: str) -> tuple[frozenset[FaultName], list[str]]:
    return named_faults(text), re.findall(rf"\b({'|'.join(LEVELS)})\b", text.lower())


def agreement(assessor: Assessor, plain: LanguageModel, small: LanguageModel, levels: list[int]) -> None:
    items = test_set(levels)
    texts, seconds = {}, {}
    for name, language in (("float32", plain), ("int8", small)):
        assessor.model.language.loaded = language
        texts[name], seconds[name] = answers(assessor, items)
    pairs = list(zip(texts["float32"], texts["int8"], strict=True))
    equal = sum(a == b for a, b in pairs) / len(pairs)
    same = sum(said(a) == said(b) for a, b in pairs) / len(pairs)
    before, after = (of / len(items) for of in seconds.values())
    print(
        f"{len(pairs)} answers to {len(items)} pictures: {same:.1%} with the same faults and level words, "
        f"{equal:.1%} the same to the letter; a picture with scores and answers takes {before:.2f} s in "
        f"float32, {after:.2f} s in int8"
    )
    for a, b in pairs:
        if said(a) != said(b):
            print(f"  float32: {a}\n  int8:    {b}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[4], choices=range(1, 6), help="levels of the faults"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    assessor = Assessor.from_pretrained("nano", device="cpu")
    plain = assessor.language_model()
    small = LanguageModel(plain.model, plain.tokenizer)
    small.step_in_int8()
    speed(plain, small)
    agreement(assessor, plain, small, options.levels)


if __name__ == "__main__":
    main()
