"""The loss of all candidates against that of the matches, picked out by number."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

from attendet.losses import DetectionLoss, LossConfig, Targets, compute_ciou, compute_iou  # noqa: E402

ANCHORS = ([[60.0, 50], [135, 169], [344, 319]], [[10.0, 14], [37, 58], [60, 50]])
STRIDES = (32, 16)
SETTINGS: list[dict[str, Any]] = [
    {"assignment": "dynamic"},
    {"assignment": "dynamic", "label_smoothing": 0.1},
    {"assignment": "classic"},
    {"assignment": "classic", "ignore_iou": 0.2},
]


def _criterion(settings: dict[str, Any], device: str = "cpu") -> DetectionLoss:
    anchors = [torch.tensor(level).to(device) for level in ANCHORS]
    return DetectionLoss(anchors, STRIDES, 2.0, LossConfig(**settings))


def _maps(classes: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((3, 4), (6, 8))
    return [torch.randn(3, 3 * (5 + classes), *size, generator=generator) for size in sizes]


def _targets(classes: int, objects: int, seed: int = 0) -> Targets:
    """Objects of all sizes in 96 x 128 px, one label twice, and padded rows with garbage."""
    generator = torch.Generator().manual_seed(seed + 1)
    corner = torch.rand(3, objects, 2, generator=generator) * 80
    size = 4 + 60 * torch.rand(3, objects, 2, generator=generator).square()
    boxes = torch.cat([corner, corner + size], dim=2)
    ids = torch.randint(0, classes, (3, objects), generator=generator)
    valid = torch.ones(3, objects, dtype=torch.bool)
    if objects > 2:
        boxes[0, 1], ids[0, 1] = boxes[0, 0], ids[0, 0]
        valid[1, 2:] = False
        boxes[1, 2:], ids[1, 2:] = torch.tensor([9e9, -3.0, 5, 5]), -1
        valid[2] = False
    return boxes, ids, valid


def _with_gradients(
    criterion: DetectionLoss, maps: list[torch.Tensor], targets: Targets
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    leaves = [one.clone().requires_grad_() for one in maps]
    terms = criterion(leaves, targets)
    torch.stack(list(terms.values())).sum().backward()
    return terms, [leaf.grad for leaf in leaves]


def _terms_of_matches(
    criterion: DetectionLoss, maps: list[torch.Tensor], targets: Targets
) -> dict[str, float]:
    """The loss with a list of matches: rows are picked by number, nothing is weighed by 0."""
    config, (gt, ids, valid) = criterion.config, targets
    boxes, objectness, classes, grids = criterion._predictions(maps)
    matches = criterion._assign(boxes, objectness, classes, targets, grids)
    image, row, candidate = matches.kept.nonzero(as_tuple=True)
    at = (image, matches.prediction[image, row, candidate])
    ciou, iou = compute_ciou(boxes[at], gt[image, row])
    weight, scale = torch.ones(len(row)), torch.ones(len(row))
    target, counted = torch.zeros_like(objectness), torch.ones_like(objectness)
    if config.assignment == "classic":
        target[at] = 1.0
        area = (gt[image, row, 2:] - gt[image, row, :2]).prod(dim=1)
        scale = 2 - area / (96 * 128)
        overlap = compute_iou(boxes.unsqueeze(2), gt.unsqueeze(1))
        best = overlap.masked_fill(~valid.unsqueeze(1), 0).amax(dim=2)
        counted = ((best <= config.ignore_iou) | (target > 0)).float()
    else:
        target[at] = iou.clamp(0, 1)
        object_of = image * gt.shape[1] + row
        weight = torch.bincount(object_of)[object_of].float().rsqrt()
    wanted = functional.one_hot(ids[image, row], classes.shape[-1]).float()
    wanted = wanted * (1 - config.label_smoothing) + config.label_smoothing / classes.shape[-1]
    bce = functional.binary_cross_entropy_with_logits
    of_class = bce(classes[at], wanted, reduction="none").sum(dim=1)
    background = bce(objectness, target, weight=counted, reduction="sum")
    return {
        "box": 5 * ((1 - ciou) * scale * weight).sum().item() / weight.sum().item(),
        "objectness": background.item() / len(row),
        "class": (of_class * weight).sum().item() / weight.sum().item(),
    }


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("classes", "objects"), [(1, 1), (3, 12), (20, 40)])
def test_terms_are_those_of_the_matches(
    settings: dict[str, Any], classes: int, objects: int, static: bool
) -> None:
    criterion = _criterion(settings)
    criterion.static_shapes = static
    maps, targets = _maps(classes), _targets(classes, objects)
    terms = criterion(maps, targets)
    for name, expected in _terms_of_matches(criterion, maps, targets).items():
        assert terms[name].item() == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("objects", [0, 1, 12, 40])
def test_all_candidates_give_the_loss_and_gradients_of_the_matches(
    settings: dict[str, Any], objects: int
) -> None:
    criterion = _criterion(settings)
    maps, targets = _maps(3, seed=objects), _targets(3, objects, seed=objects)
    terms, gradients = _with_gradients(criterion, maps, targets)
    criterion.static_shapes = True
    static_terms, static_gradients = _with_gradients(criterion, maps, targets)
    torch.testing.assert_close(static_terms, terms, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(static_gradients, gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("objects", [0, 12])
def test_no_value_is_read_off_the_cpu(settings: dict[str, Any], objects: int) -> None:
    """Tensors of the meta device have shapes only: an operation that needs a value fails."""
    criterion = _criterion(settings, "meta")
    maps = [one.to("meta").requires_grad_() for one in _maps(3)]
    boxes, ids, valid = (one.to("meta") for one in _targets(3, objects))
    terms = criterion(maps, (boxes, ids, valid))
    torch.stack(list(terms.values())).sum().backward()
    assert [one.grad.shape for one in maps] == [one.shape for one in maps]
    criterion.static_shapes = False
    with pytest.raises((NotImplementedError, RuntimeError)):
        criterion(maps, (boxes, ids, valid))
