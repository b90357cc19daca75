"""The usual YOLOv4-tiny project with Coordinate Attention, re-created as a baseline for speed.

Written from the published formulas in the style of widely copied projects: eager
PyTorch in float32 and NCHW, a loader that decodes every image again in worker processes, mosaic
in numpy, targets filled in by loops over images and boxes, SGD, no moving average; for prediction
PIL, a stretched network input, a network whose batch normalization is not folded, a decode for
each level and suppression class by class. It is meant for timing, not for accuracy.

Run as a program it trains, as a candidate of training_throughput.py, which starts it.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from candidates import Rounds
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import nms

ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))
MASKS = ((3, 4, 5), (1, 2, 3))
STRIDES = (32, 16)


# --- network -------------------------------------------------------------------------------------


def conv(in_channels, out_channels, kernel, stride=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.1),
    )


class CoordinateAttention(nn.Module):
    """Hou, Zhou and Feng 2021, arXiv:2103.02907, as written in most YOLO projects."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        hidden = max(8, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.rows = nn.Conv2d(hidden, channels, 1, bias=False)
        self.columns = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x):
        height, width = x.shape[2:]
        pooled_rows = torch.mean(x, dim=3, keepdim=True).permute(0, 1, 3, 2)
        pooled_columns = torch.mean(x, dim=2, keepdim=True)
        both = torch.cat((pooled_rows, pooled_columns), 3)
        hidden = F.relu(self.norm(self.squeeze(both)))
        rows, columns = hidden.split([height, width], 3)
        gate_rows = torch.sigmoid(self.rows(rows.permute(0, 1, 3, 2)))
        gate_columns = torch.sigmoid(self.columns(columns))
        return x * gate_rows.expand_as(x) * gate_columns.expand_as(x)


class Stage(nn.Module):
    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.first = conv(channels, channels, 3)
        self.second = conv(half, half, 3)
        self.third = conv(half, half, 3)
        self.last = conv(channels, channels, 1)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x):
        whole = self.first(x)
        second = self.second(torch.split(whole, whole.shape[1] // 2, dim=1)[1])
        third = self.third(second)
        last = self.last(torch.cat([third, second], dim=1))
        return self.pool(torch.cat([whole, last], dim=1)), last


class SeedNetwork(nn.Module):
    """YOLOv4-tiny with Coordinate Attention at the three sites of its neck."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(conv(3, 32, 3, 2), conv(32, 64, 3, 2))
        self.stages = nn.ModuleList([Stage(64), Stage(128), Stage(256)])
        self.deep = conv(512, 512, 3)
        self.attend_p4, self.attend_p5 = CoordinateAttention(256), CoordinateAttention(512)
        self.attend_up = CoordinateAttention(128)
        outputs = 3 * (5 + num_classes)
        self.neck = conv(512, 256, 1)
        self.head_p5 = nn.Sequential(conv(256, 512, 3), nn.Conv2d(512, outputs, 1))
        self.lift = nn.Sequential(conv(256, 128, 1), nn.Upsample(scale_factor=2, mode="nearest"))
        self.head_p4 = nn.Sequential(conv(384, 256, 3), nn.Conv2d(256, outputs, 1))

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x, p4 = stage(x)
        p5 = self.neck(self.attend_p5(self.deep(x)))
        up = self.attend_up(self.lift(p5))
        return self.head_p5(p5), self.head_p4(torch.cat([up, self.attend_p4(p4)], dim=1))


# --- loader --------------------------------------------------------------------------------------


def read_labels(file):
    """Return rows of class, center and size, as fractions of the image."""
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [[float(word) for word in line.split()] for line in lines if line.strip()]
    return np.array(rows, dtype=np.float32).reshape(-1, 5)


class SeedData(Dataset):
    """Images decoded one by one, half of them put together from four."""

    def __init__(self, data, size):
        document = yaml.safe_load(data.read_text(encoding="utf-8"))
        folder = Path(document["path"]) / document["train"]
        self.files = sorted(folder.iterdir())
        self.num_classes = len(document["names"])
        self.size = size

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        if random.random() < 0.5:
            others = random.sample(range(len(self.files)), min(3, len(self.files)))
            image, rows = self.mosaic([index, *others])
        else:
            image, rows = self.placed(index, random.uniform(0.5, 1.5))
        image = np.transpose(jitter_colors(image) / 255.0, (2, 0, 1))
        return image.astype(np.float32), rows

    def placed(self, index, scale):
        """Return one image, stretched, mirrored and pasted on gray, with its boxes."""
        pil_image = Image.open(self.files[index]).convert("RGB")
        labels = Path(str(self.files[index].parent).replace("images", "labels"))
        rows = read_labels(labels / f"{self.files[index].stem}.txt")
        size = self.size
        height = max(32, int(size * scale * random.uniform(0.7, 1.3)))
        width = max(32, int(size * scale * random.uniform(0.7, 1.3)))
        pil_image = pil_image.resize((width, height), Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            pil_image = pil_image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            rows[:, 1] = 1 - rows[:, 1]
        left, top = (random.randint(min(0, size - s), max(0, size - s)) for s in (width, height))
        padded = Image.new("RGB", (size, size), (128, 128, 128))
        padded.paste(pil_image, (left, top))
        rows[:, 1::2] *= width
        rows[:, 2::2] *= height
        rows[:, 1] += left
        rows[:, 2] += top
        return np.array(padded), clip_rows(rows, 0, 0, size, size)

    def mosaic(self, indices):
        """Return four images, each in its quarter, with their boxes."""
        size = self.size
        cut_x, cut_y = (int(size * random.uniform(0.3, 0.7)) for _ in range(2))
        image = np.zeros((size, size, 3), dtype=np.uint8)
        kept = []
        quarters = (
            (0, 0, cut_x, cut_y),
            (0, cut_y, cut_x, size),
            (cut_x, cut_y, size, size),
            (cut_x, 0, size, cut_y),
        )
        for index, (left, top, right, bottom) in zip(indices, quarters, strict=False):
            part, rows = self.placed(index, random.uniform(0.4, 1.0))
            image[top:bottom, left:right] = part[top:bottom, left:right]
            kept.append(clip_rows(rows, left, top, right, bottom))
        return image, np.concatenate(kept)


def clip_rows(rows, left, top, right, bottom):
    """Return the rows (class, center, size in pixels) inside a window, clipped to it."""
    kept = []
    for class_id, x, y, width, height in rows:
        x0, x1 = max(left, x - width / 2), min(right, x + width / 2)
        y0, y1 = max(top, y - height / 2), min(bottom, y + height / 2)
        if x1 - x0 > 1 and y1 - y0 > 1:
            kept.append([class_id, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
    return np.array(kept, dtype=np.float32).reshape(-1, 5)


def jitter_colors(image):
    gains = np.array([random.uniform(-1, 1) * s for s in (0.1, 0.7, 0.4)]) + 1
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    steps = np.arange(256)
    tables = (
        steps * gains[0] % 180,
        (steps * gains[1]).clip(0, 255),
        (steps * gains[2]).clip(0, 255),
    )
    channels = [
        cv2.LUT(channel, table.astype(np.uint8))
        for channel, table in zip((hue, saturation, value), tables, strict=True)
    ]
    return cv2.cvtColor(cv2.merge(channels), cv2.COLOR_HSV2RGB)


def collate(items):
    images = torch.from_numpy(np.array([image for image, _ in items]))
    return images, [torch.from_numpy(rows) for _, rows in items]


# --- loss ----------------------------------------------------------------------------------------


def corners(boxes):
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)


def pairwise_iou(a, b):
    a, b = corners(a), corners(b)
    low = torch.max(a[:, None, :2], b[None, :, :2])
    high = torch.min(a[:, None, 2:], b[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(2)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    return inside / (area_a[:, None] + area_b[None] - inside).clamp(min=1e-6)


def complete_iou(a, b):
    """Zheng et al. 2020, arXiv:1911.08287; box by box, center and size."""
    corners_a, corners_b = corners(a), corners(b)
    low = torch.max(corners_a[..., :2], corners_b[..., :2])
    high = torch.min(corners_a[..., 2:], corners_b[..., 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - inside
    iou = inside / union.clamp(min=1e-6)
    hull = torch.max(corners_a[..., 2:], corners_b[..., 2:]) - torch.min(
        corners_a[..., :2], corners_b[..., :2]
    )
    apart = (a[..., :2] - b[..., :2]).square().sum(-1) / hull.square().sum(-1).clamp(min=1e-6)
    angles = [torch.atan(box[..., 2] / box[..., 3].clamp(min=1e-6)) for box in (a, b)]
    shape = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    weight = shape / (1 - iou + shape).clamp(min=1e-6)
    return iou - apart - weight * shape


def level_targets(rows, anchors, mask, stride, shape, num_classes):
    """Return targets and the cells without objects, filled in box by box.

    Args:
        rows: one (n, 5) an image: class, center and size in pixels.
        anchors: all anchors, in cells of this level.
        mask: the anchors of this level.
        stride: pixels per cell.
        shape: of the level: images, anchors, rows, columns.
        num_classes: K.
    """
    targets = torch.zeros(*shape, 5 + num_classes)
    empty = torch.ones(shape)
    for number in range(shape[0]):
        if len(rows[number]) == 0:
            continue
        boxes = rows[number][:, 1:] / stride
        sizes = torch.cat([torch.zeros_like(boxes[:, :2]), boxes[:, 2:]], 1)
        anchor_boxes = torch.cat([torch.zeros_like(anchors), anchors], 1)
        best = torch.argmax(pairwise_iou(sizes, anchor_boxes), dim=-1)
        for box, best_anchor in enumerate(best):
            if int(best_anchor) not in mask:
                continue
            anchor = mask.index(int(best_anchor))
            column = min(int(torch.floor(boxes[box, 0])), shape[3] - 1)
            row = min(int(torch.floor(boxes[box, 1])), shape[2] - 1)
            class_id = int(rows[number][box, 0])
            empty[number, anchor, row, column] = 0
            targets[number, anchor, row, column, :4] = boxes[box]
            targets[number, anchor, row, column, 4] = 1
            targets[number, anchor, row, column, 5 + class_id] = 1
    return targets, empty


def decode_level(raw, anchors, num_classes):
    """Return boxes in cells (N, A, H, W, 4) and the terms (N, A, H, W, 5 + K) of one level."""
    n, _, height, width = raw.shape
    terms = raw.view(n, 3, 5 + num_classes, height, width).permute(0, 1, 3, 4, 2).contiguous()
    x, y = torch.sigmoid(terms[..., 0]), torch.sigmoid(terms[..., 1])
    grid_x = torch.linspace(0, width - 1, width).repeat(height, 1).repeat(n * 3, 1, 1).view(x.shape)
    grid_y = torch.linspace(0, height - 1, height).repeat(width, 1).t()
    grid_y = grid_y.repeat(n * 3, 1, 1).view(y.shape)
    anchor_w = anchors[:, 0:1].repeat(n, 1).repeat(1, 1, height * width).view(x.shape)
    anchor_h = anchors[:, 1:2].repeat(n, 1).repeat(1, 1, height * width).view(x.shape)
    boxes = torch.stack(
        [
            x + grid_x,
            y + grid_y,
            torch.exp(terms[..., 2]) * anchor_w,
            torch.exp(terms[..., 3]) * anchor_h,
        ],
        dim=-1,
    )
    return boxes, terms


def level_loss(raw, rows, level, num_classes):
    stride, mask = STRIDES[level], list(MASKS[level])
    anchors = torch.tensor(ANCHORS, dtype=torch.float32) / stride
    boxes, terms = decode_level(raw, anchors[mask], num_classes)
    targets, empty = level_targets(rows, anchors, mask, stride, boxes.shape[:4], num_classes)
    for number in range(len(rows)):  # a good box is not trained as background
        if len(rows[number]):
            flat = boxes[number].detach().reshape(-1, 4)
            overlap, _ = pairwise_iou(rows[number][:, 1:] / stride, flat).max(dim=0)
            empty[number][overlap.view(empty[number].shape) > 0.5] = 0
    objects = targets[..., 4] == 1
    loss = torch.zeros(())
    if objects.any():
        loss = loss + 0.05 * (1 - complete_iou(boxes, targets[..., :4]))[objects].mean()
        class_loss = F.binary_cross_entropy_with_logits(
            terms[..., 5:][objects], targets[..., 5:][objects]
        )
        loss = loss + class_loss * num_classes / 80
    confidence = F.binary_cross_entropy_with_logits(
        terms[..., 4], targets[..., 4], reduction="none"
    )
    return loss + confidence[empty.bool() | objects].mean()


# --- training ------------------------------------------------------------------------------------


def train(data, size, batch, workers):
    """Train one epoch per round until the end."""
    rounds = Rounds()
    images = SeedData(data, size)
    network = SeedNetwork(images.num_classes).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.937, weight_decay=5e-4, nesterov=True
    )
    loader = DataLoader(
        images, batch_size=batch, shuffle=True, num_workers=workers, collate_fn=collate
    )
    while True:
        rounds.wait()
        rounds.begin_epoch()
        for inputs, rows in loader:
            optimizer.zero_grad()
            raw_maps = network(inputs)
            loss = sum(
                level_loss(raw, rows, level, images.num_classes)
                for level, raw in enumerate(raw_maps)
            )
            loss.backward()
            optimizer.step()
            rounds.end_step(len(inputs))
        rounds.end_epoch(loss=loss.item())


# --- prediction ----------------------------------------------------------------------------------


class SeedPredictor:
    """From a file to detections, as such projects do it.

    Args:
        network: a `SeedNetwork`.
        size: of the network input, pixels.
        confidence: lowest score that counts.
        iou: of two boxes of a class that overlap more, the better stays.
    """

    def __init__(self, network, size=416, confidence=0.5, iou=0.3):
        self.network = network.eval()
        self.size, self.confidence, self.iou = size, confidence, iou

    def predict(self, path):
        """Return rows of left, top, right, bottom (pixels), score and class."""
        pil_image = Image.open(path)
        image_wh = pil_image.size
        if pil_image.mode != "RGB":
            pil_image = pil_image.convert("RGB")
        pil_image = pil_image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        array = np.array(pil_image, dtype=np.float32) / 255.0
        padded = np.expand_dims(np.transpose(array, (2, 0, 1)), 0)
        with torch.no_grad():
            raw_maps = self.network(torch.from_numpy(np.ascontiguousarray(padded)))
            terms = torch.cat([self.decode(raw, i) for i, raw in enumerate(raw_maps)], 1)
            rows = self.suppress(terms[0])
        rows[:, [0, 2]] *= image_wh[0]
        rows[:, [1, 3]] *= image_wh[1]
        return rows

    def decode(self, raw, level):
        """Return (N, B, 5 + K): center and size as fractions of the network input, objectness,
        classes."""
        anchors = torch.tensor(ANCHORS, dtype=torch.float32)[list(MASKS[level])] / STRIDES[level]
        boxes, terms = decode_level(raw, anchors, self.network.num_classes)
        n, _, height, width = terms.shape[:4]
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        parts = [
            boxes.view(n, -1, 4) / scale,
            torch.sigmoid(terms[..., 4]).view(n, -1, 1),
            torch.sigmoid(terms[..., 5:]).view(n, -1, self.network.num_classes),
        ]
        return torch.cat(parts, -1)

    def suppress(self, terms):
        """Return the rows that non-maximum suppression keeps, class by class."""
        boxes = corners(terms[:, :4])
        class_scores, class_ids = torch.max(terms[:, 5:], 1, keepdim=True)
        scores = terms[:, 4:5] * class_scores
        rows = torch.cat([boxes, scores, class_ids.float()], 1)[scores[:, 0] >= self.confidence]
        kept = []
        for class_id in rows[:, 5].unique():
            members = rows[rows[:, 5] == class_id]
            kept.append(members[nms(members[:, :4], members[:, 4], self.iou)])
        return torch.cat(kept).numpy() if kept else np.zeros((0, 6), dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="data.yaml")
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    args = parser.parse_args()
    train(args.data, args.size, args.batch, args.workers)


if __name__ == "__main__":
    main()
