import os
import threading
from functools import partial
from typing import Any

import pytest

from darkroom.compute.stream import n_workers_of, stream
from darkroom.errors import DarkroomError, DataError, ParamsError

BACKENDS = [("loky", 1), ("threading", 2), ("loky", 2)]


def square(number: int) -> int:
    return number * number


def fail_at(number: int, *, bad: int) -> int:
    if number == bad:
        raise DataError(f"{number} is bad")
    return number


def die(number: int) -> int:
    os._exit(number)


@pytest.mark.parametrize(("backend", "workers"), BACKENDS)
def test_results_come_in_the_order_of_the_items(backend, workers):
    assert list(stream(square, range(100), backend=backend, workers=workers)) == [n * n for n in range(100)]
    assert list(stream(square, [], backend=backend, workers=workers)) == []


@pytest.mark.parametrize(("backend", "workers"), BACKENDS)
def test_an_error_of_the_function_is_raised_as_it_is(backend, workers):
    with pytest.raises(DataError, match=r"^40 is bad$"):
        list(stream(partial(fail_at, bad=40), range(100), backend=backend, workers=workers))


@pytest.mark.parametrize(("backend", "workers"), BACKENDS[:2])
def test_an_error_of_the_items_comes_after_what_came_before(backend, workers):
    def items():
        yield from range(20)
        raise DataError("the archive is truncated")

    with pytest.raises(DataError, match=r"the archive is truncated"):
        list(stream(square, items(), backend=backend, workers=workers))


def test_items_are_read_no_faster_than_results_are_taken():
    n_read = 0

    def items():
        nonlocal n_read
        for number in range(10_000):
            n_read += 1
            yield number

    results: Any = stream(square, items(), backend="threading", workers=2)
    assert next(results) == 0
    assert n_read <= 6
    results.close()


def test_a_stream_given_up_half_way_leaves_no_thread():
    before = threading.active_count()
    results: Any = stream(square, range(1000), backend="threading", workers=2)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_a_worker_that_dies_is_one_clear_error():
    with pytest.raises(DarkroomError, match=r"a worker process was killed.*lower compute.workers"):
        list(stream(die, [9, 9], backend="loky", workers=2))


def test_wrong_settings_are_named():
    wrong: list[Any] = [0, -1, "all", 1.5, True]
    for workers in wrong:
        with pytest.raises(ParamsError, match=r"compute.workers is .*expected auto or an integer"):
            n_workers_of(workers)
    with pytest.raises(ParamsError, match=r"compute.backend is 'spark'; expected loky or threading or ray$"):
        stream(square, [1], backend="spark", workers=2)
    assert n_workers_of("auto") >= 1
