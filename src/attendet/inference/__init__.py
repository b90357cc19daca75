"""From a weights file to detections: runtimes, the detector, sources and sinks.

Importing this room imports no torch; a runtime's library is imported when a file needs it.
"""

from attendet.inference.detector import Detector
from attendet.inference.frames import Frame, read_frames
from attendet.inference.live import LiveOptions
from attendet.inference.loading import load
from attendet.inference.pipeline import Result, Watch, predict_frames
from attendet.inference.postprocess import Selection
from attendet.inference.runtime import Runtime
from attendet.inference.streaming import Found
from attendet.inference.tiles import predict_tiled
from attendet.inference.tracking import Tracker

__all__ = [
    "Detector",
    "Found",
    "Frame",
    "LiveOptions",
    "Result",
    "Runtime",
    "Selection",
    "Tracker",
    "Watch",
    "load",
    "predict_frames",
    "predict_tiled",
    "read_frames",
]
