"""Run training steps as CUDA graphs: one launch instead of several hundred.

The CPU limits the speed of a small network, because it launches about 780 small kernels per step
one after another. `GraphedSteps` records the kernels of forward, loss and backward once for each
batch shape, and then replays them. The first step of a shape runs as usual, so that libraries
choose their kernels; the second is recorded. Values that change between steps (images, objects, and
the number of batches that gradients are accumulated over) are copied into tensors with a fixed
address.

N is the batch size, M the number of objects per image (padded); H and W are the sides of the
network input in pixels.
"""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from attendet.data import Batch
from attendet.errors import ConfigError, TrainingError

MIN_OBJECTS = 8
"""Lowest number of objects per image that a batch is padded to."""

MAX_GRAPHS = 64
"""Most graphs that are kept: up to 13 input sizes of multi-scale times the values of M."""

Losses = dict[str, Tensor]

Step = Callable[[Batch, Tensor], Losses]
"""Adds the gradients of a batch, divided by a scalar on the device, and returns its losses."""


def check_cuda_graphs(device: torch.device, *, processes: int, precision: str) -> None:
    """Raise an error if the training steps of a run cannot be recorded.

    Args:
        device: training device.
        processes: number of processes of the run.
        precision: Lightning Fabric's name of the precision, such as ``bf16-mixed``.

    Raises:
        ConfigError: if they cannot be recorded; it names the requirement and the value of the run.
    """
    problem = ""
    if device.type != "cuda":
        problem = f"a CUDA device; got {device.type}"
    elif processes > 1:
        problem = f"one process; got {processes}"
    elif precision == "16-mixed":
        problem = "precision bf16 or 32; got 16, whose loss scale is read in each step"
    if problem:
        raise ConfigError(f"cuda_graphs needs {problem}. Remove --cuda-graphs.")


def pad_objects(batch: Batch) -> Batch:
    """Return a batch that is padded to M objects per image, a power of two of at least 8.

    Padding objects are not valid, so the losses are the same up to the order of summation.

    Example:
        >>> ids = torch.zeros(2, 9, dtype=torch.int64)
        >>> batch = Batch(torch.rand(2, 3, 64, 64), torch.rand(2, 9, 4), ids, ids == 0)
        >>> pad_objects(batch).gt_boxes_xyxy.shape, int(pad_objects(batch).gt_valid.sum())
        (torch.Size([2, 16, 4]), 18)
    """
    count = batch.gt_valid.shape[1]
    more = max(MIN_OBJECTS, 1 << max(0, count - 1).bit_length()) - count
    if more == 0:
        return batch
    pad = nn.functional.pad
    return batch._replace(
        gt_boxes_xyxy=pad(batch.gt_boxes_xyxy, (0, 0, 0, more)),
        gt_class_ids=pad(batch.gt_class_ids, (0, more)),
        gt_valid=pad(batch.gt_valid, (0, more)),
    )


class Recorder(Protocol):
    """Interface to run and record work on a device."""

    def run(self, work: Callable[[], Losses]) -> Losses:
        """Run the work as usual."""
        ...

    def record(self, work: Callable[[], Losses]) -> tuple[Callable[[], None], Losses]:
        """Record the work without running it; return its replay and the tensors of its result."""
        ...


class CudaRecorder:
    """Recorder of CUDA graphs that use one memory pool.

    Args:
        device: training device.
        alone: lock that is held while a graph is recorded, so that no other thread uses the device.
    """

    def __init__(self, device: torch.device, alone: threading.Lock) -> None:
        self.device, self.alone = device, alone
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], Losses]) -> Losses:
        """Run the work on the stream that is used for recording."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        for tensor in result.values():
            tensor.record_stream(current)
        return result

    def record(self, work: Callable[[], Losses]) -> tuple[Callable[[], None], Losses]:
        """Record a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )
        collects = gc.isenabled()
        gc.disable()  # collecting an older graph now would abort the recording
        try:
            with self.alone, capture:
                result = work()
        except RuntimeError as error:
            raise TrainingError(
                f"a training step cannot be recorded as a CUDA graph: {error}. "
                "Remove --cuda-graphs."
            ) from error
        finally:
            if collects:
                gc.enable()
        return graph.replay, result


@dataclass(frozen=True)
class _Graph:
    batch: Batch
    """Tensors that each batch is copied into."""

    replay: Callable[[], None]

    losses: Losses
    """Tensors that each replay overwrites."""


class GraphedSteps:
    """Training steps that are recorded once per batch shape and then replayed.

    Args:
        step: forward, loss and backward. Its tensor shapes must depend only on the shapes of the
            batch, and it must not synchronize with the device. Gradients must keep their address,
            so set them to zero, never to None.
        recorder: recorder of the device.
    """

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self.step, self.recorder = step, recorder
        self._seen: set[Hashable] = set()
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._divisor: Tensor | None = None

    def __call__(self, batch: Batch, divisor: int, mode: Hashable = None) -> Losses:
        """Add the gradients of a batch and return its losses.

        Args:
            batch: batch on the device.
            divisor: number that the gradients are divided by.
            mode: anything else that determines the kernels, such as whether a part is frozen.
        """
        batch = pad_objects(batch)
        key = (mode, *(tensor.shape for tensor in batch))
        if self._divisor is None:
            self._divisor = torch.ones((), device=batch.images.device)
        self._divisor.fill_(divisor)
        if key not in self._seen:
            self._seen.add(key)
            by = self._divisor
            return self.recorder.run(lambda: self.step(batch, by))
        graph = self._graphs.get(key) or self._record(key, batch)
        self._graphs.move_to_end(key)
        for static, tensor in zip(graph.batch, batch, strict=True):
            static.copy_(tensor)
        graph.replay()
        return {name: tensor.clone() for name, tensor in graph.losses.items()}

    def _record(self, key: Hashable, batch: Batch) -> _Graph:
        if len(self._graphs) == MAX_GRAPHS:
            self._graphs.popitem(last=False)
        static = Batch(*(tensor.clone() for tensor in batch))
        divisor = self._divisor
        if divisor is None:
            raise RuntimeError("a graph was recorded before the first step")
        replay, losses = self.recorder.record(lambda: self.step(static, divisor))
        self._graphs[key] = _Graph(static, replay, losses)
        return self._graphs[key]
