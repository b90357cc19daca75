"""Networks that attention is put into."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import attendet
from attendet.attention import inserted_blocks


class Maps(NamedTuple):
    low: Tensor
    high: Tensor
    count: int


class Neck(nn.Module):
    """Gives several maps, in a form of choice."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.down = nn.Conv2d(16, 24, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> object:
        down = self.down(x)
        if self.form == "namedtuple":
            return Maps(x, down, 2)
        if self.form == "dict":
            return OrderedDict([("low", x), ("p.4", down), ("names", ["low", "p.4"])])
        return [x, None, down] if self.form == "list" else (x, None, down)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(x + self.bn(self.conv(x)))
        return out


class Network(nn.Module):
    """A stem, two stages and a classifier; ``spare`` never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(True))
        self.stage1 = nn.Sequential(Residual(8), Residual(8))
        self.stage2 = nn.Sequential(nn.Conv2d(8, 16, 1), Residual(16))
        self.fc = nn.Linear(16, 5)
        self.spare = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stage2(self.stage1(self.stem(x)))
        out: Tensor = self.fc(maps.mean((2, 3)))
        return out


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 16, 12)


@pytest.fixture
def network_class() -> type[nn.Module]:
    return Network


@pytest.fixture
def neck_class() -> type[nn.Module]:
    return Neck


@pytest.fixture
def residual_class() -> type[nn.Module]:
    return Residual


@pytest.fixture
def four_places() -> dict[str, object]:
    return {
        "stage1": "ca",
        "stage2.1": ("se", {"reduction": 2}),
        "stage1.0.conv": "eca",
        "stem.1": ("cbam", {"reduction": 1}),
    }


@pytest.fixture
def settled() -> Callable[[nn.Module], nn.Module]:
    """Give a function that lets the blocks of a network leave their start, in eval mode."""

    def settle(network: nn.Module) -> nn.Module:
        for block in inserted_blocks(network).values():
            for parameter in block.parameters():
                nn.init.normal_(parameter, std=0.5)
        return network.eval()

    return settle


@pytest.fixture
def attended(settled, four_places) -> nn.Module:
    return settled(attendet.attend(Network(), four_places))
