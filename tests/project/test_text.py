import pytest

from darkroom.project.text import ordinal


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (13, "13th"), (21, "21st"), (112, "112th")],
)
def test_a_number_becomes_an_ordinal(number, said):
    assert ordinal(number) == said
