"""Darknet weights files: headers, sizes, and that garbage is no crash."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attendet.errors import WeightsError
from attendet.interop.darknet.weights import DarknetHeader, read_weights, write_weights
from attendet.models.graph import Convolutional, Graph, Yolo

GRAPH = Graph(
    (
        Convolutional(4, 3, 2, 1, batch_normalize=True, activation="leaky"),
        Convolutional(8, 3, 2, 1, groups=2, batch_normalize=True, activation="leaky"),
        Convolutional(6, activation="linear"),
        Yolo(),
    )
)
COUNTS = (4 * 4 + 4 * 3 * 9, 4 * 8 + 8 * 2 * 9, 6 + 6 * 8)
VALUES = np.arange(1, sum(COUNTS) + 1, dtype="<f4")
HEADER = struct.pack("<iiiq", 0, 2, 5, 7)


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "net.weights"
    path.write_bytes(content)
    return path


def test_values_go_where_the_layout_says(tmp_path: Path) -> None:
    path = _write(tmp_path, HEADER + VALUES.tobytes())

    header, arrays = read_weights(path, GRAPH)

    assert GRAPH.parameters() == (*COUNTS, 0)
    assert header == DarknetHeader(0, 2, 5, seen=7)
    first, second, third = arrays[0], arrays[1], arrays[2]
    assert first.bias.tolist() == [1, 2, 3, 4]
    assert first.norm is not None
    assert [one.tolist() for one in first.norm] == [[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]
    assert first.weight.shape == (4, 3, 3, 3)
    assert first.weight[0, 0, 0].tolist() == [17, 18, 19]
    assert second.weight.shape == (8, 2, 3, 3)
    assert third.norm is None
    assert third.bias[0] == VALUES[sum(COUNTS[:2])]
    assert third.weight[-1, -1] == VALUES[-1]


@pytest.mark.parametrize(
    ("header", "version", "seen"),
    [
        (struct.pack("<iiii", 0, 1, 0, 99), "0.1.0", 99),
        (struct.pack("<iiiq", 0, 2, 0, 2**40), "0.2.0", 2**40),
        (struct.pack("<iiiq", 1, 0, 3, 5), "1.0.3", 5),
    ],
)
def test_header_versions(tmp_path: Path, header: bytes, version: str, seen: int) -> None:
    path = _write(tmp_path, header + VALUES.tobytes())

    found, arrays = read_weights(path, GRAPH)

    assert (found.version, found.seen) == (version, seen)
    assert found.to_bytes() == header
    assert arrays[0].bias[0] == 1


@pytest.mark.parametrize("size", range(1, 21))
def test_a_header_cut_short_is_no_crash(tmp_path: Path, size: int) -> None:
    path = _write(tmp_path, HEADER[: size - 1] + b"\x80")

    with pytest.raises(WeightsError) as error:
        read_weights(path, GRAPH)

    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (-4, "to match the configuration; got 353 values, too few"),
        (+8, "to match the configuration; got 356 values, too many"),
        (+3, "got 354 values and 3 bytes, too many"),
        (-4 * COUNTS[2], "It matches the first 2 layers: set --cutoff 2."),
        (-4 * (COUNTS[1] + COUNTS[2]), "It matches the first 1 layers: set --cutoff 1."),
    ],
)
def test_too_short_and_too_long(tmp_path: Path, change: int, said: str) -> None:
    content = HEADER + VALUES.tobytes() + bytes(max(change, 0))
    path = _write(tmp_path, content[: len(HEADER) + 4 * len(VALUES) + change])

    with pytest.raises(WeightsError) as error:
        read_weights(path, GRAPH)

    assert f"must contain {len(VALUES)} values" in str(error.value)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_cutoff_takes_the_first_layers(tmp_path: Path) -> None:
    whole = _write(tmp_path, HEADER + VALUES.tobytes())

    _, from_whole = read_weights(whole, GRAPH, cutoff=2)
    part = _write(tmp_path, HEADER + VALUES[: sum(COUNTS[:2])].tobytes())
    _, from_part = read_weights(part, GRAPH, cutoff=2)

    assert set(from_whole) == set(from_part) == {0, 1}
    for index in (0, 1):
        pairs = zip(
            from_whole[index].in_file_order(), from_part[index].in_file_order(), strict=True
        )
        assert all(np.array_equal(one, two) for one, two in pairs)
    with pytest.raises(WeightsError, match=r"for the first 1 layers"):
        read_weights(part, GRAPH, cutoff=1)
    for cutoff in (0, 5, -1):
        with pytest.raises(WeightsError, match=r"cutoff must be from 1 to 4, the number of layers"):
            read_weights(part, GRAPH, cutoff=cutoff)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("at", "layer"), [(0, 0), (COUNTS[0], 1), (-1, 2)])
def test_values_that_are_no_numbers_are_named(
    tmp_path: Path, value: float, at: int, layer: int
) -> None:
    values = VALUES.copy()
    values[at] = value
    path = _write(tmp_path, HEADER + values.tobytes())

    with pytest.raises(WeightsError, match=rf"must be finite;.*layer {layer}, line {layer + 10} "):
        read_weights(path, GRAPH, lines=(10, 11, 12, 13))


def test_a_negative_variance_is_named(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[12] = -1

    with pytest.raises(WeightsError, match="variances must be at least 0"):
        read_weights(_write(tmp_path, HEADER + values.tobytes()), GRAPH)


@pytest.mark.parametrize(
    "text",
    [
        "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 24251276\n",
        "<!DOCTYPE html><html>\u2026</html>",
        "[net]\nwidth=416\n",
    ],
)
def test_text_is_named_as_what_it_is(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path, text.encode())

    with pytest.raises(WeightsError, match=r"must be binary; got text that begins with") as error:
        read_weights(path, GRAPH)

    assert text.splitlines()[0][:15] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", [(1000, 0, 0), (0, 1000, 0), (-1, 2, 5), (0, 2, -5)])
def test_other_layouts_are_refused(tmp_path: Path, version: tuple[int, int, int]) -> None:
    path = _write(tmp_path, struct.pack("<iiiq", *version, 0) + VALUES.tobytes())

    with pytest.raises(WeightsError, match="must have a version below 1000"):
        read_weights(path, GRAPH)


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not found"):
        read_weights(tmp_path / "gone.weights", GRAPH)
    with pytest.raises(WeightsError, match="it is empty"):
        read_weights(_write(tmp_path, b""), GRAPH)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path, GRAPH)


def test_what_is_written_reads_back_bit_for_bit(
    tmp_path: Path, darknet: Callable[..., Any]
) -> None:
    from attendet.interop.darknet.cfg import read_config

    files = darknet("pyramid")
    graph = read_config(files.config).graph
    header, arrays = read_weights(files.weights, graph)

    path = write_weights(tmp_path / "again.weights", list(arrays.values()), header)

    assert path.read_bytes() == files.weights.read_bytes()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=64) | st.integers(0, 4 * len(VALUES)).map(bytes))
def test_garbage_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = _write(tmp_path, content)

    with pytest.raises(WeightsError) as error:
        read_weights(path, GRAPH)

    assert "\n" not in str(error.value)
