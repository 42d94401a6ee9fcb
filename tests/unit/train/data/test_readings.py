"""What the examiner's networks see of training pictures: variants whose faults are known, computed once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_data.damage.faults import severity_of
from mint_iqa.errors import MintIQAError
from mint_iqa.model.examiner import GRID, Examiner
from mint_iqa.vocabulary import FAULTS
from tests.textures import hills
from tests.tiny import examiner_settings
from tests.training_world import living_in
from train.data import readings, sets
from train.data.readings import KINDS, RESAVED_SIDES, read, variant


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with living_in(tmp_path_factory.mktemp("readings")) as world:
        yield world


@pytest.fixture(scope="module")
def examiner():
    return Examiner(examiner_settings(), 16, len(FAULTS)).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_variant_depends_on_its_picture_and_number_alone(kind):
    one, again, other = (variant(hills(), kind, number)[0] for number in (3, 3, 4))
    assert np.array_equal(np.asarray(one), np.asarray(again))
    assert kind == "clean" or not np.array_equal(np.asarray(one), np.asarray(other))


def test_a_resaved_picture_has_another_size_and_no_known_fault():
    image, fault, level, mask = variant(hills(), "resaved", 1)
    assert image.size[0] in RESAVED_SIDES and image.size != hills().size
    assert (fault, level, mask) == (None, 0, None)


def test_a_malformed_picture_tells_where_it_is_malformed():
    _, fault, level, mask = variant(hills().resize((512, 512)), "malformed", 1)
    assert fault == "malformation" and level >= 2
    assert 0 < (mask > 0.5).mean() < 0.9


def test_readings_say_what_was_put_in_and_the_second_time_come_from_the_cache(world, examiner, monkeypatch):
    found = read(examiner, "agiqa3k", "fault", range(4))
    assert found.statistics.shape[0] == found.pooled.shape[0] == len(found.level) == 4
    for severities, level in zip(found.severities, found.level, strict=True):
        (fault,) = severities.nonzero()[0]
        assert severities[fault] == pytest.approx(severity_of(FAULTS[fault], int(level)))
    assert found.cells.size == 0  # nobody asks where those faults are
    monkeypatch.setattr(readings, "Pool", lambda **_: pytest.fail("read again"))
    again = read(examiner, "agiqa3k", "fault", range(4))
    assert np.array_equal(again.statistics, found.statistics)


def test_cells_are_kept_where_malformation_is_learned(world, examiner):
    found = read(examiner, "biq2021", "malformed", [0, 2])
    assert found.cells.shape[0] == 2 and found.cells.shape[2:] == (GRID, GRID)
    assert found.mask.shape == (2, GRID, GRID) and (found.mask.max(axis=(1, 2)) > 0).all()
    assert (found.severities[:, -1] > 0).all()


def test_other_pictures_under_the_same_names_are_read_anew(world, examiner):
    before = read(examiner, "flickr8k", "clean", [0])
    path = Path(sets.paths_of("flickr8k")[0])
    kept = path.read_bytes()
    Image.new("RGB", (50, 50), "green").save(path)
    try:
        after = read(examiner, "flickr8k", "clean", [0])
    finally:
        path.write_bytes(kept)
    assert not np.array_equal(before.statistics, after.statistics)


def test_a_damaged_file_is_named_and_nothing_is_kept(world, examiner):
    path = Path(sets.paths_of("biq2021")[1])
    kept = path.read_bytes()
    path.write_bytes(kept[: len(kept) // 2])
    try:
        with pytest.raises(MintIQAError, match=r"1\.png is cut short or damaged"):
            read(examiner, "biq2021", "clean", [1])
    finally:
        path.write_bytes(kept)
    assert read(examiner, "biq2021", "clean", [1]).statistics.shape[0] == 1
