"""A served page with a tiny model, and a real Chromium that may talk to nothing else."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

expect.set_options(timeout=20_000)  # a busy machine takes its time; what never comes is found all the same
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium; skips where there is none, except on a CI machine, which has to have it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        stop = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        stop("there is no Chromium to drive: `make browser` installs one")
    with sync_playwright() as playwright:
        # No sandbox: it needs rights that containers lack, and the pages are our own.
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def serve(assessor: object, cache: Path, **settings: object) -> Iterator[str]:
    """The address of a page for `assessor`, whose uploads go to `cache`."""
    from ui.app import build, launch
    from ui.session import Sessions

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        page = build(assessor, Sessions(), settings.pop("queue_size", 16))
        launch(page, host="127.0.0.1", port=free_port(), **settings)
        yield page.local_url
        page.close(verbose=False)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path) -> object:
    from mint_iqa.assessor import Assessor

    assessor = Assessor.from_pretrained(tiny_checkpoint, device="cpu")
    assessor.language_model()
    return assessor


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def url(tiny: object, cache: Path) -> Iterator[str]:
    with serve(tiny, cache) as address:
        yield address


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address as a person of their own; afterwards the page must have asked nobody else for
    anything and have reported no error."""
    contexts: list[BrowserContext] = []
    strangers: list[str] = []
    errors: list[str] = []

    def open_(address: str, **settings: object) -> Page:
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        ours = (address, "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(ours) or strangers.append(r.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#picture")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert (strangers, errors) == ([], [])
