"""Keras on this machine: device, precision, several devices, memory, ONNX export. Open device.py first."""
