"""The contract that every block of the registry keeps."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from attendet.attention import (
    CBAM,
    AttentionBlock,
    CoordinateAttention,
    EfficientChannelAttention,
    SqueezeExcite,
    attention_names,
    create_attention,
)
from attendet.errors import ConfigError

NAMES = [name for name in attention_names()[1:] if ":" not in name]
ELEMENT = ("simam", "ema", "triplet", "sa", "sge", "nam", "bam", "mlca", "caa", "lska")
"""Blocks with one gate of every element."""

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture
def strict_determinism() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before, warn_only=warn_only)


def make(name: str, channels: int = 16, **options: object) -> AttentionBlock:
    block = create_attention(name, channels, **options)
    assert isinstance(block, AttentionBlock)
    for module in block.modules():  # statistics that are not those of a new layer
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return block


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("image_hw", [(8, 8), (5, 7), (1, 1), (1, 6), (6, 1)], ids=str)
def test_shape_dtype_and_memory_format_are_kept(name, dtype, memory_format, image_hw):
    block = make(name).to(dtype=dtype, memory_format=memory_format)
    x = torch.randn(2, 16, *image_hw).to(dtype=dtype, memory_format=memory_format)
    before = x.clone()
    for mode in (block.train(), block.eval()):
        out = mode(x)
        assert (out.shape, out.dtype) == (x.shape, dtype)
        assert out.is_contiguous(memory_format=memory_format)
        assert torch.isfinite(out).all()
    assert torch.equal(x, before), "the input was changed"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_without_gradients_the_values_are_the_same_and_the_input_stays(name, memory_format):
    block = make(name).eval()
    x = torch.randn(2, 16, 5, 7).to(memory_format=memory_format)
    before, expected = x.clone(), block(x).detach()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            out = block(x)
            assert torch.equal(out, expected)
            assert out.is_contiguous(memory_format=memory_format)
            assert torch.equal(x, before)


@pytest.mark.parametrize("name", NAMES)
def test_one_map_of_one_place_can_be_trained_on(name):
    block, x = make(name).train(), torch.randn(1, 16, 1, 1)
    if name in ("triplet", "nam", "gam", "bam"):  # batch norm over the positions has no variance
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            block(x)
    else:
        assert torch.isfinite(block(x)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_output_is_the_product_of_the_gates(name, memory_format):
    block = make(name).double().eval()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64).to(memory_format=memory_format)
    expected = x
    for gate in block.gates(x).values():
        assert gate.dim() == 4
        assert torch.broadcast_shapes(gate.shape, x.shape) == x.shape
        if block.sigmoid_gates:
            assert (gate >= 0).all()
            assert (gate <= 1).all()
        expected = expected * gate
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("se", {"channel": (2, 16, 1, 1)}),
        ("eca", {"channel": (2, 16, 1, 1)}),
        ("cbam", {"channel": (2, 16, 1, 1), "spatial": (2, 1, 5, 7)}),
        ("ca", {"height": (2, 16, 5, 1), "width": (2, 16, 1, 7)}),
        ("ca-authors", {"height": (2, 16, 5, 1), "width": (2, 16, 1, 7)}),
        ("ela", {"height": (2, 16, 5, 1), "width": (2, 16, 1, 7)}),
        ("fca", {"channel": (2, 16, 1, 1)}),
        ("gc", {"channel": (2, 16, 1, 1)}),
        ("scsa", {"height": (2, 16, 5, 1), "width": (2, 16, 1, 7), "channel": (2, 16, 1, 1)}),
        ("gam", {"channel_element": (2, 16, 5, 7), "spatial_element": (2, 16, 5, 7)}),
        *((name, {"element": (2, 16, 5, 7)}) for name in ELEMENT),
    ],
)
def test_gates_have_their_names_and_shapes(name, shapes):
    gates = make(name).gates(torch.randn(2, 16, 5, 7))
    assert {key: tuple(gate.shape) for key, gate in gates.items()} == shapes


@pytest.mark.parametrize("name", NAMES)
def test_memory_format_does_not_change_values_or_gradients(name):
    block = make(name).double().train()
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    weight = torch.randn_like(x)
    results = []
    for memory_format in FORMATS.values():
        leaf = x.to(memory_format=memory_format).detach().requires_grad_()
        out = block(leaf)
        leaves = (leaf, *block.parameters())
        results.append((out, *torch.autograd.grad((out * weight).sum(), leaves)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradients_in_float64(name, training):
    block = make(name, 4).double().train(training)
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, *_: Tensor) -> Tensor:
        return block(x)

    assert torch.autograd.gradcheck(call, (x, *block.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    block = make(name, 32).train()
    block(torch.randn(4, 32, 6, 5, requires_grad=True)).square().sum().backward()
    for key, parameter in block.named_parameters():
        assert parameter.grad is not None, key
        if not key.startswith("squeeze.bias"):  # batch norm takes this bias out again
            assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(name):
    first, second = make(name).eval(), make(name).eval()
    for parameter in first.parameters():  # some blocks draw none of theirs
        nn.init.normal_(parameter)
    x = torch.randn(2, 16, 5, 7)
    assert name == "simam" or not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("strict_determinism")
def test_two_runs_agree_bit_for_bit_in_strict_mode(name):
    block = make(name).train()
    results = []
    for _ in range(2):
        x = torch.randn(3, 16, 9, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = block(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, *block.parameters()))))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
def test_exported_program_agrees_at_other_sizes(name, memory_format):
    block = make(name).eval()
    x = torch.randn(2, 16, 6, 7).to(memory_format=memory_format)
    sizes = torch.export.Dim
    dynamic = {0: sizes("n", max=64), 2: sizes("h", min=2, max=512), 3: sizes("w", min=2, max=512)}
    exported = torch.export.export(block, (x,), dynamic_shapes=(dynamic,)).module()
    for shape in [(2, 16, 6, 7), (3, 16, 9, 4)]:
        other = torch.randn(shape).to(memory_format=memory_format)
        torch.testing.assert_close(exported(other), block(other), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_keeps_the_dtype_of_the_map(name, dtype):
    block, x = make(name).eval(), torch.randn(2, 16, 5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), block(x), rtol=0.05, atol=0.05)


def test_simam_in_float16_takes_values_far_from_the_mean():
    x = torch.full((1, 1, 4, 4), -500.0)
    x[..., 0] = 500
    block = create_attention("simam", 1)

    torch.testing.assert_close(block(x.half()).float(), block(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 30])
def test_odd_channel_counts_work(name, channels):
    if name == "sa" and channels % 2:
        with pytest.raises(ConfigError, match="channels must be even for shuffle attention"):
            make(name, channels)
        return
    assert make(name, channels)(torch.randn(2, channels, 4, 3)).shape == (2, channels, 4, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [0, -8, 2.5, "64", True])
def test_channels_must_be_a_positive_whole_number(name, channels):
    with pytest.raises(ConfigError, match="channels must be a positive whole number"):
        create_attention(name, channels)


# Sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"), [("se", 43_008), ("cbam", 86_310), ("eca", 15), ("ca", 64_624)]
)
def test_parameters_at_the_three_sites_of_the_reference_network(name, expected):
    blocks = [create_attention(name, channels) for channels in (256, 512, 128)]
    assert sum(p.numel() for block in blocks for p in block.parameters()) == expected


@pytest.mark.parametrize(
    ("channels", "kernel"), [(1, 1), (2, 1), (8, 3), (64, 3), (128, 5), (512, 5), (2048, 7)]
)
def test_eca_kernel_grows_with_channels_and_is_odd(channels, kernel):
    block = EfficientChannelAttention(channels)
    assert block.conv.kernel_size == (kernel,)


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ({}, 16),
        ({"preset": "authors"}, 8),
        ({"reduction": 4}, 64),
        ({"reduction": 512}, 8),
        ({"hidden_channels": 3}, 3),
    ],
)
def test_bottleneck_of_coordinate_attention(options, hidden):
    assert CoordinateAttention(256, **options).squeeze.out_channels == hidden


@pytest.mark.parametrize(
    ("make_block", "says"),
    [
        (lambda: SqueezeExcite(8, reduction=0), "reduction must be"),
        (lambda: CBAM(8, kernel_size=4), "kernel_size must be odd"),
        (lambda: EfficientChannelAttention(8, kernel_size=2), "kernel_size must be odd"),
        (lambda: CoordinateAttention(8, preset="author"), "Did you mean 'authors'"),
        (lambda: CoordinateAttention(8, reduction=4, hidden_channels=4), "one of the two"),
        (lambda: CoordinateAttention(8, hidden_channels=0), "hidden_channels must be"),
        (lambda: create_attention("mlca", 8, local_weight=1.5), "local_weight must be from 0 to 1"),
    ],
)
def test_wrong_options_are_refused(make_block, says):
    with pytest.raises(ConfigError, match=says):
        make_block()


def test_a_block_of_ones_own_needs_gates_alone():
    class Named(AttentionBlock):
        def gates(self, x: Tensor) -> dict[str, Tensor]:
            return {"channel": torch.full_like(x[:, :, :1, :1], 0.5)}

    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(Named(3)(x), x * 0.5)
    with pytest.raises(TypeError, match="abstract"):
        AttentionBlock(3)


def test_coordinate_attention_distinguishes_positions_where_squeeze_excite_cannot():
    x = torch.zeros(1, 16, 6, 6)
    x[:, :, random.Random(0).randrange(6), 4] = 5.0
    gates = make("ca").eval().gates(x)
    assert gates["height"].std(dim=2).max() > 0
    assert gates["width"].std(dim=3).max() > 0
