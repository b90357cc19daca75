"""Distributed training: Lightning Fabric, synchronized batch norm and validation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attendet.data import Sample
from attendet.errors import ConfigError
from attendet.evaluation import detect
from attendet.evaluation.coco import coco_metrics
from attendet.inference import Detector
from attendet.inference.runtimes.torch_runtime import TorchRuntime
from attendet.inference.stream import NetworkInput
from attendet.models import WeightsMetadata
from attendet.system import has_bfloat16, require


def _precision(wanted: str, accelerator: str) -> str:
    if wanted == "auto":
        if accelerator == "cuda":
            hardware = torch.cuda.is_bf16_supported(including_emulation=False)
            wanted = "bf16" if hardware else "16"
        else:
            wanted = "bf16" if accelerator == "cpu" and has_bfloat16() else "32"
    if wanted == "16" and accelerator == "cpu":
        raise ConfigError("precision must be 32 or bf16 on a CPU; got '16' (--precision).")
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[wanted]


def make_fabric(
    *,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    devices: int = 1,
    nodes: int = 1,
    precision: str = "auto",
) -> Any:
    """Return a Lightning Fabric for the devices, not yet launched.

    Args:
        accelerator: ``auto``: CUDA if available, else MPS if available, else the CPU.
        devices: processes on this machine, one per device.
        nodes: number of machines; start the command on each of them with torchrun.
        precision: ``auto``, ``32``, ``bf16`` or ``16``.

    Raises:
        ConfigError: if the devices are not available, or a CPU does not support the precision.
    """
    fabric_module = require("lightning_fabric", extra="train", purpose="training")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # hides its tips
    if accelerator == "auto":
        if torch.cuda.is_available():
            accelerator = "cuda"
        else:
            accelerator = "mps" if torch.backends.mps.is_available() else "cpu"
    if devices < 1 or nodes < 1:
        raise ConfigError(f"devices and nodes must be at least 1; got {devices} and {nodes}.")
    if accelerator == "cuda" and not torch.cuda.is_available():
        build = (
            f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs only"
        )
        raise ConfigError(
            "accelerator must be available; got 'cuda' (--accelerator), but there is no CUDA "
            f"device here (torch {torch.__version__} is {build}). Use --accelerator cpu, or "
            "install a driver and a torch with CUDA."
        )
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(
            f"devices must be at most {torch.cuda.device_count()}, the number of GPUs; got "
            f"{devices} (--devices)."
        )
    if accelerator == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN uses for convolutions
    several = devices * nodes > 1
    try:
        return fabric_module.Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if several else "auto",
            precision=_precision(precision, accelerator),
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"devices cannot be used: {_first_sentence(error)}") from None


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".") + "."


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes; the gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization with training statistics over N, H and W of all processes.

    torch's SyncBatchNorm does not support CPU tensors; this class supports all devices. It sums
    count, sum and sum of squares with a differentiable all-reduce, in float32.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return the normalized map, same shape."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(features)
        wide = features.float()
        count = torch.full_like(wide[0, :1, 0, 0], wide.numel() / wide.shape[1])
        sums = torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), count])
        total: Tensor = _SumOverProcesses.apply(sums)
        channels = features.shape[1]
        size = total[-1].detach()
        mean = total[:channels] / size
        variance = (total[channels : 2 * channels] / size - mean.square()).clamp(min=0)
        with torch.no_grad():
            momentum = self.momentum or 0.0
            unbiased = variance * (size / (size - 1))
            if self.running_mean is not None and self.running_var is not None:
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
            shift = self.bias - mean * scale
        else:
            shift = -mean * scale
        shape = (1, channels, 1, 1)
        normalized: Tensor = wide * scale.view(shape) + shift.view(shape)
        return normalized.to(features.dtype)


def sync_batch_norm(network: nn.Module) -> nn.Module:
    """Return the network with synchronized batch norm, changed in place.

    Names, parameters and statistics do not change, so its state dict fits the original network.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return network


def validate(
    fabric: Any,
    network: nn.Module,
    metadata: WeightsMetadata,
    samples: tuple[Sample, ...],
    *,
    batch: int,
    progress: Callable[[int, int], None] | None = None,
    kept: dict[Path, NetworkInput] | None = None,
) -> dict[str, Any]:
    """Return the COCO metrics of a network on a split, the same in every process.

    The network runs in the same way as a file that `attendet.load` loads, so both give the same
    numbers.

    Args:
        fabric: launched Lightning Fabric; each process predicts a part of the images.
        network: in eval mode, on the device.
        metadata: metadata of the network.
        samples: the split.
        batch: images per call.
        progress: called with the images done and their total in this process.
        kept: cache of network inputs for later calls, see `attendet.evaluation.detect`.
    """
    detector = Detector(TorchRuntime(network, metadata, fold=True))
    own = samples[fabric.global_rank :: fabric.world_size]
    found = detect(detector, own, batch=batch, progress=progress, kept=kept)
    if fabric.world_size > 1:
        parts: list[Any] = [None] * fabric.world_size
        dist.all_gather_object(parts, found)
        gathered: list[Any] = [None] * len(samples)
        for rank, part in enumerate(parts):
            gathered[rank :: fabric.world_size] = part
        found = gathered
    return coco_metrics(samples, found, metadata.classes)
