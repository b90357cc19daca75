from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

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
def test_the_map_is_that_of_the_grad_cam_library(tiny, padded, head):
    library = pytest.importorskip("pytorch_grad_cam")
    network, _ = tiny("se@p5")
    boxes_xyxy, scores = outputs(network, padded)
    rows = detected_rows(boxes_xyxy, scores, Selection(0.2))
    layer = network.head_p5 if head else cam_layer(network)

    maps = class_activation_maps(network, padded, rows, layer=layer if head else None)

    class Scores(torch.nn.Module):
        def forward(self, images):
            return self.network.decode(self.network(images))[1]

    model = Scores().eval()
    model.network = network
    images = torch.from_numpy(padded)[None].permute(0, 3, 1, 2) / 255
    assert set(maps) == set(rows)
    with library.LayerCAM(model, [layer]) as reference:
        for class_id, wanted in rows.items():
            target = lambda every, wanted=wanted, k=class_id: every[wanted, k].sum()  # noqa: E731
            expected = reference(images, [target])[0]  # scaled to 0..1
            values = maps[class_id]
            scaled = (values - values.min()) / (np.ptp(values) + 1e-7)
            np.testing.assert_allclose(scaled, expected, atol=1e-3)
    assert max(values.max() for values in maps.values()) > 0


def test_the_map_is_in_units_of_the_summed_score(tiny, padded):
    """Equation 5 worked on the only cell that a layer of one cell has."""
    network, _ = tiny()
    rows = np.arange(2)
    kept = []
    hook = network.conv_p5.register_forward_hook(lambda *call: kept.append(call[2]))
    score = network.decode(network(torch.from_numpy(padded)[None].permute(0, 3, 1, 2) / 255))[1]
    hook.remove()
    (slope,) = torch.autograd.grad(score[0, rows, 0].sum(), kept[0])

    found = class_activation_maps(network, padded, {0: rows}, layer=network.conv_p5)[0]

    cells = (slope.clamp(min=0) * kept[0]).sum(1)[0].clamp(min=0).detach().numpy()
    np.testing.assert_allclose(found, cv2.resize(cells, (64, 64)), rtol=1e-4, atol=1e-7)


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
        anchors = [[(10, 20)]] * len(made.outputs)
        network = GraphDetector(made, 2, anchors, input_hw=(64, 64))
        assert cam_layer(network) is network.layers[expected]
        maps = class_activation_maps(
            network.eval(), np.full((64, 64, 3), 90, np.uint8), {1: np.arange(3)}
        )
        assert maps[1].shape == (64, 64)
