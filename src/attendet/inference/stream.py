"""Detect objects in many images; reading, network and postprocessing run in parallel.

Threads read and resize the next images while the runtime runs several batches. All queues are
bounded, so memory does not grow with the number of images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ImageError
from attendet.images import ImageArray
from attendet.inference.preprocess import ResizeTransform
from attendet.inference.runtimes.base import Output, Runtime
from attendet.prefetch import MAX_BYTES, read_in_threads
from attendet.system import available_cores

if TYPE_CHECKING:
    from attendet.detections import Detections

S = TypeVar("S")

MAX_READERS = 4


class StreamResult(NamedTuple, Generic[S]):
    """One image of a stream with its detections.

    Attributes:
        source: an item of the sources.
        image: uint8 RGB of shape (H, W, 3).
        detections: the detections of the image.
    """

    source: S
    image: ImageArray
    detections: Detections


class NetworkInput(NamedTuple):
    """An image, the array that the network runs on, and the transform between them."""

    image: ImageArray
    padded: NDArray[np.uint8]
    transform: ResizeTransform

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.image.nbytes + self.padded.nbytes


Member = tuple[S, NetworkInput]


def stream_detections(
    runtime: Runtime,
    sources: Iterable[S],
    preprocess: Callable[[S], NetworkInput],
    postprocess: Callable[[Output, int, ResizeTransform], Detections],
    *,
    batch: int,
    workers: int | None = None,
    ahead: int | None = None,
    on_skip: Callable[[S, ImageError], None] | None = None,
) -> Generator[StreamResult[S], None, None]:
    """Yield each source with its image and detections, in order.

    Args:
        runtime: the network.
        sources: may be endless.
        preprocess: reads and resizes one source; called in threads.
        postprocess: returns the detections of one image from its row of an output.
        batch: most network inputs of one shape that run together.
        workers: reading threads; by default one per core, at most four.
        ahead: most images that are read ahead; by default two batches for each batch that the
            runtime runs in parallel.
        on_skip: called for each source that cannot be read; by default the error is raised.
    """
    depth = 2 * runtime.parallel  # one batch runs and one waits, for each of the parallel batches
    running: deque[tuple[list[Member[S]], Future[Output]]] = deque()
    held = 0

    def finish_first() -> Iterator[StreamResult[S]]:
        members, pending = running.popleft()
        output = pending.result()
        for row, (source, one) in enumerate(members):
            yield StreamResult(source, one.image, postprocess(output, row, one.transform))

    try:
        network_inputs = read_in_threads(
            preprocess,
            sources,
            ahead=ahead or depth * batch,
            workers=workers or min(available_cores(), MAX_READERS),
            size_of=lambda one: one.nbytes,
            on_skip=on_skip,
        )
        with closing(network_inputs):
            for members in _group_by_shape(network_inputs, batch):
                stacked = stack_inputs([one.padded for _, one in members])
                running.append((members, runtime.submit(stacked)))
                held += _size_of(members)
                del members
                while len(running) >= depth or (running and held > MAX_BYTES):
                    held -= _size_of(running[0][0])
                    yield from finish_first()
        while running:
            yield from finish_first()
    finally:
        for _, pending in running:  # if the caller stops early, nothing keeps running
            pending.result()


def _group_by_shape(pairs: Iterable[Member[S]], batch: int) -> Iterator[list[Member[S]]]:
    """Yield lists of consecutive inputs of one shape, of at most ``batch`` or `MAX_BYTES`."""
    members: list[Member[S]] = []
    for pair in pairs:
        if members and pair[1].padded.shape != members[0][1].padded.shape:
            yield members
            members = []
        members.append(pair)
        if len(members) == batch or _size_of(members) >= MAX_BYTES:
            yield members
            members = []
    if members:
        yield members


def _size_of(members: Sequence[Member[S]]) -> int:
    return sum(one.nbytes for _, one in members)


def stack_inputs(inputs: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return arrays of shape (H, W, 3) stacked to (N, H, W, 3); a single array is not copied."""
    return inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
