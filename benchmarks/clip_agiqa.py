"""python benchmarks/clip_agiqa.py    # half a minute; prints a table, writes nothing

The time of CLIP-AGIQA for a picture of 512 x 512, with the published schedule and with ours.

The published schedule processes one crop after another. For each it encodes all four sentences at all 77
positions, fuses the prompts and runs both tasks. Our schedule computes everything that does not depend on the
picture once, processes crops in batches, and runs the alignment task only on request. Both run the same code
on the same random weights of CLIP ViT-B/32. Seconds are CPU time of one thread, which a busy machine does not
change.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

from mint_iqa.clip_agiqa.crops import crops
from mint_iqa.clip_agiqa.model import ClipAgiqa, ClipAgiqaConfig, ClipAgiqaOutput
from mint_iqa.clip_agiqa.towers import Antonyms

POSITIONS = 77
SIDE = 512


def padded(words: Antonyms, length: int) -> Antonyms:
    """Add zeros after the end token, like the published tokenizer."""
    first, second = ((*ids, *[0] * (POSITIONS - length - len(ids))) for ids in words.ids)
    return replace(words, ids=(first, second))


def build() -> tuple[ClipAgiqa, ClipAgiqa]:
    """(ours, published): the same weights; the published one sees every position of its sentences."""
    torch.manual_seed(0)
    config = ClipAgiqaConfig()
    clip = CLIPModel(CLIPConfig())  # transformers' defaults are ViT-B/32
    ours = ClipAgiqa(clip, config).eval()
    perceptual, alignment = (padded(w, config.prompt_length) for w in (config.perceptual, config.alignment))
    published = ClipAgiqa(clip, replace(config, perceptual=perceptual, alignment=alignment)).eval()
    published.load_state_dict(ours.state_dict())
    return ours, published


@torch.inference_mode()
def published_schedule(model: ClipAgiqa, image: np.ndarray) -> ClipAgiqaOutput:
    outputs = []
    for crop in crops(image):
        model.eval()  # drops the cached text features and fused prompts
        outputs.append(model(crop[None]))
    perceptual, alignment = (
        torch.cat(values).mean(dim=0, keepdim=True) for values in zip(*outputs, strict=True)
    )
    return ClipAgiqaOutput(perceptual, alignment)


def measure(name: str, schedule: Callable[[np.ndarray], ClipAgiqaOutput]) -> tuple[float, ClipAgiqaOutput]:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    schedule(image[:224, :224])  # the first picture fills our caches and those of the processor
    start = time.process_time()
    output = schedule(image)
    seconds = time.process_time() - start
    print(f"{name:22}{seconds:6.2f} s for {len(crops(image))} crops")
    return seconds, output


def main() -> None:
    torch.set_num_threads(1)
    ours, published = build()
    before, expected = measure("published", partial(published_schedule, published))
    both, aligned = measure("ours, with alignment", partial(ours.score, alignment=True))
    after, output = measure("ours", ours.score)
    assert output.alignment is None
    torch.testing.assert_close(output.perceptual, expected.perceptual, atol=1e-4, rtol=0)
    torch.testing.assert_close(aligned, expected, atol=1e-4, rtol=0)
    print(f"the same scores {before / after:.1f} times as fast; with alignment {before / both:.1f} times")


if __name__ == "__main__":
    main()
