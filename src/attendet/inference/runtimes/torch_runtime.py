"""Run networks with eager PyTorch, optimized for CPUs.

Batch normalization is folded into the convolutions. On a CPU, the convolutions are packed: eager
PyTorch converts the weights of a convolution to the layout of its CPU library (oneDNN) at every
call, and reads and writes the feature map once more for the activation. Packed weights are
converted only once, at the first call, and the activation is applied while the output is still in
the cache. PyTorch's own compiler uses the same operators; if a version of PyTorch lacks them,
nothing is replaced.
"""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attendet.attention import inserted_blocks
from attendet.errors import ConfigError, first_line
from attendet.inference.runtimes.base import Output, Runtime, RuntimeOptions
from attendet.models import load_weights
from attendet.models.backbone import ConvBlock
from attendet.models.graph_detector import DarknetConvolution
from attendet.system import available_cores

if TYPE_CHECKING:
    from attendet.models.metadata import WeightsMetadata


class TorchRuntime(Runtime):
    """A network run by eager PyTorch, without gradients.

    Args:
        network: a network of `attendet.models`; it is put into eval mode and runs on its current
            device.
        metadata: metadata of the network.
        fold: run a copy optimized for speed: batch normalization folded and, on a CPU in float32,
            convolutions packed. Later changes to the network's weights do not affect the copy.
        options: threads and mode; the device and the precision are ignored.
    """

    def __init__(
        self,
        network: nn.Module,
        metadata: WeightsMetadata,
        *,
        fold: bool = False,
        options: RuntimeOptions | None = None,
    ) -> None:
        network = network.eval()
        if fold:
            network = copy.deepcopy(network).requires_grad_(False)
            fold_batch_norm(network)
        self._network: Any = network.to(memory_format=torch.channels_last)
        if fold:
            pack_convolutions(self._network)
        self.metadata = metadata
        weights = next(network.parameters())
        self._device, self._dtype = weights.device, weights.dtype
        self.default_batch_size = default_batch_size(self._device)
        self.parallel = parallel_batches(options or RuntimeOptions(), self._device)
        self._pool = torch_pool(self.parallel)

    @classmethod
    def from_file(cls, path: Path, options: RuntimeOptions) -> TorchRuntime:
        """Return the runtime of a weights file, folded, by default on a GPU if there is one.

        Raises:
            WeightsError: if the file is missing, broken or was not written by attendet.
            ConfigError: if the device is not available.
        """
        network, metadata = load_weights(path)
        network = network.to(choose_device(options.device))
        return cls(network, metadata, fold=True, options=options)

    @torch.inference_mode()
    def run(self, inputs: NDArray[np.uint8]) -> Output:
        """Return every box of each network input with its scores (see `Runtime.run`)."""
        # NHWC viewed as NCHW is channels_last already: no copy is made for the layout.
        images = torch.from_numpy(inputs).to(self._device).permute(0, 3, 1, 2)
        boxes_xyxy, scores = self._network.decode(self._network(images.to(self._dtype).div_(255)))
        return boxes_xyxy.float().cpu().numpy(), scores.float().cpu().numpy()


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return a device by name; by default the GPU if there is one, else the CPU.

    Raises:
        ConfigError: if the name is not a device, or the device is not available.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason, rule = first_line(error), "one that PyTorch can use on this machine"
        advice = "Choose cpu, or cuda with a GPU."
        raise ConfigError.must("device", rule, str(device), reason, advice) from None
    return chosen


def default_batch_size(device: torch.device) -> int:
    """Return the default batch size of a stream in eager PyTorch.

    On 2 CPU cores, batches of 1, 4 and 8 gave 23, 28 and 27 images/s; with all threads on one
    batch, they gave 14, 19 and 20 (416 px). The number for a GPU, which needs larger batches, is a
    guess.
    """
    return 4 if device.type == "cpu" else 16


def parallel_batches(options: RuntimeOptions, device: torch.device) -> int:
    """Return the number of parallel batches in PyTorch: on a CPU in throughput, one per thread.

    With one batch at a time, all threads of PyTorch work on it. If images are read at the same
    time, the readers take a core, and the remaining threads wait at every operator. On 2 cores, a
    stream gave 19 images/s this way, and 28 with two parallel batches (batches of 4, 416 px,
    docs/benchmarks.md).
    """
    if options.mode != "throughput" or device.type != "cpu":
        return 1
    return options.threads or available_cores()


def torch_pool(count: int) -> ThreadPoolExecutor:
    """Return a pool of threads that run one batch each.

    In a pool of one, the thread uses all threads of PyTorch. In a larger pool, each thread uses
    one: PyTorch's thread count is set per calling thread. The count of the process does not change.
    """
    if count == 1:
        return ThreadPoolExecutor(1, thread_name_prefix="torch")
    usual = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "torch", initializer=_use_one_thread)
    all_started = threading.Barrier(count)  # a pool starts a thread only if none is idle
    list(pool.map(lambda _: all_started.wait(), range(count)))
    torch.set_num_threads(usual)
    return pool


def _use_one_thread() -> None:
    torch.get_num_threads()  # the first call copies the count of the process; later calls do not
    torch.set_num_threads(1)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Return the network with batch normalization folded into the convolutions, in place.

    The result is the same up to rounding, with one pass less over each feature map. Blocks with
    attention inserted at the convolution or the normalization are not changed.

    Args:
        network: in eval mode.
    """
    for module in network.modules():
        if (
            isinstance(module, ConvBlock | DarknetConvolution)
            and isinstance(module.bn, nn.BatchNorm2d)
            and not inserted_blocks(module.conv)
            and not inserted_blocks(module.bn)
        ):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return network


def can_pack() -> bool:
    """Return whether this PyTorch has the operators of `PackedConvolution`."""
    library = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(library, name) for name in ("_convolution_pointwise", "_reorder_convolution_weight")
    )


class PackedConvolution(nn.Module):
    """A convolution and its activation as one operator; inference on a CPU only.

    Args:
        conv: the convolution, float32 on the CPU, zero padding.
        activation: the activation after it: leaky ReLU, ReLU or none (`nn.Identity`).
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self._operator, self._scalars = "none", []
        if isinstance(activation, nn.LeakyReLU):
            self._operator, self._scalars = "leaky_relu", [activation.negative_slope]
        elif isinstance(activation, nn.ReLU):
            self._operator = "relu"
        self._packed: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, out_channels, ...), float32."""
        conv = self.conv
        geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                conv.weight, *geometry, features.shape
            )
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            features, self._packed, conv.bias, *geometry, self._operator, self._scalars, ""
        )
        return out


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
            (`fold_batch_norm`). Blocks on another device or in another precision, and blocks with
            attention inside, are not changed.
    """
    if not can_pack():
        return network
    for module in network.modules():
        if not isinstance(module, ConvBlock | DarknetConvolution):
            continue
        if type(module.bn) is nn.Identity and _is_packable(module.conv):
            fused = type(module.act) in (nn.LeakyReLU, nn.ReLU)
            packed = PackedConvolution(module.conv, module.act if fused else nn.Identity())
            module.add_module("conv", packed)
            if fused:
                module.act = nn.Identity()
    return network
