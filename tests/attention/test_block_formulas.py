"""The formulas of the papers once more, in numpy and scipy and as loops, with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.ndimage import correlate
from scipy.special import expit as sigmoid
from scipy.special import softmax
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from attendet.attention import create_attention

CHANNELS, HW = 12, (9, 7)


def conv(x, kernel, bias=None, dilation=1):
    """A convolution of one image, (C, H, W), padded with zeros to the same size."""
    outs, ins, rows, columns = kernel.shape
    wide = np.zeros((outs, ins, (rows - 1) * dilation + 1, (columns - 1) * dilation + 1))
    wide[:, :, ::dilation, ::dilation] = kernel
    out = np.stack(
        [sum(correlate(x[i], wide[o, i], mode="constant") for i in range(ins)) for o in range(outs)]
    )
    return out if bias is None else out + bias[:, None, None]


def depthwise(x, kernel, bias=None, dilation=1):
    return np.concatenate([conv(x[[c]], kernel[[c]], None, dilation) for c in range(len(x))]) + (
        0 if bias is None else bias[:, None, None]
    )


def batch_norm(x, w, name, eps=1e-5):
    """Batch norm in eval mode."""
    scale = w[f"{name}.weight"] / np.sqrt(w[f"{name}.running_var"] + eps)
    return (x - w[f"{name}.running_mean"][:, None, None]) * scale[:, None, None] + w[
        f"{name}.bias"
    ][:, None, None]


def normalize(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def simam(x, w):
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    energy = 4 * (var + 1e-4) / ((x - mean) ** 2 + 2 * var + 2 * 1e-4)
    return x * sigmoid(1 / energy)


def ema(x, w, groups=4):
    out = []
    for part in np.split(x, groups):
        height = conv(part.mean(2, keepdims=True), w["pointwise.weight"], w["pointwise.bias"])
        width = conv(part.mean(1, keepdims=True), w["pointwise.weight"], w["pointwise.bias"])
        a = normalize(part * sigmoid(height) * sigmoid(width), (1, 2))
        a = a * w["norm.weight"][:, None, None] + w["norm.bias"][:, None, None]
        b = conv(part, w["local.weight"], w["local.bias"])
        flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        logits = softmax(flat_a.mean(1)) @ flat_b + softmax(flat_b.mean(1)) @ flat_a
        out.append(part * sigmoid(logits).reshape(HW))
    return np.concatenate(out)


def triplet(x, w):
    total = np.zeros_like(x)
    for name, axis in (("spatial", 0), ("width", 1), ("height", 2)):
        pooled = np.stack([x.max(axis), x.mean(axis)])
        gate = sigmoid(batch_norm(conv(pooled, w[f"{name}.0.weight"]), w, f"{name}.1"))[0]
        total += x * np.expand_dims(gate, axis)
    return total / 3


def shuffle(x, w, groups=3):
    out = []
    for part in np.split(x, groups):
        first, second = np.split(part, 2)
        scale, bias = (w[f"channel.{kind}"].reshape(-1, 1, 1) for kind in ("weight", "bias"))
        out.append(first * sigmoid(first.mean((1, 2), keepdims=True) * scale + bias))
        scale, bias = (w[f"spatial.{kind}"].reshape(-1, 1, 1) for kind in ("weight", "bias"))
        out.append(second * sigmoid(normalize(second, (1, 2)) * scale + bias))
    gated = np.concatenate(out)
    return np.stack(np.split(gated, 2), axis=1).reshape(x.shape)


def sge(x, w, groups=4):
    out = []
    for index, part in enumerate(np.split(x, groups)):
        likeness = np.einsum("chw,c->hw", part, part.mean((1, 2)))
        logits = w["norm.weight"][index] * normalize(likeness, (0, 1)) + w["norm.bias"][index]
        out.append(part * sigmoid(logits))
    return np.concatenate(out)


def nam(x, w):
    scales = np.abs(w["norm.weight"])
    return x * sigmoid((scales / scales.sum())[:, None, None] * batch_norm(x, w, "norm"))


def gam(x, w):
    first, second = w["channel.0.weight"][..., 0, 0], w["channel.2.weight"][..., 0, 0]
    by_position = x.reshape(len(x), -1).T
    hidden = np.maximum(by_position @ first.T + w["channel.0.bias"], 0)
    x = x * sigmoid(hidden @ second.T + w["channel.2.bias"]).T.reshape(x.shape)
    hidden = np.maximum(batch_norm(conv(x, w["spatial.0.weight"]), w, "spatial.1"), 0)
    return x * sigmoid(batch_norm(conv(hidden, w["spatial.3.weight"]), w, "spatial.4"))


def bam(x, w):
    hidden = np.maximum(w["reduce.weight"] @ x.mean((1, 2)), 0)
    channel = w["expand.weight"] @ hidden + w["expand.bias"]
    spatial = x
    for layer, dilation in ((0, 1), (3, 4), (6, 4)):
        spatial = conv(spatial, w[f"spatial.{layer}.weight"], dilation=dilation)
        spatial = np.maximum(batch_norm(spatial, w, f"spatial.{layer + 1}"), 0)
    spatial = batch_norm(conv(spatial, w["spatial.9.weight"]), w, "spatial.10")
    return x + x * sigmoid(channel[:, None, None] + spatial)


def fca(x, w, order=((0, 0), (0, 1), (1, 0), (0, 2))):
    spectrum = np.stack([dctn(channel, type=2) / 4 for channel in x])  # 2 cos an axis
    squeezed = [spectrum[c][order[c * 4 // CHANNELS]] / x[c].size for c in range(CHANNELS)]
    hidden = np.maximum(w["reduce.weight"] @ squeezed, 0)
    return x * sigmoid(w["expand.weight"] @ hidden)[:, None, None]


def mlca(x, w, grid=5):
    means = adaptive_avg_pool2d(torch.from_numpy(x)[None], grid)[0].numpy()
    local = np.stack(
        [
            [
                correlate(means[:, i, j], w["local.weight"][0, 0, :, 0], mode="constant")
                for j in range(grid)
            ]
            for i in range(grid)
        ]
    )
    whole = correlate(means.mean((1, 2)), w["whole.weight"][0, 0, :, 0], mode="constant")
    gate = (sigmoid(local) + sigmoid(whole)) / 2  # (grid, grid, C)
    rows, columns = (np.arange(length) * grid // length for length in HW)
    return x * gate[rows][:, columns].transpose(2, 0, 1)


def scsa(x, w, grid=7):
    gated = x
    for name, axis in (("height", 2), ("width", 1)):
        means = x.mean(axis)
        parts = []
        for index, part in enumerate(np.split(means, 4)):
            kernel, bias = w[f"local.{index}.weight"][:, 0], w[f"local.{index}.bias"]
            parts += [
                normalize(
                    np.stack(
                        [
                            correlate(part[c], kernel[c], mode="constant") + bias[c]
                            for c in range(len(part))
                        ]
                    ),
                    (0, 1),
                )
            ]
        logits = np.concatenate(parts) * w[f"{name}.weight"][:, None] + w[f"{name}.bias"][:, None]
        gated = gated * np.expand_dims(sigmoid(logits), axis)
    pooled = adaptive_avg_pool2d(torch.from_numpy(gated)[None], grid)[0].numpy()
    pooled = normalize(pooled, (0, 1, 2)).reshape(CHANNELS, -1)
    pooled = pooled * w["norm.weight"][:, None] + w["norm.bias"][:, None]
    query, key, value = (
        pooled * w[f"{n}.weight"].reshape(-1, 1) for n in ("query", "key", "value")
    )
    attention = softmax(query @ key.T / np.sqrt(CHANNELS), axis=1)
    return gated * sigmoid((attention @ value).mean(1))[:, None, None]


def caa(x, w):
    mean = np.stack([correlate(c, np.full((7, 7), 1 / 49), mode="constant") for c in x])
    y = conv(mean, w["reduce.weight"], w["reduce.bias"])
    y = depthwise(depthwise(y, w["across.weight"], w["across.bias"]), w["down.weight"])
    y = y + w["down.bias"][:, None, None]
    return x * sigmoid(conv(y, w["expand.weight"], w["expand.bias"]))


def lska(x, w):
    y = x
    for name, dilation in (("near.0", 1), ("near.1", 1), ("far.0", 3), ("far.1", 3)):
        y = depthwise(y, w[f"{name}.weight"], w[f"{name}.bias"], dilation)
    assert w["near.0.weight"].shape[2:] == (1, 5)
    assert w["far.0.weight"].shape[2:] == (1, 7)
    return x * conv(y, w["mix.weight"], w["mix.bias"])


FORMULAS = {
    "simam": (simam, {}),
    "ema": (ema, {"groups": 4}),
    "triplet": (triplet, {}),
    "sa": (shuffle, {"groups": 3, "shuffle": True}),
    "sge": (sge, {"groups": 4}),
    "nam": (nam, {}),
    "gam": (gam, {}),
    "bam": (bam, {"reduction": 4}),
    "fca": (fca, {"reduction": 4, "components": 4}),
    "mlca": (mlca, {}),
    "scsa": (scsa, {}),
    "caa": (caa, {}),
    "lska": (lska, {}),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_of_the_paper(name):
    formula, options = FORMULAS[name]
    block = create_attention(name, CHANNELS, **options).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(2, CHANNELS, *HW, dtype=torch.float64)
    weights = {key: value.numpy() for key, value in block.state_dict().items()}

    expected = np.stack([formula(image, weights) for image in x.numpy()])

    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_fca_of_one_component_is_squeeze_excite():
    fca, se = create_attention("fca", 32, components=1), create_attention("se", 32)
    fca.load_state_dict(se.state_dict())
    x = torch.randn(2, 32, 5, 6)
    torch.testing.assert_close(fca(x), se(x))


@pytest.mark.parametrize(("rows", "columns"), [(13, 26), (5, 5), (3, 1), (7, 6)])
def test_parts_are_those_of_adaptive_pooling(rows, columns):
    from attendet.attention.base import pool_to_grid

    x = torch.randn(2, 3, rows, columns, dtype=torch.float64)
    torch.testing.assert_close(pool_to_grid(x, 5), adaptive_avg_pool2d(x, 5))


def test_shuffle_attention_without_the_shuffle_is_the_same_in_another_order():
    plain = create_attention("sa", 8, groups=2)
    shuffled = create_attention("sa", 8, groups=2, shuffle=True)
    x = torch.randn(1, 8, 3, 3)
    assert torch.equal(shuffled(x), plain(x)[:, [0, 4, 1, 5, 2, 6, 3, 7]])
    assert plain.is_gated
    assert not shuffled.is_gated


def test_a_block_that_is_no_product_of_gates_starts_as_the_identity():
    block = create_attention("sa", 8, shuffle=True, init="identity").train()
    x, weight = torch.randn(2, 8, 3, 3), torch.randn(2, 8, 3, 3)
    assert torch.equal(block(x), x)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in block.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        (block(x) * weight).sum().backward()
        optimizer.step()
    assert not any(map(torch.equal, block.parameters(), before))
