"""The description in a weights file: round trips, checks, and reading it without torch."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.errors import AttendetError, ConfigError, WeightsError
from attendet.models.metadata import (
    DEFAULT_ANCHORS,
    FORMAT,
    Preprocess,
    WeightsMetadata,
    count_parameters,
    read_metadata,
    read_tensor_shapes,
)

sides = st.integers(1, 60).map(lambda number: 32 * number)
positive = st.floats(1e-6, 1e6)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
mappings = st.none() | st.dictionaries(st.text(), anything, max_size=3)


@st.composite
def descriptions(draw: st.DrawFn) -> WeightsMetadata:
    anchors = draw(st.lists(st.tuples(positive, positive), min_size=1, max_size=8))
    numbers = st.lists(st.integers(0, len(anchors) - 1), min_size=1, max_size=3).map(tuple)
    return WeightsMetadata(
        classes=tuple(draw(st.lists(st.text(), min_size=1, max_size=5, unique=True))),
        attention=draw(st.text()),
        input_hw=(draw(sides), draw(sides)),
        anchors=tuple(anchors),
        anchor_masks=(draw(numbers), draw(numbers)),
        scale_x_y=draw(positive),
        width_mult=draw(positive),
        bn_eps=draw(positive),
        preprocess={
            "resize": draw(st.sampled_from(["rect", "letterbox", "stretch"])),
            "color": draw(st.sampled_from(["rgb", "bgr"])),
        },
        recipe=draw(mappings),
        seed=draw(st.none() | st.integers()),
        data=draw(mappings),
        measured=draw(mappings),
        version=draw(st.text()),
    )


@given(descriptions())
def test_round_trip_through_the_header(metadata: WeightsMetadata):
    header = metadata.to_header()
    assert all(isinstance(text, str) for text in header.values())
    carried = json.loads(json.dumps(header))
    assert WeightsMetadata.from_header(carried, source="w.safetensors") == metadata


def test_every_field_stands_in_the_header_as_json():
    header = WeightsMetadata(classes=("a",)).to_header()
    assert header.pop("format") == FORMAT
    assert set(header) == set(WeightsMetadata.__dataclass_fields__)
    assert json.loads(header["anchors"]) == [list(pair) for pair in DEFAULT_ANCHORS]


def test_level_anchors_and_preprocessing():
    metadata = WeightsMetadata(classes=("a",), preprocess={"resize": "letterbox"})
    assert metadata.level_anchors() == (
        ((81, 82), (135, 169), (344, 319)),
        ((23, 27), (37, 58), (81, 82)),
    )
    assert metadata.preprocessing() == Preprocess(resize="letterbox", color="rgb")


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ({"resize": "crop"}, "resize must be one of rect, letterbox, stretch"),
        ({"fitt": "rect"}, "Choose from: color, resize"),
        ({"color": 3}, "color must be one of rgb, bgr"),
    ],
)
def test_preprocessing_is_checked_at_once(preprocess: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        WeightsMetadata(classes=("a",), preprocess=preprocess)


# --- files that are not what they should be ------------------------------------------------------


def _write(path: Path, header: object, tensors: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    return path


def _changed(**changes: str | None) -> dict[str, object]:
    header = {**WeightsMetadata(classes=("a", "b")).to_header(), **changes}
    return {"__metadata__": {key: text for key, text in header.items() if text is not None}}


BROKEN_HEADERS = {
    "unknown key": (_changed(color="1"), r"unknown setting 'color'"),
    "near key": (_changed(clases="[]"), r"Did you mean 'classes'"),
    "later layout": (_changed(format="attendet/2"), r"format 'attendet/1'; got 'attendet/2'"),
    "no layout": (_changed(format=None), r"format 'attendet/1'; got None"),
    "no metadata": ({}, r"must have metadata that describes the network"),
    "metadata is a list": ({"__metadata__": []}, r"not one, or is damaged.*expected a map"),
    "no classes": (_changed(classes=None), r"must contain 'classes'"),
    "no anchors": (
        _changed(anchors=None, width_mult=None),
        r"must contain 'anchors', 'width_mult'",
    ),
    "not JSON": (_changed(classes="[a"), r"'classes' is not JSON"),
    "not text": (_changed(classes=7), r"not one, or is damaged.*expected a string"),  # type: ignore[arg-type]
    "deep": (_changed(recipe="[" * 100_000), r"'recipe' is not JSON"),
    "digits": (_changed(seed="1" * 5000), r"'seed' is not JSON"),
    "classes of numbers": (_changed(classes="[1]"), r"classes must be a list of text"),
    "classes as text": (_changed(classes='"ab"'), r"classes must be a list of text"),
    "twice a class": (_changed(classes='["a","a"]'), r"distinct"),
    "odd size": (_changed(input_hw="[100, 416]"), r"multiples of 32"),
    "three sizes": (_changed(input_hw="[96, 96, 3]"), r"input_hw must be"),
    "mask out of range": (_changed(anchor_masks="[[3,4,6],[1,2,3]]"), r"below 6"),
    "negative mask": (_changed(anchor_masks="[[3,4,-1],[1,2,3]]"), r"below 6"),
    "anchor of no size": (_changed(anchors="[[0, 3]]"), r"anchors must be pairs"),
    "width is not a number": (_changed(width_mult="NaN"), r"width_mult must be a number"),
    "width 0": (_changed(width_mult="0"), r"width_mult must be above 0"),
    "seed is text": (_changed(seed='"x"'), r"seed must be a whole number or none"),
    "fit unknown": (_changed(preprocess='{"resize": "crop"}'), r"resize must be one of"),
}


@pytest.mark.parametrize("case", BROKEN_HEADERS)
def test_broken_metadata_is_one_clear_line(tmp_path: Path, case: str):
    header, message = BROKEN_HEADERS[case]
    path = _write(tmp_path / "w.safetensors", header)
    with pytest.raises(WeightsError, match=message) as caught:
        read_metadata(path)
    text = str(caught.value)
    assert "\n" not in text
    assert "w.safetensors" in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05",
        b"just a text file, nothing more\n",
        b"\x80\x02}q\x00X\x08\x00\x00\x00pickled.",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100) + b'{"__metadata__": {',
        struct.pack("<Q", 5) + b"{nope",
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        struct.pack("<Q", 5000) + b"1" * 5000,
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_a_file_of_another_kind_is_one_clear_line(tmp_path: Path, content: bytes):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    for read in (read_metadata, read_tensor_shapes):
        with pytest.raises(WeightsError, match="not one, or is damaged") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_missing_file_folder_and_a_file_in_the_way(tmp_path: Path):
    with pytest.raises(WeightsError, match="not found"):
        read_metadata(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="got a folder"):
        read_metadata(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsError, match=r"not found|cannot be read"):
        read_metadata(tmp_path / "file" / "w.safetensors")


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_without_a_trace(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(data)
    with pytest.raises(AttendetError):
        read_metadata(path)


@given(st.data())
def test_one_flipped_character_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    text = bytearray(json.dumps(_changed()).encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.integers(0, 255))
    path = _write(tmp_path_factory.getbasetemp() / "flipped.safetensors", bytes(text))
    # What is still JSON may still be a description; anything else must be refused as such.
    with contextlib.suppress(WeightsError):
        read_metadata(path)


# --- tensors -------------------------------------------------------------------------------------


def test_shapes_and_parameters_from_the_header_alone(tmp_path: Path):
    header = {
        "__metadata__": {},
        "conv.weight": {"dtype": "F32", "shape": [4, 3, 3, 3], "data_offsets": [0, 432]},
        "bn.running_var": {"dtype": "F32", "shape": [4], "data_offsets": [432, 448]},
        "bn.num_batches_tracked": {"dtype": "I64", "shape": [], "data_offsets": [448, 456]},
    }
    shapes = read_tensor_shapes(_write(tmp_path / "w.safetensors", header, bytes(456)))
    assert shapes["conv.weight"] == (4, 3, 3, 3)
    assert shapes["bn.num_batches_tracked"] == ()
    assert count_parameters(shapes) == 108


@pytest.mark.parametrize("entry", [3, {}, {"shape": 3}, {"shape": ["x"]}, {"shape": None}])
def test_a_tensor_without_shape_is_one_clear_line(tmp_path: Path, entry: object):
    path = _write(tmp_path / "w.safetensors", {"a": entry})
    with pytest.raises(WeightsError, match="not one, or is damaged"):
        read_tensor_shapes(path)


def test_reading_needs_no_torch(tmp_path: Path):
    path = _write(tmp_path / "w.safetensors", _changed(seed="5"))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from attendet.models import read_metadata\n"
        f"metadata = read_metadata({str(path)!r})\n"
        "assert (metadata.classes, metadata.seed) == (('a', 'b'), 5)\n"
        "from attendet.errors import MissingExtraError\n"
        "import attendet.models\n"
        "try:\n"
        "    attendet.models.load_weights\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'attendet[train]'" in done.stdout


def test_unknown_names_are_refused_with_the_known_ones():
    import attendet.models

    assert set(dir(attendet.models)) == set(attendet.models.__all__)
    with pytest.raises(AttributeError, match=r"No attendet\.models attribute biuld"):
        attendet.models.biuld  # noqa: B018
