"""OpenAI's chat completions: parses a request into a question about a picture, and formats the answer.

This module is independent of HTTP. docs/service.md describes the requests.
"""

import base64
import binascii
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, PositiveInt, ValidationError

from mint_iqa.errors import MintIQAError
from mint_iqa.language.chat import Turn
from mint_iqa.language.llm import MAX_NEW_TOKENS
from mint_iqa.records import Assessment
from ui.inputs import checked_history, checked_prompt

# A line of a message that gives the picture's prompt, for tools that can send only messages.
PROMPT_LINE = re.compile(r"^[ \t]*prompt:[ \t]*(.*)$\n?", re.IGNORECASE | re.MULTILINE)


class _Text(BaseModel):
    type: Literal["text"]
    text: str


class _Address(BaseModel):
    url: str


class _Image(BaseModel):
    type: Literal["image_url"]
    image_url: _Address


_Part = Annotated[_Text | _Image, Field(discriminator="type")]


def _parts(content: Any) -> Any:
    """Content as a list of parts: it may be plain text, or null for an assistant that only called tools."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [] if content is None else content


class _ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[_Part], BeforeValidator(_parts)] = []

    @property
    def text(self) -> str:
        """All text, with each part on separate lines."""
        return "\n".join(part.text for part in self.content if isinstance(part, _Text))

    @property
    def addresses(self) -> list[str]:
        """The image_url of every picture."""
        return [part.image_url.url for part in self.content if isinstance(part, _Image)]


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _RequestBody(BaseModel):
    """The body of a request. Unknown options are ignored, since decoding is greedy. Options that change the
    answer are fields here, so that unsupported values are refused."""

    model: str
    messages: list[_ChatMessage] = Field(min_length=1)
    image_prompt: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    stop: Annotated[list[str], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A checked request. image: the bytes of the picture's file; limit: tokens of the answer."""

    model: str
    image: bytes
    prompt: str | None
    question: str
    history: list[Turn]
    limit: int
    stream: bool
    include_usage: bool

    @classmethod
    def of(cls, body: bytes) -> "ChatRequest":
        """Parse a body. Raises MintIQAError that names the first problem of an invalid one."""
        request = _parsed(body)
        messages = request.messages
        if messages[-1].role != "user":
            raise MintIQAError("bad_request", "The last message has to be the user's, with the question.")
        spoken = [m for m in messages if m.role != "assistant"]
        lines = [line for m in spoken for line in PROMPT_LINE.findall(m.text)]
        prompt = request.image_prompt if request.image_prompt is not None else (lines or [None])[-1]
        limits = [n for n in (request.max_tokens, request.max_completion_tokens) if n is not None]
        return cls(
            model=request.model,
            image=_picture([address for m in messages for address in m.addresses]),
            prompt=checked_prompt(prompt),
            question=_question(messages[-1]),
            history=checked_history(_turns(messages[:-1])),
            limit=min([*limits, MAX_NEW_TOKENS]),
            stream=bool(request.stream),
            include_usage=request.stream_options is not None and request.stream_options.include_usage,
        )


def _parsed(body: bytes) -> _RequestBody:
    try:
        return _RequestBody.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "The body"
        reason = first["msg"][0].lower() + first["msg"][1:]
        raise MintIQAError("bad_request", f"{place} can't be used: {reason}.") from None


def _picture(addresses: list[str]) -> bytes:
    """The bytes of the picture. A chat repeats its picture with each question, so equal ones count once."""
    different = set(addresses)
    if not different:
        raise MintIQAError(
            "image_missing", "The request has no picture: send one as an image_url part with a data URI."
        )
    if len(different) > 1:
        raise MintIQAError(
            "too_many_pictures",
            f"{len(different)} different pictures are too many: send one, and start a new chat for another.",
        )
    head, comma, data = different.pop().partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise MintIQAError(
            "image_missing",
            "A web address is not fetched: send the picture itself as data:image/png;base64,...",
        )
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise MintIQAError(
            "image_not_an_image", "The picture's data URI is not base64: encode the file's bytes again."
        ) from None


def _question(message: _ChatMessage) -> str:
    return PROMPT_LINE.sub("", message.text).strip()


def _turns(messages: Iterable[_ChatMessage]) -> list[Turn]:
    """Questions with their answers; a question without an answer is left out."""
    turns, asked = [], None
    for message in messages:
        if message.role == "user":
            asked = _question(message)
        elif message.role == "assistant" and asked is not None:
            turns.append((asked, message.text))
            asked = None
    return turns


class ChatReply:
    """One answer in the format of OpenAI's API: whole, or as the chunks of a stream.

    The extra field `assessment` holds the picture's record. prompt_tokens: all that the LLM reads, including
    the picture's soft tokens.
    """

    def __init__(self, asked: ChatRequest, record: Assessment, prompt_tokens: int) -> None:
        self.asked, self.record, self.prompt_tokens = asked, record, prompt_tokens
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}

    def whole(self, pieces: Iterable[str]) -> dict[str, Any]:
        said = list(pieces)
        message = {"role": "assistant", "content": "".join(said), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self._end(len(said)), "logprobs": None}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage(len(said)),
            "assessment": self.record.model_dump(mode="json"),
        }

    def chunks(self, pieces: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The scores first, then the pieces of the answer as they are generated."""
        opening = self._chunk({"role": "assistant", "content": ""})
        yield opening | {"assessment": self.record.model_dump(mode="json")}
        count = 0
        for piece in pieces:
            count += 1
            yield self._chunk({"content": piece})
        yield self._chunk({}, self._end(count))
        if self.asked.include_usage:
            yield self._chunk(None) | {"usage": self._usage(count)}

    def _chunk(self, delta: dict[str, str] | None, end: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": end, "logprobs": None}
        choices = [] if delta is None else [choice]
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}

    def _end(self, count: int) -> str:
        return "length" if count >= self.asked.limit else "stop"

    def _usage(self, count: int) -> dict[str, int]:
        """Token counts. A piece is one token, except for the rare character of several tokens."""
        total = self.prompt_tokens + count
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": count, "total_tokens": total}
