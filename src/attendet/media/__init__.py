"""Prediction on images, videos, cameras and streams, and sinks for the results."""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
