"""The cost of explanations, and how much they slow down predictions, on one server and in one run.

    python -m benchmarks.explain                                                     # 2 minutes on 2 cores
    python -m benchmarks.explain --sizes 28 --rounds 1 --seconds 1                   # a trial run

The networks are those of benchmarks/serve.py, untrained, because weights do not change the time. That of 28x28 does not
end in average pooling, so a map needs 400 inferences (RISE); that of 224x224 does, so a map needs one and is exact.

explanations_alone: one client that explains one image after the other.
alone, beside: predictions at 8 connections, without and with that client, in turns; medians.
share_of_requests, times_the_p95: the ratio of beside to alone in the same turn; medians.
"""

import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import served
from benchmarks.clients.http_load import measure, request
from benchmarks.record import arguments, report
from benchmarks.serve import median
from benchmarks.served import FILTERS

CONNECTIONS = 8
PATHS = ("/v1/predict", "/v1/explain")
KEYS = ("requests_per_second", "p50_ms", "p95_ms", "n_errors")


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(FILTERS), default=list(FILTERS))
    parser.add_argument("--rounds", type=int, default=5, help="turns with and without explanations")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            os.environ.pop(name, None)
        os.environ["DVC_ROOT"] = folder
        served.register_versions(Path(folder), options.sizes)
        for size in options.sizes:
            with served.darkroom(size, "--explain", "--no-access-log") as server:
                result[f"{size}x{size}"] = measured(server, size, rounds=options.rounds, seconds=options.seconds)
    report("explain", result, packages=["onnxruntime", "numpy", "opencv-python-headless"], save=options.save)


def measured(server: served.Server, size: int, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the measurements for images of one size."""
    files = served.images(size)
    to = {path: [request(path, file, "application/octet-stream") for file in files] for path in PATHS}

    def predictions() -> dict[str, Any]:
        return server.measured(to["/v1/predict"], connections=CONNECTIONS, seconds=seconds, warm_up=0.3)

    def explanations() -> dict[str, Any]:
        return measure(server.port, to["/v1/explain"], connections=1, seconds=seconds, warm_up=0.3)

    alone, beside, explained = [], [], []
    lone = [explanations() for _ in range(rounds)]
    for _ in range(rounds):
        alone.append(predictions())
        both = together(predictions, explanations)
        beside.append(both[0])
        explained.append(both[1])
    sides = {"explanations_alone": lone, "alone": alone, "beside": beside, "explanations_beside": explained}
    ratios = {"share_of_requests": "requests_per_second", "times_the_p95": "p95_ms"}
    return {
        **{name: shortened(turns) for name, turns in sides.items()},
        **{
            name: round(statistics.median(b[key] / a[key] for a, b in zip(alone, beside, strict=True)), 2)
            for name, key in ratios.items()
        },
    }


def together(*measurements: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """Run all at the same time and return their measurements."""
    with ThreadPoolExecutor(len(measurements)) as pool:
        return [one.result() for one in [pool.submit(measurement) for measurement in measurements]]


def shortened(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of the turns for the reported values."""
    found = median([{"cpu_ms": None, **turn} for turn in turns])
    return {key: found[key] for key in KEYS}


if __name__ == "__main__":
    main()
