"""The files of deploy/ and the workflows, each validated by a checker of its format, without a network."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from darkroom.errors import LockedError
from tests.support.project import ROOT

DEPLOY = ROOT / "deploy"
WORKFLOWS = [ROOT / ".github" / "workflows" / "test.yaml", DEPLOY / "github" / "retrain.yaml"]
SERVE = ["darkroom", "serve", "--host", "0.0.0.0", "--port", "8000"]  # noqa: S104 - in a container


def checked(*command: str) -> str:
    """Run a checker from this environment; return what it said."""
    program = Path(sys.executable).with_name(command[0])
    if not program.exists():
        pytest.skip(f"{command[0]} is not installed")
    ended = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def documents(path: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(path))


def manifests(kind: str) -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [document for file in files for document in documents(file) if document["kind"] == kind]


def kubernetes(kind: str) -> dict[str, Any]:
    (found,) = manifests(kind)
    return found


def pods() -> dict[str, dict[str, Any]]:
    return {
        "serve": kubernetes("Deployment")["spec"]["template"]["spec"],
        "retrain": kubernetes("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        "clone": kubernetes("Job")["spec"]["template"]["spec"],
    }


def test_the_compose_file_is_valid() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))


def test_the_workflows_are_valid_and_pin_the_same_actions() -> None:
    checked("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))
    used = {use for path in WORKFLOWS for use in re.findall(r"uses: (\S+)", path.read_text())}
    assert all(re.fullmatch(r"actions/[\w/-]+@v\d+", use) for use in used)
    versions = {(name.split("/")[1], version) for name, version in (use.split("@") for use in used)}
    assert len(versions) == len({name for name, _ in versions})


def test_the_workflow_installs_what_s3_needs_beyond_the_lock() -> None:
    steps = documents(DEPLOY / "github" / "retrain.yaml")[0]["jobs"]["retrain"]["steps"]
    runs = [step["run"] for step in steps if "run" in step]
    assert runs[0] == "make setup"
    assert re.search(r"uv pip install .* --require-hashes --no-deps -r requirements-s3.lock$", runs[1])
    locked, beyond = (
        set(re.findall(r"^([a-z0-9-]+)[=\[]", (ROOT / name).read_text(), re.M))
        for name in ("requirements.lock", "requirements-s3.lock")
    )
    assert {"dvc-s3", "boto3"} <= beyond
    assert not beyond & locked


def test_ci_checks_every_change_and_runs_slow_tests_at_night() -> None:
    workflow = documents(WORKFLOWS[0])[0]
    assert {"push", "pull_request", "schedule"} <= set(workflow["on"])
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in workflow["jobs"].items()}
    assert runs == {name: [f"make {name}"] for name in ("lint", "test", "test-slow")}
    assert [name for name, job in workflow["jobs"].items() if "if" in job] == ["test-slow"]


def test_the_script_without_docker_gives_the_dockerfiles_base() -> None:
    script = DEPLOY / "build_image.sh"
    subprocess.run(["sh", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    assert '--build-arg "BASE=$base"' in script.read_text()
    assert "ARG BASE=" in (ROOT / "Dockerfile").read_text()


def test_the_manifests_are_valid() -> None:
    files = sorted(map(str, (DEPLOY / "kubernetes").glob("*.yaml")))
    said = checked("kubernetes-validate", "--strict", *files)
    kinds = ("cronjob", "job", "deployment", "service", "persistentvolumeclaim")
    for kind in (*kinds, "horizontalpodautoscaler", "networkpolicy"):
        assert re.search(rf"passed for resource {kind}/darkroom", said)


@pytest.mark.parametrize("path", ["Dockerfile", "deploy/mlflow.Dockerfile"])
def test_a_dockerfile_has_no_warning(path: str) -> None:
    # DL3008: git and npm are taken as Debian has them, the base image pins the release of Debian.
    # DL3066: the user's number is a build argument.
    checked("hadolint", "--ignore", "DL3008", "--ignore", "DL3066", str(ROOT / path))


@pytest.mark.parametrize("path", sorted((DEPLOY / "systemd").iterdir()), ids=lambda path: path.name)
def test_a_unit_is_valid(path: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in (DEPLOY / "systemd").iterdir():  # a timer is looked at with its service
        text = unit.read_text().replace("/srv/darkroom/.venv/bin/darkroom", str(shutil.which("true")))
        (tmp_path / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / path.name)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, [line for line in ended.stderr.splitlines() if "darkroom" in line]) == (0, [])


def test_the_line_of_cron_has_a_time_a_user_and_a_command() -> None:
    text = (DEPLOY / "cron" / "darkroom").read_text()
    (line,) = [line for line in text.splitlines() if not re.match(r"#|\w+=", line)]
    assert re.fullmatch(r"(\d+|\*) (\d+|\*) \* \* \* darkroom cd /srv/darkroom && \S+/darkroom retrain .+", line)
    assert "%" not in line, "cron takes it for the end of the line"


def test_git_has_a_name_wherever_a_retraining_commits() -> None:
    (pod,) = pods()["retrain"]["containers"]
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["retrain"]
    said = {
        "cron": re.findall(r"^(GIT_\w+)=", (DEPLOY / "cron" / "darkroom").read_text(), re.M),
        "systemd": re.findall(r"(GIT_\w+)=", (DEPLOY / "systemd" / "darkroom-retrain.service").read_text()),
        "kubernetes": [variable["name"] for variable in pod["env"] if variable["name"].startswith("GIT_")],
        "compose": [name for name in compose["environment"] if name.startswith("GIT_")],
    }
    wanted = [f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("EMAIL", "NAME")]
    assert {name: sorted(names) for name, names in said.items()} == dict.fromkeys(said, wanted)


def test_the_clone_lies_where_the_retraining_looks_for_it() -> None:
    clone, retrain = pods()["clone"], pods()["retrain"]
    (made,), (used,) = clone["containers"], retrain["containers"]
    assert made["image"] == used["image"]
    assert made["command"][-1].endswith(" repo")
    mounts = {mount["mountPath"]: mount for mount in [*made["volumeMounts"], *used["volumeMounts"]]}
    assert made["workingDir"] == "/volume"
    assert mounts["/repo"]["subPath"] == "repo"
    claims = [pod["volumes"][0]["persistentVolumeClaim"]["claimName"] for pod in (clone, retrain)]
    assert claims == [kubernetes("PersistentVolumeClaim")["metadata"]["name"]] * 2
    variable = made["env"][0]
    example = (DEPLOY / "kubernetes" / "secret.env.example").read_text()
    assert f"{variable['valueFrom']['secretKeyRef']['key']}=" in example


def test_the_service_has_more_time_to_end_than_it_takes() -> None:
    from darkroom.serving.server import GRACE_SECONDS

    serve = documents(DEPLOY / "compose.yaml")[0]["services"]["serve"]
    unit = (DEPLOY / "systemd" / "darkroom-serve.service").read_text()
    pod = pods()["serve"]
    stop = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert int(serve["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.M)[0]) > GRACE_SECONDS
    assert pod["terminationGracePeriodSeconds"] > GRACE_SECONDS + int(stop[-1])


def test_no_password_stands_in_a_command_line() -> None:
    for service in documents(DEPLOY / "compose.yaml")[0]["services"].values():
        assert "${" not in str(service.get("command"))


def test_checkpoints_of_a_run_that_failed_are_saved() -> None:
    steps = documents(DEPLOY / "github" / "retrain.yaml")[0]["jobs"]["retrain"]["steps"]
    cache = {step["uses"]: step for step in steps if "actions/cache" in step.get("uses", "")}
    assert set(cache) == {"actions/cache/restore@v4", "actions/cache/save@v4"}
    save = cache["actions/cache/save@v4"]
    assert save["if"] == "always()"
    assert save["with"]["key"] == cache["actions/cache/restore@v4"]["with"]["key"]


@pytest.mark.parametrize("name", ["serve", "retrain", "clone"])
def test_a_pod_is_nobody_of_importance_and_has_bounds(name: str) -> None:
    pod = pods()[name]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 1000, "a number: Kubernetes cannot tell whether a name is root"
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    for bound in ("requests", "limits"):
        assert set(container["resources"][bound]) == {"cpu", "memory"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert not container["image"].endswith(":latest")


def test_the_service_is_asked_whether_it_lives_and_is_ready() -> None:
    (container,) = pods()["serve"]["containers"]
    assert container["command"] == SERVE
    probes = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert probes == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    service, deployment = kubernetes("Service"), kubernetes("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]
    assert compose["serve"]["entrypoint"] == SERVE
    assert "/readyz" in compose["serve"]["healthcheck"]["test"][-1]
    unit = (DEPLOY / "systemd" / "darkroom-serve.service").read_text()
    assert f"ExecStart=/srv/darkroom/.venv/bin/{' '.join(SERVE)}\n" in unit


def test_the_service_scales_and_one_apply_does_not_undo_it() -> None:
    scaler, deployment = kubernetes("HorizontalPodAutoscaler")["spec"], kubernetes("Deployment")
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    assert scaler["minReplicas"] > kubernetes("PodDisruptionBudget")["spec"]["minAvailable"]
    (container,) = pods()["serve"]["containers"]
    millicores = int(scaler["metrics"][0]["resource"]["target"]["averageValue"].removesuffix("m"))
    assert millicores < 1000 * int(container["resources"]["limits"]["cpu"])


def test_pods_are_reached_where_they_serve_and_nowhere_else() -> None:
    serve, jobs = (one["spec"] for one in manifests("NetworkPolicy"))
    labels = kubernetes("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert serve["podSelector"]["matchLabels"].items() <= labels.items()
    (container,) = pods()["serve"]["containers"]
    (ingress,) = serve["ingress"]
    assert [one["port"] for one in ingress["ports"]] == [port["name"] for port in container["ports"]]
    assert (jobs["policyTypes"], "ingress" in jobs) == (["Ingress"], False)
    named = {one["key"].rpartition("/")[2]: one["values"] for one in jobs["podSelector"]["matchExpressions"]}
    assert named == {"name": ["darkroom"], "component": ["clone", "retrain"]}


def test_no_name_of_a_kubernetes_service_becomes_an_option() -> None:
    assert pods()["serve"]["enableServiceLinks"] is False


def test_no_two_retrainings_are_started_at_once() -> None:
    assert kubernetes("CronJob")["spec"]["concurrencyPolicy"] == "Forbid"
    workflow = documents(DEPLOY / "github" / "retrain.yaml")[0]
    assert workflow["concurrency"] == {"group": "retrain", "cancel-in-progress": False}


def test_a_held_lock_is_no_failure_of_a_retraining() -> None:
    code = LockedError.exit_code
    assert f"SuccessExitStatus={code}" in (DEPLOY / "systemd" / "darkroom-retrain.service").read_text()
    job = kubernetes("CronJob")["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    ignored = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
    codes = {"containerName": container["name"], "operator": "In", "values": [code]}
    assert codes in [rule.get("onExitCodes") for rule in ignored]
    assert "DisruptionTarget" in [said["type"] for rule in ignored for said in rule.get("onPodConditions", [])]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "Kubernetes asks it of a policy for failures"


def test_commands_and_options_exist() -> None:
    from typer.main import get_command

    from darkroom.cli.main import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    said = "\n".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    used = set(re.findall(r"(?:bin/| |`)darkroom (retrain|serve)((?: --[a-z]+(?: [\w.]+)?)*)", said))
    assert {name for name, _ in used} == {"retrain", "serve"}
    for name, options in used:
        taken = {option for parameter in known[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", options)) <= taken


def test_no_file_holds_a_secret() -> None:
    for path in (path for path in DEPLOY.rglob("*") if path.is_file()):
        for name, value in re.findall(
            r"^\s*(\w*(?:PASSWORD|TOKEN|SECRET|KEY)\w*)\s*[:=]\s*(\S.*)$", path.read_text(), re.M
        ):
            assert re.match(r"change-me$|\$\{", value), f"{path.name}: {name}"
    ignored = (DEPLOY / ".gitignore").read_text().split()
    examples = [path.relative_to(DEPLOY) for path in DEPLOY.rglob("*.example")]
    assert sorted(str(path.with_suffix("")) for path in examples) == sorted(ignored)


def test_every_variable_of_the_compose_file_is_in_its_example() -> None:
    named = set(re.findall(r"(?<!\$)\$\{(\w+)", (DEPLOY / "compose.yaml").read_text())) - {"DARKROOM_TAG"}
    given = set(re.findall(r"^(\w+)=", (DEPLOY / "compose.env.example").read_text(), re.M))
    assert named == given


def test_every_way_has_three_steps_and_names_existing_files() -> None:
    head, *ways = re.split(r"^## ", (DEPLOY / "README.md").read_text(), flags=re.M)
    assert len(ways) == 5
    for way in ways:
        assert re.findall(r"^(\d)\. ", way, re.M) == ["1", "2", "3"], way.splitlines()[0]
    for target in re.findall(r"\]\(([^)]+)\)", head + "".join(ways)):
        assert (DEPLOY / target).exists(), target
