"""What clients send is checked: histories and uploads."""

import pytest

from mint_iqa.errors import MintIQAError
from mint_iqa.language.chat import MAX_HISTORY
from ui.inputs import Upload, checked_history, upload_of


@pytest.mark.parametrize(
    "history",
    ["text", {"a": 1}, [["only one"]], [["a", 1]], [["a", "b", "c"]], [None], [["a", "x" * 2001]]],
)
def test_a_malformed_history_is_refused(history):
    with pytest.raises(MintIQAError) as error:
        checked_history(history)
    assert error.value.code == "bad_history"


def test_of_a_long_history_the_end_is_used():
    turns = [[f"q{i}", f"a{i}"] for i in range(40)]
    assert checked_history(turns) == [tuple(turn) for turn in turns[-MAX_HISTORY:]]


def test_only_files_in_the_upload_cache_are_opened(tmp_path):
    cache = tmp_path / "cache"
    inside = cache / "ab12" / "fox.png"
    inside.parent.mkdir(parents=True)
    (cache / "link.png").symlink_to("/etc/hostname")
    assert upload_of({"path": str(inside), "orig_name": "Fox.png"}, cache) == Upload(str(inside), "Fox.png")
    outside = [
        "/etc/passwd",
        f"{cache}/../secret.png",
        f"{cache}/link.png",
        "",
        3,
        "http://example.com/a.png",
    ]
    for payload in [None, "text", {}, *({"path": path} for path in outside)]:
        with pytest.raises(MintIQAError) as error:
            upload_of(payload, cache)
        assert error.value.code == "image_missing"
