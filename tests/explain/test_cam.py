from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_grad_cam")

from attendet.explain.cam import cam_layer, class_activation_maps  # noqa: E402
from attendet.images import Letterbox  # noqa: E402
from attendet.inference.postprocess import Selection, select_boxes, select_detections  # noqa: E402
from attendet.models import GraphDetector  # noqa: E402
from attendet.models.graph import (  # noqa: E402
    Convolutional,
    Graph,
    Route,
    Yolo,
)

FIT = Letterbox.for_image((64, 64), (64, 64))


@pytest.fixture
def padded() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def outputs(network, padded):
    images = torch.from_numpy(padded)[None].permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        boxes_xyxy, scores = network.decode(network(images))
    return boxes_xyxy[0].numpy(), scores[0].numpy()


def detected_rows(boxes_xyxy, scores, selection):
    rows, class_ids, _ = select_boxes(boxes_xyxy, scores, FIT, selection)
    return {int(index): rows[class_ids == index] for index in np.unique(class_ids)}


def test_selected_boxes_are_those_of_the_detections(tiny, padded):
    network, metadata = tiny()
    boxes_xyxy, scores = outputs(network, padded)
    selection = Selection(0.2, 0.5, 20)

    rows, class_ids, _ = select_boxes(boxes_xyxy, scores, FIT, selection)
    found = select_detections(boxes_xyxy, scores, FIT, metadata.classes, selection)

    assert len(found) > 2
    np.testing.assert_array_equal(scores[rows, class_ids], found.scores)
    np.testing.assert_array_equal(class_ids, found.class_ids)


def test_no_detection_gives_no_map(tiny, padded):
    nothing = np.zeros((3, 4), np.float32), np.zeros((3, 2), np.float32)
    assert detected_rows(*nothing, Selection()) == {}
    assert class_activation_maps(tiny()[0], padded, {}) == {}


@pytest.mark.parametrize("head", [False, True], ids=["default", "head"])
def test_the_map_is_layer_cam_of_the_summed_scores(tiny, padded, head):
    network, _ = tiny("se@p5")
    boxes_xyxy, scores = outputs(network, padded)
    rows = detected_rows(boxes_xyxy, scores, Selection(0.2))

    layer = network.head_p5 if head else cam_layer(network)
    maps = class_activation_maps(network, padded, rows, layer=layer if head else None)

    assert set(maps) == set(rows)
    images = torch.from_numpy(padded)[None].permute(0, 3, 1, 2) / 255
    kept = []
    hook = layer.register_forward_hook(lambda *parts: kept.append(parts[2]))
    every = network.decode(network(images))[1][0]
    hook.remove()
    highest = 0.0
    for class_id, wanted in rows.items():
        (gradient,) = torch.autograd.grad(every[wanted, class_id].sum(), kept, retain_graph=True)
        part = (gradient.clamp(min=0) * kept[0]).sum(1)[0].clamp(min=0).detach().numpy()
        expected = cv2.resize(part, (64, 64))
        highest = max(highest, expected.max())
        np.testing.assert_allclose(maps[class_id], expected, rtol=1e-4, atol=1e-7)
    assert highest > 0


def test_the_network_is_unchanged_afterwards(tiny, padded):
    network, _ = tiny()
    first = next(network.parameters())
    first.requires_grad_(False)
    last = list(network.parameters())[-1]
    last.grad = torch.ones_like(last)

    class_activation_maps(network, padded, {0: np.arange(2)})

    asked = [parameter.requires_grad for parameter in network.parameters()]
    assert asked.count(False) == 1
    assert not first.requires_grad
    assert (last.grad == 1).all()
    assert first.grad is None
    assert not any(module._forward_hooks for module in network.modules())


def test_the_layer_is_the_last_that_all_outputs_depend_on():
    def conv(size, stride=1):
        return Convolutional(7, size, stride, size // 2, activation="linear")

    line = (conv(3, 2), conv(3), conv(3), conv(1))
    forked = (conv(3, 2), conv(3), conv(3), conv(1), Yolo(), Route((1,)), conv(3), conv(1))

    for layers, expected in ((line, 0), (forked, 1)):
        made = Graph((*layers, Yolo()))
        anchors = [[(10, 20)]] * len(made.yolo_layers)
        network = GraphDetector(made, 2, anchors, input_hw=(64, 64))
        assert cam_layer(network) is network.layers[expected]
        maps = class_activation_maps(
            network.eval(), np.full((64, 64, 3), 90, np.uint8), {1: np.arange(3)}
        )
        assert maps[1].shape == (64, 64)
