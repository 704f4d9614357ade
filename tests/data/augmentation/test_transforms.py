import inspect
import random
import re
from typing import Any

import numpy as np
import pytest

from darkroom.data.augmentation.transforms import augment_image, build, check
from darkroom.errors import ParamsError

RGB = (24, 24, 3)
GREY = (28, 28, 1)
ARTICLES = {
    "rotate": [-12, 12],
    "scale": [0.88, 1.12],
    "shear": [-10, 10],
    "translate_percent": [-0.07, 0.07],
    "p": 1.0,
}


def noise(shape: tuple[int, int, int] = RGB, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def draw(
    transforms: list[dict[str, Any]],
    *,
    seed: int = 1,
    image_id: str = "a",
    copy: int = 1,
    shape: tuple[int, int, int] = RGB,
) -> np.ndarray:
    pipeline = build(transforms, image_shape=shape)
    return augment_image(noise(shape), pipeline=pipeline, seed=seed, image_id=image_id, copy=copy)


def refuses(transforms: Any, message: str, *, shape: tuple[int, int, int] = RGB) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)) as caught:
        build(transforms, image_shape=shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [RGB, GREY])
def test_a_copy_has_the_shape_and_type_of_its_image(shape: tuple[int, int, int]) -> None:
    copy = draw([{"Affine": ARTICLES}], shape=shape)
    assert copy.shape == shape
    assert copy.dtype == np.uint8
    assert not np.array_equal(copy, noise(shape))


@pytest.mark.parametrize(
    "transform",
    [
        {"RandomResizedCrop": {"size": "auto", "scale": [0.5, 0.6], "p": 1.0}},
        {"RandomSizedCrop": {"size": "auto", "min_max_height": [10, 20], "p": 1.0}},
        {"OneOf": {"transforms": [{"Resize": {"height": "auto", "width": "auto"}}], "p": 1.0}},
        {"PadIfNeeded": {"min_height": "auto", "min_width": "auto"}},
    ],
)
def test_a_size_that_is_auto_is_that_of_the_images(transform: dict[str, Any]) -> None:
    check([transform])
    assert draw([transform], shape=(24, 40, 3)).shape == (24, 40, 3)
    if "Crop" in next(iter(transform)):
        assert not np.array_equal(draw([transform], shape=(24, 40, 3)), noise((24, 40, 3)))
        sized = {name: {**arguments, "size": [24, 40]} for name, arguments in transform.items()}
        assert np.array_equal(draw([transform], shape=(24, 40, 3)), draw([sized], shape=(24, 40, 3)))


def test_no_transforms_give_the_image_itself() -> None:
    assert np.array_equal(draw([]), noise())


def test_draws_depend_on_seed_id_and_copy() -> None:
    transforms: list[dict[str, Any]] = [
        {"Affine": ARTICLES},
        {"GaussNoise": {"p": 1.0}},
    ]  # one draws from random, the other from numpy
    first = draw(transforms)
    assert np.array_equal(first, draw(transforms))
    for other in ({"seed": 2}, {"image_id": "b"}, {"copy": 2}):
        assert not np.array_equal(first, draw(transforms, **other)), other


def test_draws_do_not_depend_on_earlier_draws_or_global_seeds() -> None:
    transforms = [{"OneOf": {"transforms": [{"Rotate": {"p": 1.0}}, {"GaussNoise": {"p": 1.0}}], "p": 0.9}}]
    transforms += [{"SomeOf": {"transforms": [{"Affine": ARTICLES}, {"CoarseDropout": {"p": 1.0}}], "n": 1}}]
    pipeline = build(transforms, image_shape=RGB)
    ids = [str(number) for number in range(12)]

    def copies(order: list[str]) -> dict[str, bytes]:
        random.seed(len(order))
        np.random.seed(len(order))  # noqa: NPY002 - the global state is what this test is about
        return {
            name: augment_image(noise(), pipeline=pipeline, seed=3, image_id=name, copy=1).tobytes() for name in order
        }

    forwards = copies(ids)
    assert forwards == copies(ids[::-1])
    assert copies(ids[7:8]) == {"7": forwards["7"]}
    assert len(set(forwards.values())) == len(ids)


def usable_by_default() -> list[str]:
    """Return the names of all transforms that keep the shape with their default arguments."""
    from darkroom.data.augmentation.transforms import _known

    names = []
    for name in sorted(_known()):
        try:
            build([{name: None}], image_shape=RGB)
        except ParamsError:
            continue
        names.append(name)
    return names


def test_every_usable_transform_repeats_its_draws() -> None:
    names = usable_by_default()
    assert len(names) > 60
    for name in names:
        pipeline = build([{name: {"p": 1.0}}], image_shape=RGB)
        rounds = [
            [augment_image(noise(), pipeline=pipeline, seed=1, image_id=i, copy=1).tobytes() for i in order]
            for order in ("ab", "ba")
        ]
        assert rounds[0] == rounds[1][::-1], name


@pytest.mark.parametrize(
    "arguments",
    [
        {**ARTICLES, "border_mode": border_mode, "interpolation": interpolation, "fill": fill}
        for border_mode in (0, 1, 2, 4)
        for interpolation in (0, 1, 2)
        for fill in (0, 127, [10, 20, 30])
    ]
    + [
        {},
        {"rotate": 0},
        {"scale": {"x": [0.5, 1], "y": 0.8}, "translate_px": [-3, 3]},
        {"scale": [0.5, 2], "keep_ratio": True},
        {"scale": [0.5, 2], "balanced_scale": True},
    ],
    ids=str,
)
def test_the_lean_affine_gives_the_pixels_of_albumentations(arguments: dict[str, Any]) -> None:
    import albumentations

    lean = build([{"Affine": {**arguments, "p": 1.0}}], image_shape=RGB)
    original = albumentations.Compose([albumentations.Affine(**{**arguments, "p": 1.0})])
    for seed in range(5):
        lean.set_random_seed(seed)
        original.set_random_seed(seed)
        image = noise(seed=seed)
        assert np.array_equal(lean(image=image)["image"], original(image=image)["image"])


def test_the_lean_affine_has_the_arguments_of_albumentations() -> None:
    import albumentations

    lean = type(build([{"Affine": None}], image_shape=RGB)[0])
    assert issubclass(lean, albumentations.Affine)
    assert inspect.signature(lean.__init__) == inspect.signature(albumentations.Affine.__init__)


def test_an_unknown_transform_is_named_beside_near_ones() -> None:
    refuses([{"HorizontalFilp": None}], "transforms[0]: there is no transform 'HorizontalFilp'; did you mean 'Horizont")
    refuses([{"affine": None}], "there is no transform 'affine'; did you mean 'Affine")
    refuses([{"Quux": None}], "there is no transform 'Quux'; https://albumentations.ai/docs/ lists them")
    refuses([{"Compose": {"transforms": []}}], "there is no transform 'Compose'")
    refuses([{"Lambda": None}], "there is no transform 'Lambda'")


def test_an_unknown_argument_is_named_beside_near_ones() -> None:
    refuses([{"Affine": {"rotation": 3}}], "there is no argument of Affine 'rotation'; did you mean 'rotate")
    refuses([{"HorizontalFlip": {"angle": 3}}], "there is no argument of HorizontalFlip 'angle'; known: p")
    refuses([{"HorizontalFlip": {"strict": True}}], "there is no argument of HorizontalFlip 'strict'; known: p")


def test_a_wrong_value_is_refused_in_the_words_of_albumentations() -> None:
    refuses([{"HorizontalFlip": {"p": 2}}], "HorizontalFlip cannot be built: p is 2: Input should be less than or")
    refuses([{"Rotate": {"limit": "far"}}], "Rotate cannot be built: limit is 'far': Input should be a valid")
    refuses([{"RandomCrop": {"width": 3}}], "RandomCrop cannot be built: it lacks height")
    refuses([{"CropAndPad": {}}], "CropAndPad cannot be built: Both px and percent parameters cannot be None")


def test_the_list_of_transforms_must_hold_one_name_each() -> None:
    refuses("Affine", "augment.transforms is 'Affine', expected a list")
    refuses(["Affine"], "augment.transforms[0] is 'Affine', expected one {Name: {argument: value}}")
    refuses([{"Affine": {}, "Rotate": {}}], "expected one {Name: {argument: value}}")
    refuses([{"Affine": [1]}], "augment.transforms[0]: Affine is [1], expected a mapping of arguments to values")


def test_a_transform_that_changes_shape_or_type_is_named() -> None:
    refuses([{"Resize": {"height": 9, "width": 8}}], "Resize turns an image into uint8 (9, 8, 3), expected uint8 (24,")
    refuses([{"Normalize": None}], "Normalize turns an image into float32 (24, 24, 3), expected uint8 (24, 24, 3)")
    refuses([{"OneOf": {"transforms": [{"RandomScale": None}]}}], "OneOf.transforms[0]: RandomScale turns an image")
    assert draw([{"RandomResizedCrop": {"size": [24, 24]}}]).shape == RGB


def test_a_late_change_of_shape_is_named_when_it_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.data.augmentation.transforms._PROBES", 0)
    with pytest.raises(
        ParamsError, match=r"^Resize turns an image into uint8 \(9, 8, 3\), expected uint8 \(24, 24, 3\)"
    ):
        draw([{"HorizontalFlip": {"p": 1.0}}, {"Resize": {"height": 9, "width": 8, "p": 1.0}}])


def test_a_transform_that_needs_more_than_the_image_is_refused() -> None:
    refuses([{"MaskDropout": None}], "MaskDropout needs mask; only the image is available")
    refuses([{"RandomCropNearBBox": None}], "RandomCropNearBBox needs cropping_bbox")
    refuses(
        [{"BBoxSafeRandomCrop": None}], "BBoxSafeRandomCrop fails on an image of shape (24, 24, 3): it needs 'bboxes'"
    )
    refuses([{"ConstrainedCoarseDropout": None}], "Neither valid mask nor bboxes provided")
    refuses([{"CoarseDropout3D": None}], "CoarseDropout3D needs inputs other than the image")


def test_a_transform_for_colours_is_refused_on_grey_images() -> None:
    refuses([{"HueSaturationValue": None}], "fails on an image of shape (28, 28, 1): HueSaturationValue", shape=GREY)
    refuses([{"ToGray": None}], "The image is already gray", shape=GREY)


def test_groups_check_what_albumentations_does_not() -> None:
    flip = [{"HorizontalFlip": None}]
    refuses([{"OneOf": None}], "transforms[0].OneOf.transforms is None, expected a list")
    refuses([{"OneOf": {"transforms": []}}], "OneOf.transforms is empty, expected at least one transform")
    refuses([{"OneOf": {"transforms": flip, "p": 3}}], "OneOf.p is 3, expected a probability from 0 to 1")
    refuses([{"OneOf": {"transforms": [{"HorizontalFlip": {"p": 0}}]}}], "every p is 0")
    refuses([{"SomeOf": {"transforms": flip, "n": 2}}], "SomeOf.n is 2, expected a number from 1 to 1")
    refuses([{"SomeOf": {"transforms": flip, "replace": 1}}], "SomeOf.replace is 1, expected true or false")
    refuses(
        [{"OneOf": {"transforms": [{"SomeOf": {"transforms": [{"Flop": {}}]}}]}}], "OneOf.transforms[0].SomeOf.trans"
    )


def test_groups_may_be_nested() -> None:
    inner = {"Sequential": {"transforms": [{"HorizontalFlip": {"p": 1.0}}, {"VerticalFlip": {"p": 1.0}}], "p": 1.0}}
    assert np.array_equal(draw([{"OneOf": {"transforms": [inner], "p": 1.0}}]), noise()[::-1, ::-1])
