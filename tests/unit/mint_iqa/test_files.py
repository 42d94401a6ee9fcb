"""Files and folders that are complete or absent."""

import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from mint_iqa.files import written_whole


def test_whoever_may_read_new_files_may_read_written_weights(tmp_path):
    with written_whole(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    modes = {path.name: stat.S_IMODE(os.stat(path).st_mode) for path in (tmp_path / "model").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_a_folder_that_fails_half_way_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), written_whole(tmp_path / "model") as folder:
        (folder / "config.json").write_text("{}")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
