"""Which regularities in names and columns are taken for groups."""

import pytest

from darkroom.inspection.groups import Proposal, propose


def proposed(*names: str, **columns: list[str]) -> Proposal | None:
    """What is proposed for paths that begin with their class."""
    labels = [next(part for part in name.split("/") if part in ("cats", "dogs")) for name in names]
    attributes = [{key: values[row] for key, values in columns.items()} for row in range(len(names))]
    return propose(names, labels, attributes)


def numbered(form: str, *, n: int = 8, per_group: int = 4) -> list[str]:
    """Names of both classes by a form of group and number; dogs have other groups."""
    return [
        f"{label}/{form.format(group=start + group, number=number, unique=97 * (start + group) + number, label=label)}"
        for start, label in ((0, "cats"), (n, "dogs"))
        for group in range(n)
        for number in range(per_group)
    ]


@pytest.mark.parametrize(
    ("form", "pattern", "certain", "example"),
    [
        ("p{group:03}_{number}.png", r"(?:^|/)(p[0-9]+)[_ .-]+[^/]*$", False, "p000"),
        ("patient-{group:02} ({number}).jpg", r"(?:^|/)(?:[^/_ .-]+[_ .-]+){1}([0-9]+)[_ .-]+[^/]*$", True, "00"),
        ("video{group}_frame{number}.jpg", r"(?:^|/)(video[0-9]+)[_ .-]+[^/]*$", True, "video0"),
        ("{label}_x{group}a_{number}.jpg", r"(?:^|/)(?:[^/_ .-]+[_ .-]+){1}([^/_ .-]+)[_ .-]+[^/]*$", False, "x0a"),
        ("case{group}/{unique}.jpg", r"^(?:[^/]+/){1}([^/]+)/", True, "case0"),
        ("2024010{group}_{unique}.jpg", r"(?:^|/)([0-9]+)[_ .-]+[^/]*$", False, "20240100"),
    ],
)
def test_names_that_share_a_beginning_are_groups(form: str, pattern: str, certain: bool, example: str) -> None:
    names = numbered(form)
    assert proposed(*names) == (pattern, certain, 16, example)


@pytest.mark.parametrize(
    "names",
    [
        numbered("{unique}.jpg"),
        numbered("IMG_{unique:05}.jpg"),
        numbered("{label}.{unique}.jpg"),
        numbered("{unique}_{unique:x}_n.jpg"),
        numbered("frame_{number}.jpg", n=1, per_group=30),
        [f"{split}/{label}/{n}.jpg" for split in ("train", "val", "test") for label in ("cats", "dogs") for n in "123"],
        numbered("p{group}_{number}.jpg", n=2),  # too few to have one in each split
    ],
)
def test_numbers_classes_and_splits_are_no_groups(names: list[str]) -> None:
    assert proposed(*names) is None


def test_a_column_that_is_called_a_patient_is_a_group() -> None:
    names = numbered("{unique}.jpg")
    patients = [f"A{row // 3}" for row in range(len(names))]
    sizes = [f"{row // 3}" for row in range(len(names))]
    assert proposed(*names, size=sizes, Patient_ID=patients) == ("Patient_ID", True, 22, "A0")
    assert proposed(*names, size=sizes) is None
    assert proposed(*names, patient=names) is None, "every image has its own"


def test_a_group_is_found_where_a_few_images_have_none() -> None:
    names = [*numbered("lot{group}_{number}.png"), "cats/readme copy.png"]
    found = proposed(*names)
    assert found is not None
    assert found.group_by == r"(?:^|/)(lot[0-9]+)[_ .-]+[^/]*$"
    assert not found.is_certain
