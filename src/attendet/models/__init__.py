"""The detector: backbone, neck and head, decode, and the weights file.

Reading the metadata of a weights file needs no torch.
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
