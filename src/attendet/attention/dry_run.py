"""Dry run: outputs of the modules of a network, recorded without side effects.

N, C, H and W are images, channels, rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

Shape: TypeAlias = tuple[int, int, int, int]
Key: TypeAlias = str | int | None
"""Position of a feature map in an output: key, index, or None if the output is the map itself."""


@dataclass(frozen=True)
class Output:
    """Output of one call of a module."""

    shapes: dict[Key, Shape]
    """Shape of each (N, C, H, W) map in the output."""

    device: torch.device | None
    """Device of the maps."""

    text: str
    """Description of the output."""

    def channels(self) -> dict[Key, int]:
        """Return C of each map."""
        return {key: shape[1] for key, shape in self.shapes.items()}


@dataclass(frozen=True)
class DryRun:
    """Outputs recorded during a run."""

    outputs: dict[int, list[Output]]
    """``id`` of a watched module to the outputs of its calls."""

    error: Exception | None
    """Exception that ended the run early."""


def dry_run(network: nn.Module, example_input: Any = None, *, watch: Iterable[nn.Module]) -> DryRun:
    """Run a network on an example and return the outputs of the watched modules.

    The network runs in eval mode without gradients. Its training flags, its buffers and the state
    of torch's random number generators are restored afterwards. Existing forward hooks are called.

    Args:
        network: any network.
        example_input: input of the network, several arguments as a tuple; default: an image of
            zeros, (1, 3, 64, 64), with device and dtype of its parameters.
        watch: modules of the network whose outputs are recorded.
    """
    outputs: dict[int, list[Output]] = {}

    def hook(module: nn.Module, _arguments: Any, output: Any) -> None:
        outputs.setdefault(id(module), []).append(_describe(output))

    if example_input is None:
        example_input = torch.zeros(1, 3, 64, 64, **placement(network))
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    with ExitStack() as stack:
        stack.enter_context(_undisturbed(network))
        stack.enter_context(torch.no_grad())
        for module in watch:
            stack.callback(module.register_forward_hook(hook).remove)
        try:
            network(*arguments)
        except Exception as error:  # a user's network can raise anything
            return DryRun(outputs, error)
    return DryRun(outputs, None)


def placement(network: nn.Module) -> dict[str, Any]:
    """Return device and dtype of a module's first floating parameter; empty if it has none."""
    for parameter in network.parameters():
        if parameter.is_floating_point():
            return {"device": parameter.device, "dtype": parameter.dtype}
    return {}


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Set eval mode; restore the training flags, buffers and torch's random state on exit."""
    modules = list(network.modules())
    flags = [module.training for module in modules]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in modules
        for name, buffer in module._buffers.items()
    ]
    devices = {tensor.device for tensor in network.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        for module in modules:  # not eval(), which some modules override
            module.training = False
        try:
            yield
        finally:
            for module, flag in zip(modules, flags, strict=True):
                module.training = flag
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer
                if buffer is not None and before is not None and _differs(buffer, before):
                    buffer.copy_(before)


def _differs(buffer: Tensor, before: Tensor) -> bool:
    return not buffer.is_meta and not torch.equal(buffer, before)


def is_map(value: object) -> TypeGuard[Tensor]:
    """Return whether a value can be an (N, C, H, W) map: four axes and a floating dtype."""
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point()


def entries(output: object) -> list[tuple[Key, object]]:
    """Return the entries of a mapping, list or tuple with their keys; else the output itself."""
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, list | tuple):
        return list(enumerate(output))
    return [(None, output)]


def _describe(output: object) -> Output:
    shapes: dict[Key, Shape] = {}
    device = None
    for key, value in entries(output):
        if is_map(value):
            images, channels, rows, columns = value.shape
            shapes[key] = (images, channels, rows, columns)
            device = value.device
    return Output(shapes, device, _describe_output(output))


def _describe_output(output: object) -> str:
    """Return a description of an output, such as ``a float32 tensor of shape (1, 512)``."""
    if isinstance(output, Tensor):
        kind = str(output.dtype).removeprefix("torch.")
        return f"a {kind} tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping | list | tuple):
        parts = entries(output)
        inner = [_describe_output(value) for _, value in parts[:3]]
        more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
        return f"a {type(output).__name__} of {', '.join(inner) or 'nothing'}{more}"
    return "None" if output is None else f"a {type(output).__name__}"
