"""Engines that execute exported models: ONNX Runtime, OpenVINO, PyTorch; and the metadata of exported files."""
