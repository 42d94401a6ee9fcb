"""What an open page holds and may do: one picture with its scores and answers, and the pictures it compares.

Nothing here knows of Gradio. The picture is encoded when it arrives, never for a prompt or a question.
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

MAX_ANSWERS = 20  # kept, shown and exported for one picture
MAX_COMPARED = 8
MAX_SUGGESTIONS = 4
AT_ONCE = 2  # of scorings, and of answers: more would only slow each other down


@dataclass
class Pending:
    """An answer that is being written."""

    assessment: Assessment
    question: str
    text: str = ""


@dataclass
class Conversation:
    """One picture, its scores under the present prompt, and what was asked about it."""

    source: str
    picture: Picture
    assessment: Assessment
    answers: list[Answer] = field(default_factory=list)
    pending: Pending | None = None

    @property
    def turns(self) -> list[Turn]:
        """What the next answer is told: answers under another prompt spoke of other scores."""
        same = [a for a in self.answers if a.prompt == self.assessment.prompt]
        return [(a.question, a.answer) for a in same[-MAX_HISTORY:]]

    @property
    def records(self) -> list[Assessment | Answer]:
        return [self.assessment, *self.answers]

    def messages(self) -> list[dict[str, str]]:
        """Questions and answers in order, with the one being written."""
        said = [(a.question, a.answer) for a in self.answers]
        if self.pending is not None:
            said.append((self.pending.question, self.pending.text or "…"))
        roles = ("user", "assistant")
        return [
            {"role": role, "content": text} for turn in said for role, text in zip(roles, turn, strict=True)
        ]

    def settle(self) -> None:
        """End the answer being written, if any, and keep what there is of it."""
        pending, self.pending = self.pending, None
        if pending is not None and pending.text:
            self.answers.append(_answer(pending))
            del self.answers[:-MAX_ANSWERS]

    def ask(self, assessor: Assessor, question: str) -> Iterator[None]:
        """Write an answer into `pending`, a step at a time, then among `answers`.

        It ends early, keeping what there is, once somebody calls `settle` or asks something else.
        Raises MintIQAError for an empty or overlong question.
        """
        self.settle()
        assessment = self.assessment
        pieces = assessor.ask(self.picture, question, assessment.prompt, self.turns)
        mine = self.pending = Pending(assessment, question.strip())
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
class Compared:
    """One row of the comparison. `thumbnail` is a data address, empty for a file that is not a picture."""

    thumbnail: str
    record: Assessment | FailedAssessment


class Session:
    """What one open page holds. Its methods may be called from several threads."""

    def __init__(self) -> None:
        self.conversation: Conversation | None = None
        self._compared: dict[str, tuple[Picture, str]] = {}
        self._lock = threading.Lock()

    def show(self, assessor: Assessor, upload: Upload, prompt: str) -> Conversation:
        """The conversation about a picture: encoded if it is another one than before, scored if anything is.

        Raises MintIQAError for a file that is not a picture or an overlong prompt; nothing is shown then.
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
        """Let go of the picture; an answer being written about it ends."""
        conversation, self.conversation = self.conversation, None
        if conversation is not None:
            conversation.settle()

    def compare(self, assessor: Assessor, uploads: Sequence[Upload], prompt: str) -> Iterator[list[Compared]]:
        """The rows so far, one more each time; a file that is not a picture gets a row that says so.

        Raises MintIQAError for no or too many files.
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

    def _row(self, assessor: Assessor, upload: Upload, prompt: str | None) -> Compared:
        try:
            known = self._compared.get(upload.path)
            if known is None:
                read = upload.read()
                known = assessor.read(read, upload.name), thumbnail(read.rgb)
            picture, small = self._compared[upload.path] = known
            return Compared(small, assessor.assess(picture, prompt, explain=False))
        except MintIQAError as error:
            failure, info = Failure.of(error), assessor.model_info
            return Compared("", FailedAssessment(image=upload.name, prompt=prompt, model=info, error=failure))


class Sessions:
    """The sessions of all open pages by their key; those used longest ago make room for new ones.

    most: how many are held; idle: seconds after which an unused one may go.
    """

    def __init__(self, most: int = 64, idle: float = 3600.0) -> None:
        self._most, self._idle = most, idle
        self._held: dict[str, tuple[float, Session]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str | None) -> Session:
        """The session of `key`, a new one if there is none; one nobody else sees for a call without a key."""
        if key is None:
            return Session()
        now = time.monotonic()
        with self._lock:
            _, session = self._held.pop(key, (now, Session()))
            self._held[key] = (now, session)  # at the end: the order is that of the last use
            late = [k for k, (used, _) in self._held.items() if now - used > self._idle]
            for old in {*late, *list(self._held)[: -self._most]}:
                del self._held[old]
            return session

    def release(self, key: str | None) -> None:
        """Forget a session; an answer being written for it ends."""
        with self._lock:
            _, session = self._held.pop(key or "", (0.0, None))
        if session is not None:
            session.forget()


def suggestions(conversation: Conversation) -> list[str]:
    """Questions that fit the result and were not asked yet, in words that the model was taught."""
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


def _answer(pending: Pending) -> Answer:
    shared = {n: getattr(pending.assessment, n) for n in Answer.model_fields if n in Assessment.model_fields}
    return Answer.model_validate({**shared, "question": pending.question, "answer": pending.text})
