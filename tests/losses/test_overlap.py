"""IoU and CIoU against the formulas written out for one pair of boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from attendet.boxes import iou_matrix  # noqa: E402
from attendet.losses import compute_ciou, compute_iou  # noqa: E402

Box = tuple[float, float, float, float]

boxes_st = st.tuples(
    st.floats(-50, 400), st.floats(-50, 400), st.floats(0.5, 300), st.floats(0.5, 300)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def _slow_iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _slow_ciou(a: Box, b: Box) -> float:
    """Zheng et al. 2020, equations 7 and 8 to 11, in the order of the paper."""
    iou = _slow_iou(a, b)
    ax, ay, bx, by = (a[0] + a[2]) / 2, (a[1] + a[3]) / 2, (b[0] + b[2]) / 2, (b[1] + b[3]) / 2
    rho = math.hypot(ax - bx, ay - by)
    c = math.hypot(max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1]))
    aspect_a = math.atan((a[2] - a[0]) / (a[3] - a[1]))
    aspect_b = math.atan((b[2] - b[0]) / (b[3] - b[1]))
    v = 4 / math.pi**2 * (aspect_b - aspect_a) ** 2
    alpha = v / ((1 - iou) + v) if v > 0 else 0.0
    return iou - rho**2 / c**2 - alpha * v


@given(boxes_st, boxes_st)
def test_against_the_formulas(a: Box, b: Box):
    first, second = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    ciou, iou = compute_ciou(first, second)
    assert iou.item() == pytest.approx(_slow_iou(a, b), abs=1e-5)
    assert compute_iou(first, second).item() == pytest.approx(_slow_iou(a, b), abs=1e-5)
    assert ciou.item() == pytest.approx(_slow_ciou(a, b), abs=1e-5)
    assert -1.5 <= ciou.item() <= iou.item() <= 1


def test_iou_agrees_with_the_packages_other_one():
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 100, (2, 20, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(1, 60, (2, 20, 2))], axis=2)
    a, b = torch.from_numpy(boxes[0]), torch.from_numpy(boxes[1])
    np.testing.assert_allclose(compute_iou(a[:, None], b), iou_matrix(*boxes), atol=1e-6)


def test_by_hand():
    square, shifted = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])
    ciou, iou = compute_ciou(square, shifted)
    assert iou.item() == pytest.approx(1 / 3, abs=1e-6)
    assert ciou.item() == pytest.approx(1 / 3 - 1 / 13, abs=1e-6)
    apart = torch.tensor([[8.0, 0, 10, 2]])
    assert compute_ciou(square, apart)[0].item() == pytest.approx(-64 / 104, abs=1e-6)
    assert compute_ciou(square, square)[0].item() == pytest.approx(1, abs=1e-6)


def test_shape_of_nothing():
    ciou, iou = compute_ciou(torch.zeros(0, 4), torch.zeros(0, 4))
    assert ciou.shape == iou.shape == (0,)


def test_gradient_where_the_boxes_are_apart_points_at_the_gt():
    predicted = torch.tensor([[50.0, 50, 60, 60]], requires_grad=True)
    gt = torch.tensor([[0.0, 0, 10, 10]])
    (1 - compute_ciou(predicted, gt)[0]).sum().backward()
    left, top, right, bottom = predicted.grad[0].tolist()
    assert left + right > 0  # a step against the gradient moves it left
    assert top + bottom > 0


def test_gradient_is_that_of_finite_differences_with_a_fixed_trade_off():
    predicted = torch.tensor([[3.0, 4, 30, 20]], dtype=torch.float64, requires_grad=True)
    gt = torch.tensor([[5.0, 2, 24, 26]], dtype=torch.float64)
    compute_ciou(predicted, gt)[0].sum().backward()
    box, target = predicted.detach()[0].tolist(), tuple(gt[0].tolist())

    def fixed(changed: list[float], alpha: float) -> float:
        width, height = changed[2] - changed[0], changed[3] - changed[1]
        v = 4 / math.pi**2 * (math.atan(19 / 24) - math.atan(width / height)) ** 2
        whole = _slow_ciou(tuple(changed), target)  # type: ignore[arg-type]
        own = v / (1 - _slow_iou(tuple(changed), target) + v)  # type: ignore[arg-type]
        return whole + own * v - alpha * v

    v = 4 / math.pi**2 * (math.atan(19 / 24) - math.atan(27 / 16)) ** 2
    alpha = v / (1 - _slow_iou(tuple(box), target) + v)  # type: ignore[arg-type]
    for side in range(4):
        up, down = box.copy(), box.copy()
        up[side], down[side] = up[side] + 1e-5, down[side] - 1e-5
        slope = (fixed(up, alpha) - fixed(down, alpha)) / 2e-5
        assert predicted.grad[0, side].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("predicted", "gt"),
    [
        ([5.0, 5, 5, 5], [5.0, 5, 5, 5]),  # two points, the same
        ([5.0, 5, 5, 5], [0.0, 0, 10, 10]),  # a point inside
        ([0.0, 0, 10, 10], [5.0, 5, 5, 5]),
        ([0.0, 5, 10, 5], [5.0, 0, 5, 10]),  # two lines, crossing
        ([0.0, 0, 10, 0], [0.0, 0, 10, 10]),
        ([0.0, 0, 10, 10], [0.0, 0, 10, 10]),  # the same box
        ([0.0, 0, 10, 10], [10.0, 0, 20, 10]),  # touching
        ([-1e6, -1e6, 1e6, 1e6], [5.0, 5, 5.1, 5.1]),  # as large as decoding can be
        ([0.0, 0, 1e-20, 1e-20], [0.0, 0, 10, 10]),
    ],
)
def test_value_and_gradient_are_finite_for_degenerate_boxes(
    predicted: list[float], gt: list[float]
):
    box = torch.tensor([predicted], requires_grad=True)
    ciou, iou = compute_ciou(box, torch.tensor([gt]))
    assert ciou.isfinite().all()
    assert 0 <= iou.item() <= 1
    (1 - ciou).sum().backward()
    assert box.grad.isfinite().all()
