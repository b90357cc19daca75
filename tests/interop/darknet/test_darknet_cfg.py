"""Darknet configurations: what is read, what is refused and how, and that garbage is no crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attendet.errors import ConfigError
from attendet.interop.darknet.cfg import format_config, parse_config, read_config
from attendet.models.graph import (
    LAYERS,
    Convolutional,
    Graph,
    MaxPool,
    Route,
    Upsample,
    Yolo,
    layer_from_mapping,
)

NET = "[net]\nwidth=64\nheight=64\n"
CONV = "[convolutional]\nfilters=18\nsize=3\nstride=32\npad=1\nactivation=linear\n"
REGION = "[region]\nsoftmax=1\nnum=3\n"
YOLO = "[yolo]\nanchors=10,14, 23,27, 37,58\nclasses=1\n"


def _parse(text: str):
    return parse_config(text, source="net.cfg")


def test_the_tiny_configuration(tiny: Callable[..., str]) -> None:
    config = _parse(tiny(base=64, classes=80, side=416))

    assert config.input_hw == (416, 416)
    assert config.num_classes == 80
    assert config.anchor_masks == ((3, 4, 5), (1, 2, 3))
    assert config.anchors[5] == (344, 319)
    assert config.scale_x_y == 1.05
    assert config.unknown_options == ()
    assert len(config.graph.layers) == 38
    assert config.graph.layers[3] == Route((2,), groups=2, group_id=1)
    assert config.graph.layers[34] == Route((33, 23))
    assert config.graph.layers[33] == Upsample(2)
    assert config.graph.layers[9] == MaxPool(2, 2, 1)
    assert config.graph.strides((416, 416)) == (32, 16)
    # 6,056,606 trained values, and mean and variance of each of the 3,104 normalized channels.
    assert sum(config.graph.parameters()) == 6_056_606 + 2 * 3_104


def test_levels_of_their_own(other_configs: dict[str, str]) -> None:
    config = _parse(other_configs["pyramid"])

    assert config.input_hw == (64, 96)
    assert config.anchors[-1] == (4, 4)
    assert config.anchor_masks == ((4, 5), (2, 3), (6,))
    scales = [layer.scale_x_y for layer in config.graph.layers if isinstance(layer, Yolo)]
    assert scales == [1.2, 1.1, 1.0]
    assert config.graph.strides((64, 96)) == (32, 16, 8)


def test_anchors_of_a_region_are_in_cells(other_configs: dict[str, str]) -> None:
    config = _parse(other_configs["yolov2-tiny"])

    assert config.graph.strides((64, 96)) == (32,)
    assert config.anchors == tuple(
        (32 * w, 32 * h) for w, h in ((1.08, 1.19), (3.42, 4.41), (0.57273, 0.677385))
    )
    assert config.unknown_options == ()
    assert "anchors=1.08,1.19, 3.42,4.41, 0.57273,0.677385\n" in format_config(config)


def test_a_logistic_map_that_another_layer_takes_is_refused() -> None:
    text = NET + CONV.replace("linear", "logistic") + YOLO + "new_coords=1\n"
    assert [one.coding for one in _parse(text).graph.outputs.values()] == ["new_coords"]

    with pytest.raises(ConfigError, match=r"got logistic, read by 2 \(net\.cfg:10\)"):
        _parse(text + "[route]\nlayers=0\n" + YOLO)


def test_defaults_are_those_of_darknet() -> None:
    text = NET + "[convolutional]\n[maxpool]\nstride=2\n[maxpool]\nsize=3\n" + CONV + YOLO
    first, second, third, *_ = _parse(text.replace("stride=32", "stride=16")).graph.layers

    assert first == Convolutional(1, 1, 1, 0, 1, False, "logistic")
    assert second == MaxPool(size=2, stride=2, padding=1)
    assert third == MaxPool(size=3, stride=1, padding=2)


def test_comments_blanks_and_repeated_training_options_do_not_matter() -> None:
    text = (NET + CONV + YOLO).replace("=", " = ").replace("[yolo]", "[ yolo ]  ; the output")
    text = text.replace("width_mult", "batch=1\nbatch=64\n# width = 1\nwidth", 1)

    assert _parse(text).graph == _parse(NET + CONV + YOLO).graph


def test_options_that_nobody_knows_are_named() -> None:
    text = NET + CONV + "color=blue\n" + YOLO + "jitter=.3\nbeam = 2\n"

    assert _parse(text).unknown_options == (
        "[convolutional] color (line 10)",
        "[yolo] beam (line 15)",
    )


@pytest.mark.parametrize("letter_box", [0, 1])
def test_letter_box(letter_box: int) -> None:
    assert _parse(NET + CONV + YOLO).letter_box is None
    assert _parse(f"{NET}letter_box={letter_box}\n{CONV}{YOLO}").letter_box is bool(letter_box)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[net]", "[network1]", "must begin with section [net]; got [network1] (net.cfg:1)"),
        ("width=64", "width=60", "[net] width must be a multiple of 32"),
        ("width=64", "channels=1\nwidth=64", "[net] channels must be 3 or omitted"),
        ("width=64\n", "", "[net] width must be given; got none (net.cfg:1)"),
        ("filters=18", "filters=x", "filters must be a whole number; got 'x' (net.cfg:5)"),
        ("filters=18", "filters=-+5", "filters must be a whole number; got '-+5' (net.cfg:5)"),
        ("filters=18", "filters=0", "filters must be at least 1; got 0 (net.cfg:4)."),
        (
            "filters=18",
            "filters=17",
            "[yolo] must follow a layer with 18 filters, 3 anchors x (5 + 1 classes)",
        ),
        ("filters=18", "filters=18\nfilters=21", "given once; it is in lines 5 and 6"),
        ("stride=32", "stride=64", "[yolo] must have cells of 1, 2, 4, 8, 16 or 32 pixels"),
        ("stride=32", "stride=3", "[yolo] must have cells of 1, 2, 4, 8, 16 or 32 pixels"),
        (
            "stride=32",
            "stride=32\ngroups=2",
            "[convolutional] groups must be a divisor of the 3 channels",
        ),
        ("stride=32", "stride=32\ndilation=2", "dilation must be 1 or omitted"),
        ("stride=32", "stride=32\nshare_index=0", "share_index must be -1000000000 or omitted"),
        ("stride=32", "stride_x=32\nstride_y=16", "stride_y must be the same as stride_x, 32"),
        ("linear", "laeky", "got 'laeky' (net.cfg:9). Did you mean 'leaky'?"),
        ("[yolo]", "[region]\nnum=3", "[region] softmax must be 1 (no other value is supported)"),
        (
            "[yolo]",
            "[region]\nsoftmax=1",
            "[region] num must be the number of anchors, 3; got none",
        ),
        (
            "[yolo]",
            REGION + "tree=9k.tree",
            "[region] tree must be omitted (class trees of YOLO9000",
        ),
        ("[yolo]", REGION + "coords=5", "[region] coords must be 4 or omitted"),
        ("[yolo]\nanchors=10,14", REGION + "anchors=0,14", "of width and height in cells, above 0"),
        ("[yolo]", "[reorg]\nstride=2\n[yolo]", "[reorg] stride must be such that its square"),
        ("[yolo]", "[reorg]\nextra=4\n[yolo]", "[reorg] extra must be 0 or omitted"),
        ("[yolo]", "[reorg3d]\n[yolo]", "Its order of channels differs from that of [reorg]."),
        ("[yolo]", "[crnn]\n[yolo]", "section must be a supported layer; got [crnn] (net.cfg:10)"),
        ("linear", "linear\nxnor=1", "[convolutional] xnor must be 0 or omitted"),
        ("[yolo]", "[youlo]", "Did you mean 'yolo'?"),
        ("[yolo]", "[route]\nlayers=5\n[yolo]", "[route] layers must be layers before layer 1"),
        ("[yolo]", "[route]\nlayers=-2\n[yolo]", "[route] layers must be layers before layer 1"),
        ("[yolo]", "[shortcut]\nfrom=1\n[yolo]", "[shortcut] from must be layers before layer 1"),
        ("[yolo]", "[upsample]\nstride=64\n[yolo]", "stride must be from 1 to 32; got 64"),
        ("[yolo]", "[upsample]\nscale=2\n[yolo]", "scale must be 1 or omitted"),
        (
            "[yolo]",
            "[scale_channels]\nfrom=0\n[yolo]",
            "a layer whose gate, the previous output, is (18, 1, 1)",
        ),
        ("anchors=10", "anchors=-10", "anchors must be pairs of width and height"),
        ("anchors=10,14,", "anchors=10,", "anchors must be pairs of width and height"),
        ("anchors=10", "anchors=nan", "anchors must be finite"),
        ("anchors=10", "anchors=ten", "anchors must be numbers"),
        ("anchors=10,14, 23,27, 37,58\n", "", "[yolo] anchors must be given"),
        ("classes=1", "classes=1\nmask=0,1,7", "mask must be indices of the 3 anchors"),
        ("classes=1", "classes=0", "classes must be at least 1"),
        (
            "classes=1",
            "classes=1\nnew_coords=1",
            "new_coords=1 must follow a [convolutional] layer with activation=logistic that no "
            "other layer reads; got linear, read by 1 (net.cfg:10)",
        ),
        ("classes=1", "classes=1\nscale_x_y=0", "scale_x_y must be above 0"),
        ("classes=1", "classes=1\n[maxpool]\n", "must not read the output of [yolo], layer 1"),
        ("[yolo]", "[yolo", "section must be a name in brackets; got '[yolo' (net.cfg:10)"),
        ("classes=1", "classes", "line must be key=value below a [section]; got 'classes'"),
        ("[net]", "width=3\n[net]", "line must be key=value below a [section]; got 'width=3'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(before: str, after: str, said: str) -> None:
    text = NET + CONV + YOLO
    assert before in text

    with pytest.raises(ConfigError) as error:
        _parse(text.replace(before, after, 1))

    assert said in str(error.value)
    assert "net.cfg" in str(error.value)
    assert "\n" not in str(error.value)


def test_maps_that_do_not_fit_each_other_are_named() -> None:
    half = "[convolutional]\nfilters=4\nstride=2\n"
    text = NET + half + half + "[route]\nlayers=0,1\n" + CONV + YOLO

    with pytest.raises(ConfigError, match=r"layers with maps of one size.*net\.cfg:10"):
        _parse(text)
    with pytest.raises(ConfigError, match=r"\[shortcut\] from must be layers with maps of size"):
        _parse(text.replace("[route]\nlayers=0,1", "[shortcut]\nfrom=0"))


def test_without_an_output_there_is_no_detector() -> None:
    for text in (NET, NET + CONV, ""):
        with pytest.raises(ConfigError, match=r"configuration must"):
            _parse(text)


@pytest.mark.parametrize("content", [b"\x00\x01\xff\xfe" * 8, b"\xff\xd8\xff\xe0", b"[net]\n\x00"])
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.cfg").write_bytes(content)

    with pytest.raises(ConfigError, match=r"must be a text file.*net\.cfg"):
        read_config(tmp_path / "net.cfg")


def test_comments_may_be_in_any_encoding(tmp_path: Path) -> None:
    text = NET + CONV + YOLO
    (tmp_path / "net.cfg").write_bytes("# größe\n".encode("cp1252") + text.encode())

    assert read_config(tmp_path / "net.cfg").graph == _parse(text).graph


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: No such file.*gone\.cfg"):
        read_config(tmp_path / "gone.cfg")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_config(tmp_path)


def test_what_is_written_reads_back_the_same(
    tiny: Callable[..., str], other_configs: dict[str, str]
) -> None:
    letter_box = other_configs["gated"].replace("channels=3", "letter_box=0")
    dropout = other_configs["gated"].replace("[avgpool]", "[dropout]\nprobability=.25\n[avgpool]")
    for text in (tiny(), *other_configs.values(), letter_box, dropout):
        config = _parse(text)

        again = _parse(format_config(config))

        assert again.graph == config.graph
        for name in ("input_hw", "num_classes", "scale_x_y", "letter_box"):
            assert getattr(again, name) == getattr(config, name)
        levels = [
            [[one.anchors[number] for number in mask] for mask in one.anchor_masks]
            for one in (config, again)
        ]
        assert levels[0] == levels[1]


def test_a_graph_survives_json(other_configs: dict[str, str]) -> None:
    for text in other_configs.values():
        graph = _parse(text).graph

        mappings = json.loads(json.dumps(graph.to_mappings()))

        assert Graph.from_mappings(mappings) == graph
        assert list(graph.to_mappings()) == mappings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "kind of a layer must be a known name; got None"),
        ({"kind": "routes"}, "Did you mean 'route'?"),
        ({"kind": "upsample", "strid": 2}, "Did you mean 'stride'?"),
        ({"kind": "convolutional", "filters": "8"}, "filters must be a whole number"),
        ({"kind": "convolutional", "activation": "tanh"}, "activation must be one of"),
        ({"kind": "maxpool", "size": 2, "padding": 3}, "padding must be from 0 to 2; got 3"),
        ({"kind": "route"}, "layers must be at least one layer"),
    ],
)
def test_a_damaged_layer_is_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        layer_from_mapping(values, source="a.safetensors")

    assert said in str(error.value)


def test_layers_of_a_graph_are_checked_against_each_other() -> None:
    with pytest.raises(ConfigError, match=r"must read layers before it, 0 to 0; got 7 \(layer 1\)"):
        Graph((Convolutional(8), Route((7,)), Yolo())).shapes((64, 64))
    with pytest.raises(ConfigError, match=r"must read layers before it"):
        Graph((Route((-1,)), Yolo())).shapes((64, 64))


def test_other_classes_change_the_outputs_alone(tiny: Callable[..., str]) -> None:
    graph = _parse(tiny(classes=2)).graph

    assert graph.with_classes(7, (3, 3)) == _parse(tiny(classes=7)).graph
    with pytest.raises(ConfigError, match=r"\[yolo\] must follow a \[convolutional\] layer"):
        Graph((Convolutional(18), MaxPool(), Yolo())).with_classes(3, (3,))


LINES = st.sampled_from(
    [
        *(f"[{kind}]" for kind in LAYERS),
        "[net]",
        "width=64",
        "height=64",
        "filters=18",
        "size=3",
        "stride=2",
        "stride=32",
        "pad=1",
        "padding=-1",
        "groups=0",
        "groups=3",
        "layers=-1",
        "layers=-1,0",
        "layers=",
        "from=-2",
        "from=0",
        "anchors=1,2",
        "anchors=1,2,3,4,5,6",
        "classes=1",
        "mask=0",
        "mask=",
        "mask=-1",
        "activation=mish",
        "scale_x_y=1e999",
        "stride=99999999999999999999",
        "filters=2147483647",
        "size=0",
        "batch_normalize=1",
        "=",
    ]
)


@settings(max_examples=60)
@given(st.lists(LINES, max_size=30).map(lambda lines: NET + "\n".join(lines)) | st.text())
@example(NET + CONV.replace("=18", "=1000000000").replace("size=3", "size=999999999") + YOLO)
@example(NET + "[maxpool]\nsize=2147483647\nstride=2147483647\n" + CONV + YOLO)
@example("[net]\nwidth=²\nheight=64\n")
def test_garbage_is_read_or_refused_in_one_line(text: str) -> None:
    said = ""
    try:
        assert _parse(text).graph.outputs
    except ConfigError as error:
        said = str(error)

    assert "\n" not in said
