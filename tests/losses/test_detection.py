"""The loss terms: cases worked by hand, where gradients go, and its normalizer."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attendet.errors import ConfigError  # noqa: E402
from attendet.losses import (  # noqa: E402
    DetectionLoss,
    LossConfig,
    Targets,
    assign_dynamic,
    compute_ciou,
)
from attendet.losses.detection import logits_of_softmax  # noqa: E402
from attendet.models import STRIDES, build, decode_maps  # noqa: E402

LN2 = math.log(2)
ANCHOR = torch.tensor([[32.0, 32.0]])


def _criterion(**settings: object) -> DetectionLoss:
    """One level of 32 px cells with one anchor of one cell's size."""
    return DetectionLoss([ANCHOR], (32,), 1.0, LossConfig(**settings))  # type: ignore[arg-type]


def _targets(*boxes: tuple[float, float, float, float], ids: tuple[int, ...] = ()) -> Targets:
    gt = torch.tensor([boxes], dtype=torch.float32).view(1, len(boxes), 4)
    return gt, torch.tensor([ids or (0,) * len(boxes)]), torch.ones(1, len(boxes)).bool()


def _bce(logit: float, target: float) -> float:
    return math.log1p(math.exp(-logit)) * target + math.log1p(math.exp(logit)) * (1 - target)


def _flat_map(classes: int = 2, cells: int = 2) -> torch.Tensor:
    """All logits 0: each prediction is its anchor in the middle of its cell."""
    return torch.zeros(1, 5 + classes, cells, cells)


# --- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ["dynamic", "classic"])
def test_an_object_that_is_exactly_predicted(assignment: str):
    terms = _criterion(assignment=assignment)([_flat_map()], _targets((0, 0, 32, 32)))
    assert terms["box"].item() == pytest.approx(0, abs=1e-5)
    assert terms["objectness"].item() == pytest.approx(4 * LN2)  # four cells at 1/2
    assert terms["class"].item() == pytest.approx(2 * LN2)  # two classes at 1/2


def test_half_an_object_by_hand():
    """Ground truth 32 x 16 in the upper half of cell 0: IoU 1/2, centers 8 px apart."""
    raw_map = _flat_map()
    raw_map[0, 4] = torch.tensor([[1.0, -2.0], [-2.0, -2.0]])
    raw_map[0, 5:, 0, 0] = torch.tensor([0.5, -1.5])
    terms = _criterion()([raw_map], _targets((0, 0, 32, 16), ids=(1,)))
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    ciou = 1 / 2 - 64 / (32**2 + 32**2) - v * v / (1 / 2 + v)
    assert terms["box"].item() == pytest.approx(5 * (1 - ciou), rel=1e-5)
    # The target of the match is its IoU; three cells are background.
    assert terms["objectness"].item() == pytest.approx(_bce(1, 0.5) + 3 * _bce(-2, 0), rel=1e-5)
    assert terms["class"].item() == pytest.approx(_bce(0.5, 0) + _bce(-1.5, 1), rel=1e-5)


def test_half_an_object_by_hand_in_classic():
    raw_map = _flat_map()
    raw_map[0, 4] = torch.tensor([[1.0, -2.0], [-2.0, -2.0]])
    settings = {"assignment": "classic", "box_weight": 2.0}
    terms = _criterion(**settings)([raw_map], _targets((0, 0, 32, 16)))
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    ciou = 1 / 2 - 64 / (32**2 + 32**2) - v * v / (1 / 2 + v)
    small = 2 - 32 * 16 / 64**2  # small objects count up to double
    assert terms["box"].item() == pytest.approx(2 * small * (1 - ciou), rel=1e-5)
    assert terms["objectness"].item() == pytest.approx(_bce(1, 1) + 3 * _bce(-2, 0), rel=1e-5)


def test_weights_scale_their_own_term():
    targets = _targets((3, 5, 30, 20))
    plain = _criterion(box_weight=1.0)([_flat_map()], targets)
    scaled = _criterion(box_weight=3.0, objectness_weight=0.5, class_weight=0.0)
    terms = scaled([_flat_map()], targets)
    assert terms["box"].item() == pytest.approx(3 * plain["box"].item())
    assert terms["objectness"].item() == pytest.approx(plain["objectness"].item() / 2)
    assert terms["class"].item() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_label_smoothing_by_hand(smoothing: float):
    raw_map = _flat_map(classes=4)
    raw_map[0, 5:, 0, 0] = torch.tensor([2.0, -1.0, 0.5, -3.0])
    terms = _criterion(label_smoothing=smoothing)([raw_map], _targets((0, 0, 32, 32), ids=(2,)))
    rest = smoothing / 4
    expected = sum(_bce(x, rest) for x in (2.0, -1.0, -3.0)) + _bce(0.5, 1 - smoothing + rest)
    assert terms["class"].item() == pytest.approx(expected, rel=1e-5)


def test_classic_does_not_call_good_predictions_background():
    """Cell (0, 1) predicts the object with IoU 0.6 but its cell is another: not counted."""
    raw_map = _flat_map()
    raw_map[0, 0, 0, 1] = -50.0  # x of the right cell's prediction: its left edge, 32
    targets = _targets((8, 0, 40, 32))  # center 24: cell 0; IoU with (16, 0, 48, 32) is 24 / 40
    assert 24 / 40 > 0.5
    counted = {}
    for ignore in (0.5, 0.7):
        criterion = _criterion(assignment="classic", ignore_iou=ignore)
        counted[ignore] = criterion([raw_map], targets)["objectness"].item()
    assert counted[0.5] == pytest.approx(3 * LN2)
    assert counted[0.7] == pytest.approx(4 * LN2)


def test_classic_counts_the_match_itself_however_well_it_fits():
    raw_map = _flat_map().requires_grad_()
    _criterion(assignment="classic")([raw_map], _targets((0, 0, 32, 32)))["objectness"].backward()
    assert raw_map.grad[0, 4, 0, 0] == pytest.approx(-0.5)


# --- nothing to find -----------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ["dynamic", "classic"])
@pytest.mark.parametrize("places", [0, 3])
def test_zero_objects_are_finite_and_teach_background(assignment: str, places: int):
    raw_map = torch.randn(1, 7, 2, 2, requires_grad=True)
    targets = (
        torch.zeros(1, places, 4),
        torch.zeros(1, places, dtype=torch.long),
        torch.zeros(1, places, dtype=torch.bool),
    )
    terms = _criterion(assignment=assignment)([raw_map], targets)
    assert terms["box"] == terms["class"] == 0
    expected = sum(_bce(x, 0) for x in raw_map[0, 4].flatten().tolist())
    assert terms["objectness"].item() == pytest.approx(expected, rel=1e-5)
    sum(terms.values()).backward()
    assert (raw_map.grad[0, 4] > 0).all()
    assert not raw_map.grad[0, :4].any()
    assert not raw_map.grad[0, 5:].any()


@pytest.mark.parametrize("assignment", ["dynamic", "classic"])
def test_padded_places_play_no_part(assignment: str):
    raw_map = torch.randn(1, 7, 2, 2)
    boxes, ids, valid = _targets((3, 5, 30, 20), ids=(1,))
    padded = (
        torch.cat([boxes, torch.tensor([[[1.0, 2, 60, 50], [9e9, -3, 5, 5]]])], 1),
        torch.cat([ids, torch.tensor([[-1, 99]])], 1),
        torch.cat([valid, torch.tensor([[False, False]])], 1),
    )
    criterion = _criterion(assignment=assignment)
    plain, with_padding = criterion([raw_map], (boxes, ids, valid)), criterion([raw_map], padded)
    for name, term in plain.items():
        assert with_padding[name].item() == pytest.approx(term.item(), rel=1e-6), name


def test_a_softmax_by_hand():
    """Logits 0 and 1: the softmax of each is the sigmoid of -1 and 1."""
    raw_map = _flat_map()
    raw_map[0, 6] = 1.0
    criterion = DetectionLoss([ANCHOR], (32,), 1.0, codings="region")
    terms = criterion([raw_map], _targets((0, 0, 32, 32), ids=(1,)))
    assert terms["class"].item() == pytest.approx(2 * _bce(1.0, 1.0))


@pytest.mark.parametrize("size", [1.0, 20.0, 200.0])
def test_logits_of_softmax(size: float):
    logits = torch.linspace(-size, size, 5).requires_grad_()
    found = logits_of_softmax(logits)
    torch.testing.assert_close(found.sigmoid(), logits.softmax(-1), atol=2e-6, rtol=1e-5)
    found.sum().backward()
    assert found.isfinite().all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("coding", ["yolo", "new_coords", "region"])
def test_descent_ends_at_the_object_in_every_coding(coding: Any):
    raw_map = torch.zeros(1, 8, 2, 2, requires_grad=True)
    targets = _targets((34, 4, 60, 50), ids=(2,))
    criterion = DetectionLoss([ANCHOR], (32,), 1.0, codings=coding)
    optimizer = torch.optim.Adam([raw_map], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        sum(criterion([raw_map], targets).values()).backward()
        optimizer.step()
    boxes, scores = decode_maps([raw_map.detach()], [ANCHOR], (32,), 1.0, coding)
    best = scores[0].amax(1).argmax()
    assert scores[0, best].argmax() == 2
    assert scores[0, best, 2] > 0.9
    assert boxes[0, best].tolist() == pytest.approx([34, 4, 60, 50], abs=0.5)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ["dynamic", "classic"])
def test_each_term_teaches_its_own_logits_alone(assignment: str):
    targets = _targets((4, 6, 30, 26), ids=(1,))
    where = {}
    for name in ("box", "objectness", "class"):
        raw_map = _flat_map()
        raw_map[0, 4] = 0.5  # at 0 the target's own slope would vanish
        raw_map.requires_grad_()
        _criterion(assignment=assignment)([raw_map], targets)[name].backward()
        where[name] = raw_map.grad[0] != 0
    matched = torch.zeros(2, 2, dtype=torch.bool)
    matched[0, 0] = True
    assert not where["box"][4:].any()
    assert not where["box"][:4, ~matched].any()
    assert where["box"][:4, matched].any()
    assert where["objectness"][4].all()  # its targets, IoU, carry no gradient to the boxes
    assert not where["objectness"][:4].any()
    assert not where["objectness"][5:].any()
    assert torch.equal(where["class"][5:], matched.expand(2, 2, 2))
    assert not where["class"][:5].any()


@pytest.mark.parametrize("assignment", ["dynamic", "classic"])
def test_a_small_network_learns_one_image(assignment: str):
    torch.manual_seed(0)
    network = build(classes=["a", "b"], width_mult=0.125)
    settings = LossConfig(assignment=assignment)  # type: ignore[arg-type]
    criterion = DetectionLoss(network.level_anchors, STRIDES, network.scale_x_y, settings)
    images = torch.rand(2, 3, 64, 64)
    targets = (
        torch.tensor([[[4.0, 6, 40, 44], [40, 30, 62, 60]], [[10, 10, 50, 50], [0, 0, 0, 0]]]),
        torch.tensor([[0, 1], [1, 0]]),
        torch.tensor([[True, True], [True, False]]),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        terms = criterion(network(images), targets)
        loss = terms["box"] + terms["objectness"] + terms["class"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    assert min(losses[-5:]) < losses[0] / 2


def test_raw_maps_in_bfloat16_give_float32_terms_near_the_exact_ones():
    torch.manual_seed(0)
    raw_map = torch.randn(1, 7, 4, 4).bfloat16()
    targets = _targets((4, 6, 60, 56), (70, 70, 120, 110))
    terms, exact = _criterion()([raw_map], targets), _criterion()([raw_map.float()], targets)
    for name, term in terms.items():
        assert term.dtype == torch.float32
        assert torch.equal(term, exact[name])


# --- the normalizer ------------------------------------------------------------------------------


def test_terms_are_divided_by_the_matches():
    one = _criterion()([_flat_map(cells=4)], _targets((0, 0, 32, 32)))
    two = _criterion()([_flat_map(cells=4)], _targets((0, 0, 32, 32), (64, 64, 96, 96)))
    assert two["class"].item() == pytest.approx(one["class"].item())
    assert two["objectness"].item() == pytest.approx(one["objectness"].item() / 2)


def test_an_object_with_k_matches_weighs_the_root_of_k():
    """Box and class terms of dynamic, from its matches."""
    torch.manual_seed(0)
    raw_map = torch.randn(1, 7, 4, 4)
    raw_map[:, :4] *= 0.3
    # The four cells of this corner all predict 64 x 64 px around (32, 32), the large object.
    raw_map[0, 2:4, :2, :2] = math.log(2)
    raw_map[0, 0, :2, :2] = torch.tensor([3.0, -3.0])
    raw_map[0, 1, :2, :2] = torch.tensor([[3.0], [-3.0]])
    gt, ids, valid = _targets((6, 6, 62, 60), (100, 100, 110, 112), ids=(0, 1))
    criterion = _criterion(box_weight=1.0)
    boxes, objectness, classes, grids = criterion._predictions([raw_map])
    matches = assign_dynamic(boxes, objectness, classes, gt, ids, valid, grids)
    image, gt_row, candidate = matches.kept.nonzero(as_tuple=True)
    numbers = torch.bincount(gt_row)
    assert numbers[0] > numbers[1] == 1
    weights = 1 / numbers[gt_row].sqrt()
    at = (image, matches.prediction[image, gt_row, candidate])
    wanted = torch.nn.functional.one_hot(ids[0, gt_row], 2).float()
    bce = torch.nn.functional.binary_cross_entropy_with_logits(
        classes[at], wanted, reduction="none"
    )
    ciou, _ = compute_ciou(boxes[at], gt[image, gt_row])

    terms = criterion([raw_map], (gt, ids, valid))

    def mean(values: torch.Tensor) -> float:
        return ((values * weights).sum() / weights.sum()).item()

    assert terms["box"].item() == pytest.approx(mean(1 - ciou), rel=1e-5)
    assert terms["class"].item() == pytest.approx(mean(bce.sum(dim=1)), rel=1e-5)


def test_average_matches_makes_the_mean_over_processes_the_whole_batchs_loss():
    """Two halves of a batch with three and one objects, as two processes would see them."""
    torch.manual_seed(0)
    raw_map = torch.randn(2, 7, 4, 4)
    gt = torch.zeros(2, 3, 4)
    gt[0] = torch.tensor([[0.0, 0, 32, 32], [64, 64, 96, 96], [40, 0, 60, 30]])
    gt[1, 0] = torch.tensor([30.0, 80, 64, 120])
    ids = torch.zeros(2, 3, dtype=torch.long)
    valid = torch.tensor([[True, True, True], [True, False, False]])
    criterion = _criterion()
    whole = criterion([raw_map], (gt, ids, valid))
    counts = []

    def record(count: torch.Tensor) -> torch.Tensor:
        counts.append(count)
        return count

    halves = [(raw_map[i : i + 1], gt[i : i + 1], ids[i : i + 1], valid[i : i + 1]) for i in (0, 1)]
    for part, *targets in halves:
        criterion([part], tuple(targets), average_matches=record)
    mean = torch.stack(counts).mean(dim=0)
    assert not torch.equal(counts[0], counts[1])
    terms = [
        criterion([part], tuple(targets), average_matches=lambda count: mean)
        for part, *targets in halves
    ]
    for name, term in whole.items():
        assert (terms[0][name] + terms[1][name]).item() / 2 == pytest.approx(term.item(), rel=1e-5)


def test_no_match_on_any_process_does_not_divide_by_zero():
    targets = (torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1) > 0)
    terms = _criterion()([_flat_map()], targets, average_matches=lambda count: count * 0)
    assert terms["objectness"].item() == pytest.approx(4 * LN2)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assignment": "clasic"}, r"assignment must be a known name.*'classic'\?"),
        ({"box_weight": -1.0}, "box_weight must be at least 0"),
        ({"class_weight": float("nan")}, "class_weight must be at least 0"),
        ({"ignore_iou": 50}, "ignore_iou must be from 0 to 1"),
        ({"label_smoothing": 1.0}, "label_smoothing must be from 0 to below 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        LossConfig(**settings)  # type: ignore[arg-type]


def test_levels_must_be_as_many_as_maps():
    with pytest.raises(ValueError, match="zip"):
        _criterion()([_flat_map(), _flat_map()], _targets((0, 0, 32, 32)))
