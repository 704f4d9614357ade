"""Download the dataset from the first source that works."""

import os
from pathlib import Path

from darkroom.data.download.params import DownloadParams
from darkroom.project.console import run, say, stage_paths
from darkroom.project.params import load_section


def main() -> None:
    paths = stage_paths(__doc__, "out")
    params = load_section("download", DownloadParams)

    from darkroom.data.download.fetch import fetch

    base = Path(os.environ.get("DVC_ROOT", "."))  # `dvc exp run --temp` starts stages in a copy of the repository
    mirror = os.environ.get("DARKROOM_MIRROR")
    manifest = fetch(params.dataset, paths.out, mirror=base / Path(mirror).expanduser() if mirror else None, base=base)
    if manifest["licence"] or manifest["homepage"]:  # images of the user's own need neither
        licence, homepage = manifest["licence"] or "not stated", manifest["homepage"] or "the source"
        say(f"{manifest['dataset']}: licence {licence}; see {homepage}")


if __name__ == "__main__":
    run(main)
