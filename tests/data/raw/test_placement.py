"""Which class and which split the directories of a dataset say."""

import re
import unicodedata
from itertools import product
from pathlib import Path

import pytest

from darkroom.data.raw.names import split_of
from darkroom.data.raw.placement import Folders, place
from darkroom.errors import DataError


def placed(*paths: str, folders: Folders | None = Folders()) -> list[tuple[str, str, str | None]]:  # noqa: B008
    names = [(path.rstrip("/"), path.endswith("/")) for path in paths]
    found = place(names, where=Path("data"), folders=folders)
    return [(image.name, image.label, image.split) for image in found]


def classes(*paths: str) -> list[str]:
    return [label for _, label, _ in placed(*paths)]


def splits(*paths: str) -> list[str | None]:
    return [split for _, _, split in placed(*paths)]


# What is looked at


def test_hidden_files_litter_and_documents_are_no_images() -> None:
    litter = ["cats/.DS_Store", ".git/x/y", "__MACOSX/cats/._a.jpg", "cats/Thumbs.db", "@eaDir/cats/a.jpg/SYNO.jpg"]
    documents = ["README", "README[1].txt", "LICENSE", "labels.csv", "notes.md", ".gitignore", "MSR-LA - 3467.docx"]
    sidecars = ["cats/README.md", "cats/a.txt", "cats/a.JSON", "cats/deep/a.xml", "cats/labels.csv"]
    for folders in (Folders(), None):
        found = placed("cats/a.jpg", "cats/license.jpg", *litter, *documents, *sidecars, folders=folders)
        assert found == [("cats/a.jpg", "cats", None), ("cats/license.jpg", "cats", None)]


def test_documents_beside_splits_below_classes_are_passed_over() -> None:
    paths = [f"{label}/{split}/1.jpg" for label in ("cats", "dogs") for split in ("train", "test")]
    assert splits(*paths, "cats/notes.txt") == ["train", "test"] * 2


@pytest.mark.parametrize("other", ["other/", "other/deep/", ""])
def test_a_directory_of_documents_is_neither_class_nor_split(other: str) -> None:
    listed = [other, "other/"] if other else []
    paths = ["data/train/cats/1", "data/train/dogs/1", *listed, f"{other or 'other/'}x.csv"]
    assert placed(*paths) == [("data/train/cats/1", "cats", None), ("data/train/dogs/1", "dogs", None)]
    paths = ["train/cats/1", "train/cats/1.txt", "train/dogs/1", "test/cats/1", *listed, f"{other or 'other/'}x.csv"]
    assert splits(*paths) == ["train", "train", "test"]
    assert classes("train/images/1", "train/labels/1.txt", "test/images/1", "test/labels/1.txt") == ["images"] * 2


def test_only_what_root_and_skip_leave_is_looked_at() -> None:
    paths = ["photos/cats/1", "photos/dogs/1", "photos/unsorted/1", "cats.gif"]
    assert placed(*paths, folders=Folders(root="photos", skip=("unsorted",))) == [
        ("cats/1", "cats", None),
        ("dogs/1", "dogs", None),
    ]
    with pytest.raises(DataError, match="no such directory: 'photo'; correct `root` in the layout"):
        placed(*paths, folders=Folders(root="photo"))
    with pytest.raises(DataError, match="nothing is called 'unsort'; correct `skip` in the layout"):
        placed(*paths, folders=Folders(root="photos", skip=("unsort",)))


# Names of splits


@pytest.mark.parametrize("name", ["train", "Training", "TRAIN ", "training_set", "trainset", "Train Data", "train-2"])
def test_a_name_may_say_a_split_and_nothing_else(name: str) -> None:
    assert split_of(name) == ("train", True)


def test_other_words_beside_a_split_leave_it_uncertain() -> None:
    assert split_of("seg_train") == ("train", False)
    assert split_of("cats") == split_of("strain") == split_of("latest") == split_of("train_test") == (None, False)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "test"], ["train", "test"]),
        (["Training", "TESTING"], ["train", "test"]),
        (["training_set", "test_set"], ["train", "test"]),
        (["train ", "test"], ["train", "test"]),
        (["train", "valid", "test"], ["train", "val", "test"]),
        (["train", "val"], ["train", "val"]),
        (["train", "eval"], ["train", "test"]),
        (["train", "eval", "test"], ["train", "val", "test"]),
        (["seg_train", "seg_test"], ["train", "test"]),
        (["TrainImages", "DevImages", "HoldoutImages"], ["train", "val", "test"]),
        (["train1", "train2", "test"], ["train", "train", "test"]),
    ],
)
def test_directories_named_after_splits_are_splits(names: list[str], expected: list[str]) -> None:
    paths = [f"{name}/{label}/1.jpg" for name in names for label in ("cats", "dogs")]
    assert classes(*paths) == ["cats", "dogs"] * len(names)
    assert splits(*paths) == [split for split in expected for _ in range(2)]


@pytest.mark.parametrize("form", ["{s}/{c}", "{s}/{s}/{c}", "{s}/images/{c}", "all/{s}/{c}", "a/b/{s}/{c}", "{c}/{s}"])
def test_splits_are_found_in_any_nesting(form: str) -> None:
    paths = [f"{form.format(s=s, c=c)}/deep/1.jpg" for s, c in product(("seg_train", "seg_test"), ("cats", "dogs"))]
    if form == "{c}/{s}":  # below a class a name must say a split and nothing else
        paths = [path.replace("seg_", "") for path in paths]
    assert classes(*paths) == ["cats", "dogs"] * 2
    assert splits(*paths) == ["train", "train", "test", "test"]


def test_a_test_set_may_have_one_class_with_subdirectories() -> None:
    paths = ["train/cats/1", "train/dogs/1", "test/cats/indoor/1", "test/cats/outdoor/1"]
    assert classes(*paths) == ["cats", "dogs", "cats", "cats"]


# What is no split


def test_other_directories_are_classes() -> None:
    assert classes("train/1", "tram/1", "bus/1") == ["train", "tram", "bus"]
    assert classes("train/old/1", "tram/1", "bus/1") == ["train", "tram", "bus"]
    assert classes("mask/1", "no mask/1") == ["mask", "no mask"]
    assert classes("part1/1", "part2/1") == ["part1", "part2"]
    assert classes("images of cats/1", "images of dogs/1") == ["images of cats", "images of dogs"]
    assert classes("test tube/1", "train station/1") == ["test tube", "train station"]
    assert [label for _, label, _ in placed("train/1", "test/1", folders=None)] == ["train", "test"]


def test_a_directory_around_all_others_is_no_class() -> None:
    assert placed("pets/cats/1", "pets/dogs/1", "pets/README.md") == [
        ("pets/cats/1", "cats", None),
        ("pets/dogs/1", "dogs", None),
    ]
    assert classes("cats/1") == ["cats"]


# What is refused


@pytest.mark.parametrize("around", ["", "all/"])
@pytest.mark.parametrize("names", [("train", "test"), ("Training Set", "valid"), ("train", "test", "eval")])
def test_splits_of_images_without_classes_are_refused(names: tuple[str, ...], around: str) -> None:
    both = " and ".join(sorted(map(repr, names)))
    with pytest.raises(DataError, match=f"{both} hold images, not class directories; use train/<class>/<image> or a"):
        placed(*(f"{around}{name}/1.jpg" for name in names), f"{around}train/labels/1.txt")
    level = 2 if around else 1
    found = placed(*(f"{around}{name}/1.jpg" for name in names), folders=Folders(level=level))
    assert [label for _, label, _ in found] == list(names)


@pytest.mark.parametrize("names", [("images", "masks"), ("fold1", "fold2")])
@pytest.mark.parametrize("second", ["test", "val"])
def test_datasets_that_are_split_are_no_classes(names: tuple[str, str], second: str) -> None:
    of_one = [f"{names[0]}/{split}/{label}/1" for split in ("train", "test") for label in ("cats", "dogs")]
    of_other = [path.replace("test", second).replace(names[0], names[1]) for path in of_one]
    message = (
        f"'{names[0]}/test' and '{names[0]}/train' both hold 'cats' and 'dogs'; set `root` in the layout to "
        f"'{names[0]}' if that is a dataset of its own, or say which are the classes with `level`: 1 for "
        f"'{names[0]}', 3 for 'cats'"
    )
    with pytest.raises(DataError, match=message):
        placed(*of_one, *of_other)
    found = placed(*of_one, *of_other, folders=Folders(root=names[0]))
    assert [(label, split) for _, label, split in found] == list(product(("cats", "dogs"), ("train",))) + list(
        product(("cats", "dogs"), ("test",))
    )
    with pytest.raises(DataError, match=message.replace(f"to '{names[0]}'", f"to 'all/{names[0]}'").split(" if ")[0]):
        placed(*(f"all/{path}" for path in (*of_one, *of_other)))


def test_a_site_that_lacks_a_class_of_another_is_refused() -> None:
    message = "'site_a' and 'site_b' both hold 'ok'; .* set `root` to one of them; .*: 1 for 'site_a', 2 for 'ok'"
    for paths in (["site_a/ok/1", "site_a/bad/1", "site_b/ok/1"], ["site_a/ok/1", "site_b/ok/1", "site_b/bad/1"]):
        with pytest.raises(DataError, match=message):
            placed(*paths)
    assert classes("cats/deep/1", "dogs/deep/1") == ["cats", "dogs"]
    assert classes("cats/indoor/1", "cats/outdoor/1", "dogs/wild/1", "mice/1") == ["cats", "cats", "dogs", "mice"]


@pytest.mark.parametrize("odd", ["unlabelled/1", "unlabelled/1/2", "unlabelled/"])
def test_an_odd_folder_beside_splits_is_named(odd: str) -> None:
    paths = ["train/cats/1", "train/dogs/1", "test/cats/1", "test/dogs/1", odd]
    with pytest.raises(DataError, match="data: unexpected directory 'unlabelled' beside 'test' and 'train'; remove it"):
        placed(*paths)
    assert {label for _, label, _ in placed(*paths, folders=Folders(root="train"))} == {"cats", "dogs"}
    for wrapped in (paths, [f"archive/{path}" for path in paths]):
        assert {split for _, _, split in placed(*wrapped, folders=Folders(skip=("unlabelled",)))} == {"train", "test"}
    with pytest.raises(DataError, match="unexpected directory 'unlabelled' beside 'my_test' and 'my_train'"):
        placed(*(path.replace("train", "my_train").replace("test", "my_test") for path in paths))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["cats/1", "dogs/1", "test/1"],
            "'test' beside 'cats' holds images of no class, or of a split; name it in `skip`",
        ),
        (["cats/1", "dogs/1", "test/cats/1", "test/dogs/1"], "'test' beside 'cats' holds images of no class"),
        (["all/cats/1", "all/dogs/1", "seg_pred/a/1"], "'seg_pred' beside 'all' holds images of no class"),
        (["train/cats/1", "train/unlabelled/1", "test/cats/1"], "'unlabelled' beside 'cats' holds images of no class"),
        (["images/1", "masks/1"], "'masks' beside 'images' seems to belong to 'images'"),
        (["JPEGImages/1", "SegmentationClass/1"], "'SegmentationClass' beside 'JPEGImages' seems to belong to"),
        (["images/train/1", "images/val/1", "labels/train/1"], "'labels' beside 'images' seems to belong to 'images'"),
        (["cats/1", "dogs/1", "old/cats/1", "old/dogs/1"], "'old' beside 'cats' holds 'cats' and 'dogs' as well"),
        (["images_001/images/1", "images_002/images/1"], "'images_001' and 'images_002' look like parts of the images"),
    ],
)
def test_what_is_no_class_is_refused(paths: list[str], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        placed(*paths)
    level = 2 if paths[0].startswith(("all", "train")) else 1
    assert placed(*paths, folders=Folders(level=level))


def test_an_archive_beside_classes_is_named() -> None:
    with pytest.raises(DataError, match="'more.zip' is an archive; give its path alone, or unpack or remove it"):
        placed("cats/1", "dogs/1", "more.zip")


@pytest.mark.parametrize("names", [("camera1", "camera2"), ("2023", "2024"), ("images", "masks"), ("train1", "train2")])
def test_siblings_with_the_same_subdirectories_are_refused(names: tuple[str, str]) -> None:
    paths = [f"{name}/{label}/1" for name in names for label in ("cats", "dogs")]
    with pytest.raises(
        DataError, match=f"'{names[0]}' and '{names[1]}' both hold 'cats' and 'dogs'; if they are parts"
    ):
        placed(*paths)
    with pytest.raises(DataError, match="`level` in the layout: 2 for 'images', 3 for 'cats'"):
        placed(
            *(
                f"train/{'images' if name == names[0] else 'x'}/{path}"
                for name in names
                for path in ("cats/1", "dogs/1")
            )
        )
    for level, labels in ((1, set(names)), (2, {"cats", "dogs"})):
        assert {label for _, label, _ in placed(*paths, folders=Folders(level=level))} == labels


def test_splits_above_a_given_level_are_splits() -> None:
    paths = [f"{split}/{site}/{c}/1" for split in ("train", "test") for site in "AB" for c in ("cats", "dogs")]
    found = placed(*paths, folders=Folders(level=3))
    assert found == [(path, path.split("/")[2], path.split("/")[0]) for path in paths]


def test_splits_in_the_names_of_classes_are_refused() -> None:
    with pytest.raises(DataError, match="'cats_test' and 'cats_train' look like two splits of one class; arrange them"):
        placed("cats_train/1", "cats_test/1", "dogs_train/1", "dogs_test/1")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["cats/1", "a.jpg"], "'a.jpg' is not in a class directory; expected <class>/<image>"),
        (
            ["train/a/1", "train/b/1", "test/1.jpg"],
            "'test/1.jpg' is not in a class directory; expected train/<class>/<image>; where the test images have no "
            "classes, set `root` in the layout to 'train'",
        ),
        (["cats/1", "Cats/1"], "the class names 'Cats' and 'cats' differ only in case, spaces or Unicode form"),
        (["train/cats/1", "test/CATS/1"], "the class names 'CATS' and 'cats' differ"),
        (["train/cats/1", "train/dogs/1", "test/cats /1"], "the class names 'cats' and 'cats ' differ"),
        (["cats/1", "dogs/"], "the class directory 'dogs' has no images"),
        ([r"a\nb/1", r"A\nB/1"], r"the class names"),
        (["1/1", "1.0/1"], "the class names '1' and '1.0' differ only in the decimal point"),
        (["cat/1", "cat./1"], "the class names 'cat' and 'cat.' differ"),
        (["hot dog/1", "hot  dog/1"], "the class names 'hot  dog' and 'hot dog' differ"),
        (["hot dog/1", "hot\u00a0dog/1"], r"the class names 'hot dog' and 'hot\xa0dog' differ"),
        (["cat/1", "cat\u200b/1"], r"the class names 'cat' and 'cat\u200b' differ"),
    ],
)
def test_folders_that_cannot_be_understood_are_refused(paths: list[str], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"data: {message}")):
        placed(*paths)


@pytest.mark.parametrize(
    ("paths", "odd"),
    [
        (["cats/1", "cats/val/1", "dogs/1", "dogs/val/1"], "cats/val"),
        (["cats/1", "cats/Test Set/1", "dogs/1"], "cats/Test Set"),
        (["cats/train/1", "cats/test/1", "dogs/1"], "cats/test"),
        (["cats/train/1", "cats/valid/1", "dogs/odd/1", "dogs/train/1"], "cats/valid"),
        (["train/cats/val/1", "train/cats/1", "train/dogs/1", "test/cats/1", "test/dogs/1"], "cats/val"),
    ],
)
def test_a_split_of_some_images_alone_is_refused(paths: list[str], odd: str) -> None:
    with pytest.raises(DataError, match=f"data: '{odd}' seems to be a part of a split that other images have no part"):
        placed(*paths)


def test_directories_in_classes_may_say_one_split_alone() -> None:
    assert classes("cats/test/1", "dogs/test/1") == ["cats", "dogs"]
    assert classes("cats/train/1", "cats/train/2", "dogs/1") == ["cats", "cats", "dogs"]
    assert splits("train/a/train/1", "train/b/train/1", "test/a/test/1", "test/b/1") == [
        "train",
        "train",
        "test",
        "test",
    ]


def test_class_names_that_look_the_same_are_told_apart() -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    expected = re.escape(r"the class names 'e\u0301' and '\xe9' differ only in case, spaces or Unicode")
    with pytest.raises(DataError, match=expected):
        placed(f"{composed}/1", f"{decomposed}/1")
