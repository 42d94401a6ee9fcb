"""The layout of the code: which part may know which, how large pieces are, that names and texts keep up."""

import ast
import importlib
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import is_dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mint_iqa
from instruct_data.recipes import read_settings
from tests.training_world import REPOSITORY
from train import nano
from train.engine import recipes

PACKAGES = ("mint_iqa", "instruct_data", "train", "ui")
PATHS = {
    ".".join(p.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): p
    for package in PACKAGES
    for p in sorted((REPOSITORY / package).rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in PATHS.items()}
# A file imports only files of lower lines, or of its own wing (docs/architecture.md prints this).
WINGS = """\
errors, vocabulary, text, files, quiet
records, tables, metrics, devices, image_limits
images, pixels, folds, checkpoints
language, pages
model, evaluation, reports
pictures
assessor, clip_agiqa, convert
scoring
cli
"""
TRAIN_WINGS = ("engine", "data", "heads", "measure")  # above them the commands
LONGEST_FILE, LONGEST_CLASS, LONGEST_FUNCTION = 370, 250, 50  # lines


def document(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def imports_of(module: str) -> set[str]:
    """Our own modules that a module imports, anywhere in it, for types alone too."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in PATHS else node.module)
    return {name for name in found if name in PATHS} - {module}


IMPORTS = {module: imports_of(module) for module in PATHS}


def wing(module: str) -> str:
    return module.split(".")[1] if "." in module else module


# --- who may know whom ---


def test_no_files_import_each_other_in_a_circle() -> None:
    # The public names are lazy: nothing below waits for the package itself.
    graph = {m: i - {"mint_iqa"} for m, i in IMPORTS.items() if m != "mint_iqa"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_wings_import_only_lower_wings() -> None:
    level = {name: n for n, line in enumerate(WINGS.splitlines()) for name in line.split(", ")}
    own = [m for m in IMPORTS if m.startswith("mint_iqa.")]
    assert {wing(m) for m in own} == level.keys()
    climbing = [
        f"{m} -> {other}"
        for m in own
        for other in IMPORTS[m]
        if wing(other) != wing(m) and level[wing(other)] >= level[wing(m)]
    ]
    assert climbing == []


def test_the_import_order_is_the_one_that_is_printed() -> None:
    text = document("docs/architecture.md")
    assert re.search(r"<!-- import order -->\n```text\n(.*?)```", text, re.DOTALL)[1] == WINGS


def test_in_training_libraries_know_no_commands_and_commands_not_each_other() -> None:
    level = {name: n for n, name in enumerate(TRAIN_WINGS)}
    top = len(TRAIN_WINGS)
    wrong = []
    for module in (m for m in IMPORTS if m.startswith("train.") and m != "train.nano"):
        for other in (o for o in IMPORTS[module] if o.startswith("train.")):
            mine, theirs = level.get(wing(module), top), level.get(wing(other), top)
            if theirs > mine or (theirs == mine == top):
                wrong.append(f"{module} -> {other}")
    assert wrong == []


def has_main(module: str) -> bool:
    return any(isinstance(n, ast.If) and "__main__" in ast.unparse(n.test) for n in TREES[module].body)


def test_a_file_in_train_is_a_command_that_the_docs_name_and_a_library_is_none() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").glob("*.md"))
    commands = [m for m in PATHS if re.fullmatch(r"train\.\w+", m) and PATHS[m].name != "__init__.py"]
    assert [m for m in commands if not has_main(m)] == []
    assert [m for m in commands if f"python -m {m}" not in text] == []
    libraries = [m for m in PATHS if m.startswith(("train.engine.", "train.data.", "train.heads."))]
    assert [m for m in libraries if has_main(m)] == []


# --- nano's steps ---


def test_the_plan_is_the_one_that_is_printed() -> None:
    text = document("docs/training.md")
    block = re.search(r"<!-- python -m train.nano --plan -->\n```text\n(.*?)```", text, re.DOTALL)[1]
    assert block.splitlines() == list(nano.plan())


def test_each_learning_step_has_a_recipe_of_its_name_that_its_own_command_reads() -> None:
    kinds = {
        "train.stage1": recipes.Stage1, "train.align": recipes.Align, "train.tune": recipes.Tune,
        "train.stage2": recipes.Stage2, "train.examine": recipes.Examine,
    }  # fmt: skip
    learning = [step for step in nano.STEPS if step.arguments and step.arguments[0].endswith(".yaml")]
    assert [step.name for step in learning] == ["pretrain", "align", "tune", "explain", "examine"]
    for step in learning:
        path = f"configs/nano/{step.name}.yaml"
        settings = read_settings(kinds[step.module], REPOSITORY / path)
        assert step.arguments[0] == path and settings.output == f"runs/{step.name}"
        header = document(path).split("\n\n")[0]
        assert f"python -m {step.module} {path}" in header
        assert re.search(r"# Time: \d+ minutes.* Figures: ", header)


def test_each_step_starts_where_the_one_before_it_ends() -> None:
    starts = {"align": ("start", "pretrain"), "tune": ("start", "align")}
    starts |= {"explain": ("stage1", "tune"), "examine": ("start", "explain")}
    for name, (key, before) in starts.items():
        assert re.search(rf"^{key}: runs/{before}$", document(f"configs/nano/{name}.yaml"), re.MULTILINE)


def test_no_command_makes_up_a_recipe() -> None:
    kinds = {name for name, kind in vars(recipes).items() if isinstance(kind, type) and is_dataclass(kind)}
    # The baseline of measurements, and what a run kept out, are no recipes of a run.
    kinds -= {"FrozenFit", "HeldOut"}
    made = [
        f"{m}:{node.lineno}"
        for m in PATHS
        if m.startswith("train.") and m != "train.engine.recipes"
        for node in ast.walk(TREES[m])
        if isinstance(node, ast.Call) and ast.unparse(node.func) in kinds
    ]
    assert made == []


# --- sizes and names ---


def definitions(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[str, ast.AST, int]]:
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield f"{module}.{node.name}", node, node.end_lineno - node.lineno + 1


def test_files_classes_and_functions_are_read_in_one_go() -> None:
    files = {m: len(p.read_text(encoding="utf-8").splitlines()) for m, p in PATHS.items()}
    assert {m: n for m, n in files.items() if n > LONGEST_FILE} == {}
    assert [name for name, _, lines in definitions(ast.ClassDef) if lines > LONGEST_CLASS] == []
    options = {
        "mint_iqa.cli.score.score",
        "mint_iqa.cli.convert.convert",
    }  # typer reads a command's options off its parameters
    functions = definitions((ast.FunctionDef, ast.AsyncFunctionDef))
    assert {name for name, _, lines in functions if lines > LONGEST_FUNCTION} <= options


def test_no_two_classes_have_one_name() -> None:
    names = Counter(n.name for tree in TREES.values() for n in tree.body if isinstance(n, ast.ClassDef))
    assert {name: count for name, count in names.items() if count > 1 and not name.startswith("_")} == {}


def test_no_file_reads_scores_by_column_number() -> None:
    literal = re.compile(r"(?:scores|targets)\w*\[(?::|\w+|[^\[\]]*), ?(?:-?\d+|:-?\d*\d|\[[\d, ]+\])\]")
    found = [m for m, path in PATHS.items() if literal.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_the_public_names_are_these_and_each_is_there() -> None:
    assert set(mint_iqa.__all__) == {
        "Answer", "Assessment", "Assessor", "ClipAgiqaAssessor", "Explanation", "Fault", "MintIQAError",
        "Scores", "__version__", "read_image",
    }  # fmt: skip
    assert all(getattr(mint_iqa, name) for name in mint_iqa.__all__)
    assert set(mint_iqa.__all__) <= set(dir(mint_iqa))
    with pytest.raises(AttributeError, match="no attribute 'Model'"):
        mint_iqa.Model  # noqa: B018
    text = document("docs/python.md")
    assert [name for name in mint_iqa.__all__ if f"`{name}`" not in text] == []


def test_types_are_announced() -> None:
    assert (REPOSITORY / "mint_iqa" / "py.typed").is_file()
    assert '"py.typed"' in document("pyproject.toml")


# --- texts ---

DIALECT = re.compile(r"(?<![Tt]here )\bis no (?!longer)|\bthat is none\b|\bgo(?:es)? on\b|\blearnt\b")


def spoken(tree: ast.Module) -> Iterator[str]:
    """Docstrings, and the messages of errors."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
            text := ast.get_docstring(node)
        ):
            yield text
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("MintIQAError"):
            yield from (
                n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            )


def test_docstrings_and_messages_are_plain_english() -> None:
    found = [
        f"{m}: {match[0]}" for m, tree in TREES.items() for t in spoken(tree) if (match := DIALECT.search(t))
    ]
    assert found == []


@pytest.mark.slow
def test_every_name_of_ours_in_texts_is_there() -> None:
    """Dotted names in docs, model card, recipes, docstrings and comments."""
    dotted = re.compile(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?!\w|/|=)")
    texts = {m: "\n".join(said_in(path)) for m, path in PATHS.items()}
    for pattern in ("*.md", "docs/*.md", "configs/**/*.yaml", "mint_iqa/weights/nano/README.md"):
        texts |= {str(p): p.read_text(encoding="utf-8") for p in REPOSITORY.glob(pattern)}
    missing = {
        f"{where}: {name}"
        for where, text in texts.items()
        for name in dotted.findall(text)
        if not there(name)
    }
    assert {m for m in missing if "CHANGELOG" not in m} == set()


def said_in(path: Path) -> Iterator[str]:
    """Comments and texts of a file."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                yield token.string


def there(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    if parts[-1] in ("py", "md", "css", "jsonl", "pt", "csv"):
        return True  # a file name, which the tree's own tests know
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if module in PATHS:
            found: object = importlib.import_module(module) if end < len(parts) else True
            for attribute in parts[end:]:
                found = getattr(found, attribute, None)
            return found is not None
    return False


def test_readme_is_a_page() -> None:
    readme = document("README.md")
    assert len(readme.splitlines()) <= 220
    prose = re.sub(r"```.*?```", "", readme, flags=re.DOTALL)
    paragraphs = [p for p in prose.split("\n\n") if not p.lstrip().startswith(("|", "#", "-"))]
    assert {p[:60]: len(p.split()) for p in paragraphs if len(p.split()) > 80} == {}


def test_the_tree_of_the_architecture_names_every_file() -> None:
    block = document("docs/architecture.md").split("## Every file", 1)[1].split("```", 2)[1]
    named, folders = set(), []
    for line in block.splitlines()[1:]:
        if match := re.match(r"( *)(\S+)", line):
            folders = [*folders[: len(match[1]) // 2], match[2]]
            named.add("".join(folders))
    assert sorted(p for p in named if p.startswith(PACKAGES) and not (REPOSITORY / p).exists()) == []
    files = {p.relative_to(REPOSITORY).as_posix() for p in PATHS.values()}
    unnamed = {f for f in files if not f.endswith(("/__init__.py", "/__main__.py"))} - named
    assert sorted(unnamed) == []


def test_unit_tests_mirror_the_packages() -> None:
    unit, lost = REPOSITORY / "tests" / "unit", []
    for test in unit.rglob("test_*.py"):
        folder, stem = test.parent.relative_to(unit), test.stem.removeprefix("test_")
        modules = {p.stem for p in (REPOSITORY / folder).glob("*.py")} | {folder.name}
        if not any(stem == m or stem.startswith(f"{m}_") for m in modules):
            lost.append(test.relative_to(unit).as_posix())
    assert lost == []


def test_every_page_of_the_docs_is_in_the_index() -> None:
    index = document("docs/index.md")
    pages = [p.name for p in (REPOSITORY / "docs").glob("*.md") if p.name != "index.md"]
    assert [name for name in pages if f"({name})" not in index] == []
