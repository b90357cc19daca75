from __future__ import annotations

import hashlib
import socket
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from attendet import download as download_module
from attendet.download import ATTEMPTS, download
from attendet.errors import ConfigError, DownloadError


def test_download_gives_the_bytes_and_reports_progress(server: Any, tmp_path: Path) -> None:
    body = bytes(range(256)) * 1000
    calls: list[tuple[int, int | None]] = []
    path = download(
        server.give("/file", body),
        tmp_path / "new" / "file.bin",
        max_bytes=len(body),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert path.read_bytes() == body
    assert calls[-1] == (len(body), len(body))
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert list(path.parent.iterdir()) == [path]


def test_download_without_stated_length(server: Any, tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    path = download(
        server.give("/file", b"abc", length=None),
        tmp_path / "file",
        max_bytes=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert path.read_bytes() == b"abc"
    assert calls == [(3, None)]


def test_download_follows_a_redirect(server: Any, tmp_path: Path) -> None:
    url = server.redirect("/here", server.give("/there", b"found"))
    assert download(url, tmp_path / "file", max_bytes=10).read_bytes() == b"found"


def test_download_follows_no_redirect_to_files(server: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for target in (secret.as_uri(), "ftp://127.0.0.1/x", "data:text/plain,x"):
        with pytest.raises(DownloadError, match="download failed"):
            download(server.redirect("/away", target), tmp_path / "file", max_bytes=10)
    assert list(tmp_path.iterdir()) == [secret]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example.org/x", "cells.zip", ""])
def test_download_takes_http_alone(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="url must be an http:// or https:// address"):
        download(url, tmp_path / "file", max_bytes=10)


@pytest.mark.parametrize("length", ["true", None, "4"])
def test_download_refuses_too_much(server: Any, tmp_path: Path, length: str | None) -> None:
    url = server.give("/big", b"x" * 300_000, length=length)
    if length == "4":  # the server understates: no more than that is taken
        assert download(url, tmp_path / "file", max_bytes=1000).read_bytes() == b"xxxx"
        return
    with pytest.raises(DownloadError, match="at most 1000 bytes"):
        download(url, tmp_path / "file", max_bytes=1000)
    assert list(tmp_path.iterdir()) == []


def test_download_refuses_a_stated_length_before_receiving(server: Any, tmp_path: Path) -> None:
    calls: list[int] = []
    url = server.give("/big", b"x", length=str(10**15))
    with pytest.raises(DownloadError, match=f"at most 1000 bytes; got {10**15}"):
        download(url, tmp_path / "f", max_bytes=1000, progress=lambda done, _: calls.append(done))
    assert calls == []


def test_download_notices_a_cut(server: Any, tmp_path: Path) -> None:
    url = server.give("/cut", b"x" * 500, length="900")
    with pytest.raises(DownloadError, match="interrupted after 500 of 900 bytes"):
        download(url, tmp_path / "file", max_bytes=1000)
    assert not (tmp_path / "file").exists()
    assert len(server.asked) == ATTEMPTS


def test_download_says_what_the_server_says(server: Any, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404 Not Found"):
        download(server.url + "/nothing", tmp_path / "file", max_bytes=10)


def test_download_without_network(server: Any, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(DownloadError, match=r"refused.*Check the address and the network"):
            download(f"http://127.0.0.1:{port}/x", tmp_path / "file", max_bytes=10)


def test_download_gives_up_on_silence(server: Any, tmp_path: Path) -> None:
    over = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"abc")
        over.wait(20)

    server.routes["/silent"] = silent
    try:
        with pytest.raises(DownloadError, match="timed out"):
            download(server.url + "/silent", tmp_path / "file", max_bytes=10, timeout=0.3)
    finally:
        over.set()
    assert not (tmp_path / "file").exists()


def test_download_keeps_the_old_file_on_an_error(server: Any, tmp_path: Path) -> None:
    old = tmp_path / "file"
    old.write_text("old")
    with pytest.raises(DownloadError):
        download(server.url + "/nothing", old, max_bytes=10)
    assert old.read_text() == "old"


# resume and checksum


BODY = bytes(range(256)) * 2000


def cut_once(server: Any, path: str, *, etag: str | None, after: int = 100_000) -> list[str | None]:
    """Serve BODY; the first connection breaks off. Return the list of Range headers received."""
    ranges: list[str | None] = []

    def route(handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers["Range"]
        ranges.append(wanted)
        start = 0
        if wanted and etag and handler.headers["If-Range"] == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(BODY) - start))
        if etag:
            handler.send_header("ETag", etag)
        handler.end_headers()
        handler.wfile.write(BODY[start : after if len(ranges) == 1 else None])

    server.routes[path] = route
    return ranges


def test_download_resumes_after_a_broken_connection(server: Any, tmp_path: Path) -> None:
    ranges = cut_once(server, "/file", etag='"v1"')
    calls: list[tuple[int, int | None]] = []
    path = download(
        server.url + "/file",
        tmp_path / "file",
        max_bytes=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert path.read_bytes() == BODY
    assert ranges == [None, "bytes=100000-"]
    assert {total for _, total in calls} == {len(BODY)}
    assert list(tmp_path.iterdir()) == [path]


def test_received_bytes_are_kept_if_the_next_connections_are_refused(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = cut_once(server, "/file", etag='"v1"')
    opened = iter([download_module.open_url])

    def open_once(*args: Any, **kwargs: Any) -> Any:
        try:
            return next(opened)(*args, **kwargs)
        except StopIteration:
            raise urllib.error.URLError(ConnectionRefusedError("refused")) from None

    with monkeypatch.context() as patched:
        patched.setattr(download_module, "open_url", open_once)
        with pytest.raises(DownloadError, match=r"interrupted: refused .* the download resumes"):
            download(server.url + "/file", tmp_path / "file", max_bytes=len(BODY))
    assert (tmp_path / "file.part").read_bytes() == BODY[:100_000]
    assert (tmp_path / "file.etag").read_text() == '"v1"'

    assert download(server.url + "/file", tmp_path / "file", max_bytes=10**6).read_bytes() == BODY
    assert ranges == [None, "bytes=100000-"]


@pytest.mark.parametrize(("code", "kept"), [(503, True), (404, False)])
def test_received_bytes_are_kept_after_a_server_error_only(
    server: Any, tmp_path: Path, code: int, kept: bool
) -> None:
    (tmp_path / "file.part").write_bytes(BODY[:1000])
    (tmp_path / "file.etag").write_text('"v1"')
    server.routes["/file"] = lambda handler: handler.send_error(code)
    with pytest.raises(DownloadError, match=f"the server returned {code}"):
        download(server.url + "/file", tmp_path / "file", max_bytes=10**6)
    assert (tmp_path / "file.part").exists() == kept


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_download_starts_over_without_a_strong_etag(
    server: Any, tmp_path: Path, etag: str | None
) -> None:
    ranges = cut_once(server, "/file", etag=etag)
    path = download(server.url + "/file", tmp_path / "file", max_bytes=len(BODY))
    assert path.read_bytes() == BODY
    assert ranges == [None, None]


def test_a_later_call_resumes_and_a_changed_file_starts_over(server: Any, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY[:1000])
    (tmp_path / "file.etag").write_text('"v1"')
    ranges = cut_once(server, "/file", etag='"v1"', after=len(BODY))
    assert download(server.url + "/file", tmp_path / "file", max_bytes=10**6).read_bytes() == BODY
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    (tmp_path / "file.etag").write_text('"v0"')
    assert download(server.url + "/file", tmp_path / "file", max_bytes=10**6).read_bytes() == BODY
    assert ranges == ["bytes=1000-", "bytes=1000-"]


def test_a_complete_part_that_the_server_refuses_is_fetched_again(
    server: Any, tmp_path: Path
) -> None:
    (tmp_path / "file.part").write_bytes(BODY)
    (tmp_path / "file.etag").write_text('"v1"')
    url = server.give("/file", BODY)
    serve = server.routes["/file"]

    def route(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers["Range"] is None:
            serve(handler)
        else:
            handler.send_error(416)

    server.routes["/file"] = route

    assert download(url, tmp_path / "file", max_bytes=len(BODY)).read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_download_refuses_another_file(server: Any, tmp_path: Path) -> None:
    url = server.give("/file", b"other")
    wanted = hashlib.sha256(b"published").hexdigest()
    with pytest.raises(DownloadError, match=f"sha256 {wanted[:16]}"):
        download(url, tmp_path / "file", max_bytes=100, sha256=wanted)
    assert list(tmp_path.iterdir()) == []
