from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attendet.comparison.ray_runs import RayExecutor, execute_on_worker, save_remote_files
from attendet.comparison.records import write_study
from attendet.comparison.study import Study, compare
from attendet.comparison.variants import Job, Variant
from attendet.errors import ConfigError

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore:.*unraisable.*"
)

SETTINGS: dict[str, Any] = {"width_mult": 0.125, "size": 64, "batch": 4, "precision": "32"}


@pytest.fixture
def ray_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray on this machine, gone afterwards."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=80 * 2**20,
    )
    yield
    ray.shutdown()


def test_a_run_is_made_by_ray(
    ray_here: None, finished: Study, shapes: Path, tmp_path: Path
) -> None:
    job = _job_of(finished, shapes, tmp_path / "study")
    runs = RayExecutor("local", "cpu", None)

    events = [event for _, event in runs.run([job])]

    assert [event["event"] for event in events] == [
        "planned",
        "epoch",
        "epoch",
        "measuring",
        "ended",
    ]
    assert events[0]["pid"] != os.getpid()
    record = finished.records[0]
    assert events[-1]["record"]["metrics"]["ap"] == record["metrics"]["ap"]
    assert (job.path / "detections.npz").is_file()


@pytest.mark.slow
def test_a_study_on_ray_is_the_study(ray_here: None, shapes: Path, tmp_path: Path) -> None:
    made = compare(
        shapes,
        attention=["none", "eca"],
        seeds=1,
        output=tmp_path / "study",
        ray="local",
        runtimes=("torch",),
        accelerator="cpu",
        epochs=2,
        **SETTINGS,
    )

    assert [record["stopped"] for record in made.records] == [None, None]
    assert all(record["metrics"]["ap"] is not None for record in made.records)
    assert set(made.verdicts) == {"eca@p4,p5,up"}


@pytest.mark.slow
def test_the_run_of_a_lost_worker_is_tried_again_and_goes_on(
    ray_here: None, shapes: Path, tmp_path: Path
) -> None:
    from attendet.comparison.callback import StudyCallback

    class Killer(StudyCallback):
        killed = 0
        pid = 0
        lost = 0

        def run_event(self, job: Job, event: dict[str, Any]) -> None:
            if event["event"] == "planned":
                self.pid = event["pid"]
            if event["event"] == "lost":
                self.lost += 1
            if event["event"] == "epoch" and event["epoch"] >= 3 and not self.killed:
                self.killed = self.pid
                os.kill(self.pid, signal.SIGKILL)

    killer = Killer()
    made = compare(
        shapes,
        attention=["none", "eca"],
        seeds=1,
        output=tmp_path / "study",
        ray="local",
        runtimes=("torch",),
        accelerator="cpu",
        epochs=150,
        callback=killer,
        **SETTINGS,
    )

    assert killer.killed
    assert killer.lost == 1
    assert [record["stopped"] for record in made.records] == [None, None]
    assert all(record["epochs_done"] == 150 for record in made.records)


def test_a_machine_that_does_not_see_the_folder_sends_the_files(
    finished: Study, runs_here: Any, shapes: Path, tmp_path: Path
) -> None:
    made, record = finished, finished.records[0]
    job = _job_of(made, shapes, tmp_path / "far")
    events: list[dict[str, Any]] = []

    event = execute_on_worker(job, events.append)

    assert event["event"] == "ended"
    assert not job.path.exists()
    bare = save_remote_files(job, event)
    assert bare["record"]["metrics"]["ap"] == record["metrics"]["ap"]
    assert {path.name for path in job.path.iterdir()} >= {
        "record.json",
        "detections.npz",
        "best.safetensors",
        "results.jsonl",
    }
    assert "files" not in bare
    assert {each["event"] for each in events} == {"planned", "epoch", "measuring"}


def test_a_machine_that_sees_the_folder_works_in_it(
    finished: Study, runs_here: Any, shapes: Path, tmp_path: Path
) -> None:
    made = finished
    job = _job_of(made, shapes, tmp_path / "near")
    write_study(tmp_path / "near", {"setup": made.summary["setup"]})

    event = execute_on_worker(job, lambda _: None)

    assert "files" not in event
    assert (job.path / "record.json").is_file()


def _job_of(made: Study, shapes: Path, folder: Path) -> Job:
    return Job(
        variant=Variant("none"),
        seed=0,
        setup=made.summary["setup"],
        data=str(shapes),
        format=None,
        pretrained=None,
        accelerator="cpu",
        study=str(folder),
    )


def test_other_data_on_a_machine_is_refused(
    finished: Study, runs_here: Any, shapes: Path, tmp_path: Path
) -> None:
    made = finished
    job = _job_of(made, shapes, tmp_path / "far")
    data = {**job.setup["data"], "train": "00" * 8}
    other = dataclasses.replace(job, setup={**job.setup, "data": data})

    event = execute_on_worker(other, lambda _: None)

    assert event["event"] == "failed"
    assert "data must be the same as at the start" in event["error"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_no_cluster_is_said_in_a_line(address: str) -> None:
    pytest.importorskip("ray")

    with pytest.raises(ConfigError, match=f"address of a running cluster; got '{address}'"):
        RayExecutor(address, "cpu", None)
