"""What the command line loads before it knows what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["predct"]])
def test_the_overview_loads_neither_torch_nor_opencv(words: list[str]) -> None:
    code = (
        "import sys; from attendet.cli import main; "
        f"main({words!r}); sys.exit(bool({{'torch', 'cv2', 'numpy', 'rich'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr


def test_help_of_predict_loads_neither_torch_nor_opencv() -> None:
    code = (
        "import sys, contextlib; from attendet.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['predict', '--help'])\n"
        "sys.exit(bool({'torch', 'cv2', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr
    assert b"--confidence" in done.stdout
