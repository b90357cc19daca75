"""What a runtime is: the part of a detector that differs between torch and exported files.

N is the batch, B the boxes of one image before any selection, K the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError, did_you_mean
from attendet.models.metadata import WeightsMetadata

__all__ = [
    "AsyncRuntime",
    "BatchingRuntime",
    "Limits",
    "LimitedRuntime",
    "Mode",
    "Output",
    "Pending",
    "Runtime",
    "RuntimeOptions",
]

Output: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes (N, B, 4), left, top, right, bottom in network input pixels; scores (N, B, K), 0 to 1."""

Mode = Literal["latency", "throughput"]
"""latency: one image at a time, all threads on it; throughput: several side by side."""


class Runtime(Protocol):
    """A network that is ready to run, whatever library runs it."""

    @property
    def metadata(self) -> WeightsMetadata:
        """What the weights file says about itself."""
        ...

    def run(self, inputs: NDArray[np.uint8]) -> Output:
        """Return every box of each network input with its scores, decoded and not selected.

        Args:
            network inputs: uint8, shape (N, H, W, 3), H and W multiples of 32, channels in the
            order
                that the metadata names.

        Returns:
            Boxes, float32 of shape (N, B, 4), left, top, right, bottom in network input pixels, and
            scores, float32 of shape (N, B, K), 0 to 1.
        """
        ...


class Pending(Protocol):
    """A batch that was handed over and will be done at some time."""

    def result(self) -> Output:
        """Return the boxes and scores, waiting for them if need be; to be called once."""
        ...


@runtime_checkable
class AsyncRuntime(Runtime, Protocol):
    """A runtime that takes the next batches while it works on one."""

    @property
    def parallel(self) -> int:
        """How many batches it works on side by side."""
        ...

    def submit(self, inputs: NDArray[np.uint8]) -> Pending:
        """Hand over a batch (see `Runtime.run`), which must not be changed until it is done."""
        ...


@runtime_checkable
class BatchingRuntime(Runtime, Protocol):
    """A runtime that is faster on several network inputs at once than on one after the other."""

    @property
    def usual_batch(self) -> int:
        """How many it takes at once in a stream, where nobody says otherwise."""
        ...


@dataclass(frozen=True)
class Limits:
    """What an exported file fixed for good; None where the caller is free.

    Attributes:
        batch: N.
        input_hw: height and width of the network input, pixels.
        confidence: lowest score that comes out, 0 to 1.
        iou: boxes of a class that overlap more do not come out, 0 to 1.
        max_detections: boxes that come out for an image.
    """

    batch: int | None = None
    input_hw: tuple[int, int] | None = None
    confidence: float | None = None
    nms_iou: float | None = None
    max_detections: int | None = None


@runtime_checkable
class LimitedRuntime(Runtime, Protocol):
    """A runtime of an exported file, which may be fixed to a size, a batch or thresholds."""

    @property
    def limits(self) -> Limits:
        """What the file fixed."""
        ...


@dataclass(frozen=True)
class RuntimeOptions:
    """How a runtime uses the machine."""

    device: str | None = None
    """Such as ``cpu`` or ``cuda:0``; the runtime's own choice if none."""

    threads: int | None = None
    """Processor threads of the network; a core each if none."""

    mode: Mode = "latency"
    """See `Mode`."""

    precision: str = "float32"
    """``float32``, or ``bfloat16`` where the processor computes in it (OpenVINO alone)."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be 1 or more; got {self.threads!r} (--threads).")
        for name, choices in (("mode", get_args(Mode)), ("precision", ("float32", "bfloat16"))):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(
                    f"{name} must be {' or '.join(choices)}; got {value!r}. "
                    f"{did_you_mean(str(value), choices)}"
                )
