"""The OpenAI-compatible service, used as by its clients."""

import base64
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import openai
import pytest
import uvicorn
from openai import OpenAI
from PIL import Image

from mint_iqa.records import ModelInfo, schema

REPOSITORY = Path(__file__).resolve().parents[2]
COFFEE = REPOSITORY / "examples/coffee.jpg"
ROCKET = REPOSITORY / "examples/rocket.jpg"
PROMPT = "a cup of coffee"
QUESTION = "How bad is it?"
DOCS = (REPOSITORY / "docs/service.md").read_text(encoding="utf-8")


def image(source: Path | bytes = COFFEE) -> dict:
    data = source if isinstance(source, bytes) else source.read_bytes()
    url = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def user(*parts: dict) -> dict:
    return {"role": "user", "content": list(parts)}


@contextmanager
def serving(assessor: object, **settings: object) -> Iterator[str]:
    """The base URL of a service in a separate thread."""
    from ui.api import build

    server = uvicorn.Server(uvicorn.Config(build(assessor, **settings), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> object:
    from mint_iqa.assessor import Assessor

    assessor = Assessor.from_pretrained(tiny_checkpoint, device="cpu")
    assessor.model_info = ModelInfo(name="nano", revision="0")
    assessor.language_model()
    return assessor


@pytest.fixture(scope="module")
def url(tiny: object) -> Iterator[str]:
    with serving(tiny, max_upload=1) as address:
        yield address


def connect(url: str, key: str = "unused") -> OpenAI:
    return OpenAI(base_url=url, api_key=key, max_retries=0)


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with connect(url) as connected:
        yield connected


def ask(client: OpenAI, messages: list[dict], **options: object) -> object:
    return client.chat.completions.create(model="nano", messages=messages, **options)


def test_an_answer_and_its_scores_are_those_of_the_library(client, tiny):
    done = ask(client, [user(text(QUESTION), image())], extra_body={"image_prompt": PROMPT})
    expected = tiny.assess(COFFEE, PROMPT, explain=False).model_dump(mode="json")
    jsonschema.validate(done.assessment, schema())
    assert done.assessment == expected | {"image": "image"}
    assert done.choices[0].message.content == "".join(tiny.ask(COFFEE, QUESTION, PROMPT))
    assert done.choices[0].finish_reason in ("stop", "length")
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_prompt_tokens_are_all_that_the_language_model_reads(client, tiny):
    done = ask(client, [user(text(QUESTION), image())])
    rated = tiny.rate([(tiny.read(COFFEE), None)])[0]
    assert done.usage.prompt_tokens == len(tiny.llm_input(rated, QUESTION, ()))


def test_a_stream_brings_the_scores_first_and_then_the_answer_in_pieces(client, tiny):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(ask(client, [user(text(QUESTION), image())], **options))
    first, *pieces, last, usage = chunks
    assert first.assessment["scores"] == tiny.assess(COFFEE, explain=False).scores.model_dump()
    assert [c.choices[0].delta.content for c in pieces] == list(tiny.ask(COFFEE, QUESTION))
    assert last.choices[0].finish_reason in ("stop", "length")
    assert usage.choices == [] and usage.usage.completion_tokens == len(pieces)
    assert len({c.id for c in chunks}) == 1


def test_without_a_prompt_there_is_no_correspondence(client):
    assert ask(client, [user(text(QUESTION), image())]).assessment["scores"]["correspondence"] is None


@pytest.mark.parametrize(
    "messages",
    [
        [user(text(f"Prompt: {PROMPT}\n{QUESTION}"), image())],
        [user(text(f"{QUESTION}\nprompt:{PROMPT}"), image())],
        [user(text(f"Prompt: {PROMPT}"), image(), text(QUESTION))],
        [{"role": "system", "content": f"Be kind.\nPrompt: {PROMPT}"}, user(text(QUESTION), image())],
    ],
)
def test_a_line_of_a_message_can_give_the_prompt(client, tiny, messages):
    done = ask(client, messages)
    assert done.assessment["prompt"] == PROMPT
    assert done.choices[0].message.content == "".join(tiny.ask(COFFEE, QUESTION, PROMPT))


def test_the_field_for_the_prompt_comes_before_a_line(client):
    done = ask(client, [user(text(f"Prompt: a\n{QUESTION}"), image())], extra_body={"image_prompt": "b"})
    assert done.assessment["prompt"] == "b"


def test_a_follow_up_is_answered_with_what_was_said_before(client, tiny, monkeypatch):
    told, original = [], tiny.llm_input
    monkeypatch.setattr(tiny, "llm_input", lambda *a, **k: told.append(a) or original(*a, **k))
    messages = [
        user(text(f"Prompt: {PROMPT}\nWhy?"), image()),
        {"role": "assistant", "content": "Because."},
        {"role": "user", "content": QUESTION},
    ]
    done = ask(client, messages)
    ((_, question, history),) = told
    assert (question, list(history)) == (QUESTION, [("Why?", "Because.")])
    assert done.assessment["prompt"] == PROMPT


def test_a_picture_that_is_sent_again_is_not_encoded_again(client, tiny, monkeypatch):
    encoded, original = [], tiny.model.encode_image
    monkeypatch.setattr(tiny.model, "encode_image", lambda *args: encoded.append(1) or original(*args))
    again = [user(text("Why?"), image(ROCKET)), {"role": "assistant", "content": "So."}]
    ask(client, again[:1])
    ask(client, [*again, user(text(QUESTION), image(ROCKET))])
    assert len(encoded) == 1


@pytest.mark.parametrize("option", ["max_tokens", "max_completion_tokens"])
def test_an_answer_ends_at_the_limit_that_a_client_gives(client, option):
    done = ask(client, [user(text(QUESTION), image())], **{option: 1})
    assert (done.choices[0].finish_reason, done.usage.completion_tokens) == ("length", 1)


def test_options_that_change_nothing_are_taken(client):
    options = {"temperature": 0.7, "top_p": 0.9, "seed": 1, "n": 1, "stop": [], "tools": [], "user": "anna"}
    assert ask(client, [user(text(QUESTION), image())], **options).choices[0].message.content


def test_the_models_are_listed_by_name(client):
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").owned_by == "mint-iqa"
    with pytest.raises(openai.NotFoundError, match="Model 'gpt' is not served here"):
        client.models.retrieve("gpt")


GOOD = user(text(QUESTION), image())
ASSISTANT = {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([user(text(" "), image())], "The question is empty"),
        ([user(text(f"Prompt: {PROMPT}"), image())], "The question is empty"),
        ([user(text("x" * 501), image())], "at most 500"),
        ([user(text(f"Prompt: {'x' * 2001}\nWhy?"), image())], "at most 2000"),
        ([user(text(QUESTION))], "The request has no picture"),
        ([user(text(QUESTION), image(), image(ROCKET))], "2 different pictures are too many"),
        ([user(text(QUESTION), image(b"no picture"))], "is not a PNG"),
        ([user(text(QUESTION), image(COFFEE.read_bytes()[:500]))], "cut short or damaged"),
        ([user(text(QUESTION), {"type": "input_audio", "input_audio": {}})], "messages.0.content.1"),
        ([GOOD, ASSISTANT], "The last message has to be the user's"),
        ([GOOD, {"role": "assistant", "content": "x" * 2001}, user(text(QUESTION))], "longer than 2000"),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}, GOOD], "messages.0.role"),
        ([], "messages can't be used"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_sentence(client, messages, sentence):
    with pytest.raises(openai.BadRequestError, match=re.escape(sentence)) as refused:
        ask(client, messages)
    error = refused.value.body
    assert error["type"] == "invalid_request_error" and error["code"] and error["param"] is None
    assert error["message"].endswith((".", "...")) and "\n" not in error["message"]


@pytest.mark.parametrize(
    "options",
    [
        {"n": 2},
        {"stop": ["."]},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"max_tokens": 0},
    ],
)
def test_unsupported_options_are_refused_by_name(client, options):
    with pytest.raises(openai.BadRequestError, match=f"{next(iter(options))}.* can't be used"):
        ask(client, [GOOD], **options)


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/a.png",
        "https://169.254.169.254/",
        "file:///etc/passwd",
        "examples/coffee.jpg",
        "data:image/png,abc",
    ],
)
def test_no_address_is_fetched_and_no_file_of_the_server_read(client, address):
    part = {"type": "image_url", "image_url": {"url": address}}
    with pytest.raises(openai.BadRequestError, match="A web address is not fetched"):
        ask(client, [user(text(QUESTION), part)])


def test_a_data_address_that_is_not_base64_is_refused(client):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}
    with pytest.raises(openai.BadRequestError, match="is not base64"):
        ask(client, [user(text(QUESTION), part)])


def noise(side: int) -> bytes:
    """A PNG of about 3 side² bytes."""
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(buffer, "BMP")
    return buffer.getvalue()


@pytest.mark.parametrize("side", [600, 1200])  # 1.1 MB passes as a request, 4.3 MB does not
def test_a_picture_above_the_limit_is_refused(client, side):
    with pytest.raises(openai.APIStatusError, match=r"larger than") as refused:
        ask(client, [user(text(QUESTION), image(noise(side)))])
    assert refused.value.status_code == 413 and refused.value.body["code"] == "image_too_large"


def test_a_picture_of_too_many_pixels_is_refused(client):
    buffer = io.BytesIO()
    Image.new("1", (8000, 7000)).save(buffer, "PNG")
    with pytest.raises(openai.APIStatusError, match="more than the 50,000,000 allowed"):
        ask(client, [user(text(QUESTION), image(buffer.getvalue()))])


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="Model 'gpt-5' is not served here: use nano"):
        client.chat.completions.create(model="gpt-5", messages=[GOOD])


def post(url: str, body: bytes, content_type: str = "application/json", key: str = "") -> tuple[int, dict]:
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/chat/completions", body, headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    return refused.value.code, json.load(refused.value)["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": "nano"}', b"[" * 100_000, b"\xff"])
def test_an_invalid_body_is_refused(url, body):
    status, error = post(url, body)
    assert status == 400 and error["code"] == "bad_request" and error["message"].endswith(".")


def test_a_form_of_a_foreign_web_page_is_refused(url):
    """A browser sends JSON to another server only after asking it, which this one does not grant."""
    status, error = post(url, b"{}", "text/plain")
    assert status == 415 and "application/json" in error["message"]


def test_an_unknown_address_says_what_is_served(client):
    with pytest.raises(openai.NotFoundError, match="only /v1/chat/completions and /v1/models"):
        client.embeddings.create(model="nano", input="x")


def test_a_key_is_asked_for_where_one_is_set(tiny):
    with serving(tiny, api_key="secret") as url:
        with connect(url, "wrong") as stranger, pytest.raises(openai.AuthenticationError, match="or wrong"):
            stranger.models.list()
        assert post(url, b"", key="sécret")[0] == 401
        with connect(url, "secret") as friend:
            assert ask(friend, [GOOD]).choices


def test_an_unexpected_error_is_a_sentence_to_the_client_and_a_traceback_in_the_log(
    client, tiny, monkeypatch, caplog
):
    monkeypatch.setattr(tiny, "assess", lambda *_, **__: 1 / 0)
    with pytest.raises(openai.InternalServerError, match="Something went wrong on the server"):
        ask(client, [GOOD])
    assert "ZeroDivisionError" in caplog.text


def test_an_error_during_a_stream_reaches_the_client(client, tiny, monkeypatch):
    def break_off(*_: object) -> Iterator[str]:
        yield "It"
        raise ZeroDivisionError

    monkeypatch.setattr(tiny, "_stream", break_off)
    with pytest.raises(openai.APIError, match="Something went wrong"):
        list(ask(client, [GOOD], stream=True))


@pytest.fixture
def slow(tiny, monkeypatch) -> object:
    original = tiny.assess
    monkeypatch.setattr(tiny, "assess", lambda *a, **k: time.sleep(0.5) or original(*a, **k))
    return tiny


def test_more_requests_than_the_queue_holds_are_turned_away_and_the_rest_answered(slow):
    with serving(slow, queue_size=3) as url, connect(url) as client, ThreadPoolExecutor(9) as pool:

        def attempt(_: int) -> str:
            try:
                return ask(client, [GOOD]).assessment["image"]
            except openai.InternalServerError as error:
                assert error.status_code == 503 and error.response.headers["retry-after"]
                return error.body["code"]

        answers = sorted(pool.map(attempt, range(9)))
        assert set(answers) == {"busy", "image"} and answers.count("image") >= 5
        assert ask(client, [GOOD]).choices  # every place is free again


def test_a_client_that_leaves_during_a_stream_frees_its_place(tiny, monkeypatch):
    def endless(*_: object) -> Iterator[str]:
        while True:
            time.sleep(0.02)
            yield "on and "

    with serving(tiny, queue_size=1) as url, connect(url) as client:
        with monkeypatch.context() as patch:
            patch.setattr(tiny, "_stream", endless)
            for _ in range(4):  # more than there are places
                with ask(client, [GOOD], stream=True) as stream:
                    next(stream)
                time.sleep(0.2)
        assert ask(client, [GOOD]).choices


def test_the_docs_name_the_limits_and_options_of_the_code():
    from mint_iqa.assessor import MAX_QUESTION_CHARACTERS
    from mint_iqa.language.chat import MAX_HISTORY
    from mint_iqa.language.llm import MAX_NEW_TOKENS
    from ui.api import KEPT_PICTURES, STATUS, UPLOAD_SECONDS
    from ui.completions import _RequestBody
    from ui.inputs import MAX_PROMPT_CHARACTERS

    limits = [
        f"at most {MAX_QUESTION_CHARACTERS} characters.",
        f"Of earlier questions and answers the last {MAX_HISTORY}\n",
        f"at most {MAX_PROMPT_CHARACTERS} characters",
        f"at most {MAX_NEW_TOKENS} tokens",
        f"the last {KEPT_PICTURES} are kept",
        f"longer than {UPLOAD_SECONDS} s",
    ]
    assert [words for words in limits if words not in DOCS] == []
    assert [n for n in (400, 500, *STATUS.values()) if f"| {n} | " not in DOCS] == []
    named = _RequestBody.model_fields.keys() - {"model", "messages"}
    assert [name for name in named if f"`{name}`" not in DOCS] == []


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


@pytest.mark.parametrize(
    ("interpreter", "code"),
    [([sys.executable, "-c"], code) for code in blocks("python")]
    + [(["bash", "-ec"], code) for code in blocks("bash")],
)
def test_what_the_docs_show_works(url, tmp_path, interpreter, code):
    if interpreter[0] == "bash" and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    Image.open(COFFEE).resize((200, 200)).save(tmp_path / "picture.png")
    code = code.replace("http://127.0.0.1:7860/v1", url)
    done = subprocess.run([*interpreter, code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "quality" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--api", "--auth", "anna:secret"], "use the other one"),
        (["--api-key", "secret"], "use the other one"),
    ],
)
def test_the_command_line_refuses_what_it_cannot_use(arguments, sentence):
    command = [sys.executable, "-m", "ui", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


def test_the_command_serves_until_ctrl_c(tiny_checkpoint):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    command = [sys.executable, "-m", "ui", "--api", "--model", str(tiny_checkpoint), "--port", port]
    server = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in server.stderr if "base URL" in line)
        with connect(re.search(r"http://\S+", line)[0]) as client:
            assert [model.id for model in client.models.list()] == [tiny_checkpoint.name]
        server.send_signal(signal.SIGINT)
        rest = server.communicate(timeout=60)[1]
    finally:
        server.kill()
    assert server.returncode == 0 and "Traceback" not in rest
