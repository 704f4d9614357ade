"""Other programs for comparison, each in a separate environment."""

MODEL = "DARKROOM_BENCHMARK_MODEL"  # the path of the ONNX file, for child processes of a server
