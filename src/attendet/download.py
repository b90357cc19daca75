"""Download of one file: atomic, resumable, with a size limit and checksums."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from attendet import __version__
from attendet.errors import ConfigError, DownloadError

Progress = Callable[[int, int | None], None]
"""Called with the bytes received and the total bytes (None while unknown)."""

ATTEMPTS = 3
"""Number of connections to try if a transfer breaks off after some bytes."""

_CHUNK = 1 << 16


URL_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    OverflowError,
    ValueError,
)
"""Errors that `open_url` and reading its response may raise."""


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Redirect handler that follows redirects to http and https only."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> Any:
        """Return the redirected request, or raise URLError for another scheme."""
        answer, code, message, headers, newurl = args
        if not newurl.startswith(("https://", "http://")):
            raise urllib.error.URLError(f"the server redirects to {newurl.split(':')[0]!r}")
        newurl, _ = _split_user(newurl)
        after = super().redirect_request(req, answer, code, message, headers, newurl)
        authorization = req.get_header("Authorization")
        here, there = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if after is not None and authorization and here[:2] == there[:2]:  # not sent to other hosts
            after.add_unredirected_header("Authorization", authorization)
        return after


def _split_user(address: str) -> tuple[str, str | None]:
    """Return a URL without user and password, and these as Basic authorization (or None)."""
    scheme, separator, rest = address.partition("://")
    end = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    user, at, host = rest[:end].rpartition("@")
    if not at:
        return address, None
    name, _, password = user.partition(":")
    credentials = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}".encode()
    return scheme + separator + host + rest[end:], f"Basic {base64.b64encode(credentials).decode()}"


def open_url(
    url: str, *, timeout: float, headers: Mapping[str, str] | None = None
) -> http.client.HTTPResponse:
    """Open an http(s) URL; its user and password are sent, if any. Raises `URL_ERRORS`."""
    address, authorization = _split_user(url)
    agent = {"User-Agent": f"attendet/{__version__}"}
    request = urllib.request.Request(address, headers={**agent, **(headers or {})})
    if authorization is not None:
        request.add_unredirected_header("Authorization", authorization)
    answer: http.client.HTTPResponse
    answer = urllib.request.build_opener(_WebOnly).open(request, timeout=timeout)
    return answer


def reason_of(error: Exception) -> str:
    """Return the reason that an error of `URL_ERRORS` states; close an HTTP error response."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server returned {error.code} {error.reason}"
    return str(getattr(error, "reason", None) or error or type(error).__name__)


class _InterruptedError(Exception):
    """The connection broke off; the bytes received so far are kept."""


def download(
    url: str,
    path: Path,
    *,
    max_bytes: int,
    sha256: str | None = None,
    sha512: str | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Download a file and return its path.

    The file appears complete or not at all. If the connection breaks off, the received bytes are
    kept as ``NAME.part``, also if the server is then unreachable or fails (5xx). The next call
    resumes there if the server still has the same file (strong ETag; RFC 9110, section 13.1.5).

    Args:
        url: http or https; redirects to other schemes are refused.
        path: file to write.
        max_bytes: longer responses are refused.
        sha256: of the complete file, 64 hexadecimal digits; not checked if None.
        sha512: of the complete file, 128 hexadecimal digits; not checked if None.
        progress: called with bytes received and total bytes (None while unknown).
        timeout: seconds without data before giving up.

    Raises:
        ConfigError: if the URL is not http or https.
        DownloadError: if there is no response, if the response is an error, too long or cut off,
            or if the checksum differs.
    """
    if not url.startswith(("https://", "http://")):
        raise ConfigError.must("url", "an http:// or https:// address", url)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, tag = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.etag")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch(url, part, tag, max_bytes, progress, timeout)
            break
        except _InterruptedError as error:
            if attempt == ATTEMPTS:
                raise DownloadError(f"{error} ({url}). Try again: the download resumes.") from None
        except DownloadError:
            _remove(part, tag)
            raise
    for kind, wanted in (("sha256", sha256), ("sha512", sha512)):
        if wanted is None:
            continue
        found = file_digest(part, kind)
        if found != wanted:
            _remove(part, tag)
            raise DownloadError(
                f"download must have the {kind} {wanted[:16]}...; got {found[:16]}... ({url}). "
                "The file was changed at the source or in transit. "
                "Try again, or use another network."
            )
    tag.unlink(missing_ok=True)
    part.replace(path)
    return path


def download_with_bar(
    url: str,
    path: Path,
    *,
    max_bytes: int,
    sha256: str | None = None,
    sha512: str | None = None,
) -> Path:
    """Download a file with a progress bar on stderr, if that is a terminal; see `download`."""
    # Imported here: the light runtimes load this module and must start fast.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    console.print(f"downloading {url} to {path.parent}", highlight=False, soft_wrap=True)
    columns = (TextColumn(path.name), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(path.name, total=None)
        return download(
            url,
            path,
            max_bytes=max_bytes,
            sha256=sha256,
            sha512=sha512,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def file_digest(path: Path, kind: str) -> str:
    """Return the ``sha256`` or ``sha512`` of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _fetch(
    url: str, part: Path, tag: Path, max_bytes: int, progress: Progress | None, timeout: float
) -> None:
    """Receive the file, or the rest of it, into ``part``."""
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {}
    if have:
        headers = {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")}
    try:
        with open_url(url, timeout=timeout, headers=headers) as response:
            start = have if response.status == 206 else 0
            etag = response.headers.get("ETag", "")
            if etag.startswith('"'):
                tag.write_text(etag, encoding="utf-8")
            with part.open("ab" if start else "wb") as file:
                _receive(response, file, url, start, max_bytes, progress)
                file.flush()
                os.fsync(file.fileno())
    except URL_ERRORS as error:
        reason = reason_of(error)
        code = error.code if isinstance(error, urllib.error.HTTPError) else None
        if have and code == 416:  # the file has no bytes after these
            _remove(part, tag)
            raise _InterruptedError(f"download cannot be resumed: {reason}") from None
        if (code is None or code >= 500) and part.exists() and part.stat().st_size:
            raise _InterruptedError(f"download was interrupted: {reason}") from None
        raise DownloadError(
            f"download failed: {reason} ({url}). Check the address and the network connection."
        ) from None


def _receive(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    url: str,
    start: int,
    max_bytes: int,
    progress: Progress | None,
) -> None:
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    received = start
    while (total or 0) <= max_bytes and received <= max_bytes:
        chunk = response.read(_CHUNK)
        if not chunk:
            break
        file.write(chunk)
        received += len(chunk)
        if progress is not None:
            progress(received, total)
    if max(total or 0, received) > max_bytes:
        raise DownloadError(
            f"download must be at most {max_bytes} bytes; got {total or 'more'} ({url}). "
            "Check the address."
        )
    if total is not None and received < total:
        raise _InterruptedError(f"download was interrupted after {received} of {total} bytes")
