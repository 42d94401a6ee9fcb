"""`python -m ui`: serve the chat page, or with --api the OpenAI-compatible service, until Ctrl-C."""

import os
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Annotated

import typer

from mint_iqa.errors import MintIQAError

if TYPE_CHECKING:
    from mint_iqa.assessor import Assessor

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="Preset (nano), folder, or hub id.")] = "nano",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    auth: Annotated[str | None, typer.Option(metavar="USER:PASS", help="Ask for this login.")] = None,
    queue_size: Annotated[int, typer.Option(min=1, help="Calls that may wait; more are turned away.")] = 16,
    max_upload: Annotated[int, typer.Option(min=1, max=64, help="Largest picture in MB.")] = 64,
    api: Annotated[
        bool, typer.Option("--api", help="An OpenAI-compatible service in place of the page.")
    ] = False,
    api_key: Annotated[str | None, typer.Option(help="For --api: ask for this key.")] = None,
) -> None:
    """Serve a page that scores a picture, says why, and answers questions about it."""
    login = _login(auth)
    if (login and api) or (api_key and not api):
        raise MintIQAError(
            "bad_argument", "--auth is for the page and --api-key for --api: use the other one."
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # otherwise the folder would remain
    # A separate folder keeps the pictures apart from other Gradio apps and disappears with the server.
    with tempfile.TemporaryDirectory(prefix="mint-iqa-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ.setdefault("HF_HUB_OFFLINE", "1" if model == "nano" else "0")
        assessor = _loaded(model)
        try:
            if api:
                _serve_api(assessor, host, port, api_key, queue_size, max_upload)
            else:
                _serve_page(assessor, host, port, login, queue_size, max_upload)
        except OSError:
            raise MintIQAError(
                "bad_argument", f"Port {port} on {host} can't be used: choose another with --port."
            ) from None


def _loaded(model: str) -> "Assessor":
    from mint_iqa.assessor import Assessor  # here, so that --help does not wait for torch and Gradio

    print(f"Loading {model} ...", file=sys.stderr)
    assessor = Assessor.from_pretrained(model)
    assessor.language_model()  # now, so that the first answer does not wait for it
    return assessor


def _serve_api(
    assessor: "Assessor", host: str, port: int, key: str | None, queue_size: int, max_upload: int
) -> None:
    from ui.api import build, serve

    app = build(assessor, api_key=key, queue_size=queue_size, max_upload=max_upload)
    serve(app, host, port)


def _serve_page(
    assessor: "Assessor",
    host: str,
    port: int,
    login: tuple[str, str] | None,
    queue_size: int,
    max_upload: int,
) -> None:
    from ui.app import build, launch
    from ui.session import Sessions

    page = build(assessor, Sessions(), queue_size)
    launch(page, host=host, port=port, auth=login, max_upload=max_upload)
    print(f"The chat is at {page.local_url} - stop it with Ctrl-C.", file=sys.stderr)
    page.block_thread()


def _login(auth: str | None) -> tuple[str, str] | None:
    if auth is None:
        return None
    user, colon, password = auth.partition(":")
    if not (user and colon and password):
        raise MintIQAError("bad_argument", "--auth needs a name and a password, separated by a colon.")
    return user, password


def main() -> int:
    """Run the command and return its exit code: 2 if it cannot be used as given."""
    try:
        app(prog_name="python -m ui")
    except SystemExit as stop:  # typer always ends with it
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except MintIQAError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
