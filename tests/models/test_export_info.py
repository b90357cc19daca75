"""What an exported file says about itself: round trips, and refusing what is not ours."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.errors import WeightsError
from attendet.models.export_info import EXPORT_KEY, ExportInfo, parse_exported
from attendet.models.metadata import WeightsMetadata

METADATA = WeightsMetadata(classes=("cat", "dog"), attention="ca@p5", input_hw=(64, 96))

fractions = st.none() | st.floats(0, 1)


@given(
    st.builds(
        ExportInfo,
        format=st.sampled_from(["onnx", "openvino", "torchscript", "torch-export"]),
        precision=st.sampled_from(["float32", "float16", "int8"]),
        nms=st.booleans(),
        dynamic=st.sampled_from([(), ("batch",), ("size",), ("batch", "size")]),
        confidence=fractions,
        nms_iou=fractions,
        max_detections=st.none() | st.integers(1, 1000),
        parity=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    )
)
def test_what_is_written_is_read(info: ExportInfo) -> None:
    header = METADATA.to_header() | info.to_header()

    assert parse_exported(header, source="x.onnx") == (METADATA, info)


def _text(**changed: object) -> str:
    return json.dumps({**json.loads(ExportInfo("onnx").to_header()[EXPORT_KEY]), **changed})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting property name"),
        ("[]", "not an object with a format"),
        ("{}", "not an object with a format"),
        (_text(format="tflite"), "format must be one of onnx"),
        (_text(precision=8), "precision must be one of"),
        (_text(dynamic=["depth"]), "dynamic must be"),
        (_text(max_detections="many"), "max_detections must be"),
        (_text(confidance=0.1), "Did you mean 'confidence'"),
    ],
)
def test_other_texts_are_refused_in_words(text: str, words: str) -> None:
    header = METADATA.to_header() | {EXPORT_KEY: text}

    with pytest.raises(WeightsError, match=words) as caught:
        parse_exported(header, source="x.onnx")

    assert "x.onnx" in str(caught.value)


def test_a_file_of_others_is_refused() -> None:
    with pytest.raises(WeightsError, match="must have the metadata of attendet export"):
        parse_exported({}, source="yolo.onnx")
    with pytest.raises(WeightsError, match="weights file must have format"):
        parse_exported(ExportInfo("onnx").to_header(), source="yolo.onnx")


def test_an_unknown_key_beside_it_is_refused() -> None:
    header = METADATA.to_header() | ExportInfo("onnx").to_header() | {"clases": "[]"}

    with pytest.raises(WeightsError, match="Did you mean 'classes'"):
        parse_exported(header, source="x.onnx")
