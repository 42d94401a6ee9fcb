"""The LLM: soft tokens and a conversation -> a streamed answer (MINT-IQA section 3.3)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from mint_iqa.checkpoints import checks
from mint_iqa.errors import MintIQAError
from mint_iqa.language.chat import Turn as Turn
from mint_iqa.language.chat import conversation, end_of_turn
from mint_iqa.language.int8 import in_int8
from mint_iqa.language.loading import keep_gradients, load_llm, with_adapter

MAX_NEW_TOKENS = 72
Banned = Sequence[Sequence[int]]  # token sequences that must not be in an answer
# Answers that have ended are dropped from a batch, which copies the cache, when only this share continues.
KEPT_BUSY = 0.75


class LanguageModel(nn.Module):
    """A causal LM of any family with its tokenizer, and LoRA when the checkpoint brings an adapter."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Without a tokenizer only `loss` and `generate` work; methods that read or write text raise."""
        super().__init__()
        self.model, self._tokenizer = model, tokenizer
        self.steps: nn.Module | None = None  # the same in int8, for all steps but the first
        self.end_of_turn: int | None = None if tokenizer is None else end_of_turn(tokenizer)
        self.stop_ids = _stop_ids(model, tokenizer, self.end_of_turn)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """MintIQAError where the checkpoint came without one."""
        if self._tokenizer is None:
            raise MintIQAError(
                "tokenizer_missing",
                f"The LLM in {self.model.name_or_path} has no tokenizer.json: convert the checkpoint again "
                "with --tokenizers.",
            )
        return self._tokenizer

    @classmethod
    def load(
        cls,
        folder: Path,
        adapter: Path | None,
        width: int,
        *,
        can_read: bool = True,
        int8_steps: bool = False,
        **settings: Any,
    ) -> "LanguageModel":
        """The LLM in a local folder; LoRA weights in the folder `adapter` are merged into it.

        width: of the soft tokens, Dl. can_read: whether the folder brings a tokenizer. int8_steps: see
        `step_in_int8`. `settings` go to transformers: dtype, and the others of `loading.placement`.
        MintIQAError where it can't be read or is of another width.
        """
        model, tokenizer = load_llm(folder, settings, can_read)
        found = model.get_input_embeddings().weight.shape[1]
        if found != width:
            raise MintIQAError(
                "bad_config",
                f"The LLM in {folder} is {found} wide, but the checkpoint was made for one of {width}: name "
                "that one as `source` under `language` in its config.json.",
            )
        if adapter is not None:
            model = with_adapter(model, adapter)
        checks.check_finite(model, adapter or folder)
        language = cls(model.eval(), tokenizer)
        if int8_steps:
            language.step_in_int8()
        return language

    def add_lora(self, rank: int, alpha: int, targets: Sequence[str] | None = None) -> None:
        """Freeze the LLM and put new LoRA weights beside its layers of these names; None: `lora_targets`.

        MintIQAError for a name that no layer has.
        """
        from peft import LoraConfig, get_peft_model

        keep_gradients(self.model)
        there = lora_targets(self.model)
        names = there if targets is None else list(targets)
        if lacking := [name for name in names if name not in there]:
            raise MintIQAError(
                "bad_config", f"LoRA: the LLM has no layer {lacking[0]!r}, only {', '.join(there)}."
            )
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, task_type="CAUSAL_LM")
        self.model = get_peft_model(self.model, config)

    def tokens(
        self, scores: Mapping[str, float | None], question: str, history: Sequence[Turn]
    ) -> list[list[int]]:
        """Token ids before and after the soft tokens."""
        before, after = conversation(self.tokenizer, scores, question, history)
        if self.tokenizer.chat_template is None:
            return [[], self.tokenizer(after)["input_ids"]]
        return [self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token ids -> float[len, Dl]."""
        table = self.model.get_input_embeddings()
        embeds: Tensor = table(torch.tensor(list(ids), dtype=torch.long, device=table.weight.device))
        return embeds

    def prefix(self, soft: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
        """soft float[Q, Dl] between its two token lists -> float[L, Dl]."""
        before, after = (self.embed(ids) for ids in tokens)
        return torch.cat([before, soft.to(before), after])

    def loss(self, soft: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over every labeled token of the batch (section 3.3).

        soft float[B, Q, Dl] stand before input_ids int[B, L], which are padded on the right; labels int[B, L]
        equal input_ids where the answer is, and are -100 elsewhere.
        """
        text = self.model.get_input_embeddings()(input_ids)
        output = self.model(
            inputs_embeds=torch.cat([soft.to(text), text], dim=1),
            attention_mask=torch.cat([attention_mask.new_ones(soft.shape[:2]), attention_mask], dim=1),
            logits_to_keep=input_ids.shape[1] + 1,  # the last soft token predicts the first input id
        )
        return cross_entropy(output.logits[:, :-1].flatten(0, 1).float(), labels.flatten())

    def generate(
        self,
        soft: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int = MAX_NEW_TOKENS,
        ignore_eos: bool = False,
    ) -> Tensor:
        """Greedy answers int[B, N] to soft float[B, Q, Dl] followed by input_ids int[B, L], however padded.

        N is the longest answer's length, end token not counted; shorter ones are filled up with that token.
        """
        questions = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        prefixes = [self.prefix(s, ((), ids)) for s, ids in zip(soft, questions, strict=True)]
        end = min(self.stop_ids, default=0)
        steps = self.decode(prefixes, max_new_tokens=max_new_tokens, ignore_eos=ignore_eos)
        columns = [[end if token is None else token for token in step] for step in steps]
        return torch.tensor(columns, dtype=torch.long, device=soft.device).view(-1, len(soft)).T

    @torch.inference_mode()
    def decode(
        self,
        prefixes: Sequence[Tensor],
        banned: Sequence[Banned] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        ignore_eos: bool = False,
    ) -> Iterator[list[int | None]]:
        """Greedy decoding of several prefixes at once: per step, one token for each (None once it has ended).

        banned: for each prefix the token sequences that are never completed; () for none.
        """
        stop_ids = set() if ignore_eos else self.stop_ids
        embeds, mask = pad_left(prefixes)
        rows = list(range(len(prefixes)))  # the prefixes that a step is made for
        written: list[list[int]] = [[] for _ in prefixes]
        ended: set[int] = set()
        cache = None
        for _ in range(max_new_tokens):
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
            model = self.model if cache is None or self.steps is None else self.steps
            output = model(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits, cache = output.logits[:, -1], output.past_key_values
            for place, row in enumerate(rows if banned else ()):
                logits[place, completing(written[row], banned[row])] = -torch.inf
            chosen = logits.argmax(dim=-1).tolist()
            going = [p for p, t in enumerate(chosen) if rows[p] not in ended and t not in stop_ids]
            ended |= set(rows) - {rows[place] for place in going}
            if not going:
                return
            step: list[int | None] = [None] * len(prefixes)
            for place in going:
                step[rows[place]] = chosen[place]
                written[rows[place]].append(chosen[place])
            yield step
            if len(going) <= KEPT_BUSY * len(rows):
                cache.batch_select_indices(torch.tensor(going, device=mask.device))
                mask = mask[going]
                rows, chosen = ([values[place] for place in going] for values in (rows, chosen))
            embeds = self.embed(chosen).unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)

    def step_in_int8(self) -> None:
        """From now on, int8 layers write answers, about twice as fast on a CPU; the LLM itself still reads
        picture and question. Needs a quarter more memory. Raises MintIQAError unless the LLM is on a CPU in
        float32.
        """
        self.steps = in_int8(self.model)

    def stream(
        self, prefix: Tensor, banned: Banned = (), max_new_tokens: int = MAX_NEW_TOKENS
    ) -> Iterator[str]:
        """The answer in pieces of text; their join is the whole answer."""
        ids: list[int] = []
        shown = ""
        for (token,) in self.decode([prefix], [banned], max_new_tokens):
            ids.append(token)  # type: ignore[arg-type]  # never None: decoding stops when its one prefix ends
            text = self.decode_text(ids)
            # A character of several tokens is held back until it is whole.
            if not text.endswith("\ufffd") and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
        if rest := self.decode_text(ids)[len(shown) :]:
            yield rest

    def answers(self, prefixes: Sequence[Tensor], banned: Sequence[Banned] = ()) -> list[str]:
        """Whole answers to several prefixes, decoded together. banned: as for `decode`."""
        ids: list[list[int]] = [[] for _ in prefixes]
        for step in self.decode(prefixes, banned):
            for own, token in zip(ids, step, strict=True):
                if token is not None:
                    own.append(token)
        return [self.decode_text(own) for own in ids]

    def decode_text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True).lstrip()
        return text

    def word_ids(self, word: str) -> list[int]:
        """The tokens of a word as it stands inside a sentence.

        They are read off behind another word: SentencePiece tokenizers add a blank at the start of a text.
        """
        before, both = (
            self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("it", f"it {word}")
        )
        own: list[int] = both[len(before) :]
        return own

    def first_tokens(self, words: Sequence[str]) -> set[int]:
        """The first token of each word as it stands inside a sentence."""
        return {self.word_ids(word)[0] for word in words}

    def sequences(self, phrases: Sequence[str]) -> set[tuple[int, ...]]:
        """The tokens of each phrase, inside an answer and, without a blank in front, at its start.

        With a blank in front there are none where the tokenizer makes no difference between the two.
        """
        found: set[tuple[int, ...]] = set()
        for phrase in phrases:
            words = phrase.lstrip()
            start = tuple(self.tokenizer(words, add_special_tokens=False)["input_ids"])
            inside = tuple(self.word_ids(words))
            found |= {start, inside} if words == phrase else {inside} - {start}
        return found


def _stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase | None, end_of_turn: int | None) -> set[int]:
    """What ends an answer: the LLM's own settings count too, where Llama 3 and Gemma name several tokens."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ends is None:
        ends = model.config.get_text_config().eos_token_id
    known = [*(ends if isinstance(ends, list) else [ends]), end_of_turn]
    known += [tokenizer.eos_token_id] if tokenizer is not None else []
    return {end for end in known if end is not None}


def completing(written: Sequence[int], sequences: Banned) -> list[int]:
    """The tokens that would complete one of `sequences` at the end of `written`."""
    return [last for *before, last in sequences if before == written[len(written) - len(before) :]]


def lora_targets(model: nn.Module) -> list[str]:
    """Names of the linear layers inside the LLM's blocks, whatever its family calls them (for peft).

    The layer that writes the vocabulary is not a target. MintIQAError for a model without any.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = (
        name for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head
    )
    names = sorted({name.rpartition(".")[2] for name in linear})
    if not names:
        raise MintIQAError(
            "bad_config", f"{type(model).__name__} has no linear layers for LoRA: choose another."
        )
    return names


def pad_left(prefixes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings float[L_i, D] -> float[B, L, D] and mask int[B, L]; the last positions are the real ones."""
    longest = max(len(p) for p in prefixes)
    embeds = prefixes[0].new_zeros(len(prefixes), longest, prefixes[0].shape[-1])
    mask = torch.zeros(len(prefixes), longest, dtype=torch.long, device=embeds.device)
    for i, prefix in enumerate(prefixes):
        embeds[i, longest - len(prefix) :] = prefix
        mask[i, longest - len(prefix) :] = 1
    return embeds, mask
