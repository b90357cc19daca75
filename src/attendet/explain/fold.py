"""Folding of constant gates into convolutions, which removes an attention block exactly.

C is the channels of the map at a site.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention import inserted_blocks
from attendet.attention.insertion import BLOCK_NAME, detach
from attendet.errors import ConfigError
from attendet.explain.gates import gated_sites
from attendet.models import YoloV4Tiny
from attendet.models.backbone import ConvBlock
from attendet.models.graph_detector import DarknetConvolution

_HOMOGENEOUS = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Dropout)
"""Activations f with f(s x) = s f(x) for every s >= 0."""


def can_fold(network: nn.Module, site: str, *, negative: bool = False) -> bool:
    """Return whether the block at a site could be folded exactly if its gate were constant.

    Args:
        network: any module.
        site: a name from `attendet.explain.gated_sites`.
        negative: whether the constant of a channel is below 0.
    """
    if _reader(network, site) is not None:
        return True
    return not negative and _producer(network, site) is not None


@torch.no_grad()
def fold_gate(network: nn.Module, site: str, scale: Tensor) -> None:
    """Remove a block from a network, in place, and multiply its channels by a constant instead.

    In the reference network the constant goes into the weights of the next convolution. This is
    exact for any constant, because a convolution is linear and pads with zeros. For blocks inserted
    by `attendet.attend` it goes into the convolution or batch normalization before the block. There
    it must not be negative, and only activations with f(s x) = s f(x) may lie between.

    Args:
        network: in eval mode.
        site: a name from `attendet.explain.gated_sites`.
        scale: factor of each channel, (C,).

    Raises:
        ConfigError: if there is no such block, the scale has another size or is not finite, or no
            convolution or batch normalization can take it.

    Example:
        >>> from attendet.attention import attend
        >>> network = attend(nn.Sequential(nn.Conv2d(3, 8, 3)), {"0": "se"}, init="paper").eval()
        >>> _ = nn.init.zeros_(network[0].attention_block.expand.weight)
        >>> x = torch.randn(1, 3, 6, 6)
        >>> before = network(x)
        >>> fold_gate(network, "0", torch.full((8,), 0.5))
        >>> torch.equal(network(x), before), type(network[0]).__name__
        (True, 'Conv2d')
    """
    blocks = gated_sites(network)
    if site not in blocks:
        raise ConfigError.unknown("site", site, blocks)
    reader, producer = _reader(network, site), _producer(network, site)
    if reader is None and producer is None:
        rule = "after a convolution or batch normalization to be folded"
        raise ConfigError.must("site", rule, site, advice="Keep this block.")
    channels = int(blocks[site].channels)  # type: ignore[arg-type]
    if scale.shape != (channels,) or not bool(scale.isfinite().all()):
        rule = f"{channels} finite numbers, one per channel"
        raise ConfigError.must("scale", rule, tuple(scale.shape), site)
    if reader is None and bool((scale < 0).any()):
        rule = "0 or more to be folded into the convolution before the block"
        raise ConfigError.must("scale", rule, float(scale.min()), site, "Keep this block.")
    if reader is not None and isinstance(network, YoloV4Tiny):
        convolution, first = reader
        part = convolution.weight[:, first : first + len(scale)]
        part.mul_(scale.to(part)[None, :, None, None])
        del network.attention[site]
    elif producer is not None:
        _scale_outputs(producer, scale)
        detach(_inserted_module(network, site))


def _inserted_module(network: nn.Module, site: str) -> nn.Module:
    """Return the module that `attend` inserted a block after."""
    return network.get_submodule("" if site == "itself" else site)


def _reader(network: nn.Module, site: str) -> tuple[nn.Conv2d, int] | None:
    """Return the convolution that reads a site, and its first input channel from that site."""
    if not isinstance(network, YoloV4Tiny) or site not in network.attention:
        return None
    backbone = network.backbone
    channels = backbone.site_channels
    readers = {
        "stage1": (backbone.csp2.conv1.conv, 0),
        "stage2": (backbone.csp3.conv1.conv, 0),
        "stage3": (backbone.conv3.conv, 0),
        "p4": (network.head_p4.conv, channels["up"]),
        "p5": (network.conv_p5.conv, 0),
        "up": (network.head_p4.conv, 0),
    }
    if len(network.strides) == 3:
        readers |= {"p3": (network.head_p3.conv, channels["up2"]), "up2": (network.head_p3.conv, 0)}
    return readers.get(site)


def _producer(network: nn.Module, site: str) -> nn.Module | None:
    """Return the convolution or batch normalization before a block that `attend` inserted."""
    if ("" if site == "itself" else site) not in inserted_blocks(network) or "[" in site:
        return None
    module = _inserted_module(network, site)
    if any(BLOCK_NAME in child._modules for child in module.modules() if child is not module):
        return None
    return _last_linear(module)


def _last_linear(module: nn.Module) -> nn.Module | None:
    """Return the last convolution or batch normalization of a module, if its output is linear.

    None if its weight or bias is not a plain parameter, for example after
    `torch.nn.utils.parametrizations`.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        plain = {"weight", "bias"} <= module._parameters.keys()
        return module if plain and module.weight is not None else None
    if isinstance(module, ConvBlock | DarknetConvolution):
        children: list[nn.Module] = [module.conv, module.bn, module.act]
    elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        children = [child for name, child in module.named_children() if name != BLOCK_NAME]
    else:
        return None
    for child in reversed(children):
        if not isinstance(child, _HOMOGENEOUS):
            return _last_linear(child)
    return None


def _scale_outputs(module: nn.Module, scale: Tensor) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        factor = scale.to(parameter)
        if name == "weight" and isinstance(module, nn.ConvTranspose2d):
            grouped = factor.view(module.groups, -1)  # weight is (in, out / groups, ...)
            whole = parameter.view(module.groups, -1, *parameter.shape[1:])
            whole.mul_(grouped[:, None, :, None, None])
        else:
            parameter.mul_(factor.view(-1, *[1] * (parameter.dim() - 1)))
