"""Detect objects in images: the detector, its runtimes, batches and streams.

Importing this package does not import torch; the library of a runtime is imported on first use.
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
