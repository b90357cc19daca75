"""Detect objects in images: the detector, its runtimes, batches and streams.

Importing this package imports no torch; the library of a runtime is imported when it is used.
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
