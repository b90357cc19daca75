from .hub import local_weights as local_weights
from .hub import push_to_hub as push_to_hub
from .imported import Imported as Imported
