"""A short fuzz run: some thousand mutated files, each read or refused in one sentence."""

import logging
import sys
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mint_iqa.errors import MintIQAError
from tests.fuzz import campaign
from tests.fuzz.campaign import SECONDS, Tally, judge
from tests.fuzz.readers import READERS, REPOSITORY, seeds_of

QUICK = [name for name, reader in READERS.items() if reader.share >= 20]
# libFuzzer finds such pieces itself; here they are guessed: ends of ranges, format markers, deep nesting.
PIECES = [
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff",
    b"NaN",
    b"1e999",
    b'"',
    b"\r\n",
    b"\xed\xa0\x80",
]
PIECES += [b"\xed\xa0\x80", b"[" * 5000, b"9" * 5000, b"-1", b"null", b"&a [*a]", b"2020-99-99", b","]


@st.composite
def mutated(draw, seeds):
    """A seed with one to six changes: bytes replaced, a piece inserted, a part removed or repeated."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        part = draw(
            st.one_of(st.sampled_from(PIECES), st.binary(max_size=8), st.just(bytes(data[start:end]) * 2))
        )
        data[start:end] = part
    return bytes(data)


@pytest.mark.parametrize("name", QUICK)
def test_mutated_files_are_read_or_refused_and_nothing_else(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp(name)

    @given(mutated(seeds_of(name)))
    @settings(
        max_examples=60, deadline=SECONDS * 1000, suppress_health_check=list(HealthCheck), derandomize=True
    )
    def check(data):
        try:
            READERS[name].read(data, folder)
        except MintIQAError as error:
            assert error.message and "Traceback" not in error.message
            assert len(error.message) < 4000

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check()


@pytest.mark.parametrize("name", READERS)
def test_valid_and_kept_files_meet_the_rules(name, tmp_path):
    tally = Tally(name, 0)
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in seeds_of(name):
            judge(tally, READERS[name].read, data, tmp_path, tmp_path)
    logging.disable(logging.NOTSET)
    assert (tally.finds, tally.slowest < SECONDS) == ({}, True)
    assert tally.read > 0


def test_a_broken_rule_is_kept_with_its_traceback(tmp_path):
    tally = Tally("png", 0)
    for data in (b"a", b"b"):
        judge(tally, lambda data, folder: 1 / 0, data, tmp_path, tmp_path)
    ((kind, times),) = tally.finds.items()
    assert "ZeroDivisionError" in kind and times == 2
    (kept,) = tmp_path.glob("*.bin")
    assert kept.read_bytes() == b"a" and "1 / 0" in kept.with_suffix(".txt").read_text()


@pytest.mark.slow
def test_the_campaign_counts_its_inputs_exactly(tmp_path, monkeypatch, capsys):
    """Each reader gets its own process, as always; what starts them runs here, where torch is loaded."""
    pytest.importorskip("atheris", reason="no atheris for this system: see requirements/pins.txt")
    options = ["--inputs", "600", "--output", str(tmp_path), "--only", "gif", "manifest"]
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["campaign", *options])
    assert campaign.main() == 0
    assert "600 mutated inputs over 2 readers" in capsys.readouterr().out
