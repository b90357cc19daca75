from __future__ import annotations

import os
from pathlib import Path

import pytest

from attendet import machine

INTEL = "processor\t: 0\nmodel name\t: Xeon: 8 @ 2 GHz\nflags\t\t: fpu avx2 avx512_bf16 ht\n\n"
AMD = "processor\t: 0\nmodel name\t: EPYC\nflags\t\t: fpu avx2\n"


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPUINFO", path)
    return path


def test_processors_are_told_by_what_linux_says(cpuinfo: Path) -> None:
    cpuinfo.write_text(INTEL)
    assert machine.describe_machine()["processor"] == "Xeon: 8 @ 2 GHz"
    assert machine.has_bfloat16()
    cpuinfo.write_text(AMD)
    assert machine.describe_machine()["processor"] == "EPYC"
    assert not machine.has_bfloat16()


def test_elsewhere_the_processor_has_some_name(cpuinfo: Path) -> None:
    assert machine.describe_machine()["processor"]
    assert not machine.has_bfloat16()


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert machine.available_cores() == machine.describe_machine()["cores"] == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.available_cores() == 1
