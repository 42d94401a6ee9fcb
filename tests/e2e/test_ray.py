"""Two workers of a local Ray cluster write the same bytes as one process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mint_iqa import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra ray)")
def test_two_ray_workers_write_the_same_lines_as_the_local_engine(tmp_path, tiny_checkpoint, monkeypatch):
    random = np.random.default_rng(0)
    rows = ["image,prompt,id"]
    for i in range(10):
        coarse = Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        coarse.resize((30 + 5 * i, 40)).save(tmp_path / f"狐 {i}.png")
        rows.append(f"狐 {i}.png,{'a red fox' * (i % 2)},{i}")
    (tmp_path / "m.csv").write_text("\n".join([*rows, "gone.png,,10", ",,11"]) + "\n", "utf-8")

    command = ["score", "m.csv", "--model", str(tiny_checkpoint), "--batch-size", "3", "--device", "cpu"]
    monkeypatch.chdir(tmp_path)

    def score_on_ray(output, *options):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""}
        words = [sys.executable, "-m", "mint_iqa.cli", *command, "--output", output, *options]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500
        )
        assert done.returncode == 1, done.stderr  # two unusable rows
        assert "Traceback" not in done.stderr
        return (tmp_path / output).read_text("utf-8").splitlines()

    assert cli.main([*command, "--output", "local.jsonl"]) == 1
    local = (tmp_path / "local.jsonl").read_text("utf-8").splitlines()
    assert len(local) == 12
    assert sorted(score_on_ray("ray.jsonl", "--engine", "ray", "--workers", "2")) == sorted(local)
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
