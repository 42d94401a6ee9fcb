"""Image, prompt and question -> tensors: the only place that fits, normalizes and tokenizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, ValidationError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mint_iqa.checkpoints.parts import part_folder
from mint_iqa.checkpoints.tokenizers import read_tokenizer
from mint_iqa.errors import MintIQAError
from mint_iqa.images import Fit
from mint_iqa.model.cnn import MEAN as CNN_MEAN
from mint_iqa.model.cnn import STD as CNN_STD
from mint_iqa.model.configuration import MintIQAConfig

# A megabyte of text would take a second and a gigabyte only to be cut at some hundred tokens.
MAX_CHARACTERS = 20_000
# Sides of what the examiner's networks see, in pixels: AGIQA-3K's pictures whole, and what the classes of
# EfficientNet-Lite2 were learned at.
DETAIL_SIDE, CONCEPT_SIDE = 512, 260


@dataclass(frozen=True)
class Text:
    """ids int[B, T], mask int[B, T] (1 = token), and which of the texts were cut at the limit."""

    ids: Tensor
    mask: Tensor
    cut: tuple[bool, ...]


class MintIQAProcessor:
    """Turns images and texts into the tensors that a model of this config takes.

    image_size: pixels of the square the towers see, the middle of the square that `fit` makes.
    fit: any RGB image -> `fitted_size` pixels per side, without the ends of one whose sides differ more than
    `max_aspect`.
    max_prompt_tokens: special tokens counted.
    """

    def __init__(self, config: MintIQAConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        settings = _checked(config)
        self.image_size = settings.image_size
        self.max_aspect = settings.max_aspect
        self.fitted_size = self.image_size if settings.fitted_size is None else settings.fitted_size
        self.examined = config.examiner is not None
        # What the examiner sees is larger, and the tower's picture can be made from it.
        self.fit = Fit(DETAIL_SIDE if self.examined else self.fitted_size, self.max_aspect)
        self._fit_tower = Fit(self.fitted_size, self.max_aspect)
        self.max_prompt_tokens = settings.max_prompt_tokens
        self._mean = torch.tensor(settings.image_mean).view(3, 1, 1)
        self._std = torch.tensor(settings.image_std).view(3, 1, 1)
        self.tokenizer = tokenizer

    @classmethod
    def from_config(cls, config: MintIQAConfig, folder: Path | None = None) -> "MintIQAProcessor":
        """The text tokenizer lies in the checkpoint's folder, or comes with the config's `text` part."""
        if folder is not None and (folder / "tokenizer.json").is_file():
            source = folder
        elif "text" in config.parts:
            source = part_folder(config.parts["text"])
        else:
            raise MintIQAError(
                "tokenizer_missing",
                f"No tokenizer.json in {folder}: copy the Q-Former's tokenizer there, or convert the "
                "published checkpoint again with --tokenizers.",
            )
        tokenizer = read_tokenizer(source)
        if len(tokenizer) < 1000:  # a folder without its files silently gives an empty vocabulary
            raise MintIQAError(
                "tokenizer_missing", f"The tokenizer in {source} is empty: copy its files again."
            )
        return cls(config, tokenizer)

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images -> float32[B, 3, image_size, image_size], normalized."""
        return self.normalize(self.pixels(images))

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.uint8]:
        """RGB images -> uint8[B, image_size, image_size, 3]."""
        edge = (self.fitted_size - self.image_size) // 2
        inner = slice(edge, edge + self.image_size)
        return np.stack([np.asarray(self._fit_tower(self.fit(image)))[inner, inner] for image in images])

    def examiner_values(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """RGB images -> detail_values float32[B, 3, 512, 512] and concept_values float32[B, 3, 260, 260]."""
        return cnn_values([self.fit(image) for image in images])

    def normalize(self, pixels: NDArray[np.uint8]) -> Tensor:
        """uint8[B, H, W, 3] -> float32[B, 3, H, W] with the tower's mean and standard deviation."""
        channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return (channels_first - self._mean) / self._std

    def tokenize(self, texts: Sequence[str | None]) -> Text:
        """Prompts or questions -> Text, right-padded; None and "" are the empty text."""
        encoded = self.tokenizer(
            [(t or "")[:MAX_CHARACTERS] for t in texts],
            truncation=True,
            max_length=self.max_prompt_tokens,
            padding=True,
            return_tensors="pt",
        )
        cut = tuple(
            bool(encoding.overflowing) or len(text or "") > MAX_CHARACTERS
            for encoding, text in zip(encoded.encodings, texts, strict=True)
        )
        return Text(encoded["input_ids"], encoded["attention_mask"], cut)


def cnn_values(fitted: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Pictures of DETAIL_SIDE -> detail_values and concept_values, see `MintIQAProcessor.examiner_values`."""
    small = [image.resize((CONCEPT_SIDE,) * 2, Image.Resampling.BICUBIC) for image in fitted]
    values = []
    for images in (fitted, small):
        pixels = torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2)
        values.append((pixels.float() / 255 - CNN_MEAN) / CNN_STD)
    return values[0], values[1]


class _Settings(BaseModel):
    """`MintIQAConfig.processor` with what is missing filled in; a tower takes no larger pictures."""

    model_config = ConfigDict(extra="forbid")

    image_size: Annotated[int, Field(ge=8, le=1024)]
    # A model that learned from random crops sees at their scale; None: pictures become `image_size` whole.
    fitted_size: Annotated[int, Field(le=2048)] | None = None
    image_mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    image_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    max_aspect: Annotated[FiniteFloat, Field(ge=1)] = 1.0
    max_prompt_tokens: Annotated[int, Field(ge=2)] = 256


def _checked(config: MintIQAConfig) -> _Settings:
    """MintIQAError (`bad_config`), by name, for a setting with which no picture or prompt can be prepared."""
    try:
        settings = _Settings.model_validate(config.processor)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "the whole"
        raise MintIQAError(
            "bad_config", f"The config's processor can't be used ({name}: {first['msg']}): correct it."
        ) from None
    if settings.fitted_size is not None and settings.fitted_size < settings.image_size:
        raise MintIQAError(
            "bad_config",
            f"The config's processor.fitted_size is below image_size {settings.image_size}: raise it.",
        )
    positions = min(
        part.get("max_position_embeddings", 512) for part in (config.qformer, config.alignment or {})
    )
    if settings.max_prompt_tokens > positions:
        raise MintIQAError(
            "bad_config", f"The config's processor.max_prompt_tokens exceeds {positions}: lower it."
        )
    return settings
