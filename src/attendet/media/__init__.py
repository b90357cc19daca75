"""Images, videos, cameras and streams in; annotated images, videos and records out."""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
