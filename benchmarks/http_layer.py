"""The HTTP server of `darkroom serve` against others, with a fixed answer and the same client, in one run.

    python -m venv PEERS && PEERS/bin/pip install -r benchmarks/peers/http_servers.txt
    python -m benchmarks.http_layer --peers PEERS                                    # 4 minutes on 2 cores
    python -m benchmarks.http_layer --peers PEERS --rounds 1 --seconds 0.5 --connections 8           # a trial run

Each server runs the same ASGI application in one process, which reads the body and sends an answer of the size of a
prediction. All servers are up and are measured in short turns, each for every body size and number of connections; the
medians of the turns count. The bodies have the sizes of a 28x28 PNG (500 bytes) and of a small photograph (100 kB).

times_the_requests_of, share_of_the_p95_of: the ratio of darkroom's value to that of the other in the same turn; median.
times_the_cpu_of: the same for processor time per request, of all threads and child processes, which does not depend on
    the speed of the client. The client (benchmarks/clients/http_load.py) uses the same cores; Granian has threads
    besides Python's, so with a spare core it may answer more requests, with more processor time for each.
"""

import argparse
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import served
from benchmarks.clients.http_load import request
from benchmarks.record import arguments, report
from benchmarks.serve import median
from benchmarks.served import Server

OURS, PEERS = "darkroom", ("uvicorn_h11", "uvicorn_httptools", "granian")
BODIES = {"500_bytes": 500, "100_kB": 100_000}
COMPARED = {  # name of the ratio -> the value that is divided
    "times_the_requests_of": "requests_per_second",
    "share_of_the_p95_of": "p95_ms",
    "times_the_cpu_of": "cpu_ms",
}
PINNED = served.ROOT / "benchmarks" / "peers" / "http_servers.txt"

Turns = dict[str, list[dict[str, Any]]]  # by server, the results of its turns in order


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peers", type=Path, required=True, help=f"the environment of {PINNED.name}")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each server")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, after a warm-up of a quarter of this")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(started(name, options.peers)) for name in (OURS, *PEERS)}
        for name, n_bytes in BODIES.items():
            for n in options.connections:
                turns = taken(servers, n_bytes, connections=n, options=options)
                result.setdefault(name, {})[n] = {side: median(of) for side, of in turns.items()} | compared(turns)
    result["peers"] = [line for line in PINNED.read_text().splitlines() if "==" in line]
    report("http_layer", result, packages=["httptools", "uvloop"], save=options.save)


def started(name: str, peers: Path) -> Any:
    """Return a context manager with a running server."""
    python = sys.executable if name == OURS else str((peers / "bin" / "python").absolute())
    port = served.free_port()
    return served.started([python, "-m", "benchmarks.peers.http_servers", name, str(port)], port, "/")


def taken(servers: dict[str, Server], n_bytes: int, *, connections: int, options: argparse.Namespace) -> Turns:
    """Return the measurements of all turns of the servers, with bodies of this size."""
    requests = [request("/v1/predict", bytes(n_bytes), "image/png")]
    turns: Turns = {name: [] for name in servers}
    for _ in range(options.rounds):
        for name, server in servers.items():
            plan = {"connections": connections, "seconds": options.seconds, "warm_up": options.seconds / 4}
            turns[name].append(server.measured(requests, **plan))
    return turns


def compared(turns: Turns) -> dict[str, dict[str, float]]:
    """Return the median ratios of darkroom to another server in the same turn."""
    found: dict[str, dict[str, float]] = {}
    for ratio, key in COMPARED.items():
        found[ratio] = {
            name: round(statistics.median(ours[key] / its[key] for ours, its in zip(turns[OURS], of, strict=True)), 2)
            for name, of in turns.items()
            if name != OURS
        }
    return found


if __name__ == "__main__":
    main()
