"""The runtime that carries a network with eager PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attendet.attention import inserted_blocks
from attendet.errors import ConfigError
from attendet.inference.runtimes.base import Output, RuntimeOptions
from attendet.inference.runtimes.packed_convolution import pack_convolutions
from attendet.inference.runtimes.torch_replicas import TorchPlaces, places_for
from attendet.models import load_weights
from attendet.models.backbone import ConvBlock
from attendet.models.graph_detector import DarknetConvolution

if TYPE_CHECKING:
    from attendet.models.metadata import WeightsMetadata

__all__ = ["TorchRuntime", "choose_device", "fold_batch_norm"]


class _Network(Protocol):
    """A network of attendet: raw maps, and the one decode."""

    decode: Callable[[list[Tensor]], tuple[Tensor, Tensor]]

    def __call__(self, images: Tensor) -> list[Tensor]: ...


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return a device by name, or the GPU where there is one, else the CPU.

    Raises:
        ConfigError: if the name is no device, or the device is not there.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device must be one that PyTorch can use here; got {str(device)!r} ({reason}). "
            "Choose cpu, or cuda with a GPU."
        ) from None
    return chosen


def usual_batch(device: torch.device) -> int:
    """Return how many network inputs go through eager PyTorch at once in a stream.

    On 2 CPU cores 1 made 23 images/s, 4 made 28 and 8 made 27; with all threads on one batch 14,
    19 and 20 (416 px). A GPU is not filled by so few; its number is a guess.
    """
    return 4 if device.type == "cpu" else 16


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Return the network with batch normalization folded into the convolutions before it, in place.

    Each block of convolution, batch normalization and activation then is one without the middle:
    the same function of its input up to rounding, with one pass over the map less. Where attention
    was put behind one of the two, they stay.

    Args:
        network: in eval mode.
    """
    for module in network.modules():
        if not isinstance(module, ConvBlock | DarknetConvolution):
            continue
        if not isinstance(module.bn, nn.BatchNorm2d):
            continue
        if not inserted_blocks(module.conv) and not inserted_blocks(module.bn):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return network


class TorchRuntime:
    """A network carried by eager PyTorch, without gradients.

    Args:
        network: a network of `attendet.models`; it is put into eval mode.
        metadata: its description.
        device: where it runs; where it is if left out.
        fold: run a copy made for speed: batch normalization folded into the convolutions and, on a
            CPU in float32, these packed (`attendet.inference.runtimes.packed_convolution`). Later
            changes to the network's weights do not reach the copy.
        options: how the machine is used; its device gives way to `device`.
    """

    def __init__(
        self,
        network: nn.Module,
        metadata: WeightsMetadata,
        device: str | torch.device | None = None,
        *,
        fold: bool = False,
        options: RuntimeOptions | None = None,
    ) -> None:
        network = network.eval()
        if fold:
            network = fold_batch_norm(copy.deepcopy(network).requires_grad_(False))
        if device is not None:
            network = network.to(choose_device(device))
        self._network = network.to(memory_format=torch.channels_last)
        self._metadata = metadata
        weights = next(network.parameters())
        self._device, self._dtype = weights.device, weights.dtype
        if fold:
            pack_convolutions(self._network)
        self._places = TorchPlaces(places_for(options or RuntimeOptions(), self._device))

    @classmethod
    def from_file(cls, path: str | Path, options: RuntimeOptions | None = None) -> TorchRuntime:
        """Return the runtime of a weights file, folded, on a GPU where there is one.

        Raises:
            WeightsError: if the file is missing, broken or not ours.
            ConfigError: if the device is not there.
        """
        network, metadata = load_weights(path)
        options = options or RuntimeOptions()
        return cls(network, metadata, choose_device(options.device), fold=True, options=options)

    @property
    def metadata(self) -> WeightsMetadata:
        """What the weights file says about itself."""
        return self._metadata

    @property
    def usual_batch(self) -> int:
        """See `BatchingRuntime`."""
        return usual_batch(self._device)

    @property
    def parallel(self) -> int:
        """How many batches it works on side by side."""
        return self._places.count

    def submit(self, inputs: NDArray[np.uint8]) -> Future[Output]:
        """Hand over a batch, which must not be changed until it is done."""
        return self._places.submit(self.run, inputs)

    @torch.inference_mode()
    def run(self, inputs: NDArray[np.uint8]) -> Output:
        """Return every box of each network input with its scores (see `Runtime.run`)."""
        network = cast(_Network, self._network)
        # NHWC seen as NCHW is channels_last already: no copy is made for the layout.
        images = torch.from_numpy(inputs).to(self._device).permute(0, 3, 1, 2)
        boxes_xyxy, scores = network.decode(network(images.to(self._dtype).div_(255)))
        return boxes_xyxy.float().cpu().numpy(), scores.float().cpu().numpy()
