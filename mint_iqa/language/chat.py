"""What the LLM reads, as text: the scores in words and a question, in the chat format of its family.

One chat turn:  [soft tokens] Scores: quality poor (34), ... \\n question
The scores are given in words because a small model does not read numbers out of vectors; faults reach it only
through the soft tokens. A tokenizer without a chat template (Vicuna v1.1 in the published model) gets the
published order instead:  [soft tokens] <s> question
"""

import re
from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from mint_iqa.vocabulary import DIMENSIONS, level_of

SYSTEM = "You judge one AI-generated picture. Say only what you can see."
# Where the soft tokens go in the chat template's text; no tokenizer merges it with its neighbors.
IMAGE_PLACE = "<image>"
# Earlier turns that an answer takes into account; a small model gains nothing from more.
MAX_HISTORY = 3
# Of templates that mark turns with plain text, which no tokenizer knows as special (Llama 2, early Mistral).
PLAIN_MARKERS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")

Turn = tuple[str, str]  # question, answer


def scores_in_words(scores: Mapping[str, float | None]) -> str:
    """Scores 0..100 (None: not rated) -> "quality poor (34), authenticity fair (52), ..."."""
    return "Scores: " + ", ".join(f"{name} {_in_words(scores[name])}" for name in DIMENSIONS) + "."


def _in_words(score: float | None) -> str:
    return "not rated" if score is None else f"{level_of(score)} ({int(score)})"


def conversation(
    tokenizer: PreTrainedTokenizerBase,
    scores: Mapping[str, float | None],
    question: str,
    history: Sequence[Turn],
) -> tuple[str, str]:
    """The text before and after the soft tokens; of `history` the last MAX_HISTORY turns count."""
    recent = [[harmless(tokenizer, text) for text in turn] for turn in list(history)[-MAX_HISTORY:]]
    question = harmless(tokenizer, question)
    if tokenizer.chat_template is None:
        return "", " ".join([*(part for turn in recent for part in turn), question])
    turns: list[dict[str, str]] = []
    head = f"{IMAGE_PLACE}\n{scores_in_words(scores)}\n"
    for asked, told in recent:
        turns += [{"role": "user", "content": head + asked}, {"role": "assistant", "content": told}]
        head = ""
    text = _with_system(tokenizer, [*turns, {"role": "user", "content": head + question}])
    # A question may contain the marker as well: only the first one is ours.
    before, _, after = text.partition(IMAGE_PLACE)
    return before, after


def harmless(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """What a user wrote, without the markers that would end their turn and begin another's."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for marker in {*tokenizer.all_special_tokens, *added, *PLAIN_MARKERS}:
        text = text.replace(marker, " ")
    return text


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends an answer in this chat format: what the template writes after one."""
    default: int | None = tokenizer.eos_token_id
    if tokenizer.chat_template is None:
        return default
    answer = "Fine."
    turns = [{"role": "user", "content": "How is it?"}, {"role": "assistant", "content": answer}]
    after = _render(tokenizer, turns, ask=False).rpartition(answer)[2]
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((i for i in ids if i in special), default)


def _with_system(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    try:
        text = _render(tokenizer, [{"role": "system", "content": SYSTEM}, *turns])
    except TemplateError:
        text = ""
    if SYSTEM in text:
        return text
    # Gemma's and Mistral's templates refuse a system turn, others drop it: it opens the first question there.
    first = {"role": "user", "content": f"{SYSTEM}\n{turns[0]['content']}"}
    return _render(tokenizer, [first, *turns[1:]])


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], ask: bool = True) -> str:
    # Llama 3 and SmolLM 3 write the day into the prompt, and the answer would change with it.
    template = re.sub(r"strftime_now\([^)]*\)", "'26 Jul 2024'", tokenizer.get_chat_template())
    text: str = tokenizer.apply_chat_template(
        turns,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=ask,
        enable_thinking=False,  # Qwen 3, SmolLM 3: an answer, not a monologue before it
    )
    return text
