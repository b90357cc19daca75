"""Attention of a trained network: gates and their health, class activation maps and pruning.

The computation needs torch (the ``train`` extra); the results are plain arrays.
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
