"""Size of `pip install 'attendet[onnx]'` and `[openvino]`, and time to the first detection."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MAX_MEGABYTES = {"onnx": 400, "openvino": 480}
"""OpenVINO alone has 180, 51 of them for graphics and neural processors."""

MAX_RATIO_TO_IMPORTS = 4
"""1.6 on an idle machine; importing torch alone would be 5."""

FIRST_DETECTION = """
import json, sys, time
begun = time.perf_counter()
import attendet
detector = attendet.load(sys.argv[1], runtime=sys.argv[2])
found = detector.predict(sys.argv[3], confidence=0.3)
print(json.dumps({"seconds": time.perf_counter() - begun, "found": len(found),
                  "torch": "torch" in sys.modules, "file": attendet.__file__}))
"""


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("light") / "image.jpg"
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8))
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(path)
    return path


def _bytes_of(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize(("extra", "runtime"), [("onnx", "onnx"), ("openvino", "openvino")])
def test_a_fresh_install_detects_without_torch(
    exported: dict[str, Path], jpeg: Path, tmp_path: Path, extra: str, runtime: str
) -> None:
    clean = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    before = _bytes_of(tmp_path / "env")
    install = [python, "-m", "pip", "install", "--quiet", f"{source}[{extra}]"]
    installed = subprocess.run(install, env=clean, capture_output=True, text=True)
    if "No matching distribution" in installed.stderr or "Connection" in installed.stderr:
        pytest.skip("needs the package registry")
    assert installed.returncode == 0, installed.stderr

    megabytes = (_bytes_of(tmp_path / "env") - before) / 1e6
    missing = subprocess.run([python, "-c", "import torch"], env=clean, capture_output=True)
    result = subprocess.run(
        [python, "-c", FIRST_DETECTION, exported["onnx"], runtime, jpeg],
        env=clean,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert missing.returncode == 1
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["found"] > 0
    assert not answer["torch"]
    assert str(tmp_path) in answer["file"]
    print(f"[{extra}] {megabytes:.0f} MB, first detection {answer['seconds']:.2f} s")
    assert megabytes < MAX_MEGABYTES[extra]


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.parametrize(
    ("runtime", "library"), [("onnx", "onnxruntime"), ("openvino", "openvino")]
)
def test_the_first_detection_costs_little_more_than_its_libraries(
    exported: dict[str, Path], jpeg: Path, tmp_path: Path, runtime: str, library: str
) -> None:
    """Processor time relative to the imports, so that the speed of the machine does not matter."""
    arguments = ["predict", str(exported[runtime]), str(jpeg), "--output", str(tmp_path)]
    command = [sys.executable, "-m", "attendet", *arguments, "--save", "json"]
    imports = [sys.executable, "-c", f"import numpy, cv2, PIL.Image, {library}"]

    ours, theirs = (min(_cpu_seconds(each) for _ in range(4)) for each in (command, imports))

    assert ours < MAX_RATIO_TO_IMPORTS * theirs
