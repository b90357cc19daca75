"""Augmented batches from the cache's uint8 images: mosaic, affine maps, color and mixup.

`attendet.data.augment_plan` draws the augmentation of each row as numbers, and
`attendet.data.augment_render` renders it. Each network input pixel is sampled once, bilinearly,
from the cached image of its tile, at any size of the network input (multi-scale training and
progressive resizing need no second resampling). An image that shrinks to half or less is first
halved by area averaging, so that bilinear sampling skips no pixels. Pixels that no image covers are
gray, 114 of 255, before the color augmentation.

N is the number of rows of a batch, M the largest number of boxes in a row; H, W are the network
input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attendet.data.augment_plan import AugmentConfig, CacheTable, plan_batch
from attendet.data.augment_render import CpuRenderer, DeviceRenderer
from attendet.data.cache import ImageCache
from attendet.errors import ConfigError


class Batch(NamedTuple):
    """Images on the training device, with boxes padded to the largest number in a row.

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
    """Source of augmented batches of a cache's images; the same arguments give the same batch.

    The draws depend only on the seed, the epoch, the step and the position in the global batch: not
    on the device, the process or earlier batches. The other images of a mosaic or mixup are drawn
    from the whole cache.

    Args:
        cache: the images; must stay open.
        settings: probabilities and strengths of the augmentation.
        device: device of the batches; they are rendered there.
        seed: non-negative.

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
    ) -> None:
        ConfigError.check(seed >= 0, "seed", "at least 0", seed)
        self.cache = cache
        self.settings = settings
        self.device = torch.device(device)
        self.seed = seed
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
            epoch: non-negative; with `step` it seeds the draws.
            step: non-negative.
            input_hw: network input of this batch, pixels; default: the cache's.
            mosaic_on: False disables mosaic and mixup, as in the last epochs.
            rows: rows to return, for the shard of a rank; bit-identical to these rows of the whole
                batch, including the padding of their boxes.

        Returns:
            The batch. A rotated or sheared box becomes the axis-aligned box around its mapped
            corners, which is looser than the object; it is clipped to its tile.
        """
        plan = plan_batch(
            self._table,
            self.settings,
            indices,
            seed=self.seed,
            epoch=epoch,
            step=step,
            input_hw=input_hw or self.cache.input_hw,
            mosaic_on=mosaic_on,
        )
        if rows is not None:
            plan = plan.rows(rows)
        targets = (plan.boxes_xyxy, plan.class_ids, plan.valid)
        return Batch(
            self._renderer.render(plan),
            *(torch.from_numpy(each).to(self.device, non_blocking=True) for each in targets),
        )
