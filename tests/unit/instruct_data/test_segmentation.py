"""Prompts split into content, style and atmosphere."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_data.__main__ import main
from instruct_data.records import RatedImage, write_jsonl
from instruct_data.segmentation import Segments, annotated, read_notes, segment, segment_with
from mint_iqa.errors import MintIQAError


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a raspberry made of metal", Segments("a raspberry made of metal", "", "")),
        (
            "grumpy disney princess in a cave, cold color, top view, anime style",
            Segments("grumpy disney princess in a cave", "top view, anime style", "cold color"),
        ),
        (
            "an underwater photo of coral in the ocean, HDR lighting",
            Segments("coral in the ocean", "an underwater photo", "HDR lighting"),
        ),
        ("a fox in the style of monet", Segments("a fox", "in the style of monet", "")),
        ("two cats in pop art style, at night", Segments("two cats", "in pop art style", "at night")),
        ("", Segments("", "", "")),
    ],
)
def test_a_prompt_is_split_into_content_style_and_atmosphere(prompt, expected):
    assert segment(prompt) == expected


def test_a_phrase_with_one_word_of_content_is_content():
    assert segment("a dark knight, dark red dragon").content == "a dark knight, dark red dragon"


@given(st.text(max_size=80))
def test_no_word_is_lost_or_made_up(prompt):
    parts = segment(prompt)
    kept = f"{parts.content} {parts.style} {parts.atmosphere}"
    words = r"[^\s,;.]+"
    # "a photo of a cat": the joint is dropped, like commas.
    lost = sorted(re.findall(words, prompt)), sorted(re.findall(words, kept))
    missing = [w for w in lost[0] if lost[0].count(w) > lost[1].count(w)]
    assert all(word.lower() == "of" for word in missing)
    assert all(w in prompt for w in re.findall(words, kept))


def test_notes_follow_the_prompt_and_leave_out_what_it_does_not_say():
    prompt = "a fox in snow, cold color."
    assert annotated(prompt, segment(prompt)) == (
        "a fox in snow, cold color. Content: a fox in snow. Atmosphere: cold color."
    )


def test_a_prompt_with_only_content_needs_no_notes():
    assert annotated("a fox in snow", segment("a fox in snow")) == "a fox in snow"


def test_a_chat_model_splits_in_its_own_way():
    asked = []

    def chat(messages):
        asked.append(messages)
        return "Content: a fox in snow.\nStyle:\nAtmosphere: cold and still"

    assert segment_with(chat, "a fox in snow, cold color") == Segments("a fox in snow", "", "cold and still")
    assert "a fox in snow, cold color" in asked[0][-1]["content"]


@pytest.mark.parametrize("answer", ["", "I would say it's nice.", "content:\nstyle: x\natmosphere: y"])
def test_an_answer_that_is_not_in_three_lines_falls_back_on_the_rules(answer):
    assert segment_with(lambda _: answer, "a fox, top view") == segment("a fox, top view")


@pytest.fixture
def rated(tmp_path):
    prompts = ["a fox, top view", "a boat", "a fox, top view", None]
    records = [
        RatedImage(image=f"{i}.png", prompt=prompt, mos={"quality": 50}, source="mine")
        for i, prompt in enumerate(prompts)
    ]
    write_jsonl(tmp_path / "rated.jsonl", records)
    return tmp_path / "rated.jsonl"


def test_the_command_writes_each_prompt_once_with_its_parts(rated, capsys):
    notes = rated.with_name("notes.jsonl")
    assert main(["segment", str(rated), "--output", str(notes)]) == 0
    assert capsys.readouterr().out.startswith("2 prompts")
    assert read_notes(notes) == {text: segment(text) for text in ("a boat", "a fox, top view")}


def test_a_chat_model_can_be_asked_instead(rated, tiny_language):
    # Random weights give no usable answer, so the rules take over.
    notes = rated.with_name("notes.jsonl")
    assert main(["segment", str(rated), "--output", str(notes), "--model", str(tiny_language)]) == 0
    assert read_notes(notes)["a fox, top view"] == segment("a fox, top view")


def test_a_folder_without_a_chat_model_is_named(rated, tmp_path, capsys):
    assert main(["segment", str(rated), "--output", "x", "--model", str(tmp_path)]) == 2
    assert f"{tmp_path} is not a chat model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["{", "[]", json.dumps({"prompt": "a fox"}), json.dumps({"content": "a fox"})]
)
def test_a_broken_line_of_notes_is_named(tmp_path, line):
    good = json.dumps({"prompt": "a", "content": "a", "style": "", "atmosphere": ""})
    (tmp_path / "notes.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(MintIQAError, match="line 2"):
        read_notes(tmp_path / "notes.jsonl")
