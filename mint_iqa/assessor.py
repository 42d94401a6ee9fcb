"""Assessor: a picture in, scores, faults and reasons out. What the command line and the page both use."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from mint_iqa.model.modeling import EncodedImage, MintIQAModel, ScoreOutput
from mint_iqa.model.processing import MintIQAProcessor
from mint_iqa.records import (
    Answer,
    Assessment,
    Explanation,
    FailedAssessment,
    Failure,
    Fault,
    Levels,
    ModelInfo,
    Scores,
)
from mint_iqa.vocabulary import DIMENSIONS, NAMED_FROM, QUESTIONS, Dimension

MAX_QUESTION_CHARACTERS = 500
UNTAUGHT = "This model was never taught to explain, it only scores: run python -m train.stage2 on it."


@dataclass(frozen=True)
class Picture:
    """A picture read and encoded once: give it to `assess` and `ask` in place of a file to repeat nothing.

    name: what the user called it; size: (width, height); sha256 and warnings as in `ReadImage`. It keeps no
    pixels, so that many can be held. A `Picture` is only good for the Assessor that made it.
    """

    name: str
    size: tuple[int, int]
    sha256: str | None
    warnings: tuple[str, ...]
    encoded: EncodedImage
    distance: float


@dataclass(frozen=True)
class Rated:
    """One picture with one prompt, scored."""

    picture: Picture
    prompt: str | None
    scores: Scores
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]
    quality_vectors: Tensor  # float[1, Q, Dq]


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
        return self._encode([(name or _name(image), read)])[0]

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
            warnings=rated.warnings,
        )

    # --- scoring ---

    @torch.inference_mode()
    def _encode(self, read: Sequence[tuple[str, ReadImage]], explain: bool = True) -> list[Picture]:
        if not read:
            return []
        pixels = self.processor.pixel_values([r.rgb for _, r in read])
        encoded = self.model.encode_image(pixels.to(self.model.device, self.model.dtype), explain)
        distances = self.model.novelty(encoded).tolist()
        return [
            Picture(name, r.size, r.sha256, r.warnings, encoded.one(i), d)
            for i, ((name, r), d) in enumerate(zip(read, distances, strict=True))
        ]

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
        device = self.model.device
        parts = [picture.encoded for picture, _ in items]
        image_embeds = torch.cat([part.image_embeds for part in parts])
        statistics = torch.cat([part.statistics for part in parts])
        encoded = EncodedImage(image_embeds, image_embeds[:, :0], statistics)
        output = self.model.score(encoded, text.ids.to(device), text.mask.to(device))
        return [
            self._rated(picture, prompt, cut, output, i)
            for i, ((picture, _), prompt, cut) in enumerate(zip(items, prompts, text.cut, strict=True))
        ]

    def _rated(self, picture: Picture, prompt: str | None, cut: bool, output: ScoreOutput, i: int) -> Rated:
        points = (output.scores[i].float().clamp(0, 1) * 100).tolist()
        scores = dict(zip(DIMENSIONS, points, strict=True))
        if prompt is None:
            scores["correspondence"] = None
        severities = output.faults[i].float().sigmoid().tolist() if output.faults is not None else []
        found = [(n, s) for n, s in zip(self.model.config.faults, severities, strict=True) if s >= NAMED_FROM]
        faults = tuple(Fault(name=n, severity=s) for n, s in sorted(found, key=lambda f: -f[1]))
        warnings = (*picture.warnings, *_warnings(picture, cut, self.processor, self._untrained))
        vectors = output.quality_vectors[i : i + 1]
        return Rated(picture, prompt, Scores(**scores), faults, warnings, vectors)

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
        soft = self.model.soft_prompt(
            encoded, rated.quality_vectors, text.ids.to(device), text.mask.to(device)
        )
        if self.model.fault_head is not None and not rated.faults:
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


def _warnings(picture: Picture, cut: bool, processor: MintIQAProcessor, untrained: bool) -> Iterator[str]:
    """Reasons why the scores are less certain. cut: whether the prompt was too long to be read in full."""
    width, height = picture.size
    if max(width, height) > processor.max_aspect * min(width, height):
        yield (
            f"The picture is very elongated ({width} x {height}): only its middle part of "
            f"{processor.max_aspect:g}:1 was scored, squeezed into a square."
        )
    if cut:
        yield f"The prompt is long: only its first {processor.max_prompt_tokens} tokens were used."
    if untrained:
        yield "The score heads of this model have never been trained: its scores mean nothing."
    if picture.distance > 1:
        yield "The picture is unlike those the model was trained on: its scores are less certain."


def _open(image: Any, prompt: str | None) -> "FailedAssessment | tuple[str, ReadImage | Picture, str | None]":
    try:
        known = isinstance(image, Picture | ReadImage)
        return _name(image), image if known else read_image(image), prompt
    except MintIQAError as error:
        info = ModelInfo(name="", revision="")  # replaced by the caller, who knows the model
        return FailedAssessment(image=_name(image), prompt=prompt, model=info, error=Failure.of(error))


def _name(image: Any) -> str:
    if isinstance(image, Picture):
        return image.name
    return os.fspath(image) if isinstance(image, str | Path) else "image"


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
