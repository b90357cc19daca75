"""From a weights file to detections: runtimes, the detector, sources and sinks.

Importing this room imports no torch; a runtime's library is imported when a file needs it.
"""

from attendet.inference.detector import Detector, load
from attendet.inference.postprocess import Selection
from attendet.inference.runtime import Runtime

__all__ = ["Detector", "Runtime", "Selection", "load"]
