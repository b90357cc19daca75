"""Augmented batches straight from the cache's uint8 images: mosaic, affine, color, mix-up.

`attendet.data.augment_plan` draws what happens to each row as numbers; this module renders it.
Each network input pixel is sampled once, bilinearly, from the cached image that its tile shows,
at any size of the network input (multi-scale and progressive resizing need no second
resampling). Where an image shrinks to half or less, it is first halved by area averaging, so that
bilinear sampling skips no pixels. What no image covers is gray, 114 of 255, before the colors are
changed.

`attendet.data.augment_render` renders.

N counts the rows of a batch, M the boxes of the fullest row; H, W are the network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attendet.data.augment_plan import AugmentConfig, CacheTable, make_plan, pad_boxes
from attendet.data.augment_render import CpuRenderer, DeviceRenderer, to_float
from attendet.data.cache import ImageCache
from attendet.errors import ConfigError
from attendet.images import letterbox


class Batch(NamedTuple):
    """Images with their boxes, targets to the fullest row, on the device that trains.

    Attributes:
        images: float32 (N, 3, H, W), RGB within 0..1, channels_last.
        gt_boxes_xyxy: float32 (N, M, 4), network input pixels; zeros where not valid; M >= 1.
        gt_class_ids: int64 (N, M); zeros where not valid.
        gt_valid: bool (N, M), which of the M slots hold a box.
    """

    images: Tensor
    gt_boxes_xyxy: Tensor
    gt_class_ids: Tensor
    gt_valid: Tensor


class Augmenter:
    """Makes augmented batches of a cache's images; the same arguments give the same batch.

    The draws depend on seed, epoch, step and the position in the global batch, and on nothing else:
    not on the device, the process or what was made before. Partners of mosaic and mix-up come from
    the whole cache.

    Args:
        cache: the images; must stay open.
        settings: what is drawn, and how strongly.
        device: where batches are made and left.
        seed: non-negative.
        input_hw: network input of the batches, pixels; default: the cache's.

    Raises:
        ConfigError: if the seed is negative.
    """

    def __init__(
        self,
        cache: ImageCache,
        settings: AugmentConfig,
        *,
        device: torch.device | str,
        seed: int,
        input_hw: tuple[int, int] | None = None,
    ) -> None:
        ConfigError.check(seed >= 0, "seed", "at least 0", seed)
        self.cache = cache
        self.settings = settings
        self.device = torch.device(device)
        self.seed = seed
        self.input_hw = input_hw or cache.input_hw
        self._table = CacheTable(cache)
        self._renderer: CpuRenderer | DeviceRenderer = (
            CpuRenderer(cache.images)
            if self.device.type == "cpu"
            else DeviceRenderer(cache.images, self.device)
        )

    def batch(
        self,
        indices: Sequence[int],
        *,
        epoch: int,
        step: int,
        input_hw: tuple[int, int] | None = None,
        mosaic_on: bool = True,
        rows: slice | None = None,
    ) -> Batch:
        """Return one augmented batch, or some rows of it.

        Args:
            indices: cache rows of the global batch's N images.
            epoch: non-negative; with `step` it picks the draws.
            step: non-negative.
            input_hw: network input of this batch, pixels; default: the augmenter's.
            mosaic_on: False disables mosaic and mixup, as in the last epochs.
            rows: which rows to make, for a rank's shard; they equal those rows of the whole batch
                bit for bit, the padding of their boxes included.

        Returns:
            The batch. A turned or sheared box is the upright box around its mapped corners, so it
            is looser than the object; it is clipped to its tile.
        """
        plan = make_plan(
            self._table,
            self.settings,
            indices,
            seed=self.seed,
            epoch=epoch,
            step=step,
            input_hw=input_hw or self.input_hw,
            mosaic_on=mosaic_on,
        )
        if rows is not None:
            plan = plan.rows(rows)
        images = self._renderer.render(plan)
        return self._batch(images, plan.boxes_xyxy, plan.class_ids, plan.valid)

    def plain(self, indices: Sequence[int], input_hw: tuple[int, int] | None = None) -> Batch:
        """Return the images without augmentation, resized if the input size is not the cache's.

        Args:
            indices: cache rows of the N images.
            input_hw: network input, pixels; default: the augmenter's.

        Returns:
            The batch; with the cache's own network input an exact copy.
        """
        input_hw = input_hw or self.input_hw
        images = np.empty((len(indices), *input_hw, 3), dtype=np.uint8)
        boxes = []
        for row, index in enumerate(indices):
            images[row], moved = self._resized(index, input_hw)
            boxes.append(moved)
        ids = [self.cache.class_ids[index] for index in indices]
        targets = pad_boxes(
            np.concatenate([np.zeros((0, 4)), *boxes]),
            np.concatenate([np.zeros(0, dtype=np.int64), *ids]),
            np.repeat(np.arange(len(indices)), [len(one) for one in ids]),
            len(indices),
        )
        on_device = torch.from_numpy(images).to(self.device)
        return self._batch(to_float(on_device), *targets)

    def _resized(
        self, index: int, input_hw: tuple[int, int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return one image and its boxes at an input size."""
        padded, boxes_xyxy = self.cache.images[index], self.cache.boxes_xyxy[index]
        if input_hw == self.cache.input_hw:
            return padded, boxes_xyxy
        transform = self.cache.transforms[index]
        height, width = (max(1, round(side * transform.scale)) for side in transform.image_hw)
        content = padded[
            transform.top : transform.top + height, transform.left : transform.left + width
        ]
        resized, new_transform = letterbox(content, input_hw)
        offset = np.array([transform.left, transform.top] * 2, dtype=np.float32)
        return resized, new_transform.to_input(boxes_xyxy - offset).astype(np.float32)

    def _batch(
        self,
        images: Tensor,
        boxes_xyxy: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        valid: NDArray[np.bool_],
    ) -> Batch:
        return Batch(
            images,
            torch.from_numpy(boxes_xyxy).to(self.device, non_blocking=True),
            torch.from_numpy(class_ids).to(self.device, non_blocking=True),
            torch.from_numpy(valid).to(self.device, non_blocking=True),
        )
