import pytest

from darkroom.cli import presets
from darkroom.errors import ParamsError
from darkroom.operations.params import retrain_options
from darkroom.project.params import read_params
from tests.support.project import ROOT


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A params.yaml in a repository of its own; the preset for images of one's own."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(presets.text("folder", root=ROOT))
    return path


def test_an_order_has_settings_model_and_folders(params):
    options = retrain_options(force=False, commit=False, push=False)
    values = read_params(params)
    assert options.model == values["promote"]["registered_model"]
    assert options.folders == ["pictures"]
    assert options.max_image_bytes == values["preprocess"]["max_image_bytes"]
    assert options.params.mode == "worktree"


def test_what_is_pushed_is_committed(params):
    assert retrain_options(force=False, commit=False, push=True).commit


def test_a_data_set_of_the_catalogue_has_no_folder(params):
    params.write_text(presets.text("mnist", root=ROOT))
    assert retrain_options(force=False, commit=False, push=False).folders == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mode: worktree", "mode: branch", "retrain.mode is 'branch': input should be 'worktree' or 'experiment'"),
        (
            "webhook: null",
            "webhook: mail",
            "retrain.notify.webhook is 'mail': expected null, or a URL that begins",
        ),
        (
            "min_recent_accuracy: null",
            "min_recent_accuracy: 95",
            "min_recent_accuracy is 95: .* less than or equal to 1",
        ),
        ("min_recent_accuracy: null", "min_recent_accuracy: 0.95", "min_recent_accuracy needs the log of predictions"),
        ("  min_new_images: 1", "  min_images: 1", "retrain has an unknown key 'min_images' and lacks the key 'min_n"),
        (
            "  max_image_bytes:",
            "  max_bytes:",
            r"download, preprocess or promote is invalid \('max_image_bytes'\); `dvc",
        ),
    ],
)
def test_a_wrong_setting_is_named(params, old, new, said):
    before = params.read_text()
    assert old in before
    params.write_text(before.replace(old, new))
    with pytest.raises(ParamsError, match=said):
        retrain_options(force=False, commit=False, push=False)
