"""Sites in a network: modules where a block can be inserted, chosen by name, glob, class or
function.

N, C, H and W are images, channels, rows and columns.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from attendet.attention.base import AttentionBlock
from attendet.attention.cost import Cost, network_cost
from attendet.attention.dry_run import Output, Shape, dry_run
from attendet.attention.maps import MapsAttention
from attendet.attention.registry import create_attention
from attendet.errors import ConfigError, did_you_mean, first_line

SiteKey: TypeAlias = str | type[nn.Module] | Callable[[str, nn.Module], bool]
"""A qualified name or glob, a class, or a function of name and module."""

BlockSpec: TypeAlias = str | tuple[str, Mapping[str, Any]]
"""A block's name, alone or with its options."""


@dataclass(frozen=True)
class Insertion:
    """Requested insertion of a block after a module."""

    name: str
    """Qualified name in the network; empty for the network itself."""

    module: nn.Module
    """The module."""

    kind: str
    """Name of the module's class."""

    attention: str
    """Name of the block."""

    options: Mapping[str, Any]
    """Options of the block."""

    def described(self) -> str:
        """Return name and class of the module as text for a message."""
        where = repr(self.name) if self.name else "the network itself"
        return f"{where} ({self.kind})"


@dataclass(frozen=True)
class Site:
    """A module where attention can be inserted, with the cost of a block there."""

    name: str
    """Qualified name in the network; empty for the network itself."""

    kind: str
    """Name of the module's class."""

    shapes: tuple[Shape, ...]
    """(N, C, H, W) of each map that the module returns, in all its calls in one run."""

    parameters: int
    """Trained values of the block, or of all blocks if the output has several maps."""

    macs: int
    """Multiply-accumulates per image of the block, for all calls; see `network_cost`."""

    def __str__(self) -> str:
        """Return one line of a table."""
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return (
            f"{self.name or '(itself)':<32} {self.kind:<20} {shapes:<18} "
            f"{self.parameters:>9,} parameters {self.macs:>13,} MACs"
        )


def sites(
    network: nn.Module, example_input: Any = None, *, attention: BlockSpec = "ca"
) -> tuple[Site, ...]:
    """Return the sites of a network with shapes and the cost of a block.

    The network is run once; its state is restored.

    Args:
        network: any module.
        example_input: input of the network, several arguments as a tuple; default: an image of
            zeros, (1, 3, 64, 64). Shapes and multiply-accumulates are for this input.
        attention: the block whose cost is returned: its name, or name and options.

    Returns:
        One site for each module that returns (N, C, H, W) maps, in the network's order. Modules
        inside attention blocks are skipped.

    Raises:
        ConfigError: if the network does not run on the example, or the block is unknown.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Flatten())
        >>> for site in sites(network, torch.zeros(1, 3, 9, 9), attention="se"):
        ...     print(site.name, site.kind, site.shapes, site.parameters, site.macs)
        0 Conv2d ((1, 16, 4, 4),) 32 32
        1 ReLU ((1, 16, 4, 4),) 32 32
    """
    block_name, options = read_block(attention)
    modules = unique_modules(candidates(network))
    seen = dry_run(network, example_input, watch=modules.values())
    if seen.error is not None:
        raise example_input_error(seen.error, example_input)

    @functools.cache
    def cost(shape: Shape) -> Cost:
        with torch.device("meta"):
            block = create_attention(block_name, shape[1], **options)
        return network_cost(block, shape[1:])

    found = []
    for name, module in modules.items():
        calls = seen.outputs.get(id(module), [])
        if any(call.shapes for call in calls):
            found.append(_site(name, type(module).__name__, calls, cost))
    return tuple(found)


def _site(name: str, kind: str, calls: list[Output], cost: Callable[..., Cost]) -> Site:
    first = [cost(shape).parameters for shape in calls[0].shapes.values()]
    shapes = tuple(shape for call in calls for shape in call.shapes.values())
    return Site(name, kind, shapes, sum(first), sum(cost(shape).macs for shape in shapes))


def example_input_error(error: Exception, example_input: Any) -> ConfigError:
    """Return the ConfigError for a network that does not run on an example."""
    given = "an image of zeros, (1, 3, 64, 64)" if example_input is None else "example_input"
    advice = "Pass an example_input" if example_input is None else "Pass one"
    reason = first_line(error)[:200]
    return ConfigError(
        f"example_input must be an input that the network accepts; got {type(error).__name__}: "
        f"{reason} (from {given}). {advice} that it accepts; pass several arguments as a tuple."
    )


def candidates(network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a network under all their names, except attention blocks."""
    found: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, module in network.named_modules(remove_duplicate=False):
        if name.startswith(inside):
            continue
        if isinstance(module, AttentionBlock | MapsAttention):
            inside = (*inside, f"{name}." if name else "")
        else:
            found[name] = module
    return found


def unique_modules(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return each module once, under its first name."""
    first: dict[int, str] = {}
    for name, module in modules.items():
        first.setdefault(id(module), name)
    return {name: modules[name] for name in first.values()}


def read_block(block: BlockSpec) -> tuple[str, Mapping[str, Any]]:
    """Return name and options of a block.

    Raises:
        ConfigError: if it is neither a name nor a pair of name and options, or the options contain
            ``name`` or ``channels``.
    """
    if isinstance(block, str):
        return block, {}
    if isinstance(block, tuple) and len(block) == 2 and isinstance(block[1], Mapping):
        taken = [name for name in ("name", "channels") if name in block[1]]
        if taken:
            raise ConfigError(
                f"options of attention {block[0]!r} must not contain {' and '.join(taken)}; got "
                f"{dict(block[1])!r}. The name is the first item of the pair; the site determines "
                "the channels."
            )
        return block[0], block[1]
    raise ConfigError(
        f"attention must be a name or a pair of name and options; got {block!r}. "
        'Write "ca", or ("se", {"reduction": 8}).'
    )


def resolve_insertions(
    network: nn.Module, requested: Mapping[SiteKey, BlockSpec]
) -> list[Insertion]:
    """Return the insertions for a mapping of keys to blocks, in the order of the keys.

    Raises:
        ConfigError: if a key matches no module, or two keys match the same module.
    """
    if not isinstance(requested, Mapping) or not requested:
        raise ConfigError(
            f"sites must be a non-empty mapping of sites to blocks; got {requested!r}. "
            'For example: {"layer2": "ca"}.'
        )
    modules = candidates(network)
    chosen: list[Insertion] = []
    taken: dict[int, SiteKey] = {}
    for key, block in requested.items():
        attention, options = read_block(block)
        for name, module in _matches(key, modules):
            insertion = Insertion(name, module, type(module).__name__, attention, options)
            if id(module) in taken:
                raise ConfigError(
                    f"site must match only one key; got {_shown(taken[id(module)])} and "
                    f"{_shown(key)} for {insertion.described()}. Make one of them more specific."
                )
            taken[id(module)] = key
            chosen.append(insertion)
    return chosen


def _matches(key: SiteKey, modules: Mapping[str, nn.Module]) -> list[tuple[str, nn.Module]]:
    if isinstance(key, str) and key in modules:
        return [(key, modules[key])]
    found = list(_modules_matching(key, unique_modules(modules)))
    if found:
        return found
    advice = "attendet.sites(network) lists the sites."
    if isinstance(key, str):
        near = difflib.get_close_matches(key, modules, n=1)
        advice = f"{did_you_mean(key, near)} {advice}" if near else advice
    raise ConfigError(
        f"site must be in the network; got {_shown(key)}, which matches no module. {advice}"
    )


def _modules_matching(
    key: SiteKey, modules: Mapping[str, nn.Module]
) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(key, str):
        pattern = key.split(".")
        return ((n, m) for n, m in modules.items() if n and _globs(n.split("."), pattern))
    if isinstance(key, type):
        return ((name, module) for name, module in modules.items() if isinstance(module, key))
    if callable(key):
        return ((name, module) for name, module in modules.items() if key(name, module))
    raise ConfigError(
        f"site must be a name, a glob, a class or a function of name and module; got {key!r}."
    )


def _globs(names: list[str], pattern: list[str]) -> bool:
    """Return whether a dotted name matches a glob; ``**`` matches any number of names."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_globs(names[start:], pattern[1:]) for start in range(len(names) + 1))
    first = bool(names) and fnmatch.fnmatchcase(names[0], pattern[0])
    return first and _globs(names[1:], pattern[1:])


def _shown(key: SiteKey) -> str:
    return repr(key) if isinstance(key, str) else getattr(key, "__qualname__", repr(key))
