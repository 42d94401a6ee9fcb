"""Assessor: a picture in, scores, faults and reasons out. What the command line and the page both use."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mint_iqa.checkpoints.finding import find_checkpoint, info_of
from mint_iqa.devices import device_of, dtype_of
from mint_iqa.errors import MintIQAError
from mint_iqa.images import Fitting, ReadImage, Source, read_image
from mint_iqa.language.guard import banned_sequences
from mint_iqa.language.llm import MAX_NEW_TOKENS, LanguageModel, Turn
from mint_iqa.language.loading import placement
from mint_iqa.model.modeling import MintIQAModel
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.pictures import Picture, Rated, ScoredBatch, encode, judge, name_of, warnings_of
from mint_iqa.records import (
    Answer,
    Assessment,
    Explanation,
    FailedAssessment,
    Failure,
    Levels,
    ModelInfo,
)
from mint_iqa.vocabulary import QUESTIONS, Dimension

MAX_QUESTION_CHARACTERS = 500
UNTAUGHT = "This model was never taught to explain, it only scores: run python -m train.stage2 on it."


class Assessor:
    """Loads a model once; scores pictures, explains them, answers questions. Several threads may use it.

    A score depends on its picture, prompt and weights alone, not on the batch or on what was asked before.
    """

    def __init__(self, model: MintIQAModel, processor: MintIQAProcessor, info: ModelInfo) -> None:
        self.model, self.processor, self.model_info = model.eval(), processor, info
        # A new head's bias is zero, and the first step of training changes that.
        self._untrained = not any(p.any() for n, p in model.heads.named_parameters() if n.endswith("bias"))
        self._taught = bool(model.config.language.get("taught", True))
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "nano",
        *,
        device: str | None = None,
        dtype: str | None = None,
        quantization: str | None = None,
        device_map: str | None = None,
    ) -> "Assessor":
        """`model`: a preset ("nano"), a folder, or a hub id ("owner/name", fetched from the network).

        device: cpu, cuda, ...: by default the GPU if there is one.
        dtype: float32 (default) | bfloat16 | float16.
        quantization, device_map: of the LLM alone, see `loading.placement`.
        Raises MintIQAError when the weights are missing or do not fit.
        """
        kind, place = dtype_of(dtype), device_of(device)
        settings = placement(quantization, device_map, place, kind)
        folder = find_checkpoint(model)
        loaded = MintIQAModel.from_pretrained(folder, dtype=kind, language_settings=settings)
        # A sixth faster than the eager attention of `build_backbone`, which trains faster.
        loaded.vision.backbone.set_attn_implementation("sdpa")
        loaded.to(place)
        processor = MintIQAProcessor.from_config(loaded.config, folder)
        return cls(loaded, processor, info_of(model, folder))

    @property
    def fit(self) -> Fitting:
        """Shrinks a picture to the size that the model sees."""
        return self.processor.fit

    def read(self, image: Source | ReadImage | Picture, name: str | None = None) -> Picture:
        """Read and encode a picture. Raises MintIQAError if it can't be read as one."""
        if isinstance(image, Picture):
            return image
        read = image if isinstance(image, ReadImage) else read_image(image)
        return self._encode([(name or name_of(image), read)])[0]

    def assess(self, image: Source | Picture, prompt: str | None = None, explain: bool = True) -> Assessment:
        """Scores 0..100, faults, and with `explain` the reasons in words; MintIQAError for a bad picture.

        A model that was not taught to explain gives no reasons, and a warning that says so.
        """
        return self._assessments(self.rate([(self.read(image), prompt)]), explain)[0]

    def assess_many(
        self,
        items: Iterable[tuple[Source | ReadImage | Picture, str | None]],
        batch_size: int = 8,
        explain: bool = False,
    ) -> Iterator[Assessment | FailedAssessment]:
        """One record per item, in order, produced lazily; a picture that can't be read fails alone."""
        iterator = iter(items)
        # Decoding holds no lock that scoring needs, and a batch has several files.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while batch := list(islice(iterator, batch_size)):
                opened = list(pool.map(_open, *zip(*batch, strict=True)))
                sound = [o for o in opened if not isinstance(o, FailedAssessment)]
                done = iter(self._assessments(self._rate_opened(sound, explain), explain))
                for item in opened:
                    if isinstance(item, FailedAssessment):
                        yield item.model_copy(update={"model": self.model_info})
                    else:
                        yield next(done)

    def ask(
        self,
        image: Source | Picture,
        question: str,
        prompt: str | None = None,
        history: Sequence[Turn] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Iterator[str]:
        """Stream the answer to a question about a picture; `history` holds earlier (question, answer) turns.

        Raises MintIQAError for a bad picture, an empty question, or a model that was not taught to answer,
        before the first piece.
        """
        question = _checked_question(question, self._taught)
        rated = self.rate([(self.read(image), prompt)])[0]
        return self._stream(rated, question, history, max_new_tokens)

    def answer(self, image: Source | Picture, question: str, prompt: str | None = None) -> Answer:
        """The whole answer as a record."""
        asked = _checked_question(question, self._taught)
        rated = self.rate([(self.read(image), prompt)])[0]
        text = "".join(self._stream(rated, asked, ()))
        return Answer(
            image=rated.picture.name,
            image_sha256=rated.picture.sha256,
            prompt=rated.prompt,
            model=self.model_info,
            question=question,
            answer=text,
            scores=rated.scores,
            intervals=rated.intervals,
            warnings=rated.warnings,
        )

    # --- scoring ---

    @torch.inference_mode()
    def _encode(self, read: Sequence[tuple[str, ReadImage]], explain: bool = True) -> list[Picture]:
        if not read:
            return []
        return encode(self.model, self.processor, read, explain)

    def _rate_opened(
        self, opened: "Sequence[tuple[str, ReadImage | Picture, str | None]]", explain: bool
    ) -> list[Rated]:
        fresh = iter(self._encode([(n, r) for n, r, _ in opened if isinstance(r, ReadImage)], explain))
        return self.rate([(r if isinstance(r, Picture) else next(fresh), prompt) for _, r, prompt in opened])

    @torch.inference_mode()
    def rate(self, items: Sequence[tuple[Picture, str | None]]) -> list[Rated]:
        if not items:
            return []
        prompts = [(prompt or "").strip() or None for _, prompt in items]
        text = self.processor.tokenize(prompts)
        ids, mask = text.ids.to(self.model.device), text.mask.to(self.model.device)
        found = judge(self.model, [picture for picture, _ in items], ids, mask)
        return [
            self._rated(picture, prompt, cut, found, i)
            for i, ((picture, _), prompt, cut) in enumerate(zip(items, prompts, text.cut, strict=True))
        ]

    def _rated(self, picture: Picture, prompt: str | None, cut: bool, found: ScoredBatch, i: int) -> Rated:
        scores, intervals = found.scores(i, prompt is not None)
        faults = found.faults(i, self.model.config.faults, picture.acquitted)
        warnings = (*picture.warnings, *warnings_of(picture, cut, self.processor, self._untrained))
        vectors = None if found.quality_vectors is None else found.quality_vectors[i : i + 1]
        return Rated(picture, prompt, scores, faults, warnings, intervals, vectors)

    # --- explaining ---

    def _assessments(self, rated: Sequence[Rated], explain: bool) -> list[Assessment]:
        reasons = self._explanations(rated) if explain and self._taught else [None] * len(rated)
        missing = [UNTAUGHT] if explain and not self._taught else []
        return [
            Assessment(
                image=one.picture.name,
                image_sha256=one.picture.sha256,
                prompt=one.prompt,
                model=self.model_info,
                scores=one.scores,
                intervals=one.intervals,
                levels=Levels.of(one.scores),
                faults=one.faults,
                warnings=(*one.warnings, *missing),
                explanation=reason,
            )
            for one, reason in zip(rated, reasons, strict=True)
        ]

    @torch.inference_mode()
    def _explanations(self, rated: Sequence[Rated]) -> list[Explanation]:
        """All answers to all pictures are written together: a step for one costs nearly as much."""
        if not rated:
            return []
        asked = [{k: q for k, q in QUESTIONS.items() if k != "correspondence" or r.prompt} for r in rated]
        pairs = [
            (r, question)
            for r, questions in zip(rated, asked, strict=True)
            for question in questions.values()
        ]
        prefixes = [self.llm_input(one, question, ()) for one, question in pairs]
        banned = {id(one): self.banned_sequences(one) for one in rated}
        texts = iter(self.language_model().answers(prefixes, [banned[id(one)] for one, _ in pairs]))
        return [
            Explanation.model_validate({"correspondence": None, **{k: next(texts) for k in questions}})
            for questions in asked
        ]

    def _stream(
        self, rated: Rated, question: str, history: Sequence[Turn], max_new_tokens: int = MAX_NEW_TOKENS
    ) -> Iterator[str]:
        prefix = self.llm_input(rated, question, history)
        yield from self.language_model().stream(prefix, self.banned_sequences(rated), max_new_tokens)

    @torch.inference_mode()
    def soft_prompt(self, rated: Rated, question: str) -> Tensor:
        """What the LLM sees of the picture for this question, float[Q, Dl]."""
        text = self.processor.tokenize([question])
        device = self.model.device
        encoded = rated.picture.encoded
        if encoded is None or rated.quality_vectors is None:
            raise ValueError("this picture was read for scores alone: read it again to ask about it")
        soft = self.model.soft_prompt(
            encoded, rated.quality_vectors, text.ids.to(device), text.mask.to(device)
        )
        if self.model.config.faults and not rated.faults:
            # Nothing was detected, so no fault may be named. Without soft tokens the model has learned to
            # write whole sentences that name none; banning words alone would break sentences.
            soft = torch.zeros_like(soft)
        seen: Tensor = soft[0]
        return seen

    @torch.inference_mode()
    def llm_input(
        self, rated: Rated, question: str, history: Sequence[Turn], soft: Tensor | None = None
    ) -> Tensor:
        """All that the LLM reads before it answers, float[L, Dl]; `soft`: other soft tokens than its own."""
        language = self.language_model()
        soft = self.soft_prompt(rated, question) if soft is None else soft
        # Dumped: rounded as the record writes them, so that words and numbers agree at a cut as well.
        return language.prefix(soft, language.tokens(rated.scores.model_dump(), question, history))

    def banned_sequences(self, rated: Rated) -> list[tuple[int, ...]]:
        """Token sequences that must not be in an answer about this picture, because they claim too much."""
        faults = {fault.name: fault.severity for fault in rated.faults}
        # Dumped: as the record writes them, so that words and numbers agree at a cut as well.
        scores: dict[Dimension, float | None] = rated.scores.model_dump()  # type: ignore[assignment]
        return banned_sequences(self.language_model(), self.model.config.faults, faults, scores)

    def language_model(self) -> LanguageModel:
        with self._lock:
            language: LanguageModel = self.model.language_model()
            return language


def _open(image: Any, prompt: str | None) -> "FailedAssessment | tuple[str, ReadImage | Picture, str | None]":
    try:
        known = isinstance(image, Picture | ReadImage)
        return name_of(image), image if known else read_image(image), prompt
    except MintIQAError as error:
        info = ModelInfo(name="", revision="")  # replaced by the caller, who knows the model
        return FailedAssessment(image=name_of(image), prompt=prompt, model=info, error=Failure.of(error))


def _checked_question(question: str, taught: bool) -> str:
    if not taught:
        raise MintIQAError("no_explanation", UNTAUGHT)
    text = question.strip()
    if not text:
        raise MintIQAError("question_empty", "The question is empty: ask something about the picture.")
    if len(text) > MAX_QUESTION_CHARACTERS:
        raise MintIQAError(
            "question_too_long",
            f"The question has {len(text)} characters: ask in at most {MAX_QUESTION_CHARACTERS}.",
        )
    return text
