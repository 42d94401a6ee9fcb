"""Tiny random LLMs of the families people use, each with a tokenizer and a chat template like its own.

The templates are the published ones, shortened to what a conversation of text passes through.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests import tiny

LLAMA3 = """{{- bos_token }}
{%- set date = strftime_now("%d %b %Y") %}
{%- set system = "" %}
{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date }}
{{- "\\n\\n" + system + "<|eot_id|>" }}
{%- for m in messages %}
{{- "<|start_header_id|>" + m['role'] + "<|end_header_id|>\\n\\n" + m['content'] | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}{%- endif %}"""
QWEN = """{%- if messages[0]['role'] != 'system' %}{{- "<|im_start|>system\\nYou are Qwen.<|im_end|>\\n" }}\
{%- endif %}
{%- for m in messages %}
{{- "<|im_start|>" + m['role'] + "\\n" + m['content'] + "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\\n" }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- "<think>\\n\\n</think>\\n\\n" }}{%- endif %}{%- endif %}"""
MISTRAL = """{{- bos_token }}{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif %}
{%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + ' [/INST]' }}
{%- elif m['role'] == 'assistant' %}{{- ' ' + m['content'] + eos_token }}
{%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}{%- endif %}{%- endfor %}"""
GEMMA = """{{- bos_token }}{%- if messages[0]['role'] == 'system' %}
{{- raise_exception('System role not supported') }}{%- endif %}
{%- for m in messages %}{%- if m['role'] == 'assistant' %}{%- set role = 'model' %}{%- else %}
{%- set role = m['role'] %}{%- endif %}
{{- '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""
MARKERS = {
    "llama": ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "mistral": ["<unk>", "<s>", "</s>"],
    "gemma": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
    "smollm": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
ROLES = {
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "smollm": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
}
TEMPLATES = {"llama": LLAMA3, "qwen": QWEN, "mistral": MISTRAL, "gemma": GEMMA, "smollm": tiny.CHATML}
END_OF_TURN = {
    "llama": "<|eot_id|>", "qwen": "<|im_end|>", "mistral": "</s>", "gemma": "<end_of_turn>",
    "smollm": "<|im_end|>",
}  # fmt: skip
# model_type -> the family whose tokenizer it speaks with.
FAMILIES = {
    "llama": "llama", "qwen2": "qwen", "qwen3": "qwen", "mistral": "mistral", "gemma2": "gemma",
    "gemma3_text": "gemma", "smollm3": "smollm",
}  # fmt: skip


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, or for Mistral and Gemma a BPE on SentencePiece's blanks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if family in ("mistral", "gemma") else None))
    settings: dict[str, Any] = {"vocab_size": 600, "special_tokens": MARKERS[family], "show_progress": False}
    if family in ("mistral", "gemma"):
        blanks = [normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), *blanks] if family == "mistral" else blanks
        )
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        text = [f"{word}: {word} ({i})." for i in range(10) for word in tiny.WORDS]
        # As SentencePiece: a piece has its blank in front, and never one inside.
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        settings |= {"initial_alphabet": ["▁", "\n", *map(chr, range(33, 127))]}
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        text = [f" {word}" for word in tiny.WORDS] * 4
        settings |= {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(**settings))
    tokenizer.add_special_tokens([AddedToken(marker, special=True) for marker in MARKERS[family]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=TEMPLATES[family], **ROLES[family]
    )


def config(model_type: str, words: PreTrainedTokenizerFast) -> PretrainedConfig:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(words), "initializer_range": 0.2}
    ends = {"eos_token_id": words.eos_token_id, "bos_token_id": words.bos_token_id, "pad_token_id": 0}
    return AutoConfig.for_model(model_type, **sizes, **ends)


def model(model_type: str, words: PreTrainedTokenizerFast) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(model_type, words)).eval()


def save(model_type: str, folder: Path) -> Path:
    words = tokenizer(FAMILIES[model_type])
    model(model_type, words).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
