"""Folders, patterns and manifests -> items: nothing is left out, and nothing comes twice."""

import os
from pathlib import Path

import pytest

from mint_iqa.errors import MintIQAError
from mint_iqa.scoring.folders import find_items, is_list


def touch(*names):
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(*arguments):
    return [item.image for item in find_items(arguments)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_its_image_files_and_those_of_the_folders_below_by_name():
    touch("d/b.png", "d/a.JPG", "d/notes.txt", "d/sub/c.webp", "d/.DS_Store", "d/scores.jsonl")
    assert names("d") == ["d/a.JPG", "d/b.png", "d/sub/c.webp"]
    assert [item.source for item in find_items(["d"])] == names("d")


def test_every_image_of_a_folder_gets_the_prompt():
    touch("d/a.png", "d/b.png")
    assert {item.prompt for item in find_items(["d"], "a fox")} == {"a fox"}


def test_a_loop_of_links_ends_and_linked_folders_and_files_are_entered_once(here):
    touch("d/a.png", "elsewhere/b.png")
    os.symlink(here / "d", "d/loop")
    os.symlink(here / "elsewhere", "d/there")
    os.symlink(here / "elsewhere", "d/there_again")
    os.symlink(here / "d/a.png", "d/z.png")
    assert names("d") == ["d/a.png", "d/z.png", "d/there/b.png"]


def test_a_link_to_nothing_is_an_item_so_that_its_absence_is_told():
    Path("d").mkdir()
    os.symlink("gone.png", "d/a.png")
    assert names("d") == ["d/a.png"]


@pytest.mark.parametrize(
    "name", ["Füchse.png", "Fu\u0308chse.png", "狐.png", "🦊 a b.png", "-rf.png", "a\nb.png"]
)
def test_names_come_back_as_they_are_on_the_disk(name):
    touch(f"d/{name}")
    assert names("d") == [f"d/{name}"]


def test_a_name_that_is_no_utf8_can_be_opened():
    os.mkdir("d")
    with open(b"d/\xff.png", "wb") as file:
        file.write(b"x")
    (item,) = find_items(["d"])
    assert Path(item.source).read_bytes() == b"x"


def test_a_folder_that_cannot_be_opened_is_an_item_with_a_problem(monkeypatch):
    touch("d/a.png", "d/closed/b.png", "d/z/c.png")
    scandir = os.scandir

    def guarded(path):  # root, who often runs the tests, may open every folder
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    items = find_items(["d"])
    assert [item.image for item in items] == ["d/a.png", "d/closed", "d/z/c.png"]
    assert items[1].problem.code == "folder_unreadable"
    assert "Permission denied" in items[1].problem.message


def test_a_pattern_finds_by_name_and_enters_folders_and_no_loop(here):
    touch("d/b.png", "d/a.png", "d/c.jpg", "d/sub/e.png")
    os.symlink(here / "d", "d/loop")
    assert names("d/*.png") == ["d/a.png", "d/b.png"]
    assert names("d/s*") == ["d/sub/e.png"]
    assert names("d/**/*.png") == ["d/a.png", "d/b.png", "d/sub/e.png"]
    assert names(str(here / "d" / "[bc].*")) == [str(here / "d/b.png"), str(here / "d/c.jpg")]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file():
    touch("a[1].png", "a1.png")
    assert not is_list("a[1].png")
    assert names("a[1].png") == ["a[1].png"]


def test_a_path_that_is_reached_twice_is_one_item_and_keeps_its_first_name(here):
    touch("d/a.png", "d/b.png")
    assert names("d/b.png", "d", "./d/a.png", str(here / "d"), "d/*.png") == ["d/b.png", "d/a.png"]


def test_the_rows_of_a_manifest_are_all_kept(here):
    Path("m.csv").write_text("image,prompt\na.png,a fox\na.png,a cat\na.png,a fox\n")
    assert is_list("m.csv")
    assert [(item.image, item.prompt) for item in find_items(["m.csv"])] == [
        ("a.png", "a fox"),
        ("a.png", "a cat"),
        ("a.png", "a fox"),
    ]


def test_what_is_no_list_is_one_image_whether_it_is_there_or_not():
    assert not is_list("gone.png")
    assert names("gone.png") == ["gone.png"]


@pytest.mark.parametrize("argument", ["empty", "empty/*.png", "gone/**/*"])
def test_a_folder_or_pattern_without_images_is_refused(argument):
    os.mkdir("empty")
    with pytest.raises(MintIQAError, match="holds no image files") as caught:
        find_items([argument])
    assert caught.value.code == "nothing_found"


def test_a_prompt_for_a_manifest_is_refused():
    Path("m.csv").write_text("image\na.png\n")
    with pytest.raises(MintIQAError, match="prompt column"):
        find_items(["m.csv"], "a fox")
