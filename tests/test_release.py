"""What a release uploads: a source archive and a wheel, and the wheel in a clean environment."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CLEAN = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}

PREDICT = """
import sys, attendet
found = attendet.load(sys.argv[1]).predict(attendet.SAMPLE_IMAGE, confidence=0.001)
print(len(found), "torch" in sys.modules, attendet.__file__)
"""


def _run(*words: object, cwd: Path) -> str:
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=cwd, env=CLEAN, capture_output=True, text=True)
    if "No matching distribution" in done.stderr or "Connection" in done.stderr:
        pytest.skip("needs the package registry")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(exported: dict[str, Path], tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    bin_folder = tmp_path / "env" / "bin"
    python = bin_folder / "python"
    pip_install = (python, "-m", "pip", "install", "--quiet")
    _run(*pip_install, "build", cwd=tmp_path)
    _run(python, "-m", "build", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)

    (archive,) = tmp_path.glob("dist/attendet-*.tar.gz")
    (wheel,) = tmp_path.glob("dist/attendet-*-py3-none-any.whl")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "README.zh.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "pyproject.toml",
    } <= names
    assert "src/attendet/sample.jpg" in names
    assert "tests/test_release.py" in names
    assert not {name for name in names if name.startswith(("docs/studies", "benchmarks"))}
    assert archive.stat().st_size < 3e6
    with zipfile.ZipFile(wheel) as packed:
        inside = set(packed.namelist())
    tracked = _run("git", "ls-files", "src/attendet", cwd=ROOT).splitlines()
    assert {name.removeprefix("src/") for name in tracked} <= inside

    _run(*pip_install, f"{wheel}[onnx]", cwd=tmp_path)
    assert "usage: attendet COMMAND" in _run(bin_folder / "attendet", "--help", cwd=tmp_path)
    count, has_torch, file = _run(python, "-c", PREDICT, exported["onnx"], cwd=tmp_path).split()
    assert int(count) > 0
    assert has_torch == "False"
    assert file.startswith(str(tmp_path))
    sample = tmp_path / "env" / Path(file).with_name("sample.jpg")
    flags = ("--save", "json", "--output", tmp_path / "out")
    _run(bin_folder / "attendet", "predict", exported["onnx"], sample, *flags, cwd=tmp_path)
    assert (tmp_path / "out" / "detections.json").is_file()


def test_the_citation_has_the_version_of_the_package() -> None:
    import attendet

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

    assert citation["version"] == attendet.__version__
    assert citation["cff-version"] == "1.2.0"
    assert re.match(r"attendet: ", citation["title"])
