from .augment import Augmenter as Augmenter
from .augment import Batch as Batch
from .augment_plan import AugmentConfig as AugmentConfig
from .cache import ImageCache as ImageCache
from .dataset import DataSet as DataSet
from .dataset import load_dataset as load_dataset
from .sample import Issue as Issue
from .sample import Sample as Sample
