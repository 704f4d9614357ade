"""Retrain if needed; the last line on stdout is the report as JSON. The same as `darkroom retrain`.

Not a stage: it runs the stages, by `dvc repro`, from a scheduler.
"""

import argparse
import json

from darkroom.operations.params import retrain_options
from darkroom.operations.retrain import retrain
from darkroom.project.console import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--force", action="store_true", help="train even if nothing has changed")
    parser.add_argument("--commit", action="store_true", help="commit dvc.lock and the .dvc files of new images")
    parser.add_argument("--push", action="store_true", help="commit, then `dvc push` and `git push`")
    options = parser.parse_args()
    print(json.dumps(retrain(retrain_options(force=options.force, commit=options.commit, push=options.push))))


if __name__ == "__main__":
    run(main)
