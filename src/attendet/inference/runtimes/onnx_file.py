"""The metadata of an ONNX file, read without the ``onnx`` package and without its graph.

An ONNX file is one protocol-buffers message, ModelProto (github.com/onnx/onnx, onnx/onnx.proto):
fields one after the other, each a tag (number << 3 | wire type) and its content. Field 14,
``metadata_props``, holds pairs of key (1) and value (2); field 7, the graph, is stepped over.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from attendet.errors import WeightsError

__all__ = ["read_onnx_header"]

GRAPH, METADATA = 7, 14
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
MAX_METADATA_BYTES = 64 * 1024 * 1024


class _BrokenError(Exception):
    """The bytes are no ModelProto."""


def _varint(stream: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise _BrokenError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _BrokenError


def _pair(entry: bytes) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto."""
    texts = {1: "", 2: ""}
    at = 0
    while at < len(entry):
        tag = entry[at]
        length = shift = 0
        at += 1
        while at < len(entry):
            length |= (entry[at] & 0x7F) << shift
            shift += 7
            at += 1
            if entry[at - 1] < 0x80:
                break
        if tag & 7 != DELIMITED or at + length > len(entry):
            raise _BrokenError
        texts[tag >> 3] = entry[at : at + length].decode()
        at += length
    return texts[1], texts[2]


def _walk(stream: BinaryIO, size: int) -> dict[str, str]:
    header: dict[str, str] = {}
    seen: set[int] = set()
    while stream.tell() < size:
        tag = _varint(stream)
        number, kind = tag >> 3, tag & 7
        seen.add(number)
        if kind == VARINT:
            _varint(stream)
            continue
        if kind not in (FIXED64, DELIMITED, FIXED32):
            raise _BrokenError
        length = _varint(stream) if kind == DELIMITED else 8 if kind == FIXED64 else 4
        if stream.tell() + length > size:
            raise _BrokenError
        if number == METADATA and kind == DELIMITED and length <= MAX_METADATA_BYTES:
            key, value = _pair(stream.read(length))
            header[key] = value
        else:
            stream.seek(length, os.SEEK_CUR)
    if GRAPH not in seen:
        raise _BrokenError
    return header


def read_onnx_header(path: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file.

    Args:
        path: the file.

    Returns:
        Key to value; empty where the file has no metadata.

    Raises:
        WeightsError: if the file cannot be read, is no ONNX file, or is cut short.
    """
    try:
        with path.open("rb") as stream:
            return _walk(stream, path.stat().st_size)
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"weights file cannot be read ({path}): {reason}.") from None
    except (_BrokenError, UnicodeDecodeError):
        raise WeightsError(
            f"weights must be an ONNX file; this is none, or cut short ({path})."
        ) from None
