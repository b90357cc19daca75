"""Studies that take seconds: small pictures, an eighth of the channels, runs in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attendet.study import comparison
from attendet.study.comparison import Study, compare
from attendet.study.grid import Job
from attendet.study.worker import make_run

TINY: dict[str, Any] = {
    "width": 0.125,
    "size": 64,
    "batch": 4,
    "epochs": 2,
    "evaluate_every": 1,
    "precision": "32",
    "start_size_share": 1.0,
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
    """The squares with three of the training pictures as a test split."""
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


class RunsHere:
    """Makes runs in this process, and remembers them."""

    def __init__(self) -> None:
        self.slots = 1
        self.made: list[tuple[str, int, int | None]] = []

    def make(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
        for job in jobs:
            events: list[dict[str, Any]] = []
            make_run(job, events.append)
            self.made.append((job.arm_name, job.seed, job.until))
            for event in events:
                yield job, event

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def runs_here(monkeypatch: pytest.MonkeyPatch) -> RunsHere:
    """What makes the runs of `study`, in this process and without figures."""
    runs = RunsHere()
    monkeypatch.setattr(comparison, "_runs", lambda *_: runs)
    monkeypatch.setattr("attendet.training.run.draw_run", lambda *_: None)
    return runs


@pytest.fixture
def study(runs_here: RunsHere, shapes: Path, tmp_path: Path) -> Callable[..., Study]:
    """Make a tiny study of two arms and two seeds, some of it changed."""

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
    """A finished study of three arms and two seeds, made once; do not write into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_runs", lambda *_: RunsHere())
        patch.setattr("attendet.training.run.draw_run", lambda *_: None)
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
