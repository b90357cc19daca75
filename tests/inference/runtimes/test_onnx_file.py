"""The metadata of an ONNX file, against the `onnx` package."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attendet.errors import WeightsError
from attendet.inference.runtimes.onnx_file import read_onnx_header

onnx = pytest.importorskip("onnx")

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)


def _model(header: dict[str, str]) -> bytes:
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "empty", [value], [value])
    model = helper.make_model(graph, producer_name="test", ir_version=9)
    helper.set_model_props(model, header)
    content: bytes = model.SerializeToString()
    return content


@given(header=st.dictionaries(texts, texts, max_size=5))
def test_every_text_is_read(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "header.onnx"
    path.write_bytes(_model(header))

    assert read_onnx_header(path) == header


def test_a_long_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.onnx"
    path.write_bytes(_model({"recipe": "x" * 300_000}))

    assert read_onnx_header(path) == {"recipe": "x" * 300_000}


@given(content=st.binary(max_size=200))
def test_other_bytes_are_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "other.onnx"
    path.write_bytes(content)
    with contextlib.suppress(WeightsError):  # by chance it may be a file without metadata
        assert read_onnx_header(path) is not None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    whole = _model({"classes": "y" * 1000})
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(share * len(whole))])

    with pytest.raises(WeightsError, match=r"none, or cut short \(.*cut.onnx\)"):
        read_onnx_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot be read \(.*none.onnx\): No such file"):
        read_onnx_header(tmp_path / "none.onnx")
