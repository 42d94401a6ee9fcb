"""The page's endpoints, limits and secrets, asked without a browser."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from mint_iqa.records import schema
from tests.browser.conftest import EXAMPLES, serve

CHAT = (EXAMPLES.parent / "docs" / "chat.md").read_text(encoding="utf-8")
COFFEE = EXAMPLES / "coffee.jpg"
PROMPT = "a cup of coffee"


@pytest.fixture
def client(url):
    client = Client(url, verbose=False)
    yield client
    client.close()


def call(url: str, endpoint: str, data: dict) -> str:
    """What curl would get: the events of one call."""
    body = json.dumps(data).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}gradio_api/call/v2/{endpoint}", body, headers)
    event = json.load(urllib.request.urlopen(request))["event_id"]
    return urllib.request.urlopen(f"{url}gradio_api/call/{endpoint}/{event}").read().decode()


def get(url: str) -> int:
    try:
        return urllib.request.urlopen(url).status
    except urllib.error.HTTPError as error:
        return error.code


def test_assess_returns_the_record_that_the_library_makes(client, tiny):
    record = client.predict(handle_file(COFFEE), PROMPT, api_name="/assess")
    jsonschema.validate(record, schema())
    assert record["image"] == "coffee.jpg"
    expected = tiny.assess(COFFEE, PROMPT, explain=False).model_dump(mode="json")
    assert record["scores"] == expected["scores"]


def test_ask_streams_the_answer_that_the_library_gives(client, tiny):
    history = [["Why?", "Because."]]
    job = client.submit(handle_file(COFFEE), "How bad is it?", PROMPT, history, api_name="/ask")
    final = job.result()
    steps = job.outputs()
    assert len(steps) > 2 and all(final.startswith(step) for step in steps)
    assert final == "".join(tiny.ask(COFFEE, "How bad is it?", PROMPT, [("Why?", "Because.")]))


def test_a_client_that_asks_again_has_its_picture_encoded_once(client, tiny, monkeypatch):
    encoded, original = [], tiny.model.encode_image
    monkeypatch.setattr(tiny.model, "encode_image", lambda *args: encoded.append(1) or original(*args))
    for _ in range(2):
        client.predict(handle_file(COFFEE), PROMPT, api_name="/assess")
        client.predict(handle_file(COFFEE), "Why?", PROMPT, [], api_name="/ask")
    assert len(encoded) == 1


@pytest.mark.parametrize(
    ("question", "history", "sentence"),
    [
        (" ", [], "question is empty"),
        ("x" * 501, [], "at most 500"),
        ("Why?", [["a"]], "not a .question, answer. pair"),
    ],
)
def test_a_bad_question_or_history_ends_in_a_sentence(client, question, history, sentence):
    with pytest.raises(AppError, match=sentence):
        client.predict(handle_file(COFFEE), question, PROMPT, history, api_name="/ask")


@pytest.mark.parametrize("path", ["/etc/passwd", str(COFFEE), "../../README.md"])
def test_no_path_of_the_server_is_read(url, path):
    for image in ({"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}):
        answer = call(url, "assess", {"image": image, "prompt": ""})
        assert answer.startswith("event: error") and "scores" not in answer and "Traceback" not in answer


@pytest.mark.parametrize("address", ["http://example.com/a.png", "https://169.254.169.254/"])
def test_no_web_address_is_fetched(url, address):
    image = {"path": address, "meta": {"_type": "gradio.FileData"}}
    assert "A web address is not fetched" in call(url, "assess", {"image": image, "prompt": ""})


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "README.md", "ui/app.py", "examples/coffee.jpg", "..%2FREADME.md"]
)
def test_no_file_outside_the_upload_cache_is_served(url, path):
    assert get(f"{url}gradio_api/file={path}") in (403, 404)


def block(language: str) -> str:
    section = CHAT.split("\n## Endpoints\n", 1)[1].split("\n## ", 1)[0]
    return re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)[1]


@pytest.mark.parametrize(
    ("language", "interpreter"), [("python", [sys.executable, "-c"]), ("bash", ["bash", "-ec"])]
)
def test_what_the_docs_say_about_the_endpoints_works(url, tmp_path, language, interpreter):
    if language == "bash" and not shutil.which("curl"):
        pytest.skip("there is no curl")
    Image.open(COFFEE).save(tmp_path / "picture.png")
    code = block(language).replace("http://127.0.0.1:7860", url.rstrip("/"))
    done = subprocess.run([*interpreter, code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "quality" in done.stdout, done.stderr


def test_an_upload_above_the_limit_is_refused(tiny, tmp_path):
    with serve(tiny, tmp_path / "cache", max_upload=1) as url:
        big = tmp_path / "big.png"
        big.write_bytes(bytes(2**20 + 1))
        with pytest.raises(Exception, match=r"413|exceed|large"):
            Client(url, verbose=False).predict(handle_file(big), "", api_name="/assess")


def test_more_calls_than_the_queue_holds_are_turned_away_and_the_rest_answered(tiny, tmp_path, monkeypatch):
    original = tiny.assess
    monkeypatch.setattr(tiny, "assess", lambda *a, **k: time.sleep(1) or original(*a, **k))
    with serve(tiny, tmp_path, queue_size=3) as url, ThreadPoolExecutor(12) as pool:
        clients = [Client(url, verbose=False) for _ in range(12)]

        def attempt(client):
            try:
                return client.predict(handle_file(COFFEE), "", api_name="/assess")["image"]
            except Exception as error:
                return str(error)

        answers = list(pool.map(attempt, clients))
    turned_away = [answer for answer in answers if answer != "coffee.jpg"]
    assert 3 <= len(turned_away) <= 9
    assert all("queue" in answer.lower() or "busy" in answer.lower() for answer in turned_away)


def test_a_login_is_asked_for_where_one_is_set(tiny, tmp_path):
    with serve(tiny, tmp_path, auth=("anna", "secret")) as url:
        assert get(f"{url}config") == 401
        client = Client(url, auth=("anna", "secret"), verbose=False)
        assert client.predict(handle_file(COFFEE), "", api_name="/assess")["image"] == "coffee.jpg"


def test_an_unexpected_error_is_a_sentence_to_the_client_and_a_traceback_in_the_log(
    client, tiny, monkeypatch, caplog
):
    monkeypatch.setattr(tiny, "assess", lambda *_, **__: 1 / 0)
    with pytest.raises(AppError, match=r"^Something went wrong on the server"):
        client.predict(handle_file(EXAMPLES / "rocket.jpg"), PROMPT, api_name="/assess")
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--auth", "anna"], "--auth needs a name and a password"),
        (["--model", "none/such/model"], "There is no model"),
        (["--port", "0"], "greater than or equal to 1"),
    ],
)
def test_the_command_line_refuses_what_it_cannot_use(arguments, sentence):
    command = [sys.executable, "-m", "ui", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
