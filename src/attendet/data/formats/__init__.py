"""Label formats: recognizing and reading Pascal VOC, YOLO and COCO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attendet.data.formats import coco, voc, yolo
from attendet.data.sample import Format, RawDataset
from attendet.errors import ConfigError, DataError, did_you_mean, list_names

__all__ = ["FORMATS", "read_labels"]

_READERS: dict[Format, Callable[[Path], RawDataset]] = {
    "voc": voc.read_voc,
    "yolo": yolo.read_yolo,
    "coco": coco.read_coco,
}
_RECOGNIZERS: dict[Format, Callable[[Path], str | None]] = {
    "voc": voc.recognize_voc,
    "yolo": yolo.recognize_yolo,
    "coco": coco.recognize_coco,
}
_LOOKED_FOR = (voc.LOOKED_FOR, yolo.LOOKED_FOR, coco.LOOKED_FOR)
FORMATS: tuple[Format, ...] = tuple(_READERS)


def _recognize(path: Path) -> Format:
    """Return the format of a data set, recognized from its files.

    Raises:
        DataError: if no format fits, or more than one does.
    """
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in (".yaml", ".yml", ".data"):
            return "yolo"
        if suffix == ".json":
            return "coco"
        rule = "a folder, a data.yaml or a .json"
        raise DataError.must("data set", rule, str(path), advice="Unpack an archive first.")
    found = {name: evidence for name, look in _RECOGNIZERS.items() if (evidence := look(path))}
    if len(found) == 1:
        return next(iter(found))
    if found:
        listed = "; ".join(f"{name} ({evidence})" for name, evidence in found.items())
        raise DataError(f"format must be unambiguous; got {listed} in {path}. Set --format.")
    there = sorted(each.name + ("/" if each.is_dir() else "") for each in path.iterdir())
    looked = "".join(f"\n  {line}" for line in _LOOKED_FOR)
    raise DataError(
        f"no labels recognized in {path}; found {list_names(there) or 'nothing'}. "
        f"Looked for:{looked}\n"
        "Export labels of other formats (LabelMe, VIA, CreateML, CSV) as one of these."
    )


def read_labels(path: Path, format: Format | None = None) -> RawDataset:
    """Return the labels at a path, read in the given or the recognized format.

    Raises:
        ConfigError: if the format is none of `FORMATS`.
        DataError: if the path does not exist, or has no labels of the format.
    """
    if format is not None and format not in _READERS:
        raise ConfigError.must(
            "format",
            f"one of {', '.join(FORMATS)}",
            format,
            "--format",
            did_you_mean(format, FORMATS),
        )
    if not path.exists():
        raise DataError(f"data set not found ({path}). Check the path.")
    path = path if format else _skip_wrapper_folders(path)
    return _READERS[format or _recognize(path)](path)


def _skip_wrapper_folders(path: Path) -> Path:
    """Return the folder inside any wrapper folders that an unpacked archive may have."""
    while path.is_dir() and not any(look(path) for look in _RECOGNIZERS.values()):
        inner = [each for each in path.iterdir() if each.name != "__MACOSX"]
        inner = [each for each in inner if not each.name.startswith(".")]
        if len(inner) != 1 or not inner[0].is_dir():
            break
        path = inner[0]
    return path
