"""Data sets as labeling tools export them and as people have them; each case cites a public report.

Every image is 40 x 30, and every box is (10, 7.5, 30, 22.5) in pixels.
"""

from __future__ import annotations

import json
import re

import pytest

from attendet.cli import main
from attendet.data import load_dataset
from attendet.errors import DataError

IMAGE = None
NFD_NAME = "images/e\u0301.png"
LINE = "0 0.5 0.5 0.5 0.5\n"
GB2312 = '<?xml version="1.0" encoding="gb2312"?>\n'
XYXY = [10.0, 7.5, 30.0, 22.5]
# What macOS writes beside a file on a disk of another system or in an archive.
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + b"\xb0\x00ATTR" * 8


def pairs(names, image, label, text=LINE):
    """Return an image and a label file for each name; ``{}`` in the paths and the text is it."""
    files = {}
    for name in names:
        files[image.replace("{}", name)] = IMAGE
        files[label.replace("{}", name)] = text.replace("{}", name)
    return files


def xml(name="cat", filename="{}.jpg", extra=""):
    left, top, right, bottom = XYXY
    return (
        f"<annotation><filename>{filename}</filename><path>C:\\me\\{filename}</path>"
        "<size><width>40</width><height>30</height><depth>3</depth></size>"
        # Roboflow's order: https://github.com/datitran/raccoon_dataset/issues/130
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{left}</xmin><xmax>{right}</xmax>"
        f"<ymin>{top}</ymin><ymax>{bottom}</ymax></bndbox></object></annotation>"
    )


def coco(file_names, number=int):
    return json.dumps(
        {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(file_names)],
            "annotations": [
                {
                    "id": n,
                    "image_id": number(n),
                    "category_id": number(0),
                    "bbox": [10, 7.5, 20, 15],
                }
                for n in range(len(file_names))
            ],
            "categories": [
                {"id": "3", "name": "_background_"},  # github.com/wkentaro/labelme/pull/377
                {"id": 0, "name": "cat"},
                {"id": "1", "name": "dog"},
            ],
        }
    )


def write(root, files, image):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is IMAGE:
            image(path)
        else:
            if isinstance(content, str):
                content = content.encode("gbk" if GB2312 in content else "utf-8")
            path.write_bytes(content)


VOC = pairs("ab", "JPEGImages/{}.jpg", "Annotations/{}.xml", xml())
NOTES = {"categories": [{"id": "0", "name": "cat"}], "info": {"contributor": "Label Studio"}}
CVAT_OBJECT = (
    "<occluded>0</occluded><attributes><attribute><name>color</name><value>red</value></attribute>"
    "</attributes><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
)

READ = {
    # https://github.com/sekilab/RoadDamageDetector/issues/8
    "macos-voc": (
        {**VOC, "Annotations/._a.xml": APPLE_DOUBLE, "JPEGImages/._a.jpg": APPLE_DOUBLE},
        {"a": "cat", "b": "cat"},
        [],
    ),
    # https://github.com/ultralytics/hub/issues/89
    "macos-yolo": (
        {
            **pairs("ab", "images/{}.jpg", "labels/{}.txt"),
            **dict.fromkeys(
                ("images/._a.jpg", "labels/._a.txt", "__MACOSX/images/._a.jpg", "._data.yaml"),
                APPLE_DOUBLE,
            ),
            "data.yaml": "train: .\nval: images\nnames: [cat]\n",
            "images/Thumbs.db": b"\xd0\xcf",
            "desktop.ini": "[.ShellClassInfo]",
        },
        {"images/a": "cat", "images/b": "cat"},
        ["identical-images", "identical-images"],
    ),
    "macos-beside": (
        {**pairs("ab", "{}.jpg", "{}.txt"), **pairs("ab", "{}.jpg", "._{}.txt")},
        {"a": "0", "b": "0"},
        [],
    ),
    "macos-coco": (
        {
            **dict.fromkeys(("images/a.jpg", "images/b.jpg"), IMAGE),
            "annotations/instances_default.json": coco(["a.jpg", "b.jpg"]),
            "annotations/._instances_default.json": APPLE_DOUBLE,
        },
        {"images/a": "cat", "images/b": "cat"},
        [],
    ),
    # https://github.com/HumanSignal/label-studio/issues/6416
    "label-studio-yolo": (
        {
            **pairs("ab", "images/{}.jpg", "labels/{}.txt"),
            "classes.txt": "cat\n",
            "notes.json": json.dumps(NOTES, indent=2),
        },
        {"images/a": "cat", "images/b": "cat"},
        [],
    ),
    # https://github.com/HumanSignal/label-studio-converter/issues/139
    "label-studio-coco": (
        {
            **dict.fromkeys(("images/90fb-a.jpg", "images/90fb-b.jpg"), IMAGE),
            "result.json": coco(["images\\1/90fb-a.jpg", "..\\..\\media\\upload\\4\\90fb-b.jpg"]),
        },
        {"images/90fb-a": "cat", "images/90fb-b": "cat"},
        [],
    ),
    # https://github.com/Koldim2001/COCO_to_YOLOv8/issues/2
    "cvat-coco-folders": (
        {
            **dict.fromkeys(("images/Train/Data/a.bmp", "images/Train/Data/b.bmp"), IMAGE),
            **dict.fromkeys(("images/Train/x/c.bmp", "images/Train/y/c.bmp"), IMAGE),
            "images/Validation/d.bmp": IMAGE,
            "annotations/instances_Train.json": coco(["Data/a.bmp", "b.bmp", "c.bmp", "d.bmp"]),
        },
        {"images/Train/Data/a": "cat", "images/Train/Data/b": "cat"},
        ["missing-image", "missing-image"],
    ),
    # https://github.com/HumanSignal/label-studio/issues/4903
    # https://github.com/AntonMu/TrainYourOwnYOLO/issues/214
    "urls-as-file-names": (
        {
            **dict.fromkeys(("images/my (a).jpg", "images/b.jpg"), IMAGE),
            "result.json": coco(
                ["https://my.host/up/my%20(a).jpg?key=1", "/data/local-files/?d=shots%2Fb.jpg"]
            ),
        },
        {"images/b": "cat", "images/my (a)": "cat"},
        [],
    ),
    # https://github.com/jsbroks/coco-annotator/issues/312
    "ids-as-text": (
        {"a.jpg": IMAGE, "b.jpg": IMAGE, "labels.json": coco(["a.jpg", "b.jpg"], str)},
        {"a": "cat", "b": "cat"},
        [],
    ),
    # https://github.com/HumanSignal/label-studio-converter/pull/100
    "file-name-without-suffix": (
        pairs("ab", "images/{}.v2.jpg", "Annotations/x{}.xml", xml(filename="{}.v2")),
        {"a.v2": "cat", "b.v2": "cat"},
        [],
    ),
    # https://github.com/HumanSignal/labelImg/issues/59
    "no-size": (
        pairs("ab", "{}.jpg", "{}.xml", re.sub(r"\d+</(width|height)", r"0</\1", xml())),
        {"a": "cat", "b": "cat"},
        [],
    ),
    # https://github.com/HumanSignal/label-studio/issues/1266
    "labels-named-as-urls": (
        {
            **{"images/décran 1.png": IMAGE, "labels/d%C3%A9cran%201.txt": LINE},
            **pairs("b", "images/{}.png", "labels/{}.txt"),
        },
        {"images/b": "0", "images/décran 1": "0"},
        [],
    ),
    # https://github.com/llmsresearch/paperbanana/pull/240
    "names-of-macos": (
        {
            **{NFD_NAME: IMAGE, "labels/é.txt": LINE},
            **{"images/b.png": IMAGE, "labels/b.txt": LINE},
            "train.txt": "images/é.png\nimages/b.png\n",
        },
        {"images/b": "0", NFD_NAME.removesuffix(".png"): "0"},
        [],
    ),
    "names-of-macos-coco": (
        {NFD_NAME: IMAGE, "images/b.png": IMAGE, "labels.json": coco(["é.png", "b.png"])},
        {"images/b": "cat", NFD_NAME.removesuffix(".png"): "cat"},
        [],
    ),
    # https://github.com/cvat-ai/cvat/issues/7523
    "one-label-file-of-two-images": (
        {**pairs("a", "{}.png", "{}.txt"), "a.jpg": IMAGE},
        {"a.jpg": "0", "a.png": "0"},
        ["shared-labels"],
    ),
    # https://github.com/bubbliiiing/efficientdet-pytorch/issues/16
    "spaces-in-lists": (
        {
            **pairs(("GS (1)", "图 2", "c d"), "JPEGImages/{}.jpg", "Annotations/{}.xml", xml()),
            "ImageSets/Main/train.txt": "GS (1)\nJPEGImages/图 2.jpg\n",
            "ImageSets/Main/val.txt": "c d  1\r\n",
        },
        {"GS (1)": "cat", "c d": "cat", "图 2": "cat"},
        [],
    ),
    # https://github.com/PaddlePaddle/PaddleX/pull/96
    "paddle-lists": (
        {
            **VOC,
            "ImageSets/Main/train.txt": "JPEGImages/a.jpg Annotations/a.xml\n",
            "ImageSets/Main/val.txt": "/home/me/JPEGImages/b.jpg\n",
        },
        {"a": "cat", "b": "cat"},
        [],
    ),
    # https://github.com/HumanSignal/labelImg/issues/952
    "empty-classes": (
        {**pairs("ab", "{}.jpg", "{}.txt"), "classes.txt": "\n"},
        {"a": "0", "b": "0"},
        ["class-names"],
    ),
    "empty-classes-voc": ({**VOC, "classes.txt": ""}, {"a": "cat", "b": "cat"}, []),
    # https://github.com/cvat-ai/cvat/issues/6443
    "cvat-voc-folders": (
        {
            **pairs(("one/a", "two/a"), "JPEGImages/x/{}.jpg", "Annotations/x/{}.xml", xml()),
            "JPEGImages/x/two/b.jpg": IMAGE,
            "Annotations/old/a.xml": xml("dog"),
            "ImageSets/Main/default.txt": "x/one/a\nx/two/a\n",
            "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\n",
        },
        {"x/one/a": "cat", "x/two/a": "cat"},
        ["missing-label"],
    ),
    # https://www.robots.ox.ac.uk/~vgg/data/pets/
    "xmls-below-annotations": (
        pairs("ab", "images/{}.jpg", "annotations/xmls/{}.xml", xml()),
        {"a": "cat", "b": "cat"},
        [],
    ),
    # https://github.com/cvat-ai/cvat/issues/942
    "cvat-voc-attributes": (
        pairs("ab", "JPEGImages/{}.jpg", "Annotations/{}.xml", xml(extra=CVAT_OBJECT)),
        {"a": "cat", "b": "cat"},
        [],
    ),
    # https://github.com/cvat-ai/cvat/issues/8046
    "cvat-yolo": (
        {
            **pairs("ab", "obj_train_data/{}.PNG", "obj_train_data/{}.txt"),
            "obj.data": "classes = 1\r\ntrain = data/train.txt\r\nnames = data/obj.names\r\n",
            "obj.names": "cat\r\n\r\n",
            "train.txt": "data/obj_train_data/a.PNG\r\ndata/obj_train_data/b.PNG\r\n\r\n",
        },
        {"obj_train_data/a": "cat", "obj_train_data/b": "cat"},
        [],
    ),
    # https://github.com/microsoft/VoTT/issues/692
    "vott-voc": (
        {
            **pairs(("v.mp4#t=0", "b"), "JPEGImages/{}.jpg", "Annotations/{}.xml", xml()),
            "ImageSets/Main/cat_train.txt": "b.jpg -1\nb.jpg 1\n",
            "pascal_label_map.pbtxt": "item {\n id: 1\n name: 'cat'\n}\n",
        },
        {"b": "cat", "v.mp4#t=0": "cat"},
        [],
    ),
    # https://github.com/SkalskiP/make-sense/issues/314
    "dots-in-names": (
        {**pairs(("16.28", "16.29"), "{}.png", "{}.txt"), "labels.txt": "cat"},
        {"16.28": "cat", "16.29": "cat"},
        [],
    ),
    # https://github.com/cvat-ai/cvat/issues/6443
    "archive-in-a-folder": (
        {
            **pairs("ab", "out/cells/obj_train_data/{}.png", "out/cells/obj_train_data/{}.txt"),
            **{"out/cells/obj.names": "cat\n", "__MACOSX/out/cells/._obj.names": APPLE_DOUBLE},
            "out/cells/obj.data": "train = data/train.txt\nnames = data/obj.names\n",
            "out/cells/train.txt": "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n",
        },
        {"obj_train_data/a": "cat", "obj_train_data/b": "cat"},
        [],
    ),
    # https://github.com/ultralytics/yolov5/issues/256
    "images-twice-in-the-path": (
        {
            **pairs(("a_images_1", "b"), "images/images/{}.png", "images/labels/{}.txt"),
            "data.yaml": "train: images/images\nnames: {0: cat}\nnc: 1\n",
        },
        {"images/images/a_images_1": "cat", "images/images/b": "cat"},
        [],
    ),
    # https://github.com/AlexeyAB/darknet/issues/2990
    "lines-without-a-class": (
        {
            **pairs("ab", "images/{}.png", "labels/{}.txt", "3 0.5 0.5 0.5 0.5\n"),
            "classes.txt": "dont_show\ncat\r\r\n\ndog\ndont_show\n\n\n",
        },
        {"images/a": "dog", "images/b": "dog"},
        ["class-names"],
    ),
    # https://github.com/Lab41/pelops/issues/72
    "xml-in-gb2312": (
        pairs("ab", "JPEGImages/{}.jpg", "Annotations/{}.xml", GB2312 + xml("橘猫")),
        {"a": "橘猫", "b": "橘猫"},
        [],
    ),
    # https://github.com/microsoft/VoTT/issues/926
    "windows-lists-and-tabs": (
        {
            **pairs(
                "ab", "图 像/images/{}.jpg", "图 像/labels/{}.txt", "0.0\t0.5 0.5\t.5 5e-1\r\n"
            ),
            "my.data": "\ufeffclasses=1\ntrain=train.txt\nnames=obj.names\n",
            "obj.names": "\ufeffcat",
            "train.txt": "\ufeffD:\\数据\\图 像\\images\\a.jpg\r\nD:\\数据\\图 像\\images\\b.jpg",
        },
        {"图 像/images/a": "cat", "图 像/images/b": "cat"},
        [],
    ),
}


@pytest.mark.parametrize(("files", "expected", "kinds"), READ.values(), ids=READ)
def test_what_is_read(tmp_path, image, files, expected, kinds):
    write(tmp_path, files, image)
    dataset = load_dataset(tmp_path)
    samples = {sample.key: sample for sample in dataset.split("all")}
    assert {key: sample.boxes_xyxy.tolist() for key, sample in samples.items()} == {
        key: [XYXY] for key in expected
    }
    found = {key: dataset.classes[sample.class_ids[0]] for key, sample in samples.items()}
    assert found == expected
    assert "_background_" not in dataset.classes
    assert [issue.kind for issue in dataset.issues] == kinds
    assert main(["data", "check", str(tmp_path)]) == 0


REFUSED = {
    # https://github.com/pjreddie/darknet/issues/824
    "commas": ("0, 0.5, 0.5, 0.5, 0.5\n", r"a\.txt:1: .*must be separated by spaces"),
    # https://github.com/Babyhamsta/Yoable/issues/7
    "decimal-commas": ("\n0 0,5 0,5 0,5 0,5\n", r"a\.txt:2: .*decimal points"),
    # https://github.com/ultralytics/ultralytics/issues/1170
    "scores": (f"{LINE[:-1]} 0.575787\n", r"a\.txt:1: .*got a 6th field. Remove scores"),
    # https://github.com/WongKinYiu/yolov7/issues/1652
    "keypoints": (
        f"{LINE[:-1]} 0.3 0.4 2 0.6 0.7 1\n",
        r"a\.txt:1: .*keypoints need .*; add kpt_shape: \[2, 3\]",
    ),
    # https://github.com/ultralytics/ultralytics/issues/707
    "names-as-ids": ("cat 0.5 0.5 0.5 0.5\n", r"a\.txt:1: .*a whole number; got 'cat'"),
    "no-text": (LINE.encode("utf-16-le"), r"a\.txt:1: .*got '0\\x00'"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_lines_that_are_refused(tmp_path, image, content, said):
    files = {"images/a.png": IMAGE, "labels/a.txt": content, "classes.txt": "cat\n"}
    write(tmp_path, files, image)
    with pytest.raises(DataError, match=said):
        load_dataset(tmp_path)


# https://github.com/ultralytics/yolov5/issues/12014
@pytest.mark.parametrize("images", ["images/", ""])
def test_label_files_that_fit_no_image_are_named(tmp_path, image, images):
    labels = images.replace("images", "labels")
    files = pairs("ab", images + "{}.jpg", labels + "{}.txt")
    files[f"{images}c.jpg"] = IMAGE
    files[f"{labels}c.jpg.txt"] = LINE
    files[f"{images}README.txt"] = "5 photos of a cat\n"
    write(tmp_path, files, image)
    issues = load_dataset(tmp_path).issues
    assert [(issue.kind, issue.file.name) for issue in issues] == [("missing-image", "c.jpg.txt")]


# https://github.com/SkalskiP/make-sense/issues/351: folders that are splits stay apart
def test_split_folders_inside_the_folders_of_voc(tmp_path, image):
    files = pairs(("train/a", "train/b", "valid/a"), "images/{}.jpg", "labels/{}.xml", xml())
    write(tmp_path, files, image)
    dataset = load_dataset(tmp_path)
    keys = {name: [sample.key for sample in part] for name, part in dataset.splits.items()}
    assert keys == {"train": ["train/a", "train/b"], "val": ["valid/a"]}
    assert dataset.split_source == "folders train/ valid/"
    assert dataset.issues == ()


# https://github.com/AlexeyAB/darknet/issues/2990
@pytest.mark.parametrize(("last", "shifted"), [("2", True), ("1", False), ("0", False)])
def test_class_ids_that_count_from_1_are_reported(tmp_path, image, last, shifted):
    files = {"images/a.png": IMAGE, "images/b.png": IMAGE, "classes.txt": "cat\ndog\n"}
    files |= {"labels/a.txt": f"1{LINE[1:]}", "labels/b.txt": f"{last}{LINE[1:]}"}
    write(tmp_path, files, image)
    issues = load_dataset(tmp_path, require_train=False).issues
    said = [issue.file.name for issue in issues if "start at 1" in issue.message]
    assert said == (["b.txt"] if shifted else [])


# https://github.com/HumanSignal/labelImg/issues/364
@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("Annotations/a.xml", xml("橘猫").encode("gbk"), "declared encoding (default: UTF-8)"),
        ("Annotations/a.xml", b"<annotations><image/></annotations>", "export as Pascal VOC"),
        ("classes.txt", "橘猫\n".encode("gbk"), "Save it as UTF-8"),
    ],
)
def test_text_that_needs_the_user_says_what_to_do(tmp_path, image, file, content, said):
    write(tmp_path, {**VOC, file: content}, image)
    dataset = load_dataset(tmp_path, classes=["cat"])
    assert [issue.file.name for issue in dataset.issues if said in issue.message] == [
        file.rpartition("/")[2]
    ]


def test_a_set_of_no_boxes_says_so(tmp_path, image):
    upper = xml().replace("object", "Object")
    write(tmp_path, pairs("ab", "{}.jpg", "{}.xml", upper), image)
    with pytest.raises(DataError, match=r"must contain boxes; got none \(label files: 2.*a\.xml"):
        load_dataset(tmp_path)


# https://github.com/microsoft/VoTT/issues/760
def test_corners_in_the_wrong_order_are_named(tmp_path, image):
    wrong = xml().replace("22.5", "5")
    write(tmp_path, {**VOC, "Annotations/a.xml": wrong}, image)
    (issue,) = load_dataset(tmp_path, require_train=False).issues[:1]
    assert (issue.kind, issue.file.name, issue.line) == ("negative-size", "a.xml", 1)


# Tools whose own formats are not read: LabelMe, VIA, CreateML, lists of keras-yolo3
@pytest.mark.parametrize(
    "files",
    [
        {"a.json": json.dumps({"shapes": [], "imagePath": "a.jpg"})},
        {"via_export_json.json": json.dumps({"a.jpg1": {"filename": "a.jpg", "regions": []}})},
        {"2007_train.txt": "/home/me/a.jpg 10,7,30,22,0\n", "voc_classes.txt": "cat\n"},
    ],
)
def test_other_formats_are_refused_with_advice(tmp_path, image, files):
    write(tmp_path, {"a.jpg": IMAGE, **files}, image)
    with pytest.raises(DataError, match=r"(?s)no labels recognized.*Export labels of other"):
        load_dataset(tmp_path)
