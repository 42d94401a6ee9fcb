"""Prompts taken apart: content, style, atmosphere."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_data.segmentation import Segments, annotated, segment, segment_with


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
    # "a photo of a cat": the joint goes, as commas do.
    lost = sorted(re.findall(words, prompt)), sorted(re.findall(words, kept))
    missing = [w for w in lost[0] if lost[0].count(w) > lost[1].count(w)]
    assert all(word.lower() == "of" for word in missing)
    assert all(w in prompt for w in re.findall(words, kept))


def test_notes_follow_the_prompt_and_leave_out_what_it_does_not_say():
    prompt = "a fox in snow, cold color."
    assert annotated(prompt, segment(prompt)) == (
        "a fox in snow, cold color. Content: a fox in snow. Atmosphere: cold color."
    )


def test_a_prompt_of_content_alone_needs_no_notes():
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
