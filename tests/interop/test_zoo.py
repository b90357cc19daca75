from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attendet  # noqa: E402
from attendet.cli import main  # noqa: E402
from attendet.errors import MissingExtraError, WeightsError  # noqa: E402
from attendet.interop import zoo  # noqa: E402
from attendet.interop.hub import local_weights  # noqa: E402
from attendet.interop.zoo import RemoteFile, ZooEntry, zoo_entries, zoo_weights  # noqa: E402
from attendet.models import WeightsMetadata, read_metadata  # noqa: E402
from attendet.models.weights import build_from_metadata  # noqa: E402

PUBLISHED = Path(__file__).parents[3] / "shared" / "weights" / "yolo-fastest"
ENTRIES = list(zoo_entries().values())


@pytest.fixture
def mirror(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file server as a mirror, and an empty cache."""
    monkeypatch.setenv("ATTENDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTENDET_MIRROR", server.url)
    return server


def publish(mirror: Any, file: RemoteFile, content: bytes) -> None:
    mirror.give(f"/{file.url}", content)


def publish_yolo_fastest(mirror: Any, name: str) -> ZooEntry:
    if not PUBLISHED.is_dir():
        pytest.skip("needs the published files in ../shared/weights")
    entry = zoo_entries()[name]
    for file in entry.files:
        publish(mirror, file, (PUBLISHED / file.name).read_bytes())
    return entry


THEIR_NAMES = (
    (r"^backbone\.csp(\d)\.", r"backbone.resblock_body\1."),
    (r"^conv_p5\.", "conv_for_P5."),
    (r"^head_p(\d)\.", r"yolo_headP\1.0."),
    (r"^out_p(\d)\.", r"yolo_headP\1.1."),
    (r"^conv_up\.", "upsample.upsample.0."),
    (r"^attention\.p4\.", "feat1_att."),
    (r"^attention\.p5\.", "feat2_att."),
    (r"^attention\.up\.", "upsample_att."),
    (r"_att\.reduce\.", "_att.fc.0."),
    (r"_att\.expand\.", "_att.fc.2."),
)
"""From our tensors' names to those of yolov4-tiny-pytorch, without attention or with SE."""


def their_checkpoint(path: Path, *, classes: int, attention: str, seed: int = 0) -> bytes:
    """Return a state dict with random values in the layout of yolov4-tiny-pytorch."""
    torch.manual_seed(seed)
    names = tuple(map(str, range(classes)))
    ours = build_from_metadata(WeightsMetadata(classes=names, attention=attention)).state_dict()
    theirs = {}
    for name, tensor in ours.items():
        for pattern, replacement in THEIR_NAMES:
            name = re.sub(pattern, replacement, name)
        theirs[name] = tensor
    torch.save(theirs, path)
    return path.read_bytes()


# the table


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entries_are_complete(entry: ZooEntry) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", entry.name)
    assert len(entry.classes) == len(set(entry.classes)) in (20, 80)
    for file in entry.files:
        assert file.url.startswith("https://")
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    assert all(set(one) == {"data", "metric", "value", "source"} for one in entry.published_results)


@pytest.mark.parametrize(
    "entry", [one for one in ENTRIES if one.architecture == "yolov4-tiny"], ids=lambda one: one.name
)
def test_parameters_of_the_table_are_those_of_the_network(entry: ZooEntry) -> None:
    network = build_from_metadata(WeightsMetadata(classes=entry.classes, attention=entry.attention))
    assert sum(one.numel() for one in network.parameters()) == entry.parameters


def test_parameters_of_the_reference_network() -> None:
    assert zoo_entries()["yolov4-tiny-coco"].parameters == 6_056_606


# first use and later ones


@pytest.mark.parametrize("name", ["yolo-fastest", "yolo-fastest-xl"])
def test_the_first_use_downloads_and_the_next_does_not(name: str, mirror: Any) -> None:
    entry = publish_yolo_fastest(mirror, name)
    path = local_weights(name)
    assert len(mirror.asked) == 2
    metadata = read_metadata(path)
    assert metadata.classes[:5] == ("person", "bicycle", "car", "motorcycle", "airplane")
    assert metadata.preprocessing().resize == "stretch"
    assert metadata.origin is not None
    assert metadata.origin["license"] == entry.license
    detector = attendet.load(name)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    detector.predict(image)
    assert len(mirror.asked) == 2


def test_cached_weights_need_no_torch(mirror: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_yolo_fastest(mirror, "yolo-fastest")

    def missing(name: str, **_: object) -> None:
        raise MissingExtraError(f"needs {name}")

    with monkeypatch.context() as patch:
        patch.setattr(zoo, "require", missing)
        with pytest.raises(MissingExtraError, match="torch"):
            zoo_weights("yolo-fastest")
    path = zoo_weights("yolo-fastest")
    monkeypatch.setattr(zoo, "require", missing)
    assert zoo_weights("yolo-fastest") == path


def test_weights_of_an_older_entry_are_converted_again(
    mirror: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish_yolo_fastest(mirror, "yolo-fastest")
    zoo_weights("yolo-fastest")
    newer = dataclasses.replace(entry, classes=tuple(f"c{number}" for number in range(80)))
    monkeypatch.setattr(zoo, "zoo_entries", lambda: {"yolo-fastest": newer})
    assert read_metadata(zoo_weights("yolo-fastest")).classes == newer.classes
    assert len(mirror.asked) == 2


def test_two_uses_at_once_download_once(mirror: Any) -> None:
    publish_yolo_fastest(mirror, "yolo-fastest")
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(zoo_weights("yolo-fastest"))) for _ in range(3)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 3
    assert len(mirror.asked) == 2


def test_training_starts_from_a_name(mirror: Any, tmp_path: Path, squares: Path) -> None:
    publish_yolo_fastest(mirror, "yolo-fastest")
    result = attendet.train(
        squares,
        attention="none",
        pretrained="yolo-fastest",
        epochs=1,
        size=64,
        batch=2,
        output=tmp_path / "run",
    )
    assert result.plan.transfer is not None
    assert result.plan.transfer.loaded
    assert read_metadata(result.last).architecture == "darknet-graph"


# checksums


@pytest.mark.parametrize(
    ("name", "attention"), [("yolov4-tiny-voc", "none"), ("yolov4-tiny-voc-se", "se")]
)
def test_a_file_without_known_checksum(
    name: str, attention: str, mirror: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = zoo_entries()[name].file
    first = their_checkpoint(tmp_path / "a.pth", classes=20, attention=attention)
    publish(mirror, file, first)
    path = zoo_weights(name)
    digest = hashlib.sha256(first).hexdigest()
    assert f"checksum not known; recorded sha256 {digest}" in capsys.readouterr().err
    assert read_metadata(path).attention == attention
    path.unlink()
    (path.parent / file.name).unlink()
    publish(
        mirror, file, their_checkpoint(tmp_path / "b.pth", classes=20, attention=attention, seed=1)
    )
    with pytest.raises(WeightsError, match=f"{digest[:16]}.*of the first download"):
        zoo_weights(name)


def test_a_file_with_another_checksum_is_refused(mirror: Any, tmp_path: Path) -> None:
    entry = publish_yolo_fastest(mirror, "yolo-fastest")
    good = (PUBLISHED / entry.file.name).read_bytes()
    publish(mirror, entry.file, good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(WeightsError, match="download must have the sha256"):
        zoo_weights("yolo-fastest")
    assert not (tmp_path / "cache" / "yolo-fastest" / entry.file.name).exists()
    publish(mirror, entry.file, good)
    zoo_weights("yolo-fastest")


@pytest.mark.parametrize(
    ("classes", "attention", "message"),
    [
        (3, "none", "parameters of .*voc.pth must be 5918006"),
        (20, "se", "parameters of .* must be 5918006; got 5961014"),
    ],
)
def test_another_network_is_refused(
    classes: int, attention: str, message: str, mirror: Any, tmp_path: Path
) -> None:
    file = zoo_entries()["yolov4-tiny-voc"].file
    publish(mirror, file, their_checkpoint(tmp_path / "a", classes=classes, attention=attention))
    with pytest.raises(WeightsError, match=message):
        zoo_weights("yolov4-tiny-voc")


# without network


def test_offline_the_message_names_files_that_can_be_saved_by_hand(
    mirror: Any, tmp_path: Path
) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("needs the published files in ../shared/weights")
    entry = zoo_entries()["yolo-fastest"]
    folder = tmp_path / "cache" / "yolo-fastest"
    with pytest.raises(WeightsError) as caught:
        zoo_weights("yolo-fastest")
    for file in entry.files:
        assert f"{file.url} as {folder / file.name}" in str(caught.value)
        (folder / file.name).write_bytes((PUBLISHED / file.name).read_bytes())
    asked = len(mirror.asked)
    zoo_weights("yolo-fastest")
    assert len(mirror.asked) == asked


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ATTENDET_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="Set ATTENDET_CACHE"):
        zoo_weights("yolo-fastest")


# names and paths


def test_a_path_of_the_same_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("yolo-fastest").mkdir()
    Path("yolo-fastest/model.xml").touch()
    Path("yolo-fastest-xl").touch()
    for name in ("yolo-fastest", "yolo-fastest-xl"):
        assert local_weights(name) == Path(name)


def test_another_folder_of_the_same_name_does_not_matter(
    mirror: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_yolo_fastest(mirror, "yolo-fastest")
    monkeypatch.chdir(tmp_path)
    Path("yolo-fastest").mkdir()
    assert local_weights("yolo-fastest").is_file()


def test_an_unknown_name_is_an_error_with_the_nearest() -> None:
    with pytest.raises(WeightsError, match=r"'yolo-fastest-x'.*Did you mean 'yolo-fastest-xl'"):
        local_weights("yolo-fastest-x")


# command line


def test_list_names_every_entry(mirror: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(zoo_entries())
    assert main(["weights", "list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == list(zoo_entries())


def test_info_and_get(mirror: Any, capsys: pytest.CaptureFixture[str]) -> None:
    publish_yolo_fastest(mirror, "yolo-fastest")
    assert main(["weights", "info", "yolo-fastest"]) == 0
    assert "no; get writes it to" in capsys.readouterr().out
    assert main(["weights", "get", "yolo-fastest"]) == 0
    path = capsys.readouterr().out.strip()
    assert Path(path).is_file()
    assert main(["weights", "info", "yolo-fastest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == path
    assert main(["weights", "info", "yolov4-tiny-voc"]) == 0
    assert "checksum not known" in capsys.readouterr().out
    assert main(["weights", "get", "yolo"]) == 2


def test_the_cup_of_the_sample_image_is_found(mirror: Any) -> None:
    publish_yolo_fastest(mirror, "yolo-fastest-xl")

    found = attendet.load("yolo-fastest-xl").predict(attendet.SAMPLE_IMAGE)

    assert found.names[0] == "cup"
    left, top, right, bottom = found.boxes_xyxy[0].tolist()
    assert left < 240 < right  # the cup stands in the middle of the image, 480 x 320 px
    assert top < 120 < bottom
