"""Tokenizers, read without running code and fitted to an LLM's vocabulary."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mint_iqa.errors import MintIQAError
from mint_iqa.quiet import quiet_transformers


def read_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the hub, read without running code; MintIQAError if that fails."""
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the reader of tokenizer.json raises plain Exceptions
        raise MintIQAError(
            "tokenizer_missing", f"The tokenizer in {source} can't be read: copy its files again."
        ) from error


def fitting_tokenizer(source: Path, vocabulary: int) -> Any:
    """MintIQAError when there is none, or it has more tokens than the `vocabulary` of the weights."""
    try:
        tokenizer = read_tokenizer(source)
    except MintIQAError as error:
        raise MintIQAError(
            "tokenizer_missing",
            f"{source} holds no tokenizer: give --tokenizers a folder laid out as InstructBLIP's, the LLM's "
            "tokenizer and a folder qformer_tokenizer.",
        ) from error
    if not 0 < len(tokenizer) <= vocabulary:
        raise MintIQAError(
            "tokenizer_mismatch",
            f"The tokenizer in {source} has {len(tokenizer)} tokens but the checkpoint {vocabulary}: give "
            "--tokenizers those that it was trained with.",
        )
    return tokenizer
