import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from darkroom.deployable.package import Package
from darkroom.errors import DataError, ParamsError, RegistryError
from darkroom.files.writing import sha256_of, write_text
from darkroom.promotion import scored
from darkroom.registry import aliases, check, ledger, register, versions
from darkroom.registry.versions import local_folder
from darkroom.tracking.store import client, download
from pipelines import promote
from tests.support.trained_repository import (
    CLASSES,
    answers_here,
    clean_environment,
    evaluate,
    forget_store,
    fresh_store,
    model_reading,
    prepare,
    train,
)

pytestmark = pytest.mark.heavy
ARGUMENTS = ["--evaluation", "reports/evaluation.json", "--predictions", "reports/predictions.parquet"]
ARGUMENTS += [
    "--raw",
    "data/raw",
    "--incoming",
    "data/incoming",
    "--prepared",
    "data/prepared",
    "--models",
    "models",
    "--page",
    "reports/evaluation.html",
    "--out",
    "reports/promotion.json",
    "--report",
    "reports/report.html",
]


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    fresh_store(tmp_path, monkeypatch)
    prepare(tmp_path)
    monkeypatch.setattr(sys, "argv", ["promote", *ARGUMENTS])
    return tmp_path


@pytest.fixture
def root(fresh, monkeypatch):
    monkeypatch.setattr(register, "verify", answers_here)
    return fresh


def promoted():
    promote.main()
    return json.loads(Path("reports/promotion.json").read_text())


def change(root, before, after):
    params = (root / "params.yaml").read_text()
    assert before in params
    (root / "params.yaml").write_text(params.replace(before, after))


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_candidate_becomes_champion_with_its_lineage(fresh):
    train(fresh, reads=1)
    write_text(fresh / "data/raw/manifest.json", json.dumps({"licence": "CC0", "homepage": None}))
    report = promoted()
    assert report["decision"] == "promoted"
    assert (report["champion_before"], report["version"], report["champion_after"]) == (None, "1", "1")
    assert report["tests"]["max_parity_difference"]["status"] == "passed"
    page = Path("reports/report.html").read_text()
    assert "Promoted, version 1 is champion" in page
    assert all(reason in html.unescape(page) for reason in report["reasons"])
    assert page.count("✓ passed") == sum(test["status"] == "passed" for test in report["tests"].values())
    assert report["tests"]["max_parity_difference"]["n_images"] == 64
    assert report["tests"]["max_parity_difference"]["max_abs_difference"] < 1e-6
    champion = versions.find("pets", alias="champion")
    assert champion.tags["git.commit"] == "c" * 40
    assert champion.tags["data.digest"] == "d" * 64
    assert champion.tags["dvc.stage"] == "train@cnn"
    assert champion.tags["sha256/artifacts/model.onnx"] == sha256_of(fresh / "models/cnn/model.onnx")
    assert {"sha256/MLmodel", "sha256/code/package.py"} <= set(champion.tags)
    card = Path(download(f"runs:/{champion.run_id}/model_card/pets-1/model_card.md", fresh / "card")).read_text()
    assert "CC0" in card, "the licence of the data as downloaded"
    assert report["tests"]["min_test_accuracy"]["sentence"] in card.replace("\\", "")
    assert "cat" in client().get_model_version("pets", "1").description


def test_a_second_look_changes_nothing_and_loads_no_model(root):
    train(root, reads=1)
    promoted()
    before = versions.read("pets")
    code = (
        "import sys; from pipelines import promote; promote.main(); "
        "print(sorted({'mlflow', 'onnxruntime', 'cv2', 'pandas', 'scipy', 'tensorflow', 'keras'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *ARGUMENTS]
    environment = {**clean_environment(), "PYTHONPATH": str(Path(promote.__file__).parents[1])}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert ended.stdout.strip() == "[]"
    assert json.loads(Path("reports/promotion.json").read_text())["decision"] == "unchanged"
    assert versions.read("pets") == before


def test_a_better_candidate_replaces_the_champion(root):
    train(root, reads=2)
    promoted()
    train(root, reads=0)
    report = promoted()
    assert report["decision"] == "promoted"
    assert (report["champion_before"], report["champion_after"]) == ("1", "2")
    assert report["tests"]["champion"]["n_only_candidate_correct"] == 6
    assert versions.read("pets").aliases == {"challenger": "2", "champion": "2", "previous": "1"}


def test_a_worse_candidate_is_kept_out_of_the_registry(root):
    train(root, reads=0)
    promoted()
    train(root, reads=1)
    report = promoted()
    assert report["decision"] == "kept"
    assert report["version"] is None
    assert list(versions.read("pets").versions) == ["1"]


def test_a_kept_candidate_is_not_scored_again(root, monkeypatch):
    train(root, reads=0)
    promoted()
    train(root, reads=1)
    first = promoted()
    monkeypatch.setattr(scored, "loaded", None)
    assert promoted() == first


def test_below_the_floor_a_first_candidate_is_kept(root):
    train(root, reads=3)
    report = promoted()
    assert report["decision"] == "kept"
    assert "50.00 % on 200 images is below the minimum 90.00 %" in report["reasons"][0]
    assert report["tests"]["max_parity_difference"]["status"] == "not_applicable"
    assert versions.read("pets").versions == {}


def test_an_experiment_only_says_what_it_would_do(root, monkeypatch, capsys):
    train(root, reads=0)
    monkeypatch.setenv("DVC_EXP_NAME", "husky-gown")
    report = promoted()
    assert report["decision"] == "would_promote"
    assert "promote.from_experiments is false" in report["reasons"][-1]
    assert (
        "the next `dvc repro` would promote its params; `git checkout params.yaml dvc.lock`" in capsys.readouterr().err
    )
    assert versions.read("pets").versions == {}


def test_an_experiment_promotes_where_that_is_allowed(root, monkeypatch):
    change(root, "from_experiments: false", "from_experiments: true")
    train(root, reads=0)
    monkeypatch.setenv("DVC_EXP_NAME", "husky-gown")
    assert promoted()["decision"] == "promoted"


def test_a_version_that_was_rolled_back_is_not_promoted_again(root):
    train(root, reads=2)
    promoted()
    train(root, reads=0)
    promoted()
    aliases.rollback("pets", reason="dogs are called cats in the shop")
    report = promoted()
    assert report["decision"] == "kept"
    assert "version 2 is the same model and was rolled back: dogs are called cats" in report["reasons"][-1]
    assert versions.read("pets").aliases["champion"] == "1"


def rolled_back(root):
    """A champion that reads pixel 4 was replaced and restored."""
    train(root, reads=4)
    change(root, "min_test_accuracy: 0.9", "min_test_accuracy: 0.5")
    promoted()
    train(root, reads=2)
    promoted()
    aliases.rollback("pets", reason="dogs are called cats in the shop")


def test_after_a_rollback_a_better_model_waits_for_approval(root):
    rolled_back(root)
    train(root, reads=1)  # not the model that was rolled back, and little better
    report = promoted()
    assert (report["decision"], report["version"], report["champion_after"]) == ("awaiting_approval", "3", "1")
    assert re.fullmatch(
        r"Waiting for `darkroom approve 3`: promotions are on hold since 20\S+ \(rollback: dogs are called cats in the "
        r"shop\); `darkroom lift-hold` ends that\.",
        report["reasons"][-1],
    )
    assert promoted() == report
    aliases.lift_hold("pets")
    report = promoted()
    assert (report["decision"], report["champion_after"]) == ("promoted", "3")


@pytest.mark.parametrize(("days", "decision"), [("0", "promoted"), ("0.5", "awaiting_approval")])
def test_a_hold_ends_after_the_days_of_the_setting(root, days, decision):
    change(root, "hold_days: null", f"hold_days: {days}")
    rolled_back(root)
    train(root, reads=1)
    assert promoted()["decision"] == decision


def test_an_interrupted_promotion_is_finished_by_the_next_run(root, monkeypatch):
    train(root, reads=0)
    with monkeypatch.context() as patch:
        patch.setattr(register, "verify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            promote.main()
    assert versions.read("pets").aliases == {}, "only a version that was verified is a challenger"
    assert list(versions.read("pets").versions) == ["1"]
    assert promoted()["decision"] == "promoted"
    assert versions.read("pets").aliases == {"challenger": "1", "champion": "1"}


def test_a_version_whose_files_are_missing_is_registered_again(root, monkeypatch):
    train(root, reads=0)
    with monkeypatch.context() as patch:
        patch.setattr(aliases, "promote", interrupted)
        with pytest.raises(KeyboardInterrupt):
            promote.main()
    folder = local_folder(versions.find("pets", version="1").location)
    assert folder is not None
    shutil.rmtree(folder)
    report = promoted()
    assert (report["decision"], report["champion_after"]) == ("promoted", "2")


def test_a_champion_without_sums_is_not_loaded(root):
    train(root, reads=2)
    promoted()
    client().delete_model_version_tag("pets", "1", "sha256/code/package.py")
    train(root, reads=0)
    with pytest.raises(RegistryError, match="version 1 has no tag sha256/code/package.py: .* it is not loaded"):
        promote.main()


def test_a_champion_that_cannot_answer_is_named(root, monkeypatch):
    train(root, reads=2)
    promoted()
    train(root, reads=0)
    monkeypatch.setattr(Package, "probabilities", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(versions, "load", lambda _: Package.load(root / "models/cnn/model.onnx"))
    monkeypatch.setattr(scored, "loaded", versions.load)
    with pytest.raises(RegistryError, match=r"pets version 1 cannot be scored: ZeroDivisionError"):
        promote.main()


def test_a_promotion_without_its_record_is_finished_next_time(root, monkeypatch):
    train(root, reads=0)
    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, "_record", interrupted)
        patch.setattr(aliases, "challenge", lambda *_, **__: None)  # whose record would be the first
        with pytest.raises(KeyboardInterrupt):
            promote.main()
    assert versions.read("pets").aliases == {"champion": "1"}
    assert versions.read("pets").history() == []
    assert promoted()["decision"] == "unchanged"
    assert [(move["alias"], move["to"]) for move in versions.read("pets").history()] == [("champion", "1")]
    assert versions.read("pets").unfinished is None


def test_a_champion_that_cannot_be_loaded_is_an_error(root):
    train(root, reads=1)
    promoted()
    (versions.fetch(versions.find("pets", alias="champion"))).write_bytes(b"not onnx")
    train(root, reads=0)
    expected = (
        r"files of the champion, version 1, are missing or changed \(/.*/artifacts/model.onnx\), and no model.onn"
    )
    with pytest.raises(RegistryError, match=expected):
        promote.main()
    assert versions.read("pets").aliases["champion"] == "1"


def test_a_lost_champion_file_is_put_back_from_the_same_model(root):
    train(root, reads=1)
    promoted()
    file = versions.fetch(versions.find("pets", alias="champion"))
    file.unlink()
    report = promoted()
    assert (report["decision"], report["champion_after"]) == ("unchanged", "1")
    assert report["reasons"][0] == (
        "Lost files of the champion, version 1, were put back from models/cnn: artifacts/model.onnx."
    )
    assert versions.damage(versions.find("pets", alias="champion")) == []


def test_an_experiment_leaves_a_lost_champion_file_as_it_is(root, monkeypatch):
    train(root, reads=1)
    promoted()
    before, file = versions.read("pets"), versions.fetch(versions.find("pets", alias="champion"))
    with monkeypatch.context() as experiment:
        experiment.setenv("DVC_EXP_NAME", "husky-gown")
        for lost in (file, file.parents[1] / "code" / "package.py"):  # the second takes a new version
            lost.unlink()
            report = promoted()
            assert (report["decision"], versions.read("pets")) == ("unchanged", before)
            assert not lost.exists()
    assert "is registered again as version 2" in promoted()["reasons"][0]


def test_a_champion_whose_place_is_not_mounted_here_is_named(root):
    train(root, reads=1)
    promoted()
    train(root, reads=0)
    (root / "mlartifacts" / "pets").rename(root / "elsewhere")
    expected = r"no model.onnx in models is the same; mount it on this machine at the same path, or restore it from a"
    with pytest.raises(RegistryError, match=expected):
        promote.main()


def test_a_lost_champion_is_registered_again_from_the_same_model(root):
    change(root, "min_test_accuracy: 0.9", "min_test_accuracy: 0.5")
    for pixel in (4, 2):
        train(root, reads=pixel)
        promoted()
    aliases.rollback("pets", reason="dogs are cats")
    train(root, reads=1)
    assert promoted()["decision"] == "awaiting_approval"
    shutil.copytree(root / "models" / "cnn", root / "models" / "other")
    model_reading(4, root / "models" / "other" / "model.onnx")  # another candidate is the champion's model
    before, lost = versions.read("pets"), versions.find("pets", version="1")
    shutil.rmtree(versions.fetch(lost).parents[1])
    report = promoted()
    assert report["reasons"][0] == (
        "Files of the champion, version 1, were lost; the same model (models/other/model.onnx) is registered again as "
        "version 4 and is champion in its place."
    )
    after = versions.read("pets")
    assert after.aliases == {**before.aliases, "champion": "4", "hold": "4"}
    assert after.versions["4"].model_sha256 == lost.model_sha256
    assert after.versions["4"].tags["git.commit"] == lost.tags["git.commit"]
    assert (report["decision"], report["version"]) == ("awaiting_approval", "3")
    assert aliases.approve("pets").version == "3"


def test_a_version_that_answers_otherwise_is_not_promoted(fresh):
    train(fresh, reads=0)
    predictions = pd.read_parquet("reports/predictions.parquet")
    predictions["probabilities"] = [0.9 * row + 0.05 for row in predictions["probabilities"]]
    predictions.to_parquet("reports/predictions.parquet")
    with pytest.raises(
        RegistryError, match=r"probabilities of models:/pets/1 differ from the evaluated model by up to 0\.\d+"
    ):
        promote.main()
    assert versions.read("pets").under("champion") is None


def test_a_model_from_the_cache_is_logged_again_in_a_new_store(root):
    train(root, reads=0)
    forget_store(root)
    report = promoted()
    assert report["decision"] == "promoted"
    champion = versions.find("pets", alias="champion")
    assert champion.tags["git.commit"] == "c" * 40
    assert champion.tags["candidate"] == "cnn"
    assert champion.tags["sha256/artifacts/seen_ids.npy"] == sha256_of(root / "models/cnn/seen_ids.npy")


def test_a_champion_with_other_classes_is_compared_by_class_name(root):
    train(root, reads=0)
    promoted()
    model_reading(0, root / "models/cnn/model.onnx", classes=CLASSES[::-1])
    evaluate(root)
    report = promoted()
    assert report["decision"] == "kept"
    assert report["tests"]["champion"]["candidate_accuracy"] == 0.0
    assert report["tests"]["champion"]["champion_accuracy"] == 1.0


def test_on_other_test_images_both_models_are_scored_now(root):
    train(root, reads=2)
    evaluation = Path("reports/evaluation.json")
    ids = json.loads(evaluation.read_text())["test_ids_sha256"]
    evaluation.write_text(evaluation.read_text().replace(ids, "0" * 64))
    promoted()
    train(root, reads=0)
    report = promoted()
    assert report["decision"] == "promoted"
    assert (
        "The test set has changed since the champion's promotion; both models were scored again." in report["reasons"]
    )
    assert report["tests"]["champion"]["n_images"] == 200


def test_on_corrected_labels_both_models_are_scored_now(root):
    train(root, reads=2)
    first = promoted()["version"]
    assert "test_labels_sha256" in versions.read("pets").versions[first].tags
    index = pd.read_parquet("data/prepared/index.parquet")
    index.loc[150, "label"] = CLASSES[1 - CLASSES.index(index["label"][150])]
    index.to_parquet("data/prepared/index.parquet")
    train(root, reads=0)
    report = promoted()
    assert any(reason.startswith("Labels of test images were corrected since") for reason in report["reasons"])
    champion = report["tests"]["champion"]
    assert (champion["candidate_accuracy"], champion["champion_accuracy"]) == (199 / 200, 193 / 200)


def test_predictions_of_other_images_are_refused(root):
    train(root, reads=1)
    promoted()
    train(root, reads=0)
    predictions = pd.read_parquet("reports/predictions.parquet")
    predictions.loc[0, "id"] = "f" * 64
    predictions.to_parquet("reports/predictions.parquet")
    with pytest.raises(DataError, match="1 of 200 evaluated images are not in the split test of"):
        promote.main()


def test_the_winner_among_other_candidates_is_not_promoted(root):
    train(root, reads=0)
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("[cnn]", "[transfer]").replace("  cnn: {}", "  transfer: {}"))
    with pytest.raises(DataError, match=r"the winner is 'cnn', which is not among the candidates \(transfer\); run"):
        promote.main()


def test_a_winner_without_a_model_names_the_next_step(root):
    train(root, reads=0)
    (root / "models" / "cnn" / "model.onnx").unlink()
    with pytest.raises(DataError, match="models/cnn: model.onnx is missing; run `dvc repro train@cnn` first"):
        promote.main()


def test_a_class_that_the_champion_knows_better_is_not_given_up(root):
    train(root, reads=2)  # errs on three cats and three dogs
    promoted()
    change(root, "champion: {margin: 0.0", "champion: {margin: 0.9")
    change(root, "class_recall: {max_drop: 0.02", "class_recall: {max_drop: 0.05")
    train(root, reads=4)  # errs on twenty cats
    report = promoted()
    assert report["decision"] == "kept"
    assert report["tests"]["champion"]["status"] == "passed"
    assert "The recall of 1 of 2 classes dropped by more than 5 points" in report["reasons"][2]
    assert "cat (97.00 % to 80.00 %, 100 images" in report["reasons"][2]


def test_the_test_images_are_sliced_by_what_is_known_of_them(root):
    train(root, reads=0)
    promoted()
    change(root, "min_test_accuracy: 0.9", "min_test_accuracy: 0.5")
    train(root, reads=3)  # errs on the first hundred images
    answer = promoted()["tests"]["slice_accuracy"]
    assert answer["status"] == "failed"
    found = {line["name"]: line for line in answer["slices"]}
    assert found["incoming"]["n_images"] == 20
    assert found["incoming"]["candidate"] == 0.0
    assert found["original"]["n_images"] == 180
    assert found["size up to 4,240"]["failed"]
    assert not found["size above 6,920"]["failed"]
    assert sum(name.startswith("brightness") for name in found) == 3


def test_a_slice_without_its_column_names_the_next_step(root):
    train(root, reads=1)
    promoted()
    index = pd.read_parquet("data/prepared/index.parquet").drop(columns="height")
    index.to_parquet("data/prepared/index.parquet")
    train(root, reads=0)
    with pytest.raises(DataError, match=r"no column 'height', so the test set cannot be sliced by size; run `dvc"):
        promote.main()


def test_a_kept_decision_is_asked_again_under_another_rule(root):
    train(root, reads=0)
    promoted()
    train(root, reads=1)
    promoted()
    decisions = root / ".darkroom" / "decisions"
    assert len(list(decisions.iterdir())) == 2
    change(root, "min_images: 20", "min_images: 30")
    promoted()
    assert len(list(decisions.iterdir())) == 3
    index = pd.read_parquet("data/prepared/index.parquet")
    index["incoming"] = ~index["incoming"]
    index.to_parquet("data/prepared/index.parquet")
    promoted()
    assert len(list(decisions.iterdir())) == 4


def test_with_manual_approval_a_candidate_waits_as_challenger(root, monkeypatch):
    train(root, reads=2)
    promoted()
    change(root, "approval: automatic", "approval: manual")
    train(root, reads=0)
    report = promoted()
    assert report["decision"] == "awaiting_approval"
    assert report["reasons"][-1] == "Waiting for `darkroom approve 2`: promote.approval is manual."
    assert (report["version"], report["champion_before"], report["champion_after"]) == ("2", "1", "1")
    assert report["tests"]["max_parity_difference"]["status"] == "passed"
    waiting = versions.read("pets")
    assert waiting.aliases == {"challenger": "2", "champion": "1"}
    monkeypatch.setattr(register, "verify", interrupted)
    assert promoted() == report, "the second time nothing is loaded"
    assert versions.read("pets") == waiting
    aliases.approve("pets")
    assert promoted()["decision"] == "unchanged"
    assert versions.read("pets").aliases == {"challenger": "2", "champion": "2", "previous": "1"}


def lose_alias():
    client().delete_registered_model_alias("pets", "champion")


def lose_version():
    client().delete_model_version("pets", "2")


def lose_all_versions():
    for number in versions.read("pets").versions:
        client().delete_model_version("pets", number)


@pytest.mark.parametrize(
    ("lose", "said", "last"),
    [
        (
            lose_alias,
            "version 2, is no longer under the alias, and Darkroom did not do that; make version 2 champ",
            "2",
        ),
        (lose_version, "version 2, was deleted, .*; make version 1 champion with `darkroom rollback --to 1 --rea", "1"),
        (lose_all_versions, "version 2, was deleted, .*; no earlier champion is left .*: restore the store from", None),
    ],
)
@pytest.mark.parametrize("reads", [0, 1])
def test_where_a_champion_was_lost_nothing_is_promoted(root, lose, said, last, reads):
    change(root, "margin: 0.0, alpha: 0.05", "margin: 0.0, alpha: 1.0")
    for pixel in (2, 1):
        train(root, reads=pixel)
        promoted()
    lose()
    train(root, reads=reads)
    for _ in range(2):  # the second time the loss is in the history
        before = versions.read("pets").aliases
        with pytest.raises(RegistryError, match=f"pets: the champion, {said}"):
            promote.main()
        assert versions.read("pets").aliases == before
        check.repair("pets")
    assert [finding.kind for finding in check.check("pets")] == ["no champion"]
    if last is None:
        with pytest.raises(RegistryError, match="no earlier champion is left"):
            aliases.rollback("pets", reason="lost")
        client().delete_registered_model("pets")
        assert promoted()["decision"] == "promoted", "a registered model that was deleted begins again"
        return
    champion, replaced = aliases.rollback("pets", reason="deleted by mistake")
    assert (champion.version, replaced, versions.read("pets").hold) == (last, None, None)
    assert promoted()["decision"] == ("unchanged" if (last, reads) == ("2", 1) else "promoted")


def test_a_champion_that_was_set_by_hand_is_the_one_to_beat(root):
    for pixel in (2, 0):
        train(root, reads=pixel)
        promoted()
    client().set_registered_model_alias("pets", "champion", "1")
    train(root, reads=4)
    report = promoted()
    assert (report["decision"], report["champion_after"]) == ("kept", "1")
    assert report["tests"]["champion"]["champion_accuracy"] == 0.97


@pytest.fixture
def weak(root):
    """A repository whose champion is right on 180 of 200 images, and where better models wait for approval."""
    change(root, "min_test_accuracy: 0.9", "min_test_accuracy: 0.5")
    train(root, reads=4)
    promoted()
    change(root, "approval: automatic", "approval: manual")
    return root


def test_a_better_model_that_waits_keeps_its_place(weak):
    train(weak, reads=0)
    assert promoted()["decision"] == "awaiting_approval"
    train(weak, reads=2)
    report = promoted()
    assert (report["decision"], report["version"]) == ("kept", None)
    assert report["tests"]["champion"]["status"] == "passed", "it is better than the champion"
    assert report["reasons"][-1].startswith(
        "Version 2 waits for approval (`darkroom reject 2` takes it away) and is not beaten; in the champion's place: "
    )
    assert versions.read("pets").aliases["challenger"] == "2"
    assert promoted() == report


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_model_that_waits_gives_way_to_a_better_one(weak, is_whole):
    train(weak, reads=2 if is_whole else 0)
    promoted()
    if not is_whole:
        versions.fetch(versions.find("pets", alias="challenger")).unlink()
    train(weak, reads=0 if is_whole else 2)
    report = promoted()
    assert (report["decision"], report["version"]) == ("awaiting_approval", "3")
    assert versions.read("pets").aliases["challenger"] == "3"


def test_a_first_candidate_waits_for_approval_too(root):
    change(root, "approval: automatic", "approval: manual")
    train(root, reads=0)
    assert promoted()["decision"] == "awaiting_approval"
    assert promoted()["decision"] == "awaiting_approval"
    assert list(versions.read("pets").versions) == ["1"]
    assert versions.read("pets").under("champion") is None


def test_a_waiting_candidate_is_verified_for_a_new_champion(root):
    train(root, reads=2)
    promoted()
    change(root, "approval: automatic", "approval: manual")
    change(root, "margin: 0.0, alpha: 0.05", "margin: 0.0, alpha: 1.0")
    train(root, reads=1)
    promoted()
    aliases.promote(versions.find("pets", version="2"), replacing="1", reasons=["by hand"])
    train(root, reads=0)
    report = promoted()
    assert (report["decision"], report["champion_before"]) == ("awaiting_approval", "2")
    aliases.rollback("pets", reason="too slow in the shop")
    report = promoted()
    assert (report["decision"], report["version"], report["champion_before"]) == ("awaiting_approval", "3", "1")
    aliases.approve("pets")
    assert versions.read("pets").aliases["champion"] == "3"


def test_without_the_gate_of_parity_the_version_is_not_loaded(root, monkeypatch):
    monkeypatch.setattr(register, "verify", interrupted)
    change(root, "max_parity_difference: 0.00001", "max_parity_difference: null")
    train(root, reads=0)
    report = promoted()
    assert report["decision"] == "promoted"
    assert report["tests"]["max_parity_difference"]["status"] == "off"


@pytest.mark.parametrize("file", ["data/prepared/manifest.json", "reports/predictions.parquet"])
def test_a_missing_file_is_an_error_in_one_line(root, file):
    train(root, reads=0)
    (root / file).unlink()
    with pytest.raises(DataError, match=f"{file} cannot be read .*; run `dvc repro` from the start"):
        promote.main()


def test_an_unknown_key_is_named(root):
    (root / "params.yaml").write_text("promote: {registered_modell: x}\n")
    expected = "promote has an unknown key 'registered_modell' and lacks the keys 'registered_model', .*; known keys"
    with pytest.raises(ParamsError, match=expected):
        promote.main()


def test_the_keys_of_the_earlier_rule_are_unknown(root):
    change(root, "  gates:", "  alpha: 0.05\n  gates:")
    expected = "promote has an unknown key 'alpha'; known keys: approval, from_experiments, gates, hold_days, regist"
    with pytest.raises(ParamsError, match=expected):
        promote.main()


def test_comparisons_are_counted_and_kept_decisions_noted(root):
    change(root, "alpha: 0.05, comparisons: 1,", "alpha: 0.05, comparisons: 4,")
    train(root, reads=0)
    promoted()
    for number, reads in ((1, 1), (2, 2), (2, 2)):
        uri = train(root, reads=reads)
        report = promoted()
        assert report["decision"] == "kept"
        assert report["tests"]["champion"]["n_comparisons"] == number
    shutil.rmtree(root / ".darkroom" / "decisions")
    assert promoted()["tests"]["champion"]["n_comparisons"] == 2, "the registry knows this comparison"
    run = client().get_run(json.loads(Path("models/cnn/run.json").read_text())["run_id"])
    assert uri
    assert run.data.tags["promotion.passed"] == "False"
    assert run.data.tags["promotion.reasons"] == " ".join(report["reasons"])
    assert run.data.tags["promotion.comparison"] == "2"


def test_small_losses_within_a_margin_do_not_add_up(root):
    change(root, "champion: {margin: 0.0", "champion: {margin: 0.08")
    change(root, "class_recall: {max_drop: 0.02", "class_recall: {max_drop: 0.9")
    for reads in (0, 2):
        train(root, reads=reads)
        assert promoted()["decision"] == "promoted"
    assert versions.find("pets", version="2").tags["margin.reference"] == "1"
    train(root, reads=1)
    test = promoted()["tests"]["champion"]
    assert test["champion_accuracy"] == 0.97
    assert test["reference_difference"] == pytest.approx(test["candidate_accuracy"] - 1.0)
