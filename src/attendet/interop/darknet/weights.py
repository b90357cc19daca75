"""Read and write darknet weights files as arrays. Needs no torch.

The format: int32 major, minor, revision; the number of images seen in training, int64 from version
0.2 on and int32 before; then float32 values, convolution by convolution in the order of the
configuration: bias, and with batch normalization scale, mean and variance; then the weights. All
little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attendet.errors import WeightsError
from attendet.files import write_atomically
from attendet.models.graph import Convolutional, Graph

Array = NDArray[np.float32]

MAX_VERSION = 1000
"""From this major or minor version on, files have another order of values; not supported."""


@dataclass(frozen=True)
class DarknetHeader:
    """Header of a weights file."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0
    """Images seen in training."""

    @property
    def version(self) -> str:
        """Major, minor and revision, separated by dots."""
        return f"{self.major}.{self.minor}.{self.revision}"

    @property
    def wide(self) -> bool:
        """True if the number of images is an int64, not an int32."""
        return self.major * 10 + self.minor >= 2

    def to_bytes(self) -> bytes:
        """Return the header as bytes."""
        layout = "<iiiq" if self.wide else "<iiii"
        return struct.pack(layout, self.major, self.minor, self.revision, self.seen)


@dataclass(frozen=True, eq=False)
class ConvolutionArrays:
    """Values of one convolution."""

    bias: Array
    """Shape (filters,)."""

    weight: Array
    """Shape (filters, in_channels / groups, size, size)."""

    norm: tuple[Array, Array, Array] | None = None
    """Scale, mean and variance of batch normalization, (filters,) each."""

    def in_file_order(self) -> tuple[Array, ...]:
        """Return the arrays in the order of the file."""
        return (self.bias, *(self.norm or ()), self.weight)


def read_weights(
    path: str | Path, graph: Graph, *, cutoff: int | None = None, lines: Sequence[int] = ()
) -> tuple[DarknetHeader, dict[int, ConvolutionArrays]]:
    """Return the header and the arrays of each convolution, by layer number.

    The number of values in the file is compared with the configuration before they are read.

    Args:
        path: weights file.
        graph: the configuration's layers.
        cutoff: read only this many layers; the file has these layers or all. None reads all.
        lines: line of each layer in the configuration file, for error messages.

    Raises:
        WeightsError: if the file is missing, not a weights file, too short or too long, or has
            values that are not finite or negative variances; or if ``cutoff`` is out of range.
    """
    path = Path(path)
    counts = graph.parameters()
    if cutoff is not None and not 1 <= cutoff <= len(counts):
        raise WeightsError(
            f"cutoff must be from 1 to {len(counts)}, the number of layers in the configuration; "
            f"got {cutoff} (--cutoff)."
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(512)
            header = _read_header(start, path)
            offset = len(header.to_bytes())
            used = _check_size(path, size - offset, counts, cutoff)
            stream.seek(offset)
            values = np.frombuffer(stream.read(4 * used), dtype="<f4").astype(np.float32)
    except FileNotFoundError:
        raise WeightsError(f"weights file not found ({path}). Check the path.") from None
    except OSError as error:
        raise WeightsError(
            f"weights file cannot be read ({path}): {error.strerror or error}."
        ) from None
    return header, _split_values(path, values, graph, cutoff or len(counts), lines)


def _read_header(start: bytes, path: Path) -> DarknetHeader:
    if not start:
        raise WeightsError(f"weights file must contain a header and values; it is empty ({path}).")
    printable = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
    if printable or start.lstrip()[:1] == b"<":
        begin = start[:32].decode("ascii", errors="replace").splitlines()[0]
        raise WeightsError(
            f"weights file must be binary; got text that begins with {begin!r} ({path}). "
            "It may be a web page or a Git LFS pointer: download the file itself."
        )
    if len(start) < 16:
        raise WeightsError(
            f"weights file must begin with a header of 16 or 20 bytes; got {len(start)} ({path})."
        )
    major, minor, revision = struct.unpack_from("<iii", start)
    if not (0 <= major < MAX_VERSION and 0 <= minor < MAX_VERSION and revision >= 0):
        raise WeightsError(
            f"weights file must have a version below {MAX_VERSION}; got "
            f"{major}.{minor}.{revision} ({path}). The file is not a darknet weights file, or its "
            "layout is not supported."
        )
    wide = DarknetHeader(major, minor).wide
    if wide and len(start) < 20:
        raise WeightsError(f"weights file is truncated in its header ({path}).")
    (seen,) = struct.unpack_from("<q" if wide else "<i", start, 12)
    return DarknetHeader(major, minor, revision, seen)


def _check_size(path: Path, size: int, counts: Sequence[int], cutoff: int | None) -> int:
    """Return the number of values to read; ``size`` is the number of bytes after the header."""
    whole = sum(counts)
    wanted = whole if cutoff is None else sum(counts[:cutoff])
    found, rest = divmod(size, 4)
    if rest == 0 and found in (wanted, whole):
        return wanted
    held = f"{found:,} values{f' and {rest} bytes' if rest else ''}"
    layers = "" if cutoff is None else f" for the first {cutoff} layers"
    text = (
        f"weights file must contain {wanted:,} values{layers} to match the configuration; "
        f"got {held}, too {'few' if found < wanted else 'many'} ({path})."
    )
    fits = [n for n in range(1, len(counts)) if sum(counts[:n]) == found and counts[n]]
    if rest == 0 and fits:
        text += f" It matches the first {fits[-1]} layers: set --cutoff {fits[-1]}."
    else:
        text += " Use the configuration that it was trained with, or download the file again."
    raise WeightsError(text)


def _split_values(
    path: Path, values: Array, graph: Graph, layers: int, lines: Sequence[int]
) -> dict[int, ConvolutionArrays]:
    channels = graph.input_channels()
    arrays: dict[int, ConvolutionArrays] = {}
    position = 0

    def take(*shape: int) -> Array:
        nonlocal position
        count = math.prod(shape)
        position += count
        return values[position - count : position].reshape(shape)

    for index, layer in enumerate(graph.layers[:layers]):
        if not isinstance(layer, Convolutional):
            continue
        filters = layer.filters
        bias = take(filters)
        norm = (take(filters), take(filters), take(filters)) if layer.batch_normalize else None
        weight = take(filters, channels[index] // layer.groups, layer.size, layer.size)
        arrays[index] = ConvolutionArrays(bias, weight, norm)
        where = f"layer {index}" + (f", line {lines[index]}" if lines else "")
        _check_values(path, arrays[index], where)
    return arrays


def _check_values(path: Path, arrays: ConvolutionArrays, where: str) -> None:
    for array in arrays.in_file_order():
        if not np.isfinite(array).all():
            raise WeightsError(
                f"weights must be finite; [convolutional] {where} has NaN or infinity ({path}). "
                "The file is damaged, or its training diverged."
            )
    if arrays.norm is not None and (arrays.norm[2] < 0).any():
        raise WeightsError(
            f"variances must be at least 0; [convolutional] {where} has negative values ({path}). "
            "The configuration does not match the file, or the file is damaged."
        )


def write_weights(
    path: str | Path, arrays: Sequence[ConvolutionArrays], header: DarknetHeader
) -> Path:
    """Write a weights file atomically; return its path.

    Args:
        path: the file.
        arrays: values of each convolution, in the order of the configuration.
        header: header of the file.
    """
    parts = [header.to_bytes()]
    for one in arrays:
        parts += [array.astype("<f4").tobytes() for array in one.in_file_order()]
    return write_atomically(path, b"".join(parts))
