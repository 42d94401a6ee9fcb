"""The page: its components, the handlers that they call, and the server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like, traverse

from mint_iqa.assessor import MAX_QUESTION_CHARACTERS, Assessor
from mint_iqa.images import read_image
from mint_iqa.language.chat import MAX_HISTORY
from ui import html
from ui.handlers import ChatHandlers
from ui.inputs import MAX_PROMPT_CHARACTERS, thumbnail
from ui.session import MAX_ANSWERS, MAX_COMPARED, MAX_CONCURRENT, MAX_SUGGESTIONS, Sessions

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
# (file, prompt, label of the button)
SHOWN_EXAMPLES = (
    ("coffee_blurred.jpg", "a cup of coffee on a wooden table", "Blurred"),
    ("rocket_noisy.jpg", "a rocket on its launch pad at dusk", "Noisy"),
    ("chelsea_malformed.jpg", "a close photo of a ginger tabby cat", "Malformed"),
    ("chelsea.jpg", "a red sports car driving along the beach", "Wrong prompt"),
    ("astronaut.jpg", "a smiling astronaut in an orange space suit", "Clean"),
)
COMPARED_EXAMPLE = ("coffee.jpg", "coffee_blurred.jpg", "chelsea.jpg")
HINT = f"Answers take the last {MAX_HISTORY} questions into account; the last {MAX_ANSWERS} are kept."
CHANGE_THEME = "() => { document.body.classList.toggle('dark'); }"
ANNOUNCE_CHANGES = "element.setAttribute('aria-live', 'polite');"
UPLOAD_CLEANUP = (600, 3600)  # seconds: every ten minutes, uploads older than an hour are deleted

# preprocess=False: otherwise Gradio would read pictures before we do.
_SCORING: dict[str, Any] = {
    "preprocess": False, "concurrency_id": "score", "concurrency_limit": MAX_CONCURRENT,
    "api_visibility": "private", "show_progress": "full",
}  # fmt: skip
_ANSWERING: dict[str, Any] = {
    "preprocess": False, "concurrency_id": "answer", "concurrency_limit": MAX_CONCURRENT,
    "api_visibility": "private", "show_progress": "minimal",
}  # fmt: skip
_UNQUEUED: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


class Page(gr.Blocks):
    """Blocks that accept only uploaded files: Gradio would fetch a web address sent as a file."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        traverse(inputs, _refuse_address, is_file_obj_with_meta)
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def _refuse_address(file: dict[str, Any]) -> dict[str, Any]:
    if is_http_url_like(file["path"]):
        raise gr.Error("A web address is not fetched: upload the picture itself.", print_exception=False)
    return file


def build(assessor: Assessor, sessions: Sessions, queue_size: int) -> Page:
    """The page, with at most `queue_size` calls waiting; more are told to try again."""
    chat = ChatHandlers(assessor, sessions)
    with Page(title="MINT-IQA", analytics_enabled=False, delete_cache=UPLOAD_CLEANUP) as page:
        with gr.Row(elem_id="header"):
            gr.HTML("<h1>MINT-IQA</h1><p>Scores an AI-generated picture and says why.</p>")
            theme = gr.Button("Dark / light", size="sm", elem_id="theme", min_width=90, scale=0)
        theme.click(None, js=CHANGE_THEME)
        with gr.Tab("Score and ask"), gr.Row():
            with gr.Column(scale=4, min_width=300):
                picture = _picture()
            with gr.Column(scale=5, min_width=300):
                result = _result()
            _connect(chat, picture, result)
        with gr.Tab("Compare"):
            _compare(chat)
        with gr.Accordion("The model and its limits", open=False, elem_id="about"):
            gr.HTML(html.about(assessor.model_info))
        gr.api(chat.assess, api_name="assess", concurrency_id="score", concurrency_limit=MAX_CONCURRENT)
        gr.api(chat.ask, api_name="ask", concurrency_id="answer", concurrency_limit=MAX_CONCURRENT)
        page.unload(chat.left)
    page.queue(max_size=queue_size)
    return page


def launch(
    page: Page, *, host: str, port: int, auth: tuple[str, str] | None = None, max_upload: int = 64
) -> None:
    """Serve `page` from a separate thread; max_upload is in MB. Raises OSError if the port is taken."""
    page.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        max_file_size=f"{max_upload}mb",
        theme=_theme(),
        css=(HERE / "page.css").read_text(encoding="utf-8") + html.example_css(_example_thumbnails()),
        favicon_path=HERE / "favicon.svg",
        footer_links=[],
        allowed_paths=[],
        ssr_mode=False,
        share=False,
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        quiet=True,
        prevent_thread_lock=True,
    )


@dataclass(frozen=True)
class _Picture:
    image: gr.Image
    prompt: gr.Textbox
    again: gr.Button
    examples: list[gr.Button]


def _picture() -> _Picture:
    image = gr.Image(
        label="Picture",
        sources=["upload", "clipboard"],
        height=400,
        buttons=[],
        alt_text="The picture that is scored",
        placeholder="Drop a picture here\nor click to choose one",
        elem_id="picture",
    )
    prompt = _prompt("Prompt it was made from (optional)", "prompt")
    again = gr.Button("Score with this prompt", size="sm", elem_id="again")
    gr.HTML('<p class="label">Examples</p>')
    with gr.Row(elem_id="examples"):
        examples = [
            gr.Button(label, elem_id=f"example-{i}", min_width=56, scale=0)
            for i, (_, _, label) in enumerate(SHOWN_EXAMPLES)
        ]
    return _Picture(image, prompt, again, examples)


@dataclass(frozen=True)
class _Result:
    scores: gr.HTML
    chatbot: gr.Chatbot
    suggested: list[gr.Button]
    notice: gr.HTML
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    files: gr.HTML

    @property
    def view(self) -> list[Any]:
        """The components in the order of `ui.handlers.view`."""
        return [self.scores, self.chatbot, self.files, self.notice, self.stop, *self.suggested]


def _result() -> _Result:
    scores = gr.HTML(html.waiting(), elem_id="scores", js_on_load=ANNOUNCE_CHANGES)
    chatbot = gr.Chatbot(
        label="Conversation",
        show_label=False,
        buttons=["copy"],
        render_markdown=False,  # Markdown would load a picture whose address is in a question
        height=340,
        placeholder="The scores come first, then the reasons. After that, ask.",
        elem_id="chat",
    )
    with gr.Row(elem_id="suggestions"):
        suggested = [
            gr.Button("", visible=False, size="sm", min_width=80, scale=0) for _ in range(MAX_SUGGESTIONS)
        ]
    notice = gr.HTML("", elem_id="notice")
    with gr.Row(elem_id="asking"):
        question = gr.Textbox(
            label="Your question",
            show_label=False,
            placeholder="Why is it low?",
            max_length=MAX_QUESTION_CHARACTERS,
            scale=6,
            min_width=160,
            elem_id="question",
        )
        ask = gr.Button("Ask", variant="primary", scale=0, min_width=72, elem_id="ask")
        stop = gr.Button("Stop", scale=0, min_width=72, interactive=False, elem_id="stop")
    with gr.Row(elem_id="foot"):
        files = gr.HTML("", elem_id="files")
        gr.HTML(f'<p class="hint">{HINT}</p>')
    return _Result(scores, chatbot, suggested, notice, question, ask, stop, files)


def _connect(chat: ChatHandlers, picture: _Picture, result: _Result) -> None:
    shown = [picture.image, picture.prompt]
    scoring = {**_SCORING, "outputs": result.view, "show_progress_on": result.scores}
    answering = {**_ANSWERING, "outputs": result.view, "show_progress_on": result.chatbot}
    scored = [picture.image.upload(chat.scored, shown, **scoring)]
    for button, (file, prompt, _) in zip(picture.examples, SHOWN_EXAMPLES, strict=True):
        loaded = button.click(_giver(str(EXAMPLES / file), prompt), None, shown, **_UNQUEUED)
        scored.append(loaded.then(chat.scored, shown, **scoring))
    for done in scored:
        done.then(chat.explained, shown, **answering)
    gr.on([picture.prompt.submit, picture.again.click], chat.scored, shown, **scoring)
    picture.image.clear(chat.cleared, None, result.view, **_UNQUEUED)

    typed = [result.question.submit, result.ask.click]
    gr.on(typed, chat.answered, [*shown, result.question], **answering)
    gr.on(typed, None, None, result.question, js="() => ''", api_visibility="private")
    for button in result.suggested:
        button.click(chat.answered, [*shown, button], **answering)
    result.stop.click(chat.stopped, None, None, **_UNQUEUED)


def _compare(chat: ChatHandlers) -> None:
    gr.HTML(f"<p>Up to {MAX_COMPARED} pictures of one prompt, side by side.</p>")
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            images = gr.File(
                label="Pictures", file_count="multiple", file_types=["image"], height=200, elem_id="pictures"
            )
        with gr.Column(scale=3, min_width=280):
            prompt = _prompt("Prompt they were made from (optional)", "compared-prompt")
            compare = gr.Button("Compare", variant="primary", elem_id="compare")
            example = gr.Button("Example: two cups and a cat", size="sm", elem_id="compare-example")
    plot = gr.HTML("", elem_id="plot")
    table = gr.HTML("", elem_id="table", js_on_load=html.SORT_BY_HEADING)
    files = gr.HTML("", elem_id="compared-files")

    given = [images, prompt]
    comparing = {**_SCORING, "outputs": [plot, table, files], "show_progress_on": plot}
    gr.on([images.upload, compare.click, prompt.submit], chat.compared, given, **comparing)
    paths = [str(EXAMPLES / file) for file in COMPARED_EXAMPLE]
    loaded = example.click(_giver(paths, "a cup of coffee on a wooden table"), None, given, **_UNQUEUED)
    loaded.then(chat.compared, given, **comparing)


def _prompt(label: str, name: str) -> gr.Textbox:
    placeholder = "a red fox in the snow"
    return gr.Textbox(
        label=label, placeholder=placeholder, max_lines=4, max_length=MAX_PROMPT_CHARACTERS, elem_id=name
    )


def _giver(*values: Any) -> Any:
    return lambda: values


def _theme() -> gr.themes.Base:
    """System fonts, since a web font would be a request to another server."""
    return gr.themes.Base(
        primary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        text_size="md",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        # White letters have a contrast of 2.5:1 on the theme's own shade and of 5.5:1 on this one.
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        chatbot_text_size="*text_md",
    )


def _example_thumbnails() -> list[str]:
    return [thumbnail(read_image(EXAMPLES / file).rgb) for file, _, _ in SHOWN_EXAMPLES]
