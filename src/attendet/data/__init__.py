"""Labeled images: formats, checks and splits (without torch), the image cache and augmentation."""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
