"""Conversion of data sets to Pascal VOC, YOLO or COCO; boxes dropped on loading are not written."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import yaml

from attendet.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from attendet.data.dataset import DataSet
from attendet.data.sample import Format, Sample
from attendet.errors import ConfigError

Progress = Callable[[int, int], None]

UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|]+")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Converted:
    """Counts of a conversion.

    Attributes:
        images: images written; an image in two splits counts twice.
        boxes: boxes written.
        not_written: difficult boxes that are not written, since the format (YOLO) cannot mark them.
    """

    images: int
    boxes: int
    not_written: int


def _file_names(samples: Iterable[Sample]) -> dict[str, str]:
    """Return key to file name without suffix; names are unique and have no special characters."""
    keys = sorted({sample.key for sample in samples})
    last = Counter(key.rsplit("/", 1)[-1].lower() for key in keys)
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        tail = key.rsplit("/", 1)[-1]
        plain = UNSAFE.sub("_", tail if last[tail.lower()] == 1 else key).strip(" .") or "image"
        name, number = plain, 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.lower())
        names[key] = name
    return names


def _copy(sample: Sample, target: Path, *, link: bool) -> None:
    if target.exists():
        return
    if link:
        with suppress(OSError):  # another file system, or one without hard links
            os.link(sample.path.resolve(), target)
            return
    shutil.copyfile(sample.path, target)


def _number(value: np.float32) -> str:
    """Return the shortest decimal that parses to the same float32."""
    return np.format_float_positional(value, trim="-")


def _xml_text(text: str) -> str:
    return escape(_NOT_XML.sub("", text))


def voc_xml(sample: Sample, file_name: str, classes: Sequence[str]) -> str:
    """Return the VOC annotation of a sample whose image is ``JPEGImages/file_name``."""
    height, width = sample.image_hw
    lines = [
        "<annotation>",
        "\t<folder>JPEGImages</folder>",
        f"\t<filename>{_xml_text(file_name)}</filename>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    rows = zip(sample.boxes_xyxy, sample.class_ids, sample.difficult, strict=True)
    for box, class_id, difficult in rows:
        left, top, right, bottom = (_number(value) for value in box)
        lines += [
            "\t<object>",
            f"\t\t<name>{_xml_text(classes[class_id])}</name>",
            f"\t\t<difficult>{int(difficult)}</difficult>",
            f"\t\t<bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def yolo_text(sample: Sample) -> str:
    """Return one line ``class cx cy w h`` per box that is not difficult, ten digits per number."""
    kept = ~sample.difficult
    height, width = sample.image_hw
    boxes = xyxy_to_cxcywh(sample.boxes_xyxy[kept].astype(np.float64))
    boxes_norm = boxes / (width, height, width, height)
    return "".join(
        f"{class_id} {' '.join(f'{number:.10g}' for number in row)}\n"
        for class_id, row in zip(sample.class_ids[kept], boxes_norm, strict=True)
    )


def yolo_yaml(splits: Mapping[str, str], classes: Sequence[str]) -> str:
    """Return the text of a data.yaml; `splits` is split name to image folder."""
    document = {**splits, "names": dict(enumerate(classes))}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


class _Writer:
    """Writer of one data set, with one method per format."""

    def __init__(
        self, dataset: DataSet, output: Path, link: bool, progress: Progress | None
    ) -> None:
        self.dataset, self.output, self.link, self.progress = dataset, output, link, progress
        self.names = _file_names(dataset.split("all"))
        self.written = Counter[str]()
        self.total = sum(len(samples) for samples in dataset.splits.values())

    def image(self, sample: Sample, folder: Path) -> str:
        """Copy a sample's image into a folder and return its file name."""
        name = self.names[sample.key] + sample.path.suffix.lower()
        _copy(sample, folder / name, link=self.link)
        self.written["images"] += 1
        self.written["boxes"] += len(sample.class_ids)
        if self.progress:
            self.progress(self.written["images"], self.total)
        return name

    def folder(self, *parts: str) -> Path:
        """Return a folder of the output, created if needed."""
        path = self.output.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def voc(self) -> None:
        """Write Annotations, JPEGImages, ImageSets/Main and classes.txt."""
        images, labels = self.folder("JPEGImages"), self.folder("Annotations")
        lists = self.folder("ImageSets", "Main")
        for split, samples in self.dataset.splits.items():
            for sample in samples:
                text = voc_xml(sample, self.image(sample, images), self.dataset.classes)
                file = labels / f"{self.names[sample.key]}.xml"
                file.write_text(text, encoding="utf-8")
            names = "".join(f"{self.names[sample.key]}\n" for sample in samples)
            (lists / f"{split}.txt").write_text(names, encoding="utf-8")
        text = "".join(f"{name}\n" for name in self.dataset.classes)
        (self.output / "classes.txt").write_text(text, encoding="utf-8")

    def yolo(self) -> None:
        """Write images/SPLIT, labels/SPLIT and data.yaml."""
        for split, samples in self.dataset.splits.items():
            images, labels = self.folder("images", split), self.folder("labels", split)
            for sample in samples:
                self.image(sample, images)
                self.written["not_written"] += int(sample.difficult.sum())
                file = labels / f"{self.names[sample.key]}.txt"
                file.write_text(yolo_text(sample), encoding="utf-8")
        folders = {split: f"images/{split}" for split in self.dataset.splits}
        text = yolo_yaml(folders, self.dataset.classes)
        (self.output / "data.yaml").write_text(text, encoding="utf-8")

    def coco(self) -> None:
        """Write images/SPLIT and annotations/instances_SPLIT.json."""
        annotations = self.folder("annotations")
        for split, samples in self.dataset.splits.items():
            images = self.folder("images", split)
            names = [self.image(sample, images) for sample in samples]
            document = coco_document(samples, names, self.dataset.classes)
            file = annotations / f"instances_{split}.json"
            file.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def coco_document(
    samples: Sequence[Sample], names: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    """Return the content of a COCO file, from samples and the names of their image files.

    Boxes have no ``segmentation``: some annotation tools read an empty one as a polygon, or fail.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (sample, name) in enumerate(zip(samples, names, strict=True), start=1):
        height, width = sample.image_hw
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        boxes = xyxy_to_xywh(sample.boxes_xyxy.astype(np.float64)).tolist()
        for box, class_id, difficult in zip(
            boxes, sample.class_ids.tolist(), sample.difficult.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(difficult),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def convert_dataset(
    dataset: DataSet,
    output: Path,
    to: Format,
    *,
    link: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write a data set in another format with the same splits, and return the counts.

    VOC and COCO keep boxes exactly. YOLO keeps ten digits of each number and no difficult boxes,
    since it cannot mark them. If the conversion is interrupted, no partial data set remains.

    Args:
        dataset: the data set to write.
        output: an empty or new folder.
        to: "voc", "yolo" or "coco".
        link: hard-link images if the file system supports it, instead of copying them.
        progress: called after each image with the number of images done and in total.

    Raises:
        ConfigError: if the folder is not empty or the format is unknown.
    """
    if to not in ("voc", "yolo", "coco"):
        raise ConfigError.unknown("format", to, ("voc", "yolo", "coco"), "--to")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"output must be an empty or new folder; got {str(output)!r}.")
    output.mkdir(parents=True, exist_ok=True)
    # Not files.replacing_folder: an empty folder may be a mount or the current folder.
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=output) as partial:
        writer = _Writer(dataset, Path(partial), link, progress)
        {"voc": writer.voc, "yolo": writer.yolo, "coco": writer.coco}[to]()
        for path in sorted(Path(partial).iterdir()):
            path.rename(output / path.name)
    count = writer.written
    return Converted(count["images"], count["boxes"] - count["not_written"], count["not_written"])
