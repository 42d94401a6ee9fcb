"""CLIP-AGIQA (arXiv 2406.16641): a frozen CLIP rates a picture by what a few learned prompts make it see.

A score says how much closer a picture is to "good photo." than to "bad photo.". Two tasks have prompts of
their own: *target* learns how good pictures look (perceptual), *auxiliary* how well they fit what they were
made from (alignment), and the auxiliary's visual prompts are fused into the target's. The text that a picture
was made from is never read.

Axes: B pictures or crops, n prompt_length, T text tokens, P class token and patches, Dt and Dv widths of the
text and the vision tower, D width of the space they share. Parameters are named as in the published files.
The backbone is any CLIP or, where there is none, a MINT-IQA with a sentence space (`clip_agiqa.towers`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPModel

from mint_iqa.clip_agiqa import files
from mint_iqa.clip_agiqa.crops import crops, resize
from mint_iqa.clip_agiqa.towers import ALIGNED, END, GOOD, STRICT, Antonyms, ClipTowers, Towers, towers_of
from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.vision import run_blocks

PUBLISHED_DEPTH = 12  # the published files hold prompts for 12 layers, whatever the backbone
Task = Literal["perceptual", "alignment"]
CROP_BATCH = 8  # crops in one forward; larger ones are no faster on a CPU


@dataclass(frozen=True, config=STRICT)
class ClipAgiqaConfig:
    """The defaults are the published model.

    backbone: folder or hub id of the CLIP, or a MINT-IQA; a checkpoint names it and does not contain it.
    prompt_length: vectors in every prompt.
    text_depth, vision_depth: how many layers, from the first on, have a prompt; 0: that tower has none.
    auxiliary: whether alignment is learned too, and guides the perceptual task.
    alignment_weight: of its loss.
    short_side: pixels that a picture's short side is scaled to before it is cropped; None leaves it as it is.
    """

    model_type: Literal["clip_agiqa"] = "clip_agiqa"
    checkpoint_version: Literal[1] = 1
    backbone: str = "openai/clip-vit-base-patch32"
    prompt_length: Annotated[int, Field(ge=1)] = 8
    text_depth: Annotated[int, Field(ge=0)] = PUBLISHED_DEPTH
    vision_depth: Annotated[int, Field(ge=0)] = PUBLISHED_DEPTH
    auxiliary: bool = True
    alignment_weight: Annotated[float, Field(ge=0)] = 0.1
    short_side: Annotated[int, Field(ge=1)] | None = None
    perceptual: Antonyms = GOOD
    alignment: Antonyms = ALIGNED


class ClipAgiqaOutput(NamedTuple):
    """Both float[B, 1] on 0..1, higher is better; alignment is None where it was not asked for or learned."""

    perceptual: Tensor
    alignment: Tensor | None


class PromptLearner(nn.Module):
    """The prompts of one task; with `fused` also what joins the other task's visual prompts to its own."""

    def __init__(self, config: ClipAgiqaConfig, towers: Towers, fused: bool) -> None:
        super().__init__()
        text, vision = towers.text_width, towers.vision_width
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
    """Takes over `backbone` and freezes it: only prompts and fusion are trained and saved."""

    def __init__(self, backbone: CLIPModel | MintIQAModel, config: ClipAgiqaConfig) -> None:
        super().__init__()
        self.config, self.towers = config, towers_of(backbone)
        _check_fits(config, self.towers)
        self.backbone = backbone.requires_grad_(False).eval()
        self.auxiliary = PromptLearner(config, self.towers, fused=False) if config.auxiliary else None
        self.target = PromptLearner(config, self.towers, fused=config.auxiliary)
        self._kept: dict[Task, tuple[Tensor, list[Tensor]]] = {}
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]  # of torch

    def forward(self, pixel_values: Tensor, alignment: bool = True) -> ClipAgiqaOutput:
        """pixel_values float[B, 3, S, S], normalized as `crops` does, S the backbone's image size.

        Without `alignment` its pass through the vision tower is left out.
        """
        embeddings = self.towers.embed_image(pixel_values)  # [B, P, Dv]
        text_embeds, prompts = self._constants("perceptual")
        image_embeds = self.encode_image(embeddings, prompts)
        perceptual = self._first_of(text_embeds, image_embeds)
        if not alignment or self.auxiliary is None:
            return ClipAgiqaOutput(perceptual, None)
        text_embeds, prompts = self._constants("alignment")
        if prompts:  # without any, both tasks see the same
            image_embeds = self.encode_image(embeddings, prompts)
        return ClipAgiqaOutput(perceptual, self._first_of(text_embeds, image_embeds))

    def _first_of(self, text_embeds: Tensor, image_embeds: Tensor) -> Tensor:
        # No matrix product: autocast would round the cosines before they are scaled up.
        cosines = (image_embeds.unsqueeze(1) * text_embeds).sum(dim=-1)  # [B, 2]
        return (self.towers.scale() * cosines).softmax(dim=-1)[:, :1]

    def encode_image(self, embeddings: Tensor, prompts: list[Tensor]) -> Tensor:
        """Embedded patches float[B, P, Dv] -> unit vectors float[B, D].

        The first prompt follows the patches, without positions, and passes through `ln_pre` with them; each
        later one takes its place before its layer. After the last prompt, its output continues.
        """
        towers, end = self.towers, embeddings.shape[1]
        hidden = torch.cat([embeddings, *(_repeat(p, embeddings) for p in prompts[:1])], dim=1)
        hidden = towers.enter(hidden)  # [B, P + n, Dv]
        tapped: list[Tensor] = []
        for i, layer in enumerate(towers.vision_layers):
            if 0 < i < len(prompts):
                hidden = torch.cat([hidden[:, :end], _repeat(prompts[i], hidden)], dim=1)
            hidden, passed = run_blocks(hidden, [layer], i, towers.taps)
            tapped += [output[:, :end] for output in passed]
        return towers.project_image(tapped)

    def encode_text(self, ids: tuple[tuple[int, ...], ...], prompts: list[Tensor]) -> Tensor:
        """Token ids of sentences -> unit vectors float[sentences, D].

        The first prompt follows the start token and has positions as words have; each later one takes its
        place before its layer, without. What follows the end token is not attended to.
        """
        towers, length = self.towers, len(prompts[0]) if prompts else 0
        padded = pad_sequence([torch.tensor(sentence) for sentence in ids], batch_first=True)
        padded = padded.to(self.backbone.device)
        ends = (padded == towers.end).int().argmax(dim=1) + length
        tokens = towers.embed_words(padded)
        context = [_repeat(p, tokens) for p in prompts[:1]]
        hidden = towers.place(torch.cat([tokens[:, :1], *context, tokens[:, 1:]], dim=1))
        for i in range(len(towers.text_layers)):
            if 0 < i < len(prompts):
                words = hidden[:, 1 + length :]
                hidden = torch.cat([hidden[:, :1], _repeat(prompts[i], hidden), words], dim=1)
            hidden = towers.text_layer(i, hidden, ends)
        return towers.project_text(hidden, ends)

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
        """A picture of any size, as `crops` takes it -> means over its crops, float[1, 1] each."""
        if self.config.short_side is not None and not isinstance(image, Tensor):
            image = resize(image, self.config.short_side)
        windows = crops(image, self.towers.image_size, mean=self.towers.mean, std=self.towers.std)
        outputs = [
            self(batch.to(self.backbone.device), alignment) for batch in torch.split(windows, CROP_BATCH)
        ]
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
        self.backbone.eval()  # frozen, so without dropout
        self._kept.clear()
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "ClipAgiqa":
        self._kept.clear()
        moved: ClipAgiqa = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # of torch
        return moved

    def learned(self) -> dict[str, Tensor]:
        """What is trained and saved: the state dict without the backbone."""
        return {name: t for name, t in self.state_dict().items() if not name.startswith("backbone.")}

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors; MintIQAError where that is not possible."""
        files.write_checkpoint(folder, self.config, self.learned())

    @classmethod
    def from_pretrained(cls, folder: Path, backbone: CLIPModel | MintIQAModel | None = None) -> "ClipAgiqa":
        """What `save_pretrained` wrote, in eval mode, on `backbone` or else on the one that it names.

        MintIQAError if config, weights or backbone are missing, damaged or do not fit each other.
        """
        config = files.read_config(ClipAgiqaConfig, folder / "config.json")
        model = cls(files.load_backbone(config.backbone) if backbone is None else backbone, config)
        model.load_learned(folder / "model.safetensors")
        return model.eval()

    def load_learned(self, path: Path) -> None:
        """Take over prompts and fusion from a file; MintIQAError if it does not hold exactly these."""
        state = files.read_weights(path, self.learned())
        self.load_state_dict(state, strict=False)  # names are checked; what is missing is the backbone

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
    and for a file that is not a state dict or a folder that can't be written.
    """
    states = files.read_published(auxiliary), files.read_published(target)
    ClipAgiqa.from_published(files.load_clip(backbone), *states).save_pretrained(output)


def _published_words(
    label: str, state: Mapping[str, Tensor], length: int, clip: CLIPModel, usual: Antonyms
) -> Antonyms:
    """What a published state dict's score lies between; MintIQAError unless it is a whole one for `clip`."""
    text = clip.config.text_config
    with torch.device("meta"):
        learner = PromptLearner(ClipAgiqaConfig(prompt_length=length), ClipTowers(clip), fused=usual is GOOD)
        prefix = torch.empty(2, 1, text.hidden_size)
        suffix = torch.empty(2, text.max_position_embeddings - 1 - length, text.hidden_size)
    files.check_names(label, state, learner.state_dict() | {"token_prefix": prefix, "token_suffix": suffix})
    first, second = files.read_token_ids(label, state, clip.text_model.embeddings.token_embedding.weight, END)
    if (first, second) == usual.ids:
        return usual
    named = [f"tokens {', '.join(map(str, ids[1:-1]))}" for ids in (first, second)]
    return Antonyms((named[0], named[1]), (first, second))


def _vectors(length: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(length, width) * 0.02)


def _repeat(prompt: Tensor, hidden: Tensor) -> Tensor:
    """A prompt float[n, D] for every item of hidden float[B, ., D], in its precision."""
    return prompt.to(hidden.dtype).expand(len(hidden), -1, -1)


def _forget(model: ClipAgiqa, _: Any) -> None:
    model._kept.clear()


def _check_fits(config: ClipAgiqaConfig, towers: Towers) -> None:
    sentences = config.perceptual.ids + config.alignment.ids
    if not all(ids[:1] == (towers.start,) and towers.end in ids for ids in sentences):
        raise MintIQAError(
            "bad_config",
            f"The token ids of its sentences must begin with {towers.start} and hold {towers.end} for this "
            "backbone: take those of its tokenizer.",
        )
    limits = {
        "text_depth": (config.text_depth, len(towers.text_layers)),
        "vision_depth": (config.vision_depth, len(towers.vision_layers)),
        "prompt_length": (config.prompt_length, towers.positions - max(map(len, sentences))),
    }
    for name, (value, most) in limits.items():
        if value > most:
            raise MintIQAError(
                "bad_config", f"{name} is {value}, and this backbone allows {most} at most: lower it."
            )
