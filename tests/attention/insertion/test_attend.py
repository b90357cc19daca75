"""What attend does to a network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import attendet
from attendet.attention import CoordinateAttention, SqueezeExcite, inserted_blocks


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_nothing_changes_before_the_first_step_and_then_blocks_learn(
    x, training, network_class, four_places
):
    base = network_class()
    network = attendet.attend(copy.deepcopy(base), four_places).train(training)
    expected, out = base.train(training)(x), network(x)
    assert torch.equal(out, expected)

    out.square().sum().backward()
    blocks = inserted_blocks(network)
    assert set(blocks) == set(four_places)
    for name, block in blocks.items():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters()), name


def test_the_network_itself_is_changed_and_returned(network_class, residual_class):
    network = network_class()
    stage = network.stage2[1]
    assert attendet.attend(network, {"stage2.1": "se"}) is network
    assert network.stage2[1] is stage
    assert isinstance(stage, residual_class)
    assert isinstance(inserted_blocks(network)["stage2.1"], SqueezeExcite)
    assert inserted_blocks(network)["stage2.1"].init == "identity"


def test_output_is_gated_behind_the_module(x, network_class, settled):
    network = settled(attendet.attend(network_class(), {"stage1.0.conv": "ca"}))
    block = inserted_blocks(network)["stage1.0.conv"]
    conv = network.stage1[0].conv
    features = torch.randn(2, 8, 4, 5)
    plain = torch.conv2d(features, conv.weight, padding=1)
    torch.testing.assert_close(conv(features), block(plain))


def test_paper_start_shrinks(x, network_class):
    base = network_class().eval()
    network = attendet.attend(copy.deepcopy(base), {"stage1": "se"}, init="paper").eval()
    assert network.stage1(base.stem(x)).norm() < 0.8 * base.stage1(base.stem(x)).norm()


def test_a_place_may_have_a_start_of_its_own(network_class):
    network = attendet.attend(
        network_class(), {"stage1": ("ca", {"init": "paper"}), "stage2": "ca"}
    )
    starts = {name: block.init for name, block in inserted_blocks(network).items()}
    assert starts == {"stage1": "paper", "stage2": "identity"}


def test_maps_whose_names_look_alike_have_blocks_of_their_own():
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"p.3": x, "p_3": x[:, :8]}

    network = attendet.attend(nn.Sequential(nn.Conv2d(3, 16, 1), Two()), {"1": "se"})
    assert [block.channels for block in inserted_blocks(network).values()] == [16, 8]


def test_options_go_to_the_block(network_class):
    network = attendet.attend(
        network_class(),
        {"stage2": ("se", {"reduction": 2}), "stem": ("ca", {"hidden_channels": 3})},
    )
    blocks = inserted_blocks(network)
    assert blocks["stage2"].reduce.out_features == 8
    assert blocks["stem"].squeeze.out_channels == 3


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("stage1.0", ["stage1.0"]),
        ("stage?.1", ["stage1.1", "stage2.1"]),
        ("stage*.*.conv", ["stage1.0.conv", "stage1.1.conv", "stage2.1.conv"]),
        ("**.bn", ["stage1.0.bn", "stage1.1.bn", "stage2.1.bn"]),
        ("stage*", ["stage1", "stage2"]),
        (nn.ReLU, ["stem.2", "stage1.0.act", "stage1.1.act", "stage2.1.act"]),
        (nn.BatchNorm2d, ["stem.1", "stage1.0.bn", "stage1.1.bn", "stage2.1.bn"]),
        (lambda name, module: name.startswith("stem."), ["stem.0", "stem.1", "stem.2"]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_places_by_name_glob_class_and_function(key, names, network_class):
    assert list(inserted_blocks(attendet.attend(network_class(), {key: "eca"}))) == names


def test_the_network_itself_is_a_place(x, residual_class):
    network = attendet.attend(residual_class(3).eval(), {"": "ca"})
    assert isinstance(inserted_blocks(network)[""], CoordinateAttention)
    assert torch.equal(network(x), attendet.detach(copy.deepcopy(network))(x))


def test_none_leaves_a_place_alone(network_class):
    network = attendet.attend(network_class(), {"stage1": "none", "stage2": "se"})
    assert list(inserted_blocks(network)) == ["stage2"]


def test_a_second_call_adds_and_does_not_look_into_blocks(x, network_class):
    network = attendet.attend(network_class(), {"stage1": "cbam"})
    before = network.eval()(x)
    attendet.attend(
        network,
        {lambda name, module: isinstance(module, nn.Conv2d) and name != "spare": "ca"},
        example_input=torch.zeros(1, 3, 8, 8),
    )
    convs = ["stem.0", "stage1.0.conv", "stage1.1.conv", "stage2.0", "stage2.1.conv"]
    assert set(inserted_blocks(network)) == {"stage1", *convs}
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("form", ["tuple", "list", "dict", "namedtuple"])
def test_each_of_several_maps_gets_a_block_of_its_own(form, settled, neck_class):
    network = attendet.attend(nn.Sequential(nn.Conv2d(3, 16, 1), neck_class(form)), {"1": "ca"})
    blocks = inserted_blocks(network)
    keys = {"dict": ["low", "p.4"], "namedtuple": [0, 1]}.get(form, [0, 2])
    assert list(blocks) == [f"1[{key}]" for key in keys]
    assert [block.channels for block in blocks.values()] == [16, 24]

    x = torch.rand(1, 3, 6, 6)
    settled(network)
    out = network(x)
    plain = attendet.detach(copy.deepcopy(network))(x)
    assert type(out) is type(plain)
    values = list(out.values()) if form == "dict" else list(out)
    bare = list(plain.values()) if form == "dict" else list(plain)
    for position, (value, other) in enumerate(zip(values, bare, strict=True)):
        if isinstance(other, Tensor):
            block = list(blocks.values())[0 if position == 0 else 1]
            torch.testing.assert_close(value, block(other))
        else:
            assert value == other
    assert torch.equal(copy.deepcopy(network)(x)[keys[1]], out[keys[1]])


def test_a_block_runs_each_time_that_its_module_runs(settled):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.head(x), self.head(x[:, :, ::2, ::2])]

    network = settled(attendet.attend(Twice(), {"head": "ca"}))
    x = torch.rand(1, 3, 8, 8)
    block, head = inserted_blocks(network)["head"], network.head
    for out, part in zip(network(x), (x, x[:, :, ::2, ::2]), strict=True):
        torch.testing.assert_close(out, block(torch.conv2d(part, head.weight, head.bias)))


def test_blocks_take_dtype_and_mode_of_their_place(network_class):
    network = network_class().double().eval()
    network.stage1.train()
    attendet.attend(network, {"stage1": "se", "stage2": "se"})
    blocks = inserted_blocks(network)
    assert blocks["stage1"].training
    assert not blocks["stage2"].training
    assert {p.dtype for block in blocks.values() for p in block.parameters()} == {torch.float64}


def test_networks_without_storage_are_attended_too(network_class):
    with torch.device("meta"):
        network = network_class()
    attendet.attend(network, {"stage1": "ca"})
    assert all(parameter.is_meta for parameter in network.parameters())


def test_the_run_on_an_example_leaves_no_trace(network_class):
    class Counting(network_class):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("runs", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            self.runs = self.runs.clone()
            torch.rand(3)
            return super().forward(x)

    network = Counting().train()
    network.stage1.eval()
    runs = network.runs
    flags = {name: module.training for name, module in network.named_modules()}
    state = copy.deepcopy(network.state_dict())
    random = torch.get_rng_state()

    attendet.sites(network)
    assert torch.equal(torch.get_rng_state(), random)
    attendet.attend(network, {"stage1.0": "ca"})

    assert network.runs is runs
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    now = {name: module.training for name, module in network.named_modules() if name in flags}
    assert now == flags
    assert not any(module._forward_hooks for module in network.modules())
