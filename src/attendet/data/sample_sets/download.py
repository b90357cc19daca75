"""Public data sets from the network: bounded download, safe unpacking, checked content."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import ssl
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from attendet import __version__
from attendet.data.staging import staged_folder
from attendet.errors import ConfigError, DataError

__all__ = ["BCCD_URL", "download", "get_bccd", "safe_unpack"]

Progress = Callable[[int, int | None], None]

BCCD_URL = (
    "https://github.com/Shenggan/BCCD_Dataset/archive/d272fb14cdff6e473fafeeeba32aba5f560e9e43.zip"
)
"""The blood cell images (MIT license) at a fixed commit."""

_BCCD_SHA256 = "9358971741c3024a99b84f230651fabb7f0d28dad10b752e0732c9798b99391a"
"""Of the unpacked files (see `content_sha256`): an archive made anew may differ in its bytes."""
_BCCD_PATTERNS = ("Annotations/*.xml", "ImageSets/Main/*.txt", "JPEGImages/*.jpg")
_BCCD_MAX_BYTES = 64 * 1024 * 1024
_BCCD_MAX_FILES = 5000

_CHUNK = 1 << 16


def get_bccd(folder: Path, *, url: str | None = None, progress: Progress | None = None) -> Path:
    """Return the folder of the BCCD blood cell data set in VOC's layout, downloaded if needed.

    A folder that already holds the data set is used as it is. A new one appears under its name only
    when it is whole and its content is the published one.

    Args:
        folder: where it goes: ``Annotations/``, ``ImageSets/``, ``JPEGImages/`` and ``LICENSE``.
        url: of the zip archive; `BCCD_URL` if left out.
        progress: called with bytes received and bytes in all (None while unknown).

    Returns:
        ``folder``.

    Raises:
        DataError: if the folder holds something else, the download fails, or its content is not the
            published one.
    """
    folder = Path(folder)
    if folder.exists():
        if content_sha256(folder, _BCCD_PATTERNS) == _BCCD_SHA256:
            return folder
        _require_empty(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workshop:
        archive = download(
            url or BCCD_URL,
            Path(workshop) / "archive.zip",
            max_bytes=_BCCD_MAX_BYTES,
            progress=progress,
        )
        unpacked = safe_unpack(
            archive,
            Path(workshop) / "unpacked",
            max_bytes=_BCCD_MAX_BYTES,
            max_files=_BCCD_MAX_FILES,
        )
        root = next((path.parent for path in sorted(unpacked.rglob("JPEGImages"))), unpacked)
        found = content_sha256(root, _BCCD_PATTERNS)
        if found != _BCCD_SHA256:
            raise DataError(
                f"content must be the published data set (sha256 {_BCCD_SHA256[:16]}...); got "
                f"{found[:16]}... ({url or BCCD_URL}). Try again, or use another address."
            )
        for license in unpacked.glob("*/LICENSE"):
            shutil.copyfile(license, root / "LICENSE")
        if folder.exists():
            folder.rmdir()
        root.rename(folder)
    return folder


def _require_empty(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"folder must be a folder; got a file ({folder}). Choose another name.")
    if any(folder.iterdir()):
        raise DataError(
            f"folder must be empty; got other or incomplete files ({folder}). "
            "Choose another folder, or remove this one."
        )


def content_sha256(folder: Path, patterns: tuple[str, ...]) -> str:
    """Return one checksum over the names and bytes of the files that patterns pick, in name order.

    Args:
        folder: names are relative to it.
        patterns: globs such as ``"Annotations/*.xml"``.

    Returns:
        64 hexadecimal digits.
    """
    total = hashlib.sha256()
    files = {path.relative_to(folder).as_posix(): path for p in patterns for path in folder.glob(p)}
    for name in sorted(files):
        total.update(name.encode() + b"\0" + hashlib.sha256(files[name].read_bytes()).digest())
    return total.hexdigest()


def download(
    url: str,
    path: Path,
    *,
    max_bytes: int,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Return ``path``, which holds what the address gave; on an error nothing is left behind.

    Args:
        url: http or https; redirects are followed to these alone.
        path: file to write; it appears when it is whole.
        max_bytes: a longer answer is refused, at the latest while it streams.
        progress: called with bytes received and bytes in all (None while unknown).
        timeout: seconds without a sign of life before giving up.

    Raises:
        ConfigError: if the address is not http or https.
        DataError: if there is no answer, an error answer, or one too long or cut off.
    """
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"url must start with https:// or http://; got {url!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with _opener().open(url, timeout=timeout) as answer, partial.open("wb") as file:
            _receive(answer, file, url, max_bytes, progress)
        partial.replace(path)
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(
            f"download failed: the server says {error.code} {error.reason} ({url}). "
            "Check the address."
        ) from None
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
        ssl.SSLError,
    ) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise DataError(
            f"download failed: {reason} ({url}). Check the network connection and try again."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone: no file, ftp or data addresses by redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    opener.addheaders = [("User-Agent", f"attendet/{__version__}")]
    return opener


def _receive(
    answer: http.client.HTTPResponse,
    file: IO[bytes],
    url: str,
    max_bytes: int,
    progress: Progress | None,
) -> None:
    length = answer.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    received = 0
    while (total or 0) <= max_bytes and received <= max_bytes:
        chunk = answer.read(_CHUNK)
        if not chunk:
            break
        file.write(chunk)
        received += len(chunk)
        if progress is not None:
            progress(received, total)
    if max(total or 0, received) > max_bytes:
        raise DataError(
            f"download must be at most {max_bytes} bytes; got {total or 'more'} ({url}). "
            "Check the address."
        )
    if total is not None and received < total:
        raise DataError(
            f"download was cut off after {received} of {total} bytes ({url}). Try again."
        )


def safe_unpack(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> Path:
    """Return ``folder``, which holds what a zip archive held; on an error it is not made.

    Refused are names that lead out of the folder, links and other special files, encrypted entries,
    names given twice, and more files or bytes than allowed; bytes are counted while they are
    unpacked, since an archive may lie about them.

    Args:
        archive: a zip file.
        folder: new or empty.
        max_bytes: of all files together, unpacked.
        max_files: entries.

    Raises:
        DataError: if the archive is not a zip file, broken, or holds something refused.
    """
    if folder.exists():
        _require_empty(folder)
    try:
        with zipfile.ZipFile(archive) as bundle, staged_folder(folder) as staging:
            entries = bundle.infolist()
            if len(entries) > max_files:
                raise DataError(
                    f"archive must hold at most {max_files} files; got {len(entries)} ({archive})."
                )
            left = max_bytes
            for entry in entries:
                target = staging / _safe_name(entry, archive)
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    left = _unpack_one(bundle, entry, target, left, max_bytes)
    except FileNotFoundError:
        raise DataError(f"archive not found ({archive}). Check the path.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"archive must be an intact zip file; got {error} ({archive}).") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        name = Path(str(error.filename)).name
        raise DataError(
            f"archive must hold each name once; got {name!r} twice ({archive})."
        ) from None
    return folder


def _safe_name(entry: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    """Return an entry's path, which lies inside the folder it is unpacked to."""
    name = PurePosixPath(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or any(c in entry.filename for c in "\\:\0"):
        raise DataError(
            f"archive must hold plain relative names; got {entry.filename!r} ({archive})."
        )
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(
            f"archive must hold plain files and folders; got a link or special file "
            f"{entry.filename!r} ({archive})."
        )
    return name


def _unpack_one(
    bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, left: int, max_bytes: int
) -> int:
    """Unpack one file and return how many bytes are still allowed after it."""
    with bundle.open(entry) as packed, target.open("xb") as file:
        while chunk := packed.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise DataError(
                    f"archive must unpack to at most {max_bytes} bytes; got more "
                    f"({bundle.filename}: {entry.filename})."
                )
            file.write(chunk)
    return left
