"""Runtimes: PyTorch, ONNX Runtime, OpenVINO and TorchScript."""
