"""Features of the training pictures by a frozen tower and Q-Former 1, computed once for all folds.

One row per look: a picture with its own prompt, and with a second one (none, one word exchanged, or another
picture's). Second prompts of AGIQA-3K pictures come from the picture's own fold of five, so that no test
prompt is ever seen in training, whichever fold is kept out. Features lie beside their model, in parts: a
stopped computation continues with its unfinished part. 40 minutes on 2 cores.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from mint_iqa.checkpoints.finding import revision_of
from mint_iqa.model.modeling import EncodedImage, MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from train.data import pictures, sets
from train.data.looks import Example, draw_look, picture_of
from train.data.sets import FOLDS, SETS, folds_of, learned_of
from train.data.sources import Sources, read_sources
from train.engine.checkpoints import held_out, writing
from train.engine.parameters import alignment_of
from train.engine.precision import autocast

# All of AGIQA-3K's four twins per picture except the small one.
KEPT_TWINS = (0, 2, 3, 4)
NO_PROMPT_SHARE = 0.25  # of second prompts
BATCH_SIZE = 32
PARTS = 8  # files, each of an eighth of the looks

DrawnLook = tuple[Example, int, int]  # look, AGIQA-3K row or -1, fold or -1


@torch.inference_mode()
def encode(model: MintIQAModel, batches: Iterable[Tensor], half: bool = False) -> Iterator[EncodedImage]:
    """Batches of pixel_values float[B, 3, H, W] -> the tower's outputs for scoring.

    half: under `autocast`, for pictures that are only learned from.
    """
    for pixel_values in batches:
        place = pixel_values.to(model.device, model.dtype)
        with autocast(model.device.type, half):
            encoded = model.encode_image(place, explain=False)
        yield encoded


def draw_looks(sources: Sources, photographs: int, seed: int = 0) -> list[DrawnLook]:
    """Looks over AGIQA-3K and the first `photographs` of Flickr8k, in a seeded order."""
    rng = np.random.default_rng(seed)
    fold = folds_of(sources.human)
    pools = [
        sorted({r["prompt"] for r, f in zip(sources.human, fold, strict=True) if f == k})
        for k in range(FOLDS)
    ]
    captions = [p["captions"][0] for p in sources.photographs[:photographs]]
    looks = []
    for name, every, keep in (("agiqa3k", 5, KEPT_TWINS), ("flickr8k", 3, (0, 1, 2))):
        for i, row in enumerate(sources.rows[name]):
            photograph = name == "flickr8k"
            if i % every not in keep or (photograph and row.source >= photographs):
                continue
            pool = captions if photograph else pools[fold[row.source]]
            source = -1 if photograph else row.source
            drawn = draw_look(picture_of(sources, name, row, i), pool, NO_PROMPT_SHARE, rng)
            looks.append((drawn, source, -1 if photograph else int(fold[row.source])))
    return [looks[i] for i in rng.permutation(len(looks))]  # so that every part costs the same


@torch.inference_mode()
def features_of(
    model: MintIQAModel, processor: MintIQAProcessor, sources: Sources, examples: list[Example], title: str
) -> dict[str, Tensor]:
    """Statistics, image vectors, mean query outputs and prompt vectors of both prompts, float16[N, ...]."""
    inner = pictures.center(processor.image_size)
    alignment = alignment_of(model)
    found: dict[str, list[Tensor]] = {}
    parts = [examples[start : start + BATCH_SIZE] for start in range(0, len(examples), BATCH_SIZE)]
    crops = (np.stack([sources.pixels[e.pixels[0]][e.pixels[1]][inner, inner] for e in p]) for p in parts)
    batches = tqdm(map(processor.normalize, crops), title, len(parts), disable=None, mininterval=10)
    for part, encoded in zip(parts, encode(model, batches, half=True), strict=True):
        with autocast():
            row = {"statistics": encoded.statistics, "image": alignment.image_vector(encoded.image_embeds)}
            for which, prompts in (
                ("first", [e.prompt for e in part]),
                ("second", [e.second_prompt for e in part]),
            ):
                text = processor.tokenize(prompts)
                queries = model.qformer1(encoded.image_embeds, text.ids, text.mask)
                row[f"{which}_queries"] = queries.mean(dim=1)
                row[f"{which}_prompt"] = alignment.encode_text(text.ids, text.mask)
        for key, value in row.items():
            found.setdefault(key, []).append(value.half())
    return {key: torch.cat(values) for key, values in found.items()}


def targets(looks: list[DrawnLook]) -> dict[str, Tensor]:
    """The known facts about the looks: where their pixels are (`SETS`, row there), targets, source."""
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


def load_features(run: Path, photographs: int) -> dict[str, Tensor]:
    """Every look by the run's model, real numbers as float32; missing parts are computed first.

    photographs: of Flickr8k, the first; those that the run keeps out are left out here too. Parts of another
    model or of other pictures are computed anew. MintIQAError where the run or the pictures are missing.
    """
    kept = held_out(run)
    photographs = min(photographs, learned_of(sets.flickr8k(sets.data_root()), kept.held_out_photographs))
    files = {name: pictures.made_of(sets.paths_of(name)) for name in SETS}
    origin = {"model": revision_of(run / "model"), "photographs": str(photographs), **files}
    paths = [run / f"features-{part}of{PARTS}.safetensors" for part in range(PARTS)]
    if any(_origin(path) != origin for path in paths):
        _compute(run, paths, origin, photographs)
    parts = [load_file(path) for path in paths]
    found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


def _origin(path: Path) -> dict[str, str] | None:
    """The digest of what a file's features were made from; None without one."""
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        return file.metadata()


def _compute(run: Path, paths: list[Path], origin: dict[str, str], photographs: int) -> None:
    model = MintIQAModel.from_pretrained(run / "model", dtype=torch.float32).eval()
    processor = MintIQAProcessor.from_config(model.config)
    sources = read_sources(processor.image_size)
    looks = draw_looks(sources, photographs)
    for part, path in enumerate(paths):
        with FileLock(path.with_suffix(".lock")):  # one of several processes computes it
            if _origin(path) == origin:
                continue
            own = looks[part::PARTS]
            title = f"Features {part + 1}/{PARTS}"
            found = features_of(model, processor, sources, [e for e, _, _ in own], title) | targets(own)
            temporary = path.with_suffix(".part")
            with writing(run, "run it again: it continues with this part"):
                save_file(found, temporary, metadata=origin)
                temporary.replace(path)
