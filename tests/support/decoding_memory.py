"""`python -m tests.support.decoding_memory FOLDER N_MUTATIONS SEED`: decode files with little more memory than needed.

A process of its own, which limits its memory, and for each file a fork of it: what others left free in its heap would
be used without being counted. It writes a line of JSON for each file that `write_large` wrote: {"name", "n_accepted":
of the file and its mutations, "beyond": [header of one that is decoded only with more memory, ...]}. To be run with
ENVIRONMENT.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from darkroom.deployable.headers import checked_header
from darkroom.deployable.images import Form, decode
from darkroom.deployable.plain_formats import Header
from tests.support.image_files import STILLS, encoded, opencv, picture

# What was freed goes back to the system, so that it counts again; one heap, so that none is reserved for other threads.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "OPENCV_FOR_THREADS_NUM": "1"}
TIMES = {  # what is announced; measured, with what is there at once
    "one-strip tiff": 4.5,  # the strip of the file, it as RGBA, the image, and that in the order RGB
    "jpeg 2000": 9.5,  # each value in 4 bytes, of the image and of a tile that is nearly as large; in one tile 6
    "avif": 6.5,
}
TIMES_OF_OTHERS = 3  # progressive JPEG; most take 2
SLACK = 2 << 20  # bytes that do not grow with the image
FORM = Form((32, 32), "rgb")


def write_large(folder: Path, side: int) -> None:
    """Write a file of side x side pixels for each way in which a format keeps its pixels."""
    for name, data in _large(side):
        (folder / name).write_bytes(data)


def _large(side: int) -> Iterator[tuple[str, bytes]]:
    pixels = picture(side, side)
    deep, grey = pixels.astype(np.uint16) * 257, np.ascontiguousarray(pixels[:, :, 0])
    image = Image.fromarray(pixels)
    transparent = image.convert("RGBA")
    transparent.putalpha(Image.fromarray(grey))
    yield "jpeg", encoded("JPEG", image)
    yield "jpeg 4:4:4", encoded("JPEG", image, subsampling=0)
    yield "progressive jpeg", encoded("JPEG", image, progressive=True)
    yield "progressive jpeg 4:4:4", encoded("JPEG", image, progressive=True, subsampling=0)
    yield "cmyk jpeg", encoded("JPEG", image.convert("CMYK"))
    yield "progressive cmyk jpeg", encoded("JPEG", image.convert("CMYK"), progressive=True)
    yield "grey jpeg", encoded("JPEG", image.convert("L"))
    for mode in ("RGB", "P", "1", "LA"):
        yield f"png {mode}", encoded("PNG", image.convert(mode), compress_level=1)
    yield "png RGBA", encoded("PNG", transparent, compress_level=1)
    yield "16-bit png", opencv(".png", deep)
    yield "16-bit grey png", opencv(".png", deep[:, :, 0])
    yield "16-bit png with alpha", opencv(".png", np.dstack([deep, deep[:, :, 0]]))
    yield "lossy webp", encoded("WEBP", image, method=0)
    yield "lossless webp", encoded("WEBP", image, lossless=True, method=0, quality=0)
    yield "webp with alpha", encoded("WEBP", transparent, method=0)
    yield "bmp", encoded("BMP", image)
    yield "bmp P", encoded("BMP", image.convert("P"))
    yield "gif", encoded("GIF", image.convert("P"))
    yield "one-strip tiff", encoded("TIFF", image)
    yield "one-strip tiff with alpha", encoded("TIFF", transparent)
    yield "tiff lzw", encoded("TIFF", image, compression="tiff_lzw")
    yield "tiff deflate", encoded("TIFF", image, compression="tiff_deflate")
    yield "16-bit tiff", opencv(".tiff", deep)
    yield "float tiff", opencv(".tiff", (grey / 255).astype(np.float32))
    yield "jpeg 2000", encoded("JPEG2000", image)
    yield "jpeg 2000 in tiles", encoded("JPEG2000", image, tile_size=(256, 256))
    yield "jpeg 2000 in uneven tiles", encoded("JPEG2000", image, tile_size=(side - 16, side))
    yield "ppm", encoded("PPM", image)
    yield "pgm", encoded("PPM", image.convert("L"))
    yield "pbm", encoded("PPM", image.convert("1"))
    yield "avif", bytes(cv2.imencode(".avif", pixels, [cv2.IMWRITE_AVIF_SPEED, 10])[1].tobytes())


def announced(name: str, header: Header) -> int:
    """Return the bytes of an image's pixels: 3 values per pixel, 4 with transparency or as CMYK, each of 1 to 4 bytes.

    Grey ones have 3 too: in that form networks that see colours take them.
    """
    n_values = 4 if header.has_alpha or "cmyk" in name else 3
    return header.width * header.height * n_values * (4 if "float" in name else 2 if header.is_deep else 1)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with up to five other bytes, most of them in its head."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, min(len(data), 300) if rng.random() < 0.7 else len(data)))
        changed[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(0, 256))]))
    return bytes(changed)


def is_decoded(data: bytes, *, max_pixels: int, n_bytes: int | None = None) -> bool:
    """Return whether a file is decoded, with at most so many bytes of memory beyond those in use; None: any number."""
    if n_bytes is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, resource.RLIM_INFINITY))
    try:
        decode(data, FORM, max_pixels=max_pixels)
    except (ValueError, MemoryError, cv2.error):
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return True


def main() -> None:
    folder, n_mutations, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    cv2.setNumThreads(1)
    for data in STILLS.values():  # what libraries allocate once
        is_decoded(data, max_pixels=1 << 20)
    for number, path in enumerate(sorted(folder.iterdir())):
        if process := os.fork():
            if os.waitpid(process, 0)[1]:
                sys.exit(f"{path.name}: the process ended")
            continue
        print(json.dumps(tried(path, n_mutations, np.random.default_rng([seed, number]))), flush=True)
        os._exit(0)


def tried(path: Path, n_mutations: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return what becomes of a file and its mutations; see above."""
    data, name, n_accepted, beyond = path.read_bytes(), path.name, 0, []
    whole = checked_header(data, max_pixels=1 << 30)
    max_pixels = 2 * whole.width * whole.height
    times = next((times for kind, times in TIMES.items() if name.startswith(kind)), TIMES_OF_OTHERS)
    for case in (data, *(mutated(data, rng) for _ in range(n_mutations))):
        try:
            header = checked_header(case, max_pixels=max_pixels)
        except ValueError:
            continue
        if is_decoded(case, max_pixels=max_pixels, n_bytes=int(times * announced(name, header)) + SLACK):
            n_accepted += 1
        elif is_decoded(case, max_pixels=max_pixels):
            beyond.append(str(header))
    return {"name": name, "n_accepted": n_accepted, "beyond": beyond}


if __name__ == "__main__":
    main()
