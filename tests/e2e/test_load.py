"""Several people at once on the chat page, in the short form of benchmarks/chat.py."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_four_people_at_once_get_their_own_answers_and_all_of_them():
    command = [sys.executable, "benchmarks/chat.py", "--clients", "4", "--seconds", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    calls, rejected, lost, mixed = map(
        int, re.search(r"(\d+) calls, (\d+) .*, (\d+) .*, (\d+)", done.stdout).groups()
    )
    assert calls >= 8 and rejected == lost == mixed == 0
