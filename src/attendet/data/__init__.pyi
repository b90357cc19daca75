from .augment import AugmentConfig as AugmentConfig
from .augment import Augmenter as Augmenter
from .augment import Batch as Batch
from .cache import ImageCache as ImageCache
from .dataset import DataSet as DataSet
from .dataset import Issue as Issue
from .dataset import Sample as Sample
from .dataset import load_dataset as load_dataset
