from __future__ import annotations

import tomllib
from importlib import resources

import pytest

from attendet.data import load_dataset
from attendet.data.class_names import match_classes, parse_class_map, similar_names
from attendet.errors import ConfigError, did_you_mean, list_names

ZOO = tomllib.loads(resources.files("attendet.interop").joinpath("zoo.toml").read_text("utf-8"))
COCO, VOC = ZOO["classes"]["coco"], ZOO["classes"]["voc"]
DARKNET = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
}
"""Names that darknet's coco.names spells otherwise than COCO."""


def test_coco_names_of_darknet_are_those_of_coco():
    names = [DARKNET.get(name, name) for name in COCO]
    assert set(DARKNET) < set(COCO)
    for data, weights in ((names, COCO), (COCO, names)):
        match = match_classes(data, weights)
        assert match.ids == tuple(range(80))
        assert match.note.count("=") == len(DARKNET)
    assert "aeroplane = airplane" in match_classes(names, COCO).note


def test_all_classes_of_voc_are_in_coco():
    ids = match_classes(VOC, COCO).ids
    assert [COCO[index] for index in ids] == [
        {other: name for name, other in DARKNET.items()}.get(name, name) for name in VOC
    ]


@pytest.mark.parametrize(
    ("data", "weights", "ids"),
    [
        (["b", "a"], ["a", "b"], (1, 0)),
        (["Red Cell", "white_cell"], ["red-cell", "WhiteCell"], (0, 1)),
        (["cat"], ["Cat", "CAT"], (None,)),
        (["cat", "Cat"], ["CAT"], (None, None)),
        (["cat", "Cat"], ["cat"], (0, None)),
        (["sofa"], ["couch", "sofa"], (1,)),
        (["car"], ["cars", "van"], (None,)),
        (["0", "1", "2"], ["a", "b", "c"], (0, 1, 2)),
        (["a", "b"], ["class_0", "class_1"], (0, 1)),
        (["0", "1"], ["a", "b", "c"], (None, None)),
        (["1", "0"], ["a", "b"], (None, None)),
        (["0", "2"], ["a", "b"], (None, None)),
        (["1", "0"], ["0", "1"], (1, 0)),
    ],
)
def test_which_classes_are_the_same(data, weights, ids):
    assert match_classes(data, weights).ids == ids


def test_only_what_is_not_obvious_is_noted():
    assert match_classes(["a", "b", "x"], ["b", "a"]).note == ""
    assert match_classes(["A", "b"], ["b", "a"]).note.endswith(": A = a")
    assert "data have no names" in match_classes(["0", "1"], ["a", "b"]).note
    assert "weights have no names" in match_classes(["a", "b"], ["0", "1"]).note


def test_a_class_map_counts_first_and_may_join_classes():
    class_map = parse_class_map("lorry=truck, van = truck,car=bus")
    match = match_classes(["car", "van", "lorry"], ["car", "truck", "bus"], class_map)
    assert match.ids == (2, 1, 1)
    assert match.note.endswith("car = bus, van = truck, lorry = truck")
    assert parse_class_map(None) == parse_class_map("") == {}


@pytest.mark.parametrize("text", ["a", "a=", "=b", "a=b,", "a=b,a=c"])
def test_a_class_map_of_another_form_is_an_error(text):
    with pytest.raises(ConfigError, match=r"class_map must be .*--class-map"):
        parse_class_map(text)


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ({"auto": "cat"}, "class of the data must be a known name; got 'auto' .*--class-map"),
        ({"car": "cats"}, "class of the weights must be .*got 'cats'.*Did you mean 'cat'"),
    ],
)
def test_unknown_names_in_a_class_map_are_errors(class_map, message):
    with pytest.raises(ConfigError, match=message):
        match_classes(["car"], ["cat"], class_map)


def test_similar_names():
    names = ["Cat", "cat", "car", "bus", "cars", "buses", "berry", "berries", "t-shirt", "T shirt"]
    assert similar_names(names) == [
        ("Cat", "cat"),
        ("car", "cars"),
        ("bus", "buses"),
        ("berry", "berries"),
        ("t-shirt", "T shirt"),
    ]
    assert similar_names(["sofa", "couch"]) == [("sofa", "couch")]
    assert similar_names(["1", "-1", "0_1", "01", "as", "a", "glass", "gas"]) == []
    assert similar_names(COCO) == similar_names(VOC) == []


def test_similar_names_are_an_issue(tmp_path, voc_folder):
    root = voc_folder(tmp_path, [[("Cat", 1, 1, 9, 9)], [("cat", 1, 1, 9, 9)]] * 4)
    dataset = load_dataset(root)
    assert dataset.classes == ("Cat", "cat")
    assert [(issue.kind, issue.message) for issue in dataset.issues] == [
        ("similar-names", "classes may be the same: 'Cat' and 'cat'")
    ]


def test_ten_names_are_shown_at_most():
    assert list_names(COCO[:10]) == ", ".join(COCO[:10])
    assert list_names(COCO).endswith("traffic light and 70 more")
    assert list_names([]) == ""
    assert did_you_mean("zzz", COCO).count(",") == 9


def test_a_file_of_darknet_has_the_classes_of_coco(shared_data):
    path = shared_data.parent / "weights" / "yolo-fastest" / "coco.names"
    if not path.is_file():
        pytest.skip("needs shared/weights beside the repository")
    match = match_classes(path.read_text().splitlines(), COCO)
    assert match.ids == tuple(range(80))
