"""What the frozen tower and Q-Former 1 say of the training pictures, computed once for every fold.

    python -m train.data.features runs/aligned --shard 0/2 &
    python -m train.data.features runs/aligned --shard 1/2

One row a look: a picture with its own prompt, and with a second one (none, one word exchanged, or another
picture's). Second prompts of AGIQA-3K pictures come from the picture's own fold of five, so that no test
prompt is ever seen in training, whichever fold is kept out. train.tune takes from here what Q-Former 1 says
of each look, and where its pixels are. 40 minutes on 2 cores.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from mint_iqa.checkpoints.finding import revision_of
from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from train.data import pictures, sets
from train.data.looks import Example, Picture, look, picture_of
from train.data.sets import FOLDS, folds_of
from train.data.sources import Sources, read_sources
from train.engine.checkpoints import AGAIN, writing
from train.engine.commands import ends_in_a_sentence
from train.engine.precision import autocast
from train.engine.recipes import Stage1

PHOTOGRAPHS = 1200
# Of AGIQA-3K's four twins a picture all but the small one.
KEPT_TWINS = (0, 2, 3, 4)
SETS = ("agiqa3k", "flickr8k")
BATCH = 32

Look = tuple[Example, int, int]  # look, AGIQA-3K row or -1, fold or -1


def draw_looks(sources: Sources, seed: int = 0) -> list[Look]:
    """Looks over the chosen pictures, seeded."""
    rng = np.random.default_rng(seed)
    recipe = Stage1(no_prompt_share=0.25)
    fold = folds_of(sources.human)
    pools = [
        sorted({r["prompt"] for r, f in zip(sources.human, fold, strict=True) if f == k})
        for k in range(FOLDS)
    ]
    captions = [p["captions"][0] for p in sources.photographs[:PHOTOGRAPHS]]
    looks = []
    for name, every, keep in (("agiqa3k", 5, KEPT_TWINS), ("flickr8k", 3, (0, 1, 2))):
        for i, row in enumerate(sources.rows[name]):
            photograph = name == "flickr8k"
            if i % every not in keep or (photograph and row.source >= PHOTOGRAPHS):
                continue
            picture: Picture = picture_of(sources, name, row, i)
            pool = captions if photograph else pools[fold[row.source]]
            source = -1 if photograph else row.source
            looks.append(
                (look(picture, pool, recipe, rng), source, -1 if photograph else int(fold[row.source]))
            )
    return [looks[i] for i in rng.permutation(len(looks))]  # so that every shard costs the same


@torch.inference_mode()
def encode(
    model: MintIQAModel, processor: MintIQAProcessor, sources: Sources, examples: list[Example]
) -> dict[str, Tensor]:
    """statistics, image vectors, mean query outputs and prompt vectors of both prompts, float16[N, ...]."""
    inner = pictures.center(processor.image_size)
    found: dict[str, list[Tensor]] = {}
    for start in tqdm(range(0, len(examples), BATCH), desc="Looks", disable=None, mininterval=10):
        part = examples[start : start + BATCH]
        crops = np.stack([sources.pixels[e.pixels[0]][e.pixels[1]][inner, inner] for e in part])
        with autocast():
            encoded = model.encode_image(processor.normalize(crops))
            row = {
                "statistics": encoded.statistics,
                "image": model.alignment.image_vector(encoded.image_embeds),
            }
            for which, prompts in (
                ("first", [e.prompt for e in part]),
                ("second", [e.second_prompt for e in part]),
            ):
                text = processor.tokenize(prompts)
                row[f"{which}_queries"] = model.qformer1(encoded.image_embeds, text.ids, text.mask).mean(
                    dim=1
                )
                row[f"{which}_prompt"] = model.alignment.encode_text(text.ids, text.mask)
        for key, value in row.items():
            found.setdefault(key, []).append(value.half())
    return {key: torch.cat(values) for key, values in found.items()}


def targets(looks: list[Look]) -> dict[str, Tensor]:
    """What is known of the looks: where their pixels are (`SETS`, row there), targets, source."""
    examples = [e for e, _, _ in looks]
    return {
        "set": torch.tensor([SETS.index(e.pixels[0]) for e in examples]),
        "row": torch.tensor([e.pixels[1] for e in examples]),
        "targets": torch.tensor([e.targets for e in examples]),
        "second_correspondence": torch.tensor([e.second_correspondence for e in examples]),
        "faults": torch.tensor([e.faults for e in examples]),
        "human": torch.tensor([e.human for e in examples]),
        "source": torch.tensor([s for _, s, _ in looks]),
        "fold": torch.tensor([f for _, _, f in looks]),
    }


def origin(run: Path) -> dict[str, str]:
    """What features are made of: the run's model, and the pictures."""
    files = {name: pictures.made_of(sets.paths_of(name)) for name in SETS}
    return {"model": revision_of(run / "model"), **files}


def load_features(run: Path) -> dict[str, Tensor]:
    """Every shard's looks, one after the other; real numbers as float32.

    MintIQAError where there are none, or they are of another model than the run's, or of other pictures.
    """
    paths, shards = sorted(run.glob("features-*.safetensors")), []
    wanted = origin(run) if paths else {}
    for path in paths:
        with safe_open(path, "pt") as file:
            if file.metadata() == wanted:
                shards.append(load_file(path))
    whole = {f"features-{part}of{len(paths)}" for part in range(len(paths))}
    if not shards or len(shards) < len(paths) or {path.stem for path in paths} != whole:
        raise MintIQAError(
            "features_missing",
            f"{run} lacks features of its model and these pictures, or has other ones: delete "
            f"{run}/features-* and run python -m train.data.features {run}.",
        )
    found = {key: torch.cat([shard[key] for shard in shards]) for key in shards[0]}
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


@ends_in_a_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--shard", default="0/1", help="which part of how many, for several processes")
    options = parser.parse_args()
    part, parts = (int(n) for n in options.shard.split("/"))
    model = MintIQAModel.from_pretrained(options.run / "model", dtype=torch.float32).eval()
    processor = MintIQAProcessor.from_config(model.config)
    sources = read_sources(processor.image_size)
    looks = draw_looks(sources)[part::parts]
    examples = [e for e, _, _ in looks]
    found = encode(model, processor, sources, examples) | targets(looks)
    path = options.run / f"features-{part}of{parts}.safetensors"
    with writing(options.run, AGAIN):
        save_file(found, path, metadata=origin(options.run))


if __name__ == "__main__":
    sys.exit(main())
