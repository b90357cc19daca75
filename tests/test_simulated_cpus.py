"""Tests that depend on the CPU pass on other CPUs, too.

The whole suite runs on a simulated CPU with, for example, ``./dev test --simulate-cpu avx2`` or
``./dev test --simulate-cores 16``. Here a fast selection runs on each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[1]

SELECTION = (
    "tests/test_system.py",
    "tests/bench/test_measure.py::test_every_file_runs_in_every_runtime_that_can_run_it",
    "tests/bench/test_measure.py::test_bfloat16_is_a_candidate_on_cpus_that_support_it",
    "tests/training/test_trainer.py::test_bf16_gives_losses_near_those_of_float32",
    "tests/comparison/test_processes.py::test_no_more_devices_than_there_are",
)


@pytest.mark.parametrize(
    "options",
    [
        ["--simulate-cpu", "avx2", "--simulate-cores", "1"],
        ["--simulate-cpu", "bf16", "--simulate-cores", "16"],
    ],
    ids=["avx2, 1 core", "bf16, 16 cores"],
)
def test_a_selection_passes_on_a_simulated_cpu(options: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}

    result = subprocess.run(
        [*command, *options, *SELECTION],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )

    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


def test_the_simulation_reaches_subprocesses(pytestconfig: pytest.Config) -> None:
    folder = ROOT / "tests" / "simulated_cpu"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src")]),
        "ATTENDET_TEST_CORES": "3",
        "ATTENDET_TEST_CPUINFO": str(folder / "bf16.txt"),
    }
    code = "from attendet.system import *; print(available_cores(), has_bfloat16())"

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )

    assert result.stdout.split() == ["3", "True"]
