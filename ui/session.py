"""What an open page holds and may do: one picture with its scores and answers, and the pictures it compares.

Nothing here knows of Gradio. The picture is encoded when it arrives, never for a prompt or a question.
"""

import base64
import io
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mint_iqa.assessor import MAX_QUESTION_CHARACTERS, Assessor, Picture
from mint_iqa.chat import MAX_HISTORY, Turn
from mint_iqa.errors import MintIQAError
from mint_iqa.images import ReadImage, read_image
from mint_iqa.records import Answer, Assessment, FailedAssessment, Failure

MAX_ANSWERS = 20  # kept, shown and exported for one picture
MAX_COMPARED = 8
MAX_SUGGESTIONS = 4
MAX_PROMPT_CHARACTERS = 2000
MAX_NAME_CHARACTERS = 120
AT_ONCE = 2  # of scorings, and of answers: more would only slow each other down
THUMBNAIL_SIDE = 112  # pixels, shown at half that size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """A file in the upload cache and what its owner calls it. The cache names files by their content."""

    path: str
    name: str

    def read(self) -> ReadImage:
        """The picture; raises MintIQAError with the owner's name for the file, not the server's path."""
        try:
            return read_image(self.path)
        except MintIQAError as error:
            raise MintIQAError(error.code, error.message.replace(self.path, self.name)) from None


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
    """One row of the comparison. `thumbnail` is a data address, empty for a file that is no picture."""

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

        Raises MintIQAError for a file that is no picture or an overlong prompt; nothing is shown then.
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
        """The rows so far, one more each time; a file that is no picture gets a row that says so.

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


def sentence(error: Exception) -> str:
    """What a person is told. The log has the traceback of what nobody expected."""
    if isinstance(error, MintIQAError):
        return error.message
    logger.error("unexpected", exc_info=error)
    return "Something went wrong on the server; its log says what. Please try again."


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


def checked_prompt(prompt: str | None) -> str | None:
    """The prompt without blanks around it, None for an empty one; MintIQAError for what can't be one."""
    if prompt is not None and not isinstance(prompt, str):
        raise MintIQAError("bad_argument", "The prompt has to be text.")
    text = (prompt or "").strip()
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise MintIQAError(
            "prompt_too_long",
            f"The prompt has {len(text)} characters: give at most {MAX_PROMPT_CHARACTERS}.",
        )
    return text or None


def checked_history(history: object) -> list[Turn]:
    """The last turns of a history that came from a client: [[question, answer], ...].

    Raises MintIQAError for anything else, and for questions and answers of unusual length.
    """
    if not isinstance(history, list | tuple):
        raise MintIQAError("bad_history", "The history has to be a list of [question, answer] pairs.")
    turns = []
    for number, turn in enumerate(history[-MAX_HISTORY:], max(0, len(history) - MAX_HISTORY) + 1):
        if not (isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(t, str) for t in turn)):
            raise MintIQAError("bad_history", f"Turn {number} of the history is no [question, answer] pair.")
        if max(map(len, turn)) > 4 * MAX_QUESTION_CHARACTERS:
            raise MintIQAError(
                "bad_history",
                f"Turn {number} of the history is longer than {4 * MAX_QUESTION_CHARACTERS} characters.",
            )
        turns.append((turn[0], turn[1]))
    return turns


def upload_of(payload: object, cache: Path) -> Upload:
    """The file that a client's file description names, which has to lie in `cache`.

    Raises MintIQAError where there is none: a client may send any path.
    """
    if payload is None:
        raise MintIQAError("image_missing", "There is no picture yet: drop one, or choose an example.")
    path = payload.get("path") if isinstance(payload, dict) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(cache.resolve()):
        raise MintIQAError("image_missing", "That file was not uploaded here: upload the picture itself.")
    given = payload.get("orig_name") if isinstance(payload, dict) else None
    name = given if isinstance(given, str) and given else Path(path).name
    return Upload(path, name[-MAX_NAME_CHARACTERS:])


def thumbnail(rgb: Image.Image) -> str:
    """A small square JPEG, cut from the middle, as a data address: no file has to be served for it."""
    width, height = rgb.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    small = rgb.resize(size, Image.Resampling.BOX, box=(left, top, left + side, top + side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _answer(pending: Pending) -> Answer:
    shared = {n: getattr(pending.assessment, n) for n in Answer.model_fields if n in Assessment.model_fields}
    return Answer.model_validate({**shared, "question": pending.question, "answer": pending.text})
