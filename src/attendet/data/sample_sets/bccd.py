"""The BCCD blood cell data set: download, safe unpacking of the archive, checksum."""

from __future__ import annotations

import hashlib
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from attendet.download import Progress, download
from attendet.errors import DataError
from attendet.files import replacing_folder

BCCD_URL = (
    "https://github.com/Shenggan/BCCD_Dataset/archive/d272fb14cdff6e473fafeeeba32aba5f560e9e43.zip"
)
"""The blood cell images (MIT license) at a fixed commit."""

_BCCD_SHA256 = "9358971741c3024a99b84f230651fabb7f0d28dad10b752e0732c9798b99391a"
"""Checksum of the unpacked files (`content_sha256`); the bytes of the archive may change."""
_BCCD_PATTERNS = ("Annotations/*.xml", "ImageSets/Main/*.txt", "JPEGImages/*.jpg")
_BCCD_MAX_BYTES = 64 * 1024 * 1024
_BCCD_MAX_FILES = 5000


def get_bccd(folder: Path, *, url: str | None = None, progress: Progress | None = None) -> Path:
    """Download the BCCD blood cell data set (VOC layout) and return its folder.

    A folder that already holds the data set is used. A new one is created only after the download
    is complete and its checksum matches that of the published data set.

    Args:
        folder: receives ``Annotations/``, ``ImageSets/``, ``JPEGImages/`` and ``LICENSE``.
        url: address of the zip archive; default `BCCD_URL`.
        progress: called with bytes received and bytes in total (None if unknown).

    Raises:
        DataError: if the folder holds something else, the download fails, or the content differs
            from the published one.
    """
    folder = Path(folder)
    if folder.exists():
        if content_sha256(folder, _BCCD_PATTERNS) == _BCCD_SHA256:
            return folder
        _require_empty(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        archive = download(
            url or BCCD_URL,
            Path(temporary) / "archive.zip",
            max_bytes=_BCCD_MAX_BYTES,
            progress=progress,
        )
        unpacked = safe_unpack(
            archive,
            Path(temporary) / "unpacked",
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
        raise DataError(f"folder must be a directory; got a file ({folder}). Choose another name.")
    if any(folder.iterdir()):
        raise DataError(
            f"folder must be empty; got other or incomplete files ({folder}). "
            "Choose another folder, or remove this one."
        )


def content_sha256(folder: Path, patterns: tuple[str, ...]) -> str:
    """Return one checksum of the names and bytes of the files that match, in name order.

    Args:
        folder: folder of the files; names are relative to it.
        patterns: globs such as ``"Annotations/*.xml"``.

    Returns:
        64 hexadecimal digits.
    """
    total = hashlib.sha256()
    files = {path.relative_to(folder).as_posix(): path for p in patterns for path in folder.glob(p)}
    for name in sorted(files):
        total.update(name.encode() + b"\0" + hashlib.sha256(files[name].read_bytes()).digest())
    return total.hexdigest()


def safe_unpack(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> Path:
    """Unpack a zip archive into a new or empty folder and return the folder.

    Absolute names, names with ``..``, links, encrypted entries and archives beyond the limits are
    refused; then the folder is not created. (zipfile never reads more of an entry than its
    declared size, so the declared sizes limit the unpacked size.)

    Raises:
        DataError: if the archive is not an intact zip file, or is refused.
    """
    if folder.exists():
        _require_empty(folder)
    try:
        with zipfile.ZipFile(archive) as bundle, replacing_folder(folder) as target:
            entries = bundle.infolist()
            size = sum(entry.file_size for entry in entries)
            DataError.check(
                len(entries) <= max_files, "archive", f"at most {max_files} files", len(entries)
            )
            DataError.check(size <= max_bytes, "archive", f"at most {max_bytes} bytes", size)
            for entry in entries:
                name = PurePosixPath(entry.filename)
                kind = stat.S_IFMT(entry.external_attr >> 16)
                plain = not (name.is_absolute() or ".." in name.parts or "\\" in entry.filename)
                plain = plain and ":" not in entry.filename
                if not plain or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise DataError.must(
                        "archive", "plain files with relative names", entry.filename, archive
                    )
            bundle.extractall(target)
    except FileNotFoundError:
        raise DataError(f"archive not found ({archive}). Check the path.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"archive must be an intact zip file; got {error} ({archive}).") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"archive must have unique names; got {error} ({archive}).") from None
    return folder
