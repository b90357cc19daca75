"""Insertion of attention blocks after any modules of a network, and their removal.

An attended module is a module with a block. It stays the same object, with the same parameters
under the same names. Its class is replaced by a subclass whose ``forward`` passes the output
through the block, a child module called ``attention_block``. No hooks are used, so copies, pickles
and exported programs contain the block. An ``nn.Sequential`` gets the block as its last child.

N, C, H and W are images, channels, rows and columns.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from attendet.attention.base import AttentionBlock
from attendet.attention.dry_run import DryRun, Key, Output, dry_run, placement
from attendet.attention.maps import MapsAttention
from attendet.attention.registry import AttentionInit, create_attention
from attendet.attention.sites import (
    BlockSpec,
    Insertion,
    SiteKey,
    candidates,
    example_input_error,
    resolve_insertions,
    unique_modules,
)
from attendet.errors import ConfigError

BLOCK_NAME = "attention_block"
"""Name of the block among the children of an attended module."""

M = TypeVar("M", bound=nn.Module)


def attend(
    network: M,
    sites: Mapping[SiteKey, BlockSpec],
    *,
    init: AttentionInit = "identity",
    example_input: Any = None,
) -> M:
    """Insert attention blocks after modules of a network, in place; return the network.

    Parameters and buffers of the network keep their names. A state dict from before the insertion
    loads with ``strict=False``, where only the blocks' tensors are missing; after `detach` it loads
    strictly. Create the optimizer after the insertion, so that it has the blocks' parameters.

    The network is run on an example to find the maps at each site, and once more to check that each
    block runs. Its training flags, buffers and torch's random state are restored.

    Args:
        network: any module. Attend it before it is compiled or wrapped for several devices.
        sites: module to block. A key is a qualified name (``layer3.0.conv2``; empty for the
            network itself), a glob (``layer?.*.conv2``; ``*`` matches within one part of the
            name, ``**`` any number of parts), a class (``nn.Conv2d``), or a function of name and
            module. A value is a block's name, or a pair of name and options such as
            ``("se", {"reduction": 8})``. The option ``init`` sets the init of one site. ``none``
            skips a site.
        init: ``identity``: the output of the network does not change until it is trained;
            ``paper``: as published, with initial gates near 1/2 in most blocks.
        example_input: input of the network, several arguments as a tuple; default: an image of
            zeros, (1, 3, 64, 64). If the network does not run on the default, the channels are
            taken from the modules at the sites.

    Raises:
        ConfigError: if a site is unknown, has a block already, never runs, or returns no
            (N, C, H, W) map; or if a block is unknown. The network is unchanged then.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> x = torch.randn(2, 3, 8, 8)
        >>> before = network(x)
        >>> torch.equal(attend(network, {"1": "ca"})(x), before)
        True
        >>> [name for name, _ in detach(network).named_parameters()]
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    _check_network(network)
    chosen = [each for each in resolve_insertions(network, sites) if each.attention != "none"]
    for insertion in chosen:
        _check_site(insertion)
    seen = dry_run(network, example_input, watch=[each.module for each in chosen])
    if seen.error is not None and example_input is not None:
        raise example_input_error(seen.error, example_input)
    made = [(each, _make(network, each, init, seen)) for each in chosen]
    inserted: list[Insertion] = []
    try:
        for insertion, block in made:
            _insert(insertion, block)
            inserted.append(insertion)
        if seen.error is None:
            _check_that_blocks_run(network, example_input, made)
    except BaseException:
        for insertion in inserted:
            _remove(insertion.module)
        raise
    return network


def detach(network: M) -> M:
    """Remove the blocks that `attend` inserted, in place; return the network.

    The original class of each module is restored. Blocks that the network itself defines stay.

    Raises:
        ConfigError: if the class of an attended module was changed after the insertion, for
            example by ``torch.nn.utils.parametrize``.
    """
    modules = unique_modules(candidates(network))
    attended = {name: module for name, module in modules.items() if _is_attended(module)}
    for name, module in attended.items():
        if "_attended" not in vars(type(module)) and not _appends(module):
            raise ConfigError(
                f"module {name!r} must have the class that attend gave it; got "
                f"{type(module).__name__}. First undo the changes made to it after attend."
            )
    for module in attended.values():
        _remove(module)
    return network


def inserted_blocks(network: nn.Module) -> dict[str, AttentionBlock]:
    """Return the blocks that `attend` inserted into a network, by site.

    A site that returns several maps has one block per map: ``fpn[0]``, ``fpn[pool]``.

    Example:
        >>> network = attend(nn.Sequential(nn.Conv2d(3, 8, 1)), {"0": "se"})
        >>> inserted_blocks(network)["0"].gates(torch.zeros(1, 8, 2, 2))["channel"].unique().item()
        1.0
    """
    found: dict[str, AttentionBlock] = {}
    for name, module in unique_modules(candidates(network)).items():
        block = getattr(module, BLOCK_NAME) if _is_attended(module) else None
        if isinstance(block, MapsAttention):
            found.update({f"{name}[{key}]": inner for key, inner in block.blocks().items()})
        elif isinstance(block, AttentionBlock):
            found[name] = block
    return found


# --- the attended module ------------------------------------------------------------------------


def _appends(module: nn.Module) -> bool:
    """Return whether a module is an ``nn.Sequential`` that does not override ``forward``."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_attended(module: nn.Module) -> bool:
    block = getattr(module, BLOCK_NAME, None)
    return isinstance(block, AttentionBlock | MapsAttention) and (
        hasattr(type(module), "_attended") or _appends(module)
    )


def _insert(insertion: Insertion, block: nn.Module) -> None:
    module = insertion.module
    if not _appends(module):
        base: Any = type(module)
        try:
            module.__class__ = _attended_class(base)
        except TypeError as error:  # the class does not allow this subclass
            raise ConfigError(
                f"site must be a module of a class that allows subclasses; got "
                f"{insertion.described()} ({error}). Choose a module inside it."
            ) from None
    module.add_module(BLOCK_NAME, block)


def _remove(module: nn.Module) -> None:
    if not _appends(module):
        module.__class__ = vars(type(module))["_attended"]
    # Assign a new mapping: a shallow copy of the module refers to the old one.
    module._modules = {k: child for k, child in module._modules.items() if k != BLOCK_NAME}


@functools.cache
def _attended_class(base: Any) -> type[nn.Module]:
    """Return the subclass of a module's class that passes its output through the block."""

    @functools.wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, BLOCK_NAME)(base.forward(self, *args, **kwargs))

    def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        _, (_, *arguments), *state = base.__reduce_ex__(self, max(2, int(protocol)))
        return (_new_attended, (base, *arguments), *state)

    members = {
        "__doc__": base.__doc__,
        "__module__": __name__,
        "__reduce_ex__": reduce,
        "_attended": base,
        "forward": forward,
    }
    return type(f"Attended{base.__name__}", (base,), members)


def _new_attended(base: Any, *arguments: Any) -> nn.Module:
    """Return an empty attended module, to be filled by ``pickle`` or ``copy``."""
    cls = _attended_class(base)
    return cls.__new__(cls, *arguments)


# --- checks -------------------------------------------------------------------------------------


def _check_network(network: nn.Module) -> None:
    for name, module in network.named_modules():
        wrapped = isinstance(module, nn.parallel.DistributedDataParallel)
        if wrapped or type(module).__name__ == "FullyShardedDataParallel":
            raise _unfit(name, module, "not be wrapped yet", "Attend it, then wrap it.")
        if "_orig_mod" in module._modules:
            raise _unfit(name, module, "not be compiled yet", "Attend it, then compile it.")
        if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise _unfit(name, module, "have no uninitialized parameters", "Run it once first.")


def _unfit(name: str, module: nn.Module, rule: str, advice: str) -> ConfigError:
    at = f" at {name!r}" if name else ""
    return ConfigError(f"network must {rule}; got {type(module).__name__}{at}. {advice}")


def _check_site(insertion: Insertion) -> None:
    module = insertion.module
    if _is_attended(module):
        raise ConfigError(
            f"site must have no block yet; got {insertion.described()}, which has one. "
            "attendet.detach(network) removes the blocks."
        )
    if hasattr(module, BLOCK_NAME):
        raise ConfigError(
            f"site must have no attribute {BLOCK_NAME!r}; got {insertion.described()}. "
            "Choose a module inside it."
        )
    if not _is_ordinary(type(module)):
        raise ConfigError(
            f"site must be an ordinary nn.Module; got {insertion.described()}, which is a "
            "ScriptModule or defines how it is copied or pickled. Choose a module inside it."
        )


def _is_ordinary(cls: type[nn.Module]) -> bool:
    copying = (getattr(cls, name, None) for name in ("__deepcopy__", "__copy__"))
    # The copy method of parametrized modules keeps the class, and with it the block.
    own_copying = any(
        copy is not None and copy.__module__ != "torch.nn.utils.parametrize" for copy in copying
    )
    own_pickling = (
        cls.__reduce_ex__ is not object.__reduce_ex__
        or cls.__reduce__ is not object.__reduce__
        or hasattr(cls, "__getnewargs_ex__")
    )
    return not (own_copying or own_pickling or issubclass(cls, torch.jit.ScriptModule))


def _make(network: nn.Module, insertion: Insertion, init: AttentionInit, seen: DryRun) -> nn.Module:
    """Return the block of a site, or the blocks of all its maps."""
    calls = seen.outputs.get(id(insertion.module), [])
    channels = _channels_seen(insertion, calls) if calls else _channels_unseen(insertion, seen)
    blocks: dict[Key, AttentionBlock] = {}
    for key, count in channels.items():
        options = {"init": init, **insertion.options}
        block = create_attention(insertion.attention, count, **options)
        if isinstance(block, AttentionBlock):
            blocks[key] = block
    at_output = {"device": calls[0].device} if calls else {}
    made: nn.Module = blocks[None] if None in blocks else MapsAttention(blocks)
    made.to(**{**placement(network), **at_output, **placement(insertion.module)})
    return made.train(insertion.module.training)


def _channels_seen(insertion: Insertion, calls: list[Output]) -> dict[Key, int]:
    """Return C of each map in the recorded outputs of a site."""
    channels = calls[0].channels()
    if not channels:
        raise ConfigError(
            f"site must return an (N, C, H, W) map; got {insertion.described()}, which returns "
            f"{calls[0].text}. attendet.sites(network) lists the sites that do."
        )
    for call in calls[1:]:
        if call.channels() != channels:
            raise ConfigError(
                f"site must return the same channels in each call; got {insertion.described()}, "
                f"which returns {calls[0].text}, then {call.text}. "
                "Choose a module that is called once."
            )
    return channels


def _channels_unseen(insertion: Insertion, seen: DryRun) -> dict[Key, int]:
    """Return C of the output of a site that did not run, from the attributes of its module."""
    if seen.error is None:
        raise ConfigError(
            f"site must run when the network runs; got {insertion.described()}, which did not. "
            "attendet.sites(network) lists the sites that do."
        )
    channels = _own_channels(insertion.module)
    if channels is None:
        raise example_input_error(seen.error, None)
    return {None: channels}


_CHANNEL_FIELDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Conv2d, "out_channels"),
    (nn.ConvTranspose2d, "out_channels"),
    (nn.BatchNorm2d, "num_features"),
)
_CHANNELS_PASS = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish),
    *(nn.Sigmoid, nn.Hardsigmoid, nn.Dropout, nn.Dropout2d, nn.Upsample),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)


def _own_channels(module: nn.Module) -> int | None:
    """Return C of a module's output if its class determines it; None otherwise."""
    if _appends(module):
        for child in reversed(list(module.children())):
            if not isinstance(child, _CHANNELS_PASS):
                return _own_channels(child)
        return None
    for cls, field in _CHANNEL_FIELDS:
        if isinstance(module, cls):
            return int(getattr(module, field))
    return None


def _check_that_blocks_run(
    network: nn.Module, example_input: Any, made: list[tuple[Insertion, nn.Module]]
) -> None:
    """Raise if a block does not run exactly as often as the module before it.

    A ``forward`` that iterates over the children runs the block twice; a ``forward`` that is set on
    the instance does not run it.
    """
    watch = [module for insertion, block in made for module in (insertion.module, block)]
    seen = dry_run(network, example_input, watch=watch)
    for insertion, block in made:
        runs = [len(seen.outputs.get(id(module), ())) for module in (insertion.module, block)]
        if runs[0] != runs[1] or not runs[0]:
            raise ConfigError(
                f"site must call its block once in each call; got {insertion.described()}, whose "
                f"forward iterates over its children or was replaced ({runs[0]} calls of the "
                f"module, {runs[1]} of the block). Choose a module inside it."
            )
    if seen.error is not None:
        raise example_input_error(seen.error, example_input)
