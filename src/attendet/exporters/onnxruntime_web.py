"""ONNX Runtime for browsers: the files of the npm package onnxruntime-web that a page needs.

The version is pinned by its checksum. The package is downloaded once, into the user's cache.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

from filelock import FileLock

from attendet.download import download_with_bar, file_digest
from attendet.errors import ConfigError, DownloadError
from attendet.system import cache_folder

VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
BYTES = 33_106_585

FILES = {
    "dist/ort.wasm.min.mjs": "ort.wasm.js",
    "dist/ort-wasm-simd-threaded.mjs": "ort-wasm.js",
    "dist/ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
    "dist/ort.jspi.min.mjs": "ort.webgpu.js",
    "dist/ort-wasm-simd-threaded.jspi.mjs": "ort-wasm.webgpu.js",
    "dist/ort-wasm-simd-threaded.jspi.wasm": "ort-wasm.webgpu.wasm",
}
"""Files of the package, and their names in an exported folder.

Some static hosts do not serve ``.mjs`` as JavaScript, and browsers then reject it; ``.js`` works on
all hosts. The last three files are for WebGPU and need JSPI (suspendable WebAssembly). The build
without JSPI is 10 MB larger and exceeds the 25 MiB per file that some hosts allow."""


def cached_package() -> Path:
    """Return the path of the package in the cache, whether it is downloaded or not."""
    return cache_folder() / "onnxruntime-web" / f"onnxruntime-web-{VERSION}.tgz"


def find_package(given: str | Path | None = None) -> Path:
    """Return the package: the given file or folder, or the cached one, downloaded once.

    Args:
        given: the ``.tgz`` of the npm registry, or the folder that ``npm install`` created.

    Raises:
        ConfigError: if ``given`` is another file, or another version.
        DownloadError: if the package cannot be downloaded.
    """
    if given is not None:
        return _check(Path(given))
    path = cached_package()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(".lock")):
            if path.is_file() and file_digest(path, "sha512") == SHA512:
                return path
            return download_with_bar(URL, path, max_bytes=BYTES, sha512=SHA512)
    except DownloadError as error:
        raise DownloadError(
            f"{error} Or save {URL} as {path}, or pass the file or the folder that "
            f"'npm install onnxruntime-web@{VERSION}' made (--onnxruntime-web)."
        ) from None


def _check(path: Path) -> Path:
    """Return the given package; raise if it is not the pinned version."""
    rule = f"the .tgz or the folder of onnxruntime-web {VERSION}"
    where, advice = "--onnxruntime-web", f"Download {URL}"
    if path.is_dir():
        try:
            package = json.loads((path / "package.json").read_text(encoding="utf-8"))
            got = f"{package['name']} {package['version']}"
        except (OSError, ValueError, KeyError, TypeError):
            got = "a folder without its package.json"
        missing = [name for name in FILES if not (path / name).is_file()]
        if got == f"onnxruntime-web {VERSION}" and missing:
            got = f"one without {missing[0]}"
        good = got == f"onnxruntime-web {VERSION}"
    else:
        got = "another file" if path.is_file() else f"{path}, which does not exist"
        good = path.is_file() and file_digest(path, "sha512") == SHA512
    if not good:
        raise ConfigError(f"onnxruntime_web must be {rule}; got {got} ({where}). {advice}.")
    return path


def copy_files(package: Path, folder: Path) -> None:
    """Copy the files that a page needs into a folder, under the names in `FILES`.

    Args:
        package: returned by `find_package`.
        folder: created if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if package.is_dir():
        for name, target in FILES.items():
            shutil.copyfile(package / name, folder / target)
        return
    with tarfile.open(package, "r:gz") as archive:
        for member in archive:
            target = FILES.get(member.name.removeprefix("package/"), "")
            content = archive.extractfile(member) if target else None
            if content is not None:
                with content, (folder / target).open("wb") as file:
                    shutil.copyfileobj(content, file)
