"""Assignment against the same rules written as plain loops over objects."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch")

from attendet.losses import Grid, Matches, assign_best_anchor, assign_dynamic  # noqa: E402
from attendet.models.decode import decode_maps  # noqa: E402

HW = (96, 128)
STRIDES = (32, 16)
ANCHORS = (
    torch.tensor([[30.0, 30], [60, 40], [90, 80]], dtype=torch.float64),
    torch.tensor([[10.0, 12], [18, 30], [30, 30]], dtype=torch.float64),  # the last stands twice
)
CLASSES = 3
Candidate = tuple[int, int, int, int, int]  # prediction, level, row, column, anchor


def _grids() -> list[Grid]:
    grids, offset = [], 0
    for stride, anchors in zip(STRIDES, ANCHORS, strict=True):
        rows, columns = HW[0] // stride, HW[1] // stride
        grids.append(Grid(rows, columns, stride, anchors, offset))
        offset += rows * columns * len(anchors)
    return grids


GRIDS = _grids()
TOTAL = 3 * (3 * 4 + 6 * 8)


def _all_predictions() -> list[Candidate]:
    """Every prediction in the order of decoding: level, row, column, anchor."""
    places = [
        (level, row, column, anchor)
        for level, grid in enumerate(GRIDS)
        for row in range(grid.height)
        for column in range(grid.width)
        for anchor in range(3)
    ]
    return [(number, *place) for number, place in enumerate(places)]


PREDICTIONS = _all_predictions()


def _random_boxes(generator: torch.Generator, number: int) -> torch.Tensor:
    padded = torch.tensor([HW[1], HW[0]], dtype=torch.float64)
    centers = torch.rand(number, 2, generator=generator, dtype=torch.float64) * padded
    spread = torch.rand(number, 2, generator=generator, dtype=torch.float64)
    halves = torch.exp(spread * 2.5 + 1)
    low, high = centers - halves, centers + halves
    return torch.cat([low.clamp(min=0), torch.minimum(high, padded)], dim=1)


def _case(seed: int, objects: int = 7) -> dict[str, torch.Tensor]:
    """Two images: random, with duplicates, objects at edges and corners, and padded rows."""
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(2, 3 * (5 + CLASSES), grid.height, grid.width, generator=generator)
        for grid in GRIDS
    ]
    boxes, _ = decode_maps([1.5 * one for one in maps], list(ANCHORS), STRIDES, 1.5)
    gt = torch.stack([_random_boxes(generator, objects) for _ in range(2)])
    ids = torch.randint(0, CLASSES, (2, objects), generator=generator)
    valid = torch.ones(2, objects, dtype=torch.bool)
    if objects >= 7:
        gt[0, 1], ids[0, 1] = gt[0, 0], ids[0, 0]  # one label twice
        gt[0, 2] = torch.tensor([0.0, 0, 6, 8])  # upper left corner
        gt[0, 3] = torch.tensor([HW[1] - 5.0, HW[0] - 9.0, HW[1], HW[0]])  # lower right corner
        gt[0, 4] = torch.tensor([HW[1], 10.0, HW[1], 20.0])  # a line on the right edge
        gt[1, 0] = torch.tensor([33.0, 33, 63, 63])  # exactly the anchor that stands twice
        gt[1, 1] = torch.tensor([34.0, 34, 62, 62])  # a smaller one in the same cell
        valid[1, 5:] = False  # padded, with garbage
        gt[1, 5:], ids[1, 5:] = torch.tensor([1e4, -1e4, 5e4, 3.0], dtype=torch.float64), -1
    return {
        "boxes": boxes.double(),
        "objectness": torch.randn(2, TOTAL, generator=generator, dtype=torch.float64) - 1,
        "classes": torch.randn(2, TOTAL, CLASSES, generator=generator, dtype=torch.float64),
        "gt": gt,
        "ids": ids,
        "valid": valid,
    }


class Pairs(NamedTuple):
    """Predictions and the objects they answer for."""

    image: torch.Tensor
    prediction: torch.Tensor
    gt: torch.Tensor


def _pairs(matches: Matches) -> Pairs:
    image, gt, candidate = matches.kept.nonzero(as_tuple=True)
    return Pairs(image, matches.prediction[image, gt, candidate], gt)


def _dynamic(case: dict[str, torch.Tensor]) -> Pairs:
    names = ("boxes", "objectness", "classes", "gt", "ids", "valid")
    return _pairs(assign_dynamic(*(case[name] for name in names), GRIDS))


def _best_anchor(case: dict[str, torch.Tensor]) -> Pairs:
    return _pairs(assign_best_anchor(case["gt"], case["valid"], GRIDS, TOTAL))


def _as_sets(matches: Pairs) -> set[tuple[int, int, int]]:
    triples = list(zip(*(one.tolist() for one in matches), strict=True))
    assert len(triples) == len(set(triples))
    return set(triples)


def _iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height + 1e-7)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _near(gt: list[float]) -> list[int]:
    """The predictions of the four cells whose centers are nearest, on each level."""
    near = []
    for number, level, row, column, _ in PREDICTIONS:
        stride = STRIDES[level]
        across = column + 0.5 - (gt[0] + gt[2]) / 2 / stride
        down = row + 0.5 - (gt[1] + gt[3]) / 2 / stride
        if -1 < across <= 1 and -1 < down <= 1:
            near.append(number)
    return near


def _slow_dynamic(case: dict[str, torch.Tensor]) -> set[tuple[int, int, int]]:
    result = _slow_best_anchor(case)  # these stand, whatever they cost
    kept = {(image, number) for image, number, _ in result}
    for image in range(len(case["gt"])):
        wishes: dict[int, list[tuple[float, int]]] = {}
        for index, gt in enumerate(case["gt"][image].tolist()):
            if not case["valid"][image, index]:
                continue
            overlaps, costs = [], []
            for number in _near(gt):
                overlap = _iou(case["boxes"][image, number].tolist(), gt)
                chance = _sigmoid(case["objectness"][image, number].item())
                cost = -3 * math.log(overlap + 1e-8)
                for k, logit in enumerate(case["classes"][image, number].tolist()):
                    score = math.sqrt(chance * _sigmoid(logit))
                    right = k == case["ids"][image, index]
                    cost -= math.log(score if right else 1 - score)
                overlaps.append(overlap)
                costs.append((cost, number))
            count = max(1, int(sum(sorted(overlaps, reverse=True)[:10])))
            for cost, number in sorted(costs)[:count]:
                wishes.setdefault(number, []).append((cost, index))
        for number, rivals in wishes.items():
            if (image, number) not in kept:
                result.add((image, number, min(rivals)[1]))
    return result


def _slow_best_anchor(case: dict[str, torch.Tensor]) -> set[tuple[int, int, int]]:
    result = set()
    for image in range(len(case["gt"])):
        wishes: dict[int, list[tuple[float, int]]] = {}
        for index, gt in enumerate(case["gt"][image].tolist()):
            if not case["valid"][image, index]:
                continue
            size = [max(1e-3, gt[2] - gt[0]), max(1e-3, gt[3] - gt[1])]
            fits = []
            for number, level, row, column, anchor in PREDICTIONS:
                stride, grid = STRIDES[level], GRIDS[level]
                own_column = min(grid.width - 1, int((gt[0] + gt[2]) / 2 // stride))
                own_row = min(grid.height - 1, int((gt[1] + gt[3]) / 2 // stride))
                if (row, column) == (own_row, own_column):
                    shape = ANCHORS[level][anchor].tolist()
                    inner = min(size[0], shape[0]) * min(size[1], shape[1])
                    union = size[0] * size[1] + shape[0] * shape[1] - inner
                    fits.append((inner / union, number))
            best = max(fit for fit, _ in fits)
            for fit, number in fits:
                if fit == best:
                    wishes.setdefault(number, []).append((size[0] * size[1], index))
        for number, rivals in wishes.items():
            result.add((image, number, min(rivals)[1]))
    return result


@pytest.mark.parametrize("seed", range(12))
def test_dynamic_assignment_is_the_plain_loops(seed: int):
    case = _case(seed)
    assert _as_sets(_dynamic(case)) == _slow_dynamic(case)


@pytest.mark.parametrize("seed", range(12))
def test_best_anchor_assignment_is_the_plain_loops(seed: int):
    case = _case(seed)
    found = _best_anchor(case)
    assert _as_sets(found) == _slow_best_anchor(case)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("objects", [7, 60])
def test_what_holds_of_every_dynamic_assignment(seed: int, objects: int):
    case = _case(seed, objects)
    matches = _dynamic(case)
    taken = list(zip(matches.image.tolist(), matches.prediction.tolist(), strict=True))
    assert len(taken) == len(set(taken))  # each prediction at most once
    assert case["valid"][matches.image, matches.gt].all()
    served = set(zip(matches.image.tolist(), matches.gt.tolist(), strict=True))
    for image, gt in case["valid"].nonzero().tolist():
        near = _near(case["gt"][image, gt].tolist())
        if (image, gt) not in served:  # then others took some of what it could have
            assert any((image, number) in taken for number in near)


def test_a_single_object_always_gets_a_prediction_wherever_it_is():
    case = {name: tensor[:1] for name, tensor in _case(0, objects=1).items()}
    for x in (0.0, 0.1, 8.0, 16.0, 31.9, 64.0, 127.0, 128.0):
        for y in (0.0, 7.9, 48.0, 95.9, 96.0):
            case["gt"] = torch.tensor([[[x, y, x, y]]], dtype=torch.float64)
            assert len(_dynamic(case).gt) >= 1, (x, y)
            assert len(_best_anchor(case).gt) >= 1


def test_number_of_matches_follows_the_overlap():
    """Predictions that cover the object exactly: k is their number, at most ten of twenty-four."""
    gt = torch.tensor([[[40.0, 40, 70, 70]]], dtype=torch.float64)
    case = {
        "boxes": gt.expand(1, TOTAL, 4).clone(),
        "objectness": torch.zeros(1, TOTAL, dtype=torch.float64),
        "classes": torch.zeros(1, TOTAL, CLASSES, dtype=torch.float64),
        "gt": gt,
        "ids": torch.zeros(1, 1, dtype=torch.long),
        "valid": torch.ones(1, 1, dtype=torch.bool),
    }
    # Each overlap is 1 less a trace, so that ten of them sum to just below 10. All cost the same:
    # the nine are the first, on the coarse level, and the best anchor of the fine one is kept too.
    assert len(_dynamic(case).gt) == 9 + 1
    case["boxes"] = gt.expand(1, TOTAL, 4) + torch.tensor([30.0, 0, 30, 0], dtype=torch.float64)
    matches = _dynamic(case)
    own = _best_anchor(case)
    assert len(own.gt) == 2  # the anchor 30 x 30 stands on both levels
    assert set(own.prediction.tolist()) <= set(matches.prediction.tolist())
    assert len(matches.gt) <= 3


def test_every_object_keeps_its_best_anchor_amid_large_ones_that_fit_better():
    """A small object in the middle of a large one, whose boxes all predictions give."""
    large, small = [20.0, 20, 100, 90], [57.0, 50, 67, 62]
    case = {name: tensor[:1].clone() for name, tensor in _case(0, objects=2).items()}
    case["gt"] = torch.tensor([[large, small]], dtype=torch.float64)
    case["boxes"] = case["gt"][:, :1].expand(1, TOTAL, 4).clone()
    matches = _dynamic(case)
    own = _best_anchor(case)
    assert _as_sets(own) <= _as_sets(matches)
    assert (own.gt == 1).any()


def test_the_cheaper_class_wins_between_equal_boxes():
    case = {name: tensor[:1].clone() for name, tensor in _case(0, objects=1).items()}
    case["boxes"] = case["gt"].expand(1, TOTAL, 4) * 0.9
    case["objectness"].zero_()
    case["classes"].zero_()
    near = _near(case["gt"][0, 0].tolist())
    case["classes"][0, near[5], case["ids"][0, 0]] = 4.0
    rank = _dynamic(case).prediction.tolist()
    assert near[5] in rank


def test_zero_objects_give_no_matches():
    case = _case(0, objects=1)
    empty = {**case, "gt": case["gt"][:, :0], "ids": case["ids"][:, :0]}
    empty["valid"] = case["valid"][:, :0]
    padded = {**case, "valid": torch.zeros_like(case["valid"])}
    for one in (empty, padded):
        assert len(_dynamic(one).gt) == 0
        assert len(_best_anchor(one).gt) == 0


def test_the_first_of_two_equal_labels_keeps_the_predictions():
    case = _case(3)
    matches = _dynamic(case)
    of_first = matches.gt[matches.image == 0]
    assert (of_first == 0).any()
    assert not (of_first == 1).any()


def test_the_smaller_object_wins_its_cell_in_classic():
    case = _case(0)
    found = _best_anchor(case)
    # Objects 0 and 1 of image 1 have the same cell and best anchor, which both levels have.
    assert (found.gt[found.image == 1] == 1).sum() == 2
    assert not (found.gt[found.image == 1] == 0).any()


def test_no_gradient_is_recorded_and_inputs_stay():
    case = _case(1)
    for name in ("boxes", "objectness", "classes"):
        case[name].requires_grad_()
    before = {name: tensor.detach().clone() for name, tensor in case.items()}
    matches = _dynamic(case)
    assert not any(one.requires_grad for one in matches)
    assert all(torch.equal(before[name], case[name]) for name in case)


def test_works_under_autocast():
    case = _case(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = _dynamic(case)
    assert _as_sets(under) == _as_sets(_dynamic(case))
