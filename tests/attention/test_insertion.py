"""Attention put into networks that know nothing of it, and taken out again."""

from __future__ import annotations

import copy
import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import attendet
from attendet.attention import AttentionBlock, CoordinateAttention, SqueezeExcite, inserted_blocks
from attendet.errors import ConfigError
from attendet.models import build


class Maps(NamedTuple):
    low: Tensor
    high: Tensor
    count: int


class Neck(nn.Module):
    """Gives several maps, in a form of choice."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.down = nn.Conv2d(16, 24, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> object:
        down = self.down(x)
        if self.form == "namedtuple":
            return Maps(x, down, 2)
        if self.form == "dict":
            return OrderedDict([("low", x), ("p.4", down), ("names", ["low", "p.4"])])
        return [x, None, down] if self.form == "list" else (x, None, down)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(x + self.bn(self.conv(x)))
        return out


class Network(nn.Module):
    """A stem, two stages and a classifier; ``spare`` never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(True))
        self.stage1 = nn.Sequential(Residual(8), Residual(8))
        self.stage2 = nn.Sequential(nn.Conv2d(8, 16, 1), Residual(16))
        self.fc = nn.Linear(16, 5)
        self.spare = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stage2(self.stage1(self.stem(x)))
        out: Tensor = self.fc(maps.mean((2, 3)))
        return out


PLACES = {
    "stage1": "ca",
    "stage2.1": ("se", {"reduction": 2}),
    "stage1.0.conv": "eca",
    "stem.1": ("cbam", {"reduction": 1}),
}


@pytest.fixture(autouse=True)
def _seed_and_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 16, 12)


def settled(network: nn.Module) -> nn.Module:
    """Return an attended network whose blocks have left their start, in eval mode."""
    for block in inserted_blocks(network).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5)
    return network.eval()


@pytest.fixture
def attended() -> nn.Module:
    return settled(attendet.attend(Network(), PLACES))


# What attend does ---------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_nothing_changes_before_the_first_step_and_then_blocks_learn(x, training):
    base = Network()
    network = attendet.attend(copy.deepcopy(base), PLACES).train(training)
    expected, out = base.train(training)(x), network(x)
    assert torch.equal(out, expected)

    out.square().sum().backward()
    blocks = inserted_blocks(network)
    assert set(blocks) == set(PLACES)
    for name, block in blocks.items():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters()), name


def test_the_network_itself_is_changed_and_returned():
    network = Network()
    stage = network.stage2[1]
    assert attendet.attend(network, {"stage2.1": "se"}) is network
    assert network.stage2[1] is stage
    assert isinstance(stage, Residual)
    assert isinstance(inserted_blocks(network)["stage2.1"], SqueezeExcite)
    assert inserted_blocks(network)["stage2.1"].start == "identity"


def test_output_is_gated_behind_the_module(x):
    network = settled(attendet.attend(Network(), {"stage1.0.conv": "ca"}))
    block = inserted_blocks(network)["stage1.0.conv"]
    conv = network.stage1[0].conv
    features = torch.randn(2, 8, 4, 5)
    plain = torch.conv2d(features, conv.weight, padding=1)
    torch.testing.assert_close(conv(features), block(plain))


def test_paper_start_shrinks(x):
    base = Network().eval()
    network = attendet.attend(copy.deepcopy(base), {"stage1": "se"}, start="paper").eval()
    assert network.stage1(base.stem(x)).norm() < 0.8 * base.stage1(base.stem(x)).norm()


def test_options_go_to_the_block():
    network = attendet.attend(
        Network(), {"stage2": ("se", {"reduction": 2}), "stem": ("ca", {"hidden_channels": 3})}
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
        (Residual, ["stage1.0", "stage1.1", "stage2.1"]),
        (nn.BatchNorm2d, ["stem.1", "stage1.0.bn", "stage1.1.bn", "stage2.1.bn"]),
        (lambda name, module: name.startswith("stem."), ["stem.0", "stem.1", "stem.2"]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_places_by_name_glob_class_and_function(key, names):
    assert list(inserted_blocks(attendet.attend(Network(), {key: "eca"}))) == names


def test_the_network_itself_is_a_place(x):
    network = attendet.attend(Residual(3).eval(), {"": "ca"})
    assert isinstance(inserted_blocks(network)[""], CoordinateAttention)
    assert torch.equal(network(x), attendet.detach(copy.deepcopy(network))(x))


def test_none_leaves_a_place_alone():
    network = attendet.attend(Network(), {"stage1": "none", "stage2": "se"})
    assert list(inserted_blocks(network)) == ["stage2"]


def test_a_second_call_adds_and_does_not_look_into_blocks(x):
    network = attendet.attend(Network(), {"stage1": "cbam"})
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
def test_each_of_several_maps_gets_a_block_of_its_own(form):
    network = attendet.attend(nn.Sequential(nn.Conv2d(3, 16, 1), Neck(form)), {"1": "ca"})
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


def test_a_block_runs_each_time_that_its_module_runs():
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


def test_blocks_take_dtype_and_mode_of_their_place():
    network = Network().double().eval()
    network.stage1.train()
    attendet.attend(network, {"stage1": "se", "stage2": "se"})
    blocks = inserted_blocks(network)
    assert blocks["stage1"].training
    assert not blocks["stage2"].training
    assert {p.dtype for block in blocks.values() for p in block.parameters()} == {torch.float64}


def test_networks_without_storage_are_attended_too():
    with torch.device("meta"):
        network = Network()
    attendet.attend(network, {"stage1": "ca"})
    assert all(parameter.is_meta for parameter in network.parameters())


def test_the_run_on_an_example_leaves_no_trace():
    class Counting(Network):
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


# What an attended network can do -----------------------------------------------------------------


def test_parameters_keep_their_names_and_state_dicts_go_both_ways(attended):
    base = Network()
    old = base.state_dict()
    assert set(old) < set(attended.state_dict())
    result = attended.load_state_dict(old, strict=False)
    assert result.unexpected_keys == []
    assert result.missing_keys
    assert all(".attention_block." in key for key in result.missing_keys)

    result = base.load_state_dict(attended.state_dict(), strict=False)
    assert result.missing_keys == []
    base.load_state_dict(attendet.detach(attended).state_dict())


def test_state_dict_round_trip(attended, x):
    other = attendet.attend(Network(), PLACES).eval()
    assert not torch.equal(other(x), attended(x))
    other.load_state_dict(attended.state_dict())
    assert torch.equal(other(x), attended(x))


def test_deepcopy_is_whole_and_apart(attended, x):
    before = attended(x)
    other = copy.deepcopy(attended)
    assert torch.equal(other(x), before)
    assert type(other.stage2[1]) is type(attended.stage2[1])
    attendet.detach(other)
    assert not torch.equal(other(x), before)
    assert torch.equal(attended(x), before)


def test_shallow_copy(x):
    network = settled(attendet.attend(Residual(3), {"": "ca"}))
    before = network(x)
    other = copy.copy(network)
    assert torch.equal(other(x), before)
    attendet.detach(other)
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol):
    network = settled(attendet.attend(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), {"0": "ca"}))
    x = torch.rand(1, 3, 4, 4)
    other = pickle.loads(pickle.dumps(network, protocol=protocol))
    assert torch.equal(other(x), network(x))
    assert type(other[0]) is type(network[0])
    assert type(attendet.detach(other)[0]) is nn.Conv2d


def test_torch_save_of_the_whole_network():
    network = settled(attendet.attend(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), {"0": "se"}))
    file, x = io.BytesIO(), torch.rand(1, 3, 4, 4)
    torch.save(network, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), network(x))


def test_detach_gives_back_exactly_what_was(x):
    network = Network().eval()
    types = {name: type(module) for name, module in network.named_modules()}
    keys, before = list(network.state_dict()), network(x)
    settled(attendet.attend(network, {**PLACES, "stem.0": "ca"}))
    assert not torch.equal(network(x), before)
    assert attendet.detach(network) is network
    assert {name: type(module) for name, module in network.named_modules()} == types
    assert list(network.state_dict()) == keys
    assert torch.equal(network(x), before)
    assert attendet.detach(network) is network
    attendet.attend(network, PLACES)


def test_isinstance_and_repr_still_tell_what_the_module_is():
    network = attendet.attend(Network(), {"stem.0": "ca"})
    assert isinstance(network.stem[0], nn.Conv2d)
    assert "AttendedConv2d(" in repr(network)
    assert "CoordinateAttention(" in repr(network)


@pytest.mark.parametrize("root", [False, True], ids=["inside", "itself"])
def test_export_at_other_sizes(attended, root):
    network = settled(attendet.attend(Residual(3), {"": "ca"})) if root else attended
    dims = {0: torch.export.Dim("n", max=8), 2: torch.export.Dim("h", min=4, max=64)}
    x = torch.rand(2, 3, 16, 12)
    exported = torch.export.export(network, (x,), dynamic_shapes=(dims,)).module()
    for shape in [(2, 3, 16, 12), (3, 3, 20, 12)]:
        other = torch.rand(shape)
        torch.testing.assert_close(exported(other), network(other), rtol=1e-5, atol=1e-5)


def test_export_of_several_maps():
    network = settled(
        attendet.attend(nn.Sequential(nn.Conv2d(3, 16, 1), Neck("tuple")), {"1": "ca"})
    )
    x = torch.rand(1, 3, 8, 8)
    out = torch.export.export(network, (x,)).module()(x)
    torch.testing.assert_close(out, network(x))


def test_compiles_without_breaks(attended, x):
    compiled = torch.compile(attended, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), attended(x))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_trace(attended, x):
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(attended, x)(x), attended(x))


def test_channels_last_is_kept(attended, x):
    expected = attended(x)
    network = attended.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x), expected)
    out = network.stage2(network.stage1(network.stem(x)))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_two_processes_worth_of_wrapping(attended, x, tmp_path):
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(
            attendet.attend(Network(), {"stage1": "ca", "stage2": "eca"}),
            find_unused_parameters=True,
        )
        wrapped(x).square().sum().backward()
        for block in inserted_blocks(wrapped).values():
            assert any(p.grad.abs().sum() > 0 for p in block.parameters())
        with pytest.raises(ConfigError, match=r"must not be wrapped yet.*DistributedDataParallel"):
            attendet.attend(wrapped, {"module.stem": "ca"})
    finally:
        distributed.destroy_process_group()


def test_parametrizations_before_and_after(x):
    network = Network().eval()
    parametrize.register_parametrization(network.stem[0], "weight", nn.Identity())
    settled(attendet.attend(network, {"stem.0": "ca"}))
    before = network(x)
    assert torch.equal(copy.deepcopy(network)(x), before)

    parametrize.register_parametrization(network.stem[0], "bias", nn.Identity())
    assert torch.equal(network(x), before)


def test_detach_refuses_a_class_that_is_not_its_own():
    network = attendet.attend(Network(), {"stem.0": "ca"})
    parametrize.register_parametrization(network.stem[0], "weight", nn.Identity())
    with pytest.raises(ConfigError, match=r"'stem.0' must have the class that attend gave it"):
        attendet.detach(network)
    parametrize.remove_parametrizations(network.stem[0], "weight")
    assert type(attendet.detach(network).stem[0]) is nn.Conv2d


def test_reference_network_takes_blocks_beside_its_own_sites():
    base = build(classes=["a"], attention="se@p5", width=0.25)
    network = attendet.attend(copy.deepcopy(base), {"backbone.csp?": "ca", "conv_up": "eca"})
    x = torch.rand(1, 3, 64, 64)
    assert [block.channels for block in inserted_blocks(network).values()] == [
        32,
        16,
        64,
        32,
        128,
        64,
        32,
    ]
    assert list(network.attention_blocks()) == ["p5"]
    for mode in (True, False):
        pairs = zip(base.train(mode)(x), network.train(mode)(x), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)
    assert [name for name in inserted_blocks(network) if name.startswith("attention")] == []
    attendet.detach(network).load_state_dict(base.state_dict())
    assert list(network.attention_blocks()) == ["p5"]


# What attend refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ({"stage3": "ca"}, r"got 'stage3', which is not. Did you mean 'stage[12]'\?.*sites"),
        ({"zzz": "ca"}, r"got 'zzz', which is not. attendet.sites\(network\) lists"),
        ({"layer*": "ca"}, r"got 'layer\*', which is not"),
        ({nn.Conv3d: "ca"}, "got Conv3d, which is not"),
        ({"stage1": "caa"}, "must be the name of a block; got 'caa'"),
        ({"stage1": 4}, "a name or a pair of name and options; got 4"),
        ({"stage1": ("se", {"rediction": 2})}, "options of attention 'se'"),
        ({3: "ca"}, "place must be a name, a glob, a class or a function.*; got 3"),
        ({}, r"places must be a mapping of places to blocks; got \{\}"),
        ("ca", "places must be a mapping of places to blocks; got 'ca'"),
        ({"fc": "ca"}, r"got 'fc' \(Linear\), which returns a float32 tensor of shape \(1, 5\)"),
        ({"": "ca"}, r"got the network itself \(Network\), which returns a float32 tensor"),
        ({"spare": "ca"}, r"got 'spare' \(Conv2d\), which never did"),
        ({"stage1": "ca", "stage?": "se"}, r"got 'stage1' and 'stage\?' for 'stage1'"),
        ({"stage1": "ca", nn.Linear: "se"}, r"got 'fc' \(Linear\)"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(places, says):
    network = Network()
    before = repr(network)
    with pytest.raises(ConfigError, match=says):
        attendet.attend(network, places)
    assert repr(network) == before


def test_a_place_is_attended_once():
    network = attendet.attend(Network(), PLACES)
    for name in PLACES:
        with pytest.raises(ConfigError, match=rf"'{name}'.*which is attended.*detach"):
            attendet.attend(network, {name: "ca"})


def test_a_module_with_two_names_is_one_place(x):
    network = nn.Sequential(nn.Conv2d(3, 3, 1))
    network.append(network[0])
    with pytest.raises(ConfigError, match=r"got '0' and '1'"):
        attendet.attend(network, {"0": "ca", "1": "ca"})
    attendet.attend(network, {"1": "ca"})
    assert list(inserted_blocks(network)) == ["0"]
    assert type(attendet.detach(network)[1]) is nn.Conv2d


def test_different_channels_in_each_call_are_refused():
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.act(torch.cat([self.act(x)] * 2, 1))
            return out

    with pytest.raises(ConfigError, match=r"'act' \(ReLU\).*\(1, 3, 64, 64\), then .*\(1, 6, 64"):
        attendet.attend(Grows(), {"act": "ca"})


class Walks(nn.ModuleDict):
    def forward(self, x: Tensor) -> Tensor:
        for module in self.values():
            x = module(x)
        return x


def test_a_module_that_walks_over_its_children_is_refused():
    network = nn.Sequential(Walks({"a": nn.Conv2d(3, 8, 1)}))
    before = repr(network)
    with pytest.raises(ConfigError, match=r"'0' \(Walks\).*it ran 1 times, the block 2 times"):
        attendet.attend(network, {"0": "ca"})
    assert repr(network) == before
    assert list(inserted_blocks(attendet.attend(network, {"0.a": "ca"}))) == ["0.a"]


def test_a_module_whose_forward_was_replaced_is_refused():
    network = Network()
    conv = network.stem[0]
    conv.forward = lambda x: nn.Conv2d.forward(conv, x)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"it ran 1 times, the block 0 times"):
        attendet.attend(network, {"stem.0": "ca"})
    assert type(conv) is nn.Conv2d


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_modules_of_extraordinary_classes_are_refused():
    graph = torch.fx.symbolic_trace(Residual(3))
    with pytest.raises(ConfigError, match=r"the network itself .*own way to be copied"):
        attendet.attend(graph, {"": "ca"})
    scripted = nn.Sequential(torch.jit.trace(nn.Conv2d(3, 8, 1), torch.zeros(1, 3, 4, 4)))
    with pytest.raises(ConfigError, match="scripted or has its own way"):
        attendet.attend(scripted, {"0": "ca"})
    with pytest.raises(ConfigError, match="know its sizes; got LazyConv2d at '0'"):
        attendet.attend(nn.Sequential(nn.LazyConv2d(8, 1)), {"0": "ca"})
    with pytest.raises(ConfigError, match="must not be compiled yet"):
        attendet.attend(torch.compile(Network()), {"_orig_mod.stem": "ca"})


def test_a_name_that_is_taken_is_refused():
    network = Network()
    network.stage2[1].attention_block = nn.Identity()
    with pytest.raises(ConfigError, match=r"no 'attention_block' of its own; got 'stage2.1'"):
        attendet.attend(network, {"stage2.1": "ca"})


# Networks that the picture of zeros does not fit -------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(5, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.mix = Residual(8)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        out: Tensor = self.mix(self.body(x) * scale)
        return out


def test_channels_come_from_the_module_where_it_tells_them():
    network = attendet.attend(TwoInputs(), {"body": "ca", "mix.conv": "se", "mix.bn": "eca"})
    assert [block.channels for block in inserted_blocks(network).values()] == [8, 8, 8]


def test_else_an_example_is_asked_for():
    with pytest.raises(ConfigError, match=r"TypeError: .*scale.*Give an example_input"):
        attendet.attend(TwoInputs(), {"mix": "ca"})
    with pytest.raises(ConfigError, match=r"Give an example_input"):
        attendet.sites(TwoInputs())
    example = (torch.rand(1, 5, 4, 4), torch.rand(1))
    network = attendet.attend(TwoInputs(), {"mix": "ca"}, example_input=example)
    assert inserted_blocks(network)["mix"].channels == 8


def test_an_example_that_does_not_run_is_an_error_and_nothing_is_changed():
    network = TwoInputs()
    with pytest.raises(ConfigError, match=r"RuntimeError: .*\(from example_input\)"):
        attendet.attend(
            network, {"body": "ca"}, example_input=(torch.rand(1, 3, 4, 4), torch.rand(1))
        )
    assert inserted_blocks(network) == {}


# sites --------------------------------------------------------------------------------------------


def test_sites_lists_what_returns_maps_with_shape_and_cost():
    network = Network()
    found = {site.name: site for site in attendet.sites(network, torch.zeros(2, 3, 16, 12))}
    assert [n for n, m in network.named_modules() if n not in found] == ["", "fc", "spare"]
    site = found["stage2.1"]
    assert (site.kind, site.shapes) == ("Residual", ((2, 16, 8, 6),))
    block = CoordinateAttention(16)
    assert site.parameters == sum(p.numel() for p in block.parameters())
    # A picture: squeeze and both ends over 8 + 6 places, then two products with the map.
    assert site.macs == 16 * 8 * 14 + 8 * 16 * 14 + 2 * 16 * 8 * 6
    assert str(site).split() == [
        *("stage2.1", "Residual", "2x16x8x6", f"{site.parameters:,}", "parameters"),
        *(f"{site.macs:,}", "MACs"),
    ]


def test_sites_of_other_blocks_and_attended_networks():
    network = attendet.attend(Network(), PLACES)
    plain = {site.name: site for site in attendet.sites(Network(), attention="none")}
    found = {
        site.name: site for site in attendet.sites(network, attention=("se", {"reduction": 4}))
    }
    assert set(found) == set(plain)
    assert found["stage1"].parameters == 2 * 8 * 2
    assert found["stage1"].macs == 2 * 8 * 2 + 8 * 32 * 32
    assert {(site.parameters, site.macs) for site in plain.values()} == {(0, 0)}
    with pytest.raises(ConfigError, match="got 'sse'"):
        attendet.sites(network, attention="sse")


def test_sites_adds_up_maps_and_calls():
    network = nn.Sequential(nn.Conv2d(3, 16, 1), Neck("dict"))
    found = attendet.sites(network, torch.zeros(1, 3, 4, 4), attention="eca")
    site = next(site for site in found if site.name == "1")
    assert site.shapes == ((1, 16, 4, 4), (1, 24, 2, 2))
    assert site.parameters == 3 + 3
    assert site.macs == 3 * (16 + 24) + 16 * 16 + 24 * 4


def test_places_of_sites_can_be_attended():
    network = build(classes=["a"], width=0.125, attention="ca")
    names = [site.name for site in attendet.sites(network)]
    assert "backbone.csp1.conv4.bn" in names
    assert not [name for name in names if name.startswith("attention.")]
    attendet.attend(network, dict.fromkeys(names, "eca"))
    assert len(inserted_blocks(network)) >= len(names)
    assert all(isinstance(block, AttentionBlock) for block in inserted_blocks(network).values())
