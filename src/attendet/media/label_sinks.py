"""Detections saved as labels to correct: data sets for annotation tools, without scores.

- ``voc/``: for labelImg and CVAT ("PASCAL VOC"). Corners are whole pixels, because labelImg cuts
  off decimals.
- ``yolo/``: for labelImg, which needs a ``classes.txt`` next to the labels, and Label Studio, whose
  converter needs it next to ``images/`` and ``labels/``.
- ``coco/``: for CVAT ("COCO").
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attendet.data.convert import UNSAFE, coco_document, voc_xml, yolo_text, yolo_yaml
from attendet.data.sample import Sample
from attendet.errors import ConfigError
from attendet.files import replacing, write_atomically
from attendet.media.pipeline import Result
from attendet.media.sinks import Sink

SPLIT = "default"
"""CVAT's name for the split of a data set without splits."""


class LabelSink(Sink):
    """Base of the sinks that write images and labels in a format, into the format's own folder.

    Image files are copied unchanged; video frames and images from URLs or standard input are saved
    as JPEG. Files that describe the whole data set are written at the end.

    Args:
        folder: parent of the format's folder.
        max_side: not used.

    Raises:
        ConfigError: if the format's folder is not empty; labels in it may have been corrected.
    """

    kind = ""
    images = "images"

    def __init__(self, folder: Path, max_side: int | None = None) -> None:
        super().__init__(folder / self.kind, max_side)
        if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise ConfigError(
                f"folder for --as-labels must be new or empty; got {str(self._folder)!r}. "
                "Choose another output folder."
            )
        self._classes: tuple[str, ...] = ()
        self._samples: dict[str, Sample] = {}

    def write(self, result: Result) -> None:
        """Write the image and the labels of one frame."""
        frame, found = result.frame, result.detections
        original = frame.source.path
        plain = UNSAFE.sub("_", frame.name).strip(" .") or "image"
        name, number = plain, 1
        while name.lower() in self._samples:
            number += 1
            name = f"{plain}_{number}"
        image = self._folder / self.images / f"{name}.jpg"
        if frame.is_still and isinstance(original, Path):
            self._path = image = image.with_name(name + original.suffix.lower())
            with replacing(image) as partial:
                shutil.copyfile(original, partial)
        else:
            self._write_jpeg(image, frame.image, frame.source.label)
        certain = np.zeros(len(found), dtype=bool)
        sample = Sample(image, found.image_hw, found.boxes_xyxy, found.class_ids, certain, name)
        self._classes = found.classes
        self._write_labels(sample)
        self._samples[name.lower()] = sample

    def _write_labels(self, sample: Sample) -> None:
        """Write the labels of one image, if the format has a label file per image."""

    def _write_dataset_files(self) -> None:
        """Write the files that describe the whole data set."""

    def _write_text(self, path: str, text: str) -> None:
        self._path = self._folder / path
        write_atomically(self._path, text)

    def _class_list(self) -> str:
        return "".join(f"{name}\n" for name in self._classes)

    def close(self, *, whole: bool) -> None:  # noqa: ARG002
        """Write the files that describe the data set; after an error, of the images so far."""
        if self._samples:
            self._write_dataset_files()


class VocLabelSink(LabelSink):
    """Pascal VOC: JPEGImages, Annotations, ImageSets/Main/default.txt and classes.txt."""

    kind, images = "voc", "JPEGImages"

    def _write_labels(self, sample: Sample) -> None:
        whole = replace(sample, boxes_xyxy=_whole_pixels(sample))
        text = voc_xml(whole, sample.path.name, self._classes)
        self._write_text(f"Annotations/{sample.key}.xml", text)

    def _write_dataset_files(self) -> None:
        names = "".join(f"{sample.key}\n" for sample in self._samples.values())
        self._write_text(f"ImageSets/Main/{SPLIT}.txt", names)
        self._write_text("classes.txt", self._class_list())


def _whole_pixels(sample: Sample) -> NDArray[np.float32]:
    """Return the boxes rounded to whole pixels, inside the image, at least one pixel wide."""
    height, width = sample.image_hw
    corners = np.rint(sample.boxes_xyxy)
    top_left = np.minimum(corners[:, :2], (width - 1, height - 1))
    return np.hstack([top_left, np.maximum(corners[:, 2:], top_left + 1)]).astype(np.float32)


class YoloLabelSink(LabelSink):
    """YOLO: images, labels, data.yaml, and a classes.txt in the root and next to the labels."""

    kind = "yolo"

    def _write_labels(self, sample: Sample) -> None:
        self._write_text(f"labels/{sample.key}.txt", yolo_text(sample))

    def _write_dataset_files(self) -> None:
        self._write_text("labels/classes.txt", self._class_list())
        self._write_text("classes.txt", self._class_list())
        self._write_text("data.yaml", yolo_yaml({"train": "images"}, self._classes))


class CocoLabelSink(LabelSink):
    """COCO: images/default and annotations/instances_default.json."""

    kind, images = "coco", f"images/{SPLIT}"

    def _write_dataset_files(self) -> None:
        samples = list(self._samples.values())
        names = [sample.path.name for sample in samples]
        document = coco_document(samples, names, self._classes)
        text = json.dumps(document, ensure_ascii=False)
        self._write_text(f"annotations/instances_{SPLIT}.json", text)


LABEL_SINKS: dict[str, Callable[[Path, int | None], Sink]] = {
    sink.kind: sink for sink in (VocLabelSink, YoloLabelSink, CocoLabelSink)
}
"""Sinks by their ``--save`` name, used with ``--as-labels``."""
