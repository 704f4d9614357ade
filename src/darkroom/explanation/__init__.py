"""Heat maps: which parts of an image speak for an answer, from the ONNX file alone. Open maps.py first."""
