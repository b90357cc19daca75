"""Attention specs: blocks and their sites as text, such as ``ca``, ``ca@p5`` or ``se@p5+ca@up``.

A spec is ``none`` or parts joined by ``+``. A part is the name of a block, optionally followed by
``@`` and sites joined by commas; without ``@`` the block is at the network's default sites. Pure
Python: imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attendet.errors import ConfigError, did_you_mean, list_names

_NONE = "none"
_PHI = {"0": "none", "1": "se", "2": "cbam", "3": "eca", "4": "ca"}


def parse_attention_spec(
    text: str,
    *,
    default_sites: tuple[str, ...],
    sites: tuple[str, ...],
    known: Collection[str] | None,
) -> dict[str, str]:
    """Return the name of the block at each site that has one.

    Args:
        text: the spec; spaces are ignored.
        default_sites: sites of a part without ``@``.
        sites: all sites of the network, in its order.
        known: names of the existing blocks, or None to accept any name.

    Returns:
        Site to block name, in the order of ``sites``; empty for ``none``.

    Raises:
        ConfigError: if a block or a site is unknown, a site gets two blocks, a name is missing, or
            a block is given as a number.

    Example:
        >>> neck, every = ("p4", "p5", "up"), ("stage1", "p4", "p5", "up")
        >>> parse_attention_spec("ca", default_sites=neck, sites=every, known=None)
        {'p4': 'ca', 'p5': 'ca', 'up': 'ca'}
        >>> parse_attention_spec("se@p5+ca@up", default_sites=neck, sites=every, known=None)
        {'p5': 'se', 'up': 'ca'}
        >>> parse_attention_spec("none", default_sites=neck, sites=every, known=None)
        {}
    """
    if text.strip() == _NONE:
        return {}
    chosen: dict[str, str] = {}
    for part in text.split("+"):
        name, at, listed = (item.strip() for item in part.partition("@"))
        _check_name(name, known=known, text=text)
        for site in listed.split(",") if at else default_sites:
            _assign(name, site.strip(), chosen=chosen, sites=sites, text=text)
    return {site: chosen[site] for site in sites if site in chosen}


def format_attention_spec(mapping: Mapping[str, str], default_sites: tuple[str, ...]) -> str:
    """Return the canonical spec string of a mapping of sites to blocks.

    Args:
        mapping: site to block name; its order does not matter.
        default_sites: the network's default sites.

    Returns:
        A spec that ``parse_attention_spec`` parses to the same mapping. Sites are sorted, parts
        are sorted by their first site, and a single block at exactly the default sites is written
        without sites.

    Raises:
        ConfigError: if a block is called ``none`` (omit its site instead).

    Example:
        >>> format_attention_spec({"up": "ca", "p5": "se"}, ("p4", "p5", "up"))
        'se@p5+ca@up'
        >>> format_attention_spec({"up": "ca", "p4": "ca", "p5": "ca"}, ("p4", "p5", "up"))
        'ca'
        >>> format_attention_spec({}, ("p4", "p5", "up"))
        'none'
    """
    if _NONE in mapping.values():
        raise ConfigError(
            f"attention must not map a site to {_NONE!r}; got {dict(mapping)!r}. "
            "Omit sites without a block."
        )
    if not mapping:
        return _NONE
    by_block: dict[str, list[str]] = {}
    for site in sorted(mapping):
        by_block.setdefault(mapping[site], []).append(site)
    if len(by_block) == 1 and set(mapping) == set(default_sites):
        return next(iter(by_block))
    return "+".join(f"{name}@{','.join(sites)}" for name, sites in by_block.items())


def refuse_number(name: str, *, text: str) -> None:
    """Raise a ConfigError that shows the spec ``text`` if the name of a block is a number."""
    if name.isdigit():
        was = f"phi {name} was {_PHI[name]!r}" if name in _PHI else "phi 4 was 'ca'"
        raise ConfigError(
            f"attention must be a name, not a number; got {text!r}. "
            f"Write the name of the block: {was} in older projects."
        )


def _check_name(name: str, *, known: Collection[str] | None, text: str) -> None:
    if not name:
        raise ConfigError(
            f"attention must be a spec without empty parts; got {text!r}. "
            "For example: ca, ca@p5 or se@p5+ca@up."
        )
    refuse_number(name, text=text)
    if name == _NONE:
        raise ConfigError(
            f"attention must not combine 'none' with sites or blocks; got {text!r}. "
            "Omit the sites without a block."
        )
    if known is not None and name not in known:
        raise ConfigError(
            f"attention must name a known block; got {name!r} in {text!r}. "
            f"{did_you_mean(name.lower(), {*known, _NONE})}"
        )


def _assign(
    name: str, site: str, *, chosen: dict[str, str], sites: tuple[str, ...], text: str
) -> None:
    if not site:
        raise ConfigError(
            f"attention must name a site after each '@' and ','; got {text!r}. "
            f"Choose from: {list_names(sites)}."
        )
    if site not in sites:
        is_layer = site.lower().startswith("layer")  # imported networks have a hundred of them
        alike = [one for one in sites if one.startswith("layer") == is_layer] or sites
        raise ConfigError(
            f"attention must be at a site of the network; got {site!r} in {text!r}. "
            f"{did_you_mean(site.lower(), alike)}"
        )
    if site in chosen:
        raise ConfigError(
            f"attention must have one block per site; got {site!r} twice in {text!r}"
            f" ({chosen[site]!r}, {name!r}). Name the sites of each block, as in se@p5+ca@up."
        )
    chosen[site] = name
