"""Frames of images, videos, cameras and streams, in order and prefetched."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from attendet.errors import ConfigError, DataError, ImageError
from attendet.images import ImageArray, read_image
from attendet.media.live_stream import LiveOptions, LiveReader
from attendet.media.sources import Skipped, Source, find_sources
from attendet.media.video import open_video, require_av, to_image
from attendet.prefetch import read_in_thread, read_in_threads

OnSkip = Callable[[Skipped], None]

MAX_IMAGE_BYTES = 64 * 1024 * 1024
"""Size limit of an image file from a URL or standard input."""

READERS = 2
"""Number of threads that read images."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One image from a source.

    Attributes:
        source: source of the image.
        image: uint8 RGB of shape (H, W, 3).
        index: frame number in the source, from 0; skipped frames count too.
        seconds: time since the source's first frame; None for a still image.
        total: number of frames that the source yields, as stated by its file; None if unknown.
    """

    source: Source
    image: ImageArray
    index: int = 0
    seconds: float | None = None
    total: int | None = None

    @property
    def is_still(self) -> bool:
        """True for an image that is not part of a video."""
        return self.seconds is None

    @property
    def name(self) -> str:
        """Name for the results: ``slide``, or ``street/000012`` in a video."""
        return self.source.name if self.is_still else f"{self.source.name}/{self.index:06d}"


def read_frames(
    paths: str | Path | Source | Sequence[str | Path | Source],
    *,
    every: int = 1,
    on_skip: OnSkip | None = None,
    live: LiveOptions | None = None,
    ahead: int = 16,
) -> Generator[Frame, None, None]:
    """Yield the frames of images, videos, cameras, streams and URLs one by one.

    Threads read ahead by at most ``ahead`` frames and 256 MiB, so memory does not grow with the
    length of a video. A camera or stream yields its newest frame and is reconnected if it breaks.

    Args:
        paths: what to read (see `attendet.media.sources.find_sources`), or sources.
        every: of a video, camera or stream, yield the first of every so many frames.
        on_skip: called with each source that cannot be read, or not to its end; if None, that is
            an error.
        live: options for cameras and streams.
        ahead: maximum number of frames read ahead.

    Yields:
        The frames, with the sources in the given order.

    Raises:
        DataError: if there is no source, or one cannot be read and ``on_skip`` is None.
        ConfigError: if an argument is invalid.
        MissingExtraError: if there is a video, a stream or a URL that may be one, and the extra
            ``video`` is not installed.

    Example:
        >>> import attendet
        >>> [(frame.name, frame.image.shape) for frame in read_frames(attendet.SAMPLE_IMAGE)]
        [('sample', (320, 480, 3))]
    """
    if every < 1 or ahead < 1:
        raise ConfigError(f"every and ahead must be 1 or more; got {every} and {ahead}.")
    sources = _sources(paths)
    if any(source.kind in ("video", "stream", "address") for source in sources):
        require_av()
    return _read_frames(sources, every, on_skip or _raise, live or LiveOptions(), ahead)


def _sources(paths: str | Path | Source | Sequence[str | Path | Source]) -> list[Source]:
    if isinstance(paths, str | Path | Source):
        paths = [paths]
    found = [one for one in paths if isinstance(one, Source)]
    rest = [one for one in paths if not isinstance(one, Source)]
    if found and rest:
        raise ConfigError("sources must be either all paths or all `Source` objects; got both.")
    return found or find_sources(rest)


def _raise(skipped: Skipped) -> None:
    raise DataError(skipped.reason)


def _read_frames(
    sources: Sequence[Source], every: int, on_skip: OnSkip, live: LiveOptions, ahead: int
) -> Generator[Frame, None, None]:
    resolved = (_resolved(source, on_skip, live.timeout) for source in sources)
    known = (source for source in resolved if source is not None)
    for is_image, run in itertools.groupby(known, lambda source: source.kind == "image"):
        if is_image:
            for source, image in read_images(run, on_skip=on_skip, ahead=ahead):
                yield Frame(source, image)
            continue
        for source in run:
            with closing(_read_one(source, every, live, ahead)) as frames:
                yield from _until_it_fails(source, frames, on_skip)


def _resolved(source: Source, on_skip: OnSkip, timeout: float) -> Source | None:
    """Resolve an ``address`` to an image or a stream by asking its server; None if skipped."""
    if source.kind != "address":
        return source
    from attendet.media.web_images import is_image_url

    try:
        kind = is_image_url(source, timeout=timeout)
    except ImageError as error:
        on_skip(Skipped(source.label, str(error)))
        return None
    return replace(source, kind="image" if kind else "stream")


def _until_it_fails(source: Source, frames: Iterator[Frame], on_skip: OnSkip) -> Iterator[Frame]:
    done = 0
    try:
        for frame in frames:
            done += 1
            yield frame
    except DataError as error:
        on_skip(Skipped(source.label, str(error), done))


def _read_one(
    source: Source, every: int, live: LiveOptions, ahead: int
) -> Generator[Frame, None, None]:
    if source.is_live:
        wanted = 0
        for image, index, seconds in LiveReader(source, live):
            if index >= wanted:
                wanted = index - index % every + every
                yield Frame(source, image, index, seconds)
        return
    frames = _video_frames(source, every, live.timeout)
    yield from read_in_thread(frames, ahead=ahead, size_of=lambda frame: frame.image.nbytes)


def _video_frames(source: Source, every: int, timeout: float) -> Iterator[Frame]:
    with open_video(source, timeout=timeout) as video:
        total = None if video.total is None else -(-video.total // every)
        for index, (frame, seconds) in enumerate(video.frames()):
            if index % every == 0:
                yield Frame(source, to_image(frame), index, seconds, total)
        video.check_complete()


def read_images(
    sources: Iterable[Source], *, on_skip: OnSkip, ahead: int = 16
) -> Generator[tuple[Source, ImageArray], None, None]:
    """Yield each source with its image, in order, while threads read the next ones.

    Args:
        sources: image files, http(s) URLs of images, or standard input.
        on_skip: called with each image that cannot be read.
        ahead: maximum number of images read ahead; fewer if they are large.

    Yields:
        The source and its image, uint8 RGB of shape (H, W, 3).
    """
    yield from read_in_threads(
        _read_still,
        sources,
        ahead=ahead,
        workers=READERS,
        size_of=lambda image: image.nbytes,
        on_skip=lambda source, error: on_skip(Skipped(source.label, str(error))),
    )


def _read_still(source: Source) -> ImageArray:
    if isinstance(source.path, Path):
        return read_image(source.path)
    if source.path == "-":
        if sys.stdin is None:
            raise ImageError(
                "standard input must contain an image; it is closed (-). Pipe a file into it, or "
                "pass the path of the file."
            )
        content = sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)
        if len(content) > MAX_IMAGE_BYTES:
            raise ImageError(
                f"image must have at most {MAX_IMAGE_BYTES // 2**20} MiB; got more "
                "(standard input)."
            )
        return read_image(content, name="standard input")
    from attendet.media.web_images import fetch_image_bytes

    content = fetch_image_bytes(source, max_bytes=MAX_IMAGE_BYTES)
    return read_image(content, name=source.label)
