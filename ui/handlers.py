"""The handlers of components and endpoints: they connect Gradio's values with ui/session.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from mint_iqa.assessor import Assessor
from mint_iqa.vocabulary import QUESTIONS
from ui import html
from ui.inputs import Upload, checked_history, checked_prompt, sentence, upload_of
from ui.session import MAX_SUGGESTIONS, Conversation, Session, Sessions, suggestions

SCORED_ANEW = "Scored anew with this prompt; the picture was not encoded again."


class ChatHandlers:
    """The handlers of components and endpoints. Each works on the session of the page that calls it.

    Handlers of the page return its state as the list of values that `view` builds: scores, chat, downloads,
    notice, stop button, suggested questions.
    """

    def __init__(self, assessor: Assessor, sessions: Sessions) -> None:
        self.assessor, self.sessions = assessor, sessions
        self.cache = Path(get_upload_folder())

    # --- the page ---

    def scored(self, image: Any, prompt: str, request: gr.Request) -> list[Any]:
        session = self._session(request)
        before = session.conversation
        assessment = before.assessment if before else None
        try:
            shown = session.show(self.assessor, self._upload(image), prompt)
        except Exception as error:
            return view(session.conversation, error=sentence(error))
        anew = shown is before and shown.assessment is not assessment
        return view(shown, note=SCORED_ANEW if anew else "")

    def answered(self, image: Any, prompt: str, question: str, request: gr.Request) -> Iterator[list[Any]]:
        session = self._session(request)
        try:
            # This does nothing, unless the prompt has changed or the session was released.
            shown = session.show(self.assessor, self._upload(image), prompt)
            for _ in shown.ask(self.assessor, question):
                if session.conversation is not shown:
                    yield _unchanged()
                    return
                yield _writing(shown)
            yield view(shown)
        except Exception as error:
            yield _complaint(sentence(error))

    def explained(self, image: Any, prompt: str, request: gr.Request) -> Iterator[list[Any]]:
        if self._session(request).conversation is None:
            yield _unchanged()
            return
        yield from self.answered(image, prompt, QUESTIONS["overall"], request)

    def stopped(self, request: gr.Request) -> None:
        """End the current answer at its next word; its handler then shows it once more."""
        if conversation := self._session(request).conversation:
            conversation.settle()

    def cleared(self, request: gr.Request) -> list[Any]:
        self._session(request).forget()
        return view(None)

    def left(self, request: gr.Request) -> None:
        self.sessions.release(_key(request))

    def compared(self, images: Any, prompt: str, request: gr.Request) -> Iterator[tuple[str, str, str]]:
        session = self._session(request)
        try:
            uploads = [self._upload(image) for image in images or ()]
            for rows in session.compare(self.assessor, uploads, prompt):
                yield html.plot(rows), html.table(rows), ""
            records = [row.record for row in rows]
            yield html.plot(rows), html.table(rows), html.downloads(records, "comparison")
        except Exception as error:
            yield html.alert(sentence(error)), "", ""

    # --- the endpoints ---

    def assess(self, image: dict[str, Any], request: gr.Request, prompt: str = "") -> dict[str, Any]:
        """Score an uploaded picture: a record of `mint-iqa schema`, without an explanation."""
        try:
            shown = self._session(request).show(self.assessor, self._upload(image), prompt)
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None
        return shown.assessment.model_dump(mode="json")

    def ask(
        self,
        image: dict[str, Any],
        question: str,
        request: gr.Request,
        prompt: str = "",
        history: list[list[str]] = [],  # noqa: B006, Gradio shows the default, and it is never changed
    ) -> Iterator[str]:
        """Answer a question about an uploaded picture: the answer so far, again and again."""
        try:
            turns = checked_history(history)
            shown = self._session(request).show(self.assessor, self._upload(image), prompt)
            text = ""
            for piece in self.assessor.ask(shown.picture, question, checked_prompt(prompt), turns):
                text += piece
                yield text
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    def _session(self, request: gr.Request) -> Session:
        return self.sessions.get(_key(request))

    def _upload(self, image: Any) -> Upload:
        return upload_of(image, self.cache)


def _key(request: gr.Request) -> str | None:
    return f"{request.username or ''}/{request.session_hash}" if request.session_hash else None


def view(shown: Conversation | None, note: str = "", error: str = "") -> list[Any]:
    """The values of the page's components, in the order of `_Result.view` in ui/app.py."""
    alert = html.alert(error) if error else ""
    stop = gr.update(interactive=False)
    if shown is None:
        return [alert + html.waiting(), [], "", "", stop, *_buttons([])]
    scores = alert + html.result(shown.assessment, note)
    files = html.downloads(shown.records, shown.assessment.image)
    return [scores, html.messages(shown), files, "", stop, *_buttons(suggestions(shown))]


def _writing(shown: Conversation) -> list[Any]:
    unchanged = [gr.skip()] * MAX_SUGGESTIONS
    scores = html.result(shown.assessment) if not shown.pending or not shown.pending.text else gr.skip()
    return [scores, html.messages(shown), gr.skip(), "", gr.update(interactive=True), *unchanged]


def _unchanged() -> list[Any]:
    """Values that leave the page unchanged. Gradio clears the outputs of a generator without a yield."""
    return [gr.skip()] * (5 + MAX_SUGGESTIONS)


def _complaint(message: str) -> list[Any]:
    unchanged = [gr.skip()] * MAX_SUGGESTIONS
    return [gr.skip(), gr.skip(), gr.skip(), html.alert(message), gr.update(interactive=False), *unchanged]


def _buttons(questions: list[str]) -> list[Any]:
    return [
        gr.update(value=questions[i] if i < len(questions) else "", visible=i < len(questions))
        for i in range(MAX_SUGGESTIONS)
    ]
