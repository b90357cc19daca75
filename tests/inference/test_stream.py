"""Streams of images: order, batches, bounds, broken images, stopping early."""

from __future__ import annotations

import itertools
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from attendet import prefetch
from attendet.errors import ConfigError, ImageError
from attendet.inference import Detector, load
from attendet.inference import stream as streaming
from attendet.inference.runtimes.base import Limits

SIZES = [(480, 640), (300, 200), (480, 640), (480, 640), (64, 64), (64, 64)]


def _scenes(scene: Any) -> list[NDArray[np.uint8]]:
    return [scene(size, (10 + number, 20, 40 + number, 50)) for number, size in enumerate(SIZES)]


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_stream_gives_the_same_as_predict_in_order(bright: Any, scene: Any, batch: int) -> None:
    detector = Detector(bright())
    images = _scenes(scene)

    found = list(detector.stream(images, batch=batch))

    assert [id(one.source) for one in found] == [id(image) for image in images]
    for (_, image, detections), given in zip(found, images, strict=True):
        assert image is given
        expected = detector.predict(given)
        np.testing.assert_array_equal(detections.boxes_xyxy, expected.boxes_xyxy)
        np.testing.assert_array_equal(detections.scores, expected.scores)


def test_network_inputs_of_one_shape_run_together(bright: Any, scene: Any) -> None:
    runtime = bright()

    list(Detector(runtime).stream(_scenes(scene), batch=2))

    assert [shape[:3] for shape in runtime.shapes] == [
        (1, 320, 416),
        (1, 416, 288),
        (2, 320, 416),
        (2, 416, 416),
    ]


@pytest.mark.parametrize(("limits", "expected"), [(Limits(), 4), (Limits(batch=2), 2)])
def test_the_default_batch_size_is_that_of_the_file_or_the_runtime(
    bright: Any, scene: Any, limits: Limits, expected: int
) -> None:
    class Batching(bright):  # type: ignore[misc]
        default_batch_size = 4

    runtime = Batching()
    runtime.limits = limits

    list(Detector(runtime).stream([scene()] * 4))
    list(Detector(runtime).stream([scene()] * 4, batch=1))

    assert runtime.shapes[0][0] == expected
    assert runtime.shapes[-1][0] == 1


def test_sources_of_any_type_with_image_of(bright: Any, scene: Any) -> None:
    rows = [{"image": scene(), "number": number} for number in range(3)]

    found = list(Detector(bright()).stream(rows, image_of=lambda row: row["image"]))

    assert [one.source["number"] for one in found] == [0, 1, 2]
    assert all(len(one.detections) == 1 for one in found)


def test_memory_of_large_images_is_bounded(
    bright: Any, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two fit, at most two wait, one is in each thread and one in use."""
    image = scene((96, 192), (10, 10, 40, 40))
    size = 2 * image.nbytes  # and as much for the network input
    monkeypatch.setattr(streaming, "MAX_BYTES", 2 * size)
    monkeypatch.setattr(prefetch, "MAX_BYTES", 2 * size)
    taken: list[int] = []

    def endless() -> Iterator[NDArray[np.uint8]]:
        for number in itertools.count():
            taken.append(number)
            yield image.copy()

    stream = Detector(bright(input_hw=(96, 192))).stream(endless(), batch=8, ahead=64, workers=2)
    for _ in range(30):
        next(stream)

    assert len(taken) <= 30 + 2 * 3 + 2


def test_every_kind_of_source_is_read(bright: Any, folder: Path) -> None:
    image = folder / "a.png"
    sources: list[Any] = [image, str(image), image.read_bytes(), cv2.imread(str(image))]

    found = list(Detector(bright()).stream(sources))

    boxes_xyxy = [one.detections.boxes_xyxy[0] for one in found]
    np.testing.assert_allclose(boxes_xyxy, [[100, 50, 300, 250]] * 4, atol=2)


def test_broken_images_are_skipped_and_reported(bright: Any, folder: Path) -> None:
    paths = [folder / name for name in ("a.png", "d.jpg", "none.png", "b.jpg", "notes.md")]
    skipped: list[tuple[Path, ImageError]] = []

    found = list(
        Detector(bright()).stream(paths, on_skip=lambda path, error: skipped.append((path, error)))
    )

    assert [one.source.name for one in found] == ["a.png", "b.jpg"]
    assert [path.name for path, _ in skipped] == ["d.jpg", "none.png", "notes.md"]
    assert all(str(path) in str(error) for path, error in skipped)
    with pytest.raises(ImageError, match=r"truncated or broken \(.*d.jpg\)"):
        list(Detector(bright()).stream(paths))


def test_thresholds_and_classes_of_a_stream(bright: Any, scene: Any) -> None:
    detector = Detector(bright())

    nothing = list(detector.stream([scene()], confidence=0.95))
    cats = list(detector.stream([scene()], only=["cat"], confidence=0.2))

    assert len(nothing[0].detections) == 0
    assert cats[0].detections.names == []
    with pytest.raises(ConfigError, match="class must be a known name; got 'cow'"):
        detector.stream([scene()], only=["cow"])


@pytest.mark.parametrize("name", ["batch", "workers", "ahead"])
def test_numbers_below_one_are_refused(bright: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be 1 or more; got 0"):
        Detector(bright()).stream([], **{name: 0})


def test_only_a_few_sources_are_taken_ahead(bright: Any, scene: Any) -> None:
    taken: list[int] = []

    def endless() -> Iterator[NDArray[np.uint8]]:
        for number in itertools.count():
            taken.append(number)
            yield scene((64, 64), (10, 10, 30, 30))

    stream = Detector(bright()).stream(endless(), batch=2, ahead=3)
    for _ in range(20):
        next(stream)

    assert len(taken) <= 20 + 3 + 2 * 2 + 2


def test_images_are_read_while_the_network_runs(bright: Any, scene: Any) -> None:
    """The network waits for a reader, and all readers but the first wait for the network."""
    reading, running = threading.Event(), threading.Event()

    class Network(bright):  # type: ignore[misc]
        def run(self, inputs: NDArray[np.uint8]) -> Any:
            running.set()
            assert reading.wait(timeout=60)
            return super().run(inputs)

    class Reader(Detector):
        def preprocess(self, image: Any) -> Any:
            if len(image) == 64:
                reading.set()
                assert running.wait(timeout=60)
            return super().preprocess(image)

    images = [scene(), scene((64, 64), (10, 10, 30, 30)), scene((64, 64), (10, 10, 30, 30))]

    assert len(list(Reader(Network()).stream(images))) == 3


def test_stopping_early_leaves_no_thread(bright: Any, scene: Any) -> None:
    before = threading.active_count()
    stream = Detector(bright()).stream(itertools.repeat(scene()))
    next(stream)

    stream.close()  # type: ignore[attr-defined]

    assert threading.active_count() == before


def test_an_error_of_the_network_is_raised(bright: Any, scene: Any) -> None:
    class Broken(bright):  # type: ignore[misc]
        def run(self, inputs: NDArray[np.uint8]) -> Any:
            raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        list(Detector(Broken()).stream([scene()] * 5))
    assert threading.active_count() == before


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_memory_stays_flat_over_thousands_of_images(
    exported: dict[str, Path], tmp_path: Path, runtime: str
) -> None:
    """Files of forty sizes go round; after a thousand, nothing more is taken for four thousand."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("reads memory from Linux's /proc")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(40):
        height, width = (int(side) for side in rng.integers(60, 400, 2))
        path = tmp_path / f"{number}.jpg"
        cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        paths.append(path)

    detector = load(exported["onnx"], runtime=runtime, mode="throughput")
    pages: list[int] = []
    for number, _ in enumerate(detector.stream(itertools.islice(itertools.cycle(paths), 5000))):
        if number >= 1000 and number % 100 == 0:
            pages.append(int(statm.read_text().split()[1]))

    early, late = np.median(pages[:10]), np.median(pages[-10:])
    assert (late - early) * resource.getpagesize() < 8 * 2**20
