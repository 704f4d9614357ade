"""How much faster are several workers, does their memory grow, and what does bookkeeping cost? Four parts.

    python -m benchmarks.tuning                                    # 20 minutes on 2 cores
    python -m benchmarks.tuning --parts overhead cluster           # without training
    python -m benchmarks.tuning --trials 2 --no-op-trials 10 --cluster-trials 100 --cluster-workers 4    # a trial run

workers: the stage tune on the preset mnist in a clone, with one worker and with two, for the candidates cnn and
    transfer: random trials of one seed, none stopped early, so both train the same networks. trials_per_hour is from
    the start of the first trial to the end of the last one, including the start of the workers (TensorFlow);
    running_trials_per_hour is without it: for every worker, from the end of its first trial. One worker may use all
    cores, two have one each. processes_ratio is the best possible on this machine: the same single-threaded work
    (matrix products) twice in two processes at once, against one after the other; the median of several rounds.
memory: one worker for 50 trials of one epoch on a fiftieth of MNIST, all with the same network. The resident memory of
    its process is sampled ten times a second; rss_mb is the maximum within a trial. growth_mb_per_trial is the slope of
    a straight line through the values of all trials except the first five, in which libraries still fill their pools.
overhead: trials that do everything except train: start and report in the study (a journal file), a run in MLflow
    (sqlite) with parameters, metrics and artifact. `seconds` are those of the search, including the start of its
    workers. seconds_per_trial is the mean from drawing a trial to recording its end, without the first trial of each
    worker, which imports MLflow.
cluster: 64 processes of this machine on one study in PostgreSQL, with trials of 10 ms: were any lost, or run twice? The
    server is started by the benchmark, without fsync, on loopback. trials_per_second is from the end of the first trial
    to the end of the last one; processes still start in its first part.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.record import arguments, report

if TYPE_CHECKING:
    from darkroom.tuning.rows import TrialRow
    from darkroom.tuning.study import Draw, Outcome

PARTS = ("workers", "memory", "overhead", "cluster")
TRIAL_SECONDS = 0.01  # in the part cluster
STUDY = "benchmark"
SETTINGS: dict[str, Any] = {
    "tune.sampler": "random",
    "tune.pruner": "none",
}
WARM_UP = 5  # trials that are not counted for memory


def main() -> None:
    parser = arguments(__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--trials", type=int, default=12, help="of the part workers")
    parser.add_argument("--memory-trials", type=int, default=50)
    parser.add_argument("--no-op-trials", type=int, default=100, help="of the part overhead")
    parser.add_argument("--cluster-trials", type=int, default=2000)
    parser.add_argument("--cluster-workers", type=int, default=64)
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if "workers" in options.parts:
        result["workers"] = workers(n_trials=options.trials)
    if "memory" in options.parts:
        result["memory"] = memory(n_trials=options.memory_trials)
    if "overhead" in options.parts:
        result["overhead"] = overhead(n_trials=options.no_op_trials)
    if "cluster" in options.parts:
        result["cluster"] = cluster(n_trials=options.cluster_trials, n_workers=options.cluster_workers)
    packages = ["optuna", "mlflow", "joblib", "sqlalchemy", "psycopg", "tensorflow", "keras"]
    report("tuning", result, packages=packages, save=options.save, parts=PARTS)


# Two workers against one


def workers(*, n_trials: int) -> dict[str, Any]:
    """Return trials per hour of the stage tune with one worker and with two, and the ratio."""
    from benchmarks.mnist import clone, seconds, use

    found: dict[str, Any] = {}
    settings = SETTINGS | {"tune.trials": n_trials}
    with clone() as root:
        use(root, "mnist", settings)
        seconds(root, "dvc", "repro", "embed")
        for candidate in ("cnn", "transfer"):
            sides = {}
            for n_workers in (1, 2):
                study = f"of-{n_workers}"  # otherwise the second would continue the first
                use(root, "mnist", settings | {"tune.workers": n_workers, "tune.study": study})
                stage_seconds = seconds(root, *stage(candidate))
                name = f"{study}-{candidate}"
                sides[n_workers] = rates(rows_of(root / ".darkroom" / "tuning" / f"{name}.journal", name))
                sides[n_workers]["stage_seconds"] = round(stage_seconds, 1)
            one, two = sides[1], sides[2]
            found[candidate] = {
                "ratio": round(two["trials_per_hour"] / one["trials_per_hour"], 2),
                "running_ratio": round(two["running_trials_per_hour"] / one["running_trials_per_hour"], 2),
                "same_trials": one.pop("values") == two.pop("values"),
                "with_1": one,
                "with_2": two,
            }
    return {"n_trials": n_trials, "ratio_target": "at least 1.5", "processes_ratio": processes_ratio(), **found}


def stage(candidate: str) -> list[str]:
    """Return the command of the stage tune for a candidate."""
    folders = ["--prepared", "data/prepared", "--augmented", "data/augmented", "--features", "data/features"]
    made = ["--best", f"models/{candidate}/best.yaml", "--report", f"reports/tune/{candidate}"]
    return [sys.executable, "-m", "pipelines.tune", *folders, *made]


def processes_ratio(*, rounds: int = 7) -> float:
    """Return the ratio of the work per second of two single-threaded processes to that of one."""
    code = (
        "import sys, time, numpy as np; a = np.ones((512, 512), np.float32); print(flush=True); sys.stdin.readline(); "
        "start = time.perf_counter(); [a @ a for _ in range(1500)]; print(time.perf_counter() - start, flush=True)"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def seconds_of(n: int) -> float:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started = [subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) for _ in range(n)]
        for process in started:
            process.stdout.readline()  # type: ignore[union-attr]
        for process in started:
            process.stdin.write("go\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        return max(float(process.communicate()[0]) for process in started)

    return round(statistics.median(2 * seconds_of(1) / seconds_of(2) for _ in range(rounds)), 2)


def rows_of(journal: Path, study: str) -> "list[TrialRow]":
    from darkroom.tuning.storage import read_rows

    return read_rows(study, str(journal))


def rates(rows: "Sequence[TrialRow]") -> dict[str, Any]:
    """Return the trials per hour of a search, and its drawn values."""
    assert all(row.state == "complete" for row in rows), [row.state for row in rows]
    ends = defaultdict(list)
    for row in rows:
        ends[row.worker].append(end_of(row))
    all_seconds = max(end_of(row) for row in rows) - min(row.started or 0.0 for row in rows)
    running = [(len(own) - 1) / (max(own) - min(own)) for own in ends.values() if len(own) > 1]
    return {
        "trials_per_hour": round(3600 * len(rows) / all_seconds, 1),
        "running_trials_per_hour": round(3600 * sum(running), 1),
        "seconds": round(all_seconds, 1),
        "trials_of_each_worker": [len(own) for own in ends.values()],
        "values": [row.params for row in rows],
    }


def end_of(row: "TrialRow") -> float:
    return (row.started or 0.0) + (row.seconds or 0.0)


# The memory of a worker


def memory(*, n_trials: int) -> dict[str, Any]:
    """Return the memory of a worker in each of many trials, and its growth per trial."""
    import numpy as np

    from benchmarks.mnist import clone, seconds, use

    settings = SETTINGS | {"tune.trials": n_trials, "tune.workers": 1, "tune.study": "memory"}
    settings |= {"tune.epochs": 1, "tune.fraction": 0.02, "tune.space.cnn": {"learning_rate": {"float": [0.1, 0.3]}}}
    settings |= {"candidates": ["cnn"], "embed.backbone": "none", "embed.weights": "none"}
    with clone() as root:
        use(root, "mnist", settings)
        seconds(root, "dvc", "repro", "embed")
        samples = watch(subprocess.Popen(stage("cnn"), cwd=root, stdout=subprocess.DEVNULL))
        rows = rows_of(root / ".darkroom" / "tuning" / "memory-cnn.journal", "memory-cnn")
    assert {row.state for row in rows} == {"complete"}, [row.reason for row in rows]
    held = []
    for row in rows:
        during = [rss for at, rss in samples if (row.started or 0.0) <= at <= end_of(row)]
        held.append(max(during) / 1e6)
    slope = np.polyfit(range(WARM_UP, n_trials), held[WARM_UP:], 1)[0]
    return {
        "n_trials": len(rows),
        "n_workers": len({row.worker for row in rows}),
        "rss_mb": [round(mb) for mb in held],
        "growth_mb_per_trial": round(float(slope), 2),
        "target": "flat",
    }


def watch(process: "subprocess.Popen[bytes]") -> list[tuple[float, int]]:
    """Return (Unix time, resident bytes) of the largest process that a stage started, until it ends."""
    import psutil

    samples = []
    while process.poll() is None:
        sizes = [0]
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                sizes.append(child.memory_info().rss)
        samples.append((time.time(), max(sizes)))
        time.sleep(0.1)
    assert process.returncode == 0, "the stage failed"
    return samples


# Trials that train nothing


def overhead(*, n_trials: int) -> dict[str, Any]:
    """Return the seconds of a search whose trials do only the bookkeeping."""
    from darkroom.cli import presets
    from darkroom.project.params import digest
    from darkroom.tracking import experiments, provenance, runs

    params = presets.read("mnist", root=Path(__file__).parents[1])
    recipe = params["train"]["cnn"]
    tags = provenance.lineage_tags(data_digest=digest([]), params_digest=digest(recipe), candidate="cnn")
    with scratch() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        started = time.perf_counter()
        experiments.connect(STUDY)
        store_seconds = time.perf_counter() - started
        with runs.run(experiment=STUDY, name="tune-cnn", params=params["tune"], tags=tags) as parent:
            task = {"recipe": recipe, "tags": tags, "parent": parent.id, "uri": os.environ["MLFLOW_TRACKING_URI"]}
            rows, seconds = search(keep_books, task, storage=str(folder / "journal"), n_trials=n_trials, n_workers=2)
    assert all(row.state == "complete" for row in rows), [row.reason for row in rows]
    first = {row.worker: row.number for row in reversed(rows)}.values()
    later = [row.seconds or 0.0 for row in rows if row.number not in first]
    return {
        "n_trials": len(rows),
        "n_workers": 2,
        "seconds": round(seconds, 1),
        "seconds_target": "under 20",
        "seconds_per_trial": round(statistics.mean(later), 3),
        "seconds_per_trial_target": "at most 0.5",
        "seconds_per_trial_greatest": round(max(later), 3),
        "seconds_to_make_the_store": round(store_seconds, 1),
    }


def keep_books(task: dict[str, Any]) -> "Outcome":
    """Do everything in a worker that trial.run does, except train."""
    os.environ["MLFLOW_TRACKING_URI"] = task["uri"]
    from darkroom.tracking import runs
    from darkroom.tuning.study import Outcome
    from darkroom.tuning.trial import Report

    trial = Report(task["number"], study=STUDY, storage=task["storage"], plan=task["plan"], judged=range(0))
    trial.begin(f"{socket.gethostname()}:{os.getpid()}")
    accuracy = task["overrides"]["learning_rate"]
    curves = {"train_loss": 1.0, "val_loss": 1.0, "train_accuracy": accuracy, "val_accuracy": accuracy}
    with runs.run(
        experiment=STUDY,
        name=f"trial-{task['number']}",
        params=task["recipe"],
        tags={**task["tags"], "trial": str(task["number"])},
        parent=task["parent"],
    ) as record:
        record.log_epoch(1, {**curves, "learning_rate": 0.1, "images_per_second": 1000.0})
        trial.epoch(1, accuracy)
        record.log_metrics({"val_accuracy": accuracy})
    return Outcome("complete", {"val_accuracy": accuracy})


# Many workers on one database


def cluster(*, n_trials: int, n_workers: int) -> dict[str, Any]:
    """Return the numbers of lost and repeated trials of many workers on one PostgreSQL study, and their speed."""
    from tests.support import postgres

    if postgres.program("initdb") is None:
        return {"skipped": "PostgreSQL is not installed"}
    with scratch() as folder, postgres.running() as server:
        task, storage = {"ran": str(folder / "ran")}, server.database("tuning")
        rows, seconds = search(sleep, task, storage=storage, n_trials=n_trials, n_workers=n_workers)
        ran = Counter(int(line) for line in (folder / "ran").read_text().splitlines())
    kept = [row.number for row in rows if row.state == "complete"]
    ends = sorted(end_of(row) for row in rows)
    return {
        "n_trials": len(kept),
        "n_workers": len({row.worker for row in rows}),
        "n_lost": n_trials - len(set(kept)) + sum(number not in ran for number in kept),
        "n_doubled": sum(times - 1 for times in ran.values()) + sum(row.retry_of is not None for row in rows),
        "lost_and_doubled_target": "none",
        "trials_per_second": round((len(ends) - 1) / (ends[-1] - ends[0]), 1),
        "seconds": round(seconds, 1),
        "longest_pause_seconds": round(max(later - earlier for earlier, later in pairwise(ends)), 2),
    }


def sleep(task: dict[str, Any]) -> "Outcome":
    """Run a trial of TRIAL_SECONDS in a worker, and write a line as proof."""
    from darkroom.tuning.study import Outcome
    from darkroom.tuning.trial import Report

    trial = Report(task["number"], study=STUDY, storage=task["storage"], plan=task["plan"], judged=range(0))
    trial.begin(f"{socket.gethostname()}:{os.getpid()}")
    with Path(task["ran"]).open("a") as file:
        file.write(f"{task['number']}\n")
    time.sleep(TRIAL_SECONDS)
    trial.epoch(1, task["overrides"]["learning_rate"])
    return Outcome("complete", {"val_accuracy": task["overrides"]["learning_rate"]})


def search(
    function: "Callable[[dict[str, Any]], Outcome]",
    task: dict[str, Any],
    *,
    storage: str,
    n_trials: int,
    n_workers: int,
) -> "tuple[list[TrialRow], float]":
    """Run random trials of a function through the coordinator; return them and the seconds."""
    from darkroom.compute.workers import Workers
    from darkroom.tuning import coordinator
    from darkroom.tuning.plan import Plan
    from darkroom.tuning.space.syntax import parse
    from darkroom.tuning.study import Search

    plan = Plan(sampler="random", pruner="none", seed=7, objectives=("val_accuracy",), limits={}, n_startup_trials=1)
    space, baseline = parse({"learning_rate": {"float": [0.0, 1.0]}}), {"learning_rate": 0.5}

    def task_of(drawn: "Draw") -> dict[str, Any]:
        return {**task, "number": drawn.number, "overrides": drawn.overrides, "storage": storage, "plan": plan}

    with Search(STUDY, storage=storage, space=space, plan=plan, baseline=baseline, about=STUDY, rename=STUDY) as study:
        started = time.perf_counter()
        with Workers(n_workers, backend="loky") as places:
            coordinator.run(study, places, function=importable(function), task_of=task_of, n_trials=n_trials)
        return study.rows(), time.perf_counter() - started


def importable(function: "Callable[[dict[str, Any]], Outcome]") -> "Callable[[dict[str, Any]], Outcome]":
    """Return a function that workers can import: not from __main__, which would be pickled as a whole."""
    from benchmarks import tuning

    return getattr(tuning, function.__name__)  # type: ignore[no-any-return]


@contextmanager
def scratch() -> Iterator[Path]:
    """Work in a temporary directory, because locks of this repository are for its own runs."""
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder, chdir(folder):
        yield Path(folder)


if __name__ == "__main__":
    main()
