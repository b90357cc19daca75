"""From a weights file to detections: the detector, its runtimes, batches and streams of images.

Importing this package imports no torch; a runtime's library is imported when a file needs it.
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
