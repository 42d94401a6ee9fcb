"""A data folder of a few small pictures and a nano model of toy size, for the tests of training.

The toy is nano's own config with smaller numbers, and its parts lie in the cache where nano's would: every
line of the recipes runs, none waits.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import decoders as token_decoders
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from instruct_data.answers import templates
from mint_iqa.checkpoints.parts import CACHE_VERSION, PARTS
from mint_iqa.model.cnn import EfficientNetLite
from mint_iqa.model.vision import build_backbone
from mint_iqa.quiet import quiet_transformers
from train.data.pictures import stored_side

REPOSITORY = Path(__file__).resolve().parents[1]
NANO = REPOSITORY / "configs" / "nano"
WIDTH = 16
SIZE = 28  # pixels that the toy model sees
# Two of them share no content word, and every one has a word that can be exchanged.
PROMPTS = (
    "a dog on a beach", "two cats in a kitchen", "red car", "a wooden bridge", "king with a sword",
    "green tree", "robot playing guitar", "a whale", "castle, anime style", "pizza near a clock",
)  # fmt: skip
CAPTIONS = ("a boy runs", "a girl jumps", "three horses", "a black truck", "people sitting", "snowy hill")
GENERATORS = ("alpha", "beta")
PHOTOGRAPHS = 15  # that people rated
# The examiner's networks and their sizes here.
NETWORKS = {"efficientnet_lite0": (0.2, 0.3), "efficientnet_lite2": (0.2, 0.3)}
# nano's recipe for the toy tower of three blocks, of which two train.
TRAINS = [
    "vision.backbone.encoder.layer.[12]", "vision.readout", "qformer1", "heads", "shortcut", "fault_head",
    "alignment",
]  # fmt: skip
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Settings of train.examine for them.
TOY_EXAMINER = [
    "networks={detail: {width: 0.2, depth: 0.3}, concepts: {width: 0.2, depth: 0.3}}", "words.steps=5",
    "regions.passes=1", "held_out_photographs=3",
]  # fmt: skip


@dataclass(frozen=True)
class World:
    """Where things lie: `data` goes to MINT_IQA_DATA, `cache` to MINT_IQA_CACHE, `config` is the toy's."""

    data: Path
    cache: Path
    config: Path

    @property
    def settings(self) -> dict[str, Any]:
        return json.loads(self.config.read_text())


def make_world(root: Path) -> World:
    world = World(root / "shared", root / "cache", root / "model.json")
    write_pictures(world.data / "data")
    world.config.write_text(json.dumps(toy_config()))
    write_parts(world)
    return world


# --- pictures ---


def write_pictures(root: Path, prompts: Sequence[str] = PROMPTS) -> None:
    """Each prompt once by each generator; pictures 0 (alpha, first prompt) and 3 (beta, second) are equal."""
    rows = []
    for i, prompt in enumerate(prompts):
        for k, generator in enumerate(GENERATORS):
            number = 2 * i + k
            # High and low in turn, so that there are clean and doubtful pictures of either generator.
            step = i % 20  # of a scale that ends at 5
            quality = 4.0 - 0.1 * step if (i + k) % 2 else 1.0 + 0.15 * step
            rows.append({
                "image": f"images/{number}.png", "prompt": prompt, "generator": generator,
                "mos_quality": quality, "mos_align": 0.5 + 0.2 * number,
            })  # fmt: skip
            _draw(root / "agiqa3k" / "images" / f"{number}.png", 0 if number == 3 else number)
    _write_table(root / "agiqa3k" / "scores.csv", rows)
    photographs = []
    for i in range(PHOTOGRAPHS):
        _draw(root / "biq2021" / "images" / f"{i}.png", 200 + i)
        row = {
            "image": f"images/{i}.png",
            "mos": (7 * i % PHOTOGRAPHS) / PHOTOGRAPHS,
            "subset": f"ss0{i % 2}",
        }
        photographs.append(row)
    _write_table(root / "biq2021" / "scores.csv", photographs)
    captions = []
    for i, caption in enumerate(CAPTIONS):
        _draw(root / "flickr8k" / "images" / f"{i}.png", 100 + i)
        captions += [{"image": f"images/{i}.png", "caption": f"{caption} {n} ."} for n in "abcde"]
    _write_table(root / "flickr8k" / "captions.csv", captions)


def _draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(path)


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# --- model ---


def toy_config() -> dict[str, Any]:
    config = json.loads((NANO / "model.json").read_text())
    small = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH}
    text = {**small, "vocab_size": 1100, "max_position_embeddings": 128, "num_hidden_layers": 2}
    config["vision"] |= {
        "hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 3, "image_size": SIZE,
        "branch_at": 3, "taps": [1, 3], "embeds_width": WIDTH, "mlp_ratio": 2,
    }  # fmt: skip
    config["qformer"] |= text
    config["alignment"] |= {**text, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config["query_tokens"] = 4
    config["language"]["hidden_size"] = WIDTH
    config["processor"] |= {"image_size": SIZE, "fitted_size": stored_side(SIZE)}
    return config


def write_parts(world: World) -> None:
    """The converted parts, as `pretrained.part_folder` expects to find them."""
    torch.manual_seed(3)
    config = world.settings
    with quiet_transformers():
        for role, module in (
            ("vision", build_backbone(config["vision"])),
            ("text", BertModel(BertConfig(**config["alignment"]), add_pooling_layer=False)),
        ):
            _part(world, role).mkdir(parents=True)
            save_file(module.state_dict(), _part(world, role) / "model.safetensors")
        text_tokenizer().save_pretrained(_part(world, "text"))
        tokenizer = chat_tokenizer()
        language = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048,
            eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=None, initializer_range=0.2,
        )  # fmt: skip
        LlamaForCausalLM(language).save_pretrained(_part(world, "language"))
        tokenizer.save_pretrained(_part(world, "language"))
    for name, size in NETWORKS.items():
        network = EfficientNetLite(*size)
        for weight in network.parameters():
            if weight.ndim > 1:  # louder than PyTorch's: it would see all pictures alike
                torch.nn.init.kaiming_normal_(weight)
        _folder(world, name).mkdir()
        save_file(network.state_dict(), _folder(world, name) / "model.safetensors")


def _part(world: World, role: str) -> Path:
    return _folder(world, world.settings["parts"][role])


def _folder(world: World, name: str) -> Path:
    return world.cache / f"{name}-{PARTS[name].sha256[:12]}-v{CACHE_VERSION}"


def text_tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter, digit or sign, and enough others to pass for a real vocabulary."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = [*special, *letters, *(f"##{c}" for c in letters)]
    pieces += [f"[unused{i}]" for i in range(1100 - len(pieces))]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the templates' words, with SmolLM2's turn markers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = token_decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    words = [
        w for kinds in (templates.ANSWERS, templates.QUESTION_WORDINGS) for k in kinds.values() for w in k
    ]
    tokenizer.train_from_iterator(words, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = CHAT
    return fast


@contextmanager
def living_in(root: Path) -> Iterator[World]:
    """A new world that the recipes find while the block lasts; its pictures are not built yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINT_IQA_DATA", str(root / "shared"))
        patch.setenv("MINT_IQA_CACHE", str(root / "cache"))
        yield make_world(root)
