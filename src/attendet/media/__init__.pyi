from .frames import Frame as Frame
from .frames import read_frames as read_frames
from .live_stream import LiveOptions as LiveOptions
from .pipeline import FrameOptions as FrameOptions
from .pipeline import Result as Result
from .pipeline import predict_frames as predict_frames
from .tiling import predict_tiled as predict_tiled
from .tracking import Tracker as Tracker
