"""Darknet files for tests: configurations of our own, and random weights for them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

YOLO = """
[yolo]
mask = {mask}
anchors = 10,14,  23,27,  37,58,  81,82,  135,169,  344,319
classes={classes}
num=6
scale_x_y = 1.05
ignore_thresh = .7
"""


def _conv(filters: int, size: int, stride: int = 1) -> str:
    return (
        f"\n[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\nstride={stride}\n"
        "pad=1\nactivation=leaky\n"
    )


def _output(classes: int, mask: str) -> str:
    conv = f"\n[convolutional]\nsize=1\nstride=1\npad=1\nfilters={3 * (5 + classes)}\n"
    return conv + "activation=linear\n" + YOLO.format(mask=mask, classes=classes)


def _cross_stage(channels: int) -> str:
    return (
        _conv(channels, 3)
        + "\n[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
        + _conv(channels // 2, 3)
        + _conv(channels // 2, 3)
        + "\n[route]\nlayers = -1,-2\n"
        + _conv(channels, 1)
        + "\n[route]\nlayers = -6,-1\n"
        + "\n[maxpool]\nsize=2\nstride=2\n"
    )


def tiny_config(*, base: int = 8, classes: int = 2, side: int = 64) -> str:
    """YOLOv4-tiny as a configuration, ``base`` channels where the original has 64."""
    return (
        f"[net]\n# as trained\nbatch=64\nwidth={side}\nheight={side}\nchannels=3\nmomentum=0.9\n"
        + _conv(base // 2, 3, 2)
        + _conv(base, 3, 2)
        + "".join(_cross_stage(base * times) for times in (1, 2, 4))
        + _conv(8 * base, 3)
        + "\n##################################\n"
        + _conv(4 * base, 1)
        + _conv(8 * base, 3)
        + _output(classes, "3,4,5")
        + "\n[route]\nlayers = -4\n"
        + _conv(2 * base, 1)
        + "\n[upsample]\nstride=2\n"
        + "\n[route]\nlayers = -1, 23\n"
        + _conv(4 * base, 3)
        + _output(classes, "1,2,3")
    )


def three_level_config(*, base: int = 8, classes: int = 2, side: int = 64) -> str:
    """YOLOv4-tiny with a level of stride 8, as darknet's yolov4-tiny-3l.cfg has it."""
    return (
        tiny_config(base=base, classes=classes, side=side)
        + "\n[route]\nlayers = -3\n"
        + _conv(base, 1)
        + "\n[upsample]\nstride=2\n"
        + "\n[route]\nlayers = -1, 15\n"
        + _conv(2 * base, 3)
        + _output(classes, "0,1,2")
    )


PYRAMID = """
[net]
width=96
height=64
channels=3

[convolutional]   # 0: 48 x 32
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish

[convolutional]   # 1: grouped
batch_normalize=1
filters=8
size=3
stride=1
pad=1
groups=4
activation=swish

[shortcut]        # 2
from=-2
activation=linear

[maxpool]         # 3: 24 x 16
size=2
stride=2

[convolutional]   # 4
batch_normalize=1
filters=12
size=3
stride=2
padding=1
activation=relu

[convolutional]   # 5: without batch normalization
filters=16
size=3
stride=2
pad=1
activation=leaky

[maxpool]         # 6: same size
size=2
stride=1

[maxpool]         # 7
size=5
stride=1

[route]           # 8
layers=-2

[maxpool]         # 9
size=3
stride=1

[route]           # 10: 48 channels
layers=-1,-3,6

[convolutional]   # 11
batch_normalize=1
filters=16
size=1
stride=1
pad=1
activation=logistic

[convolutional]   # 12: 3 x 2
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky

[convolutional]
size=1
stride=1
pad=1
filters=14
activation=linear

[yolo]            # 14: 32 pixels
mask = 4,5
anchors = 5,6, 9,8, 12,20, 25,18, 40,44, 60,50
classes=2
num=6
scale_x_y=1.2

[route]
layers=-3

[upsample]
stride=2

[route]           # 17
layers=-1,11

[convolutional]
size=1
filters=14
activation=linear

[yolo]            # 19: 16 pixels
mask = 2,3
anchors = 5,6, 9,8, 12,20, 25,18, 40,44, 60,50
classes=2
num=6
scale_x_y=1.1

[route]
layers=17

[upsample]
stride=2

[route]
layers=-1,4

[convolutional]
size=1
filters=7
activation=linear

[yolo]            # 24: 8 pixels, anchors of its own
mask = 0
anchors = 4,4
classes=2
num=1
"""
"""Three levels; groups, shortcut, pools of stride 1, five activations."""

GATED = """
[net]
width=64
height=64
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=relu

[maxpool]
size=3
stride=2

[avgpool]

[convolutional]
filters=4
size=1
activation=relu

[convolutional]
filters=8
size=1
activation=logistic

[scale_channels]
from=-4

[maxpool]
size=2
stride=2

[route]
layers=-1
groups=4
group_id=2

[convolutional]
filters=18
size=1
activation=linear

[yolo]
anchors = 10,14, 23,27, 37,58
mask = 0,1,2
classes=1
num=3
scale_x_y=1.05
"""
"""A gate over the channels, and a part of two routed maps."""

PARTIAL = """
[net]
width=64
height=32
channels=3

[convolutional]
batch_normalize=1
filters=12
size=3
stride=8
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=8
size=1
activation=leaky

[shortcut]        # of more channels
from=-2
activation=leaky

[convolutional]
batch_normalize=1
filters=16
size=3
pad=1
activation=leaky

[shortcut]        # of fewer channels
from=-2
activation=leaky

[convolutional]
filters=12
size=1
activation=linear

[yolo]
anchors = 10,14, 23,27
mask = 0,1
classes=1
num=2
"""
"""Shortcuts between maps of different channel counts."""

REGION = """
[region]
anchors = 1.08,1.19,  3.42,4.41,  0.57273,0.677385
bias_match=1
classes=2
coords=4
num=3
softmax=1
jitter=.2
rescore=1
object_scale=5
absolute=1
thresh = .2
random=1
"""

POOL = "\n[maxpool]\nsize=2\nstride={}\n"


def _raw_map(filters: int, activation: str) -> str:
    conv = f"\n[convolutional]\nsize=1\nstride=1\npad=1\nfilters={filters}\n"
    return conv + f"activation={activation}\n"


YOLOV2_TINY = (
    "[net]\nwidth=96\nheight=64\nchannels=3\n"
    + "".join(_conv(filters, 3) + POOL.format(2) for filters in (4, 4, 8, 8, 16))
    + _conv(16, 3)
    + POOL.format(1)
    + _conv(32, 3)
    + _conv(32, 3)
    + _raw_map(21, "linear")
    + REGION
)
"""The layers of yolov2-tiny-voc.cfg, narrow."""

YOLOV2 = (
    "[net]\nwidth=96\nheight=64\nchannels=3\n"
    + "".join(_conv(filters, 3) + POOL.format(2) for filters in (4, 8, 8))
    + (_conv(16, 3) + _conv(8, 1) + _conv(16, 3) + POOL.format(2))
    + (_conv(16, 3) + _conv(16, 1) + _conv(16, 3))  # 10 to 12: 6 x 4
    + (POOL.format(2) + _conv(32, 3) + _conv(16, 1) + _conv(32, 3) + _conv(32, 3))
    + "\n[route]\nlayers=-6\n"
    + _conv(8, 1)
    + "\n[reorg]\nstride=2\n"
    + "\n[route]\nlayers=-1,-4\n"
    + _conv(32, 3)
    + _raw_map(21, "linear")
    + REGION
)
"""The end of yolov2.cfg, narrow: a map of twice the height and width is moved into channels."""

NEW_COORDS = YOLO.replace(
    "scale_x_y = 1.05", "scale_x_y = 2.0\nnew_coords=1\nobjectness_smooth=1\nnms_kind=diounms"
)


def _scaled(mask: str) -> str:
    return _raw_map(21, "logistic") + NEW_COORDS.format(mask=mask, classes=2)


YOLOV7_TINY = (
    "[net]\nwidth=96\nheight=64\nchannels=3\n"
    + (_conv(8, 3, 2) + _conv(8, 3, 2))
    + (_conv(4, 1) + "\n[route]\nlayers=-2\n" + _conv(4, 1) + _conv(4, 3) + _conv(4, 3))
    + "\n[route]\nlayers=-1,-2,-3,-5\n"  # 7
    + _conv(8, 1)
    + (POOL.format(2) + _conv(16, 3) + POOL.format(2) + _conv(16, 3))  # 9 to 12: 6 x 4
    + (POOL.format(2) + _conv(16, 1))  # 13 and 14: 3 x 2
    + "".join(
        f"\n[maxpool]\nstride=1\nsize={size}\n\n[route]\nlayers={back}\n"
        for size, back in ((5, -2), (9, -4), (13, -6))
    )
    + "\n[route]\nlayers=-2,-4,-6,-1\n"  # 21
    + _conv(16, 1).replace("leaky", "mish")  # 22
    + (_conv(8, 1) + "\n[upsample]\nstride=2\n")
    + ("\n[route]\nlayers=12\n" + _conv(8, 1) + "\n[route]\nlayers=-1,-3\n")
    + (_conv(8, 3).replace("leaky", "swish") + _scaled("1,2,3"))
    + ("\n[route]\nlayers=22\n" + _conv(16, 3) + _scaled("3,4,5"))
)
"""A block, the pooling and outputs of yolov7-tiny.cfg and yolov4-csp.cfg, narrow, two levels."""

REFERENCE = ("reference", "three levels")

CONFIGS = {
    "reference": tiny_config(),
    "three levels": three_level_config(),
    "pyramid": PYRAMID,
    "gated": GATED,
    "partial": PARTIAL,
    "yolov2-tiny": YOLOV2_TINY,
    "yolov2": YOLOV2,
    "yolov7-tiny": YOLOV7_TINY,
}


def write_random_weights(
    path: Path,
    convolutions: list[tuple[int, int, int, bool]],
    *,
    seed: int = 0,
    header: bytes = struct.pack("<iiiq", 0, 2, 5, 12345),
) -> Path:
    """Write values that keep maps at about one, for (filters, inputs, size, norm) each."""
    generator = np.random.default_rng(seed)
    parts = [header]
    for filters, inputs, size, norm in convolutions:
        scale = (2 / (inputs * size**2)) ** 0.5
        arrays = [generator.normal(0, 0.3, filters)]
        if norm:
            arrays += [
                generator.uniform(0.5, 1.5, filters),
                generator.normal(0, 0.3, filters),
                generator.uniform(0.5, 1.5, filters),
            ]
        arrays.append(generator.normal(0, scale, filters * inputs * size**2))
        parts += [array.astype("<f4").tobytes() for array in arrays]
    path.write_bytes(b"".join(parts))
    return path


@dataclass(frozen=True)
class DarknetFiles:
    """A configuration and weights for it."""

    config: Path
    weights: Path


@pytest.fixture
def darknet(tmp_path: Path) -> Callable[..., DarknetFiles]:
    """Writes a configuration, by name or as text, and random weights for it."""
    from attendet.interop.darknet.cfg import parse_config
    from attendet.models.graph import Convolutional

    def write(config: str, *, name: str = "net", **options: object) -> DarknetFiles:
        text = CONFIGS.get(config, config)
        path = tmp_path / f"{name}.cfg"
        path.write_text(text)
        graph = parse_config(text, source=str(path)).graph
        convolutions = [
            (layer.filters, inputs // layer.groups, layer.size, layer.batch_normalize)
            for layer, inputs in zip(graph.layers, graph.input_channels(), strict=True)
            if isinstance(layer, Convolutional)
        ]
        weights = write_random_weights(tmp_path / f"{name}.weights", convolutions, **options)
        return DarknetFiles(path, weights)

    return write


@pytest.fixture
def tiny() -> Callable[..., str]:
    """Gives YOLOv4-tiny as a configuration of any width, classes and size."""
    return tiny_config


@pytest.fixture
def other_configs() -> dict[str, str]:
    """Configurations that are not YOLOv4-tiny."""
    return {name: text for name, text in CONFIGS.items() if name not in REFERENCE}
