"""The promises that the repository makes about itself: which package imports which, what an import costs,
and what its files may hold."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement  # comes with pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MAY_IMPORT: dict[str, set[str]] = {
    "mint_iqa": set(),
    "instruct_data": {"mint_iqa"},
    "train": {"instruct_data", "mint_iqa"},
    "ui": {"mint_iqa"},
}
# Import names that differ from the name of the package that brings them.
DISTRIBUTION = {
    "PIL": "pillow",
    "google": "protobuf",
    "huggingface_hub": "transformers",
    "jinja2": "torch",
    "tokenizers": "transformers",
}
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:work|root|home/\w+|Users/\w+)/")


def tracked_files() -> list[Path]:
    """What git knows or would add; in an unpacked archive, everything outside hidden folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        files = [REPOSITORY / name for name in listing.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = []
        for folder, folders, names in os.walk(REPOSITORY):
            folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
            files += [Path(folder, name) for name in names]
    return sorted(f for f in files if f.is_file())


FILES = tracked_files()
SOURCES = [f for f in FILES if f.suffix == ".py"]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def modules_of(package: str) -> list[Path]:
    return [f for f in SOURCES if name_of(f).startswith(f"{package}/")]


def imported_packages(tree: ast.Module) -> Iterator[str]:
    """Top-level names of absolute imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("name", ["mint_iqa", "instruct_data", "train", "ui", "configs", "tests", "examples"])
def test_top_level_folder_exists(name: str) -> None:
    assert (REPOSITORY / name).is_dir()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    forbidden = (MAY_IMPORT.keys() | {"tests"}) - MAY_IMPORT[package] - {package}
    found = {name_of(f): forbidden & set(imported_packages(tree_of(f))) for f in modules_of(package)}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_library_imports_only_what_the_wheel_depends_on() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["parquet"], *extras["ray"]]  # imported only where asked for
    declared = {re.split(r"[<>=!~ \[;]", d)[0].lower().replace("-", "_") for d in wanted}
    known = declared | {"mint_iqa"} | sys.stdlib_module_names
    foreign = {
        (name_of(f), package)
        for f in modules_of("mint_iqa")
        for package in imported_packages(tree_of(f))
        if package not in known and DISTRIBUTION.get(package) not in declared
    }
    assert foreign == set()


def test_import_is_light() -> None:
    """`import mint_iqa` loads no torch, reads no file but Python modules and asks nothing of the network."""
    probe = """
import sys
seen = []
def watch(event, arguments):
    if event == "open":
        path = str(arguments[0])
        if not path.endswith((".py", ".pyc", ".so")) and ".dist-info" not in path:
            seen.append(path)
    elif event.startswith("socket."):
        seen.append(event)
sys.addaudithook(watch)
import mint_iqa
heavy = {"torch", "transformers", "peft", "gradio", "scipy", "onnx", "gguf", "pyarrow", "ray"}
heavy &= sys.modules.keys()
assert not heavy, f"imported: {sorted(heavy)}"
assert not seen, f"touched: {seen}"
"""
    done = subprocess.run([sys.executable, "-B", "-c", probe], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_star_imports() -> None:
    stars = [
        name_of(f)
        for f in SOURCES
        for node in ast.walk(tree_of(f))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert stars == []


def test_no_file_for_everything_else() -> None:
    assert [name_of(f) for f in SOURCES if f.stem in {"utils", "util", "common", "misc"}] == []


def unsafe_load(node: ast.AST) -> bool:
    """True for `torch.load(...)` without `weights_only=True`, and for anything with `allow_pickle=True`."""
    if not isinstance(node, ast.Call):
        return False
    is_true = {k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value is True}
    return "allow_pickle" in is_true or (
        ast.unparse(node.func) == "torch.load" and "weights_only" not in is_true
    )


def test_nothing_is_unpickled() -> None:
    importing = [name_of(f) for f in SOURCES if UNPICKLERS & set(imported_packages(tree_of(f)))]
    loading = [name_of(f) for f in SOURCES if any(unsafe_load(node) for node in ast.walk(tree_of(f)))]
    assert (importing, loading) == ([], [])


@pytest.mark.parametrize(
    ("code", "unsafe"),
    [
        ("torch.load(f)", True),
        ("torch.load(f, weights_only=False)", True),
        ("torch.load(f, map_location='cpu', weights_only=True)", False),
        ("np.load(f, allow_pickle=True)", True),
        ("np.load(f)", False),
    ],
)
def test_unsafe_loads_are_recognized(code: str, unsafe: bool) -> None:
    assert any(unsafe_load(node) for node in ast.walk(ast.parse(code))) is unsafe


def test_changelog_leads_with_this_version() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[^\]]*)\]", changelog, flags=re.MULTILINE)
    assert versions[0] == PROJECT["version"]


@pytest.mark.parametrize("document", [name_of(f) for f in FILES if f.suffix == ".md"])
def test_relative_links_exist(document: str) -> None:
    path = REPOSITORY / document
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    relative = [t.split("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
    assert [t for t in relative if not (path.parent / t).exists()] == []


def test_no_machine_paths() -> None:
    found = []
    for path in FILES:
        content = path.read_bytes()
        if b"\0" not in content and (match := MACHINE_PATH.search(content.decode("utf-8", "replace"))):
            found.append((name_of(path), match[0]))
    assert found == []


def test_pins_satisfy_the_declared_ranges() -> None:
    """Every dependency and extra in pyproject.toml has its tested version in requirements/pins.txt."""
    text = (REPOSITORY / "requirements/pins.txt").read_text(encoding="utf-8").lower()
    pinned = dict(re.findall(r"^([\w-]+)==([^\s#]+)", text, flags=re.MULTILINE))
    extras = PROJECT["optional-dependencies"].values()
    declared = [*PROJECT["dependencies"], *(declaration for extra in extras for declaration in extra)]
    wrong = [
        declaration
        for declaration in declared
        if (wanted := Requirement(declaration)).name.lower() not in pinned
        or pinned[wanted.name.lower()] not in wanted.specifier
    ]
    assert wrong == []
    assert len(pinned) == len({Requirement(declaration).name for declaration in declared})
