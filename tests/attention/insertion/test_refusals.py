"""What attend refuses, and what it asks for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attendet
from attendet.attention import inserted_blocks
from attendet.errors import ConfigError


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (
            {"stage3": "ca"},
            r"got 'stage3', which matches no module. Did you mean 'stage[12]'\?.*sites",
        ),
        ({"zzz": "ca"}, r"got 'zzz', which matches no module. attendet.sites\(network\) lists"),
        ({"layer*": "ca"}, r"got 'layer\*', which matches no module"),
        ({nn.Conv3d: "ca"}, "got Conv3d, which matches no module"),
        ({"stage1": "cca"}, "must be the name of a block; got 'cca'"),
        ({"stage1": 4}, "a name or a pair of name and options; got 4"),
        ({"stage1": ("se", {"rediction": 2})}, "options of attention 'se'"),
        ({3: "ca"}, "site must be a name, a glob, a class or a function.*; got 3"),
        ({}, r"sites must be a non-empty mapping of sites to blocks; got \{\}"),
        ("ca", "sites must be a non-empty mapping of sites to blocks; got 'ca'"),
        ({"fc": "ca"}, r"got 'fc' \(Linear\), which returns a float32 tensor of shape \(1, 5\)"),
        ({"": "ca"}, r"got the network itself \(Network\), which returns a float32 tensor"),
        ({"spare": "ca"}, r"got 'spare' \(Conv2d\), which did not"),
        ({"stage1": "ca", "stage?": "se"}, r"got 'stage1' and 'stage\?' for 'stage1'"),
        ({"stage1": "ca", nn.Linear: "se"}, r"got 'fc' \(Linear\)"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(places, says, network_class):
    network = network_class()
    before = repr(network)
    with pytest.raises(ConfigError, match=says):
        attendet.attend(network, places)
    assert repr(network) == before


def test_a_place_is_attended_once(network_class, four_places):
    network = attendet.attend(network_class(), four_places)
    for name in four_places:
        with pytest.raises(ConfigError, match=rf"'{name}'.*which has one.*detach"):
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
    with pytest.raises(ConfigError, match=r"'0' \(Walks\).*1 calls of the module, 2 of the block"):
        attendet.attend(network, {"0": "ca"})
    assert repr(network) == before
    assert list(inserted_blocks(attendet.attend(network, {"0.a": "ca"}))) == ["0.a"]


def test_a_module_whose_forward_was_replaced_is_refused(network_class):
    network = network_class()
    conv = network.stem[0]
    conv.forward = lambda x: nn.Conv2d.forward(conv, x)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"1 calls of the module, 0 of the block"):
        attendet.attend(network, {"stem.0": "ca"})
    assert type(conv) is nn.Conv2d


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_modules_of_extraordinary_classes_are_refused(network_class, residual_class):
    graph = torch.fx.symbolic_trace(residual_class(3))
    with pytest.raises(ConfigError, match=r"the network itself .*or defines how it is copied"):
        attendet.attend(graph, {"": "ca"})
    scripted = nn.Sequential(torch.jit.trace(nn.Conv2d(3, 8, 1), torch.zeros(1, 3, 4, 4)))
    with pytest.raises(ConfigError, match="a ScriptModule or defines how it is copied"):
        attendet.attend(scripted, {"0": "ca"})
    with pytest.raises(
        ConfigError, match="have no uninitialized parameters; got LazyConv2d at '0'"
    ):
        attendet.attend(nn.Sequential(nn.LazyConv2d(8, 1)), {"0": "ca"})
    with pytest.raises(ConfigError, match="must not be compiled yet"):
        attendet.attend(torch.compile(network_class()), {"_orig_mod.stem": "ca"})


@pytest.mark.parametrize("method", ["__deepcopy__", "__copy__"])
def test_a_class_with_a_copy_of_its_own_is_refused(method):
    """Its copy would be made without the block."""
    copying = type("Copying", (nn.ReLU,), {method: lambda self, *_: type(self)()})
    with pytest.raises(ConfigError, match="a ScriptModule or defines how it is copied or pickled"):
        attendet.attend(nn.Sequential(nn.Conv2d(3, 8, 1), copying()), {"1": "ca"})


def test_a_class_that_cannot_be_derived_from_changes_nothing():
    class Last(nn.Conv2d):
        def __init_subclass__(cls) -> None:
            raise TypeError("final")

    network = nn.Sequential(nn.Conv2d(3, 8, 1), Last(8, 8, 1))
    before = repr(network)
    with pytest.raises(
        ConfigError, match=r"class that allows subclasses; got '1' \(Last\) \(final\)"
    ):
        attendet.attend(network, {"0": "ca", "1": "ca"})
    assert repr(network) == before
    assert inserted_blocks(network) == {}
    assert not any("attention" in name for name in network.state_dict())


def test_options_that_the_place_says_are_refused(network_class):
    with pytest.raises(ConfigError, match=r"must not contain channels; got .* the site determines"):
        attendet.attend(network_class(), {"stage1": ("se", {"channels": 8})})


def test_a_name_that_is_taken_is_refused(network_class):
    network = network_class()
    network.stage2[1].attention_block = nn.Identity()
    with pytest.raises(ConfigError, match=r"no attribute 'attention_block'; got 'stage2.1'"):
        attendet.attend(network, {"stage2.1": "ca"})


class TwoInputs(nn.Module):
    def __init__(self, mix: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(5, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.mix = mix

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        out: Tensor = self.mix(self.body(x) * scale)
        return out


def test_channels_come_from_the_module_where_it_has_them(residual_class):
    network = attendet.attend(
        TwoInputs(residual_class(8)), {"body": "ca", "mix.conv": "se", "mix.bn": "eca"}
    )
    assert [block.channels for block in inserted_blocks(network).values()] == [8, 8, 8]


def test_else_an_example_is_asked_for(residual_class):
    with pytest.raises(ConfigError, match=r"TypeError: .*scale.*Pass an example_input"):
        attendet.attend(TwoInputs(residual_class(8)), {"mix": "ca"})
    with pytest.raises(ConfigError, match=r"Pass an example_input"):
        attendet.sites(TwoInputs(residual_class(8)))
    example = (torch.rand(1, 5, 4, 4), torch.rand(1))
    network = attendet.attend(TwoInputs(residual_class(8)), {"mix": "ca"}, example_input=example)
    assert inserted_blocks(network)["mix"].channels == 8


def test_an_example_that_does_not_run_is_an_error_and_nothing_is_changed(residual_class):
    network = TwoInputs(residual_class(8))
    with pytest.raises(ConfigError, match=r"RuntimeError: .*\(from example_input\)"):
        attendet.attend(
            network, {"body": "ca"}, example_input=(torch.rand(1, 3, 4, 4), torch.rand(1))
        )
    assert inserted_blocks(network) == {}
