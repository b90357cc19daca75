"""Convolutions made ready for the CPU once: weights in oneDNN's own layout, activation inside.

Eager PyTorch brings the weights of a convolution into the layout of its CPU library (oneDNN) at
every call, and makes another pass over the map for the activation. A detector calls the same
convolutions for every image: here the weights are laid out at the first call and kept, and the
activation is applied while the output is still in the cache. The operators are those that
PyTorch's own compiler puts into a graph; where a PyTorch lacks them, nothing is replaced.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attendet.attention import inserted_blocks
from attendet.models.backbone import ConvBlock
from attendet.models.graph_detector import DarknetConvolution

__all__ = ["PackedConvolution", "can_pack", "pack_convolutions"]


def can_pack() -> bool:
    """Return whether this PyTorch has the operators."""
    library = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(library, name) for name in ("_convolution_pointwise", "_reorder_convolution_weight")
    )


class PackedConvolution(nn.Module):
    """A convolution and the activation behind it as one operator; inference on a CPU only.

    Args:
        conv: the convolution, float32 on the CPU, zero padding.
        activation: the leaky ReLU, ReLU or nothing (`nn.Identity`) behind it.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self._operator, self._scalars = _operator_of(activation)
        self._packed: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, out_channels, ...), float32."""
        conv = self.conv
        where = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                conv.weight, *where, features.shape
            )
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            features, self._packed, conv.bias, *where, self._operator, self._scalars, ""
        )
        return out


def _operator_of(activation: nn.Module) -> tuple[str, list[float]]:
    if isinstance(activation, nn.LeakyReLU):
        return "leaky_relu", [activation.negative_slope]
    return ("relu" if isinstance(activation, nn.ReLU) else "none"), []


def _is_packable(conv: nn.Module) -> bool:
    return (
        type(conv) is nn.Conv2d
        and not inserted_blocks(conv)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.weight.dtype == torch.float32
        and conv.weight.device.type == "cpu"
    )


def pack_convolutions(network: nn.Module) -> nn.Module:
    """Return the network with its convolution blocks packed, in place.

    Args:
        network: of `attendet.models`, in eval mode, batch normalization folded
            (`attendet.inference.runtimes.torch_runtime.fold_batch_norm`). Blocks on another
            device or in another precision, and those with attention put between their
            parts, stay as they are.
    """
    if not can_pack():
        return network
    for module in network.modules():
        if not isinstance(module, ConvBlock | DarknetConvolution):
            continue
        if type(module.bn) is nn.Identity and _is_packable(module.conv):
            whole = type(module.act) in (nn.LeakyReLU, nn.ReLU)
            packed = PackedConvolution(module.conv, module.act if whole else nn.Identity())
            module.add_module("conv", packed)
            if whole:
                module.act = nn.Identity()
    return network
