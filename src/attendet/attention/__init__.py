"""Attention blocks by name: mechanisms, registry, spec strings and insertion into any network.

Importing this package imports no torch.

Example:
    >>> from attendet.attention import create_attention
    >>> block = create_attention("ca", channels=64)
    >>> block.channels
    64
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
