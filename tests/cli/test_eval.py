from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from attendet.cli import main
from attendet.data import load_dataset
from attendet.inference import Detector, Runtime
from attendet.models.metadata import WeightsMetadata


class BrightRuntime(Runtime):
    """Boxes the bright pixels of each network input as the class "disc"."""

    def __init__(self, classes=("ring", "disc"), data=None):
        self.metadata = WeightsMetadata(classes=tuple(classes), input_hw=(64, 64), data=data)

    def run(self, inputs):
        boxes = np.zeros((len(inputs), 1, 4), dtype=np.float32)
        scores = np.zeros((len(inputs), 1, len(self.metadata.classes)), dtype=np.float32)
        for index, padded in enumerate(inputs):
            rows, columns = np.nonzero(padded[:, :, 0] > 200)
            boxes[index, 0] = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            scores[index, 0, self.metadata.classes.index("disc")] = 0.9
        return boxes, scores


@pytest.fixture
def discs(tmp_path):
    """A YOLO data set of images with one bright rectangle each."""
    root = tmp_path / "discs"
    for split, count in (("train", 3), ("val", 2), ("test", 4)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            image = np.zeros((64, 64, 3), dtype=np.uint8)
            image[16:48, 8 : 24 + 4 * index + count] = 255
            Image.fromarray(image).save(root / "images" / split / f"{split}{index}.png")
            width = 16 + 4 * index + count
            line = f"0 {(8 + width / 2) / 64} 0.5 {width / 64} 0.5\n"
            (root / "labels" / split / f"{split}{index}.txt").write_text(line)
    (root / "data.yaml").write_text(
        "train: images/train\nval: images/val\ntest: images/test\nnames: [disc, ring]\n"
    )
    return root


@pytest.fixture
def loads(monkeypatch):
    """Make `attendet eval` load a given runtime instead of a weights file."""

    def use(runtime):
        monkeypatch.setattr("attendet.inference.load", lambda *_, **__: Detector(runtime))

    return use


def test_prints_a_table_and_writes_the_record(discs, loads, tmp_path, capsys):
    loads(BrightRuntime())
    output = tmp_path / "out" / "record.json"
    assert main(["eval", "w.safetensors", str(discs), "--output", str(output), "--batch", "3"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert rows["all"][:4] == ["4", "4", "1.000", "1.000"]
    assert rows["ring"][:3] == ["0", "0", "-"]
    content = json.loads(output.read_text())
    fingerprint = load_dataset(discs).fingerprint("test")
    assert content["data"]["fingerprint"] == fingerprint
    assert fingerprint in printed
    assert content["metrics"]["ap"] == content["metrics"]["voc"]["eleven_point"] == 1.0
    assert content["metrics"]["counts"]["images"] == 4
    assert content["weights"]["classes"] == ["ring", "disc"]
    settings = content["settings"]
    assert (settings["confidence"], settings["nms_iou"], settings["max_detections"]) == (
        0.001,
        0.5,
        300,
    )


def test_another_split_size_and_a_warning_about_training_images(discs, loads, capsys):
    fingerprint = load_dataset(discs).fingerprint("train")
    loads(BrightRuntime(data={"fingerprints": {"train": fingerprint}}))
    assert main(["eval", "w", str(discs), "--split", "train", "--size", "96"]) == 0
    printed = capsys.readouterr().out
    assert "trained on these images" in printed
    assert "input 96 x 96 px" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "tset"], "Did you mean 'test'?"),
        (["--size", "100"], "input size must be multiples of 32"),
        (["--batch", "0"], "batch must be at least 1"),
    ],
)
def test_a_wrong_flag_is_one_line(discs, loads, capsys, flags, message):
    loads(BrightRuntime())
    assert main(["eval", "w", str(discs), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_classes_that_the_weights_do_not_know_are_named(discs, loads, capsys):
    loads(BrightRuntime(("disc", "star")))
    assert main(["eval", "w", str(discs)]) == 2
    assert "only in the data: 'ring'; only in the weights: 'star'" in capsys.readouterr().err


def test_classes_of_the_same_meaning_are_matched_with_a_note(discs, loads, capsys):
    loads(BrightRuntime(("couch", "disc")))
    yaml = discs / "data.yaml"
    yaml.write_text(yaml.read_text().replace("[disc, ring]", "[DISC, sofa]"))
    assert main(["eval", "w", str(discs)]) == 0
    printed = capsys.readouterr().out
    assert "matched classes of data and weights: DISC = disc, sofa = couch" in printed
    assert "no boxes of" not in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert rows["disc"][2:4] == ["1.000", "1.000"]


def test_a_class_map_states_the_names_of_the_weights(discs, loads, capsys):
    loads(BrightRuntime(("star", "disc", "hoop")))
    assert main(["eval", "w", str(discs), "--class-map", "ring=hoop"]) == 0
    printed = capsys.readouterr().out
    assert "ring = hoop" in printed
    assert "no boxes of: star" in printed
    assert main(["eval", "w", str(discs), "--class-map", "rings=hoop"]) == 2
    assert "got 'rings' (--class-map). Did you mean 'ring'?" in capsys.readouterr().err


def test_data_without_names_are_matched_by_position(discs, loads, capsys):
    loads(BrightRuntime(("disc", "ring")))
    yaml = discs / "data.yaml"
    yaml.write_text(yaml.read_text().replace("names: [disc, ring]", "nc: 2"))
    assert main(["eval", "w", str(discs)]) == 0
    printed = capsys.readouterr().out
    assert "the classes of the data have no names and were matched by position" in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert rows["disc"][2:4] == ["1.000", "1.000"]


def test_many_unknown_classes_are_a_short_message(discs, loads, capsys):
    loads(BrightRuntime(("disc", *(f"name {number}" for number in range(300)))))
    assert main(["eval", "w", str(discs)]) == 2
    error = capsys.readouterr().err
    assert "only in the data: 'ring'; only in the weights: 'name 0', " in error
    assert "'name 9' and 290 more" in error
    assert len(error) < 500


def test_classes_without_boxes_in_the_data_are_noted(discs, loads, capsys):
    loads(BrightRuntime(("star", "ring", "disc")))
    assert main(["eval", "w", str(discs)]) == 0
    assert "no boxes of: star" in capsys.readouterr().out


def test_a_broken_image_is_skipped_and_named(discs, loads, tmp_path, capsys):
    loads(BrightRuntime(("disc", "ring")))
    broken = discs / "images" / "test" / "test1.png"
    broken.write_bytes(broken.read_bytes()[:60])

    assert main(["eval", "w", str(discs), "--output", str(tmp_path / "record.json")]) == 0

    said = capsys.readouterr().out
    assert f"skipped      image is truncated or broken ({broken})" in said
    assert "images       3 (0 without ground truth; 1 more cannot be read)" in said
    counts = json.loads((tmp_path / "record.json").read_text())["metrics"]["counts"]
    assert (counts["images"], counts["images_unreadable"]) == (3, 1)


def test_a_folder_as_output_is_refused_before_the_work(discs, loads, tmp_path, capsys):
    loads(None)  # whatever ran would fail

    assert main(["eval", "w", str(discs), "--output", str(tmp_path)]) == 2
    assert "output must be a file" in capsys.readouterr().err


def test_a_missing_weights_file_is_one_line(discs, capsys):
    assert main(["eval", "nowhere.safetensors", str(discs)]) == 4
    assert "weights file not found (nowhere.safetensors)" in capsys.readouterr().err


def test_a_file_with_suppression_is_evaluated_at_its_own_thresholds(
    exported, discs, tmp_path, capsys
):
    yaml = discs / "data.yaml"
    yaml.write_text(yaml.read_text().replace("[disc, ring]", "[cat, dog]"))
    output = tmp_path / "record.json"
    command = ["eval", str(exported["best"]), str(discs), "--runtime", "onnx"]

    assert main([*command, "--output", str(output)]) == 0
    settings = json.loads(output.read_text())["settings"]
    assert (settings["confidence"], settings["nms_iou"], settings["max_detections"]) == (
        0.4,
        0.6,
        60,
    )

    assert main([*command, "--confidence", "0.3"]) == 2
    assert "confidence must be at least 0.4, the limit of the NMS" in (capsys.readouterr().err)


def test_a_real_weights_file(discs, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from attendet import models

    torch.manual_seed(0)
    metadata = WeightsMetadata(
        classes=("disc", "ring"), attention="ca", width_mult=0.25, input_hw=(64, 64)
    )
    path = tmp_path / "random.safetensors"
    models.save_weights(path, models.build_from_metadata(metadata), metadata)
    assert main(["eval", str(path), str(discs)]) == 0
    assert "attention ca" in capsys.readouterr().out
