"""Pretrained weights by name: public files, downloaded once, converted and kept in a cache.

The table is ``zoo.toml``. A name is accepted wherever a weights file is: in `attendet.load`, in
``--pretrained``, on the command line. The files are stored in `cache_folder`; later uses need no
internet connection.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from filelock import FileLock

from attendet.download import download_with_bar, file_digest
from attendet.errors import DownloadError, WeightsError
from attendet.files import write_atomically
from attendet.models.metadata import Color, ResizeMode, WeightsMetadata, read_metadata
from attendet.system import CACHE_VARIABLE, cache_folder, require

MAX_BYTES = 200 * 1024 * 1024
"""Limit of a download whose size is not in the table; the largest file there has 24 MB."""


@dataclass(frozen=True)
class RemoteFile:
    """Published file to download."""

    url: str
    """HTTPS address."""

    sha256: str | None = None
    """SHA-256 checksum, 64 hexadecimal digits; None if not known."""

    bytes: int | None = None
    """Size of the file; None if not known."""

    @property
    def name(self) -> str:
        """File name: the last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class ZooEntry:
    """Entry of the table: pretrained weights and their description."""

    name: str
    summary: str
    """One line for lists."""

    source: str
    """Address of the project that published the weights."""

    license: str
    architecture: str
    parameters: int
    """Number of parameters, without the running statistics of batch normalization."""

    input_hw: tuple[int, int]
    """Height and width that the network was trained at, pixels."""

    resize: ResizeMode
    color: Color
    classes: tuple[str, ...]
    attention: str
    published_results: tuple[dict[str, Any], ...]
    """Published results: data, metric, value in percent, source."""

    file: RemoteFile
    """darknet's ``.weights``, or a PyTorch state dict."""

    config: RemoteFile | None = None
    """darknet's ``.cfg``; None for a PyTorch state dict."""

    cutoff: int | None = None
    """Number of layers in the file; None for all."""

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """The files to download."""
        return (self.file,) if self.config is None else (self.config, self.file)

    @property
    def digest(self) -> str:
        """Hash of the entry, 16 hexadecimal digits; cached weights with another hash are
        replaced."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@cache
def zoo_entries() -> dict[str, ZooEntry]:
    """Return the entries of the table by name, in its order.

    Example:
        >>> zoo_entries()["yolo-fastest-xl"].parameters
        898686
    """
    text = (resources.files("attendet.interop") / "zoo.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return {
        name: _entry(name, dict(row), table["classes"]) for name, row in table["weights"].items()
    }


def _entry(name: str, row: dict[str, Any], classes: dict[str, list[str]]) -> ZooEntry:
    config = row.pop("config", None)
    return ZooEntry(
        name=name,
        file=RemoteFile(**row.pop("file")),
        config=None if config is None else RemoteFile(**config),
        classes=tuple(classes[row.pop("classes")]),
        input_hw=tuple(row.pop("input_hw")),
        published_results=tuple(row.pop("published_results")),
        **row,
    )


def cached_weights(entry: ZooEntry) -> Path | None:
    """Return the path of an entry's converted weights in the cache; None if missing or outdated."""
    path = cache_folder() / entry.name / f"{entry.name}.safetensors"
    try:
        origin = read_metadata(path).origin or {}
    except WeightsError:
        return None
    return path if origin.get("entry") == entry.digest else None


def zoo_weights(name: str) -> Path:
    """Return the path of the weights with this name; download and convert them at first use.

    The environment variable ``ATTENDET_MIRROR`` is the address of a mirror. It is put before each
    address, as download proxies expect (``https://mirror.example/https://github.com/...``).

    Args:
        name: key of `zoo_entries`.

    Raises:
        WeightsError: if a file cannot be downloaded, is not the published one, or the cache cannot
            be written to.
        MissingExtraError: if torch, which the conversion needs, is not installed.
    """
    entry = zoo_entries()[name]
    found = cached_weights(entry)
    if found is not None:
        return found
    require("torch", extra="train", purpose=f"converting the weights {name}")
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            return cached_weights(entry) or _convert(entry, folder)
    except OSError as error:
        raise WeightsError(
            f"weights cannot be written to the cache: {error.strerror or error} ({folder}). "
            f"Set {CACHE_VARIABLE} to a folder that can be written to."
        ) from None


def _convert(entry: ZooEntry, folder: Path) -> Path:
    """Download the files of an entry, check them, and write its weights file."""
    from attendet.interop.checkpoints import import_checkpoint
    from attendet.interop.darknet.convert import import_darknet
    from attendet.models import save_weights

    _obtain(entry, folder)
    weights = folder / entry.file.name
    if entry.config is not None:
        config = folder / entry.config.name
        imported = import_darknet(config, weights, cutoff=entry.cutoff, resize=entry.resize)
    else:
        imported = import_checkpoint(
            weights, input_hw=entry.input_hw, resize=entry.resize, color=entry.color
        )
    metadata = dataclasses.replace(
        imported.metadata,
        origin={
            **(imported.metadata.origin or {}),
            "zoo": entry.name,
            "entry": entry.digest,
            "source": entry.source,
            "license": entry.license,
        },
    )
    _check(entry, metadata, sum(one.numel() for one in imported.network.parameters()))
    metadata = dataclasses.replace(metadata, classes=entry.classes)
    return save_weights(folder / f"{entry.name}.safetensors", imported.network, metadata)


def _check(entry: ZooEntry, metadata: WeightsMetadata, parameters: int) -> None:
    """Raise if the converted network differs from its entry in the table."""
    for what, found, wanted in (
        ("architecture", metadata.architecture, entry.architecture),
        ("parameters", parameters, entry.parameters),
        ("classes", len(metadata.classes), len(entry.classes)),
        ("input", tuple(metadata.input_hw), entry.input_hw),
        ("attention", metadata.attention, entry.attention),
    ):
        if found != wanted:
            raise WeightsError(
                f"{what} of {entry.file.name} must be {wanted}; got {found} ({entry.file.url}). "
                "The file is not the one in the list of pretrained weights."
            )


def _obtain(entry: ZooEntry, folder: Path) -> None:
    """Download the missing files of an entry into its folder, and check all of its files."""
    mirror = os.environ.get("ATTENDET_MIRROR", "").rstrip("/")
    for file in entry.files:
        path = folder / file.name
        if not path.exists():
            url = f"{mirror}/{file.url}" if mirror else file.url
            try:
                download_with_bar(url, path, max_bytes=file.bytes or MAX_BYTES, sha256=file.sha256)
            except DownloadError as error:
                missing = [one for one in entry.files if not (folder / one.name).exists()]
                by_hand = "; ".join(f"{one.url} as {folder / one.name}" for one in missing)
                raise WeightsError(f"{error} Or download by hand: {by_hand}.") from None
        _check_digest(file, path)


def _check_digest(file: RemoteFile, path: Path) -> None:
    """Compare the SHA-256 of a file with the table, or else with that of the first download."""
    found = file_digest(path, "sha256")
    record = path.with_name(f"{path.name}.sha256")
    known = file.sha256 or (record.read_text(encoding="utf-8").strip() if record.exists() else None)
    if known is None:
        write_atomically(record, f"{found}\n")
        from rich.console import Console

        message = f"{path.name}: checksum not known; recorded sha256 {found}"
        Console(stderr=True).print(message, highlight=False, soft_wrap=True)
    elif found != known:
        source = "in the table" if file.sha256 else f"of the first download, in {record.name}"
        raise WeightsError(
            f"file must have the sha256 {known[:16]}... ({source}); got {found[:16]}... ({path}). "
            "Remove it to download it again."
        )
