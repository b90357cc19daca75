"""Health of attention gates: what they depend on, how far they are from 1, and a verdict.

C, h and w are channels, rows and columns of a gate; each is 1 if the gate is constant along it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from attendet.errors import ConfigError

Floats = NDArray[np.float32]
Verdict = Literal["idle", "constant", "mask", "switch", "unknown", "works"]

GRID = 16
"""Positions along each axis on which images of different sizes are compared."""

CONSTANT = 0.01
"""A gate whose standard deviation is less than this fraction of its mean is called constant; if it
is also this close to 1, idle. One step of an 8-bit activation is 1/127 = 0.8 % of its range: a
smaller change of a feature map is lost when the network is quantized."""

END = 0.01
"""A gate is saturated within this fraction of the ends of its range. There the slope of the sigmoid
is below 4 % of its maximum, so training hardly changes it."""

SWITCH = 0.9
"""Fraction of saturated values from which a gate is called a switch."""

CLOSED = 0.01
"""A channel whose gate is always closer to 0 than this passes less than one 8-bit step."""


@dataclass(frozen=True)
class GateNumbers:
    """Statistics of one gate, or of the product of a block's gates.

    The three standard deviations split the total variance of the gate exactly (law of total
    variance): ``total**2 = images**2 + positions**2 + channels**2``.

    Attributes:
        mean: Mean over images, positions and channels.
        mean_abs: Mean of the absolute values; equals ``mean`` unless the gate can be negative.
        min: Smallest value.
        max: Largest value.
        std_images: Standard deviation between images, at the same channel and position.
        std_positions: Standard deviation between positions, of the mean over images.
        std_channels: Standard deviation between channels, of the mean over images and positions.
        distance_from_1: Root mean square of gate - 1; 0 is the identity.
        saturated: Fraction of values at the ends of the range, 0 to 1; None if the range is
            unknown.
    """

    mean: float
    mean_abs: float
    min: float
    max: float
    std_images: float
    std_positions: float
    std_channels: float
    distance_from_1: float
    saturated: float | None

    def relative_std(self) -> float:
        """Return the standard deviation between images and positions, as a fraction of the mean.

        The mean is that of the absolute values.
        """
        return float(np.hypot(self.std_images, self.std_positions)) / max(self.mean_abs, 1e-12)


@dataclass(frozen=True)
class BlockHealth:
    """Statistics and verdict of the gates of one attention block over a set of images.

    Attributes:
        site: Site of the block.
        kind: Class of the block.
        channels: C of the feature map.
        images: Number of images.
        gates: Each of its gates.
        product: Product of its gates: the factor of the feature map.
        closed_channels: Number of channels whose gate is about 0 in all images.
        verdict: ``idle``: always about 1. ``constant``: one value per channel. ``mask``: differs
            only by position. ``switch``: saturated. ``unknown``: one image is not enough.
            ``works``: none of these.
        sentence: The verdict as a sentence with numbers.
    """

    site: str
    kind: str
    channels: int
    images: int
    gates: dict[str, GateNumbers]
    product: GateNumbers
    closed_channels: int
    verdict: Verdict
    sentence: str


class _GateSummary:
    """Statistics of one gate over images, in constant memory.

    Mean and variance over images use Welford's method (1962) at each channel and position.
    """

    def __init__(self) -> None:
        self.images = 0
        self.mean = np.zeros((1, 1, 1))
        self.squares = np.zeros((1, 1, 1))
        self.min, self.max = np.inf, -np.inf
        self.sum_abs = 0.0
        self.size, self.squared_distance, self.saturated = 0, 0.0, 0

    def add(self, values: NDArray[np.floating], top: float | None) -> NDArray[np.float64]:
        """Add a gate of one image, (C, h, w), and return it on the grid."""
        on_grid = _to_grid(values)
        self.images += 1
        change = on_grid - self.mean
        self.mean = self.mean + change / self.images
        self.squares = self.squares + change * (on_grid - self.mean)
        self.sum_abs += float(np.abs(on_grid).mean())
        self.min = min(self.min, float(values.min()))
        self.max = max(self.max, float(values.max()))
        self.size += values.size
        self.squared_distance += float(np.square(values - 1.0, dtype=np.float64).sum())
        if top is not None:
            self.saturated += int(((values < END * top) | (values > (1 - END) * top)).sum())
        return on_grid

    def numbers(self, top: float | None) -> GateNumbers:
        return GateNumbers(
            float(self.mean.mean()),
            self.sum_abs / self.images,
            self.min,
            self.max,
            (float(self.squares.mean()) / self.images) ** 0.5,
            float(self.mean.var(axis=(1, 2)).mean()) ** 0.5,
            float(self.mean.mean(axis=(1, 2)).std()),
            (self.squared_distance / self.size) ** 0.5,
            None if top is None else self.saturated / self.size,
        )


class GateStatistics:
    """Statistics of the gates of one block, image after image, in constant memory.

    Images may have different sizes: gates are compared on a grid of 16 positions along each axis,
    relative to the image.

    Args:
        site: site of the block.
        kind: class of the block.
        top: maximum of a gate: 1 for a sigmoid, 2 for a block initialized as the identity; None if
            the range is unknown.

    Example:
        >>> statistics = GateStatistics("p5", "SqueezeExcite", top=1.0)
        >>> for value in (0.499, 0.5, 0.501):
        ...     statistics.add({"channel": np.full((8, 1, 1), value, dtype=np.float32)})
        >>> statistics.health().verdict
        'constant'
    """

    def __init__(self, site: str, kind: str, *, top: float | None = 1.0) -> None:
        self.site, self.kind, self.top = site, kind, top
        self.channels = 1
        self.images = 0
        self.gates: dict[str, _GateSummary] = {}
        self._product = _GateSummary()
        self._channel_max_abs: NDArray[np.float64] = np.zeros(1)

    def add(self, gates: Mapping[str, Floats]) -> None:
        """Add the gates of one image.

        Args:
            gates: by name, each (C, h, w), over the image only, without the padding.
        """
        self.images += 1
        on_grid = [
            self.gates.setdefault(name, _GateSummary()).add(gate, self.top)
            for name, gate in gates.items()
        ]
        product = reduce(np.multiply, on_grid)
        self._product.add(product, None)
        self._channel_max_abs = np.maximum(self._channel_max_abs, np.abs(product).max(axis=(1, 2)))
        self.channels = max(self.channels, product.shape[0])

    def channel_means(self) -> NDArray[np.float64]:
        """Return the product of the gates of each channel, mean over positions and images, (C,)."""
        means: NDArray[np.float64] = self._product.mean.mean(axis=(1, 2))
        return means

    def profile(self, name: str | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation over images of one gate on the grid, (C, h, w).

        Args:
            name: of the gate; None for the product of all gates.
        """
        gate = self._product if name is None else self.gates[name]
        return gate.mean, np.sqrt(gate.squares / gate.images)

    def health(self) -> BlockHealth:
        """Return the statistics and verdict over all images so far.

        Raises:
            ConfigError: if no image was added.
        """
        ConfigError.check(self.images > 0, "images", "at least one", 0, self.site)
        gates = {name: gate.numbers(self.top) for name, gate in self.gates.items()}
        product = self._product.numbers(top=None)
        closed = int((self._channel_max_abs < CLOSED).sum())
        verdict = _verdict(product, gates, self.images)
        sentence = _sentence(verdict, product, gates)
        if closed:
            sentence += f" {closed} of {self.channels} channels are closed in every image."
        return BlockHealth(
            self.site,
            self.kind,
            self.channels,
            self.images,
            gates,
            product,
            closed,
            verdict,
            sentence,
        )


def _verdict(product: GateNumbers, gates: Mapping[str, GateNumbers], images: int) -> Verdict:
    if product.relative_std() < CONSTANT and images > 1:
        return "idle" if product.distance_from_1 < CONSTANT else "constant"
    if all((gate.saturated or 0.0) >= SWITCH for gate in gates.values()):
        return "switch"
    if images == 1:
        return "unknown"
    return "mask" if product.std_images < CONSTANT * product.mean_abs else "works"


def _sentence(verdict: Verdict, product: GateNumbers, gates: Mapping[str, GateNumbers]) -> str:
    scale = max(product.mean_abs, 1e-12)
    images, positions = percent(product.std_images / scale), percent(product.std_positions / scale)
    mean = "mean" if product.min >= 0 else "mean absolute value"
    std = np.hypot(product.std_images, product.std_positions)
    furthest = max(abs(product.min - 1), abs(product.max - 1))
    saturated = min((gate.saturated or 0.0 for gate in gates.values()), default=0.0)
    sentences = {
        "idle": f"This gate does nothing (standard deviation {std:.3f}, at most {furthest:.3f} "
        "from 1). Remove it.",
        "constant": "This gate is the same for all images and positions (standard deviation "
        f"{std:.3f}, {percent(product.relative_std())} of its {mean}). Fold it into a convolution.",
        "mask": f"This gate is the same for all images (standard deviation {images} of its "
        f"{mean}) and differs by position ({positions}). It does not depend on the content.",
        "switch": f"This gate is a switch: {percent(saturated, 0)} of its values are at the ends "
        "of their range, where training hardly changes them.",
        "unknown": f"Within this image the gate varies by {positions} of its {mean}. Use several "
        "images: one image cannot show whether the gate depends on the content.",
        "works": f"This gate depends on the image: it varies by {images} of its {mean} between "
        f"images and {positions} between positions.",
    }
    return sentences[verdict]


def percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction as a text in percent.

    Example:
        >>> percent(0.0712), percent(0.0712, digits=0)
        ('7.1 %', '7 %')
    """
    return f"{100 * fraction:.{digits}f} %"


def _to_grid(gate: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a gate (C, h, w) on the grid, each axis of length 16; an axis of length 1 stays."""
    size = [GRID if length > 1 else 1 for length in gate.shape[1:]]
    values = torch.from_numpy(gate.astype(np.float64))[None]
    on_grid: NDArray[np.float64] = interpolate(values, size=size, mode="bilinear")[0].numpy()
    return on_grid
