from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attendet.config import field_help
from attendet.data.augment import Augmenter, Batch
from attendet.data.augment_plan import AugmentConfig, CacheTable, plan_batch
from attendet.data.augment_render import DeviceRenderer
from attendet.data.cache import ImageCache
from attendet.data.sample import Sample
from attendet.errors import ConfigError
from attendet.images import Letterbox

STILL = AugmentConfig(
    mosaic=0,
    scale=0,
    translate=0,
    flip_lr=0,
    hue=0,
    saturation=0,
    value=0,
    min_box=0,
    min_visible=0,
)
LIVELY = AugmentConfig(
    mosaic=0.6, mixup=0.4, degrees=20, shear=8, flip_ud=0.5, rotate90=0.5, hue=0.1
)
INPUT_HW = (96, 128)
MakeCache = Callable[[list[np.ndarray], list[list[list[float]]]], ImageCache]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Images this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def make_cache(tmp_path_factory) -> MakeCache:
    """Return a cache of given images and boxes on a network input of 96 x 128."""

    def make(images, boxes, input_hw=INPUT_HW):
        folder: Path = tmp_path_factory.mktemp("images")
        samples = []
        for number, (image, of_image) in enumerate(zip(images, boxes, strict=True)):
            path = folder / f"{number}.png"
            Image.fromarray(image).save(path)
            samples.append(
                Sample(
                    path=path,
                    image_hw=image.shape[:2],
                    boxes_xyxy=np.array(of_image, dtype=np.float32).reshape(-1, 4),
                    class_ids=np.full(len(of_image), number, dtype=np.int64),
                    difficult=np.zeros(len(of_image), dtype=bool),
                    key=str(number),
                )
            )
        return ImageCache(samples, input_hw)

    return make


@pytest.fixture(scope="module")
def bright(make_cache) -> ImageCache:
    """Six dark images, wide and tall, each with one white rectangle and its box."""
    images, boxes = [], []
    corners = [(10, 8, 40, 30), (60, 50, 100, 80), (20, 20, 36, 70), (8, 40, 60, 56)]
    for left, top, right, bottom in corners:
        image = np.full((96, 128, 3), 20, dtype=np.uint8)
        image[top:bottom, left:right] = 255
        images.append(image)
        boxes.append([[left, top, right, bottom]])
    for left, top, right, bottom in [(10, 14, 30, 60), (30, 60, 50, 80)]:
        image = np.full((96, 60, 3), 20, dtype=np.uint8)
        image[top:bottom, left:right] = 255
        images.append(image)
        boxes.append([[left, top, right, bottom]])
    return make_cache(images, boxes)


@pytest.fixture(scope="module")
def noise(make_cache) -> ImageCache:
    """Eight images of smooth noise with up to three boxes each; the last two have none."""
    random = np.random.default_rng(3)
    images, boxes = [], []
    for number in range(8):
        coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        images.append(np.asarray(coarse.resize((128, 96), Image.Resampling.BICUBIC)))
        count = number % 4 if number < 6 else 0
        low = random.uniform(0, 60, (count, 2))
        boxes.append(np.concatenate([low, low + random.uniform(8, 30, (count, 2))], 1).tolist())
    return make_cache(images, boxes)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def on_device_renderer(cache: ImageCache, augment: AugmentConfig) -> Augmenter:
    augmenter = Augmenter(cache, augment, device="cpu", seed=0)
    augmenter._renderer = DeviceRenderer(cache.images, torch.device("cpu"))
    return augmenter


# Boxes move with the pixels


def bright_extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    input_hw=st.sampled_from([(96, 128), (128, 128), (160, 96), (64, 128)]),
    mosaic=st.sampled_from([0.0, 1.0]),
    turning=st.sampled_from([(0.0, 0.0), (30.0, 0.0), (0.0, 12.0), (180.0, 10.0)]),
    gather=st.booleans(),
)
def test_box_and_pixels_move_together(bright, seed, input_hw, mosaic, turning, gather):
    degrees, shear = turning
    augment = dataclasses.replace(
        STILL,
        mosaic=mosaic,
        scale=0.3,
        translate=0.2,
        degrees=degrees,
        shear=shear,
        flip_lr=0.5,
        flip_ud=0.5,
        rotate90=0.5,
        min_box=1.0,
    )
    augmenter = Augmenter(bright, augment, device="cpu", seed=seed)
    if gather:
        augmenter._renderer = DeviceRenderer(bright.images, torch.device("cpu"))
    batch = augmenter.batch([seed % 6, 3], epoch=1, step=2, input_hw=input_hw)
    plan = plan_batch(
        CacheTable(bright), augment, [seed % 6, 3], seed=seed, epoch=1, step=2, input_hw=input_hw
    )
    tolerance = 1.0 if degrees == shear == 0 else 1.6
    for row in range(2):
        mask = batch.images[row].mean(0).numpy() > 0.75
        boxes = batch.gt_boxes_xyxy[row][batch.gt_valid[row]].numpy()
        covered = np.zeros_like(mask)
        for quarter in range(4):
            left, top, right, bottom = plan.quarter_xyxy(row, quarter)
            if left >= right or top >= bottom:
                continue
            tile = mask[top:bottom, left:right]
            inside = boxes[
                (boxes[:, :2] >= [left, top]).all(1) & (boxes[:, 2:] <= [right, bottom]).all(1)
            ]
            assert len(inside) <= 1
            for x0, y0, x1, y1 in inside:
                area = np.ceil([x0 - 1, y0 - 1, x1 + 1, y1 + 1]).astype(int)
                covered[max(0, area[1]) : area[3], max(0, area[0]) : area[2]] = True
                cut = x0 <= left or y0 <= top or x1 >= right or y1 >= bottom
                if cut and tolerance > 1:
                    continue  # the box of a turned rectangle is cut, the rectangle may end before
                if min(x1 - x0, y1 - y0) < 2:
                    continue
                offset = [left, top, left, top]
                extent = np.add(bright_extent(tile), offset)
                np.testing.assert_allclose(extent, [x0, y0, x1, y1], rtol=0, atol=tolerance)
        # Slivers of under a pixel lose their box; nothing larger may shine without one.
        assert not cv2.erode((mask & ~covered).astype(np.uint8), np.ones((3, 3))).any()


def test_mosaic_quarters_meet_at_the_center(make_cache):
    image = np.zeros((96, 128, 3), dtype=np.uint8)
    cache = make_cache([image], [[[100, 70, 120, 90], [0, 0, 10, 10]]])
    augment = dataclasses.replace(STILL, mosaic=1)
    plan = plan_batch(CacheTable(cache), augment, [0], seed=0, epoch=0, step=0, input_hw=INPUT_HW)
    x, y = plan.centers_xy[0]
    # Top left the image ends at the center: its far corner shows; top right it begins there.
    expected = [
        [max(0, x - 28), max(0, y - 26), x - 8, y - 6],
        [x, max(0, y - 96), x + 10, max(0, y - 86)],
        [x, y, x + 10, y + 10],
    ]
    boxes = plan.boxes_xyxy[0][plan.valid[0]].tolist()
    for box in (expected[0], expected[2]):
        assert box in boxes
    assert (expected[1] in boxes) == (y > 86)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({}, 3),
        ({"min_visible": 0.3}, 2),
        ({"min_visible": 0.3, "min_box": 12.0}, 1),
        ({"min_box": 41.0}, 0),
    ],
)
def test_boxes_cut_too_far_are_dropped(make_cache, limits, kept):
    image = np.zeros((96, 128, 3), dtype=np.uint8)
    # One box of which a fifth lies on the network input, a large one and a narrow one.
    boxes = [[108.0, 0.0, 208.0, 40.0], [20.0, 20.0, 60.0, 60.0], [64.0, 0.0, 74.0, 40.0]]
    augment = dataclasses.replace(STILL, **limits)
    table = CacheTable(make_cache([image], [boxes]))
    plan = plan_batch(table, augment, [0], seed=0, epoch=0, step=0, input_hw=INPUT_HW)
    assert plan.valid[0].sum() == kept


# The same draws everywhere


def test_batch_is_repeatable_and_depends_on_its_place(noise):
    first = Augmenter(noise, LIVELY, device="cpu", seed=5)
    batch = first.batch(range(6), epoch=2, step=3)
    first.batch(range(3), epoch=0, step=0)
    assert same(batch, first.batch(range(6), epoch=2, step=3))
    assert same(
        batch, Augmenter(noise, LIVELY, device="cpu", seed=5).batch(range(6), epoch=2, step=3)
    )
    for seed, epoch, step in [(6, 2, 3), (5, 1, 3), (5, 2, 4)]:
        other = Augmenter(noise, LIVELY, device="cpu", seed=seed)
        assert not same(batch, other.batch(range(6), epoch=epoch, step=step))
    twice = first.batch([1, 1], epoch=0, step=0)
    assert not torch.equal(twice.images[0], twice.images[1])


@pytest.mark.parametrize("rows", [slice(0, 3), slice(3, 6), slice(1, None, 2), slice(4, 5)])
@pytest.mark.parametrize("gather", [False, True])
def test_rows_equal_the_whole_batch(noise, rows, gather):
    augmenter = Augmenter(noise, LIVELY, device="cpu", seed=1)
    if gather:
        augmenter = on_device_renderer(noise, LIVELY)
    whole = augmenter.batch(range(6), epoch=1, step=9)
    part = augmenter.batch(range(6), epoch=1, step=9, rows=rows)
    assert same(part, Batch(*(field[rows] for field in whole)))


@pytest.mark.parametrize("input_hw", [(96, 128), (160, 96), (40, 48), (24, 24)])
def test_renderers_agree(noise, input_hw):
    one = Augmenter(noise, LIVELY, device="cpu", seed=0)
    other = on_device_renderer(noise, LIVELY)
    a = one.batch(range(8), epoch=0, step=1, input_hw=input_hw)
    b = other.batch(range(8), epoch=0, step=1, input_hw=input_hw)
    assert (a.images - b.images).abs().max() < 3 / 255
    assert same(Batch(a.images, *b[1:]), a)
    assert b.images.is_contiguous(memory_format=torch.channels_last)
    other._renderer._all = other._renderer._upload(np.arange(len(noise)))
    assert same(b, other.batch(range(8), epoch=0, step=1, input_hw=input_hw))


@pytest.mark.gpu
def test_gpu_agrees_with_cpu(noise):
    a = Augmenter(noise, LIVELY, device="cpu", seed=0).batch(range(8), epoch=0, step=1)
    b = Augmenter(noise, LIVELY, device="cuda", seed=0).batch(range(8), epoch=0, step=1)
    assert (a.images - b.images.cpu()).abs().max() < 3 / 255
    assert torch.equal(a.gt_boxes_xyxy, b.gt_boxes_xyxy.cpu())


# What is drawn


def test_without_augmentation_a_batch_is_the_cache(noise):
    plain = Augmenter(noise, STILL, device="cpu", seed=0).batch([0, 5, 7], epoch=0, step=0)
    exact = torch.from_numpy(noise.images[[0, 5, 7]]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(plain.images, exact, rtol=0, atol=1e-7)
    assert plain.images.is_contiguous(memory_format=torch.channels_last)
    assert plain.gt_valid.tolist() == [[False], [True], [False]]
    np.testing.assert_array_equal(plain.gt_boxes_xyxy[1, 0], noise.boxes_xyxy[5][0])
    assert plain.gt_class_ids.tolist() == [[0], [5], [0]]


def test_boxes_on_another_input_are_letterboxed_again(bright):
    augmenter = Augmenter(bright, STILL, device="cpu", seed=0)
    batch = augmenter.batch([0, 4], epoch=0, step=0, input_hw=(48, 96))
    fit = Letterbox.for_image((96, 60), (48, 96))
    np.testing.assert_allclose(
        batch.gt_boxes_xyxy[1, 0], fit.to_input(np.array([10.0, 14, 30, 60])), atol=1e-4
    )
    np.testing.assert_allclose(batch.gt_boxes_xyxy[0, 0], [21, 4, 36, 15], atol=1e-4)


def test_mixed_in_images_bring_their_boxes(make_cache):
    images = [np.full((96, 128, 3), level, dtype=np.uint8) for level in (0, 200)]
    cache = make_cache(images, [[[10, 10, 30, 30]], [[40, 40, 80, 80]]])
    augment = dataclasses.replace(STILL, mixup=1)
    batch = Augmenter(cache, augment, device="cpu", seed=0).batch([0] * 8, epoch=0, step=0)
    plan = plan_batch(
        CacheTable(cache), augment, [0] * 8, seed=0, epoch=0, step=0, input_hw=INPUT_HW
    )
    partners = plan.sources[:, 4]
    assert set(partners) == {0, 1}
    for row, partner in enumerate(partners):
        assert batch.gt_class_ids[row].tolist() == [0, partner]
        expected = 200 * partner * (1 - plan.blends[row]) / 255
        torch.testing.assert_close(
            batch.images[row],
            torch.full((3, *INPUT_HW), float(expected)),
            rtol=0,
            atol=1 / 255,
        )


def test_mosaic_off_leaves_out_mixing_too(noise):
    augment = dataclasses.replace(STILL, mosaic=1, mixup=1)
    mixing, still = (Augmenter(noise, each, device="cpu", seed=0) for each in (augment, STILL))
    batch = mixing.batch([1, 2], epoch=0, step=0, mosaic_on=False)
    assert same(batch, still.batch([1, 2], epoch=0, step=0))


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("mosaic", lambda plan: plan.centers_xy[:, 0] < 128),
        ("mixup", lambda plan: plan.blends < 1),
        ("flip_lr", lambda plan: plan.matrices[:, 0, 0, 0] < 0),
        ("flip_ud", lambda plan: plan.matrices[:, 0, 1, 1] < 0),
    ],
)
def test_probabilities(noise, field, changed):
    augment = dataclasses.replace(STILL, **{field: 0.3})
    plan = plan_batch(
        CacheTable(noise), augment, [0] * 1000, seed=0, epoch=0, step=0, input_hw=INPUT_HW
    )
    assert abs(changed(plan).mean() - 0.3) < 0.05


def test_quarter_turns_fill_the_input(noise):
    augment = dataclasses.replace(STILL, rotate90=1)
    plan = plan_batch(
        CacheTable(noise), augment, [0] * 200, seed=0, epoch=0, step=0, input_hw=(128, 96)
    )
    linear = plan.matrices[:, 0, :, :2].round(9) + 0.0
    kinds = {tuple(matrix.ravel()) for matrix in linear}
    half = 0.75  # upside down, the image of 96 x 128 must shrink to fit 128 x 96
    assert kinds == {(0, -1, 1, 0), (0, 1, -1, 0), (-half, 0, 0, -half)}


def test_colors_keep_luma_and_grays(noise):
    augment = dataclasses.replace(STILL, hue=0.2, saturation=0.6)
    plan = plan_batch(
        CacheTable(noise), augment, [0] * 50, seed=0, epoch=0, step=0, input_hw=INPUT_HW
    )
    np.testing.assert_allclose(plan.colors.sum(-1), 1, atol=1e-5)
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(luma @ plan.colors, np.tile(luma, (50, 1)), atol=1e-5)
    augment = dataclasses.replace(STILL, value=0.5)
    plan = plan_batch(
        CacheTable(noise), augment, [0] * 50, seed=0, epoch=0, step=0, input_hw=INPUT_HW
    )
    gains = plan.colors[:, 0, 0]
    np.testing.assert_allclose(plan.colors, gains[:, None, None] * np.eye(3), atol=1e-5)
    assert 0.5 <= gains.min() < 0.6
    assert 1.4 < gains.max() <= 1.5


@pytest.mark.parametrize("gather", [False, True])
def test_fine_patterns_are_averaged_when_shrunk(make_cache, gather):
    board = np.indices((96, 128)).sum(0) % 2 * 200
    cache = make_cache([np.repeat(board[..., None], 3, -1).astype(np.uint8)], [[]])
    augmenter = on_device_renderer(cache, STILL) if gather else None
    augmenter = augmenter or Augmenter(cache, STILL, device="cpu", seed=0)
    batch = augmenter.batch([0], epoch=0, step=0, input_hw=(24, 32))
    torch.testing.assert_close(
        batch.images, torch.full((1, 3, 24, 32), 100 / 255), rtol=0, atol=1.5 / 255
    )


def test_uncovered_input_is_gray(bright):
    batch = Augmenter(bright, STILL, device="cpu", seed=0).batch(
        [0], epoch=0, step=0, input_hw=(160, 128)
    )
    assert ((batch.images[..., :32, :] * 255).round() == 114).all()
    assert ((batch.images[..., 128:, :] * 255).round() == 114).all()


# Settings


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(AugmentConfig)])
def test_settings_are_checked_and_explained(field):
    with pytest.raises(ConfigError, match=f"{field} must be from 0 to"):
        AugmentConfig(**{field: -0.1})
    with pytest.raises(ConfigError, match=f"{field} must be from 0 to"):
        AugmentConfig(**{field: float("nan")})
    assert field_help(AugmentConfig)[field]


def test_negative_seed_is_an_error(noise):
    with pytest.raises(ConfigError, match="seed must be at least 0; got -1"):
        Augmenter(noise, STILL, device="cpu", seed=-1)
