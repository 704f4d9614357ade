"""Restore lost files of the champion from the same model.onnx in the work tree."""

import os
import shutil
from pathlib import Path

from darkroom.data.arrays.seen import SEEN_FILE
from darkroom.errors import RegistryError
from darkroom.files.writing import read_json, replacing, sha256_of
from darkroom.registry.snapshot import SHA256, Registered, Version
from darkroom.registry.versions import load, lost_files, place_hint, read


def healed(registered: Registered, *, models: Path) -> tuple[Registered, str | None]:
    """Return the registered model with all files of its champion, and a sentence if files were restored.

    Only files on this disk are checked, because those of a remote store would have to be downloaded in every run. An
    experiment of DVC does not change the champion.

    Args:
        models: the directory of the candidates, `<candidate>/model.onnx`.

    Raises:
        RegistryError: files are lost, and no candidate is the same model.
    """
    champion = registered.under("champion")
    if os.environ.get("DVC_EXP_NAME") or champion is None or champion.model_sha256 is None:
        return registered, None
    if not (lost := lost_files(champion)):
        return registered, None
    onnx = next(
        (path for path in sorted(models.glob("*/model.onnx")) if sha256_of(path) == champion.model_sha256), None
    )
    if onnx is None:
        places = ", ".join(map(str, lost.values()))
        hint = place_hint(champion) or (
            "restore a backup, check out the dvc.lock that trained it and run `dvc checkout models`, or go back with "
            "`darkroom rollback`"
        )
        raise RegistryError(
            f"{registered.name}: files of the champion, version {champion.version}, are missing or changed "
            f"({places}), and no model.onnx in {models} is the same; {hint}"
        )
    at_hand = {sha256_of(path): path for path in onnx.parent.iterdir() if path.is_file()}
    if all(champion.tags[f"{SHA256}{path}"] in at_hand for path in lost):
        for path, place in lost.items():
            with replacing(place) as part:
                shutil.copyfile(at_hand[champion.tags[f"{SHA256}{path}"]], part)
        return registered, (
            f"Lost files of the champion, version {champion.version}, were put back from {onnx.parent}: "
            f"{', '.join(lost)}."
        )
    version = _register_again(champion, onnx)
    return read(registered.name), (
        f"Files of the champion, version {champion.version}, were lost; the same model ({onnx}) is registered again as "
        f"version {version.version} and is champion in its place."
    )


def _register_again(champion: Version, onnx: Path) -> Version:
    from darkroom.registry import aliases, register
    from darkroom.tracking import restored

    trained = read_json(onnx.with_name("run.json"))
    decided = (aliases.ROLLED_BACK, aliases.AGAINST)
    tags = {key: value for key, value in champion.tags.items() if not key.startswith(SHA256) and key not in decided}
    model_uri, _ = restored.log_model(
        trained["run_id"], experiment=trained["experiment"], onnx_path=onnx, seen=onnx.with_name(SEEN_FILE), tags=tags
    )
    digest = sha256_of(onnx)
    version = register.register(champion.name, model_uri=model_uri, model_sha256=digest, tags=tags)
    load(version)
    aliases.stand_in(version, lost=champion)
    return version
