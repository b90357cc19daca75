"""How healthy gates are: what they depend on, how far they are from 1, and a sentence for each.

C, h and w are channels, rows and columns of a gate, each 1 where the gate does not differ along it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError

__all__ = ["FLAT", "BlockHealth", "GateNumbers", "GateStatistics", "Verdict"]

Floats = NDArray[np.float32]
Verdict = Literal["idle", "constant", "mask", "switch", "unknown", "works"]

GRID = 16
"""Places along an axis on which images of different sizes are compared."""

FLAT = 0.01
"""A gate that varies by less than this share of its mean is called constant, and one that is
nearer to 1 does nothing. One step of an 8-bit activation is 1/127 = 0.8 % of its range: a smaller
change of a map is lost when the network is quantized."""

END = 0.01
"""A gate is saturated within this share of the ends of its range. There the slope of the sigmoid is
below 4 % of its greatest, so that training hardly moves it any more."""

SWITCHED = 0.9
"""Share of saturated values from which a gate is called a switch."""

SHUT = 0.01
"""A channel whose gate stays below this everywhere passes less than one 8-bit step."""


@dataclass(frozen=True)
class GateNumbers:
    """One gate, or the product of a block's gates, over images, places and channels.

    The three spreads are standard deviations and split the whole variance of the gate exactly (law
    of total variance): ``total**2 = images**2 + places**2 + channels**2``.
    """

    mean: float
    """Over everything."""

    least: float
    """The smallest value."""

    greatest: float
    """The largest value."""

    spread_images: float
    """Between images, at the same channel and place."""

    spread_places: float
    """Between places, in the mean over images."""

    spread_channels: float
    """Between channels, in the mean over images and places."""

    distance: float
    """Root mean square of gate - 1: 0 is the identity."""

    saturated: float | None
    """Share of values at the ends of the range, 0 to 1; None where the range is not known."""

    def moved(self) -> float:
        """Return the spread that depends on the image or the place, as a share of the mean."""
        return float(np.hypot(self.spread_images, self.spread_places)) / max(self.mean, 1e-12)


@dataclass(frozen=True)
class BlockHealth:
    """What the gates of one attention block do over a set of images."""

    site: str
    """Where the block stands."""

    kind: str
    """Class of the block."""

    channels: int
    """C of the map."""

    images: int
    """How many images were seen."""

    gates: dict[str, GateNumbers]
    """Each of its gates."""

    product: GateNumbers
    """All its gates together: what the map is multiplied by."""

    shut: int
    """Channels that pass nothing, in any image."""

    verdict: Verdict
    """``idle``: is 1. ``constant``: one number a channel. ``mask``: differs by place alone.
    ``switch``: saturated. ``unknown``: one image cannot tell. ``works``: none of these."""

    sentence: str
    """The verdict in words, with its numbers."""

    def to_record(self) -> dict[str, Any]:
        """Return plain values that JSON holds."""
        return asdict(self)


class _Running:
    """Mean and variance over images at each channel and place, by Welford's method (1962)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros((1, 1, 1))
        self.squares = np.zeros((1, 1, 1))

    def add(self, values: NDArray[np.float64]) -> None:
        self.count += 1
        change = values - self.mean
        self.mean = self.mean + change / self.count
        self.squares = self.squares + change * (values - self.mean)

    def spreads(self) -> tuple[float, float, float]:
        """Return the standard deviations between images, places and channels."""
        per_channel = self.mean.mean(axis=(1, 2))
        images = float(self.squares.mean()) / max(self.count, 1)
        places = float(self.mean.var(axis=(1, 2)).mean())
        return images**0.5, places**0.5, float(per_channel.std())


class _Extent:
    """Least, greatest, distance from 1 and saturation over every value."""

    def __init__(self) -> None:
        self.least, self.greatest = np.inf, -np.inf
        self.count, self.squares, self.ends = 0, 0.0, 0

    def add(self, values: NDArray[np.floating], top: float | None) -> None:
        self.least = min(self.least, float(values.min()))
        self.greatest = max(self.greatest, float(values.max()))
        self.count += values.size
        self.squares += float(np.square(values - 1.0, dtype=np.float64).sum())
        if top is not None:
            self.ends += int(((values < END * top) | (values > (1 - END) * top)).sum())


class GateStatistics:
    """The gates of one block, image after image, in constant memory.

    Images may have different sizes: gates are compared on a grid of 16 places along each axis,
    relative to the image.

    Args:
        site: where the block stands.
        kind: class of the block.
        top: what an open gate is: 1 for a sigmoid, 2 for a block that started as the identity, None
            where the range is not known.

    Example:
        >>> statistics = GateStatistics("p5", "SqueezeExcite", top=1.0)
        >>> for value in (0.499, 0.5, 0.501):
        ...     statistics.add({"channel": np.full((8, 1, 1), value, dtype=np.float32)})
        >>> statistics.health().verdict
        'constant'
    """

    def __init__(self, site: str, kind: str, *, top: float | None = 1.0) -> None:
        self.site, self.kind, self.top = site, kind, top
        self.running: dict[str, _Running] = {}
        self.extents: dict[str, _Extent] = {}
        self.channels = 1
        self.images = 0
        self._product, self._whole = _Running(), _Extent()
        self._highest: NDArray[np.float64] = np.zeros(1)

    def add(self, gates: Mapping[str, Floats]) -> None:
        """Add the gates of one image.

        Args:
            gates: by name, each (C, h, w), over the image alone, without the network input's
            border.
        """
        self.images += 1
        on_grid = {name: _to_grid(gate) for name, gate in gates.items()}
        for name, gate in gates.items():
            self.running.setdefault(name, _Running()).add(on_grid[name])
            self.extents.setdefault(name, _Extent()).add(gate, self.top)
        product = reduce(np.multiply, on_grid.values())
        self._product.add(product)
        self._whole.add(product, None)
        self._highest = np.maximum(self._highest, product.max(axis=(1, 2)))
        self.channels = max(self.channels, product.shape[0])

    def channel_means(self) -> NDArray[np.float64]:
        """Return the product of the gates for each channel, mean over places and images, (C,)."""
        means: NDArray[np.float64] = self._product.mean.mean(axis=(1, 2))
        return means

    def profile(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation over images of one gate on the grid, (C, h, w).

        Args:
            name: of the gate.
        """
        running = self.running[name]
        return running.mean, np.sqrt(running.squares / max(running.count, 1))

    def health(self) -> BlockHealth:
        """Return the numbers of the images added so far, and the verdict.

        Raises:
            ConfigError: if no image was added.
        """
        if not self.images:
            raise ConfigError(
                f"gate statistics must be of at least one image; got none ({self.site})."
            )
        gates = {
            name: _numbers(running, self.extents[name], known=self.top is not None)
            for name, running in self.running.items()
        }
        product = _numbers(self._product, self._whole, known=False)
        shut = int((self._highest < SHUT).sum())
        verdict = _verdict(product, gates, self.images)
        return BlockHealth(
            self.site,
            self.kind,
            self.channels,
            self.images,
            gates,
            product,
            shut,
            verdict,
            _sentence(verdict, product, gates, shut, self.channels),
        )


def _numbers(running: _Running, extent: _Extent, *, known: bool) -> GateNumbers:
    return GateNumbers(
        float(running.mean.mean()),
        extent.least,
        extent.greatest,
        *running.spreads(),
        (extent.squares / extent.count) ** 0.5,
        extent.ends / extent.count if known else None,
    )


def _verdict(product: GateNumbers, gates: Mapping[str, GateNumbers], images: int) -> Verdict:
    if product.moved() < FLAT and images > 1:
        return "idle" if product.distance < FLAT else "constant"
    if all((gate.saturated or 0.0) >= SWITCHED for gate in gates.values()):
        return "switch"
    if images == 1:
        return "unknown"
    if product.spread_images < FLAT * product.mean:
        return "mask"
    return "works"


def _sentence(
    verdict: Verdict,
    product: GateNumbers,
    gates: Mapping[str, GateNumbers],
    shut: int,
    channels: int,
) -> str:
    scale = max(product.mean, 1e-12)
    images, places = product.spread_images / scale, product.spread_places / scale
    moved = np.hypot(product.spread_images, product.spread_places)
    ends = min((gate.saturated or 0.0 for gate in gates.values()), default=0.0)
    words = {
        "idle": f"This gate does nothing (spread {moved:.3f}, at most "
        f"{max(abs(product.least - 1), abs(product.greatest - 1)):.3f} from 1): remove it.",
        "constant": f"This gate is the same for all images and places (spread {moved:.3f}, "
        f"{product.moved():.1%} of its mean): fold it.",
        "mask": f"This gate is the same for all images (spread {images:.1%} of its mean) and "
        f"differs by place ({places:.1%}): it knows the frame, not what is in it.",
        "switch": f"This gate is a switch: {ends:.0%} of its values are at the ends of their "
        "range, where training hardly moves them.",
        "unknown": f"Within this image the gate varies by {places:.1%} of its mean over places; "
        "one image cannot tell whether it depends on the image: give several.",
        "works": f"This gate responds: it varies by {images:.1%} of its mean between images "
        f"and {places:.1%} between places.",
    }
    closed = f" {shut} of {channels} channels are shut in every image." if shut else ""
    return words[verdict] + closed


@lru_cache(maxsize=256)
def _interpolation(length: int) -> NDArray[np.float64]:
    """Return the matrix (16, length) that reads a gate at the middles of 16 equal parts."""
    middles = (np.arange(GRID) + 0.5) * length / GRID - 0.5
    columns = [np.interp(middles, np.arange(length), unit) for unit in np.eye(length)]
    return np.stack(columns, axis=1)


def _to_grid(gate: Floats) -> NDArray[np.float64]:
    """Return a gate (C, h, w) on the grid, each axis 16 long; an axis of one stays."""
    values = gate.astype(np.float64)
    if values.shape[1] > 1:
        values = np.einsum("gh,chw->cgw", _interpolation(values.shape[1]), values)
    if values.shape[2] > 1:
        values = np.einsum("gw,chw->chg", _interpolation(values.shape[2]), values)
    return values
