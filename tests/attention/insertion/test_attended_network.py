"""What a network can do that has been attended."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import attendet
from attendet.attention import inserted_blocks
from attendet.errors import ConfigError
from attendet.models import build


def test_parameters_keep_their_names_and_state_dicts_go_both_ways(attended, network_class):
    base = network_class()
    old = base.state_dict()
    assert set(old) < set(attended.state_dict())
    result = attended.load_state_dict(old, strict=False)
    assert result.unexpected_keys == []
    assert result.missing_keys
    assert all(".attention_block." in key for key in result.missing_keys)

    result = base.load_state_dict(attended.state_dict(), strict=False)
    assert result.missing_keys == []
    base.load_state_dict(attendet.detach(attended).state_dict())


def test_state_dict_round_trip(attended, x, network_class, four_places):
    other = attendet.attend(network_class(), four_places).eval()
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


def test_shallow_copy(x, residual_class, settled):
    network = settled(attendet.attend(residual_class(3), {"": "ca"}))
    before = network(x)
    other = copy.copy(network)
    assert torch.equal(other(x), before)
    attendet.detach(other)
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol, settled):
    network = settled(attendet.attend(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), {"0": "ca"}))
    x = torch.rand(1, 3, 4, 4)
    other = pickle.loads(pickle.dumps(network, protocol=protocol))
    assert torch.equal(other(x), network(x))
    assert type(other[0]) is type(network[0])
    assert type(attendet.detach(other)[0]) is nn.Conv2d


def test_torch_save_of_the_whole_network(settled):
    network = settled(attendet.attend(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()), {"0": "se"}))
    file, x = io.BytesIO(), torch.rand(1, 3, 4, 4)
    torch.save(network, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), network(x))


def test_detach_gives_back_exactly_what_was(x, network_class, settled, four_places):
    network = network_class().eval()
    types = {name: type(module) for name, module in network.named_modules()}
    keys, before = list(network.state_dict()), network(x)
    settled(attendet.attend(network, {**four_places, "stem.0": "ca"}))
    assert not torch.equal(network(x), before)
    assert attendet.detach(network) is network
    assert {name: type(module) for name, module in network.named_modules()} == types
    assert list(network.state_dict()) == keys
    assert torch.equal(network(x), before)
    assert attendet.detach(network) is network
    attendet.attend(network, four_places)


def test_isinstance_and_repr_still_name_the_module(network_class):
    network = attendet.attend(network_class(), {"stem.0": "ca"})
    assert isinstance(network.stem[0], nn.Conv2d)
    assert "AttendedConv2d(" in repr(network)
    assert "CoordinateAttention(" in repr(network)


@pytest.mark.parametrize("root", [False, True], ids=["inside", "itself"])
def test_export_at_other_sizes(attended, root, residual_class, settled):
    network = settled(attendet.attend(residual_class(3), {"": "ca"})) if root else attended
    dims = {0: torch.export.Dim("n", max=8), 2: torch.export.Dim("h", min=4, max=64)}
    x = torch.rand(2, 3, 16, 12)
    exported = torch.export.export(network, (x,), dynamic_shapes=(dims,)).module()
    for shape in [(2, 3, 16, 12), (3, 3, 20, 12)]:
        other = torch.rand(shape)
        torch.testing.assert_close(exported(other), network(other), rtol=1e-5, atol=1e-5)


def test_export_of_several_maps(neck_class, settled):
    network = settled(
        attendet.attend(nn.Sequential(nn.Conv2d(3, 16, 1), neck_class("tuple")), {"1": "ca"})
    )
    x = torch.rand(1, 3, 8, 8)
    out = torch.export.export(network, (x,)).module()(x)
    torch.testing.assert_close(out, network(x))


@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # Python 3.13.0
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


def test_two_processes_worth_of_wrapping(attended, x, tmp_path, network_class):
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(
            attendet.attend(network_class(), {"stage1": "ca", "stage2": "eca"}),
            find_unused_parameters=True,
        )
        wrapped(x).square().sum().backward()
        for block in inserted_blocks(wrapped).values():
            assert any(p.grad.abs().sum() > 0 for p in block.parameters())
        with pytest.raises(ConfigError, match=r"must not be wrapped yet.*DistributedDataParallel"):
            attendet.attend(wrapped, {"module.stem": "ca"})
    finally:
        distributed.destroy_process_group()


def test_parametrizations_before_and_after(x, network_class, settled):
    network = network_class().eval()
    parametrize.register_parametrization(network.stem[0], "weight", nn.Identity())
    settled(attendet.attend(network, {"stem.0": "ca"}))
    before = network(x)
    assert torch.equal(copy.deepcopy(network)(x), before)

    parametrize.register_parametrization(network.stem[0], "bias", nn.Identity())
    assert torch.equal(network(x), before)


def test_detach_refuses_a_class_that_is_not_its_own(network_class):
    network = attendet.attend(network_class(), {"stem.0": "ca"})
    parametrize.register_parametrization(network.stem[0], "weight", nn.Identity())
    with pytest.raises(ConfigError, match=r"'stem.0' must have the class that attend gave it"):
        attendet.detach(network)
    parametrize.remove_parametrizations(network.stem[0], "weight")
    assert type(attendet.detach(network).stem[0]) is nn.Conv2d


def test_reference_network_takes_blocks_beside_its_own_sites():
    base = build(classes=["a"], attention="se@p5", width_mult=0.25)
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
