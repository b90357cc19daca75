from .detector import Detector as Detector
from .loading import load as load
from .postprocess import Selection as Selection
from .runtimes.base import Runtime as Runtime
from .stream import StreamResult as StreamResult
