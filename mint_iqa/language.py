"""The LLM: soft tokens, the scores in words and a question -> a streamed answer (MINT-IQA section 3.3).

What it reads, one chat turn:  [soft tokens] Scores: quality poor (34), ... \\n question
The scores stand there in words because a small model does not read numbers out of vectors; what is wrong with
the picture reaches it through the soft tokens alone. A tokenizer without a chat template (Vicuna v1.1 in the
published model) gets the published order instead:  [soft tokens] <s> question
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from mint_iqa import checkpoint
from mint_iqa.configuration import MintIQAConfig
from mint_iqa.errors import MintIQAError
from mint_iqa.int8 import in_int8
from mint_iqa.pretrained import part_folder, quiet_transformers
from mint_iqa.processing import read_tokenizer
from mint_iqa.vocabulary import DIMENSIONS, level_of

SYSTEM = "You judge one AI-generated picture. Say only what you can see."
# Where the soft tokens go in the chat template's text; no tokenizer merges it with its neighbours.
IMAGE_PLACE = "<image>"
MAX_NEW_TOKENS = 72
# Answers that have ended are dropped from a batch, which copies the cache, when only this share goes on.
KEPT_BUSY = 0.75
# Earlier turns that an answer takes into account; a small model gains nothing from more.
MAX_HISTORY = 3

Turn = tuple[str, str]  # question, answer


def scores_in_words(scores: Mapping[str, float | None]) -> str:
    """Scores 0..100 (None: not rated) -> "quality poor (34), authenticity fair (52), ..."."""
    return "Scores: " + ", ".join(f"{name} {_in_words(scores[name])}" for name in DIMENSIONS) + "."


def _in_words(score: float | None) -> str:
    return "not rated" if score is None else f"{level_of(score)} ({int(score)})"


class LanguageModel(nn.Module):
    """A causal LM of any family with its tokenizer, and LoRA when the checkpoint brings an adapter."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Without a tokenizer there are `loss` and `generate`; whatever reads or writes text raises."""
        super().__init__()
        self.model, self._tokenizer = model, tokenizer
        self.steps: nn.Module | None = None  # the same in int8, for all steps but the first
        self.stop_ids: set[int]
        if tokenizer is None:
            end = model.config.eos_token_id
            self.stop_ids = set(end) if isinstance(end, list) else {end} - {None}
        else:
            self.stop_ids = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")} - {None}

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
    def load(cls, config: MintIQAConfig, own: Path | None, **settings: Any) -> "LanguageModel":
        """The LLM of a checkpoint.

        own: what the checkpoint brings: a whole LLM, or an adapter, which is merged into the LLM that
        `config` names (a packaged part or a local folder). None: that LLM alone.
        `settings` go to transformers (dtype, device_map, quantization_config).
        """
        source: str | Path
        if own is not None and (own / "config.json").is_file():
            # A converted checkpoint may lack its tokenizer; asking would give an empty one without a word.
            source, adapter, can_read = own, None, (own / "tokenizer.json").is_file()
        else:
            source, adapter, can_read = _named(config), own, True
        if source == own:
            _check_own(own)
        tokenizer = read_tokenizer(source) if can_read else None
        try:
            with quiet_transformers():
                # Eager attention is the fastest here: one new token at a time against a short prefix.
                model, info = AutoModelForCausalLM.from_pretrained(
                    source, attn_implementation="eager", output_loading_info=True, trust_remote_code=False,
                    use_safetensors=True if source == own else None, **settings,
                )  # fmt: skip
        except (ImportError, MemoryError, torch.OutOfMemoryError):  # the fault of no file
            raise
        except Exception as error:  # damaged files reach every layer of transformers
            raise MintIQAError(
                "bad_checkpoint", f"{source} holds no readable LLM: download or convert it again."
            ) from error
        if lacking := sorted(info["missing_keys"]):
            raise MintIQAError(
                "bad_checkpoint",
                f"The LLM in {source} lacks {', '.join(lacking[:3])}: download or convert it again.",
            )
        if adapter is not None:
            model = _with_adapter(model, adapter)
        checkpoint.check_finite(model, adapter or source)
        return cls(model.eval(), tokenizer)

    def tokens(
        self, scores: Mapping[str, float | None], question: str, history: Sequence[Turn]
    ) -> list[list[int]]:
        """Token ids before and after the soft tokens."""
        if self.tokenizer.chat_template is None:
            text = " ".join([*(part for turn in history[-MAX_HISTORY:] for part in turn), question])
            return [[], self.tokenizer(self._harmless(text))["input_ids"]]
        turns: list[dict[str, str]] = [{"role": "system", "content": SYSTEM}]
        head = f"{IMAGE_PLACE}\n{scores_in_words(scores)}\n"
        for asked, answered in list(history)[-MAX_HISTORY:]:
            turns += [
                {"role": "user", "content": head + self._harmless(asked)},
                {"role": "assistant", "content": self._harmless(answered)},
            ]
            head = ""
        turns.append({"role": "user", "content": head + self._harmless(question)})
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        # A question may contain the marker as well: only the first one is ours.
        before, _, after = text.partition(IMAGE_PLACE)
        return [self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]

    def _harmless(self, text: str) -> str:
        """What a user wrote, without the markers that would end their turn and begin another's."""
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, " ")
        return text

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token ids -> float[len, Dl]."""
        table = self.model.get_input_embeddings()
        return table(torch.tensor(list(ids), dtype=torch.long, device=table.weight.device))

    def prefix(self, soft: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
        """soft float[Q, Dl] between its two token lists -> float[L, Dl]."""
        before, after = (self.embed(ids) for ids in tokens)
        return torch.cat([before, soft.to(before), after])

    def loss(self, soft: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over every labelled token of the batch (section 3.3).

        soft float[B, Q, Dl] stand before input_ids int[B, L], which are padded on the right; labels int[B, L]
        equal input_ids where the answer is, and are -100 elsewhere.
        """
        text = self.model.get_input_embeddings()(input_ids)
        output = self.model(
            inputs_embeds=torch.cat([soft.to(text), text], dim=1),
            attention_mask=torch.cat([attention_mask.new_ones(soft.shape[:2]), attention_mask], dim=1),
            logits_to_keep=input_ids.shape[1] + 1,  # the last soft token foretells the first of input_ids
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
        banned: Sequence[Sequence[int]] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        ignore_eos: bool = False,
    ) -> Iterator[list[int | None]]:
        """Greedy decoding of several prefixes at once: per step, one token for each (None once it has ended).

        banned: for each prefix the tokens that are never chosen; () for none.
        """
        stop_ids = set() if ignore_eos else self.stop_ids
        embeds, mask = pad_left(prefixes)
        rows = list(range(len(prefixes)))  # the prefixes that a step is made for
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
                logits[place, list(banned[row])] = -torch.inf
            chosen = logits.argmax(dim=-1).tolist()
            going = [p for p, t in enumerate(chosen) if rows[p] not in ended and t not in stop_ids]
            ended |= set(rows) - {rows[place] for place in going}
            if not going:
                return
            step: list[int | None] = [None] * len(prefixes)
            for place in going:
                step[rows[place]] = chosen[place]
            yield step
            if len(going) <= KEPT_BUSY * len(rows):
                cache.batch_select_indices(torch.tensor(going, device=mask.device))
                mask = mask[going]
                rows, chosen = ([values[place] for place in going] for values in (rows, chosen))
            embeds = self.embed(chosen).unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)

    def step_in_int8(self) -> None:
        """From now on, answers are written by int8 layers, about twice as fast on a CPU, from what the LLM
        itself has read of picture and question. Needs a quarter more memory. Raises MintIQAError unless the
        LLM is on a CPU in float32.
        """
        self.steps = in_int8(self.model)

    def stream(
        self, prefix: Tensor, banned: Sequence[int] = (), max_new_tokens: int = MAX_NEW_TOKENS
    ) -> Iterator[str]:
        """The answer in pieces of text; their join is the whole answer."""
        ids: list[int] = []
        shown = ""
        for (token,) in self.decode([prefix], [banned], max_new_tokens):
            ids.append(token)  # type: ignore[arg-type]
            text = self.text(ids)
            # A character of several tokens is held back until it is whole.
            if not text.endswith("\ufffd") and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
        if rest := self.text(ids)[len(shown) :]:
            yield rest

    def answers(self, prefixes: Sequence[Tensor], banned: Sequence[Sequence[int]] = ()) -> list[str]:
        """Whole answers to several prefixes, decoded together. banned: as for `decode`."""
        ids: list[list[int]] = [[] for _ in prefixes]
        for step in self.decode(prefixes, banned):
            for own, token in zip(ids, step, strict=True):
                if token is not None:
                    own.append(token)
        return [self.text(own) for own in ids]

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).lstrip()

    def first_tokens(self, words: Sequence[str]) -> set[int]:
        """The first token of each word as it stands inside a sentence."""
        return {self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in words}


def pad_left(prefixes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings float[L_i, D] -> float[B, L, D] and mask int[B, L]; the last positions are the real ones."""
    longest = max(len(p) for p in prefixes)
    embeds = prefixes[0].new_zeros(len(prefixes), longest, prefixes[0].shape[-1])
    mask = torch.zeros(len(prefixes), longest, dtype=torch.long, device=embeds.device)
    for i, prefix in enumerate(prefixes):
        embeds[i, longest - len(prefix) :] = prefix
        mask[i, longest - len(prefix) :] = 1
    return embeds, mask


def _named(config: MintIQAConfig) -> str | Path:
    """Where the LLM lies that the config names."""
    if "source" in config.language:
        return str(config.language["source"])
    if "language" not in config.parts:
        raise MintIQAError(
            "weights_missing",
            "The config names no LLM, and the checkpoint brings none: convert or download it again.",
        )
    return part_folder(config.parts["language"])


def _check_own(folder: Path) -> None:
    """MintIQAError unless the config of a checkpoint's own LLM describes one of its weights' size."""
    checkpoint.read_config(folder)
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # any value may be of any type, and each is used somewhere else
        raise MintIQAError(
            "bad_checkpoint", f"No LLM can be built from {folder / 'config.json'}: {checkpoint.RENEW}."
        ) from error
    checkpoint.check_size(folder, model)


def _check_rank(adapter: Path, settings: dict[str, Any]) -> None:
    """ValueError for a rank above that of the stored matrices: peft would make them before it compares."""
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        stored = max(min(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    if max([settings.get("r") or 0, *(settings.get("rank_pattern") or {}).values()]) > stored:
        raise ValueError("the rank is not that of the weights")


def _with_adapter(model: Any, adapter: Path) -> Any:
    """LoRA weights added to the base for good: the answer costs no more than the base model's."""
    # peft looks for bitsandbytes, which warns on every CPU about an optional kernel that nothing here uses.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from peft import PeftModel

    if not (adapter / "adapter_model.safetensors").is_file():
        raise MintIQAError(
            "bad_checkpoint", f"{adapter} has no adapter_model.safetensors: convert or train it again."
        )
    try:
        settings = json.loads((adapter / "adapter_config.json").read_bytes())
        checkpoint.check_settings(adapter / "adapter_config.json", settings)
        _check_rank(adapter, settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, adapter)
        return adapted if getattr(model, "is_quantized", False) else adapted.merge_and_unload()
    except MintIQAError:
        raise
    except Exception as error:  # damaged files reach every layer of peft
        raise MintIQAError(
            "bad_checkpoint", f"{adapter} holds no readable adapter: {checkpoint.RENEW}."
        ) from error
