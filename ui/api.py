"""The OpenAI-compatible service: /v1/chat/completions and /v1/models, so that existing tools can use it."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mint_iqa.assessor import Assessor, Picture
from mint_iqa.errors import MintIQAError
from mint_iqa.images import read_image
from ui.completions import ChatReply, ChatRequest
from ui.inputs import sentence
from ui.session import MAX_CONCURRENT

MAX_TEXT_BYTES = 2**20  # of a request without its picture
UPLOAD_SECONDS = 60  # a request must arrive within this time
KEPT_PICTURES = 16
# error code -> HTTP status, where it is not 400
STATUS = {
    "invalid_api_key": 401,
    "model_not_found": 404,
    "upload_too_slow": 408,
    "image_too_large": 413,
    "bad_content_type": 415,
    "busy": 503,
}


class Service:
    """The work behind the endpoints. max_upload: bytes of a picture; queue_size: requests that may wait."""

    def __init__(self, assessor: Assessor, api_key: str | None, queue_size: int, max_upload: int) -> None:
        self.assessor, self.api_key, self.max_upload = assessor, api_key, max_upload
        self.started = int(time.time())
        self.places = MAX_CONCURRENT + queue_size
        self._pictures: dict[str, Picture] = {}
        self._lock = threading.Lock()

    @property
    def model(self) -> str:
        """The model's name for clients: of a folder, its own name without the path."""
        name = self.assessor.model_info.name
        return Path(name).resolve().name if Path(name).is_dir() else name

    def card(self) -> dict[str, Any]:
        return {"id": self.model, "object": "model", "created": self.started, "owned_by": "mint-iqa"}

    def check_model(self, name: str) -> None:
        if name != self.model:
            raise MintIQAError(
                "model_not_found", f"Model {name[:80]!r} is not served here: use {self.model}."
            )

    def check_key(self, authorization: str) -> None:
        expected = f"Bearer {self.api_key}"
        if self.api_key is not None and not hmac.compare_digest(authorization.encode(), expected.encode()):
            raise MintIQAError("invalid_api_key", "The API key is missing or wrong: send the server's own.")

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for waiting and running requests. Raises MintIQAError if all are taken."""
        if not self.places:
            raise MintIQAError(
                "busy", "The server is busy and its queue is full: try again in a few seconds."
            )
        self.places -= 1  # safe: all requests share one event loop
        try:
            yield
        finally:
            self.places += 1

    async def body(self, request: Request) -> bytes:
        """The whole body. An overlong one is read to its end: a client that is cut off sees no error."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise MintIQAError(
                "bad_content_type", "Send JSON with the header Content-Type: application/json."
            )
        limit, size, body = self.max_upload * 4 // 3 + MAX_TEXT_BYTES, 0, bytearray()
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                async for block in request.stream():
                    size += len(block)
                    body += block if size <= limit else b""
        except TimeoutError:
            raise MintIQAError(
                "upload_too_slow",
                f"The request took more than {UPLOAD_SECONDS} s to arrive: send a smaller picture.",
            ) from None
        if size > limit:
            shown = f"{self.max_upload / 2**20:g} MiB"
            raise MintIQAError(
                "image_too_large",
                f"The request is larger than one with a picture of {shown}: send a smaller picture.",
            )
        return bytes(body)

    def begin(self, asked: ChatRequest) -> tuple[ChatReply, Iterator[str]]:
        """The scores, and the pieces of the answer. Raises MintIQAError if the request can't be answered."""
        self.check_model(asked.model)
        picture = self._picture(asked.image)
        record = self.assessor.assess(picture, asked.prompt, explain=False)
        pieces = self.assessor.ask(picture, asked.question, asked.prompt, asked.history, asked.limit)
        told = self.assessor.language_model().tokens(
            record.scores.model_dump(), asked.question, asked.history
        )
        length = sum(map(len, told)) + self.assessor.model.config.query_tokens
        return ChatReply(asked, record, length), pieces

    def _picture(self, data: bytes) -> Picture:
        """The encoded picture, from the cache if it is recent: a chat sends it with every question."""
        key = hashlib.sha256(data).hexdigest()
        with self._lock:
            known = self._pictures.pop(key, None)
        picture = known or self.assessor.read(read_image(data, max_bytes=self.max_upload))
        with self._lock:
            self._pictures[key] = picture  # at the end: the order is by last use
            for old in list(self._pictures)[:-KEPT_PICTURES]:
                del self._pictures[old]
        return picture


def build(
    assessor: Assessor, *, api_key: str | None = None, queue_size: int = 16, max_upload: int = 64
) -> FastAPI:
    """The application; max_upload is in MB."""
    service = Service(assessor, api_key, queue_size, max_upload * 2**20)
    at_once = asyncio.Semaphore(MAX_CONCURRENT)
    # FastAPI's own pages are off, since they load scripts from other servers.
    app = FastAPI(title="MINT-IQA", docs_url=None, redoc_url=None, openapi_url=None)
    for kind in (MintIQAError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, _refusal)

    def key(request: Request) -> None:
        service.check_key(request.headers.get("authorization", ""))

    # Each starts after the one it depends on, and ends when the answer is sent or the client has left.
    async def place(_: Annotated[None, Depends(key)]) -> AsyncIterator[None]:
        with service.place():
            yield

    async def asked(request: Request, _: Annotated[None, Depends(place)]) -> ChatRequest:
        return await run_in_threadpool(ChatRequest.of, await service.body(request))

    async def turn(_: Annotated[ChatRequest, Depends(asked)]) -> AsyncIterator[None]:
        async with at_once:
            yield

    @app.post("/v1/chat/completions", dependencies=[Depends(turn)])
    async def complete(request: Request, asked: Annotated[ChatRequest, Depends(asked)]) -> Response:
        if await request.is_disconnected():  # while the request waited
            raise ClientDisconnect
        try:
            reply, pieces = await run_in_threadpool(service.begin, asked)
            if asked.stream:
                return StreamingResponse(_events(reply.chunks(pieces)), media_type="text/event-stream")
            return JSONResponse(await run_in_threadpool(reply.whole, pieces))
        except Exception as error:  # otherwise the client would get plain text
            return await _refusal(request, error)

    @app.get("/v1/models", dependencies=[Depends(key)])
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.card()]}

    @app.get("/v1/models/{name:path}", dependencies=[Depends(key)])
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return service.card()

    return app


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises OSError for a port that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, port), family=family) as listener,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(f"The base URL is http://{host}:{port}/v1 - stop it with Ctrl-C.", file=sys.stderr)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[listener])


def _events(chunks: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Server-sent events. An error after the first event becomes an event itself."""
    try:
        for chunk in chunks:
            yield f"data: {json.dumps(chunk)}\n\n"
    except Exception as error:
        yield f"data: {json.dumps(_problem(sentence(error), 'server_error'))}\n\n"
    yield "data: [DONE]\n\n"


def _problem(message: str, code: str) -> dict[str, Any]:
    own_fault = code in ("server_error", "busy")
    kind = "server_error" if own_fault else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def _refusal(_: Request, error: Exception) -> Response:
    if isinstance(error, MintIQAError):
        headers = {"Retry-After": "5"} if error.code == "busy" else None
        return JSONResponse(_problem(error.message, error.code), STATUS.get(error.code, 400), headers)
    if isinstance(error, HTTPException):
        message = f"{error.detail}: only /v1/chat/completions and /v1/models are served."
        return JSONResponse(_problem(message, "unknown_url"), error.status_code, error.headers)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # the client has left and reads nothing
    return JSONResponse(_problem(sentence(error), "server_error"), 500)
