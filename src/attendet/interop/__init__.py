"""Weights of other programs: darknet files, YOLOv4-tiny checkpoints, the Hugging Face Hub."""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
