from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attendet.attention import attend, network_cost
from attendet.models import WeightsMetadata, build_from_metadata


def _macs_by_hooks(metadata: WeightsMetadata) -> int:
    """Count multiplications of convolutions from the shapes that a real pass gives."""
    network = build_from_metadata(metadata).eval()
    counts = []

    def count(module: Any, _: Any, output: torch.Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, *metadata.input_hw))
    return sum(counts)


@pytest.mark.parametrize("attention", ["none", "se", "ca@stage3", "cbam@p5"])
def test_the_cost_is_that_of_the_whole_network(attention: str) -> None:
    metadata = WeightsMetadata(
        classes=("a", "b"), attention=attention, width_mult=0.125, input_hw=(64, 96)
    )
    network = build_from_metadata(metadata)

    cost = network_cost(network, (3, *metadata.input_hw))

    assert cost.parameters == sum(each.numel() for each in network.parameters())
    assert cost.macs == _macs_by_hooks(metadata)


def test_the_cost_counts_convolutions():
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False))
    bare = network_cost(plain, (3, 6, 5))
    assert bare.macs == 6 * 5 * 8 * 27

    attended = network_cost(attend(plain, {"0": "se"}, init="paper"), (3, 6, 5))

    assert attended.parameters == bare.parameters + 2 * 8
    assert attended.macs == bare.macs + 2 * 8
