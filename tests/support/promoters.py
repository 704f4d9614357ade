"""What one of several processes does that promote at once; tests/registry/test_lock starts them."""

import os
import traceback
from pathlib import Path


def promote_own(root: str, uri: str, name: str, number: int, model_uri: str, sha256: str, shared: str) -> None:
    """Register a model and make it champion, deciding again whenever another process was faster.

    Args:
        root: the repository of this process.
        uri: the store.
        model_uri, sha256: of this process's model.
        shared: the model URI and sha256 of one that every process registers, with a space between.
    """
    os.environ |= {"DVC_ROOT": root, "MLFLOW_TRACKING_URI": uri}
    try:
        _promote_own(name, number, model_uri, sha256, shared.split())
    except BaseException:
        Path(root, f"failed-{number}.txt").write_text(traceback.format_exc())
        raise


def _promote_own(name: str, number: int, model_uri: str, sha256: str, shared: list[str]) -> None:
    import warnings

    warnings.simplefilter("ignore")
    from darkroom.errors import RegistryError
    from darkroom.registry import aliases, register, versions

    register.register(name, model_uri=shared[0], model_sha256=shared[1], tags={})
    version = register.register(name, model_uri=model_uri, model_sha256=sha256, tags={"number": str(number)})
    while True:
        champion = versions.read(name).aliases.get("champion")
        try:
            aliases.challenge(version, replacing=champion, reasons=[f"{number} is better"])
            aliases.promote(version, replacing=champion, reasons=[f"{number} is better"])
            return
        except RegistryError as error:
            if "the champion is now" not in str(error):
                raise
