"""The folder of a web page: its files, the package onnxruntime-web, errors."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from attendet.download import file_digest
from attendet.errors import ConfigError, DownloadError
from attendet.exporters import onnxruntime_web
from attendet.exporters.onnxruntime_web import FILES, VERSION, find_package
from attendet.exporters.settings import ExportSettings
from attendet.exporters.web_folder import PAGE, PAGE_FILES

Paths = dict[str, Path]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package in the layout of the real one, whose checksum is the pinned one."""
    path = tmp_path / "package.tgz"
    names = [*FILES, "dist/ort.all.js", "README.md"]
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            content = f"content of {name}".encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(onnxruntime_web, "SHA512", file_digest(path, "sha512"))
    monkeypatch.setattr(onnxruntime_web, "BYTES", path.stat().st_size)
    monkeypatch.setenv("ATTENDET_CACHE", str(tmp_path / "cache"))
    return path


def test_the_folder_of_an_export(package: Path, one_level: Any, tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    import attendet

    network, metadata = one_level("se")
    older = tmp_path / "out" / "cells_web"
    (older / "app").mkdir(parents=True)
    (older / "app" / "older.js").touch()
    report = attendet.export(
        network,
        "web",
        metadata=metadata,
        output=tmp_path / "out",
        name="cells",
        confidence=0.4,
        onnxruntime_web=package,
        dynamic="none",
    )

    folder = tmp_path / "out" / "cells_web"
    assert report.path == folder
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    runtime = {f"onnxruntime/{name}" for name in (*FILES.values(), "LICENSE.txt")}
    assert files == {*PAGE_FILES, *runtime, "model.onnx", "model.json"}
    assert report.size_bytes == sum((folder / name).stat().st_size for name in files)
    wasm = folder / "onnxruntime" / "ort-wasm.wasm"
    assert wasm.read_text() == "content of dist/ort-wasm-simd-threaded.wasm"
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert model["name"] == "cells"
    assert model["classes"] == ["cat", "dog"]
    assert (model["confidence"], model["nms_iou"], model["file"]) == (0.4, 0.5, "model.onnx")
    assert model["preprocess"]["resize"] == "letterbox"  # the size of this file is fixed
    assert attendet.load(folder / "model.onnx").classes == ("cat", "dog")


def test_a_web_page_takes_any_size_by_default() -> None:
    assert ExportSettings("web").info().dynamic == ("batch", "size")
    assert ExportSettings("web").info().format == "onnx"


def test_settings_without_effect_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"must be omitted for onnx.*\(--onnxruntime-web\)"):
        ExportSettings("onnx", onnxruntime_web="x")
    with pytest.raises(ConfigError, match="nms must be omitted for web"):
        ExportSettings("web", nms=True)


def test_the_page_consists_of_the_listed_files_and_refers_to_no_other_host() -> None:
    from_server = {"onnxruntime-LICENSE.txt"}
    listed = {*PAGE_FILES, *from_server}
    assert {str(path.relative_to(PAGE)) for path in PAGE.rglob("*") if path.is_file()} == listed
    for name in PAGE_FILES:
        text = (PAGE / name).read_text(encoding="utf-8")
        hosts = set(re.findall(r"https?://([\w.]+)", text))
        assert hosts <= {"www.w3.org"}, name  # the name of SVG


def test_the_package_is_downloaded_once(
    package: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_web, "URL", server.give("/x.tgz", package.read_bytes()))

    paths = [find_package() for _ in range(2)]

    assert paths[0] == paths[1] == onnxruntime_web.cached_package()
    assert paths[0].read_bytes() == package.read_bytes()
    assert server.asked == ["/x.tgz"]


def test_one_process_downloads_the_package_at_a_time(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, path: Path, **_: Any) -> Path:
        with pytest.raises(Timeout):
            FileLock(path.with_name(".lock")).acquire(timeout=0)
        return path

    monkeypatch.setattr(onnxruntime_web, "download_with_bar", download)

    assert find_package() == onnxruntime_web.cached_package()


def test_a_changed_package_in_the_cache_is_replaced(
    package: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_web, "URL", server.give("/x.tgz", package.read_bytes()))
    cached = onnxruntime_web.cached_package()
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"changed")

    assert find_package().read_bytes() == package.read_bytes()


def test_without_network_the_message_says_which_file_to_save_where(
    package: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.url}/nothing.tgz"
    monkeypatch.setattr(onnxruntime_web, "URL", url)

    with pytest.raises(DownloadError) as caught:
        find_package()

    message = str(caught.value)
    assert f"Or save {url} as {onnxruntime_web.cached_package()}" in message
    assert message.endswith("(--onnxruntime-web).")
    assert "\n" not in message


def test_another_file_on_the_way_is_refused(
    package: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_web, "URL", server.give("/x.tgz", b"other"))

    with pytest.raises(DownloadError, match="must have the sha512"):
        find_package()
    assert not onnxruntime_web.cached_package().exists()


def test_a_package_of_the_user(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("x")
    described = {"name": "onnxruntime-web", "version": VERSION}
    (folder / "package.json").write_text(json.dumps(described))

    assert find_package(package) == package
    assert find_package(folder) == folder
    onnxruntime_web.copy_files(folder, tmp_path / "copied")
    assert {path.name for path in (tmp_path / "copied").iterdir()} == set(FILES.values())

    for name, change in (("version", "1.0.0"), ("name", "other")):
        (folder / "package.json").write_text(json.dumps(described | {name: change}))
        with pytest.raises(ConfigError, match=rf"onnxruntime-web {VERSION}; got .*{change}"):
            find_package(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "which does not exist"),
        (lambda path: path.write_text("x"), "another file"),
        (lambda path: path.mkdir(), "a folder without its package.json"),
    ],
)
def test_what_is_no_package_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "package.tgz"
    make(path)

    with pytest.raises(ConfigError, match=rf"{message} \(--onnxruntime-web\)\. Download http"):
        find_package(path)
