"""Renderers of augmentation plans: one for the CPU, one for accelerators.

Both render the same plans (`attendet.data.augment_plan`). On the CPU, OpenCV's `warpAffine` works
on uint8 images one by one, mostly without the GIL, so that a prefetching thread can run in parallel
to the training step. On an accelerator, the four neighbors of each pixel of the batch are gathered
from uint8 images on the device: the whole cache if it fits (CUDA), else the images of the batch.
The two agree within the rounding to uint8 (under 3 of 255). On a CPU, the second takes over thirty
times as long.

N is the number of rows of a batch; H, W are the network input.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from attendet.data.augment_plan import MAX_LEVEL, QUARTERS, BatchPlan
from attendet.images import PAD_VALUE

_DEVICE_FRACTION = 0.25
_ROWS_AT_ONCE = 16


class CpuRenderer:
    """Renderer that works image by image with OpenCV, in uint8 until the last step."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def render(self, plan: BatchPlan) -> Tensor:
        """Return float32 (N, 3, H, W), channels_last."""
        rendered = np.empty((len(plan.sources), *plan.input_hw, 3), dtype=np.float32)
        padded, mixed = np.empty((2, *plan.input_hw, 3), dtype=np.uint8)
        for row in range(len(rendered)):
            for quarter in range(QUARTERS):
                self._warp(plan, row, quarter, plan.quarter_xyxy(row, quarter), padded)
            blend = float(plan.blends[row])
            if blend < 1:
                self._warp(plan, row, QUARTERS, (0, 0, *plan.input_hw[::-1]), mixed)
                cv2.addWeighted(padded, blend, mixed, 1 - blend, 0.0, dst=padded)
            cv2.transform(padded, plan.colors[row], dst=padded)
            np.multiply(padded, np.float32(1 / 255), out=rendered[row])
        return torch.from_numpy(rendered).permute(0, 3, 1, 2)

    def _warp(
        self,
        plan: BatchPlan,
        row: int,
        slot: int,
        region_xyxy: tuple[int, int, int, int],
        padded: NDArray[np.uint8],
    ) -> None:
        """Sample one tile into its region of the network input."""
        left, top, right, bottom = region_xyxy
        if left >= right or top >= bottom:
            return
        image: NDArray[np.uint8] = self.images[plan.sources[row, slot]]
        level = int(plan.levels[row, slot])
        if level:
            image = _halve(image, level)
        inverse = _pixel_inverse(plan.matrices[row, slot], level)
        inverse[:, 2] += inverse[:, 0] * left + inverse[:, 1] * top
        padded[top:bottom, left:right] = cv2.warpAffine(
            image,
            inverse,
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(PAD_VALUE,) * 3,
        )


def _halve(image: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    """Return an image halved `level` times by area averaging; an odd last row or column is cut."""
    for _ in range(level):
        height, width = max(1, image.shape[0] // 2), max(1, image.shape[1] // 2)
        even = image[: 2 * height, : 2 * width]
        halved = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
        image = np.asarray(halved, dtype=np.uint8)
    return image


def _pixel_inverse(
    matrices: NDArray[np.float64], level: int | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return maps (..., 2, 3) from pixel indices of the network input to those of a source level.

    The index of a pixel is the coordinate of its center minus one half.
    """
    linear = np.linalg.inv(matrices[..., :2])
    shift = -(linear @ matrices[..., 2:])
    shift += linear.sum(axis=-1, keepdims=True) / 2
    inverse = np.concatenate([linear, shift], axis=-1)
    inverse *= 0.5 ** np.asarray(level, dtype=np.float64)[..., None, None]
    inverse[..., 2] -= 0.5
    return inverse


class DeviceRenderer:
    """Renderer that gathers the pixels of whole batches from uint8 images on the device."""

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self.images = images
        self.device = device
        self._all: Tensor | None = None
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            if images.nbytes * 4 / 3 < _DEVICE_FRACTION * free:
                self._all = self._upload(np.arange(len(images)))

    def _upload(self, numbers: NDArray[np.int64]) -> Tensor:
        """Return the pixels (P, 3) of some images, each at full size and then halved by level."""
        parts = []
        for start in range(0, len(numbers), 64):
            chunk = torch.from_numpy(self.images[numbers[start : start + 64]]).to(self.device)
            levels = [chunk.flatten(1, 2)]
            planes = chunk.permute(0, 3, 1, 2).float()
            for _ in range(MAX_LEVEL):
                planes = (functional.avg_pool2d(planes, 2, ceil_mode=False) + 0.5).floor()
                levels.append(planes.flatten(2).transpose(1, 2).to(torch.uint8))
            parts.append(torch.cat(levels, dim=1))
        return torch.cat(parts).flatten(0, 1)

    def _level_sizes(self) -> NDArray[np.int64]:
        """Return height, width and first pixel of each level, and one more row, as (levels + 1, 3).

        The first pixel of the last row is the number of pixels in all levels of an image.
        """
        height, width = self.images.shape[1:3]
        sizes, first = [], 0
        for _ in range(MAX_LEVEL + 2):
            sizes.append((height, width, first))
            first += height * width
            height, width = height // 2, width // 2
        return np.array(sizes, dtype=np.int64)

    def render(self, plan: BatchPlan) -> Tensor:
        """Return float32 (N, 3, H, W), channels_last."""
        if self._all is not None:
            pixels, sources = self._all, plan.sources
        else:
            numbers, inverse = np.unique(plan.sources, return_inverse=True)
            pixels, sources = self._upload(numbers), inverse.reshape(plan.sources.shape)
        sizes = self._level_sizes()
        tiles = np.concatenate(
            [
                _pixel_inverse(plan.matrices, plan.levels).reshape(*sources.shape, 6),
                sizes[plan.levels][..., :2],
            ],
            axis=-1,
        )
        starts = sources * sizes[MAX_LEVEL + 1, 2] + sizes[plan.levels][..., 2]
        parts = [
            self._render_rows(plan, slice(at, at + _ROWS_AT_ONCE), pixels, tiles, starts)
            for at in range(0, len(sources), _ROWS_AT_ONCE)
        ]
        return torch.cat(parts).permute(0, 3, 1, 2)

    def _render_rows(
        self,
        plan: BatchPlan,
        rows: slice,
        pixels: Tensor,
        tiles: NDArray[np.float64],
        starts: NDArray[np.int64],
    ) -> Tensor:
        """Return some rows as float32 (n, H, W, 3) within 0..1."""
        colors = self._put(plan.colors[rows])
        centers = self._put(plan.centers_xy[rows])
        quarters = slice(0, QUARTERS)
        padded = self._sample(
            plan.input_hw, centers, pixels, tiles[rows, quarters], starts[rows, quarters]
        )
        mixed = np.flatnonzero(plan.blends[rows] < 1)
        if len(mixed):
            corner = centers.new_tensor([[plan.input_hw[1], plan.input_hw[0]]])
            slots = np.full(QUARTERS, QUARTERS)
            other = self._sample(
                plan.input_hw,
                corner.expand(len(mixed), 2),
                pixels,
                tiles[rows][mixed][:, slots],
                starts[rows][mixed][:, slots],
            )
            weight = self._put(plan.blends[rows][mixed].astype(np.float32)).view(-1, 1, 1, 1)
            chosen = self._put(mixed)
            padded[chosen] = other + weight * (padded[chosen] - other)
        count, height, width, _ = padded.shape
        colored = torch.bmm(padded.view(count, -1, 3), colors.transpose(1, 2))
        return colored.mul_(1 / 255).clamp_(0, 1).view(count, height, width, 3)

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _sample(
        self,
        input_hw: tuple[int, int],
        centers: Tensor,
        pixels: Tensor,
        tiles: NDArray[np.float64],
        starts: NDArray[np.int64],
    ) -> Tensor:
        """Return float32 (n, H, W, 3) within 0..255, with each pixel sampled from its tile.

        Args:
            input_hw: network input, pixels.
            centers: int64 (n, 2), point where the four tiles meet.
            pixels: uint8 (P, 3), the pixels of all images.
            tiles: float64 (n, 4, 8): inverse map (6), height and width of the source.
            starts: int64 (n, 4), first pixel of each tile's source.
        """
        xs = torch.arange(input_hw[1], device=self.device).view(1, 1, -1)
        ys = torch.arange(input_hw[0], device=self.device).view(1, -1, 1)
        right, below = xs >= centers[:, 0].view(-1, 1, 1), ys >= centers[:, 1].view(-1, 1, 1)

        def spread(values: Tensor) -> Tensor:
            a, b, c, d = values.view(-1, 4, 1, 1).unbind(1)
            return torch.where(below, torch.where(right, d, c), torch.where(right, b, a))

        numbers = self._put(tiles.astype(np.float32))
        a, b, c, d, e, f, high, wide = (spread(numbers[..., i]) for i in range(8))
        u, v = a * xs + b * ys + c, d * xs + e * ys + f
        first, wide, high = spread(self._put(starts)), wide.long(), high.long()
        left, top = u.floor(), v.floor()
        weight_x, weight_y = (u - left).unsqueeze(-1), (v - top).unsqueeze(-1)
        left, top = left.long(), top.long()

        def tap(x: Tensor, y: Tensor) -> Tensor:
            inside = (x >= 0) & (y >= 0) & (x < wide) & (y < high)
            position = torch.where(inside, first + y * wide + x, 0)
            values = pixels[position].to(torch.float32)
            return torch.where(inside.unsqueeze(-1), values, float(PAD_VALUE))

        upper = torch.lerp(tap(left, top), tap(left + 1, top), weight_x)
        lower = torch.lerp(tap(left, top + 1), tap(left + 1, top + 1), weight_x)
        return torch.lerp(upper, lower, weight_y)
