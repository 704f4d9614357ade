"""A small repository that `darkroom retrain` works on: real DVC, git, promote and registry, and a training of a second.

The one model reads the pixel that params.yaml names (see trained_repository), and its training copies what was made for
that pixel; what lies in data/incoming is counted into the lock, so that new images run the training again.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.support import trained_repository
from tests.support.project import ROOT, Project

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
PIPELINE = f"""\
stages:
  download:
    cmd: python download.py
    deps: [download.py]
    outs: [data/raw]
  train:
    cmd: python train.py
    params: [train]
    deps: [data/incoming, data/raw, train.py]
    outs: [models/cnn/model.onnx, models/cnn/seen_ids.npy, models/cnn/run.json, reports/predictions.parquet,
      reports/evaluation.html]
    metrics: [reports/evaluation.json]
  promote:
    cmd: {STAGES["promote"]["cmd"]}
    always_changed: true
    params: [candidates, promote]
    deps: [reports/evaluation.json, reports/predictions.parquet, reports/evaluation.html, models/cnn/model.onnx]
    outs: [reports/promotion.json, reports/report.html]
"""
TRAIN = """\
import shutil, sys, time
from pathlib import Path
from ruamel.yaml import YAML

params = YAML(typ="safe").load(Path("params.yaml"))["train"]["cnn"]
if params["reads"] > 3:
    sys.exit("error: there is no pixel " + str(params["reads"]))
trained = Path({trained!r}, str(params["reads"]))
shutil.copytree(trained / "models", "models", dirs_exist_ok=True)
time.sleep(params["seconds"])  # long enough to be killed in
shutil.copytree(trained / "reports", "reports", dirs_exist_ok=True)
"""
SETTINGS = """\
download:
  dataset: digits
preprocess:
  max_image_bytes: 1000
retrain:
  mode: worktree
  min_new_images: 1
  max_champion_age_days: null
  drift_log: null
  drift_days: 7.0
  min_recent_accuracy: null
  min_labelled_images: 10
  notify: {command: 'cat > "told-$DARKROOM_EVENT.json"', webhook: null, heartbeat: false, timeout_seconds: 10}
"""


class Retrained(Project):
    """The repository, with what its tests ask of it."""

    def retrain(self, *options: str, status: int = 0) -> dict[str, Any]:
        """Run `darkroom retrain` and return reports/retrain.json; its last line on stdout says the same."""
        process = subprocess.run(
            [sys.executable, "-m", "darkroom.cli.main", "retrain", *options],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == status, process.stderr
        report = dict(json.loads(self.read("reports/retrain.json")))
        if status == 0:
            assert json.loads(process.stdout) == report
        return report

    def reads(self, pixel: int, seconds: float = 0.0) -> None:
        """Set which pixel the next model reads, 0 the best, and how long its training takes."""
        params = self.root / "params.yaml"
        cnn = f"  cnn: {{reads: {pixel}, seconds: {seconds}}}"
        lines = [cnn if line.startswith("  cnn:") else line for line in params.read_text().splitlines()]
        params.write_text("\n".join(lines) + "\n")

    def drop(self, name: str, content: bytes) -> None:
        """Put a new image into data/incoming."""
        path = self.root / "data" / "incoming" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def create(root: Path) -> Retrained:
    """Make the repository, committed, with nothing trained yet."""
    project = Retrained(root)
    trained_repository.prepare(root)
    params = (root / "params.yaml").read_text().replace("  cnn: {}", "  cnn: {reads: 2, seconds: 0.0}")
    (root / "params.yaml").write_text(params + SETTINGS)
    (root / "mlflow.db").write_bytes(trained_repository.empty_database())
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "train.py").write_text(TRAIN.format(trained=str(root / "trained")))
    for pixel in range(4):
        _train(root, reads=pixel)
    (root / "served").mkdir()
    (root / "served" / "set.txt").write_text("the dataset\n")
    (root / "download.py").write_text(f"import shutil\n\nshutil.copytree({str(root / 'served')!r}, 'data/raw')\n")
    ignored = ["mlflow.db*", "mlartifacts/", ".darkroom/", "models/", "reports/", "data/incoming/?*/", "data/raw"]
    (root / ".gitignore").write_text("\n".join([*ignored, "told-*", "remote/", "served/", "trained/"]) + "\n")
    (root / "data" / "incoming").mkdir()
    (root / "data" / "incoming" / "README.md").write_text("new images\n")
    (root / "pipelines").symlink_to(ROOT / "pipelines")
    for command in (["git", "init", "--quiet", "--initial-branch", "main"], ["dvc", "init", "--quiet"]):
        project.run(*command)
    project.run("dvc", "config", "core.analytics", "false")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "start")
    return project


def _train(root: Path, *, reads: int) -> None:
    """Make what the training of a pixel will write, in trained/PIXEL."""
    trained_repository.write_candidate(root, reads=reads)
    lineage = {"git_commit": "c" * 40, "git_dirty": False, "data_digest": "d" * 64, "params_digest": "p" * 64}
    run = {"run_id": "0" * 32, "experiment": "pets", "model_uri": "models:/m-" + "0" * 32, **lineage}
    (root / "models" / "cnn" / "run.json").write_text(json.dumps(run))
    trained_repository.evaluate(root)
    for name in ("models", "reports"):
        (root / "trained" / str(reads)).mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / "trained" / str(reads) / name)
