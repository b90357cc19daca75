from .attention import attend as attend
from .attention import detach as detach
from .attention import register_attention as register_attention
from .attention import sites as sites
from .comparison import compare as compare
from .data import load_dataset as load_dataset
from .detections import Detections as Detections
from .errors import AttendetError as AttendetError
from .evaluation import evaluate as evaluate
from .exporters import export as export
from .images import SAMPLE_IMAGE as SAMPLE_IMAGE
from .inference import Detector as Detector
from .inference import load as load
from .interop import push_to_hub as push_to_hub
from .models import build as build
from .training import train as train

__version__: str
