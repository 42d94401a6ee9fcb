"""A run that is killed and resumed, in the short form of benchmarks/interrupted.py."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_killed_with_9_and_resumed_writes_what_an_uninterrupted_one_does():
    command = [sys.executable, "benchmarks/interrupted.py", "--pictures", "150", "--kills", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "151 records, 151 images, same to the byte: True" in done.stdout
