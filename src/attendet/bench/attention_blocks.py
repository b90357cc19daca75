"""Cost of each attention block on this machine, and its abilities.

N, C, H and W are images, channels, rows and columns of a feature map.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from attendet.attention import AttentionBlock, create_attention
from attendet.attention.cost import network_cost
from attendet.errors import ConfigError

MapShape = tuple[int, int, int]
"""C, H and W of one image."""


@dataclass(frozen=True)
class BlockFacts:
    """Cost and abilities of one attention block."""

    name: str
    paper: str
    gates: tuple[str, ...]
    """Names of its gates; empty if it exposes none."""

    parameters: int
    """Number of parameters, summed over one block for each map."""

    macs: int
    """Multiply-accumulates for one image, summed over the maps."""

    identity: bool
    """Whether a new block with init ``identity`` returns its input exactly."""

    milliseconds: tuple[float, ...] = ()
    """Fastest forward pass of one image in eager PyTorch, for each map; empty if not measured."""

    exports: bool | None = None
    """Whether torch.export accepts it with dynamic rows and columns; None if not tried."""


def map_shape(text: str) -> MapShape:
    """Parse C, H and W of a map.

    Raises:
        ConfigError: if the text is not three positive whole numbers.

    Example:
        >>> map_shape("512x13x13")
        (512, 13, 13)
    """
    numbers = text.lower().split("x")
    if len(numbers) != 3 or not all(number.isdigit() and int(number) for number in numbers):
        raise ConfigError.must("maps", "CHANNELSxROWSxCOLUMNS, such as 512x13x13", text, "--maps")
    channels, rows, columns = map(int, numbers)
    return channels, rows, columns


def block_facts(
    names: Sequence[str],
    maps: Sequence[MapShape],
    *,
    measure: bool = True,
    rounds: int = 20,
    progress: Callable[[str], None] = lambda _: None,
) -> list[BlockFacts]:
    """Return cost and abilities of attention blocks, in the order of ``names``.

    In each round each block runs once, in random order. The fastest run counts, because other load
    on the machine affects it least.

    Args:
        names: names from `attendet.attention.attention_names`, without ``none``.
        maps: the feature maps of one image.
        measure: measure the time of the blocks, and try to export them.
        rounds: timed runs of each block on each map.
        progress: called with the name of the next step.

    Raises:
        ConfigError: if a block is unknown or cannot be created.

    Example:
        >>> (one,) = block_facts(["se"], [(64, 8, 8), (32, 4, 4)], measure=False)
        >>> one.parameters, one.macs, one.gates, one.identity
        (640, 640, ('channel',), True)
    """
    times: list[dict[str, float]] = []
    for shape in maps if measure else ():
        progress(f"time on {'x'.join(map(str, shape))}")
        times.append(_milliseconds(names, shape, rounds))
    facts = []
    for name in names:
        progress(name)
        x = torch.randn(1, *maps[0])
        block = create_attention(name, maps[0][0]).eval()
        same = create_attention(name, maps[0][0], init="identity").eval()
        costs = [network_cost(create_attention(name, shape[0]), shape) for shape in maps]
        with torch.no_grad():
            facts.append(
                BlockFacts(
                    name,
                    getattr(block, "paper", ""),
                    tuple(block.gates(x)) if isinstance(block, AttentionBlock) else (),
                    sum(cost.parameters for cost in costs),
                    sum(cost.macs for cost in costs),
                    torch.equal(same(x), x),
                    tuple(one[name] for one in times),
                    _exports(block, x) if measure else None,
                )
            )
    return facts


def _milliseconds(names: Sequence[str], shape: MapShape, rounds: int) -> dict[str, float]:
    x = torch.randn(1, *shape).to(memory_format=torch.channels_last)
    blocks = [(name, create_attention(name, shape[0]).eval()) for name in names]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    with torch.no_grad():
        for number in range(rounds + 2):  # two to warm up
            for name, block in order.sample(blocks, len(blocks)):
                start = time.perf_counter()
                block(x)
                if number > 1:
                    seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * min(values) for name, values in seconds.items()}


def _exports(block: nn.Module, x: torch.Tensor) -> bool:
    sizes = {axis: torch.export.Dim(f"size{axis}", min=2, max=512) for axis in (2, 3)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.export(block, (x,), dynamic_shapes=(sizes,))
    except Exception:  # a module can fail in any way
        return False
    return True
