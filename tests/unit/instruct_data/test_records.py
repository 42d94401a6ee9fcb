"""Records of instruction data: what they accept, how they are written, and the errors of broken files."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_data.records import (
    ChangedWord,
    InstructionSample,
    RatedImage,
    Turn,
    ratings_of,
    read_any_jsonl,
    read_jsonl,
    schema,
    write_jsonl,
)
from mint_iqa.errors import MintIQAError

RATING = {"image": "a.png", "source": "test", "mos": {"quality": 50.0}}
SAMPLE = {"image": "a.png", "source": "test", "question": "Is it sharp?", "answer": "Yes."}

SAMPLE_SCHEMA = jsonschema.Draft202012Validator(schema(InstructionSample))
few = settings(max_examples=40, deadline=None)

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip)
names = st.from_regex(r"[a-zé]{1,8}(/[a-z0-9 ]{0,4}x)?\.png", fullmatch=True)
percents = st.floats(0, 100)
scores = st.dictionaries(st.sampled_from(["quality", "authenticity", "correspondence"]), percents, min_size=1)
pictures = {
    "image": names,
    "source": words,
    "prompt": st.none() | words,
    "split": st.sampled_from([None, "train", "validation", "test"]),
    "generator": st.none() | words,
    "reference": st.none() | names,
    "distortion": st.none() | words,
    "level": st.none() | st.integers(1, 5),
}
ratings = st.builds(RatedImage, mos=scores, **pictures)


@st.composite
def samples(draw):
    known = draw(scores)
    asked = draw(st.sampled_from([None, *known]))
    left, top = draw(st.floats(0, 0.5)), draw(st.floats(0, 0.5))
    return InstructionSample(
        **{name: draw(strategy) for name, strategy in pictures.items()},
        dimension=asked,
        mos=known.get(asked),
        scores=known,
        question=draw(words),
        answer=draw(words),
        history=tuple(draw(st.lists(st.builds(Turn, question=words, answer=words), max_size=2))),
        region=draw(st.sampled_from([None, (left, top, 0.75, 1.0)])),
        changed_words=tuple(draw(st.lists(st.builds(ChangedWord, original=words, replacement=words)))),
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("records") / "records.jsonl"


@few
@given(st.lists(ratings, max_size=4))
def test_ratings_survive_writing_and_reading(file, some):
    assert write_jsonl(file, some) == len(some)
    assert read_jsonl(file, RatedImage) == some


@few
@given(st.lists(samples(), max_size=4))
def test_samples_survive_writing_and_reading(file, some):
    write_jsonl(file, some)
    assert read_jsonl(file, InstructionSample) == some
    for line in file.read_text("utf-8").split("\n")[:-1]:
        SAMPLE_SCHEMA.validate(json.loads(line))


lines = st.one_of(
    st.binary(max_size=40),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SAMPLE, "mos"]), inner),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
    st.just(json.dumps(SAMPLE).encode()),
    st.just(json.dumps(RATING).encode()),
)


@few
@given(st.lists(lines, max_size=5))
def test_any_lines_give_records_or_one_error(file, some):
    file.write_bytes(b"\n".join(some))
    try:
        assert all(isinstance(record, InstructionSample | RatedImage) for record in read_any_jsonl(file))
    except MintIQAError as error:
        assert error.code == "unusable_lines"
        assert "line" in error.message


def test_all_broken_lines_are_counted_and_the_first_are_named(tmp_path):
    path = tmp_path / "broken.jsonl"
    good = json.dumps(RATING)
    path.write_text("\n".join([good, "{", good, "", *["[]"] * 6, json.dumps(RATING | {"mos": {}})]))
    with pytest.raises(MintIQAError) as caught:
        read_jsonl(path, RatedImage)
    message = caught.value.message
    assert message.startswith(f"{path} has 8 problems: line 2: ")
    assert "line 5: " in message and "line 8: " in message and "line 9" not in message
    assert "and 3 more" in message


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path):
    record = InstructionSample(**SAMPLE | {"answer": "one\u2028two\x85three\nfour"})
    write_jsonl(tmp_path / "a.jsonl", [record])
    assert read_jsonl(tmp_path / "a.jsonl", InstructionSample) == [record]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(RATING).encode() + b"\r\n\r\n")
    assert len(read_jsonl(tmp_path / "a.jsonl", RatedImage)) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MintIQAError, match=r"nowhere\.jsonl does not exist"):
        read_jsonl(tmp_path / "nowhere.jsonl", RatedImage)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old")

    def failing():
        yield RatedImage(**RATING)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jsonl(path, failing())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(MintIQAError, match="choose another --output"):
        write_jsonl(tmp_path / "nowhere" / "a.jsonl", [])


@pytest.mark.parametrize(
    "image", ["", " ", "/etc/passwd", "../a.png", "a/../../b.png", "C:\\a.png", "a\0.png"]
)
def test_an_image_outside_the_folder_of_pictures_is_refused(image):
    with pytest.raises(ValueError, match="image"):
        RatedImage(**RATING | {"image": image})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mos": {"quality": 101}}, "less than or equal to 100"),
        ({"mos": {"quality": float("nan")}}, "greater than or equal to 0|finite"),
        ({"mos": {"beauty": 1}}, "quality"),
        ({"mos": {}}, "at least 1"),
        ({"mos_std": {"authenticity": 1}}, "mos_std has authenticity"),
        ({"level": 6}, "less than or equal to 5"),
        ({"extra": 1}, "not permitted"),
    ],
)
def test_what_a_rating_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        RatedImage(**RATING | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mos": 50}, "mos needs a dimension"),
        ({"dimension": "quality", "mos": 50}, r"mos must equal scores\.quality"),
        ({"dimension": "quality", "scores": {"quality": 50}}, r"mos must equal scores\.quality"),
        ({"region": (0.5, 0, 0.5, 1)}, "left < right"),
        ({"region": (0, 0, 1, 1.5)}, "less than or equal to 1"),
        ({"answer": " "}, "the text is empty"),
        ({"history": [{"question": "Why?"}]}, "answer"),
    ],
)
def test_what_a_sample_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        InstructionSample(**SAMPLE | change)


def test_a_blank_prompt_is_none():
    assert RatedImage(**RATING | {"prompt": "  "}).prompt is None


def test_samples_of_one_picture_give_one_rating():
    scored = [InstructionSample(**SAMPLE | {"image": name, "scores": {"quality": 40}}) for name in "abab"]
    rated = ratings_of([*scored, InstructionSample(**SAMPLE | {"image": "unscored"})])
    assert [(rating.image, rating.mos) for rating in rated] == [
        ("a", {"quality": 40}),
        ("b", {"quality": 40}),
    ]


@pytest.mark.parametrize("kind", [RatedImage, InstructionSample])
def test_the_schema_describes_every_field_that_needs_it(kind):
    fields = schema(kind)["properties"]
    assert fields.keys() == kind.model_fields.keys()
    undescribed = {name for name, field in fields.items() if "description" not in field}
    assert undescribed <= {"question", "answer"}


def test_importing_the_records_loads_nothing_heavy():
    heavy = "{'torch', 'scipy', 'transformers'}"
    probe = f"import sys, instruct_data.__main__; assert not {heavy} & sys.modules.keys()"
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", probe], cwd=root, check=True)
