"""The state of an open page: one picture with its scores and answers, and the pictures that it compares.

This module is independent of Gradio. A picture is encoded once, when it arrives, and not for each prompt or
question.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mint_iqa.assessor import Assessor, Picture
from mint_iqa.errors import MintIQAError
from mint_iqa.language.chat import MAX_HISTORY, Turn
from mint_iqa.records import Answer, Assessment, FailedAssessment, Failure
from ui.inputs import Upload, checked_prompt, thumbnail

MAX_ANSWERS = 20  # for one picture: more are not kept, shown or exported
MAX_COMPARED = 8
MAX_SUGGESTIONS = 4
MAX_CONCURRENT = 2  # scorings, and answers: more would only slow each other down


@dataclass
class PendingAnswer:
    """An answer that is being generated."""

    assessment: Assessment
    question: str
    text: str = ""


@dataclass
class Conversation:
    """One picture, its scores with the current prompt, and the questions and answers about it."""

    source: str
    picture: Picture
    assessment: Assessment
    answers: list[Answer] = field(default_factory=list)
    pending: PendingAnswer | None = None

    @property
    def turns(self) -> list[Turn]:
        """The history for the next answer, without answers under another prompt: their scores differ."""
        same = [a for a in self.answers if a.prompt == self.assessment.prompt]
        return [(a.question, a.answer) for a in same[-MAX_HISTORY:]]

    @property
    def records(self) -> list[Assessment | Answer]:
        return [self.assessment, *self.answers]

    def messages(self) -> list[dict[str, str]]:
        """Questions and answers in order, including the pending one."""
        said = [(a.question, a.answer) for a in self.answers]
        if self.pending is not None:
            said.append((self.pending.question, self.pending.text or "…"))
        roles = ("user", "assistant")
        return [
            {"role": role, "content": text} for turn in said for role, text in zip(roles, turn, strict=True)
        ]

    def settle(self) -> None:
        """End the pending answer, if any, and keep its text so far."""
        pending, self.pending = self.pending, None
        if pending is not None and pending.text:
            self.answers.append(_answer(pending))
            del self.answers[:-MAX_ANSWERS]

    def ask(self, assessor: Assessor, question: str) -> Iterator[None]:
        """Generate an answer step by step in `pending`, and then add it to `answers`.

        It ends early, and keeps its text, after a call of `settle` or another question.
        Raises MintIQAError for an empty or overlong question.
        """
        self.settle()
        assessment = self.assessment
        pieces = assessor.ask(self.picture, question, assessment.prompt, self.turns)
        mine = self.pending = PendingAnswer(assessment, question.strip())
        try:
            yield
            for piece in pieces:
                if self.pending is not mine:
                    return
                mine.text += piece
                yield
        finally:
            if self.pending is mine:
                self.settle()


@dataclass(frozen=True)
class ComparedPicture:
    """One row of the comparison. thumbnail: a data URI, empty for a file that is not a picture."""

    thumbnail: str
    record: Assessment | FailedAssessment


class Session:
    """The state of one open page. Several threads may call its methods."""

    def __init__(self) -> None:
        self.conversation: Conversation | None = None
        self._compared: dict[str, tuple[Picture, str]] = {}
        self._lock = threading.Lock()

    def show(self, assessor: Assessor, upload: Upload, prompt: str) -> Conversation:
        """The conversation about a picture: a new picture is encoded, a new picture or prompt is scored.

        Raises MintIQAError for an overlong prompt, which changes nothing, and for a file that is not a
        picture, which leaves no conversation.
        """
        wanted = checked_prompt(prompt)
        with self._lock:
            shown = self.conversation
            if shown is None or shown.source != upload.path:
                self.forget()
                picture = assessor.read(upload.read(), upload.name)
                assessment = assessor.assess(picture, wanted, explain=False)
                shown = self.conversation = Conversation(upload.path, picture, assessment)
            elif shown.assessment.prompt != wanted:
                shown.settle()
                shown.assessment = assessor.assess(shown.picture, wanted, explain=False)
            return shown

    def forget(self) -> None:
        """Drop the picture; the pending answer about it ends."""
        conversation, self.conversation = self.conversation, None
        if conversation is not None:
            conversation.settle()

    def compare(
        self, assessor: Assessor, uploads: Sequence[Upload], prompt: str
    ) -> Iterator[list[ComparedPicture]]:
        """Yields the rows so far, one more each time; a file that is not a picture gets a row with the error.

        Raises MintIQAError for no files and for too many.
        """
        if not uploads:
            raise MintIQAError("nothing_to_compare", "There is nothing to compare: add two or more pictures.")
        if len(uploads) > MAX_COMPARED:
            raise MintIQAError(
                "too_many_pictures",
                f"{len(uploads)} pictures are too many: compare at most {MAX_COMPARED} at a time.",
            )
        wanted, rows = checked_prompt(prompt), []
        self._compared = {u.path: self._compared[u.path] for u in uploads if u.path in self._compared}
        for upload in uploads:
            rows.append(self._row(assessor, upload, wanted))
            yield list(rows)

    def _row(self, assessor: Assessor, upload: Upload, prompt: str | None) -> ComparedPicture:
        try:
            known = self._compared.get(upload.path)
            if known is None:
                read = upload.read()
                known = assessor.read(read, upload.name), thumbnail(read.rgb)
            picture, small = self._compared[upload.path] = known
            return ComparedPicture(small, assessor.assess(picture, prompt, explain=False))
        except MintIQAError as error:
            failure, info = Failure.of(error), assessor.model_info
            record = FailedAssessment(image=upload.name, prompt=prompt, model=info, error=failure)
            return ComparedPicture("", record)


class Sessions:
    """The sessions of all open pages by key; the least recently used make room for new ones.

    most: the number of sessions to hold; idle: seconds after which an unused session is dropped.
    """

    def __init__(self, most: int = 64, idle: float = 3600.0) -> None:
        self._most, self._idle = most, idle
        self._held: dict[str, tuple[float, Session]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str | None) -> Session:
        """The session of `key`, created if it is new; without a key, a session that nobody else sees."""
        if key is None:
            return Session()
        now = time.monotonic()
        with self._lock:
            _, session = self._held.pop(key, (now, Session()))
            self._held[key] = (now, session)  # at the end: the order is by last use
            late = [k for k, (used, _) in self._held.items() if now - used > self._idle]
            for old in {*late, *list(self._held)[: -self._most]}:
                del self._held[old]
            return session

    def release(self, key: str | None) -> None:
        """Drop a session; its pending answer ends."""
        with self._lock:
            _, session = self._held.pop(key or "", (0.0, None))
        if session is not None:
            session.forget()


def suggestions(conversation: Conversation) -> list[str]:
    """Questions that fit the result and were not asked yet, in wordings that the model has learned."""
    assessment = conversation.assessment
    rated = sorted((score, name) for name, score in assessment.scores if score is not None)
    levels = dict(assessment.levels)
    questions = [f"Why is the {name} low?" for _, name in rated if levels[name] in ("bad", "poor")]
    questions += ["How bad is it?"] if assessment.faults else []
    questions += [f"Why is the {name} not higher?" for _, name in rated if levels[name] == "fair"]
    if levels["correspondence"] is not None:
        questions.insert(2, "Does it show what the prompt says?")
    questions.insert(3, "What should I change?")
    questions += ["Which of the three scores is the lowest?", "What does it do well?"]
    asked = {answer.question for answer in conversation.answers}
    return [question for question in questions if question not in asked][:MAX_SUGGESTIONS]


def _answer(pending: PendingAnswer) -> Answer:
    shared = {n: getattr(pending.assessment, n) for n in Answer.model_fields if n in Assessment.model_fields}
    return Answer.model_validate({**shared, "question": pending.question, "answer": pending.text})
