"""attendet: small real-time object detectors with plug-in attention.

Importing this package imports neither torch nor OpenCV; each name is loaded when it is first used.
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)

__version__ = "0.1.0"
