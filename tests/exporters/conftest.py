"""Small networks for export: one level with a block, a darknet graph, the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attendet.attention import create_attention  # noqa: E402
from attendet.models import WeightsMetadata, build_from_metadata  # noqa: E402
from attendet.models.detector import DetectionNetwork  # noqa: E402
from attendet.models.graph import ARCHITECTURE  # noqa: E402

CLASSES = ("cat", "dog")
ANCHORS = ((10.0, 14.0), (40.0, 30.0))

GRAPH = (
    {
        "kind": "convolutional",
        "filters": 8,
        "size": 3,
        "stride": 2,
        "padding": 1,
        "batch_normalize": True,
        "activation": "leaky",
    },
    {
        "kind": "convolutional",
        "filters": 8,
        "size": 3,
        "stride": 2,
        "padding": 1,
        "batch_normalize": True,
        "activation": "mish",
    },
    {"kind": "route", "layers": [1], "groups": 2, "group_id": 1},
    {"kind": "route", "layers": [2, 1]},
    {"kind": "maxpool", "size": 2, "stride": 2, "padding": 1},
    {"kind": "convolutional", "filters": 14, "size": 1},
    {"kind": "yolo", "new_coords": True},
    {"kind": "route", "layers": [4]},
    {"kind": "reorg", "stride": 2},
    {"kind": "maxpool", "size": 2, "stride": 1, "padding": 1},
    {"kind": "convolutional", "filters": 14, "size": 1, "activation": "linear"},
    {"kind": "region"},
)


class OneLevel(DetectionNetwork):
    """A convolution, attention blocks in a row, an output at 32 pixels a cell."""

    def __init__(self, attention: tuple[str, ...], init: Any = "paper") -> None:
        super().__init__(2, [ANCHORS], strides=(32,), scale_x_y=1.05)
        self.conv = torch.nn.Conv2d(3, 16, 9, 32, 4)
        blocks = [create_attention(name, 16, init=init) for name in attention]
        self.blocks = torch.nn.Sequential(*blocks)
        self.out = torch.nn.Conv2d(16, 14, 1)

    def output_layers(self) -> tuple[str, ...]:
        return ("out",)

    def _forward(self, images: Any, record: dict[str, Any] | None) -> list[Any]:
        return [self.out(self.blocks(self.conv(images)))]


def randomize(network: Any, seed: int = 0) -> Any:
    """Give every parameter and statistic a random value; return the network in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if "anchors" in name or not tensor.is_floating_point():
            continue
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
            tensor.data.uniform_(0.5, 2.0, generator=generator)
        elif tensor.dim() < 2:
            tensor.data.normal_(0, 0.3, generator=generator)
        else:
            fan_in = tensor[0].numel()
            tensor.data.normal_(0, 1.5 / fan_in**0.5, generator=generator)
    return network.eval()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_level() -> Any:
    """Make a network with some blocks and its description."""

    def make(*attention: str, init: str = "paper") -> tuple[Any, WeightsMetadata]:
        metadata = WeightsMetadata(CLASSES, input_hw=(96, 160))
        return randomize(OneLevel(attention, init)), metadata

    return make


@pytest.fixture
def graph() -> tuple[Any, WeightsMetadata]:
    """A darknet graph and its description."""
    metadata = WeightsMetadata(
        CLASSES,
        architecture=ARCHITECTURE,
        graph=GRAPH,
        anchors=ANCHORS,
        anchor_masks=((0, 1), (0, 1)),
        input_hw=(64, 96),
        preprocess={"resize": "stretch", "color": "bgr"},
    )
    return randomize(build_from_metadata(metadata)), metadata


@pytest.fixture
def reference() -> Any:
    """Make a narrow YOLOv4-tiny and its description."""

    def make(attention: str = "ca", **fields: Any) -> tuple[Any, WeightsMetadata]:
        metadata = WeightsMetadata(
            CLASSES, attention=attention, width_mult=0.125, input_hw=(64, 96), **fields
        )
        return randomize(build_from_metadata(metadata)), metadata

    return make
