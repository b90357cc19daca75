"""Images from http and https addresses: bounded in size and time."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager

from attendet.download import UNREACHABLE, open_url, reason_of
from attendet.errors import ImageError
from attendet.media.sources import Source

_CHUNK = 1 << 16


@contextmanager
def _answer(source: Source, timeout: float) -> Iterator[http.client.HTTPResponse]:
    try:
        with open_url(str(source.path), timeout=timeout) as answer:
            yield answer
            return
    except UNREACHABLE as error:
        reason = reason_of(error)
    raise ImageError(
        f"address cannot be read ({source.label}): {reason}. Check the address and the network."
    )


def gives_image(source: Source, *, timeout: float = 20.0) -> bool:
    """Return whether the server calls what is at an address an image (``image/...``).

    Args:
        source: an http or https address.
        timeout: seconds without a sign of life before giving up.

    Raises:
        ImageError: if there is no good answer.
    """
    with _answer(source, timeout) as answer:
        return str(answer.headers.get_content_maintype()) == "image"


def fetch_image_bytes(source: Source, *, max_bytes: int, timeout: float = 20.0) -> bytes:
    """Return what an http or https address gives.

    Args:
        source: the address.
        max_bytes: a longer answer is refused, at the latest while it streams.
        timeout: seconds that it may take in all.

    Raises:
        ImageError: if there is no good answer, or one that is too long, too slow or cut off.
    """
    deadline = time.monotonic() + timeout
    content = bytearray()
    with _answer(source, timeout) as answer:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        while (total or 0) <= max_bytes and len(content) <= max_bytes:
            chunk = answer.read1(_CHUNK)
            if not chunk:
                break
            content += chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"no whole answer after {timeout:g} s")
    if (total or 0) > max_bytes or len(content) > max_bytes:
        raise ImageError(
            f"image must have at most {max_bytes // 2**20} MiB; got more ({source.label})."
        )
    if total is not None and len(content) < total:
        raise ImageError(
            f"image is cut off after {len(content)} of {total} bytes ({source.label})."
        )
    return bytes(content)
