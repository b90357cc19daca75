"""Runs that take a second: ten small images, an eighth of the channels, one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from attendet.models import WeightsMetadata, build_from_metadata, save_weights
from attendet.training.callback import TrainingCallback
from attendet.training.checkpoint import RunFolder
from attendet.training.distributed import make_fabric
from attendet.training.plan import make_plan
from attendet.training.recipe import Recipe
from attendet.training.trainer import Trainer, TrainingResult, train

TINY: dict[str, Any] = {
    "width_mult": 0.125,
    "size": 64,
    "batch": 4,
    "epochs": 2,
    "evaluate_every": 1,
    "precision": "32",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as the runs are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> dict[str, Any]:
    """Settings of a run that takes a second."""
    return dict(TINY)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures at the end of a run, which take longer than the run."""
    monkeypatch.setattr("attendet.training.trainer.draw_run", lambda *_: None)


@pytest.fixture
def quick(squares: Path, tmp_path: Path, undrawn: None) -> Callable[..., TrainingResult]:
    """Train on the squares with the tiny settings, some changed; no figures are drawn."""
    count = 0

    def run(data: Any = squares, **changes: Any) -> TrainingResult:
        nonlocal count
        count += 1
        settings = {"accelerator": "cpu", "output": tmp_path / f"run{count}", **TINY, **changes}
        return train(data, **settings)

    return run


@pytest.fixture
def trainer(squares: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """Make a trainer of the squares with the tiny settings, some changed."""

    def make(*, seed: int = 0, attention: str = "ca", **changes: Any) -> Trainer:
        recipe = Recipe().replace(**{**TINY, **changes})
        plan = make_plan(squares, attention=attention, recipe=recipe, seed=seed)
        fabric = make_fabric(accelerator="cpu", precision=recipe.precision)
        fabric.launch()
        return Trainer(fabric, plan, RunFolder(tmp_path / "run"), TrainingCallback())

    return make


@pytest.fixture
def tensors() -> Callable[[Path], dict[str, Tensor]]:
    """Read the tensors of a weights file."""
    return lambda path: safetensors.torch.load_file(path)


@pytest.fixture
def same() -> Callable[[Path, Path], bool]:
    """Return whether two weights files hold the same tensors bit for bit."""

    def compare(first: Path, second: Path) -> bool:
        one, other = safetensors.torch.load_file(first), safetensors.torch.load_file(second)
        return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)

    return compare


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[WeightsMetadata], Path]:
    """Write the weights of a description; every tensor differs from a new network's."""

    def save(metadata: WeightsMetadata) -> Path:
        torch.manual_seed(1)
        network = build_from_metadata(metadata)
        with torch.no_grad():
            for tensor in network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor) * 0.1)
        return save_weights(tmp_path / "base1.safetensors", network, metadata)

    return save
