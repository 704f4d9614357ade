"""Programs of others, each in an environment of its own, that a benchmark measures against."""

MODEL = "DARKROOM_BENCHMARK_MODEL"  # the path of the ONNX file, for the processes that a server starts
