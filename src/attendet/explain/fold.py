"""Constant gates folded into convolutions: the block is gone, the network computes the same.

C is the channels of the map at a site.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention import inserted_blocks
from attendet.attention.insertion import BLOCK_NAME, detach
from attendet.errors import ConfigError, did_you_mean
from attendet.explain.gates import gated_sites
from attendet.models import YoloV4Tiny
from attendet.models.backbone import ConvBlock
from attendet.models.graph_detector import DarknetConvolution

__all__ = ["can_fold", "fold_gate"]

_HOMOGENEOUS = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Dropout)
"""Activations f with f(s x) = s f(x) for every s >= 0."""


def can_fold(network: nn.Module, site: str) -> bool:
    """Return whether a block at a site can be folded exactly if its gate is constant.

    Args:
        network: any module.
        site: as `attendet.explain.gated_sites` names it.
    """
    return _reader(network, site) is not None or _producer(network, site) is not None


@torch.no_grad()
def fold_gate(network: nn.Module, site: str, scale: Tensor) -> None:
    """Take a block out of a network and multiply its channels by a constant instead, in place.

    In the reference network the constant goes into the weights of the convolution that reads the
    map: a convolution is linear and pads with zeros, so this is exact for any constant. Where
    `attendet.attend` put the block, it goes into the module before: its convolution or batch
    normalization, through activations that are linear for a positive factor.

    Args:
        network: in eval mode.
        site: as `attendet.explain.gated_sites` names it.
        scale: what each channel is multiplied by, (C,), 0 and up.

    Raises:
        ConfigError: if there is no such block, the scale does not transform, or no convolution can
            take it.

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
        raise ConfigError(
            f"site must be one with a block; got {site!r}. {did_you_mean(site, blocks)}"
        )
    reader, producer = _reader(network, site), _producer(network, site)
    if reader is None and producer is None:
        raise ConfigError(
            f"site must follow a convolution or batch normalization to be folded; got {site!r}. "
            "Keep this block."
        )
    channels = int(blocks[site].channels)  # type: ignore[arg-type]
    if scale.shape != (channels,) or not bool((scale >= 0).all()):
        raise ConfigError(
            f"scale must be {channels} numbers, 0 and up, one a channel; got shape "
            f"{tuple(scale.shape)} ({site})."
        )
    if reader is not None and isinstance(network, YoloV4Tiny):
        convolution, first = reader
        part = convolution.weight[:, first : first + len(scale)]
        part.mul_(scale.to(part)[None, :, None, None])
        del network.attention[site]
    elif producer is not None:
        _scale_outputs(producer, scale)
        detach(_place(network, site))


def _place(network: nn.Module, site: str) -> nn.Module:
    return network.get_submodule("" if site == "itself" else site)


def _reader(network: nn.Module, site: str) -> tuple[nn.Conv2d, int] | None:
    """Return the one convolution that reads a named site, and the first channel that it reads."""
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
    return readers.get(site)


def _producer(network: nn.Module, site: str) -> nn.Module | None:
    """Return the convolution or batch normalization whose output `attend` put a block behind."""
    if ("" if site == "itself" else site) not in inserted_blocks(network) or "[" in site:
        return None
    module = _place(network, site)
    if any(BLOCK_NAME in child._modules for child in module.modules() if child is not module):
        return None
    return _last_linear(module)


def _last_linear(module: nn.Module) -> nn.Module | None:
    """Return the last module whose weights scale the output of another, if there is one."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return module
    if isinstance(module, nn.BatchNorm2d):
        return module if module.affine else None
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
