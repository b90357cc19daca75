from .frames import Frame as Frame
from .frames import read_frames as read_frames
from .live import LiveOptions as LiveOptions
from .pipeline import Result as Result
from .pipeline import Watch as Watch
from .pipeline import predict_frames as predict_frames
from .tiling import predict_tiled as predict_tiled
from .tracking import Tracker as Tracker
