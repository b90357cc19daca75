from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attendet.errors import TrainingError
from attendet.losses import DetectionLoss
from attendet.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def _feed_one_batch(trainer: Trainer) -> None:
    """Give the trainer the same images at each step."""
    batch = trainer.augmenter.batch([0, 1, 2, 3], epoch=0, step=0, mosaic_on=False)
    trainer.augmenter.batch = lambda *_, **__: batch  # type: ignore[method-assign]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_an_epoch_reports_losses_lr_and_speed(trainer: MakeTrainer, optimizer: str) -> None:
    run = trainer(epochs=4, warmup_epochs=0, lr=0.003, optimizer=optimizer)
    steps: list[dict[str, float]] = []
    run.callback.after_step = lambda _epoch, _step, _steps, terms: steps.append(terms)  # type: ignore[method-assign]

    record = run.run_epoch(0)

    assert (record["epoch"], record["learning_rate"], len(steps)) == (1, 0.003, 3)
    assert record.get("muon_lr") == (0.005 if optimizer == "muon" else None)
    assert set(record["losses"]) == {"box", "objectness", "class"}
    for name, mean in record["losses"].items():
        assert mean == pytest.approx(sum(terms[name] for terms in steps) / 3, abs=1e-6)
    assert record["images_per_second"] == pytest.approx(12 / record["seconds"], rel=0.05)
    assert 0 <= record["overhead_fraction"] <= 1


def test_one_batch_again_and_again_is_learnt(trainer: MakeTrainer) -> None:
    run = trainer(epochs=50, lr=0.01, warmup_epochs=0)
    _feed_one_batch(run)

    first, *_, last = [sum(run.run_epoch(epoch)["losses"].values()) for epoch in range(12)]

    assert last < 0.6 * first


def test_a_frozen_backbone_stands_still_and_then_moves(trainer: MakeTrainer) -> None:
    run = trainer(epochs=10, freeze_backbone_epochs=1, weight_decay=0.5)
    backbone, neck = run.network.backbone, run.network.conv_p5
    averaged = run.average.network.backbone
    before = _copied(backbone.state_dict())
    neck_before = _copied(neck.state_dict())

    run.run_epoch(0)

    assert any(name.endswith("running_mean") for name in before)
    assert _equal(before, backbone.state_dict())
    assert _equal(before, averaged.state_dict())
    assert not _equal(neck_before, neck.state_dict())

    run.run_epoch(1)

    moved = [
        name
        for name, tensor in backbone.state_dict().items()
        if not torch.equal(before[name], tensor)
    ]
    assert set(moved) == set(before)


def test_batches_that_are_accumulated_count_as_one(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The mean gradient of a batch and the same batch is that of the batch: two steps of the
    # optimizer from batches 1 + 2 and 3 (the epoch's rest) are two steps from one batch each.
    settings = {"epochs": 10, "warmup_epochs": 0, "optimizer": "sgd", "momentum": 0.0}
    accumulated = trainer(effective_batch=8, **settings)
    plain = trainer(**settings)
    _feed_one_batch(accumulated)
    _feed_one_batch(plain)

    accumulated.run_epoch(0)
    monkeypatch.setattr(
        "attendet.training.trainer.epoch_order", lambda *_, **__: [[0, 1, 2, 3]] * 2
    )
    plain.run_epoch(0)

    assert accumulated.average.steps == plain.average.steps == 2
    for (name, one), other in zip(
        accumulated.network.named_parameters(), plain.network.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize(("nominal", "batches"), [(0, 1), (4, 1), (10, 3), (12, 3)])
def test_so_many_batches_make_a_step_that_the_nominal_one_is_seen(
    trainer: MakeTrainer, nominal: int, batches: int
) -> None:
    assert trainer(effective_batch=nominal, batch=4).accumulate == batches


def test_gradients_are_clipped_to_their_norm(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attendet.training.trainer.epoch_order", lambda *_, **__: [[0, 1, 2, 3]])
    run = trainer(
        clip_norm=0.01,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        lr=0.5,
        warmup_epochs=0,
        epochs=10,
    )
    before = [parameter.detach().clone() for parameter in run.network.parameters()]

    run.run_epoch(0)

    moves = [
        (now.detach() - then).flatten()
        for now, then in zip(run.network.parameters(), before, strict=True)
    ]
    assert torch.cat(moves).norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_mosaic_is_asked_for_until_the_plain_epochs(trainer: MakeTrainer) -> None:
    run = trainer(epochs=4, no_aug_fraction=0.5, start_size_fraction=0.5, size=128)
    asked: list[tuple[bool, tuple[int, int]]] = []
    make = run.augmenter.batch

    def spy(*args: Any, **words: Any) -> Any:
        asked.append((words["mosaic_on"], words["input_hw"]))
        return make(*args, **words)

    run.augmenter.batch = spy  # type: ignore[method-assign]
    for epoch in (0, 3):
        run.run_epoch(epoch)

    assert [on for on, _ in asked] == [True] * 3 + [False] * 3
    assert max(asked[0][1]) == 64
    assert max(asked[-1][1]) == 128


def test_bf16_gives_losses_near_those_of_float32(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attendet.training.trainer.epoch_order", lambda *_, **__: [[0, 1, 2, 3]])

    wide, narrow = (trainer(precision=name).run_epoch(0)["losses"] for name in ("32", "bf16"))

    assert narrow != wide
    for name, value in wide.items():
        assert narrow[name] == pytest.approx(value, rel=0.03)


def test_a_loss_that_is_not_finite_stops_before_the_step(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer()
    before = _copied(run.network.state_dict())
    honest = DetectionLoss.__call__

    def broken(self: DetectionLoss, *args: Any, **words: Any) -> dict[str, Tensor]:
        terms = honest(self, *args, **words)
        return {**terms, "box": terms["box"] * float("nan")}

    monkeypatch.setattr(DetectionLoss, "__call__", broken)
    with pytest.raises(TrainingError, match=r"loss must be finite.*nan.*epoch 1, step 1"):
        run.run_epoch(0)

    parameters = dict(run.network.named_parameters())
    assert all(torch.equal(before[name], parameters[name]) for name in parameters)


def test_losses_read_some_steps_later_are_the_same(trainer: MakeTrainer) -> None:
    """As on a GPU, where reading waits; the losses, their steps and the weights do not change."""
    seen: dict[int, list[Any]] = {1: [], 2: [], 10: []}
    weights = []
    for steps_to_read, steps in seen.items():
        run = trainer(effective_batch=8)
        run.steps_to_read = steps_to_read
        run.callback.after_step = lambda *step, into=steps: into.append(step)  # type: ignore[method-assign]
        record = run.run_epoch(0)
        steps.append(record["losses"])
        weights.append(run.network.state_dict())

    assert [step[:3] for step in seen[1][:-1]] == [(0, 0, 3), (0, 1, 3), (0, 2, 3)]
    assert seen[1] == seen[2] == seen[10]
    assert _equal(weights[0], weights[1])
    assert _equal(weights[0], weights[2])


def test_a_loss_that_is_read_later_is_named_with_its_step(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = DetectionLoss.__call__
    calls = 0

    def broken(self: DetectionLoss, *args: Any, **words: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        terms = honest(self, *args, **words)
        return {**terms, "box": terms["box"] * float("inf")} if calls == 2 else terms

    monkeypatch.setattr(DetectionLoss, "__call__", broken)
    run = trainer()
    run.steps_to_read = 10
    with pytest.raises(TrainingError, match=r"loss must be finite.*epoch 1, step 2\)"):
        run.run_epoch(0)
    assert calls == 3


def test_weights_that_the_last_step_broke_are_noticed(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer()
    honest = DetectionLoss.__call__
    calls = 0

    def steep(self: DetectionLoss, raw_maps: list[Tensor], *args: Any, **words: Any) -> Any:
        nonlocal calls
        calls += 1
        terms = honest(self, raw_maps, *args, **words)
        if calls == 3:  # the loss is as it was; its slope is not finite
            terms["box"] = terms["box"] + (raw_maps[0].sum() * 0).sqrt()
        return terms

    monkeypatch.setattr(DetectionLoss, "__call__", steep)
    with pytest.raises(TrainingError, match=r"weights must be finite.*end of epoch 1"):
        run.run_epoch(0)
    assert calls == 3


def test_a_state_goes_on_as_if_nothing_had_been(trainer: MakeTrainer) -> None:
    through = trainer(epochs=4)
    through.run_epoch(0)
    state = copy.deepcopy(through.state())
    through.run_epoch(1)

    again = trainer(epochs=4)
    again.resume(state)
    again.run_epoch(1)

    assert _equal(through.network.state_dict(), again.network.state_dict())
    assert _equal(through.average.network.state_dict(), again.average.network.state_dict())
