"""From a weights file to detections: runtimes, the detector, sources and sinks.

Importing this room imports no torch; a runtime's library is imported when a file needs it.
"""

from attendet.inference.detector import Detector
from attendet.inference.loading import load
from attendet.inference.postprocess import Selection
from attendet.inference.runtime import Runtime
from attendet.inference.streaming import Found

__all__ = ["Detector", "Found", "Runtime", "Selection", "load"]
