"""Studies that take seconds: runs of small images in this process, or made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attendet.comparison import study as comparison
from attendet.comparison.records import write_detections
from attendet.comparison.run_job import run_and_report
from attendet.comparison.study import Study, compare
from attendet.comparison.variants import Job
from attendet.data import load_dataset
from attendet.detections import Detections
from attendet.evaluation import compute_metrics
from attendet.files import write_atomically

TINY: dict[str, Any] = {
    "width_mult": 0.125,
    "size": 64,
    "batch": 4,
    "epochs": 2,
    "evaluate_every": 1,
    "precision": "32",
    "start_size_fraction": 1.0,
    "runtimes": ("torch",),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as the runs are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shapes(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The squares with three of the training images as a test split."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    shutil.copytree(squares, root)
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        (root / kind / "test").mkdir()
        for number in (0, 1, 2):
            name = f"train{number:02}.{suffix}"
            (root / kind / "train" / name).rename(root / kind / "test" / name)
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\ntest: images/test\nnames: [red, green]\n",
        encoding="utf-8",
    )
    return root


Event = tuple[Job, dict[str, Any]]


class RunsHere:
    """Makes runs in this process, and remembers them."""

    def __init__(self) -> None:
        self.slots = 1
        self.made: list[tuple[str, int, int | None]] = []

    def run(self, jobs: Iterable[Job], _: object = None) -> Iterator[Event]:
        for job in jobs:
            events: list[dict[str, Any]] = []
            events.append(run_and_report(job, events.append))
            self.made.append((job.variant.name, job.seed, job.until))
            for event in events:
                yield job, event

    def close(self) -> None:
        """Nothing is open."""


class RunsMadeUp(RunsHere):
    """Makes runs up: detections are the ground truth, shaken; the better the variant, the less.

    Attributes:
        shake: variant to the standard deviation, pixels, of a detection's edges.
        noise: the fraction by which the shaking differs between seeds.
        broken: runs that fail: variant and seed.
        shift: of the seeds, for another study of the same grid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shake: dict[str, float] = {}
        self.noise = 0.0
        self.broken: set[tuple[str, int]] = set()
        self.shift = 0

    def run(self, jobs: Iterable[Job], _: object = None) -> Iterator[Event]:
        for job in jobs:
            self.made.append((job.variant.name, job.seed, job.until))
            if (job.variant.name, job.seed) in self.broken:
                yield job, {"event": "failed", "error": "loss is not finite"}
                continue
            record = self._record(job)
            write_atomically(job.path / "record.json", json.dumps(record))
            yield job, {"event": "ended", "record": record}

    def _record(self, job: Job) -> dict[str, Any]:
        data = load_dataset(job.data)
        samples = data.split(job.split)
        rng = np.random.default_rng(job.run_seed + self.shift)
        shake = self.shake.get(job.variant.name, 2.0) * (1 + self.noise * rng.normal())
        found = [
            Detections(
                (each.boxes_xyxy + rng.normal(0, shake, each.boxes_xyxy.shape)).astype("f4"),
                rng.uniform(0.1, 0.9, len(each.class_ids)).astype("f4"),
                each.class_ids,
                data.classes,
                each.image_hw,
            )
            for each in samples
        ]
        write_detections(job.path / "detections.npz", [each.key for each in samples], found)
        metrics = dict(compute_metrics(samples, found, data.classes, curves=False))
        epochs = job.until or job.setup["recipe"]["epochs"]
        pauses = job.until is not None
        curve = [
            {"epoch": epoch + 1, "seconds": 1.0, "ap": metrics["ap"] * epoch / 10}
            for epoch in range(epochs)
        ]
        return {
            "key": job.key,
            **job.identity(),
            "run_seed": job.run_seed,
            "metrics": None if pauses else metrics,
            "split": job.split,
            "curve": curve,
            "seconds": float(epochs),
            "wall_seconds": float(epochs),
            "memory_mib": 100,
            "parameters": 10,
            "macs": 10,
            "base_weights": f"{job.run_seed:016}",
            "epochs_done": epochs,
            "stopped": "budget" if pauses else None,
            "detections": f"{job.folder}/detections.npz",
            "gates": None,
            "weights": f"{job.folder}/best.safetensors",
            "versions": {},
            "machine": {},
        }


@pytest.fixture
def runs_here(monkeypatch: pytest.MonkeyPatch) -> RunsHere:
    """What makes the runs of `study`: in this process and without figures."""
    runs = RunsHere()
    monkeypatch.setattr(comparison, "_open_executor", lambda *_: runs)
    monkeypatch.setattr("attendet.training.trainer.draw_run", lambda *_: None)
    return runs


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> RunsMadeUp:
    """What makes the runs of `study`: up, in milliseconds. Ask for it before `study`."""
    runs = RunsMadeUp()
    monkeypatch.setattr(comparison, "_open_executor", lambda *_: runs)
    return runs


@pytest.fixture
def study(request: pytest.FixtureRequest, shapes: Path, tmp_path: Path) -> Callable[..., Study]:
    """Make a tiny study of two variants and two seeds, some of it changed."""
    if "made_up" not in request.fixturenames:
        request.getfixturevalue("runs_here")

    def make(data: Path = shapes, **changes: Any) -> Study:
        settings = {
            "attention": ["none", "eca"],
            "seeds": 2,
            "output": tmp_path / "study",
            "accelerator": "cpu",
            **TINY,
            **changes,
        }
        return compare(data, **settings)

    return make


@pytest.fixture(scope="session")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study of three variants and two seeds, made once; do not write into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_open_executor", lambda *_: RunsHere())
        patch.setattr("attendet.training.trainer.draw_run", lambda *_: None)
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        study = compare(
            shapes,
            attention=["none", "ca", "eca@p5"],
            seeds=2,
            output=tmp_path_factory.mktemp("studies") / "finished",
            accelerator="cpu",
            command="attendet compare shapes",
            **TINY,
        )
        torch.set_num_threads(before)
    return study


@pytest.fixture(scope="session")
def several(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three data sets, of different images."""
    root = tmp_path_factory.mktemp("sets")
    paths = []
    for number, name in enumerate(("cells", "cards", "plates")):
        path = shutil.copytree(shapes, root / name)
        for kind, suffix in (("images", "png"), ("labels", "txt")):
            (path / kind / "train" / f"train{3 + number:02}.{suffix}").unlink()
        paths.append(path)
    return paths
