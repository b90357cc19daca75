from __future__ import annotations

import pytest
import torch
from torch import nn

from attendet.training.optimizer import WeightAverage


def _filled(value: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(1)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.fill_(value)
    return norm


def test_the_decay_rises_with_the_steps() -> None:
    average = WeightAverage(_filled(0.0), decay=0.9)
    network = _filled(1.0)

    # Decays 2/11, 3/12, 4/13: what is left of the start is their product.
    for left in (2 / 11, 2 / 11 * 3 / 12, 2 / 11 * 3 / 12 * 4 / 13):
        average.update(network)
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert getattr(average.network, name).item() == pytest.approx(1 - left)


def test_the_decay_stops_at_its_highest() -> None:
    average = WeightAverage(_filled(0.0), decay=0.5)
    average.steps = 1000

    average.update(_filled(1.0))

    assert average.network.weight.item() == pytest.approx(0.5)


def test_no_decay_follows_the_network() -> None:
    average = WeightAverage(_filled(3.0), decay=0.0)

    average.update(_filled(0.1))

    assert torch.equal(average.network.weight, _filled(0.1).weight)


def test_counters_are_copied_and_the_network_is_unchanged() -> None:
    network = _filled(1.0)
    average = WeightAverage(network, decay=0.9)
    network.train()(torch.zeros(2, 1, 2, 2))

    average.update(network)

    assert average.network.num_batches_tracked == 1
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert network.training
    assert network.weight.requires_grad
    assert network.weight.item() == 1


def test_a_network_without_counters_and_another_network() -> None:
    average = WeightAverage(nn.Linear(1, 1), decay=0.0)
    for _ in range(2):
        network = nn.Linear(1, 1)

        average.update(network)

        assert torch.equal(average.network.weight, network.weight)
