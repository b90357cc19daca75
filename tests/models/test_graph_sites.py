from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from attendet.errors import ConfigError  # noqa: E402
from attendet.interop.darknet.convert import convolutions_of, reference_graph  # noqa: E402
from attendet.models import GraphDetector, YoloV4Tiny, canonical_attention  # noqa: E402
from attendet.models.graph import (  # noqa: E402
    Convolutional,
    Graph,
    Layer,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
)
from attendet.models.graph_sites import backbone_layers, default_sites, graph_sites  # noqa: E402

ANCHORS = [[(81, 82)] * 3, [(23, 27)] * 3]
REFERENCE = reference_graph(16, (21, 21))


def conv(filters: int, size: int = 3, stride: int = 1) -> Convolutional:
    return Convolutional(filters, size, stride, size // 2, batch_normalize=True, activation="leaky")


def out() -> Convolutional:
    return Convolutional(6, activation="linear")


def named(graph: Graph) -> dict[str, int]:
    return {
        name: site.layer
        for name, site in graph_sites(graph).items()
        if not name.startswith("layer")
    }


def residual_network(*, spatial_pyramid: bool = False) -> Graph:
    """A residual backbone as in YOLOv3 and Yolo-Fastest, with two levels."""
    layers: list[Layer] = [
        conv(8, stride=2),  # 0, stride 2
        conv(8, stride=2),  # 1, stride 4
        conv(8),
        Shortcut((1,)),  # 3: end of stage1
        conv(16, 1),  # 4: widened before the next stage
        conv(8, stride=2),  # 5, stride 8
        conv(8),
        Shortcut((5,)),  # 7: end of stage2
        conv(8, stride=2),  # 8, stride 16
        conv(8),
        Shortcut((8,)),  # 10: end of stage3, p4
        conv(8, stride=2),  # 11, stride 32
        conv(8),
        Shortcut((11,)),  # 13: p5
    ]
    if spatial_pyramid:
        layers += [MaxPool(3, 1, 2), Route((13,)), MaxPool(5, 1, 4), Route((16, 14, 13))]
    squeezed = len(layers)
    layers += [conv(8, 1), conv(8), out(), Yolo(), Route((squeezed,)), Upsample(2)]
    layers += [Route((len(layers) - 1, 10)), conv(8), out(), Yolo()]
    return Graph(tuple(layers))


@pytest.mark.parametrize("spatial_pyramid", [False, True])
def test_sites_of_a_residual_network(spatial_pyramid: bool) -> None:
    graph = residual_network(spatial_pyramid=spatial_pyramid)
    up = next(i for i, layer in enumerate(graph.layers) if isinstance(layer, Upsample))
    assert named(graph) == {"stage1": 3, "stage2": 7, "stage3": 10, "p4": 10, "p5": 13, "up": up}
    assert default_sites(graph_sites(graph)) == ("p4", "p5", "up")


def test_the_backbone_ends_before_the_neck() -> None:
    assert backbone_layers(residual_network(spatial_pyramid=True)) == set(range(14))
    network = GraphDetector(REFERENCE, 2, ANCHORS, input_hw=(64, 64))
    reference = YoloV4Tiny(2, ANCHORS, width_mult=0.25)
    assert sum(one.numel() for one in network.backbone.parameters()) == sum(
        one.numel() for one in reference.backbone.parameters()
    )


def test_p4_is_gated_for_the_neck_only() -> None:
    graph = residual_network()
    sites = graph_sites(graph)
    assert sites["p4"].readers == {graph.layers.index(Route((19, 10)))}
    assert sites["stage3"].readers is None


def test_a_gate_for_all_readers_reaches_the_neck_through_p4() -> None:
    layer = f"layer{graph_sites(REFERENCE)['p4'].layer}"
    spec = {"p4": "se", layer: "se"}
    network = GraphDetector(REFERENCE, 2, ANCHORS, input_hw=(64, 64), attention=spec).eval()

    maps = network.features(torch.rand(1, 3, 64, 64))

    assert list(maps) == [layer, "p4"]
    assert torch.equal(maps["p4"], network.attention[layer](maps[layer]))


def test_sites_of_three_levels() -> None:
    backbone = [conv(8, stride=2) for _ in range(5)]  # 0 to 4, strides 2 to 32
    layers: list[Layer] = [*backbone, conv(8, 1), conv(8), out(), Yolo()]  # 5 to 8
    layers += [Route((5,)), conv(8, 1), Upsample(2), Route((11, 3)), conv(8), out(), Yolo()]
    layers += [Route((13,)), Upsample(2), Route((17, 2)), conv(8), out(), Yolo()]
    graph = Graph(tuple(layers))
    found = named(graph)
    assert {name: found[name] for name in ("p3", "p4", "p5", "up", "up2")} == {
        "p3": 2,
        "p4": 3,
        "p5": 4,
        "up": 11,
        "up2": 17,
    }


def test_a_network_without_upsample_has_stages_only() -> None:
    layers = [conv(8, stride=2) for _ in range(5)] + [conv(8), out(), Yolo()]
    graph = Graph(tuple(layers))
    assert named(graph) == {"stage1": 1, "stage2": 2, "stage3": 3, "stage4": 5}
    with pytest.raises(ConfigError, match="must name its sites"):
        canonical_attention("ca", graph)
    assert canonical_attention("ca@stage4", graph) == "ca@stage4"


def test_specs_of_the_reference_network_work_unchanged() -> None:
    assert canonical_attention("ca@up,p5,p4", REFERENCE) == "ca"
    assert canonical_attention("ca@up+se@stage2", REFERENCE) == "se@stage2+ca@up"
    assert canonical_attention("ca@layer2", REFERENCE) == "ca@layer2"
    with pytest.raises(ConfigError, match="Did you mean 'stage3'"):
        canonical_attention("ca@stage33", REFERENCE)


def copied(network: YoloV4Tiny, graph: GraphDetector) -> None:
    """Give a graph the weights of the reference network, attention included."""
    theirs = convolutions_of(graph)
    for index, (convolution, bn) in convolutions_of(network).items():
        theirs[index][0].load_state_dict(convolution.state_dict())
        if bn is not None:
            target: Any = theirs[index][1]
            target.load_state_dict(bn.state_dict())
    graph.attention.load_state_dict(network.attention.state_dict())


@pytest.mark.parametrize("sites", [("p4",), ("p5",), ("up",), ("p4", "p5", "up")])
@pytest.mark.parametrize("block", ["ca", "cbam"])
def test_attention_at_named_sites_gates_as_in_the_reference_network(
    sites: tuple[str, ...], block: str
) -> None:
    torch.manual_seed(0)
    spec = dict.fromkeys(sites, block)
    network = YoloV4Tiny(2, ANCHORS, spec, width_mult=0.25).eval()
    graph = GraphDetector(REFERENCE, 2, ANCHORS, input_hw=(64, 64), attention=spec).eval()
    copied(network, graph)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for own, reference in zip(graph(images), network(images), strict=True):
            torch.testing.assert_close(own, reference)
        features = graph.features(images)
        for site in sites:
            torch.testing.assert_close(features[site], network.features(images)[site])


def test_two_sites_of_one_layer_gate_one_after_the_other() -> None:
    torch.manual_seed(0)
    graph = residual_network()
    attention = {"stage3": "se", "p4": "ca"}
    network = GraphDetector(
        graph, 1, [[(20, 20)], [(10, 10)]], input_hw=(64, 64), attention=attention
    ).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = network.features(images)
        gated = network.attention["stage3"](maps["stage3"])
    torch.testing.assert_close(maps["p4"], gated)
