"""What every test gets: one thread, no network, and the way to pictures that the project does not ship."""

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mint_iqa import Assessor

# Before torch, transformers or gradio are imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# As train sets it: else the last decimal of a score would depend on which tests were collected besides.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = REPOSITORY / os.environ.get("MINT_IQA_DATA", "../shared") / "data"
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def pytest_collection_finish() -> None:
    """Garbage collection leaves alone what the imports brought: walking it took a tenth of all time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds `agiqa3k/`, `labels/` and the like; skips where it is missing."""
    if not (DATA / "agiqa3k").is_dir():
        pytest.skip(f"no pictures at {DATA / 'agiqa3k'}: set MINT_IQA_DATA to the folder above data/")
    return DATA.resolve()


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Fails a test that looks up or connects to anything but this machine.

    `pytest.fail` raises no `Exception`, so a library that swallows connection errors cannot hide one.
    """

    def refuse_unless_local(host: Any) -> None:
        name = host.decode() if isinstance(host, bytes) else host
        if name and not str(name).startswith(LOOPBACK):
            pytest.fail(f"a test reached for the network: {name}")

    def guard_connection(original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family != getattr(socket, "AF_UNIX", None):
                refuse_unless_local(address[0])
            return original(self, address)

        return connect

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_unless_local(host)
        return getaddrinfo(host, *args, **kwargs)

    getaddrinfo = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        for method in ("connect", "connect_ex"):
            patch.setattr(socket.socket, method, guard_connection(getattr(socket.socket, method)))
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


@pytest.fixture(scope="session")
def tiny_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLM with random weights."""
    from tests import tiny

    return tiny.save_language(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_language: Path) -> Path:
    """The folder of a tiny MINT-IQA with random weights; its LLM is `tiny_language`."""
    from tests import tiny

    return tiny.save(tmp_path_factory.mktemp("checkpoint"), tiny_language)


@pytest.fixture(scope="session")
def nano() -> "Assessor":
    """The shipped model on the CPU: one for all tests, which leave it as it is."""
    from mint_iqa import Assessor

    return Assessor.from_pretrained("nano", device="cpu")
