"""The reference network: its size, its sites, its initial weights, its shapes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from attendet.attention import AttentionBlock  # noqa: E402
from attendet.errors import ConfigError  # noqa: E402
from attendet.models import (  # noqa: E402
    DEFAULT_ANCHORS,
    NECK_SITES,
    SITES,
    WeightsMetadata,
    YoloV4Tiny,
    build,
    build_from_metadata,
    canonical_attention,
    default_anchors,
    load_weights,
    save_weights,
)
from attendet.models.yolov4_tiny import reference_sites  # noqa: E402

CLASSES = [f"class {number}" for number in range(80)]
LEVELS = (((81, 82), (135, 169), (344, 319)), ((23, 27), (37, 58), (81, 82)))


def _small(attention: str = "none", seed: int = 0, **options: object) -> YoloV4Tiny:
    torch.manual_seed(seed)
    settings: dict[str, object] = {"classes": ["a", "b"], "width_mult": 0.125, **options}
    return build(attention=attention, **settings)  # type: ignore[arg-type]


def _parameters(network: YoloV4Tiny) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attention", "count"),
    [
        ("none", 6_056_606),
        ("se", 6_099_614),
        ("cbam", 6_142_916),
        ("eca", 6_056_621),
        ("ca", 6_121_230),
    ],
)
def test_parameters_of_the_published_network(attention: str, count: int):
    with torch.device("meta"):
        network = build(classes=CLASSES, attention=attention)
    assert _parameters(network) == count


def test_every_convolution_of_the_layer_table():
    """Widths, kernels and strides as in darknet's yolov4-tiny.cfg, in its order."""
    with torch.device("meta"):
        network = build(classes=CLASSES)
    table = [
        (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0])
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    csp = [
        conv
        for c in (64, 128, 256)
        for conv in ((c, c, 3, 1), (c // 2, c // 2, 3, 1), (c // 2, c // 2, 3, 1), (c, c, 1, 1))
    ]
    assert table == [
        (3, 32, 3, 2),
        (32, 64, 3, 2),
        *csp,
        (512, 512, 3, 1),
        (512, 256, 1, 1),
        (256, 512, 3, 1),
        (512, 255, 1, 1),
        (256, 128, 1, 1),
        (384, 256, 3, 1),
        (256, 255, 1, 1),
    ]


def test_the_graph_against_its_description_in_plain_operations():
    """The forward pass written out once more, from the words of the layer table."""
    network = _small().eval()
    for module in network.modules():  # statistics that are not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    state = network.state_dict()

    def conv(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.conv.weight"]
        y = torch.nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
        gain, bias = state[f"{name}.bn.weight"], state[f"{name}.bn.bias"]
        y = (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        y = y * gain[:, None, None] + bias[:, None, None]
        return torch.where(y > 0, y, 0.1 * y)

    def csp(name: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = conv(f"{name}.conv1", x)
        _, second_half = x.chunk(2, dim=1)
        earlier = conv(f"{name}.conv2", second_half)
        later = conv(f"{name}.conv3", earlier)
        small = conv(f"{name}.conv4", torch.cat([later, earlier], 1))
        return torch.nn.functional.max_pool2d(torch.cat([x, small], 1), 2), small

    x = torch.rand(2, 3, 64, 96)
    y = conv("backbone.conv2", conv("backbone.conv1", x, 2), 2)
    y, _ = csp("backbone.csp1", y)
    y, _ = csp("backbone.csp2", y)
    y, p4 = csp("backbone.csp3", y)
    squeezed = conv("conv_p5", conv("backbone.conv3", y))
    up = conv("conv_up", squeezed).repeat_interleave(2, 2).repeat_interleave(2, 3)
    heads = [conv("head_p5", squeezed), conv("head_p4", torch.cat([up, p4], 1))]
    for name, head, raw_map in zip(("out_p5", "out_p4"), heads, network(x), strict=True):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        expected = torch.nn.functional.conv2d(head, weight, bias)
        torch.testing.assert_close(raw_map, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "base"),
    [(1.0, 64), (0.5, 32), (0.25, 16), (0.3, 16), (0.125, 8), (0.01, 8), (2, 128)],
)
def test_width_scales_all_channels_in_steps_of_eight(width: float, base: int):
    with torch.device("meta"):
        network = build(classes=["a"], width_mult=width)
    assert network.backbone.conv1.conv.out_channels == base // 2
    assert network.backbone.csp3.conv1.conv.out_channels == 4 * base
    assert network.head_p5.conv.out_channels == 8 * base
    assert network.head_p4.conv.in_channels == 6 * base


@pytest.mark.parametrize(
    ("model", "width"), [("yolov4-tiny-n", 0.25), ("yolov4-tiny-s", 0.5), ("yolov4-tiny", 1.0)]
)
def test_each_size_has_a_name(model: str, width: float):
    with torch.device("meta"):
        named = build(model, classes=["a"], attention="ca")
        same = build(classes=["a"], attention="ca", width_mult=width)
        narrower = build(model, classes=["a"], width_mult=0.125)
    shapes = [{n: p.shape for n, p in net.named_parameters()} for net in (named, same)]
    assert shapes[0] == shapes[1]
    assert narrower.backbone.conv1.conv.out_channels == 4


def test_bn_eps_reaches_every_normalization():
    network = _small(bn_eps=1e-3)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 19
    assert {norm.eps for norm in norms} == {1e-3}


# --- sites ---------------------------------------------------------------------------------------


def test_sites_have_the_channels_and_strides_of_the_page():
    with torch.device("meta"):
        maps = build(classes=CLASSES).features(torch.zeros(1, 3, 416, 416))
    assert {site: (one.shape[1], 416 // one.shape[2]) for site, one in maps.items()} == {
        "stage1": (128, 8),
        "stage2": (256, 16),
        "stage3": (512, 32),
        "p4": (256, 16),
        "p5": (512, 32),
        "up": (128, 16),
    }
    assert set(maps) == set(SITES)


@pytest.mark.parametrize("site", SITES)
def test_block_at_each_site_sees_the_sites_map(site: str):
    network = _small(f"ca@{site}").eval()
    (block,) = network.attention_blocks().values()
    seen = []
    block.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    images = torch.rand(1, 3, 64, 96)
    network(images)
    assert torch.equal(seen[0], network.features(images)[site])
    assert isinstance(block, AttentionBlock)
    assert block.channels == seen[0].shape[1]


@pytest.mark.parametrize("block", ["se", "cbam", "eca", "ca"])
@pytest.mark.parametrize("site", NECK_SITES)
def test_neck_attention_leaves_the_backbone_alone(block: str, site: str):
    images = torch.rand(2, 3, 64, 96)
    plain, attended = _small().eval(), _small(f"{block}@{site}").eval()
    before, after = plain.features(images), attended.features(images)
    for name in ("stage1", "stage2", "stage3", "p4", "p5"):
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(plain(images)[1], attended(images)[1])
    # Only p5's attention stands before the stride-32 head.
    assert torch.equal(plain(images)[0], attended(images)[0]) == (site != "p5")


@pytest.mark.parametrize(
    ("site", "changed"),
    [
        ("stage1", {"stage2", "stage3", "p4", "p5", "up"}),
        ("stage2", {"stage3", "p4", "p5", "up"}),
        ("stage3", {"p5", "up"}),
    ],
)
def test_stage_attention_changes_what_the_backbone_computes_next(site: str, changed: set[str]):
    images = torch.rand(1, 3, 64, 64)
    before = _small().eval().features(images)
    after = _small(f"se@{site}").eval().features(images)
    assert {name for name in SITES if not torch.equal(before[name], after[name])} == changed


def test_blocks_are_listed_in_the_order_of_the_sites():
    network = _small("ca@up+se@p5+eca@stage1")
    assert list(network.attention_blocks()) == ["stage1", "p5", "up"]
    assert _small().attention_blocks() == {}
    assert canonical_attention("ca@up+se@p5+eca@stage1") == "se@p5+eca@stage1+ca@up"


def test_a_bare_name_means_the_three_neck_sites():
    assert tuple(_small("eca").attention_blocks()) == NECK_SITES
    assert canonical_attention("eca@up,p4,p5") == "eca"


# --- three levels --------------------------------------------------------------------------------


def test_a_third_level_has_stride_8_and_sites_of_its_own():
    with torch.device("meta"):
        network = build(classes=CLASSES, levels=3)
        images = torch.zeros(1, 3, 416, 416)
        maps, raw_maps = network.features(images), network(images)
    assert _parameters(network) == 6_327_453  # by the layer table of darknet's yolov4-tiny-3l.cfg
    assert network.strides == (32, 16, 8)
    assert [tuple(one.shape) for one in raw_maps] == [(1, 255, n, n) for n in (13, 26, 52)]
    found = {site: (one.shape[1], 416 // one.shape[2]) for site, one in maps.items()}
    assert found["p3"] == (128, 8)
    assert found["up2"] == (64, 8)
    assert set(found) == set(reference_sites(3))


def test_a_bare_name_gates_the_whole_neck_of_three_levels():
    network = _small("ca", levels=3).eval()
    images = torch.rand(1, 3, 64, 96)
    inputs = {}
    for site, block in network.attention_blocks().items():
        block.register_forward_hook(
            lambda module, args, out, site=site: inputs.update({site: args[0]})
        )
    network(images)
    assert set(inputs) == {"p3", "p4", "p5", "up", "up2"}
    features = network.features(images)
    assert all(torch.equal(seen, features[site]) for site, seen in inputs.items())
    plain = _small(levels=3).eval().features(images)
    for site in ("stage1", "stage2", "stage3", "p3", "p4", "p5"):
        assert torch.equal(plain[site], features[site]), site
    assert canonical_attention("ca@up2,p3,up,p5,p4", levels=3) == "ca"
    with pytest.raises(ConfigError, match=r"'up2' needs a network with three .*Add --levels 3"):
        canonical_attention("se@p4,up2+ca@up")
    with pytest.raises(ConfigError, match="'p3'"):
        canonical_attention("ca@p3")


def test_weights_with_three_levels_are_read_back(tmp_path):
    classes = ("a", "b")
    anchors, masks = default_anchors(3, 64)
    metadata = WeightsMetadata(
        classes,
        attention="se",
        width_mult=0.125,
        input_hw=(64, 64),
        anchors=anchors,
        anchor_masks=masks,
    )
    network = build_from_metadata(metadata).eval()
    again, read = load_weights(save_weights(tmp_path / "a.safetensors", network, metadata))
    images = torch.rand(1, 3, 64, 64)
    assert read.anchor_masks == masks
    for one, other in zip(network(images), again.eval()(images), strict=True):
        assert torch.equal(one, other)


# --- initial weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["se", "cbam", "eca", "ca", "ca@stage1,stage2,stage3"])
def test_one_seed_gives_the_same_base_weights_whatever_the_attention(attention: str):
    base = _small(seed=7).state_dict()
    own = _small(attention, seed=7).state_dict()
    assert set(base) < set(own)
    assert all(torch.equal(tensor, own[name]) for name, tensor in base.items())
    assert all(name.startswith("attention.") for name in set(own) - set(base))


def test_seeds_differ_and_one_seed_repeats():
    first, again, other = _small("ca", 1), _small("ca", 1), _small("ca", 2)
    name = "backbone.csp1.conv2.conv.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_objectness_starts_at_the_prior():
    network = _small().eval()
    for raw_map in network(torch.rand(2, 3, 64, 64)):
        objectness = raw_map.view(2, 3, 7, *raw_map.shape[2:])[:, :, 4].sigmoid()
        assert 0.005 < objectness.mean() < 0.02


# --- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hw", [(32, 32), (64, 96), (160, 32)])
@pytest.mark.parametrize("attention", ["none", "ca", "cbam@stage3,up"])
def test_raw_maps_and_boxes_of_any_rectangle(hw: tuple[int, int], attention: str):
    network = _small(attention).eval()
    raw_maps = network(torch.rand(2, 3, *hw))
    cells = [(hw[0] // stride, hw[1] // stride) for stride in (32, 16)]
    assert [tuple(one.shape) for one in raw_maps] == [(2, 21, *cell) for cell in cells]
    boxes, scores = network.decode(raw_maps)
    total = sum(3 * rows * columns for rows, columns in cells)
    assert boxes.shape == (2, total, 4)
    assert scores.shape == (2, total, 2)


def test_channels_last_and_batch_change_nothing():
    network = _small("ca").eval()
    images = torch.rand(3, 3, 64, 96)
    whole = network(images)
    single = network(images[1:2])
    network.to(memory_format=torch.channels_last)
    last = network(images.to(memory_format=torch.channels_last))
    for one, two, three in zip(whole, single, last, strict=True):
        torch.testing.assert_close(one[1:2], two, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-5)


def test_every_weight_gets_a_gradient():
    network = _small("ca@stage1,p4,p5+se@up").train()
    boxes, scores = network.decode(network(torch.rand(2, 3, 64, 64)))
    (boxes.mean() + scores.mean()).backward()
    lacking = [name for name, one in network.named_parameters() if one.grad is None]
    assert lacking == []


def test_own_anchors_and_masks():
    anchors = [(4, 5), (6, 7), (8, 9), (20, 21), (30, 31)]
    network = _small(anchors=anchors, anchor_masks=[(3, 4), (0, 1, 2)])
    assert network.anchors0.tolist() == [[20, 21], [30, 31]]
    assert network.anchors1.tolist() == [[4, 5], [6, 7], [8, 9]]
    raw_maps = network(torch.rand(1, 3, 32, 64))
    assert [one.shape[1] for one in raw_maps] == [14, 21]
    assert network.decode(raw_maps)[0].shape == (1, 2 * 2 + 8 * 3, 4)


def test_default_anchors_stand_as_in_the_original_configuration():
    network = _small()
    assert network.anchors0.tolist() == [list(DEFAULT_ANCHORS[index]) for index in (3, 4, 5)]
    assert network.anchors1.tolist() == [list(DEFAULT_ANCHORS[index]) for index in (1, 2, 3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_converting_the_network_keeps_the_anchors_exact(dtype: torch.dtype):
    network = _small(anchors=[(10.1 + 50 * index, 319.3) for index in range(6)])
    exact = [one.clone() for one in network.level_anchors]
    converted = network.to(dtype)
    assert converted is network
    assert next(network.parameters()).dtype == dtype
    for before, after in zip(exact, network.level_anchors, strict=True):
        assert after.dtype == torch.float32
        assert torch.equal(before, after)
    assert "anchors0" in dict(network.named_buffers())


# --- export --------------------------------------------------------------------------------------


def test_exports_with_a_dynamic_batch():
    network = _small("ca@p4,p5,up").eval()

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return network.decode(self.network(images))

    batch = torch.export.Dim("batch", min=1, max=8)
    whole = Whole()
    program = torch.export.export(
        whole, (torch.rand(2, 3, 64, 96),), dynamic_shapes={"images": {0: batch}}
    )
    for number in (1, 5):
        images = torch.rand(number, 3, 64, 96)
        for own, exported in zip(whole(images), program.module()(images), strict=True):
            torch.testing.assert_close(own, exported, rtol=1e-4, atol=1e-4)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "yolov4-tny"}, r"model must be one of .*Did you mean 'yolov4-tiny'"),
        ({"attention": "ca@p6"}, "got 'p6'"),
        ({"attention": "sea"}, "known block"),
        ({"classes": []}, "classes must be distinct names"),
        ({"classes": ["a", "a"]}, "classes must be distinct names"),
        ({"classes": "cell"}, "classes must be a list of names"),
        ({"classes": "rbc"}, "classes must be a list of names"),
        ({"classes": [1, 2]}, "classes must be a list of names"),
        ({"input_hw": (100, 416)}, r"input_hw must be multiples of 32.*\(96, 416\)"),
        ({"input_hw": (416, 416, 3)}, "input_hw must be"),
        ({"width_mult": 0}, "width_mult must be above 0"),
        ({"width_mult": float("nan")}, "width_mult must be above 0"),
        ({"bn_eps": -1e-5}, "bn_eps must be above 0"),
        ({"scale_x_y": 0}, "scale_x_y must be above 0"),
        ({"anchors": [(0, 5)] * 6}, "anchors must be pairs"),
        ({"anchors": [(5, 5, 5)] * 6}, "anchors must be pairs"),
        ({"anchors": [(5, 5)] * 3}, "two or three non-empty lists of anchor indices below 3"),
        ({"anchor_masks": [(3, 4, 5), ()]}, "two or three non-empty lists"),
        ({"anchor_masks": [(3, 4, 5)]}, "two or three non-empty lists"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        build(**{"classes": ["a", "b"], "width_mult": 0.125, **change})  # type: ignore[arg-type]


def test_the_class_itself_checks_sites_and_levels():
    with pytest.raises(ConfigError, match=r"got 'stage4'\. Did you mean 'stage"):
        YoloV4Tiny(2, LEVELS, {"stage4": "ca"}, width_mult=0.125)
    with pytest.raises(ConfigError, match="2 or 3 levels"):
        YoloV4Tiny(2, LEVELS[:1], width_mult=0.125)
