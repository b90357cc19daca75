"""Training steps as graphs, recorded by a stand-in on the CPU; test_gpu.py has the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attendet.attention import attention_names
from attendet.data import Batch
from attendet.errors import ConfigError
from attendet.losses import DetectionLoss, LossConfig
from attendet.models import STRIDES, build
from attendet.training import cuda_graphs
from attendet.training.cuda_graphs import GraphedSteps, check_cuda_graphs, pad_objects
from attendet.training.trainer import Trainer, TrainingResult

MakeTrainer = Callable[..., Trainer]
Quick = Callable[..., TrainingResult]


class CpuRecorder:
    """Does again at each replay what was recorded, with the tensors that it was recorded with."""

    def __init__(self) -> None:
        self.runs = self.records = self.replays = 0

    def run(self, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        self.runs += 1
        return work()

    def record(
        self, work: Callable[[], dict[str, Tensor]]
    ) -> tuple[Callable[[], None], dict[str, Tensor]]:
        self.records += 1
        losses = {name: torch.zeros(()) for name in ("box", "objectness", "class")}

        def replay() -> None:
            self.replays += 1
            for name, value in work().items():
                losses[name].copy_(value)

        return replay, losses


def _use_graphs(trainer: Trainer) -> CpuRecorder:
    recorder = CpuRecorder()
    trainer._graphs = GraphedSteps(trainer._add_gradients, recorder)
    return recorder


def _batch(objects: int, size: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(objects)
    corner = torch.rand(2, objects, 2, generator=generator) * size / 2
    boxes = torch.cat([corner, corner + size / 4], dim=2)
    ids = torch.zeros(2, objects, dtype=torch.int64)
    return Batch(torch.rand(2, 3, size, size, generator=generator), boxes, ids, ids == 0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"effective_batch": 8, "freeze_backbone_epochs": 1},
        {"multi_scale": 0.5, "size": 96, "clip_norm": 0.1},
    ],
    ids=["plain", "accumulated", "sizes"],
)
def test_a_run_of_graphs_is_the_run_without(trainer: MakeTrainer, changes: dict[str, Any]) -> None:
    settings = {"epochs": 4, "warmup_epochs": 0, "optimizer": "adamw", **changes}
    plain, graphed = trainer(**settings), trainer(**settings)
    recorder = _use_graphs(graphed)
    for run in (plain, graphed):
        run.criterion.static_shapes = True

    for epoch in range(3):
        losses, expected = graphed.run_epoch(epoch)["losses"], plain.run_epoch(epoch)["losses"]
        assert losses == pytest.approx(expected, rel=1e-3)

    assert recorder.replays > 0
    assert recorder.runs + recorder.replays == 9
    state = graphed.network.state_dict()
    for name, tensor in plain.network.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=2e-3, atol=2e-4)


def test_a_shape_is_recorded_at_its_second_step_and_then_replayed(trainer: MakeTrainer) -> None:
    run = trainer()
    recorder = _use_graphs(run)
    run._set_mode(0)
    graphs = run._graphs
    assert graphs is not None

    found = [
        (graphs(_batch(objects), 1), recorder.runs, recorder.records, recorder.replays)
        for objects in (3, 7, 1, 9, 12)
    ]

    assert [numbers for _, *numbers in found] == [
        [1, 0, 0],  # 8 slots
        [1, 1, 1],
        [1, 1, 2],
        [2, 1, 2],  # 16 slots
        [2, 2, 3],
    ]
    assert len({float(losses["box"]) for losses, *_ in found}) == 5  # none was overwritten


def test_the_oldest_graph_goes_when_there_are_too_many(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    run = trainer()
    recorder = _use_graphs(run)
    run._set_mode(0)
    graphs = run._graphs
    assert graphs is not None

    for size in (64, 64, 96, 96, 64, 128, 128, 64):
        graphs(_batch(2, size), 1)
    assert recorder.records == 3  # 96 went, as 64 was used after it

    graphs(_batch(2, 96), 1)
    assert recorder.records == 4


@pytest.mark.parametrize(("objects", "slots"), [(1, 8), (8, 8), (9, 16), (33, 64)])
def test_objects_are_padded_without_a_change_of_the_loss(objects: int, slots: int) -> None:
    network = build(classes=["a"], width_mult=0.125)
    criterion = DetectionLoss(network.level_anchors, STRIDES, network.scale_x_y)
    batch = _batch(objects)

    padded = pad_objects(batch)

    assert [tensor.shape[1] for tensor in padded[1:]] == [slots] * 3
    assert padded.gt_valid.sum() == batch.gt_valid.sum()
    maps = network(batch.images)
    expected = criterion(maps, batch[1:])
    for name, term in criterion(maps, padded[1:]).items():
        torch.testing.assert_close(term, expected[name])


@pytest.mark.parametrize(
    ("attention", "assignment"),
    [("none", "classic"), *((name, "dynamic") for name in ("none", *attention_names()))],
)
def test_no_step_reads_a_value_or_takes_a_tensor_from_the_cpu(
    attention: str, assignment: Any
) -> None:
    """No operation reads a number, and on the meta device none meets a tensor of another device."""
    spec = attention if attention == "none" else f"{attention}@p4,p5,up"
    network = build(classes=["a", "b"], width_mult=0.25, attention=spec).train()
    config = LossConfig(assignment=assignment)
    batch = pad_objects(_batch(5))
    criterion = DetectionLoss(network.level_anchors, STRIDES, network.scale_x_y, config)
    criterion.static_shapes = True

    with torch.profiler.profile() as seen:
        terms = criterion(network(batch.images), batch[1:])
        torch.stack(list(terms.values())).sum().backward()

    operations = {event.key for event in seen.key_averages()}
    assert "aten::convolution_backward" in operations
    assert not operations & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}

    network.zero_grad()
    network = network.to("meta")
    anchors = [level.to("meta") for level in network.level_anchors]
    criterion = DetectionLoss(anchors, STRIDES, network.scale_x_y, config)
    batch = Batch(*(tensor.to("meta") for tensor in batch))

    terms = criterion(network(batch.images), batch[1:])
    torch.stack(list(terms.values())).sum().backward()

    assert all(
        parameter.grad is not None and parameter.grad.is_meta for parameter in network.parameters()
    )


@pytest.mark.parametrize(
    ("device", "processes", "precision", "words"),
    [
        ("cpu", 1, "32-true", "a CUDA device; got cpu"),
        ("cuda", 2, "bf16-mixed", "one process; got 2"),
        ("cuda", 1, "16-mixed", "precision bf16 or 32; got 16"),
    ],
)
def test_what_cannot_be_recorded_is_one_clear_error(
    device: str, processes: int, precision: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_cuda_graphs(torch.device(device), processes=processes, precision=precision)


def test_graphs_on_a_cpu_are_refused_before_anything_starts(quick: Quick, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--cuda-graphs"):
        quick(cuda_graphs=True, output=tmp_path / "refused")

    assert not (tmp_path / "refused").exists()


def test_gradients_stay_where_they_are(trainer: MakeTrainer) -> None:
    run = trainer(epochs=4, warmup_epochs=0)
    _use_graphs(run)
    run.run_epoch(0)
    where = [_address(parameter) for parameter in run.network.parameters()]

    run.run_epoch(1)

    assert [_address(parameter) for parameter in run.network.parameters()] == where
    assert all(parameter.grad is not None for parameter in run.network.parameters())


def _address(parameter: nn.Parameter) -> int:
    return 0 if parameter.grad is None else parameter.grad.data_ptr()
