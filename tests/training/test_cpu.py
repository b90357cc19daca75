"""Layers that train faster on a CPU compute the same as those that they replace."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from attendet.training.cpu import (  # noqa: E402
    Float32DepthwiseConv2d,
    MixedLayoutConv2d,
    WordDropout,
    replace_slow_layers,
)


def _depthwise(channels: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels, channels, size, stride, padding=size // 2, groups=channels, bias=False
    )


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (5, 1)])
def test_a_depthwise_convolution_has_gradients_of_float32_within_autocast(
    size: int, stride: int
) -> None:
    torch.manual_seed(0)
    plain = _depthwise(8, size, stride)
    network = nn.Sequential(_depthwise(8, size, stride))
    network[0].load_state_dict(plain.state_dict())
    replace_slow_layers(network, "bf16-mixed")
    assert type(network[0]) is Float32DepthwiseConv2d
    features = torch.randn(2, 8, 12, 10).bfloat16()
    reference, fast = (features.clone().requires_grad_() for _ in range(2))

    wanted = plain(reference.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = network(fast)
    wanted.sum().backward()
    out.float().sum().backward()

    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wanted, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(network[0].weight.grad, plain.weight.grad)
    torch.testing.assert_close(fast.grad, reference.grad)


def test_layers_are_exchanged_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(precision: str, capability: str) -> list[type]:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        network = nn.Sequential(
            nn.Conv2d(8, 8, 3, bias=False),
            _depthwise(8, 3, 1),
            _depthwise(8, 3, 2),
            nn.Conv2d(8, 8, 3, padding="same", bias=False),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", bias=False),
        )
        replace_slow_layers(network, precision)
        return [type(layer) for layer in network]

    plain = nn.Conv2d
    assert kinds("32-true", "AVX2") == [MixedLayoutConv2d, *[plain] * 4]
    assert kinds("32-true", "AVX512") == [plain] * 5
    assert kinds("bf16-mixed", "AVX512") == [plain, plain, Float32DepthwiseConv2d, plain, plain]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_zeroes_a_part_and_scales_the_rest(layout: torch.memory_format) -> None:
    network = nn.Sequential(nn.Dropout(0.25))
    replace_slow_layers(network, "bf16-mixed")
    features = torch.ones(5, 7, 31, 33).to(memory_format=layout).requires_grad_()

    torch.manual_seed(0)
    out = network(features)
    torch.manual_seed(0)
    again = network(features)
    other = network(features)
    out.sum().backward()

    assert type(network[0]) is WordDropout
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    for one in (out[0], out[:, 3], out[..., 5]):  # no image, channel or column is like another
        assert float((one == 0).float().mean()) == pytest.approx(0.25, abs=0.05)
    assert torch.equal(out, again)
    assert not torch.equal(out, other)
    assert torch.equal(features.grad, out.detach())
    assert network.eval()(features) is features
