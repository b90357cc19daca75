"""Registry of attention blocks: built-in blocks, blocks registered in code, and plug-ins.

A distribution provides blocks through the entry-point group ``attendet.attention``: the name of the
entry point is the name of the block, its object is the factory. Listing plug-ins does not import
them. A plug-in is imported when its block is first created, so a broken plug-in affects only users
of its block. This module imports torch only to create a block.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from attendet.attention.spec import refuse_number
from attendet.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from attendet.attention.base import AttentionBlock

AttentionFactory: TypeAlias = "Callable[..., AttentionBlock]"
"""A subclass of ``AttentionBlock``, or a function that returns one; ``channels`` comes first."""

AttentionInit: TypeAlias = Literal["paper", "identity"]
"""paper: as published, with initial gates near 1/2 in most blocks. identity: until the block is
trained, its output equals its input bit for bit."""

ENTRY_POINT_GROUP = "attendet.attention"
_NONE = "none"
_NAME = re.compile(r"[a-z][a-z0-9_-]*")

# Name -> module and class, and default options.
_BUILT_IN: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "se": ("blocks.se:SqueezeExcite", {}),
    "cbam": ("blocks.cbam:CBAM", {}),
    "eca": ("blocks.eca:EfficientChannelAttention", {}),
    "ca": ("blocks.coordinate:CoordinateAttention", {"preset": "yolo"}),
    "ca-authors": ("blocks.coordinate:CoordinateAttention", {"preset": "authors"}),
    "simam": ("blocks.simam:SimAM", {}),
    "ema": ("blocks.ema:EfficientMultiScaleAttention", {}),
    "ela": ("blocks.ela:EfficientLocalAttention", {}),
    "triplet": ("blocks.triplet:TripletAttention", {}),
    "sa": ("blocks.shuffle:ShuffleAttention", {}),
    "sge": ("blocks.sge:SpatialGroupEnhance", {}),
    "nam": ("blocks.nam:NormalizationAttention", {}),
    "gam": ("blocks.gam:GlobalAttention", {}),
    "bam": ("blocks.bam:BAM", {}),
    "fca": ("blocks.fca:FrequencyChannelAttention", {}),
    "mlca": ("blocks.mlca:MixedLocalChannelAttention", {}),
    "scsa": ("blocks.scsa:SpatialChannelSynergy", {}),
    "caa": ("blocks.caa:ContextAnchorAttention", {}),
    "lska": ("blocks.lska:LargeSeparableKernelAttention", {}),
    "gc": ("blocks.gc:GlobalContext", {}),
}
# Names for `timm.layers.create_attn` whose modules accept a map of any size and keep its shape.
_TIMM = "timm:"
_TIMM_NAMES = (
    *("se", "ese", "eca", "ecam", "ceca", "gc", "gca", "cbam", "lcbam"),
    *("coord", "scoord", "ela", "strip", "sk", "splat", "nl"),
)
_registered: dict[str, AttentionFactory] = {}


def register_attention(name: str, factory: AttentionFactory, *, replace: bool = False) -> None:
    """Make a block available by name for the rest of the process.

    A name that is registered here takes precedence over the same name of a plug-in.

    Args:
        name: lower-case letters, digits, ``-`` and ``_``, beginning with a letter.
        factory: takes ``channels`` first and returns an ``AttentionBlock``.
        replace: allow a name that exists, including built-in names.

    Raises:
        ConfigError: if the name cannot be used in a spec, is ``none``, or exists; or if the
            factory is not callable.

    Example:
        >>> from attendet.attention import SqueezeExcite
        >>> register_attention("mine", SqueezeExcite)
        >>> "mine" in attention_names()
        True
        >>> unregister_attention("mine")
    """
    if not _NAME.fullmatch(name) or name == _NONE:
        raise ConfigError(
            "name of an attention block must consist of lower-case letters, digits, '-' and '_', "
            f"begin with a letter, and not be {_NONE!r}; got {name!r}."
        )
    if not callable(factory):
        raise ConfigError(
            f"factory of attention {name!r} must be callable; got {factory!r}. "
            "Give a subclass of AttentionBlock."
        )
    if not replace and (name in _registered or name in _BUILT_IN):
        raise ConfigError(
            f"name of an attention block must be new; got {name!r}, which is taken. "
            "Choose another, or pass replace=True."
        )
    _registered[name] = factory


def unregister_attention(name: str) -> None:
    """Remove a registered block; a built-in block that it replaced is available again.

    Args:
        name: a name that was passed to ``register_attention``.

    Raises:
        ConfigError: if the name was not registered.
    """
    if name not in _registered:
        raise ConfigError(
            f"name of an attention block must be registered in this process; got {name!r}. "
            "Built-in blocks and plug-ins cannot be unregistered."
        )
    del _registered[name]


def attention_names() -> tuple[str, ...]:
    """Return the names for ``create_attention``: ``none``, built-in, from timm, then others.

    Names that begin with ``timm:`` require timm when the block is created.

    Example:
        >>> attention_names()[:6]
        ('none', 'se', 'cbam', 'eca', 'ca', 'ca-authors')
    """
    others = sorted((_registered.keys() | _plugins().keys()) - _BUILT_IN.keys())
    return (_NONE, *_BUILT_IN, *(_TIMM + name for name in _TIMM_NAMES), *others)


def create_attention(
    name: str, channels: int, *, init: AttentionInit = "paper", **options: Any
) -> AttentionBlock | nn.Identity:
    """Return a new block, or ``nn.Identity`` for ``none``.

    Args:
        name: one of ``attention_names()``.
        channels: C of the feature maps.
        init: ``paper``: as published, with initial gates near 1/2 in most blocks; ``identity``:
            until the block is trained, its output equals its input bit for bit.
        options: passed to the block's factory, such as ``reduction=8``.

    Raises:
        ConfigError: if the name, the init or an option is unknown, a plug-in fails to load, or a
            factory does not return an ``AttentionBlock``.

    Example:
        >>> create_attention("se", 64, reduction=8).reduce
        Linear(in_features=64, out_features=8, bias=False)
        >>> create_attention("none", 64)
        Identity()
    """
    from torch import nn

    from attendet.attention.base import AttentionBlock
    from attendet.attention.init import initialize

    if init not in get_args(AttentionInit):
        raise ConfigError(
            f"init must be 'paper' or 'identity'; got {init!r}. "
            f"{did_you_mean(str(init), ('paper', 'identity'))}"
        )
    if name == _NONE:
        _check_options(name, lambda _channels: None, channels, options)
        return nn.Identity()
    factory = _factory(name)
    _check_options(name, factory, channels, options)
    block: object = factory(channels, **options)
    if not isinstance(block, AttentionBlock):
        raise ConfigError(
            f"factory of attention {name!r} must return an AttentionBlock; got "
            f"{type(block).__name__}. Subclass attendet.attention.AttentionBlock."
        )
    return initialize(block, init)


def _factory(name: str) -> AttentionFactory:
    name = str(name)
    refuse_number(name, text=name)
    if name in _registered:
        return _registered[name]
    if name in _BUILT_IN:
        home, preset = _BUILT_IN[name]
        module, _, attribute = home.partition(":")
        made = getattr(importlib.import_module(f"attendet.attention.{module}"), attribute)
        return functools.partial(made, **preset)
    if name.removeprefix(_TIMM) in _TIMM_NAMES and name.startswith(_TIMM):
        from attendet.attention.timm_blocks import TimmAttention

        kind = name.removeprefix(_TIMM)
        return lambda channels, **options: TimmAttention(channels, kind, **options)
    if name in _plugins():
        return _load_plugin(name, _plugins()[name])
    raise ConfigError(
        f"attention must be the name of a block; got {name!r}. "
        f"{did_you_mean(name.lower(), attention_names())}"
    )


def _check_options(
    name: str, factory: Callable[..., object], channels: int, options: dict[str, Any]
) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # a callable without a signature
        return
    try:
        signature.bind(channels, **options)
    except TypeError as error:
        takes = ", ".join(list(signature.parameters)[1:]) or "none"
        raise ConfigError(
            f"options of attention {name!r} must match its signature; got {options!r} ({error}). "
            f"Its options: {takes}."
        ) from None


@functools.cache
def _plugins() -> dict[str, tuple[EntryPoint, ...]]:
    """Return the entry points of installed plug-ins by name, without importing them."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name in _BUILT_IN or not _NAME.fullmatch(point.name) or point.name == _NONE:
            warnings.warn(
                f"attention block {point.name!r} of {_distribution(point)} is ignored: the name "
                "is built in or cannot be used in a spec.",
                stacklevel=2,
            )
            continue
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def _load_plugin(name: str, points: tuple[EntryPoint, ...]) -> AttentionFactory:
    if len(points) > 1:
        raise ConfigError(
            f"attention {name!r} must come from one distribution; got "
            f"{', '.join(_distribution(point) for point in points)}. Uninstall all but one."
        )
    (point,) = points
    try:
        factory = point.load()
    except Exception as error:  # a third-party import can raise anything
        raise ConfigError(
            f"attention {name!r} of {_distribution(point)} cannot be imported ({point.value}): "
            f"{type(error).__name__}: {error}. Update or uninstall that distribution."
        ) from error
    if not callable(factory):
        raise ConfigError(
            f"attention {name!r} of {_distribution(point)} must be callable; got {factory!r} "
            f"({point.value}). Update or uninstall that distribution."
        )
    return cast("AttentionFactory", factory)


def _distribution(point: EntryPoint) -> str:
    return "an unnamed distribution" if point.dist is None else repr(point.dist.name)
