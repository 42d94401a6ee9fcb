"""Every error has a code of one list, which the docs print, and each code is raised somewhere."""

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path

from mint_iqa.errors import CODES, MintIQAError

REPOSITORY = Path(__file__).resolve().parents[3]
MADE = {"image_missing", "question_missing"}  # f"{name}_missing" of a manifest's required columns


def raised() -> Iterator[tuple[str, str]]:
    """Where, and the code, of every MintIQAError and Failure whose code is written there."""
    for package in ("mint_iqa", "instruct_data", "train", "ui"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func).rpartition(".")[2]
                codes = node.args[:1] if name in ("MintIQAError", "_bad_request") else []
                codes += [
                    k.value for k in node.keywords if name in ("MintIQAError", "Failure") and k.arg == "code"
                ]
                for code in codes:
                    if isinstance(code, ast.Constant):
                        yield f"{path.relative_to(REPOSITORY)}:{node.lineno}", code.value


def test_every_code_that_is_raised_is_listed_and_every_listed_one_is_raised() -> None:
    found = list(raised())
    assert [where for where, code in found if code not in CODES] == []
    assert CODES.keys() - {code for _, code in found} - MADE == set()


def test_the_docs_print_the_list() -> None:
    text = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)) == CODES


def test_codes_that_docstrings_name_are_listed() -> None:
    unlisted = []
    for package in ("mint_iqa", "instruct_data", "train", "ui"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for names in re.findall(r"MintIQAError \(([^)]*)\)", path.read_text(encoding="utf-8")):
                named = re.findall(r"`(\w+)`(?! raises)", names)
                unlisted += [(path.name, name) for name in named if name not in CODES]
    assert unlisted == []


def test_meanings_are_sentences() -> None:
    assert [code for code, meaning in CODES.items() if not re.fullmatch(r"[A-Z].*\.", meaning)] == []


def test_an_error_survives_the_way_between_processes() -> None:
    there = copy.copy(MintIQAError("image_missing", "a.png does not exist: check the path."))
    assert (there.code, str(there)) == ("image_missing", "a.png does not exist: check the path.")
