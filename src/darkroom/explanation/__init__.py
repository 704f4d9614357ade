"""Heat maps of the parts of an image that support an answer, from the ONNX file alone. Open maps.py first."""
