"""Training on a CUDA device: no waiting in a step, and the same weights from the same seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attendet.losses import DetectionLoss
from attendet.models import STRIDES, build
from attendet.training.trainer import TrainingResult, train

pytestmark = pytest.mark.gpu

Quick = Callable[..., TrainingResult]
Same = Callable[[Path, Path], bool]
SETTINGS: dict[str, Any] = {
    "accelerator": "cuda",
    "precision": "bf16",
    "mixup": 0.5,
    "multi_scale": 0.5,
    "size": 96,
    "effective_batch": 8,
    "freeze_backbone_epochs": 1,
}


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def test_the_loss_is_that_of_the_cpu_and_does_not_wait() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(4, 9, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 6 + corner.flip(1) / 2], dim=2)
    targets = (boxes, torch.randint(0, 3, (4, 9), generator=generator), corner[..., 0] < 45)
    maps = [torch.randn(4, 24, size, size, generator=generator) for size in (4, 8)]
    found = []
    for device in ("cpu", "cuda"):
        network = build(classes=["a", "b", "c"], width_mult=0.125).to(device)
        criterion = DetectionLoss(network.level_anchors, STRIDES, network.scale_x_y)
        own = [one.to(device).requires_grad_() for one in maps]
        on_device = tuple(one.to(device) for one in targets)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            terms = criterion(own, on_device)  # type: ignore[arg-type]
            torch.stack(list(terms.values())).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found.append([terms[name].cpu() for name in terms] + [one.grad.cpu() for one in own])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_the_same_seed_on_the_same_gpu_gives_the_same_weights(quick: Quick, same: Same) -> None:
    one, again = (quick(seed=1, epochs=4, **SETTINGS) for _ in range(2))

    assert same(one.last, again.last)
    assert same(one.best, again.best)
    assert [r["losses"] for r in one.records] == [r["losses"] for r in again.records]


def test_a_resumed_run_ends_with_the_same_weights(quick: Quick, same: Same, tmp_path: Path) -> None:
    first = quick(epochs=4, until_epoch=2, output=tmp_path / "stopped", **SETTINGS)

    assert same(train(resume=first.folder).last, quick(epochs=4, **SETTINGS).last)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_cuda_graphs_train_as_well_and_the_same_again(
    quick: Quick, same: Same, precision: str
) -> None:
    settings = {**SETTINGS, "epochs": 4, "precision": precision}
    plain = quick(**settings)

    one, again = (quick(cuda_graphs=True, **settings) for _ in range(2))

    assert same(one.last, again.last)
    for ours, expected in zip(one.records, plain.records, strict=True):
        assert ours["losses"] == pytest.approx(expected["losses"], rel=0.05)


def test_a_resumed_run_of_cuda_graphs_ends_close_to_the_other(quick: Quick, tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 4, "cuda_graphs": True}
    first = quick(until_epoch=2, output=tmp_path / "stopped", **settings)

    resumed, whole = train(resume=first.folder), quick(**settings)

    assert resumed.records[-1]["losses"] == pytest.approx(whole.records[-1]["losses"], rel=0.05)
