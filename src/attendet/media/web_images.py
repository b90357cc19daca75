"""Images from http and https URLs, with limits on size and time."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager

from attendet.download import URL_ERRORS, open_url, reason_of
from attendet.errors import ImageError
from attendet.media.sources import Source

_CHUNK = 1 << 16


@contextmanager
def _answer(source: Source, timeout: float) -> Iterator[http.client.HTTPResponse]:
    try:
        with open_url(str(source.path), timeout=timeout) as answer:
            yield answer
            return
    except URL_ERRORS as error:
        reason = reason_of(error)
    raise ImageError(
        f"address cannot be read ({source.label}): {reason}. Check the address and the network."
    )


def is_image_url(source: Source, *, timeout: float = 20.0) -> bool:
    """Return whether the content type of a URL is an image (``image/...``).

    Args:
        source: source with an http or https URL.
        timeout: seconds without data before giving up.

    Raises:
        ImageError: if the URL cannot be read.
    """
    with _answer(source, timeout) as answer:
        return str(answer.headers.get_content_maintype()) == "image"


def fetch_image_bytes(source: Source, *, max_bytes: int, timeout: float = 20.0) -> bytes:
    """Return the content of an http or https URL.

    Args:
        source: source with the URL.
        max_bytes: a longer response is refused, at the latest while it is received.
        timeout: limit on the total time, seconds.

    Raises:
        ImageError: if the URL cannot be read, or the response is too long, too slow or cut off.
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
                raise TimeoutError(f"incomplete response after {timeout:g} s")
    if (total or 0) > max_bytes or len(content) > max_bytes:
        raise ImageError(
            f"image must have at most {max_bytes // 2**20} MiB; got more ({source.label})."
        )
    if total is not None and len(content) < total:
        raise ImageError(
            f"image is truncated after {len(content)} of {total} bytes ({source.label})."
        )
    return bytes(content)
