"""Image, prompt and question -> tensors: the only place that resizes, normalises and tokenises."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mint_iqa.configuration import MintIQAConfig
from mint_iqa.errors import MintIQAError
from mint_iqa.pretrained import part_folder, quiet_transformers


@dataclass(frozen=True)
class Text:
    """ids int[B, T], mask int[B, T] (1 = token), and which of the texts were cut at the limit."""

    ids: Tensor
    mask: Tensor
    cut: tuple[bool, ...]


class MintIQAProcessor:
    """What a model of this config wants to be fed.

    image_size: pixels of the square the towers see.
    max_aspect: a picture is squeezed into that square whole, up to this ratio of its sides; a longer one
    loses its ends first (the middle part of ratio `max_aspect` is kept).
    max_prompt_tokens: special tokens counted.
    """

    def __init__(self, config: MintIQAConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        settings = config.processor
        self.image_size = int(settings["image_size"])
        self.max_aspect = float(settings.get("max_aspect", 1.0))
        self.max_prompt_tokens = int(settings.get("max_prompt_tokens", 256))
        self._mean = torch.tensor(settings["image_mean"]).view(3, 1, 1)
        self._std = torch.tensor(settings["image_std"]).view(3, 1, 1)
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
        with quiet_transformers():  # the config beside it is ours, which it remarks on
            tokenizer = AutoTokenizer.from_pretrained(source)
        if len(tokenizer) < 1000:  # a folder without its files gives an empty vocabulary without a word
            raise MintIQAError(
                "tokenizer_missing", f"The tokenizer in {source} is empty: copy its files again."
            )
        return cls(config, tokenizer)

    def fit(self, image: Image.Image) -> Image.Image:
        """RGB image of any shape -> RGB image_size x image_size (bicubic, antialiased)."""
        width, height = image.size
        long_side = self.max_aspect * min(width, height)
        spare_x, spare_y = max(0.0, width - long_side) / 2, max(0.0, height - long_side) / 2
        box = (spare_x, spare_y, width - spare_x, height - spare_y)
        return image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC, box=box)

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images -> float32[B, 3, image_size, image_size], normalised."""
        return self.normalize(np.stack([np.asarray(self.fit(image)) for image in images]))

    def normalize(self, pixels: NDArray[np.uint8]) -> Tensor:
        """uint8[B, H, W, 3] -> float32[B, 3, H, W] with the tower's mean and standard deviation."""
        channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return (channels_first - self._mean) / self._std

    def text(self, texts: Sequence[str | None]) -> Text:
        """Prompts or questions -> Text, right-padded; None and "" are the empty text."""
        encoded = self.tokenizer(
            [t or "" for t in texts],
            truncation=True,
            max_length=self.max_prompt_tokens,
            padding=True,
            return_tensors="pt",
        )
        cut = tuple(bool(encoding.overflowing) for encoding in encoded.encodings)
        return Text(encoded["input_ids"], encoded["attention_mask"], cut)
