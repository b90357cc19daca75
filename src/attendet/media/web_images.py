"""Images from http and https addresses: bounded in size and time."""

from __future__ import annotations

import base64
import http.client
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from attendet import __version__
from attendet.errors import ImageError
from attendet.media.sources import Source

_CHUNK = 1 << 16


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request that follows, or refuse the scheme."""
        if not newurl.startswith(("https://", "http://")):
            raise urllib.error.URLError(f"the server sends on to {newurl.split(':')[0]!r}")
        newurl, _ = _split_user(newurl)
        after = super().redirect_request(req, fp, code, msg, headers, newurl)
        authorization = req.get_header("Authorization")
        here, there = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if after is not None and authorization and here[:2] == there[:2]:  # not sent to other hosts
            after.add_unredirected_header("Authorization", authorization)
        return after


def _split_user(address: str) -> tuple[str, str | None]:
    """Return an address without user and password, and these as Basic authorization."""
    scheme, separator, rest = address.partition("://")
    end = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    user, at, host = rest[:end].rpartition("@")
    if not at:
        return address, None
    name, _, password = user.partition(":")
    credentials = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}".encode()
    return scheme + separator + host + rest[end:], f"Basic {base64.b64encode(credentials).decode()}"


@contextmanager
def _answer(source: Source, timeout: float) -> Iterator[http.client.HTTPResponse]:
    opener = urllib.request.build_opener(_WebOnly)
    opener.addheaders = [("User-Agent", f"attendet/{__version__}")]
    address, authorization = _split_user(str(source.path))
    reason: Any
    try:
        request = urllib.request.Request(address)
        if authorization is not None:
            request.add_unredirected_header("Authorization", authorization)
        with opener.open(request, timeout=timeout) as answer:
            yield answer
            return
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server says {error.code} {error.reason}"
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
        ssl.SSLError,
        OverflowError,
        ValueError,
    ) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
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
