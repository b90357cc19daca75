"""Runs in processes of their own, as users have them."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attendet.comparison.processes import (
    MAX_ATTEMPTS,
    LocalExecutor,
    _Attempt,
    _run_in_process,
    device_names,
)
from attendet.comparison.run_job import machine, memory_use, possible_runs
from attendet.comparison.study import Study
from attendet.comparison.variants import Job, Variant
from attendet.errors import ConfigError
from attendet.files import read_json_lines
from attendet.training.checkpoint import RunFolder
from attendet.training.plan import make_plan
from attendet.training.recipe import Recipe

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes split off")


def _job(shapes: Path, study: Path, seed: int = 0, **changes: Any) -> Job:
    from attendet.data import load_dataset

    dataset = load_dataset(shapes)
    settings: dict[str, Any] = {"width_mult": 0.125, "size": 64, "batch": 4, "epochs": 1, **changes}
    recipe = Recipe().replace(precision="32", **settings).as_dict()
    del recipe["attention_init"]
    fingerprints = {split: dataset.fingerprint(split) for split in dataset.splits}
    return Job(
        variant=Variant("none"),
        seed=seed,
        setup={"data": fingerprints, "recipe": recipe, "split": "test"},
        data=str(shapes),
        format=None,
        pretrained=None,
        accelerator="cpu",
        study=str(study),
    )


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], LocalExecutor]]:
    """Make runs on so many devices; their processes have one thread."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    open_runs = []

    def make(devices: int = 1) -> LocalExecutor:
        open_runs.append(LocalExecutor(["cpu"] * devices))
        return open_runs[-1]

    yield make
    for each in open_runs:
        each.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def _gone(pid: int, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if not _alive(pid):
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_runs_have_processes_of_their_own_and_one_that_dies_is_tried_again(
    runs: Callable[[int], LocalExecutor], shapes: Path, tmp_path: Path
) -> None:
    long, short = jobs = [_job(shapes, tmp_path, epochs=400), _job(shapes, tmp_path)]
    seen: dict[str, list[dict[str, Any]]] = {long.key: [], short.key: []}
    pids: list[int] = []

    for job, event in runs(1).run(iter(jobs)):
        seen[job.key].append(event)
        if event["event"] == "planned":
            pids.append(event["pid"])
        if event["event"] == "epoch" and job.key == long.key and event["epoch"] >= 3:
            os.kill(pids[-1], signal.SIGKILL)
            _gone(pids[-1])

    lost = [event for event in seen[long.key] if event["event"] == "lost"]
    assert [event["attempt"] for event in lost] == list(range(1, MAX_ATTEMPTS + 1))
    assert lost[0]["why"] == "signal 9"
    assert seen[long.key][-1] == {"event": "failed", "error": "its process died (signal 9)"}
    assert seen[short.key][-1]["event"] == "ended"
    assert seen[short.key][-1]["record"]["metrics"]["ap"] is not None
    assert len(set(pids)) == len(pids) == MAX_ATTEMPTS + 1
    records = RunFolder(long.path).records()
    assert [record["epoch"] for record in records] == list(range(1, len(records) + 1))


def test_a_run_that_raises_is_reported_and_its_trace_is_kept(
    runs: Callable[[int], LocalExecutor], shapes: Path, tmp_path: Path
) -> None:
    bad = dataclasses.replace(_job(shapes, tmp_path), data="/nowhere")

    (*_, (_, last)) = runs(1).run([bad])

    assert last["event"] == "failed"
    assert "/nowhere" in last["error"]


@pytest.mark.slow
def test_two_devices_work_at_once(
    runs: Callable[[int], LocalExecutor], shapes: Path, tmp_path: Path
) -> None:
    jobs = [_job(shapes, tmp_path, seed, epochs=20) for seed in range(2)]

    order = [job.seed for job, event in runs(2).run(jobs) if event["event"] in ("epoch", "ended")]

    assert order != sorted(order)  # the events of the two come mixed


def test_no_more_devices_than_there_are() -> None:
    assert device_names("cpu", None) == ["cpu"]
    assert device_names("cpu", 3) == ["cpu"] * 3
    with pytest.raises(ConfigError, match="devices must be at least 1; got 0"):
        device_names("cpu", 0)
    assert device_names("cpu", None, 2) == ["cpu", "cpu"]
    with pytest.raises(ConfigError, match="runs_per_device must be at least 1; got 0"):
        device_names("cpu", None, 0)


def test_gpus_are_named_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device_names("auto", None) == ["cuda:0", "cuda:1"]
    assert device_names("cpu", None) == ["cpu"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab")
    assert device_names("cuda", 2) == ["cuda:3", "cuda:GPU-ab"]
    two_each = device_names("cuda", None, 2)
    assert two_each == ["cuda:3", "cuda:GPU-ab"] * 2  # a run on each GPU before a second one
    with pytest.raises(ConfigError, match="at most 2, the number of GPUs; got 3"):
        device_names("auto", 3)


def _losses(results: Path) -> list[dict[str, float]]:
    return [record["losses"] for record in read_json_lines(results)]


def test_runs_that_have_a_device_in_common_have_a_part_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("attendet.comparison.processes.available_cores", lambda: 8)
    assert LocalExecutor(["cuda:0", "cuda:1"])._threads is None
    assert LocalExecutor(["cuda:0", "cuda:1"] * 2)._threads == 2
    assert LocalExecutor(["cpu"] * 3)._threads == 2
    assert LocalExecutor(["cpu"])._threads is None


def test_a_device_works_on_as_many_runs_as_the_first_one_leaves_memory_for(
    monkeypatch: pytest.MonkeyPatch, shapes: Path, tmp_path: Path
) -> None:
    """Fake devices: 2 GPUs with memory for 3 and 40 runs, 8 cores."""
    possible = {"cuda:0": 3, "cuda:1": 40}
    started: list[tuple[str, int]] = []

    def start(self: LocalExecutor, job: Job, device: str, number: int, loaded: Any) -> None:
        started.append((device, self.slots))
        ours, theirs = multiprocessing.Pipe()
        theirs.send({"event": "planned", "pid": 0})
        for epoch in (1, 2):
            theirs.send({"event": "epoch", "epoch": epoch, "possible_runs": possible[device]})
        theirs.send({"event": "ended", "record": {}})
        theirs.close()
        process = SimpleNamespace(join=lambda: None, exitcode=0)
        self._running[ours] = _Attempt(job, device, number, process, loaded)

    monkeypatch.setattr(LocalExecutor, "_start", start)
    monkeypatch.setattr("attendet.comparison.processes.available_cores", lambda: 8)
    runs = LocalExecutor(["cuda:0", "cuda:1"], auto=True)
    jobs = [_job(shapes, tmp_path, seed) for seed in range(9)]

    events = [event for _, event in runs.run(jobs)]

    chosen = [event for event in events if event["event"] == "runs_chosen"]
    assert {event["device"]: event["runs"] for event in chosen} == {"cuda:0": 3, "cuda:1": 4}
    assert runs.slots == 7
    assert runs._threads == 1
    assert [slots for _, slots in started] == [2, 2] + [7] * 7  # none before the first is measured
    assert sorted(device for device, _ in started[2:7]) == ["cuda:0"] * 2 + ["cuda:1"] * 3

    events = [event for _, event in runs.run(jobs)]  # the next data set

    assert "runs_chosen" not in [event["event"] for event in events]
    assert sorted(device for device, _ in started[9:16]) == ["cuda:0"] * 3 + ["cuda:1"] * 4


def test_the_libraries_of_a_run_keep_to_its_threads(
    monkeypatch: pytest.MonkeyPatch, shapes: Path, tmp_path: Path
) -> None:
    limits: list[tuple[str, int]] = []
    monkeypatch.setattr("torch.set_num_threads", lambda count: limits.append(("torch", count)))
    monkeypatch.setattr("cv2.setNumThreads", lambda count: limits.append(("cv2", count)))
    monkeypatch.setattr("attendet.comparison.processes.signal.signal", lambda *_: None)
    monkeypatch.setattr("attendet.comparison.processes._exit_with_parent", lambda: None)
    monkeypatch.setattr("attendet.comparison.processes.os.dup2", lambda *_: None)
    monkeypatch.setattr("attendet.comparison.processes.run_and_report", lambda *_: {})
    ours, theirs = multiprocessing.Pipe()

    _run_in_process(_job(shapes, tmp_path), "cpu", 3, None, theirs)
    ours.close()

    assert limits == [("torch", 3), ("cv2", 3)]


def test_runs_in_later_epochs_with_a_larger_input_need_more_memory(squares: Path) -> None:
    recipe = Recipe(epochs=4, size=128, resize="letterbox", start_size_fraction=0.5)
    plan = make_plan(squares, attention="none", recipe=recipe, seed=0)
    plan.cache.close()
    gigabyte = 2**30
    assert possible_runs((gigabyte, 15 * gigabyte), plan, 0) == 4  # 64 px now, 128 px later
    assert possible_runs((gigabyte, 15 * gigabyte), plan, 3) == 16
    assert possible_runs((gigabyte, 0), plan, 0) == 1


def test_the_device_of_a_record_is_the_one_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "H200")
    used = [machine(device)["device"] for device in ("cuda", "mps", "cpu")]
    assert used == ["H200", "mps", "cpu"]


def test_on_a_gpu_all_memory_in_use_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (70, 80))
    assert memory_use("auto") == (10, 70)
    used, free = memory_use("cpu")
    assert used > 2**20
    assert free > 2**20


def test_a_study_that_is_killed_goes_on(
    study: Callable[..., Study], shapes: Path, tmp_path: Path
) -> None:
    """The command, SIGKILL in the middle of a run, the command again: the same records."""
    words = [
        *("compare", str(shapes), "--attention", "none", "eca", "--seeds", "1"),
        *("--width-mult", "0.125", "--size", "64", "--batch", "4", "--precision", "32"),
        *("--epochs", "30", "--evaluate-every", "10", "--accelerator", "cpu"),
        *("--output", str(tmp_path / "killed")),
    ]
    command = [sys.executable, "-m", "attendet", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    runs_folder = tmp_path / "killed" / "runs"
    try:
        second = _wait_for(lambda: next(iter(runs_folder.glob("eca*/results.jsonl")), None))
        _wait_for(lambda: len(second.read_text().splitlines()) >= 3)
    finally:
        process.kill()
        process.wait()
    done = next(runs_folder.glob("none*/record.json"))
    written = done.stat().st_mtime_ns
    half = _losses(second)[:2]
    assert not (second.parent / "record.json").exists()

    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    assert again.returncode == 0, again.stderr
    assert "2 runs, 1 done already" in again.stdout
    assert done.stat().st_mtime_ns == written
    assert _losses(second)[:2] == half
    straight = study(
        seeds=1, epochs=30, evaluate_every=10, start_size_fraction=0.5, output=tmp_path / "straight"
    )
    lines = (tmp_path / "killed" / "runs.jsonl").read_text().splitlines()
    for one, other in zip(map(json.loads, lines), straight.records, strict=True):
        assert one["key"] == other["key"]
        assert one["metrics"]["ap"] == other["metrics"]["ap"]
        assert one["base_weights"] == other["base_weights"]
        assert [e["losses"] for e in one["curve"]] == [e["losses"] for e in other["curve"]]


def _wait_for(look: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError("nothing came")
