"""A block that starts as the identity returns its input bit for bit, and learns from there."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from attendet.attention import (
    AttentionBlock,
    SqueezeExcite,
    attention_names,
    create_attention,
    registry,
)
from attendet.attention.init import GateMix
from attendet.errors import ConfigError
from attendet.models import SITES, build

BUILT_IN = [name for name in attention_names()[1:] if ":" not in name]
UNSCALED = ("simam", "nam", "bam", "lska")
"""Blocks that start as the identity through a mixed gate, or by adding 1."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class OwnGate(AttentionBlock):
    """A block of somebody else's that makes its gate in its own way."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mix = nn.Linear(channels, channels)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        return {"channel": torch.sigmoid(self.mix(x.mean((2, 3))))[:, :, None, None]}


class OwnSquashedGate(OwnGate):
    """The same, by ``gate_from_logits``."""

    def logit_layers(self) -> tuple[nn.Module, ...]:
        return (self.mix,)

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        return {"channel": self.gate_from_logits(self.mix(x.mean((2, 3))))[:, :, None, None]}


class OwnGateOfInheritedLayers(SqueezeExcite):
    """A published block with other gates, which says nothing of its last layers."""

    def gates(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.reduce(x.mean((2, 3))))
        return {"channel": torch.sigmoid(self.expand(hidden) + 1)[:, :, None, None]}


OWN = {
    "own": OwnGate,
    "own-squashed": OwnSquashedGate,
    "own-inherited": OwnGateOfInheritedLayers,
}
NAMES = (*BUILT_IN, *OWN)


@pytest.fixture(autouse=True)
def _own_blocks_and_seed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, factory in OWN.items():
        monkeypatch.setitem(registry._registered, name, factory)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def make(name: str, init: str, channels: int = 32) -> AttentionBlock:
    block = create_attention(name, channels, init=init)  # type: ignore[arg-type]
    assert isinstance(block, AttentionBlock)
    return block


def learned(name: str, init: str) -> AttentionBlock:
    """Return a block with no parameter at its starting value."""
    block = make(name, init)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(torch.uint8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_the_map_passes_bit_for_bit(name, dtype, memory_format):
    block = make(name, "identity").to(dtype)
    x = torch.randn(2, 32, 5, 6)
    x[0, 0, 0, :4] = torch.tensor([0.0, -0.0, 1e-40, 200.0])
    x = x.to(dtype=dtype, memory_format=memory_format)
    for mode in (block.train(), block.eval()):
        for call in (mode, torch.no_grad()(mode)):
            out = call(x)
            assert torch.equal(bits(out), bits(x))
            assert out.is_contiguous(memory_format=memory_format)
        for gate in mode.gates(x).values():
            assert (gate == 1).all()
            assert gate.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_the_last_layers_learn_from_the_first_step_on_and_the_others_from_the_second(name):
    block = make(name, "identity").train()
    x, weight = torch.randn(4, 32, 5, 6), torch.randn(4, 32, 5, 6)
    first = {key: parameter.detach().clone() for key, parameter in block.named_parameters()}
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    last = [block.mix] if isinstance(block, GateMix) else []
    last += [p for layer in block.logit_layers() for p in layer.parameters()]
    assert last

    for step in range(2):
        optimizer.zero_grad()
        (block(x) * weight).sum().backward()
        if step == 0:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in last)
        optimizer.step()

    assert not torch.equal(block(x), x)
    for key, parameter in block.named_parameters():
        if not key.endswith("squeeze.bias"):  # batch norm takes this bias out again
            assert not torch.equal(parameter, first[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_gates_are_what_is_applied(name):
    block = learned(name, "identity").double().eval()
    x = torch.randn(2, 32, 5, 6, dtype=torch.float64)
    expected = x
    for gate in block.gates(x).values():
        expected = expected * gate
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(expected, x)


@pytest.mark.parametrize("name", [*sorted({*BUILT_IN} - {*UNSCALED}), "own-squashed"])
def test_the_first_gate_of_an_identity_init_is_twice_that_of_the_paper(name):
    published, block = learned(name, "paper").eval(), make(name, "identity").eval()
    block.load_state_dict(published.state_dict())
    x = torch.randn(2, 32, 5, 6)
    gate, doubled = next(iter(published.gates(x).values())), next(iter(block.gates(x).values()))
    assert torch.equal(doubled, 2 * gate)
    assert doubled.max() > 1
    assert doubled.max() <= 2
    assert doubled.min() >= 0


@pytest.mark.parametrize("name", NAMES)
def test_gate_mix_mixes_the_published_gates_with_one(name):
    published = learned(name, "paper").eval()
    block = GateMix(copy.deepcopy(published)).eval()
    nn.init.constant_(block.mix, 0.25)
    x = torch.randn(2, 32, 5, 6)
    for key, gate in published.gates(x).items():
        torch.testing.assert_close(block.gates(x)[key], 0.75 + 0.25 * gate)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_init_draws_the_same_random_numbers(name):
    states = []
    for init in ("paper", "identity"):
        torch.manual_seed(3)
        make(name, init)
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1])


@pytest.mark.parametrize("name", NAMES)
def test_paper_is_the_default_and_the_block_as_it_is(name):
    block = create_attention(name, 32)
    assert block.init == "paper"
    assert not isinstance(block, GateMix)
    assert "init" not in repr(block)
    assert "init=identity" in repr(make(name, "identity"))


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles_keep_the_init(name):
    block = learned(name, "identity").eval()
    x = torch.randn(1, 32, 4, 4)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert other.init == "identity"
        assert torch.equal(other(x), block(x))


@pytest.mark.parametrize("name", NAMES)
def test_exported_program_agrees(name):
    block, x = learned(name, "identity").eval(), torch.randn(2, 32, 5, 6)
    exported = torch.export.export(block, (x,)).module()
    torch.testing.assert_close(exported(x), block(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_keeps_dtype_and_identity(name):
    block = make(name, "identity")
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 32, 4, 4).to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            out = block(x)
        assert out.dtype == dtype
        assert torch.equal(bits(out), bits(x))


NARROW = [("se", 16), ("se", 32), ("se", 112), ("cbam", 8), ("cbam", 16), ("cbam", 56)]


@pytest.mark.parametrize(("name", "channels"), NARROW)
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_no_narrow_bottleneck_is_dead_at_first(name, channels, init):
    for seed in range(60):
        torch.manual_seed(seed)
        block = make(name, init, channels)
        x = nn.functional.leaky_relu(torch.randn(4, channels, 5, 5) + torch.randn(channels, 1, 1))
        (block(x) * torch.randn_like(x)).sum().backward()
        assert block.expand.weight.grad.abs().sum() > 0, seed


@pytest.mark.parametrize("hidden", range(2, 8))
def test_whatever_comes_in_one_hidden_channel_is_open(hidden):
    block = make("se", "paper", 16 * hidden)
    means = torch.randn(200, 16 * hidden)
    assert (block.reduce(means) > 0).any(dim=1).all()


@pytest.mark.parametrize("name", ["se", "cbam"])
def test_wide_bottlenecks_are_drawn_as_usual_and_narrow_ones_have_the_same_size(name):
    torch.manual_seed(5)
    wide = make(name, "paper", 256).reduce.weight
    torch.manual_seed(5)
    assert torch.equal(wide, nn.Linear(256, len(wide), bias=False).weight)
    for channels in (16, 64):
        torch.manual_seed(5)
        narrow = make(name, "paper", channels).reduce.weight
        torch.manual_seed(5)
        usual = nn.Linear(channels, len(narrow), bias=False).weight
        same_size = narrow.abs() == usual.abs()
        assert same_size[0].all()
        assert same_size[2:].all()


def test_an_unknown_init_is_refused():
    with pytest.raises(
        ConfigError, match=r"init must be .* got 'identiy'. Did you mean 'identity'"
    ):
        create_attention("se", 8, init="identiy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="init must be"):
        create_attention("none", 8, init="paer")  # type: ignore[arg-type]


# The reference network ----------------------------------------------------------------------------

SPECS = [
    *[f"{name}@{','.join(SITES)}" for name in BUILT_IN],
    *[f"ca@{site}" for site in SITES],
    "ca",
    "se@stage1,p5+cbam@stage2+eca@stage3,up+ca-authors@p4",
    "own@stage2+own-squashed@up",
]


@pytest.mark.parametrize("spec", SPECS)
def test_the_reference_network_computes_what_it_did_and_then_learns(spec):
    seed = sum(map(ord, spec))  # any will do
    torch.manual_seed(seed)
    base = build(classes=["a", "b"], width_mult=0.25)
    torch.manual_seed(seed)
    attended = build(classes=["a", "b"], width_mult=0.25, attention=spec, attention_init="identity")
    x = torch.rand(2, 3, 64, 64)
    for training in (False, True):
        expected, out = base.train(training)(x), attended.train(training)(x)
        assert all(torch.equal(one, two) for one, two in zip(out, expected, strict=True))

    blocks = attended.attention_blocks()
    before = {site: copy.deepcopy(block.state_dict()) for site, block in blocks.items()}
    sum(raw_map.square().mean() for raw_map in out).backward()
    torch.optim.SGD(attended.parameters(), lr=0.1).step()
    for site, block in blocks.items():
        moved = [not torch.equal(p, before[site][key]) for key, p in block.named_parameters()]
        assert any(moved), site
