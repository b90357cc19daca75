from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attendet import system as machine

INTEL = "processor\t: 0\nmodel name\t: Xeon: 8 @ 2 GHz\nflags\t\t: fpu avx2 avx512_bf16 ht\n\n"
AMD = "processor\t: 0\nmodel name\t: EPYC\nflags\t\t: fpu avx2\n"


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPUINFO", path)
    return path


def test_processors_are_counted_from_what_linux_reports(cpuinfo: Path) -> None:
    cpuinfo.write_text(INTEL)
    assert machine.describe_machine()["processor"] == "Xeon: 8 @ 2 GHz"
    assert machine.describe_machine()["features"] == "avx2 avx512_bf16"
    assert machine.has_bfloat16()
    cpuinfo.write_text(AMD)
    assert machine.describe_machine()["processor"] == "EPYC"
    assert not machine.has_bfloat16()


def test_elsewhere_the_processor_has_some_name(cpuinfo: Path) -> None:
    assert machine.describe_machine()["processor"]
    assert not machine.has_bfloat16()


def test_the_peak_of_memory_is_that_of_this_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = np.ones(2**24)  # 128 MiB
    now = machine.peak_memory_mib()
    code = "from attendet.system import peak_memory_mib; print(peak_memory_mib())"
    started = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert held.sum() == 2**24
    assert now is not None
    assert now > 128
    assert 5 < int(started.stdout) < 128  # not what the process that started it holds
    monkeypatch.setattr(machine, "STATUS", tmp_path / "none")
    assert machine.peak_memory_mib() >= now - 1  # as getrusage has it, where that file is not


def test_the_file_cache_of_a_container_is_available_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2**24 < machine.available_memory() < 2**48
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("50000000\n")
    (tmp_path / "memory.current").write_text("48000000\n")
    assert machine.available_memory() == 2_000_000
    (tmp_path / "memory.stat").write_text("anon 9\nfile 40000000\ninactive_file 30000000\n")
    assert machine.available_memory() == 32_000_000


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert machine.available_cores() == machine.describe_machine()["cores"] == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.available_cores() == 1


def test_the_cache_folder_is_that_of_the_variable_or_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATTENDET_CACHE", str(tmp_path))
    assert machine.cache_folder() == tmp_path

    monkeypatch.setenv("ATTENDET_CACHE", "")
    assert machine.cache_folder().name in ("attendet", "Cache")  # on Windows attendet/Cache
    assert "attendet" in machine.cache_folder().parts
