"""The package structure: imports point downwards, light modules load no heavy library."""

from __future__ import annotations

import ast
import itertools
import os
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import attendet
from attendet.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "attendet"
FILES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))

HEAVY = (
    *(
        "faster_coco_eval",
        "jinja2",
        "lightning_fabric",
        "matplotlib",
        "mlxtend",
        "psutil",
        "skimage",
    ),
    *("onnx", "onnxruntime", "openvino"),
    *("sklearn", "supervision", "tensorboard", "torch", "torchvision"),
)
"""What only the extras bring."""

LIGHT_MODULES = (
    *("attendet", "attendet.bench", "attendet.boxes", "attendet.cli", "attendet.config"),
    *("attendet.data",),
    *("attendet.detections", "attendet.errors", "attendet.evaluation", "attendet.system"),
    *("attendet.inference", "attendet.models.metadata", "attendet.images", "attendet.report"),
)
"""What must work after ``pip install attendet`` without extras."""

WITHOUT_EXTRAS = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def _python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **variables},
    )


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8"))


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# --- imports -----------------------------------------------------------------------------------


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
    )


def test_packages_import_downwards_only() -> None:
    result = _lint_imports(ROOT)

    assert result.returncode == 0, result.stdout + result.stderr


def test_an_upward_import_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "src" / "attendet" / "boxes.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef upwards() -> None:\n    import attendet.training\n")

    result = _lint_imports(tmp_path)

    assert result.returncode == 1
    assert "attendet.boxes -> attendet.training" in result.stdout


def test_the_light_modules_need_no_extra() -> None:
    result = _python(WITHOUT_EXTRAS + "\n".join(f"import {name}" for name in LIGHT_MODULES))

    assert result.returncode == 0, result.stderr


def test_importing_the_package_loads_no_heavy_module() -> None:
    heavy = (*HEAVY, "cv2", "numpy", "PIL", "rich")

    result = _python(f"import sys, attendet; print(*sys.modules.keys() & {set(heavy)!r})")

    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_its_help_without_extras(command: str) -> None:
    result = _python(
        WITHOUT_EXTRAS + f"from attendet.cli import main\nmain([{command!r}, '--help'])"
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: attendet {command}")


def test_help_takes_less_than_a_third_of_a_second() -> None:
    command = [sys.executable, "-m", "attendet", "--help"]

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3  # of processor time: fair on a busy machine


def test_every_public_name_of_the_package_can_be_had() -> None:
    pytest.importorskip("torch")

    for name in attendet.__all__:
        assert getattr(attendet, name) is not None
    assert dir(attendet) == sorted(attendet.__all__)
    with pytest.raises(AttributeError, match="No attendet attribute trian"):
        attendet.trian  # noqa: B018


# --- functions and modules ---------------------------------------------------------------------


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without those of its docstring."""
    docstring = ast.get_docstring(node, clean=False) or ""
    written = docstring.count("\n") + 1 if docstring else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - written


def test_functions_are_mostly_under_fifty_lines_without_their_docstring() -> None:
    lengths = {
        f"{name}:{node.lineno} {node.name}": _length(node)
        for name, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    long = {name: lines for name, lines in lengths.items() if lines > 50}

    assert {name: lines for name, lines in long.items() if lines > 100} == {}
    assert len(long) < 0.05 * len(lengths), long


def _documented(node: ast.FunctionDef | ast.ClassDef, section: str) -> set[str]:
    """Return the names in a section of a docstring."""
    lines = (ast.get_docstring(node) or "").partition(f"{section}:\n")[2].split("\n")
    entries = itertools.takewhile(lambda line: line.startswith("    ") or not line, lines)
    found = (re.match(r" {4}(\*{0,2}\w+(, \*{0,2}\w+)*):", line) for line in entries)
    return {name.strip(" *") for entry in found if entry for name in entry[1].split(",")}


def _fields(node: ast.ClassDef) -> set[str]:
    targets = (each.target for each in node.body if isinstance(each, ast.AnnAssign))
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Return the parameters of a function, or of a class: fields and those of ``__init__``."""
    if isinstance(node, ast.ClassDef):
        made = [each for each in node.body if getattr(each, "name", "") == "__init__"]
        return _fields(node).union(*(_parameters(each) for each in made))  # type: ignore[arg-type]
    return {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}


def test_docstrings_name_the_parameters_and_fields_that_exist() -> None:
    unknown, missing = [], []
    for file, tree in _trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            real, arguments = _parameters(node), _documented(node, "Args")
            if real:  # else a class that inherits them
                unknown += [f"{file} {node.name}: {name}" for name in arguments - real]
            listed = arguments
            if isinstance(node, ast.ClassDef):
                real, listed = _fields(node), _documented(node, "Attributes")
            if listed and not node.name.startswith("_"):
                lacking = {name for name in real - listed if name[0] != "_"} - {"self", "cls"}
                missing += [f"{file} {node.name}: {name}" for name in lacking]

    assert unknown == []
    assert missing == []


def test_no_module_is_a_junk_drawer() -> None:
    drawers = {"util", "utils", "helper", "helpers", "misc", "common", "tools"}

    assert [path.name for path in FILES if {path.stem, path.parent.name} & drawers] == []


def test_only_the_command_line_prints() -> None:
    printing = [
        f"{name}:{call.lineno}"
        for name, tree in _trees()
        if not name.startswith("cli/")
        for function, call in _calls(tree)
        if function in ("print", "sys.stdout.write", "sys.stderr.write")
    ]

    assert printing == []


def test_the_source_asserts_nothing() -> None:
    asserting = [
        f"{name}:{node.lineno}"
        for name, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]

    assert asserting == []  # python -O would drop it: raise an error of attendet.errors instead


def test_files_of_others_are_never_executed() -> None:
    banned = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system"}
    found = []
    for name, tree in _trees():
        for function, call in _calls(tree):
            keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
            unsafe_load = function == "torch.load" and keywords.get("weights_only") != "True"
            through_shell = function.startswith("subprocess.") and "shell" in keywords
            if function in banned or unsafe_load or through_shell:
                found.append(f"{name}:{call.lineno} {function}")

    assert found == []


def test_an_extra_that_is_asked_for_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    asked = {
        ast.literal_eval(word.value)
        for _, tree in _trees()
        for function, call in _calls(tree)
        if function.split(".")[-1] == "require"
        for word in call.keywords
        if word.arg == "extra" and isinstance(word.value, ast.Constant)
    }

    assert asked <= extras


# --- what stands around it ---------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_tests_of_its_own(package: str) -> None:
    assert list((ROOT / "tests" / package).glob("test_*.py")), f"tests/{package}/ mirrors src"


def test_a_command_has_a_module_and_a_module_a_command() -> None:
    modules = {path.stem.rstrip("_") for path in (PACKAGE / "cli").glob("[!_]*.py")}

    assert {command.replace("-", "_") for command in COMMANDS} <= modules


def test_the_changelog_knows_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", changelog, flags=re.MULTILINE)

    assert versions[0] == "Unreleased"
    assert attendet.__version__ in versions


def test_continuous_integration_runs_what_people_run() -> None:
    for script in (ROOT / "dev", ROOT / ".ci" / "run"):
        assert os.access(script, os.X_OK), f"{script.name} must be executable"

    assert "./dev test" in (ROOT / ".ci" / "run").read_text()
    assert "./dev test" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_the_architecture_page_shows_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

    assert [package for package in PACKAGES if f"{package}/" not in page] == []


def test_decision_records_are_numbered_and_complete() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [int(path.name[:4]) for path in records]

    assert numbers == list(range(len(records)))
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in records[1:] if f"({path.name})" not in index] == []
    for path in records:
        text = path.read_text(encoding="utf-8")
        for heading in ("## Question", "## Decision", "## Consequences"):
            assert heading in text, f"{path.name} lacks {heading!r}"
