"""Programs that a benchmark measures with."""
