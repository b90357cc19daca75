"""Many images at the speed of the network: reading, network and selection side by side.

Threads read the next images and lay them on network inputs while the runtime works on several
batches. Whatever waits is bounded, so that memory does not grow with the number of images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from attendet.errors import ConfigError, ImageError
from attendet.images import ImageArray
from attendet.inference.preprocess import ResizeTransform
from attendet.inference.runtimes.base import AsyncRuntime, Output, Pending, Runtime
from attendet.prefetch import MAX_BYTES, map_in_threads
from attendet.system import available_cores

if TYPE_CHECKING:
    from attendet.detections import Detections

__all__ = ["Found", "Laid", "ImageStream"]

S = TypeVar("S")

MOST_READERS = 4


class Found(NamedTuple, Generic[S]):
    """One image of a stream.

    Attributes:
        source: what was given.
        image: uint8 RGB of shape (H, W, 3).
        detections: what was found in it.
    """

    source: S
    image: ImageArray
    detections: Detections


class Laid(NamedTuple):
    """An image, its network input as the network takes it, and how it lies there."""

    image: ImageArray
    padded: NDArray[np.uint8]
    transform: ResizeTransform

    @property
    def size(self) -> int:
        """Bytes of both."""
        return self.image.nbytes + self.padded.nbytes


class _OneByOne:
    """Has any runtime work on a batch while the next is made ready: in a thread of its own."""

    parallel = 1

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="network")

    def submit(self, inputs: NDArray[np.uint8]) -> Future[Output]:
        return self._pool.submit(self._runtime.run, inputs)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class ImageStream(Generic[S]):
    """The way of many images through one runtime.

    Attributes:
        runtime: the network.
        lay: reads one source and lays it on a network input; called in threads.
        select: gives the detections of one image from its row of the output.
        on_skip: told of each source that cannot be read; without it the error is raised.
        batch: network inputs that go through the network together, if they are of one shape.
        workers: reading threads; one a core, at most four, if none.
        ahead: images that are read and wait, at most; if none, as many as the network works on.
    """

    runtime: Runtime
    lay: Callable[[S], Laid]
    select: Callable[[Output, int, ResizeTransform], Detections]
    on_skip: Callable[[S, ImageError], None] | None = None
    batch: int = 1
    workers: int | None = None
    ahead: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "workers", "ahead"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more; got {value!r}.")

    def run(self, sources: Iterable[S]) -> Generator[Found[S], None, None]:
        """Give each source with its detections, in order."""
        if isinstance(self.runtime, AsyncRuntime):
            yield from self._run(sources, self.runtime.submit, self.runtime.parallel)
            return
        network = _OneByOne(self.runtime)
        try:
            yield from self._run(sources, network.submit, network.parallel)
        finally:
            network.close()

    def _run(
        self,
        sources: Iterable[S],
        submit: Callable[[NDArray[np.uint8]], Pending],
        parallel: int,
    ) -> Generator[Found[S], None, None]:
        depth = 2 * parallel  # one batch in work and one that waits for each place
        running: deque[tuple[list[tuple[S, Laid]], Pending]] = deque()
        held = 0
        try:
            with closing(self._read(sources, self.ahead or depth * self.batch)) as read:
                for members in _of_one_shape(read, self.batch):
                    running.append((members, submit(_stack([laid.padded for _, laid in members]))))
                    held += _size_of(members)
                    while len(running) >= depth or (running and held > MAX_BYTES):
                        held -= _size_of(running[0][0])
                        yield from self._finish(*running.popleft())
                    del members
            while running:
                yield from self._finish(*running.popleft())
        finally:
            for _, pending in running:  # who leaves early leaves nothing at work
                pending.result()

    def _read(self, sources: Iterable[S], ahead: int) -> Generator[tuple[S, Laid], None, None]:
        workers = self.workers or min(available_cores(), MOST_READERS)
        read = map_in_threads(
            self.lay, sources, ahead=ahead, workers=workers, size_of=lambda laid: laid.size
        )
        with closing(read):
            for source, future in read:
                try:
                    laid = future.result()
                except ImageError as error:
                    if self.on_skip is None:
                        raise
                    self.on_skip(source, error)
                    continue
                yield source, laid
                del source, future, laid

    def _finish(self, members: list[tuple[S, Laid]], pending: Pending) -> Iterator[Found[S]]:
        output = pending.result()
        for index, (source, laid) in enumerate(members):
            yield Found(source, laid.image, self.select(output, index, laid.transform))


def _of_one_shape(pairs: Iterable[tuple[S, Laid]], batch: int) -> Iterator[list[tuple[S, Laid]]]:
    """Give network inputs of one shape that follow each other together, up to so many or
    `MAX_BYTES`."""
    members: list[tuple[S, Laid]] = []
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


def _size_of(members: Sequence[tuple[S, Laid]]) -> int:
    return sum(laid.size for _, laid in members)


def _stack(inputs: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
