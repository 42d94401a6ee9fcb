"""LLaVA's conversations (arXiv 2304.08485): [{id, image, conversations: [{from, value}, ...]}, ...]."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from instruct_data.records import InstructionSample, Turn
from mint_iqa.tables.reading import Findings, json_records

SOURCE = "llava"
IMAGE_TOKEN = "<image>"


class _LlavaMessage(BaseModel):
    model_config = ConfigDict(strict=True)
    sender: Literal["human", "gpt"] = Field(alias="from")
    value: str


class _ConversationRow(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    image: str
    conversations: list[_LlavaMessage]


def read_llava(path: Path, findings: Findings) -> list[InstructionSample]:
    """One sample per answer, with the earlier turns as history; no scores, no prompt.

    "<image>" is removed from the questions. A conversation without an image, or whose turns don't alternate
    between human and gpt, becomes one finding.
    """
    samples: list[InstructionSample] = []
    for line, value in json_records(path):
        with findings.at(line):
            row = _ConversationRow.model_validate(value)
            findings.ignored.update((row.model_extra or {}).keys() - {"id"})
            samples += _samples(row)
    return samples


def _samples(row: _ConversationRow) -> list[InstructionSample]:
    senders = [message.sender for message in row.conversations]
    if not senders or senders != ["human", "gpt"] * (len(senders) // 2):
        raise ValueError("the turns must alternate between human and gpt, human first")
    texts = [message.value.replace(IMAGE_TOKEN, "").strip() for message in row.conversations]
    turns = [Turn(question=q, answer=a) for q, a in zip(texts[::2], texts[1::2], strict=True)]
    return [
        InstructionSample(
            image=row.image, source=SOURCE, question=turn.question, answer=turn.answer,
            history=tuple(turns[:i]),
        )
        for i, turn in enumerate(turns)
    ]  # fmt: skip
