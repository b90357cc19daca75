"""Cache of decoded images: uint8 at network input size, in memory or in a memory-mapped file.

n is the number of images, k the number of boxes of one image; H, W are the network input.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from attendet.data.sample import Issue, Sample
from attendet.errors import ConfigError, DataError, ImageError
from attendet.images import ImageArray, Letterbox, letterbox, read_image, stretched
from attendet.system import (
    CACHE_VARIABLE,
    available_cores,
    available_memory,
    cache_folder,
    open_passed_file,
    pass_file,
    reserve_file,
)

Progress = Callable[[int, int], None]

MEMORY_FRACTION = 0.25
"""Images that need more than this fraction of the available memory are stored in a file."""

_FOLDER_ADVICE = f"Set {CACHE_VARIABLE} to a folder with enough space"


class ImageCache:
    """Images of samples, decoded once and letterboxed to one network input, with their boxes.

    The images are stored in memory, or in a memory-mapped file in the cache folder if they need
    more than a quarter of the available memory. The file is removed when the cache is closed or
    garbage-collected (if the system allows it, the file is unlinked at once, so that even a killed
    process leaves no file behind). Images that cannot be read are skipped and reported in `issues`.
    Difficult boxes are skipped too, because they are not trained on.

    A shared cache can be an argument of a new `multiprocessing.Process`. The process maps the same
    file, read-only. The file exists until the last process closes it.

    Attributes:
        images: uint8, shape (n, H, W, 3), RGB; an `np.memmap` if stored in a file.
        samples: the n samples that were kept, in the order given.
        stretch: whether height and width were scaled by separate factors.
        transforms: the letterbox of each image.
        boxes_xyxy: for each image float32 (k, 4), network input pixels.
        class_ids: for each image int64 (k,).
        issues: one for each unreadable image.

    Args:
        samples: samples whose images are decoded.
        input_hw: height and width of the network input, pixels.
        stretch: scale height and width separately, without padding. `transforms` then start from
            the stretched image, so they are identities.
        shared: always use a file, so that other processes can map it.
        processes: number of processes of this machine that have such a cache each.
        progress: called with the images done and their total, from the calling thread.

    Raises:
        ConfigError: if an argument is out of range.
        DataError: if no image can be read, or the file does not fit on the disk.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (8, 4)).save(folder / "a.png")
        >>> sample = Sample(
        ...     path=folder / "a.png",
        ...     image_hw=(4, 8),
        ...     boxes_xyxy=np.array([[0, 0, 8, 4]], dtype=np.float32),
        ...     class_ids=np.array([1]),
        ...     difficult=np.array([False]),
        ...     key="a",
        ... )
        >>> with ImageCache([sample], (32, 32)) as cache:
        ...     cache.images.shape, cache.boxes_xyxy[0].tolist()
        ((1, 32, 32, 3), [[0.0, 8.0, 32.0, 24.0]])
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        input_hw: tuple[int, int],
        *,
        stretch: bool = False,
        shared: bool = False,
        processes: int = 1,
        progress: Progress | None = None,
    ) -> None:
        ConfigError.check(min(input_hw) >= 8, "input_hw", "at least 8 x 8 pixels", input_hw)
        if not samples:
            raise DataError("samples must contain at least one image; got none.")
        self.input_hw = (int(input_hw[0]), int(input_hw[1]))
        shape = (len(samples), *self.input_hw, 3)
        self.images: ImageArray
        self._file: IO[bytes] | None = None
        needed = processes * int(np.prod(shape, dtype=np.int64))
        if shared or needed > MEMORY_FRACTION * available_memory():
            self._file = _nameless_file(shape, cache_folder())
            self.images = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=shape)
        else:
            self.images = np.empty(shape, dtype=np.uint8)
        self.stretch = stretch
        self._fill(samples, progress)

    def _fill(self, samples: Sequence[Sample], progress: Progress | None) -> None:
        images = self.images

        def decode(row: int) -> Letterbox | ImageError:
            try:
                image = read_image(samples[row].path)
            except ImageError as error:
                return error
            if self.stretch:
                image = stretched(image, self.input_hw)
            images[row], transform = letterbox(image, self.input_hw)
            return transform

        self.samples: list[Sample] = []
        self.transforms: list[Letterbox] = []
        self.boxes_xyxy: list[NDArray[np.float32]] = []
        self.class_ids: list[NDArray[np.int64]] = []
        self.issues: list[Issue] = []
        with ThreadPoolExecutor(min(8, available_cores()), "decode") as pool:
            for row, transform in enumerate(pool.map(decode, range(len(samples)))):
                if isinstance(transform, Letterbox):
                    # All rows up to `row` are decoded, so no worker uses the row that is filled.
                    if len(self.samples) < row:
                        images[len(self.samples)] = images[row]
                    self._keep(samples[row], transform)
                else:
                    path, message = samples[row].path, str(transform)
                    issue = Issue(path, None, "unreadable-image", message, "skipped image")
                    self.issues.append(issue)
                if progress is not None:
                    progress(row + 1, len(samples))
        if not self.samples:
            raise DataError(
                f"none of the {len(samples)} images can be read; "
                f"first error: {self.issues[0].message}"
            )
        self.images = images[: len(self.samples)]

    def _keep(self, sample: Sample, transform: Letterbox) -> None:
        trained = ~np.asarray(sample.difficult, dtype=bool)
        boxes_xyxy = sample.boxes_xyxy[trained]
        if self.stretch:
            height, width = np.divide(self.input_hw, sample.image_hw)
            boxes_xyxy = boxes_xyxy * np.array([width, height, width, height])
        self.samples.append(sample)
        self.transforms.append(transform)
        self.boxes_xyxy.append(transform.to_input(boxes_xyxy).astype(np.float32))
        self.class_ids.append(np.asarray(sample.class_ids[trained], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.samples)

    def close(self) -> None:
        """Release the images and close their file; the lists of samples and boxes remain."""
        self.images = np.empty((0, *self.input_hw, 3), dtype=np.uint8)
        if self._file is not None:
            self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._file is None:
            return vars(self)
        return {**vars(self), "images": self.images.shape, "_file": pass_file(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._file is not None:
            self._file = open_passed_file(state["_file"])
            self.images = np.memmap(self._file, dtype=np.uint8, mode="r", shape=state["images"])

    def __enter__(self) -> ImageCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _nameless_file(shape: tuple[int, ...], folder: Path) -> IO[bytes]:
    """Return a new file for an array; it is removed once it is closed and no longer mapped."""
    size = int(np.prod(shape, dtype=np.int64))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise DataError(
                f"the image cache needs {size / 2**30:.1f} GiB; {folder} has {free / 2**30:.1f} "
                f"GiB free. {_FOLDER_ADVICE}, or choose a smaller size."
            )
        with tempfile.TemporaryFile(prefix="images-", suffix=".cache", dir=folder) as file:
            reserve_file(file.fileno(), size)
            return os.fdopen(os.dup(file.fileno()), "r+b")
    except OSError as error:
        raise DataError(
            f"the image cache cannot be written to {folder}: {error}. {_FOLDER_ADVICE}."
        ) from None
