"""Assignment of predictions to objects, and the detection loss."""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
