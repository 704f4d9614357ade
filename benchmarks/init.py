"""How long does `darkroom init` take on 20,000 files?

    python -m benchmarks.init --photographs cats_vs_dogs.tar     # 2 minutes on 2 cores

The files are photographs of the tar, each mirrored, rotated and cropped in several ways, saved as JPEG (quality 85) in
two class directories. The time is that of the whole command with `--check`, which writes nothing; the files are in the
cache of the system, because they have just been written. `cpu_seconds` does not depend on other load of the machine.
"""

import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.record import arguments, report

ROOT = Path(__file__).resolve().parents[1]
CODE = (
    "import sys; from darkroom.cli import main; sys.argv = ['darkroom', *sys.argv[1:]]\n"
    "try:\n    main.main()\n"
    "finally:\n    print(sorted({'keras', 'tensorflow', 'mlflow'} & set(sys.modules)), file=sys.stderr)"
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--photographs", type=Path, required=True, help="a tar of train/<class>/ and test/<class>/")
    parser.add_argument("--files", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        n_bytes = _write(options.photographs, Path(folder), n=options.files)
        before, started = _cpu_seconds(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", CODE, "init", folder, "--check", "--json"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            check=True,
            text=True,
        )
        seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - before
    found: dict[str, Any] = json.loads(done.stdout)
    result = {
        "files": options.files,
        "megabytes": round(n_bytes / 1e6),
        "seconds": round(seconds, 1),
        "target": "under 20 s",
        "cpu_seconds": round(cpu_seconds, 1),
        "headers_read": found["n_images"],
        "decoded": found["n_decoded"],
        "classes": found["classes"],
        "heavy_modules_loaded": json.loads(done.stderr.strip().splitlines()[-1].replace("'", '"')),
    }
    report("init", result, packages=["opencv-python-headless", "numpy"], save=options.save)


def _cpu_seconds() -> float:
    """Return the CPU time of all processes that have ended, on all cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write(source: Path, folder: Path, *, n: int) -> int:
    """Write n variants of the photographs, in two classes, and return their bytes."""
    rng = np.random.default_rng(0)
    with tarfile.open(source) as tar:
        contents = [(member.name.split("/")[1], tar.extractfile(member)) for member in tar if member.isfile()]
        photographs = [(label, file.read()) for label, file in contents if file is not None]
    n_bytes = 0
    for number, (label, data) in enumerate(islice(cycle(photographs), n)):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        top, left = (int(edge * rng.uniform(0, 0.3)) for edge in image.shape[:2])
        image = np.rot90(image[top:, left:], int(rng.integers(4)))[:, :: int(rng.choice([-1, 1]))]
        encoded = cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        path = folder / label / f"IMG_{number:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded)
        n_bytes += len(encoded)
    return n_bytes


if __name__ == "__main__":
    main()
