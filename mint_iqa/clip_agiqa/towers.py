"""What CLIP-AGIQA's prompts are put into: an image tower and a text tower that share a space.

CLIP's, as published, or those of a MINT-IQA whose sentence space was learned from captions (nano: DINOv2 and
MiniLM). Both are views: the weights stay in the model that they are given. Axes: see `clip_agiqa.model`.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mint_iqa.errors import MintIQAError
from mint_iqa.model.modeling import MintIQAModel

# Of every CLIP. Not read from its config: older ones give eos_token_id 2, which is another token.
START, END = 49406, 49407
CLS, SEP = 101, 102  # of BERT's vocabulary

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Antonyms:
    """The two sentences that a score lies between: 1 at the first, 0 at the second.

    ids: what the text tower's tokenizer gives for each, with start and end token. words: the same for the
    reader.
    """

    words: tuple[str, str]
    ids: tuple[tuple[int, ...], tuple[int, ...]]


GOOD = Antonyms(("good photo.", "bad photo."), ((START, 886, 1125, 269, END), (START, 2103, 1125, 269, END)))
ALIGNED = Antonyms(
    ("aligned photo.", "misaligned photo."),
    ((START, 29292, 1125, 269, END), (START, 866, 29292, 1125, 269, END)),
)


class Towers(Protocol):
    """image_size: pixels of a crop's side. mean, std: of RGB on 0..1. start, end: the text's own tokens.

    positions: most tokens of a text. taps: after which vision layers (from 1) `project_image` looks.
    perceptual, alignment: the sentences of each task in this tokenizer.
    """

    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    start: int
    end: int
    positions: int
    text_width: int
    vision_width: int
    text_layers: nn.ModuleList
    vision_layers: nn.ModuleList
    taps: list[int]
    perceptual: Antonyms
    alignment: Antonyms

    def embed_image(self, pixel_values: Tensor) -> Tensor:
        """Class token and patches with positions, float[B, P, Dv]."""

    def enter(self, hidden: Tensor) -> Tensor:
        """What happens to tokens and prompts together before the first vision layer."""

    def project_image(self, tapped: list[Tensor]) -> Tensor:
        """Outputs of `taps`, float[B, P, Dv] each and without prompts -> unit vectors float[B, D]."""

    def embed_words(self, ids: Tensor) -> Tensor:
        """int[B, T] -> float[B, T, Dt], without positions."""

    def place(self, words: Tensor) -> Tensor:
        """Embedded words and context, float[B, T, Dt], with positions."""

    def text_layer(self, i: int, hidden: Tensor, ends: Tensor) -> Tensor:
        """Layer i of the text tower; ends int[B]: where each text ends, and attention does at the latest."""

    def project_text(self, hidden: Tensor, ends: Tensor) -> Tensor:
        """What the last layer gives -> unit vectors float[B, D]."""

    def scale(self) -> Tensor:
        """What a cosine is multiplied by."""


class ClipTowers:
    """CLIP: causal text read at its end token, a picture read at its class token."""

    start, end = START, END
    mean, std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    perceptual, alignment = GOOD, ALIGNED

    def __init__(self, clip: CLIPModel) -> None:
        text, vision = clip.config.text_config, clip.config.vision_config
        self.clip, self.image_size, self.positions = clip, vision.image_size, text.max_position_embeddings
        self.text_width, self.vision_width = text.hidden_size, vision.hidden_size
        self.text_layers = clip.text_model.encoder.layers
        self.vision_layers = clip.vision_model.encoder.layers
        self.taps = [len(self.vision_layers)]

    def embed_image(self, pixel_values: Tensor) -> Tensor:
        hidden: Tensor = self.clip.vision_model.embeddings(pixel_values)
        return hidden

    def enter(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.clip.vision_model.pre_layrnorm(hidden)
        return normed

    def project_image(self, tapped: list[Tensor]) -> Tensor:
        pooled = self.clip.vision_model.post_layernorm(tapped[-1][:, 0])
        return normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def embed_words(self, ids: Tensor) -> Tensor:
        words: Tensor = self.clip.text_model.embeddings.token_embedding(ids)
        return words

    def place(self, words: Tensor) -> Tensor:
        hidden: Tensor = self.clip.text_model.embeddings(inputs_embeds=words)
        return hidden

    def text_layer(self, i: int, hidden: Tensor, ends: Tensor) -> Tensor:
        length = hidden.shape[1]
        mask = hidden.new_full((length, length), -torch.inf).triu(1)[None, None]
        output: Tensor = self.text_layers[i](hidden, mask)
        return output

    def project_text(self, hidden: Tensor, ends: Tensor) -> Tensor:
        pooled = self.clip.text_model.final_layer_norm(hidden[torch.arange(len(ends)), ends])
        return normalize(self.clip.text_projection(pooled).float(), dim=-1)

    def scale(self) -> Tensor:
        scale: Tensor = self.clip.logit_scale.exp()
        return scale


class CaptionTowers:
    """The vision tower of a MINT-IQA, and the sentence encoder that its `alignment` was taught to meet.

    Text looks both ways and is read as the mean of its tokens, context included.
    """

    start, end = CLS, SEP
    perceptual = Antonyms(GOOD.words, ((CLS, 2204, 6302, 1012, SEP), (CLS, 2919, 6302, 1012, SEP)))
    alignment = Antonyms(
        ALIGNED.words, ((CLS, 13115, 6302, 1012, SEP), (CLS, 28616, 11475, 19225, 6302, 1012, SEP))
    )

    def __init__(self, model: MintIQAModel) -> None:
        if model.alignment is None:
            raise MintIQAError(
                "bad_config", "This MINT-IQA has no sentence space (alignment): use nano, or a CLIP."
            )
        settings = model.config.processor
        self.image_size, self.mean, self.std = (
            settings[k] for k in ("image_size", "image_mean", "image_std")
        )
        self.vision, self.space, self.text = model.vision, model.alignment, model.alignment.text_encoder
        self.positions = self.text.config.max_position_embeddings
        self.text_width = self.text.config.hidden_size
        self.vision_width = self.vision.backbone.config.hidden_size
        self.text_layers, self.vision_layers = self.text.encoder.layer, self.vision.blocks()
        self.taps = self.vision.taps

    def embed_image(self, pixel_values: Tensor) -> Tensor:
        return self.vision.trunk(pixel_values, 0)[0]

    def enter(self, hidden: Tensor) -> Tensor:
        return hidden

    def project_image(self, tapped: list[Tensor]) -> Tensor:
        return self.space.image_vector(self.vision.fuse(tapped))

    def embed_words(self, ids: Tensor) -> Tensor:
        words: Tensor = self.text.embeddings.word_embeddings(ids)
        return words

    def place(self, words: Tensor) -> Tensor:
        hidden: Tensor = self.text.embeddings(inputs_embeds=words)
        return hidden

    def text_layer(self, i: int, hidden: Tensor, ends: Tensor) -> Tensor:
        mask = torch.zeros_like(hidden[:, :, 0]).masked_fill(~_until(ends, hidden), -torch.inf)
        output: Tensor = self.text_layers[i](hidden, mask[:, None, None])
        return output

    def project_text(self, hidden: Tensor, ends: Tensor) -> Tensor:
        weights = _until(ends, hidden).unsqueeze(-1).float()
        return normalize((hidden.float() * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)

    def scale(self) -> Tensor:
        return self.space.logit_scale.exp()


def towers_of(backbone: CLIPModel | MintIQAModel) -> Towers:
    """The view that fits; MintIQAError for a MINT-IQA without a sentence space."""
    return CaptionTowers(backbone) if isinstance(backbone, MintIQAModel) else ClipTowers(backbone)


def _until(ends: Tensor, hidden: Tensor) -> Tensor:
    """bool[B, T]: positions up to and with the end token."""
    return torch.arange(hidden.shape[1], device=hidden.device) <= ends.unsqueeze(1)
