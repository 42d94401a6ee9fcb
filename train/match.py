"""Learns how prompts are compared with pictures: the last step of the scores, on a finished model's vectors.

    python -m train.match configs/nano/match.yaml

The sentence space was learned from captions of photographs, and tuning moved the tower for quality's sake. A
linear map moves prompts towards the generated pictures that show them. Then, below the cosine that nearly all
of these reach, a prompt is likely to be another picture's, and correspondence falls faster. Nothing else
changes, and all other weights keep their bytes. Photographs keep what was learned for them by taking part.
The prompts that the run kept out stay out.

The pictures are encoded once, and their vectors are kept in OUTPUT/vectors.safetensors: 20 minutes on
2 cores, a minute from then on.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from instruct_data.prompts import unrelated_prompt
from mint_iqa.checkpoints.finding import revision_of
from mint_iqa.errors import MintIQAError
from mint_iqa.files import written_whole
from mint_iqa.images import read_image
from mint_iqa.metrics import roc_auc
from mint_iqa.model.heads import mapped
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from train.data import sets
from train.data.captions import sentence_vectors
from train.data.features import encode
from train.data.sets import folds_of, learned_of, split
from train.engine.checkpoints import RUN_AGAIN, held_out, leave, writing
from train.engine.commands import step
from train.engine.parameters import alignment_of
from train.engine.recipes import HeldOut, Match

BATCH_SIZE = 8
SHOWN_FROM = 0.6  # human alignment, 0..1, from which a picture counts as showing its prompt
VECTORS = "vectors.safetensors"


@dataclass(frozen=True)
class Pairs:
    """Pictures and their texts. vectors: unit, float[N, Dt]; texts: for each the number of its
    own, int[N, R]; sentences: unit, float[M, Dt]; shown: how well it shows them, 0..1, float[N]."""

    vectors: Tensor
    texts: Tensor
    sentences: Tensor
    shown: Tensor

    def __getitem__(self, rows: Tensor) -> "Pairs":
        """These pictures, with the sentences that belong to one of them."""
        used, texts = self.texts[rows].unique(return_inverse=True)
        return Pairs(self.vectors[rows], texts, self.sentences[used], self.shown[rows])


def fit_map(groups: Sequence[Pairs], penalty: float, settings: Match) -> Tensor:
    """The map's weight float[Dt, Dt]: every picture is to find a text of its own among those of its group."""
    groups = [pairs for pairs in groups if len(pairs.vectors)]
    width = groups[0].vectors.shape[1]
    weight = torch.zeros(width, width, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=settings.learning_rate)
    for number in range(settings.steps):
        loss = penalty * weight.square().sum()
        for pairs in groups:
            own = pairs.texts[:, number % pairs.texts.shape[1]]
            used, own = own.unique(return_inverse=True)
            logits = settings.scale * pairs.vectors @ mapped(pairs.sentences[used], weight).T
            each = cross_entropy(logits, own, reduction="none")
            loss = loss + (pairs.shown * each).sum() / pairs.shown.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weight.detach()


def learn_map(
    generated: Pairs, fold: Tensor, unrelated: Tensor, photographs: Pairs, settings: Match
) -> tuple[Tensor, float, dict[str, float]]:
    """The map, the knee, and how well prompts were told from unrelated ones by fits without their fold.

    fold int[N]; unrelated int[N, U]: numbers of sentences that do not describe the picture.
    """
    show = generated.shown >= SHOWN_FROM
    found: dict[float, tuple[float, float]] = {}
    for penalty in tqdm((0.0, *settings.penalties), desc="Matching", disable=None):
        own, other = torch.zeros(len(fold)), torch.zeros(unrelated.shape)
        for k in fold.unique():
            rows = fold == k
            width = generated.vectors.shape[1]
            weight = torch.zeros(width, width)
            if penalty:
                weight = fit_map([generated[(~rows).nonzero()[:, 0]], photographs], penalty, settings)
            cosines = generated.vectors[rows] @ mapped(generated.sentences, weight).T
            own[rows] = cosines.gather(1, generated.texts[rows])[:, 0]
            other[rows] = cosines.gather(1, unrelated[rows])
        values = torch.cat([own[show], other[show].flatten()]).numpy()
        right = np.repeat([1.0, 0.0], [int(show.sum()), other[show].numel()])
        found[penalty] = roc_auc(values, right), float(own[show].quantile(settings.missed))
    chosen = max(settings.penalties, key=lambda penalty: found[penalty][0])
    auc, knee = found[chosen]
    figures = {"penalty": chosen, "auc_before": found[0.0][0], "auc": auc, "knee": knee}
    return fit_map([generated, photographs], chosen, settings), knee, figures


# --- pictures and prompts ---


@torch.inference_mode()
def image_vectors(model: MintIQAModel, processor: MintIQAProcessor, paths: Sequence[str]) -> Tensor:
    """The model's vectors of pictures in the sentence space, float[N, Dt], computed as in use."""
    starts = tqdm(range(0, len(paths), BATCH_SIZE), desc="Pictures", disable=None)
    images = ([read_image(path).rgb for path in paths[start : start + BATCH_SIZE]] for start in starts)
    seen = encode(model, map(processor.pixel_values, images))
    return torch.cat([alignment_of(model).image_vector(encoded.image_embeds) for encoded in seen])


def vectors_once(
    model: MintIQAModel, processor: MintIQAProcessor, paths: Sequence[str], file: Path
) -> Tensor:
    """`image_vectors`, kept in `file` for the same weights and list."""
    names = "\n".join(Path(path).name for path in paths)
    seen_as = json.dumps(model.config.processor, sort_keys=True)
    made_of = f"{revision_of(folder_of(model))} {hashlib.sha256((seen_as + names).encode()).hexdigest()}"
    if file.exists():
        with safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("made_of") == made_of:
                return opened.get_tensor("vectors")
    vectors = image_vectors(model, processor, paths)
    with writing(file, RUN_AGAIN):
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": vectors}, file, metadata={"made_of": made_of})
    return vectors


@torch.inference_mode()
def unrelated_texts(
    prompts: Sequence[str], names: Sequence[str], fold: NDArray[np.int64], settings: Match
) -> Tensor:
    """int[N, U]: numbers among `names` of prompts of the picture's own fold that ask for nothing it does."""
    rng = np.random.default_rng(settings.seed)
    number = {name: i for i, name in enumerate(names)}
    pools = {k: sorted({p for p, f in zip(prompts, fold, strict=True) if f == k}) for k in set(fold.tolist())}
    drawn = [
        [number[unrelated_prompt(prompt, pools[k], rng)] for _ in range(settings.unrelated)]
        for prompt, k in zip(prompts, fold.tolist(), strict=True)
    ]
    return torch.tensor(drawn)


def learn_from_pictures(model: MintIQAModel, start: HeldOut, file: Path, settings: Match) -> dict[str, float]:
    """Teach the model on what its start trained on of AGIQA-3K and Flickr8k; what `learn_map` found."""
    processor = MintIQAProcessor.from_config(model.config, folder_of(model))
    root = sets.data_root()
    everything = sets.agiqa3k(root)
    fold = folds_of(everything, start.folds)
    kept = split(everything, start).train
    human, fold = [everything[i] for i in kept], fold[kept]
    if len(set(fold.tolist())) < 2:
        raise MintIQAError(
            "bad_config",
            "One fold is left to learn from and to choose by: train with more folds, or with all.",
        )
    photographs = sets.flickr8k(root)
    photographs = photographs[: learned_of(photographs, start.held_out_photographs)][: settings.photographs]
    paths = [*(row["path"] for row in human), *(str(p["path"]) for p in photographs)]
    vectors = vectors_once(model, processor, paths, file)
    prompts = [row["prompt"] for row in human]
    names = sorted(set(prompts))
    texts = torch.tensor([[names.index(prompt)] for prompt in prompts])
    shown = torch.tensor([float(row["mos_align"]) / 5 for row in human])
    generated = Pairs(vectors[: len(human)], texts, sentence_vectors(model, processor, names), shown)
    captions = [(p["captions"] * 5)[:5] for p in photographs]
    each = torch.arange(5 * len(captions)).view(-1, 5)
    flat = sentence_vectors(model, processor, [text for five in captions for text in five])
    photographed = Pairs(vectors[len(human) :], each, flat, torch.ones(len(captions)))
    unrelated = unrelated_texts(prompts, names, fold, settings)
    weight, knee, figures = learn_map(generated, torch.from_numpy(fold), unrelated, photographed, settings)
    with torch.no_grad():
        prompt_map_of(model).weight.copy_(weight)
        alignment_of(model).knee.fill_(knee)
        alignment_of(model).slope.fill_(settings.slope)
    return figures


# --- files ---


def folder_of(model: MintIQAModel) -> Path:
    assert model.folder is not None  # `prepared` has set it
    return model.folder


def prompt_map_of(model: MintIQAModel) -> nn.Linear:
    prompt_map = alignment_of(model).prompt_map
    assert prompt_map is not None  # `prepared` has made it
    return prompt_map


def prepared(folder: Path) -> MintIQAModel:
    """The model in `folder`, ready to learn the map; an earlier map is reset.

    MintIQAError if it has no sentence space.
    """
    start = MintIQAModel.from_pretrained(folder, dtype=torch.float32).eval()
    if start.alignment is None:
        raise MintIQAError(
            "bad_config", f"{folder} can't compare prompts and pictures: its config has no alignment encoder."
        )
    start.config.matching = True
    model = MintIQAModel(start.config).eval()
    own = {k: v for k, v in start.state_dict().items() if not is_learned(k)}
    model.load_state_dict(own, strict=False)
    model.folder = start.folder
    return model


def is_learned(name: str) -> bool:
    return name.startswith(("alignment.prompt_map.", "alignment.knee", "alignment.slope"))


def save(model: MintIQAModel, output: Path) -> None:
    """Write the start's folder with one more shard, replacing what is there; other weights don't change."""
    learned = {k: v.half().contiguous() for k, v in model.state_dict().items() if is_learned(k)}
    with written_whole(output) as folder:
        left_out = shutil.ignore_patterns("README.md")  # it describes another model
        shutil.copytree(folder_of(model), folder, ignore=left_out, dirs_exist_ok=True)
        before = [path for path in sorted(folder.glob("model*.safetensors")) if _others_left(path)]
        new = folder / "model-learned.safetensors"
        save_file(learned, new, metadata={"format": "pt"})
        new.chmod(0o644)  # safetensors makes it the owner's alone
        weight_map: dict[str, str] = {}
        size = 0
        for number, path in enumerate([*before, new], 1):
            state = load_file(path)
            name = f"model-{number:05}-of-{len(before) + 1:05}.safetensors"
            path.rename(folder / name)
            weight_map |= dict.fromkeys(state, name)
            size += sum(tensor.nbytes for tensor in state.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        config = json.loads((folder / "config.json").read_text()) | {"matching": True}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        shutil.rmtree(output, ignore_errors=True)


def _others_left(path: Path) -> bool:
    """Remove an earlier map from a shard; whether the shard holds anything else."""
    state = load_file(path)
    others = {name: tensor for name, tensor in state.items() if not is_learned(name)}
    if len(others) < len(state):
        path.unlink()
        if others:
            save_file(others, path, metadata={"format": "pt"})
    return bool(others)


def match(recipe: Match) -> None:
    """Run the recipe: OUTPUT/model, in place of what is there."""
    start, output = Path(recipe.start), Path(recipe.output)
    kept = held_out(start)
    model = prepared(start / "model")
    figures = learn_from_pictures(model, kept, output / VECTORS, recipe)
    with writing(output, RUN_AGAIN):
        save(model, output / "model")
        leave(output, recipe, kept, ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    sys.exit(step(Match, match, __doc__))
