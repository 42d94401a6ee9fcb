"""Models small enough to build in a test: random weights, the real classes, real tokenizers."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertTokenizerFast, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mint_iqa.model.configuration import MintIQAConfig
from mint_iqa.model.examiner import rbf
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.vocabulary import DIMENSIONS, FAULT_WORDS, FAULTS, GRADES, LEVELS, QUESTIONS

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [w for sentence in QUESTIONS.values() for w in sentence.lower().rstrip("?").split()]
WORDS += [w for words in FAULT_WORDS.values() for text in words for w in text.split()]
WORDS += [*DIMENSIONS, *LEVELS, *GRADES, "red", "fox", "cat", "under", "snow", "painting"]
# The loader refuses fewer than 1000 entries: such a tokenizer comes from a folder without its files.
WORDPIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789.,!?"]
WORDPIECES += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
WORDPIECES += sorted(set(WORDS) - set(WORDPIECES))
WORDPIECES += [f"[unused{i}]" for i in range(1024 - len(WORDPIECES))]

TEXT = {"vocab_size": len(WORDPIECES), "num_attention_heads": 2, "max_position_embeddings": 32}
PROCESSOR = {
    "image_size": 28,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "max_aspect": 2.0,
    "max_prompt_tokens": 16,
}


def vision(**changes: Any) -> dict[str, Any]:
    """A DINOv2 of four blocks that sees 2 x 2 patches of 14 pixels."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    size = {"image_size": 28, "patch_size": 14}
    return {
        "model_type": "dinov2",
        **sizes,
        **size,
        "taps": [1, 2, 4],
        "branch_at": 4,
        "embeds_width": 24,
        **changes,
    }


def config(**changes: Any) -> MintIQAConfig:
    qformer = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "cross_attention_frequency": 2,
    }
    qformer |= {**TEXT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings = {
        "vision": vision(),
        "qformer": qformer,
        "query_tokens": 4,
        "heads": {"hidden": 8, "outputs": 1, "index": 0},
        "faults": list(FAULTS),
        "alignment": {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, **TEXT},
        "language": {"hidden_size": 32},
        "processor": PROCESSOR,
    }
    return MintIQAConfig(**{**settings, **changes})


def model(seed: int = 0, **changes: Any) -> MintIQAModel:
    torch.manual_seed(seed)
    return MintIQAModel(config(**changes)).eval()


def lively(model: MintIQAModel, seed: int = 0) -> MintIQAModel:
    """Larger random weights: fresh ones are so small that every picture and prompt scores alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                scale = 1.5 * parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for head in model.heads.values():
            head.layers[-1].weight.mul_(0.1)
            head.layers[-1].bias.fill_(0.5)  # the middle of the scale, where nothing is clamped
    return model


def examiner_settings() -> dict[str, Any]:
    """`MintIQAConfig.examiner` of the smallest networks there are."""
    small = {"width": 0.2, "depth": 0.3}
    return {"detail": small, "concepts": small, "axes": 6, "pictures": 8, "anchors": 4}


def examining(model: MintIQAModel, seed: int = 0) -> MintIQAModel:
    """Give a model's examiner something to say; its intervals are 10 to 30 points to either side."""
    assert model.examiner is not None
    generator = torch.Generator().manual_seed(seed)
    examiner, process = model.examiner, model.examiner.process

    def draw(tensor: torch.Tensor, scale: float) -> None:
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))

    for network in (examiner.detail, examiner.concepts):
        for weight in network.parameters():
            if weight.ndim > 1:
                draw(weight, (2 / weight[0].numel()) ** 0.5)
    draw(process.projection, 0.1)
    draw(process.pictures, 1.0)
    draw(process.weights, 0.1)
    draw(examiner.class_vectors, 1.0)
    draw(examiner.fault_lines.weight, 0.05)
    process.offsets.fill_(0.5)
    process.gamma.fill_(0.05)
    anchors = process.pictures[: len(process.precision)]
    process.precision.copy_(torch.linalg.inv(rbf(anchors, anchors, 0.05) + 0.1 * torch.eye(len(anchors))))
    examiner.ramp.copy_(torch.tensor([0.25, 0.75]))
    examiner.likeness.copy_(torch.tensor([1.0, 0.0, 0.8]))
    examiner.matching.copy_(torch.tensor([0.1, 0.4, 0.6, 0.3, 0.1, 0.75]))
    examiner.spread.copy_(torch.tensor([[0.1, 0.2]] * len(DIMENSIONS)))
    return model


def text_tokenizer() -> BertTokenizerFast:
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDPIECES)})


def language_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that knows the words of questions and faults, with ChatML's markers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word}" for word in WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


def save_language(folder: Path) -> Path:
    """A Llama of two layers with its tokenizer, as `config.language["source"]` names one."""
    tokenizer = language_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(llama).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save(folder: Path, language: Path, **changes: Any) -> Path:
    """A whole checkpoint: `Assessor.from_pretrained(folder)` needs nothing else."""
    changes.setdefault("language", {"hidden_size": 32, "source": str(language)})
    made = lively(model(**changes))
    (made if made.examiner is None else examining(made)).save_pretrained(folder)
    text_tokenizer().save_pretrained(folder)
    return folder
