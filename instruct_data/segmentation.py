"""Splits a prompt into content, style and atmosphere (MINT-IQA's prompt segmentation).

In the paper, an LLM rewrites each prompt into these three parts, and the Q-Former reads them after the
prompt. Here `segment` splits by phrases, without a model; `segment_with` asks any chat model instead.

    python -m instruct_data segment rated.jsonl --output notes.jsonl [--model FOLDER]
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from instruct_data.prompts import STOP_WORDS, STYLE_PHRASES
from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import read_bytes

ChatModel = Callable[[list[dict[str, str]]], str]  # messages -> answer, e.g. a wrapped transformers pipeline

# Lighting, color, weather, time of day and mood. The rest of STYLE_PHRASES is style.
_ATMOSPHERE_WORDS = """
    light lights lighting lit warm cold cool soft hdr dramatic moody mood dark gloomy foggy fog
    misty mist hazy sunny rainy stormy cloudy snowy sunset sunrise dusk dawn night nighttime
    midnight daylight golden hour moonlight moonlit candlelight neon glowing volumetric
    atmosphere atmospheric ambient vibrant muted pastel color colors colour colours tones
    palette dreamy epic emotional serene peaceful calm cozy eerie creepy spooky mysterious
    mystical romantic nostalgic melancholic cheerful ominous horror
"""
_STYLE_WORDS = """
    style styled anime manga cartoon realistic realism abstract baroque sci-fi photorealistic
    photoreal hyperrealistic surreal impressionist impressionism cubist cubism renaissance
    gothic cyberpunk steampunk minimalist pop retro vintage detail details detailed hyper highly
    intricate blurred close-up closeup close long-shot long shot wide angle wide-angle view top
    elevation aerial side front frontal profile full body length fullbody headshot 8k 4k 8 4 k
    hd uhd bokeh depth field octane unreal engine render rendering rendered 3d 2d d art artwork
    artstation trending award winning quality high best masterpiece concept design character
    digital oil watercolor watercolour pencil ink charcoal acrylic painting painted drawing
    sketch illustration photo photograph photography cinematic portrait logo poster sticker
    isometric symmetrical aesthetic comic book
"""
ATMOSPHERE, STYLE = frozenset(_ATMOSPHERE_WORDS.split()), frozenset(_STYLE_WORDS.split())
_MEDIUM = re.compile(
    r"^((?:(?:a|an|the)\s+)?(?:[\w-]+\s+){0,2}?"
    r"(?:painting|drawing|sketch|illustration|photo|photograph|picture|image|portrait|shot|render|view))\s+of\s+",
    re.IGNORECASE,
)
_IN_STYLE = re.compile(r"[\s,]+(in (?:the )?(?:style of [^,.;]+|[\w-]+(?: [\w-]+)? style))\b", re.IGNORECASE)

INSTRUCTION = (
    "Split the prompt of a generated picture into three lines, in the prompt's own words:\n"
    "content: what is to be seen\nstyle: how it is made\natmosphere: light, colour and mood\n"
    "Leave a line empty if the prompt does not say."
)
MAX_ANSWER_TOKENS = 160


@dataclass(frozen=True)
class Segments:
    """The parts of a prompt in its own words; "" for a part that it doesn't have."""

    content: str
    style: str
    atmosphere: str

    def notes(self) -> str:
        """ "Content: ... Style: ... Atmosphere: ...", without the empty parts."""
        parts = {"Content": self.content, "Style": self.style, "Atmosphere": self.atmosphere}
        return " ".join(f"{name}: {text}." for name, text in parts.items() if text)


def annotated(prompt: str, segments: Segments) -> str:
    """The prompt and its notes, as the Q-Former reads it; the prompt alone if it names no style or mood."""
    if not (segments.style or segments.atmosphere):
        return prompt
    return f"{prompt.strip().rstrip('.,')}. {segments.notes()}"


def segment(prompt: str) -> Segments:
    """Split a prompt at commas, at full stops, after "a painting of ..." and before "... in X style".

    Every word of the prompt, except the joints, ends up in one of the three parts.
    """
    found: dict[str, list[str]] = {"content": [], "style": [], "atmosphere": []}
    for phrase in re.split(r"\s*[,;]\s*|\.(?:\s+|$)", prompt.strip()):
        if match := _MEDIUM.match(phrase):
            found["style"].append(match[1])
            phrase = phrase[match.end() :]
        if match := _IN_STYLE.search(phrase):
            found["style"].append(match[1])
            phrase = phrase[: match.start()] + phrase[match.end() :]
        if phrase := phrase.strip():
            found[_kind(phrase)].append(phrase)
    return Segments(*(", ".join(found[name]) for name in ("content", "style", "atmosphere")))


def _kind(phrase: str) -> str:
    words = set(re.findall(r"[\w-]+", phrase.lower())) - STOP_WORDS
    if not words <= ATMOSPHERE | STYLE and phrase.lower() not in STYLE_PHRASES:
        return "content"
    return "atmosphere" if words & ATMOSPHERE and not words & {"style", "detail"} else "style"


def segment_with(chat: ChatModel, prompt: str) -> Segments:
    """Like `segment`, but by a chat model; falls back to `segment` if the answer isn't three such lines."""
    messages = [{"role": "user", "content": f"{INSTRUCTION}\n\nPrompt: {prompt}"}]
    lines = re.findall(r"(?im)^\s*(content|style|atmosphere)\s*:[ \t]*(.*)$", chat(messages))
    said = {name.lower(): text.strip().rstrip(".") for name, text in lines}
    if not said.get("content") or len(said) < 3:
        return segment(prompt)
    return Segments(said["content"], said["style"], said["atmosphere"])


def read_notes(path: Path) -> dict[str, Segments]:
    """Prompts and their parts from a JSON Lines file. Raises MintIQAError that names a broken line."""
    notes = {}
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
                prompt = row.pop("prompt")
                notes[str(prompt)] = Segments(**{name: str(text) for name, text in row.items()})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise MintIQAError(
                    "unusable_lines",
                    f"{path}, line {number} is not a prompt with its parts: write the file with `segment`.",
                ) from error
    return notes


def chat_with(model: str | Path) -> ChatModel:
    """Any chat model of transformers, from a folder or the hub's cache. Decoding is greedy, so it repeats.

    Raises MintIQAError if the model can't be loaded or has no chat template.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # takes seconds, and the rules need neither

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        llm = AutoModelForCausalLM.from_pretrained(model).eval()
    except (OSError, ValueError) as error:
        raise MintIQAError(
            "model_missing",
            f"{model} is not a chat model that transformers can load: give the folder of one.",
        ) from error
    if tokenizer.chat_template is None:
        raise MintIQAError("model_missing", f"{model} has no chat template: give an instruction-tuned model.")

    def chat(messages: list[dict[str, str]]) -> str:
        asked = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        answer = llm.generate(**asked, max_new_tokens=MAX_ANSWER_TOKENS, do_sample=False)
        return str(tokenizer.decode(answer[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))

    return chat
