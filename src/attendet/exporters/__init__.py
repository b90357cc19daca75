"""From weights to files for other runtimes: ONNX, OpenVINO, TorchScript, exported programs.

Every file is compared with eager PyTorch before it gets its name. The room is called `exporting`
because `attendet.export` is the function.
"""

from __future__ import annotations

from attendet.exporters.run import DYNAMIC, FORMATS, ExportReport, export

__all__ = ["DYNAMIC", "FORMATS", "ExportReport", "export"]
