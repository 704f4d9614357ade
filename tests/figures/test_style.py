from typing import Any

import cv2
import numpy as np
import pytest

from darkroom.errors import DataError
from darkroom.evaluation import figures
from darkroom.evaluation.metrics import classification
from darkroom.figures import grid, style

AWKWARD = ["猫 <b>", r"$\frac{a}$_b^{", "a class with a very, very long name\nand a second line", "\x07bell"]


def names(n_classes):
    return [*AWKWARD, *[f"class {number}" for number in range(n_classes)]][:n_classes]


def drawn(path):
    """Return the plot (H, W, 3) after making sure that it is a PNG with something on it."""
    image: Any = cv2.imread(str(path))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert image.std() > 5
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return image


def outcome(n_classes):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(n_classes, 0.1), 600)
    labels = np.where(rng.random(600) < 0.8, probabilities.argmax(axis=1), rng.integers(0, n_classes, 600))
    return probabilities, labels


def confusion(n_classes):
    probabilities, labels = outcome(n_classes)
    return classification.confusion_matrix(probabilities.argmax(axis=1), labels, n_classes=n_classes)


HISTORY: dict[str, list[float]] = {
    "epoch": [1, 2, 3],
    "train_loss": [2.0, 1.0, 0.5],
    "val_loss": [1.5, 1.2, 0.9],
    "train_accuracy": [0.3, 0.6, 0.8],
    "val_accuracy": [0.4, 0.5, 0.7],
}


def test_a_grid_holds_every_image_and_keeps_small_ones_sharp(tmp_path):
    black, white = np.zeros((8, 8), np.uint8), np.full((8, 8, 1), 255, np.uint8)
    path = grid.image_grid([black, white] * 5, ["a", "b"] * 5, tmp_path / "grid.png", n_columns=2)
    image = drawn(path)
    assert image.shape[0] > 2 * image.shape[1]
    assert (image == 0).all(axis=2).mean() > 0.3


def test_images_of_any_size_and_titles_of_any_text_make_a_grid(tmp_path):
    images = [np.full(shape, 90, np.uint8) for shape in ((5, 300, 3), (300, 5), (1, 1, 1), (400, 400, 3))]
    drawn(grid.image_grid(images, AWKWARD, tmp_path / "new" / "grid.png", heading="$x$"))


def test_a_long_title_and_heading_are_wrapped_and_not_cut(tmp_path):
    image = np.zeros((8, 8), np.uint8)
    short = drawn(grid.image_grid([image], ["cat"], tmp_path / "a" / "grid.png", heading="Errors"))
    title, heading = "great crested newt", "Worst errors: true class, predicted class and confidence"
    long = drawn(grid.image_grid([image], [title], tmp_path / "b" / "grid.png", heading=heading))
    assert long.shape[0] > short.shape[0] + 50, "in more lines"
    assert long.shape[1] == short.shape[1]


@pytest.mark.parametrize(
    ("images", "titles", "message"),
    [
        ([], [], "0 images and 0 titles"),
        ([np.zeros((2, 2), np.uint8)], ["a", "b"], "1 images and 2 titles"),
        ([np.zeros((2, 2))], ["a"], r"shape \(2, 2\) and type float64; expected uint8"),
        ([np.zeros((2, 2, 4), np.uint8)], ["a"], r"shape \(2, 2, 4\)"),
    ],
)
def test_what_is_no_grid_of_images_says_what_came(tmp_path, images, titles, message):
    with pytest.raises(DataError, match=message):
        grid.image_grid(images, titles, tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_classes", [2, 10, 100])
def test_a_confusion_matrix_is_drawn_for_any_number_of_classes(tmp_path, n_classes):
    path = figures.confusion_matrix(confusion(n_classes), names(n_classes), tmp_path / "confusion.png")
    assert drawn(path).shape[1] <= 1.1 * style.WIDTH * style.DPI


def test_a_class_without_images_has_an_empty_row(tmp_path):
    drawn(figures.confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"], tmp_path / "confusion.png"))


def test_the_cells_show_their_numbers_up_to_twenty_classes_only(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(figures, "_write_counts", lambda *_, **__: written.append(True))
    monkeypatch.setattr(style, "save", lambda _, path: path)
    for n_classes in (20, 21):
        figures.confusion_matrix(confusion(n_classes), names(n_classes), tmp_path / "confusion.png")
    assert written == [True]


@pytest.mark.parametrize("dark", [False, True])
def test_a_reliability_diagram_is_drawn_with_empty_bins(tmp_path, dark):
    curve = classification.reliability_curve(*outcome(3), n_bins=15)
    path = figures.reliability_diagram(curve, tmp_path / "reliability.png", ece=0.1, dark=dark)
    assert (drawn(path)[0, 0].mean() < 60) == dark


@pytest.mark.parametrize("best_epoch", [None, 2])
def test_training_curves_are_drawn_from_the_history(tmp_path, best_epoch):
    drawn(figures.training_curves(HISTORY, tmp_path / "curves.png", best_epoch=best_epoch))


def test_training_curves_of_a_single_epoch_are_drawn(tmp_path):
    one = {name: values[:1] for name, values in HISTORY.items()}
    drawn(figures.training_curves(one, tmp_path / "curves.png", best_epoch=1))


def test_class_scores_leave_out_classes_without_a_value(tmp_path):
    drawn(figures.class_scores([0.5, None, 1.0, 0.9], AWKWARD, tmp_path / "recall.png", label="recall"))
    with pytest.raises(DataError, match="no class has a value of recall"):
        figures.class_scores([None], ["a"], tmp_path / "none.png", label="recall")


def test_class_scores_of_many_classes_show_the_forty_lowest(tmp_path):
    many = figures.class_scores([0.9] * 200, names(200), tmp_path / "many.png", label="recall")
    assert drawn(many).shape[0] <= (0.9 + 0.21 * 40) * style.DPI + 1


def test_the_same_picture_has_the_same_bytes(tmp_path):
    first = figures.training_curves(HISTORY, tmp_path / "a.png").read_bytes()
    assert figures.training_curves(HISTORY, tmp_path / "b.png").read_bytes() == first


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures.training_curves(HISTORY, tmp_path / "a.png", dark=True)
    assert dict(mpl.rcParams) == before
