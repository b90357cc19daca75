from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from multiprocessing import resource_sharer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from attendet.data.cache import ImageCache
from attendet.data.sample import Sample
from attendet.errors import ConfigError, DataError
from attendet.images import Letterbox, letterbox, read_image
from attendet.inference.preprocess import resize_to_input
from attendet.system import can_pass_files


def make_sample(
    path: Path, boxes: list[list[float]], difficult: list[bool] | None = None
) -> Sample:
    return Sample(
        path=path,
        image_hw=(40, 60),
        boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        class_ids=np.arange(len(boxes), dtype=np.int64),
        difficult=np.array(difficult or [False] * len(boxes), dtype=bool),
        key=path.stem,
    )


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Five images of noise, 40 x 60 pixels; the one numbered 2 is no image."""
    random = np.random.default_rng(0)
    made = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        if number == 2:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(random.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
        made.append(make_sample(path, [[0, 0, 60, 40], [15, 10, 30, 20]], [number == 3, False]))
    return made


@pytest.fixture
def in_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the files of all caches; no memory is left for their images."""
    monkeypatch.setattr("attendet.data.cache.MEMORY_FRACTION", 0)
    monkeypatch.setenv("ATTENDET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("place", ["memory", "file"])
def test_holds_the_letterboxed_images_in_order(samples, place, request):
    if place == "file":
        request.getfixturevalue("in_file")
    with ImageCache(samples, (48, 96)) as cache:
        assert isinstance(cache.images, np.memmap) == (place == "file")
        assert [sample.key for sample in cache.samples] == ["0", "1", "3", "4"]
        assert len(cache) == 4
        assert cache.images.shape == (4, 48, 96, 3)
        for image, fit, sample in zip(cache.images, cache.transforms, cache.samples, strict=True):
            expected, expected_fit = letterbox(read_image(sample.path), (48, 96))
            np.testing.assert_array_equal(image, expected)
            assert fit == expected_fit


def test_stretched_images_match_prediction(samples):
    cache = ImageCache(samples, (80, 96), stretch=True)

    for row, sample in enumerate(cache.samples):
        expected, fit = resize_to_input(read_image(sample.path), (80, 96), "stretch")
        np.testing.assert_array_equal(cache.images[row], expected)
        kept = sample.boxes_xyxy[~sample.difficult]
        np.testing.assert_allclose(fit.to_image(cache.boxes_xyxy[row]), kept, atol=1e-4)
        assert cache.transforms[row] == Letterbox.for_image((80, 96), (80, 96))
    np.testing.assert_allclose(cache.boxes_xyxy[0][1], [24, 20, 48, 40], atol=1e-4)


def test_unreadable_images_become_issues(samples):
    cache = ImageCache(samples, (32, 32))
    (issue,) = cache.issues
    assert issue.file == samples[2].path
    assert issue.kind == "unreadable-image"
    assert issue.action == "skipped image"
    assert "2.png" in issue.message


def test_boxes_are_input_pixels_without_difficult_ones(samples):
    cache = ImageCache(samples, (48, 96))  # scale 1.2, 12 columns of gray on the left
    assert cache.boxes_xyxy[0].dtype == np.float32
    np.testing.assert_allclose(
        cache.boxes_xyxy[0], [[12, 0, 84, 48], [30, 12, 48, 24]], rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(cache.class_ids[0], [0, 1])
    np.testing.assert_allclose(cache.boxes_xyxy[2], [[30, 12, 48, 24]], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(cache.class_ids[2], [1])


def test_no_readable_image_is_an_error(samples):
    with pytest.raises(DataError, match=r"none of the 1 images can be read.*2\.png"):
        ImageCache(samples[2:3], (32, 32))
    with pytest.raises(DataError, match="at least one image"):
        ImageCache([], (32, 32))


def test_arguments_are_checked(samples):
    with pytest.raises(ConfigError, match="input_hw"):
        ImageCache(samples, (32, 0))


def test_progress_counts_to_the_total(samples):
    seen: list[tuple[int, int]] = []
    ImageCache(samples, (32, 32), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 5) for number in range(1, 6)]


def test_file_leaves_nothing_behind(samples, in_file):
    cache = ImageCache(samples, (32, 32))
    cache.close()
    assert cache.images.shape == (0, 32, 32, 3)
    assert list(in_file.iterdir()) == []


@pytest.mark.skipif(not can_pass_files(), reason="no files in arguments of processes")
def test_a_shared_cache_that_is_sent_maps_the_same_file(samples):
    with ImageCache(samples, (48, 96), shared=True) as cache:
        assert isinstance(cache.images, np.memmap)
        sent = pickle.loads(pickle.dumps(cache))
        np.testing.assert_array_equal(sent.images, cache.images)
        assert [sample.key for sample in sent.samples] == ["0", "1", "3", "4"]
        cache.images[0] = 7  # no copy: what one changes the other sees
        assert (sent.images[0] == 7).all()
        with pytest.raises(ValueError, match="read-only"):
            sent.images[0] = 8
    assert (sent.images[0] == 7).all()  # although the first is closed
    sent.close()
    resource_sharer.stop()


def test_full_disk_is_said_in_words(samples, in_file, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(DataError, match=r"GiB free\. Set ATTENDET_CACHE to a folder"):
        ImageCache(samples, (32, 32))


def test_the_variable_that_the_advice_names_moves_the_file(samples, in_file):
    with ImageCache(samples, (32, 32)) as cache:
        assert isinstance(cache.images, np.memmap)
        assert in_file.is_dir()


def test_unwritable_folder_is_said_in_words(samples, in_file):
    in_file.write_text("")
    with pytest.raises(DataError, match=r"cannot be written.*Set ATTENDET_CACHE to"):
        ImageCache(samples, (32, 32))


def test_the_caches_of_all_processes_are_counted(samples, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTENDET_CACHE", str(tmp_path / "cache"))
    images = 5 * 32 * 32 * 3
    monkeypatch.setattr("attendet.data.cache.available_memory", lambda: images * 4)
    with ImageCache(samples, (32, 32)) as one, ImageCache(samples, (32, 32), processes=2) as two:
        assert not isinstance(one.images, np.memmap)
        assert isinstance(two.images, np.memmap)


def test_needs_no_torch():
    code = (
        "import sys, attendet.data.cache, attendet.data.augment_plan; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
