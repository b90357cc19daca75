"""`attendet serve`: it runs without torch, says where, and stops at an interrupt."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

for library in ("fastapi", "uvicorn", "onnxruntime"):
    pytest.importorskip(library)

from attendet.cli import main  # noqa: E402

WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Absent())
from attendet.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of Unix")
def test_an_exported_file_is_served_without_torch(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "one.png"
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(path)
    command = [sys.executable, "-c", WITHOUT_TORCH, "serve", str(exported["onnx"]), "--port", "0"]
    with subprocess.Popen(
        [*command, "--runtime", "onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.fullmatch(
                r"serving .*onnx at (http://127\.0\.0\.1:\d+/) \(Ctrl\+C stops\)\n", line
            )
            assert found, line + (process.stderr.read() if process.stderr else "")
            request = urllib.request.Request(f"{found[1]}predict", data=path.read_bytes())
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert b'"image_hw":[30,40]' in answer.read()
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_a_port_in_use_is_one_line(
    exported: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(exported["onnx"]), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"attendet: address must be free and belong to this machine; got 127.0.0.1:{port} ("
    )
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-upload", "0"], "max_upload must be above 0; got 0.0 (--max-upload)"),
        (["--max-waiting", "0"], "max_waiting must be 1 or more; got 0 (--max-waiting)"),
        (["--port", "99999"], "port must be from 0 to 65535; got 99999 (--port)"),
        (["--host", "203.0.113.1"], "address must be free and belong to this machine"),
        (["--host", "a..b"], "address must be free and belong to this machine; got a..b:8000"),
        (["--port", "0", "--confidence", "2"], "confidence must be from 0 to 1"),
    ],
)
def test_errors_are_one_line(
    exported: dict[str, Path],
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", str(exported["onnx"]), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
