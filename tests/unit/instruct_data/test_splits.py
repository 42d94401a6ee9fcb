"""Splits: related records stay together, and a leak is an error."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_data.__main__ import main
from instruct_data.importers.aigciqa2023 import read_aigciqa2023
from instruct_data.records import InstructionSample, RatedImage, read_jsonl, write_jsonl
from instruct_data.splits import (
    OFFICIAL_TEST,
    by_fold,
    by_shares,
    check_split,
    image_hashes,
    official_aigciqa2023,
    shared_prompts,
    sizes,
)
from mint_iqa.errors import MintIQAError
from mint_iqa.tables.reading import Findings


def rated(image, prompt=None, **known):
    return RatedImage(image=image, prompt=prompt, source="test", mos={"quality": 50}, **known)


def by_prompts(count, each=4):
    return [rated(f"{p}_{i}.png", f"prompt {p}") for p in range(count) for i in range(each)]


def distorted(count):
    pictures = [
        rated(f"I{r:02d}_0{d}.png", reference=f"I{r:02d}.png", distortion="jpeg")
        for r in range(count)
        for d in range(5)
    ]
    return [*pictures, *(rated(f"I{r:02d}.png") for r in range(count))]


def sides_of(records, key):
    sides = {}
    for record in records:
        sides.setdefault(key(record), set()).add(record.split)
    return sides


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["a b", "A  b", "c", "d", None]), st.integers(0, 9))
    ),
    st.integers(0, 5),
)
def test_whatever_is_split_shares_no_prompt_picture_or_bytes(rows, seed):
    records = [rated(f"{image}.png", prompt) for image, prompt, _ in rows]
    hashes = {f"{image}.png": str(digest) for image, _, digest in rows}
    try:
        done = by_shares(records, "prompt", shares=(60, 20, 20), hashes=hashes, seed=seed)
    except MintIQAError as error:
        assert error.code == "bad_argument"
        return
    check_split(done, hashes)
    assert [record.image for record in done] == [record.image for record in records]


def test_shares_are_met_and_seeded():
    records = by_prompts(50)
    done = by_shares(records, "prompt", shares=(80, 10, 10), seed=1)
    assert sizes(done) == {"train": 160, "validation": 20, "test": 20}
    assert done == by_shares(records, "prompt", shares=(8, 1, 1), seed=1)
    assert done != by_shares(records, "prompt", shares=(80, 10, 10), seed=2)


def test_a_share_of_nothing_gets_nothing():
    assert sizes(by_shares(by_prompts(10), "prompt", shares=(80, 0, 20))) == {"train": 32, "test": 8}


def test_the_folds_cover_every_record_once():
    records = by_prompts(12)
    tests = [
        {r.image for r in by_fold(records, "prompt", folds=3, test_fold=k) if r.split == "test"}
        for k in range(3)
    ]
    assert sum(map(len, tests)) == len(set.union(*tests)) == len(records)


def test_what_derives_from_one_picture_stays_with_it():
    done = by_shares(distorted(20), "reference", shares=(80, 10, 10))
    assert all(len(sides) == 1 for sides in sides_of(done, lambda r: r.reference or r.image).values())
    assert sizes(done) == {"train": 96, "validation": 12, "test": 12}


@pytest.mark.parametrize("by", ["prompt", "reference"])
def test_a_distorted_picture_without_a_reference_cannot_be_split(by):
    with pytest.raises(MintIQAError, match=r"wn/1\.bmp is distorted, but does not say"):
        by_shares([rated("wn/1.bmp", distortion="noise"), *by_prompts(20)], by)


def test_all_questions_about_a_picture_are_on_one_side_even_with_a_changed_prompt():
    samples = [
        InstructionSample(
            image=f"{i}.png", prompt=f"{word} {i}", source="test", question="Fits?", answer="No."
        )
        for i in range(20)
        for word in ("boat", "cat")
    ]
    done = by_shares(samples, "prompt", shares=(50, 0, 50))
    assert all(len(sides) == 1 for sides in sides_of(done, lambda r: r.image).values())


def test_identical_files_stay_together(tmp_path):
    records = by_prompts(20, each=1)
    for i, record in enumerate(records[1:]):
        (tmp_path / record.image).write_bytes(bytes([i // 2]))
    hashes = image_hashes(records, tmp_path)
    assert len(hashes) == 19
    for seed in range(5):
        done = by_shares(records, "prompt", shares=(50, 0, 50), hashes=hashes, seed=seed)
        assert all(done[i].split == done[i + 1].split for i in range(1, 19, 2))


def leak(*pairs, hashes=None):
    records = [record.model_copy(update={"split": side}) for record, side in pairs]
    with pytest.raises(MintIQAError) as caught:
        check_split(records, hashes)
    return caught.value


def test_a_leak_names_what_is_on_both_sides():
    error = leak((rated("a.png", "A red  boat"), "train"), (rated("b.png", "a red boat"), "test"))
    assert error.code == "split_leak"
    assert "The prompt 'a red boat' is in train (a.png) and in test (b.png)" in error.message
    assert (
        "image 'b.png'"
        in leak(
            (rated("a.png"), "train"), (rated("b.png"), "validation"), hashes={"a.png": "x", "b.png": "x"}
        ).message
    )
    assert (
        "reference 'I1.png'"
        in leak((rated("I1.png"), "train"), (rated("d.png", reference="I1.png"), "test")).message
    )
    assert leak((rated("a.png"), None)).code == "not_split"


@pytest.mark.parametrize("shares", [(1, 1), (100, 0, 0), (-1, 50, 51), (98, 1, 1), (10**12, 1, 1)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(MintIQAError) as caught:
        by_shares(by_prompts(20), "prompt", shares=shares)
    assert caught.value.code == "bad_argument"


def test_an_invalid_test_fold_is_refused():
    with pytest.raises(MintIQAError, match=r"one of 0\.\.4, not 5"):
        by_fold(by_prompts(20), "prompt", folds=5, test_fold=5)


# --- the published split ---


@pytest.mark.data
def test_the_published_split_is_the_order_of_the_label_file(data_root):
    path = data_root / "labels" / "AIGIQA2023.json"
    if not path.is_file():
        pytest.skip(f"no label file at {path}")
    records = read_aigciqa2023(path, Findings(path))
    numbers = [int(record.image.removesuffix(".png")) for record in records]
    assert sum(a > b for a, b in pairwise(numbers)) == 1  # two ascending runs
    done = official_aigciqa2023(records)
    assert [record.split for record in done] == ["train"] * 7680 + ["test"] * 1920
    assert shared_prompts(done) == (100, 100)


def test_the_published_split_has_480_test_pictures_and_takes_no_other_set():
    assert len(OFFICIAL_TEST) == 480
    done = official_aigciqa2023([rated("2.png"), rated("3.png")])
    assert [record.split for record in done] == ["test", "train"]
    for name in ("2400.png", "2.jpg", "a/2.png", "-2.png", "².png"):
        with pytest.raises(MintIQAError, match="not a picture of AIGCIQA2023"):
            official_aigciqa2023([rated(name)])


# --- the command ---


def test_the_command_writes_what_it_says(tmp_path, capsys):
    write_jsonl(tmp_path / "in.jsonl", by_prompts(10))
    code = main(["split", f"{tmp_path}/in.jsonl", "--by", "prompt", "--output", f"{tmp_path}/out.jsonl"])
    assert code == 0
    assert "train 32, validation 4, test 4" in capsys.readouterr().out
    assert sizes(read_jsonl(tmp_path / "out.jsonl", RatedImage)) == {"train": 32, "validation": 4, "test": 4}


def test_the_command_warns_of_the_published_split(tmp_path, capsys):
    write_jsonl(tmp_path / "in.jsonl", [rated("2.png", "a boat"), rated("3.png", "a boat")])
    arguments = ["--by", "official-aigciqa2023", "--output", f"{tmp_path}/out.jsonl"]
    assert main(["split", f"{tmp_path}/in.jsonl", *arguments]) == 0
    assert "warning: 1 of 1 prompts are on both sides" in capsys.readouterr().err


def test_the_command_ends_with_one_sentence_on_bad_input(tmp_path, capsys):
    write_jsonl(tmp_path / "in.jsonl", by_prompts(3))
    assert main(["split", f"{tmp_path}/in.jsonl", "--by", "prompt", "--output", f"{tmp_path}/out.jsonl"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("shares", ["80", "80/10", "80/-10/30", "a/b/c"])
def test_invalid_shares_are_a_usage_error(tmp_path, shares, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["split", "in.jsonl", "--by", "prompt", "--output", "out.jsonl", "--shares", shares])
    assert "80/10/10" in capsys.readouterr().err
