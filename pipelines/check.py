"""Check params.yaml as a whole.

Each section is validated with the model of its own stage, and against the other sections. `check` runs before all other
stages, so that mistakes which `embed` or `train` would refuse are found before anything is downloaded. Those stages
check what depends on the data, the network or the device. `check` runs in every `dvc repro` and records a fingerprint
of the user's own files, which DVC does not watch: `download` runs again when they have changed. It also lists tuned
values that are dropped, because DVC may restore the outputs of `tune` instead of running it.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from darkroom.data.augmentation import transforms
from darkroom.data.augmentation.params import AugmentParams
from darkroom.data.download.catalogue import PathSource
from darkroom.data.download.params import DownloadParams
from darkroom.data.preparation.params import PreprocessParams
from darkroom.data.raw.fingerprint import SOURCES, fingerprint
from darkroom.errors import ParamsError
from darkroom.evaluation.params import EvaluateParams
from darkroom.files.writing import read_json, write_text
from darkroom.networks.architectures.sizes import check_picture_size
from darkroom.networks.backbones.params import EmbedParams, WeightsFile
from darkroom.networks.backbones.table import NONE, check_image_size, find_backbone
from darkroom.networks.backbones.weights import obtain_weights
from darkroom.operations.params import RetrainParams
from darkroom.project.console import run, say, stage_paths
from darkroom.project.params import ComputeParams, digest, in_section, load_candidates, load_section
from darkroom.project.repository import repository_root
from darkroom.promotion.params import PromoteParams
from darkroom.training.params import Architecture, TrainParams, Transfer
from darkroom.tuning import adoption
from darkroom.tuning.params import TuneParams

PASSED = Path(".darkroom/transforms")  # of the repository: the digest of the transforms that passed last


class Checked(NamedTuple):
    """Sections of params.yaml; candidates are those of train that are trained."""

    download: DownloadParams
    tune: TuneParams
    candidates: dict[str, TrainParams]


def main() -> None:
    paths = stage_paths(__doc__, "out")
    checked = check_params()
    said = {"params": "valid", **_sources(checked.download, before=paths.out)}
    write_text(paths.out, json.dumps(said) + "\n")  # the same unless a source changed: `download` depends on it
    for name, params in checked.candidates.items():
        if why := checked.tune.why_untuned(name):
            adoption.drop(name, params.model_dump(), why=why)
    say("check: params.yaml is valid")


def check_params() -> Checked:
    """Check ./params.yaml as far as possible without the data and without Keras.

    Raises:
        ParamsError: a stage would refuse a setting.
        DataError: the file that embed.weights names is missing or has another checksum.
    """
    download = load_section("download", DownloadParams)
    preprocess = load_section("preprocess", PreprocessParams)
    augment = load_section("augment", AugmentParams)
    embed = load_section("embed", EmbedParams)
    tune = load_section("tune", TuneParams)
    candidates = {name: load_section(f"train.{name}", TrainParams) for name in load_candidates()}
    load_section("evaluate", EvaluateParams)
    load_section("promote", PromoteParams)
    load_section("retrain", RetrainParams)
    load_section("compute", ComputeParams)

    _check_transforms(augment)
    if embed.backbone != NONE:
        with in_section("embed"):
            backbone = find_backbone(embed.backbone)
            check_image_size(backbone, (embed.image_size[0], embed.image_size[1]))
        if isinstance(embed.weights, WeightsFile):  # embed fetches all others
            obtain_weights(backbone, embed.weights.model_dump())
    for name, params in candidates.items():
        with in_section(f"train.{name}"):
            _check_network(params.architecture, backbone=embed.backbone, image_size=preprocess.image_size)
        tune.space_of(name, params.model_dump())
    return Checked(download, tune, candidates)


def _sources(download: DownloadParams, *, before: Path) -> dict[str, dict[str, str]]:
    """Return the fingerprint of every source on this machine that has no checksum.

    A source that is missing keeps the fingerprint of the last run, so that a clone without the images can use data/raw.
    """
    root = repository_root()
    known = read_json(before).get("sources", {}) if before.is_file() else {}
    marks = {}
    for source in download.dataset.sources:
        if isinstance(source, PathSource) and source.sha256 is None:
            now = fingerprint(root / Path(source.path).expanduser(), memory=root / SOURCES)
            marks[source.path] = now or known.get(source.path)
    found = {path: mark for path, mark in marks.items() if mark}
    return {"sources": found} if found else {}


def _check_transforms(augment: AugmentParams) -> None:
    """Check the transforms if they have not passed before: loading albumentations takes half a second."""
    passed = repository_root() / PASSED
    mark = digest([augment.transforms, version("albumentations")])
    if not passed.is_file() or passed.read_text() != mark:
        transforms.check(augment.transforms)
        write_text(passed, mark)


def _check_network(network: Architecture, *, backbone: str, image_size: list[int] | str) -> None:
    if isinstance(network, Transfer):
        if backbone == NONE:
            raise ParamsError(f"mode {network.mode} needs a backbone; set embed.backbone, which is {NONE}")
    elif not isinstance(image_size, str):  # auto: only the data tell
        check_picture_size(network.name, network.model_dump(), image_size)


if __name__ == "__main__":
    run(main)
