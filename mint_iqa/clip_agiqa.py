"""CLIP-AGIQA (arXiv 2406.16641): a frozen CLIP rates a picture by what a few learned prompts make it see.

A score says how much closer a picture is to "good photo." than to "bad photo.". Two tasks have prompts of
their own: *target* learns how good pictures look (perceptual), *auxiliary* how well they fit what they were
made from (alignment), and the auxiliary's visual prompts are fused into the target's. The text that a picture
was made from is never read.

Axes: B pictures or crops, n prompt_length, T text tokens, P class token and patches, Dt and Dv widths of the
text and the vision tower, D width of the space they share. Parameters are named as in the published files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPConfig, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mint_iqa import clip_agiqa_files as files
from mint_iqa.errors import MintIQAError

# Of every CLIP. Not read from its config: older ones give eos_token_id 2, which is another token.
START, END = 49406, 49407
PUBLISHED_DEPTH = 12  # the published files hold prompts for 12 layers, whatever the backbone
STRIDE = 64  # pixels between crops
MAX_CROPS = 64  # all those of a picture of 672 x 672
CROP_BATCH = 8  # crops in one forward; larger ones are no faster on a CPU

Task = Literal["perceptual", "alignment"]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Antonyms:
    """The two sentences that a score lies between: 1 at the first, 0 at the second.

    ids: what CLIP's tokenizer gives for each, with start and end token. words: the same for the reader.
    """

    words: tuple[str, str]
    ids: tuple[tuple[int, ...], tuple[int, ...]]

    def __post_init__(self) -> None:
        if not all(sentence[:1] == (START,) and END in sentence for sentence in self.ids):
            raise ValueError(f"ids must begin with {START} and hold {END}")


GOOD = Antonyms(("good photo.", "bad photo."), ((START, 886, 1125, 269, END), (START, 2103, 1125, 269, END)))
ALIGNED = Antonyms(
    ("aligned photo.", "misaligned photo."),
    ((START, 29292, 1125, 269, END), (START, 866, 29292, 1125, 269, END)),
)


@dataclass(frozen=True, config=_STRICT)
class ClipAgiqaConfig:
    """The defaults are the published model.

    backbone: folder or hub id of the CLIP; a checkpoint names it and does not contain it.
    prompt_length: vectors in every prompt.
    text_depth, vision_depth: how many layers, from the first on, have a prompt; 0: that tower has none.
    auxiliary: whether alignment is learned too, and guides the perceptual task.
    alignment_weight: of its loss.
    """

    model_type: Literal["clip_agiqa"] = "clip_agiqa"
    checkpoint_version: Literal[1] = 1
    backbone: str = "openai/clip-vit-base-patch32"
    prompt_length: Annotated[int, Field(ge=1)] = 8
    text_depth: Annotated[int, Field(ge=0)] = PUBLISHED_DEPTH
    vision_depth: Annotated[int, Field(ge=0)] = PUBLISHED_DEPTH
    auxiliary: bool = True
    alignment_weight: Annotated[float, Field(ge=0)] = 0.1
    perceptual: Antonyms = GOOD
    alignment: Antonyms = ALIGNED


class ClipAgiqaOutput(NamedTuple):
    """Both float[B, 1] on 0..1, higher is better; alignment is None where it was not asked for or learned."""

    perceptual: Tensor
    alignment: Tensor | None


class PromptLearner(nn.Module):
    """The prompts of one task; with `fused` also what joins the other task's visual prompts to its own."""

    def __init__(self, config: ClipAgiqaConfig, clip: CLIPConfig, fused: bool) -> None:
        super().__init__()
        text, vision = clip.text_config.hidden_size, clip.vision_config.hidden_size
        length, fusions = config.prompt_length, config.vision_depth if fused else 0
        self.ctx = _vectors(length, text) if config.text_depth else None
        self.prompts_text = nn.ParameterList([_vectors(length, text) for _ in range(config.text_depth - 1)])
        self.prompts_vis = nn.ParameterList([_vectors(length, vision) for _ in range(config.vision_depth)])
        self.proj = nn.Linear(2 * vision, vision) if fusions else None
        self.compound_prompt_projections = nn.ModuleList(
            [nn.Linear(2 * vision, vision) for _ in range(fusions - 1)]
        )

    def text_prompts(self) -> list[Tensor]:
        """float[n, Dt] for each of the first text_depth layers."""
        return [] if self.ctx is None else [self.ctx, *self.prompts_text]

    def visual_prompts(self, guide: "PromptLearner | None" = None) -> list[Tensor]:
        """float[n, Dv] for each of the first vision_depth layers: own ones, with `guide` fused with its."""
        if guide is None or self.proj is None:
            return list(self.prompts_vis)
        fusions = [self.proj, *self.compound_prompt_projections]
        layers = zip(fusions, self.prompts_vis, guide.prompts_vis, strict=True)
        return [fuse(torch.cat([own, guiding], dim=-1)) for fuse, own, guiding in layers]


class ClipAgiqa(nn.Module):
    """Takes over `clip` and freezes it: only prompts and fusion are trained and saved."""

    def __init__(self, clip: CLIPModel, config: ClipAgiqaConfig) -> None:
        super().__init__()
        _check_fits(config, clip.config)
        self.config = config
        self.clip = clip.requires_grad_(False).eval()
        self.auxiliary = PromptLearner(config, clip.config, fused=False) if config.auxiliary else None
        self.target = PromptLearner(config, clip.config, fused=config.auxiliary)
        self._kept: dict[Task, tuple[Tensor, list[Tensor]]] = {}
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, pixel_values: Tensor, alignment: bool = True) -> ClipAgiqaOutput:
        """pixel_values float[B, 3, S, S], normalised as `crops` does, S the backbone's image size.

        Without `alignment` its pass through the vision tower is left out.
        """
        embeddings = self.clip.vision_model.embeddings(pixel_values)  # [B, P, Dv]
        perceptual = self._score("perceptual", embeddings)
        wanted = alignment and self.auxiliary is not None
        return ClipAgiqaOutput(perceptual, self._score("alignment", embeddings) if wanted else None)

    def _score(self, task: Task, embeddings: Tensor) -> Tensor:
        text_embeds, visual_prompts = self._constants(task)
        cosines = self.encode_image(embeddings, visual_prompts) @ text_embeds.T  # [B, 2]
        return (self.clip.logit_scale.exp() * cosines).softmax(dim=-1)[:, :1]

    def encode_image(self, embeddings: Tensor, prompts: list[Tensor]) -> Tensor:
        """Embedded patches float[B, P, Dv] -> unit vectors float[B, D].

        The first prompt follows the patches, without positions, and passes through `ln_pre` with them; each
        later one takes its place before its layer. After the last prompt, what has become of it goes on.
        """
        vision, end = self.clip.vision_model, embeddings.shape[1]
        hidden = torch.cat([embeddings, *(_repeat(p, embeddings) for p in prompts[:1])], dim=1)
        hidden = vision.pre_layrnorm(hidden)  # [B, P + n, Dv]
        for i, layer in enumerate(vision.encoder.layers):
            if 0 < i < len(prompts):
                hidden = torch.cat([hidden[:, :end], _repeat(prompts[i], hidden)], dim=1)
            hidden = layer(hidden, None)
        pooled = vision.post_layernorm(hidden[:, 0])
        return normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def encode_text(self, ids: tuple[tuple[int, ...], ...], prompts: list[Tensor]) -> Tensor:
        """Token ids of sentences -> unit vectors float[sentences, D], read at the end tokens.

        The first prompt follows the start token and has positions as words have; each later one takes its
        place before its layer, without. Attention looks back only: nothing after the end token is computed.
        """
        text, length = self.clip.text_model, len(prompts[0]) if prompts else 0
        padded = pad_sequence([torch.tensor(sentence) for sentence in ids], batch_first=True)
        tokens = text.embeddings.token_embedding(padded.to(self.clip.device))
        context = [_repeat(p, tokens) for p in prompts[:1]]
        hidden = text.embeddings(inputs_embeds=torch.cat([tokens[:, :1], *context, tokens[:, 1:]], dim=1))
        mask = hidden.new_full((hidden.shape[1], hidden.shape[1]), -torch.inf).triu(1)[None, None]
        for i, layer in enumerate(text.encoder.layers):
            if 0 < i < len(prompts):
                words = hidden[:, 1 + length :]
                hidden = torch.cat([hidden[:, :1], _repeat(prompts[i], hidden), words], dim=1)
            hidden = layer(hidden, mask)
        ends = (padded == END).int().argmax(dim=1) + length
        pooled = text.final_layer_norm(hidden[torch.arange(len(ids)), ends])
        return normalize(self.clip.text_projection(pooled).float(), dim=-1)

    def _constants(self, task: Task) -> tuple[Tensor, list[Tensor]]:
        """text_embeds float[2, D] and visual prompts float[n, Dv]: the same for every picture.

        Kept until weights may have changed: train, eval, a load, a move, a forward with gradients.
        """
        if self.training or torch.is_grad_enabled():
            self._kept.clear()
            return self._compute_constants(task)
        if task not in self._kept:
            self._kept[task] = self._compute_constants(task)
        return self._kept[task]

    def _compute_constants(self, task: Task) -> tuple[Tensor, list[Tensor]]:
        if task == "alignment" and self.auxiliary is not None:
            text_embeds = self.encode_text(self.config.alignment.ids, self.auxiliary.text_prompts())
            return text_embeds, self.auxiliary.visual_prompts()
        text_embeds = self.encode_text(self.config.perceptual.ids, self.target.text_prompts())
        return text_embeds, self.target.visual_prompts(guide=self.auxiliary)

    @torch.inference_mode()
    def score(self, image: NDArray[np.uint8] | Tensor, alignment: bool = False) -> ClipAgiqaOutput:
        """A picture of any size (see `crops`) -> means over its crops, float[1, 1] each."""
        batches = crops(image, self.clip.config.vision_config.image_size).split(CROP_BATCH)
        outputs = [self(batch.to(self.clip.device), alignment) for batch in batches]
        perceptual = torch.cat([o.perceptual for o in outputs]).mean(dim=0, keepdim=True)
        aligned = [o.alignment for o in outputs if o.alignment is not None]
        return ClipAgiqaOutput(perceptual, torch.cat(aligned).mean(dim=0, keepdim=True) if aligned else None)

    def loss(
        self, output: ClipAgiqaOutput, perceptual_mos: Tensor, alignment_mos: Tensor | None = None
    ) -> Tensor:
        """MSE to mean opinion scores float[B] on 0..5; ValueError for an alignment output without its MOS."""
        loss = mse_loss(output.perceptual[:, 0], perceptual_mos / 5)
        if output.alignment is None:
            return loss
        if alignment_mos is None:
            raise ValueError("alignment is learned from alignment_mos: give it, or set auxiliary to False")
        return loss + self.config.alignment_weight * mse_loss(output.alignment[:, 0], alignment_mos / 5)

    def train(self, mode: bool = True) -> "ClipAgiqa":
        super().train(mode)
        self.clip.eval()  # frozen, so without dropout
        self._kept.clear()
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "ClipAgiqa":
        self._kept.clear()
        return super()._apply(fn, recurse)

    def learned(self) -> dict[str, Tensor]:
        """What is trained and saved: the state dict without the backbone."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("clip.")}

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors; MintIQAError where that is not possible."""
        files.write_checkpoint(folder, self.config, self.learned())

    @classmethod
    def from_pretrained(cls, folder: Path, clip: CLIPModel | None = None) -> "ClipAgiqa":
        """What `save_pretrained` wrote, in eval mode, on `clip` or else on the backbone that it names.

        MintIQAError if config, weights or backbone are missing, damaged or do not fit each other.
        """
        config = files.read_config(ClipAgiqaConfig, folder / "config.json")
        model = cls(files.load_backbone(config.backbone) if clip is None else clip, config)
        state = files.read_weights(folder / "model.safetensors", model.learned())
        model.load_state_dict(state, strict=False)  # names are checked; what is missing is the backbone
        return model.eval()

    @classmethod
    def from_published(
        cls, clip: CLIPModel, auxiliary: Mapping[str, Tensor], target: Mapping[str, Tensor]
    ) -> "ClipAgiqa":
        """From the two published state dicts (alignment and perceptual), in eval mode.

        They hold prompts for 12 layers, of which a shallower `clip` uses the first. MintIQAError, by name,
        for what is missing, unknown or of another shape, and for a `clip` that they were not trained on.
        """
        length = len(target["ctx"]) if "ctx" in target else ClipAgiqaConfig.prompt_length
        config = ClipAgiqaConfig(
            backbone=clip.name_or_path,
            prompt_length=length,
            text_depth=min(PUBLISHED_DEPTH, clip.config.text_config.num_hidden_layers),
            vision_depth=min(PUBLISHED_DEPTH, clip.config.vision_config.num_hidden_layers),
            alignment=_published_words("The auxiliary file", auxiliary, length, clip, ALIGNED),
            perceptual=_published_words("The target file", target, length, clip, GOOD),
        )
        model = cls(clip, config)
        for part, published in (("auxiliary", auxiliary), ("target", target)):
            learner = model.get_submodule(part)
            learner.load_state_dict({name: published[name] for name in learner.state_dict()})
        return model.eval()


def convert_published(auxiliary: Path, target: Path, output: Path, backbone: str) -> None:
    """Two published files (torch.save of one state dict each) -> a folder for `ClipAgiqa.from_pretrained`.

    backbone: folder or hub id of the CLIP that they were trained on. MintIQAError as in `from_published`,
    and for a file that is no state dict or a folder that can't be written.
    """
    states = files.read_published(auxiliary), files.read_published(target)
    ClipAgiqa.from_published(files.load_backbone(backbone), *states).save_pretrained(output)


def _published_words(
    label: str, state: Mapping[str, Tensor], length: int, clip: CLIPModel, usual: Antonyms
) -> Antonyms:
    """What a published state dict's score lies between; MintIQAError unless it is a whole one for `clip`."""
    text = clip.config.text_config
    with torch.device("meta"):
        learner = PromptLearner(ClipAgiqaConfig(prompt_length=length), clip.config, fused=usual is GOOD)
        prefix = torch.empty(2, 1, text.hidden_size)
        suffix = torch.empty(2, text.max_position_embeddings - 1 - length, text.hidden_size)
    files.check_names(label, state, learner.state_dict() | {"token_prefix": prefix, "token_suffix": suffix})
    first, second = files.read_token_ids(label, state, clip.text_model.embeddings.token_embedding.weight, END)
    if (first, second) == usual.ids:
        return usual
    named = [f"tokens {', '.join(map(str, ids[1:-1]))}" for ids in (first, second)]
    return Antonyms((named[0], named[1]), (first, second))


def crops(image: NDArray[np.uint8] | Tensor, size: int = 224, limit: int = MAX_CROPS) -> Tensor:
    """RGB uint8[H, W, 3], or float[3, H, W] normalised already -> float[N, 3, size, size], normalised.

    Windows every 64 pixels from the upper left corner on, row by row, nothing resized. Where these are more
    than `limit`, fewer rows and columns of them, spread evenly over the same area. MintIQAError for an image
    smaller than a window.
    """
    pixels = image if isinstance(image, Tensor) else _normalized(image)
    height, width = pixels.shape[1:]
    if min(height, width) < size:
        raise MintIQAError(
            "image_too_small",
            f"The image has {width} x {height} pixels: give one of at least {size} pixels a side.",
        )
    rows, columns = (height - size) // STRIDE + 1, (width - size) // STRIDE + 1
    kept_rows = min(rows, max(1, int((limit * rows / columns) ** 0.5)))
    kept_columns = min(columns, max(1, limit // kept_rows))
    kept_rows = min(rows, max(1, limit // kept_columns))
    tops, lefts = _starts(rows, kept_rows), _starts(columns, kept_columns)
    return torch.stack([pixels[:, y : y + size, x : x + size] for y in tops for x in lefts])


def _starts(count: int, kept: int) -> list[int]:
    """Pixel offsets of `kept` windows, evenly over those of `count` windows every STRIDE pixels."""
    last = (count - 1) * STRIDE
    return [round(last * i / (kept - 1)) for i in range(kept)] if kept > 1 else [last // 2]


def _normalized(image: NDArray[np.uint8]) -> Tensor:
    if image.dtype != np.uint8:
        raise ValueError(f"an array is taken for 0..255: give uint8, not {image.dtype}")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (torch.tensor(image).permute(2, 0, 1).float() / 255 - mean) / std


def _vectors(length: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(length, width) * 0.02)


def _repeat(prompt: Tensor, hidden: Tensor) -> Tensor:
    """A prompt float[n, D] for every item of hidden float[B, ., D], in its precision."""
    return prompt.to(hidden.dtype).expand(len(hidden), -1, -1)


def _forget(model: ClipAgiqa, _: Any) -> None:
    model._kept.clear()


def _check_fits(config: ClipAgiqaConfig, clip: CLIPConfig) -> None:
    text, longest = clip.text_config, max(map(len, config.perceptual.ids + config.alignment.ids))
    limits = {
        "text_depth": (config.text_depth, text.num_hidden_layers),
        "vision_depth": (config.vision_depth, clip.vision_config.num_hidden_layers),
        "prompt_length": (config.prompt_length, text.max_position_embeddings - longest),
    }
    for name, (value, most) in limits.items():
        if value > most:
            raise MintIQAError(
                "bad_config", f"{name} is {value}, and this CLIP allows {most} at most: lower it."
            )
