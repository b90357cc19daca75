"""Training on a CUDA device: no waiting in a step, and the same weights from the same seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attendet.losses import DetectionLoss
from attendet.models import STRIDES, build
from attendet.training.callback import TrainingCallback
from attendet.training.checkpoint import RunFolder
from attendet.training.cuda_graphs import pad_objects
from attendet.training.distributed import make_fabric
from attendet.training.plan import make_plan
from attendet.training.recipe import Recipe
from attendet.training.trainer import Trainer, TrainingResult, train

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
        own = [one.clone().to(device).requires_grad_() for one in maps]
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


@pytest.mark.parametrize("attention", ["none", "ca@p4,p5,up", "cbam@stage1,p5"])
def test_replayed_steps_give_the_gradients_of_plain_ones(
    squares: Path, tmp_path: Path, attention: str
) -> None:
    """Four batches of one shape, divided by 1 and 2, then the same with a frozen backbone."""
    graphed, plain = (
        _trainer(squares, tmp_path / str(graphs), attention, cuda_graphs=graphs)
        for graphs in (True, False)
    )
    graphs = graphed._graphs
    assert graphs is not None
    recorded = []
    record = graphs.recorder.record
    graphs.recorder.record = lambda work: recorded.append(1) or record(work)  # type: ignore[method-assign]
    last = len(graphed.plan.cache) - 1
    batches = [
        plain.augmenter.batch([i, last - i], epoch=0, step=0, input_hw=(96, 96)) for i in range(4)
    ]

    for trained in (True, False):
        for trainer in (graphed, plain):
            trainer.network.backbone.requires_grad_(trained)
            trainer.network.train()
            trainer.network.zero_grad(set_to_none=not trained)
        for number, batch in enumerate(batches):
            divisor = 1 + number % 2
            losses = graphs(batch, divisor, mode=trained)
            expected = plain._add_gradients(pad_objects(batch), divisor)
            torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
            for ours, theirs in zip(_tensors(graphed), _tensors(plain), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-3)
            for trainer in (graphed, plain):
                trainer.network.zero_grad(set_to_none=False)
    assert len(recorded) >= 2
    assert len(recorded) < 2 * len(batches)


def test_a_whole_step_does_not_wait_for_the_device(squares: Path, tmp_path: Path) -> None:
    trainer = _trainer(squares, tmp_path, "ca@p4,p5,up")
    trainer.network.train()
    batch = trainer.augmenter.batch([0, 1], epoch=0, step=0, input_hw=(96, 96))
    trainer._forward_backward(batch, 0, 0, 1)
    torch.cuda.synchronize()

    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._forward_backward(batch, 0, 0, 1)
        trainer._optimizer_step(0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


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


def _trainer(squares: Path, folder: Path, attention: str, **changes: Any) -> Trainer:
    recipe = Recipe().replace(width_mult=0.125, size=96, batch=2, precision="32", **changes)
    fabric = make_fabric(accelerator="cuda", precision="32")
    fabric.launch()
    plan = make_plan(squares, attention=attention, recipe=recipe, seed=0)
    return Trainer(fabric, plan, RunFolder(folder), TrainingCallback())


def _tensors(trainer: Trainer) -> list[torch.Tensor]:
    """Return the gradients, and the statistics of batch normalization."""
    gradients = [
        torch.zeros_like(each) if each.grad is None else each.grad
        for each in trainer.network.parameters()
    ]
    return gradients + list(trainer.network.buffers())
