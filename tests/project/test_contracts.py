"""The files agree with each other: dvc.yaml and the code, params and presets, packages and imports."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from darkroom.cli import presets
from darkroom.project.params import SECTIONS
from tests.support.project import ROOT

PACKAGE = ROOT / "src" / "darkroom"
STAGES: dict[str, dict[str, Any]] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
PRESETS = presets.names(ROOT)
# Execution settings: changing them does not rerun any stage.
NO_PARAMS = {"compute", *(f"tune.{key}" for key in ("workers", "cpus", "gpus", "max_worker_bytes", "storage", "study"))}
CANDIDATES = ["cnn", "transfer"]


def imports(file: Path) -> Iterator[str]:
    """Names imported anywhere in a file, inside functions too, but not for type checkers alone."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named_files(file: Path) -> Iterator[Path]:
    """Files that a module names in a string and that lie in its own package: tables, templates, shipped modules."""
    for node in ast.walk(ast.parse(file.read_text())):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if re.fullmatch(r"[\w-]+(\.\w+)+", text) and (named := file.parent / text).is_file():
            yield named


def modules_of(file: Path) -> Iterator[Path]:
    for name in imports(file):
        path = PACKAGE.parent.joinpath(*name.split("."))
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if name.startswith("darkroom.") and candidate.is_file():
                yield candidate


def loaded_files(stage: str) -> set[Path]:
    """Every file of the repository whose content decides what a stage does."""
    seen: set[Path] = set()
    waiting = [ROOT / "pipelines" / f"{stage}.py"]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            if file.suffix == ".py":
                waiting += [*modules_of(file), *named_files(file)]
    return {file for file in seen if file.name != "__init__.py" or not is_empty(file)}


def is_empty(file: Path) -> bool:
    """Whether a module has a docstring alone."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def outputs(stage: dict[str, Any]) -> list[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def expanded(stage: dict[str, Any], candidate: str = CANDIDATES[0]) -> dict[str, Any]:
    """The stage for one candidate; DVC takes the list of them from params.yaml."""
    assert stage.get("matrix", {"candidate": "${candidates}"}) == {"candidate": "${candidates}"}
    text = str({key: value for key, value in stage.items() if key != "matrix"})
    return dict(ast.literal_eval(text.replace("${item.candidate}", candidate)))


def each(stages: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every stage that DVC would run for the candidates that dvc.yaml speaks of."""
    for stage in stages.values():
        yield from (expanded(stage, candidate) for candidate in (CANDIDATES if "matrix" in stage else CANDIDATES[:1]))


def sources(stage: str) -> list[Path]:
    """The files and directories of source code that a stage depends on."""
    return [ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith(("pipelines", "src/"))]


def reruns(changed: str) -> set[str]:
    """The stages that a change of this file, relative to the repository, reruns by itself."""
    return {name for name in STAGES if any((ROOT / changed).is_relative_to(source) for source in sources(name))}


@pytest.mark.parametrize("name", STAGES)
def test_every_loaded_file_lies_under_a_dependency(name: str) -> None:
    outside = [file for file in loaded_files(name) if not any(file.is_relative_to(source) for source in sources(name))]
    assert outside == []


@pytest.mark.parametrize("name", STAGES)
def test_every_dependency_holds_a_loaded_file(name: str) -> None:
    loaded = loaded_files(name)
    assert [source for source in sources(name) if not any(file.is_relative_to(source) for file in loaded)] == []


# A change of the file -> the stages that run because of it; check, whose output never changes, is left out.
RERUNS = {
    "src/darkroom/data/download/datasets.yaml": {"download"},
    "src/darkroom/networks/backbones/weights.yaml": {"embed", "tune", "train"},
    "src/darkroom/data/preparation/splits.py": {"preprocess"},
    "src/darkroom/data/augmentation/transforms.py": {"augment"},
    "src/darkroom/training/optimizers.py": {"tune", "train"},
    "src/darkroom/tuning/choice.py": {"tune"},
    "src/darkroom/evaluation/report.html.j2": {"evaluate", "promote"},
    "src/darkroom/explanation/maps.py": {"evaluate"},
    "src/darkroom/promotion/gates.py": {"promote"},
    "src/darkroom/registry/lock.py": {"promote"},
    "src/darkroom/serving/server.py": set(),
    "src/darkroom/batch/run.py": set(),
    "src/darkroom/monitoring/drift.py": set(),
    "src/darkroom/operations/retrain.py": set(),
    "src/darkroom/lr_find/range_test.py": set(),
    "src/darkroom/cli/main.py": set(),
}


@pytest.mark.parametrize("changed", RERUNS)
def test_a_change_reruns_only_what_it_can_affect(changed: str) -> None:
    assert (ROOT / changed).is_file()
    assert reruns(changed) - {"check"} == RERUNS[changed]


def test_studies_and_checkpoints_outlive_changes_of_other_code() -> None:
    from darkroom.training.tracked import TRAINED
    from darkroom.tuning.candidate import SEARCHED

    for name, paths in (("tune", SEARCHED), ("train", TRAINED)):
        assert [PACKAGE / path for path in paths] == [path for path in sources(name) if PACKAGE in path.parents]


@pytest.mark.parametrize("name", STAGES)
def test_every_path_of_a_command_is_a_dependency_or_an_output(name: str) -> None:
    stage = expanded(STAGES[name])
    declared = {*stage["deps"], *outputs(stage)}
    for path in re.findall(r"--[a-z-]+ (\S+)", stage["cmd"]):
        assert any(known == path or known.startswith(f"{path}/") for known in declared), path


@pytest.mark.parametrize("name", STAGES)
def test_a_command_gives_exactly_the_paths_of_its_stage(name: str) -> None:
    source = (ROOT / "pipelines" / f"{name}.py").read_text()
    call = re.search(r"stage_paths\(\s*__doc__,([^)]*)\)", source)
    assert call is not None
    asked = [part.replace("_", "-") for part in re.findall(r'"(\w+)"', call[1])]
    assert re.findall(r"--([a-z-]+) ", STAGES[name]["cmd"]) == asked


def sections_read(stage: str) -> dict[str, str]:
    """The sections that a stage loads, each with the name of its model."""
    source = (ROOT / "pipelines" / f"{stage}.py").read_text()
    return dict(re.findall(r'load_section\(f?"([\w.]+)[\w{}]*", (\w+)\)', source))


@pytest.mark.parametrize("name", sorted({*STAGES} - {"check"}))
def test_a_stage_declares_the_section_it_reads(name: str) -> None:
    source = (ROOT / "pipelines" / f"{name}.py").read_text()
    read = set(re.findall(r'load_section\(f?"([\w.{}]+)"', source)) - NO_PARAMS
    # tune draws around the values of train.
    assert {section.split(".")[0] for section in read} == ({name, "train"} if name == "tune" else {name})
    declared = {param.replace("${item.candidate}", "{candidate}") for param in STAGES[name]["params"]}
    if name == "tune":
        keys = {f"tune.{key}" for key in YAML(typ="safe").load(ROOT / "params.yaml")["tune"]} - NO_PARAMS
        read = read - {"tune"} | keys - {"tune.space"} | {"tune.space.{candidate}"}
    assert declared == read | ({"candidates"} if "load_candidates()" in source else set())


def test_check_reads_every_section_with_the_model_of_its_stage() -> None:
    read = sections_read("check")
    assert {section.rstrip(".") for section in read} | {"candidates"} == set(SECTIONS)
    for stage in {*STAGES} - {"check"}:
        assert sections_read(stage).items() <= read.items()
    assert STAGES["check"]["params"] == [{"params.yaml": None}], "the whole file"


def test_no_stage_starts_before_check() -> None:
    made = outputs(STAGES["check"])
    for stage in each({name: stage for name, stage in STAGES.items() if name != "check"}):
        assert any(path == dep or path.startswith(f"{dep}/") for path in made for dep in stage["deps"]), stage["cmd"]
        made += outputs(stage)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_a_module_a_section_and_a_test_of_its_name(name: str) -> None:
    assert (ROOT / "pipelines" / f"{name}.py").is_file()
    assert (ROOT / "tests" / "pipelines" / f"test_{name}.py").is_file()
    assert name == "check" or name in YAML(typ="safe").load(ROOT / "params.yaml")


@pytest.mark.parametrize("name", STAGES)
def test_main_of_a_stage_fits_on_a_screen(name: str) -> None:
    tree = ast.parse((ROOT / "pipelines" / f"{name}.py").read_text())
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert main.end_lineno is not None
    assert main.end_lineno - main.lineno + 1 < 70


def test_every_output_is_ignored_by_git_before_it_exists() -> None:
    paths = [path for stage in each(STAGES) for path in outputs(stage)]
    paths += ["reports/retrain.json", "reports/drift.png"]  # of commands
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert set(ignored.stdout.split()) == set(paths)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_complete_and_valid(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darkroom.project.params import load_candidates, read_params
    from pipelines.check import check_params

    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(presets.text(preset, root=ROOT))
    values = read_params(Path("params.yaml"))
    assert set(values) == set(SECTIONS)
    assert set(load_candidates()) <= set(values["train"])
    check_params()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_a_backbone_only_if_a_candidate_uses_it(preset: str) -> None:
    values = presets.read(preset, root=ROOT)
    networks = {section["architecture"]["name"] for section in values["train"].values()}
    assert (values["embed"]["backbone"] != "none") == ("transfer" in networks)


def test_experiments_are_compared_by_validation_alone() -> None:
    measured = {name: stage["metrics"] for name, stage in STAGES.items() if "metrics" in stage}
    assert measured == {"train": ["models/${item.candidate}/metrics.json"]}


def test_evaluate_and_promote_depend_on_all_candidates() -> None:
    folders = {Path(path).parents[1] for stage in each({"train": STAGES["train"]}) for path in outputs(stage)}
    assert folders == {Path("models")}
    for name in ("evaluate", "promote"):
        assert "models" in STAGES[name]["deps"]
        assert "candidates" in STAGES[name]["params"], "else a model that earlier settings left would be looked at"


def test_dvc_plots_draw_the_tables_that_evaluate_writes() -> None:
    from darkroom.evaluation.report import PLOTTED

    drawn = set()
    for plot in (plot for entry in YAML(typ="safe").load(ROOT / "dvc.yaml")["plots"] for plot in entry.values()):
        ((file, column),) = plot["y"].items()
        assert Path(file).parent == Path("reports/plots")
        assert {"candidate", column, plot["x"]} <= {*PLOTTED[Path(file).stem]}
        template = json.loads((ROOT / ".dvc" / "plots" / f"{plot['template']}.json").read_text())
        assert template["facet"]["column"]["field"] == "candidate"
        fields = set(re.findall(r"'field': '(\w+)'", str(template))) - {"rev", "images", "of_class", "fraction"}
        assert fields <= {*PLOTTED[Path(file).stem]}
        drawn.add(Path(file).stem)
    assert drawn == {*PLOTTED}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_head_of_a_preset_states_command_duration_and_result(preset: str) -> None:
    head = presets.text(preset, root=ROOT).split("\n\n")[0]
    for word in ("command", "duration", "result"):
        assert re.search(rf"^#   {word}  +\S", head, re.MULTILINE), word


def test_params_yaml_is_the_default_preset() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "presets" / f"{presets.DEFAULT}.yaml").read_bytes()


# Package -> packages it may import, from the lowest floor to the highest; errors.py is open to all.
MAY_IMPORT = {
    "errors": "",
    "deployable": "",
    "project": "",
    "networks/runtime": "deployable",
    "networks/architectures": "project",
    "evaluation/metrics": "",
    "explanation": "deployable",
    "files": "project",
    "compute": "deployable project",
    "tracking": "deployable project",
    "networks": "deployable networks/runtime networks/architectures",
    "figures": "project files",
    "data/fetching": "project files",
    "data/raw": "project files",
    "data/arrays": "files",
    "registry": "deployable project files tracking",
    "data/download": "project files data/fetching data/raw",
    "data/preparation": "deployable project files compute data/raw data/arrays",
    "data/augmentation": "project files compute data/arrays",
    "inspection": "deployable project networks/architectures files figures data/raw data/arrays data/preparation",
    "networks/backbones": "project networks/runtime files compute data/fetching",
    "evaluation": "deployable project evaluation/metrics explanation files figures data/arrays",
    "monitoring": "deployable evaluation/metrics files figures data/arrays",
    "training": (
        "deployable project networks/runtime networks/architectures evaluation/metrics files tracking networks "
        "data/arrays networks/backbones"
    ),
    "audit": "project files data/raw data/arrays data/preparation evaluation training",
    "promotion": "project evaluation/metrics files tracking data/raw data/arrays registry evaluation",
    "batch": "deployable project files compute registry monitoring",
    "serving": "deployable project explanation compute registry monitoring",
    "operations": "deployable project files tracking data/raw registry monitoring",
    "lr_find": "project networks/runtime networks figures data/arrays training",
    "tuning": "deployable project networks/runtime files compute tracking networks figures data/arrays training",
    "cli": (
        "deployable project files tracking registry data/download data/preparation inspection explanation monitoring "
        "audit promotion batch serving operations lr_find tuning"
    ),
}
OWNERS = {
    "keras": {
        "networks",
        "networks/runtime",
        "networks/architectures",
        "networks/backbones",
        "training",
        "lr_find",
        "tuning",
    },
    "tensorflow": {"networks", "networks/runtime", "networks/architectures", "networks/backbones", "training"},
    "mlflow": {"tracking", "registry", "deployable"},
    "optuna": {"tuning"},
    "ray": {"compute"},
    "albumentations": {"data/augmentation"},
}


def package_of(file: Path) -> str:
    """The name in MAY_IMPORT under which a file of src/darkroom stands."""
    path = str(file.relative_to(PACKAGE).with_suffix(""))
    return max((name for name in MAY_IMPORT if f"{path}/".startswith(f"{name}/")), key=len, default="")


def test_a_package_imports_only_what_the_table_allows() -> None:
    names = list(MAY_IMPORT)
    for name, allowed in MAY_IMPORT.items():
        assert all(names.index(other) < names.index(name) for other in allowed.split()), f"{name} looks up"
    for file in PACKAGE.rglob("*.py"):
        if not is_empty(file) and file != PACKAGE / "__init__.py":
            own = package_of(file)
            for module in modules_of(file):
                if not is_empty(module):
                    assert package_of(module) in {own, "errors", *MAY_IMPORT[own].split()}, f"{file} imports {module}"


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_is_imported_by_its_owners_alone(library: str) -> None:
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "pipelines").glob("*.py")]
    importing = {file for file in files if any(name.split(".")[0] == library for name in imports(file))}
    assert {package_of(file) if PACKAGE in file.parents else str(file) for file in importing} <= OWNERS[library]


def test_every_package_says_what_it_is_and_which_module_to_open() -> None:
    for folder in {file.parent for file in PACKAGE.rglob("*.py")} - {PACKAGE}:
        init = folder / "__init__.py"
        docstring = ast.get_docstring(ast.parse(init.read_text())) or ""
        opened = re.search(r"[Oo]pen (\w+\.py) first", docstring)
        assert folder.name == "data" or (opened and (folder / opened[1]).is_file()) or not is_empty(init), folder


def test_imports_have_no_circle_and_nothing_imports_a_stage() -> None:
    graph = {file: set(modules_of(file)) for file in PACKAGE.rglob("*.py")}
    importing = {
        file.name
        for file in [*graph, *(ROOT / "pipelines").glob("*.py")]
        if any(name.split(".")[0] == "pipelines" for name in imports(file))
    }
    assert importing == set()
    done: set[Path] = set()
    while ready := {file for file, needs in graph.items() if file not in done and needs - {file} <= done}:
        done |= ready
    assert sorted(file.name for file in set(graph) - done) == []


Function = ast.FunctionDef | ast.AsyncFunctionDef
MOST_LINES, DEEPEST, MOST_PARAMETERS = 60, 4, 10


def functions(file: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, Function))


def n_lines(function: Function) -> int:
    """The lines of a function without its docstring."""
    last = function.end_lineno or 0
    documented = ast.get_docstring(function) is not None
    text = function.body[0]
    return last - function.lineno + 1 - ((text.end_lineno or 0) - text.lineno + 1 if documented else 0)


def depth(node: ast.AST) -> int:
    """How many blocks are nested in a node; an elif is as deep as its if, and a function inside counts for itself."""
    blocks = ast.If | ast.For | ast.While | ast.With | ast.Try | ast.AsyncFor | ast.AsyncWith | ast.Match
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.ClassDef):
            is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
            deepest = max(deepest, depth(child) + (isinstance(child, blocks) and not is_elif))
    return deepest


def n_parameters(function: Function) -> int:
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if one]
    return len([name for name in names if name not in ("self", "cls")])


def test_a_function_fits_on_a_screen_and_takes_few_parameters() -> None:
    sizes = {
        f"{file.relative_to(ROOT)} {function.name}": (n_lines(function), depth(function), n_parameters(function))
        for file in [*PACKAGE.rglob("*.py"), *(ROOT / "pipelines").glob("*.py")]
        for function in functions(file)
    }
    limits = (MOST_LINES, DEEPEST, MOST_PARAMETERS)
    beyond = {
        name: size
        for name, size in sizes.items()
        if any(value > limit for value, limit in zip(size, limits, strict=True))
    }
    assert beyond == {}


@pytest.mark.parametrize("name", STAGES)
def test_wrong_params_are_refused_before_anything_heavy_loads(name: str, tmp_path: Path) -> None:
    stage = expanded(STAGES[name])
    (tmp_path / "params.yaml").write_text("{}\n")
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = {stage['cmd'].split()[2:]!r}\n"
        "try:\n"
        f"    runpy.run_module('pipelines.{name}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    heavy = {'keras', 'tensorflow', 'mlflow', 'albumentations', 'optuna', 'sklearn', 'matplotlib'}\n"
        "    print(end.code, sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "2 []", done.stderr
    section = "download" if name == "check" else name  # check reads all, that one first
    expected = rf"error: params.yaml: section '{section}[.\w]*' is missing; sections found: none\n"
    assert re.fullmatch(expected, done.stderr)


@pytest.mark.heavy
def test_params_know_the_architectures_and_their_arguments() -> None:
    import inspect

    from darkroom.networks.architectures.table import ARCHITECTURES
    from darkroom.training.params import TrainParams

    schema = TypeAdapter(TrainParams).json_schema()
    described = {
        model["properties"]["name"]["const"]: set(model["properties"]) - {"name"}
        for model in schema["$defs"].values()
        if "name" in model["properties"] and model["description"].startswith("architectures.")
    }
    assert described == {
        name: set(list(inspect.signature(function).parameters)[1:]) for name, function in ARCHITECTURES.items()
    }


def test_the_name_of_a_test_has_sixty_characters_at_most() -> None:
    files = (ROOT / "tests").rglob("test_*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [name for name in names if name.startswith("test_") and len(name) > 60] == []
