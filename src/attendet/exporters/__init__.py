"""Export networks to ONNX, OpenVINO, TorchScript, torch.export programs, ncnn and LiteRT.

Every file is compared with eager PyTorch before it gets its name. The package is called `exporters`
because `attendet.export` is the function. Importing it imports no torch.
"""

from attendet.system import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
