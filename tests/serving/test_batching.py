import asyncio
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from darkroom.deployable.package import Package
from darkroom.registry.snapshot import Version
from darkroom.serving.batching import Batcher
from darkroom.serving.follower import Served
from darkroom.serving.limits import Refused
from tests.support.onnx_model import write_model
from tests.support.served import eventually

SHAPE = (4, 4, 1)
BLACK, WHITE = np.zeros(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8)
VERSION = Version("pets", "1", None, "", {})


def bmp(image):
    import cv2

    return cv2.imencode(".bmp", image)[1].tobytes()


class Held(Package):
    """A package whose network waits until it is let go; it notes the sizes of its batches."""

    sizes: list[int]
    begun: threading.Semaphore
    may_go: threading.Semaphore

    def predict(self, items, **options):
        self.sizes.append(len(items))
        self.begun.release()
        assert self.may_go.acquire(timeout=60)
        if any(item.max() == 77 for item in items):
            raise ValueError("non-finite")
        return super().predict(items, **options)


def held(path):
    package = Held.load(path)
    assert isinstance(package, Held)
    package.sizes, package.begun, package.may_go = [], threading.Semaphore(0), threading.Semaphore(0)
    return package


@pytest.fixture
def package(tmp_path):
    weights = np.zeros((16, 2))
    weights[:, 1], weights[:, 0] = 0.01, -0.01
    return held(write_model(tmp_path / "m.onnx", classes=["dark", "light"], image_shape=SHAPE, weights=weights))


@pytest.fixture
def make(package):
    made = []

    def start(**options):
        batches = []
        wanted: dict[str, Any] = {
            "n_threads": 2,
            "max_batch": 4,
            "max_waiting": 8,
            "on_batch": lambda served, answered: batches.append((served, answered)),
            "log": print,
        }
        made.append(Batcher(**wanted | options))
        return made[-1], batches

    yield start
    for batcher in made:
        batcher.close()


def labels(answers):
    return [answer.get("label") or answer["error"] for answer in answers]


def test_a_lone_image_runs_at_once_and_alone(package, make):
    batcher, batches = make()
    package.may_go.release()
    served = Served(VERSION, package)
    assert labels(asyncio.run(batcher.submit(served, [bmp(WHITE)], request_id="ab12"))) == ["light"]
    assert package.sizes == [1]
    ((of, ((data, pixels, answer, request_id, position, *seconds),)),) = eventually(lambda: batches)
    assert (of is served, data, answer["label"], request_id, position) == (True, bmp(WHITE), "light", "ab12", 0)
    assert (pixels == WHITE).all()
    assert [0 <= one < 60 for one in seconds] == [True] * 3


def test_images_that_come_meanwhile_form_the_next_batches(package, make):
    batcher, _ = make()

    async def ask():
        served = Served(VERSION, package)
        first = asyncio.create_task(batcher.submit(served, [bmp(BLACK)]))
        await asyncio.to_thread(package.begun.acquire)
        rest = [asyncio.create_task(batcher.submit(served, [bmp(WHITE)])) for _ in range(7)]
        await asyncio.to_thread(eventually, lambda: len(batcher._decoded) == 7)
        package.may_go.release(3)
        return [await task for task in (first, *rest)]

    assert [labels(answers) for answers in asyncio.run(ask())] == [["dark"]] + [["light"]] * 7
    assert package.sizes == [1, 4, 3]


def test_all_threads_run_the_network_on_large_images(tmp_path, make):
    large = held(write_model(tmp_path / "large.onnx", classes=["dark", "light"], image_shape=(64, 64, 1)))
    batcher, _ = make(n_threads=2)
    served = Served(VERSION, large)

    async def ask():
        tasks = [asyncio.create_task(batcher.submit(served, [bmp(WHITE)])) for _ in range(2)]
        for _ in tasks:  # both are at work before one may go
            assert await asyncio.to_thread(large.begun.acquire, timeout=60)
        large.may_go.release(2)
        return [await task for task in tasks]

    assert all("label" in answer for answers in asyncio.run(ask()) for answer in answers)
    assert large.sizes == [1, 1]


def test_a_batch_holds_images_for_one_version(package, make):
    batcher, batches = make()

    async def ask():
        old, new = (Served(replace(VERSION, version=version), package) for version in ("1", "2"))
        first = asyncio.create_task(batcher.submit(old, [bmp(BLACK)]))
        await asyncio.to_thread(package.begun.acquire)
        rest = []
        for served in (old, new, new):
            rest.append(asyncio.create_task(batcher.submit(served, [bmp(WHITE)])))
            await asyncio.to_thread(eventually, lambda: len(batcher._decoded) == len(rest))
        package.may_go.release(3)
        await asyncio.gather(first, *rest)

    asyncio.run(ask())
    eventually(lambda: len(batches) == 3)
    assert [(served.version.version, len(answered)) for served, answered in batches] == [("1", 1), ("1", 1), ("2", 2)]


def test_more_images_than_may_wait_are_refused(package, make):
    batcher, _ = make()

    async def ask():
        served = Served(VERSION, package)
        first = asyncio.create_task(batcher.submit(served, [bmp(BLACK)] * 6))
        await asyncio.to_thread(package.begun.acquire)
        with pytest.raises(Refused, match="6 images are already waiting; try again in a second") as refused:
            await batcher.submit(served, [bmp(BLACK)] * 3)
        assert (refused.value.status, refused.value.headers) == (503, ((b"retry-after", b"1"),))
        package.may_go.release(100)
        await first
        assert batcher.n_waiting == 0
        assert len(await batcher.submit(served, [bmp(BLACK)] * 8)) == 8

    asyncio.run(ask())


def test_an_image_that_breaks_a_batch_fails_alone(package, make):
    batcher, _ = make()
    package.may_go.release(100)

    async def ask():
        served = Served(VERSION, package)
        waiting = asyncio.create_task(batcher.submit(served, [bmp(WHITE)]))
        images = [bmp(np.full(SHAPE, 77, np.uint8)), bmp(WHITE), bmp(BLACK)]
        return await asyncio.gather(waiting, *(batcher.submit(served, [one]) for one in images), return_exceptions=True)

    first, broken, white, black = asyncio.run(ask())
    assert [labels(answers) for answers in (first, white, black)] == [["light"], ["light"], ["dark"]]
    assert isinstance(broken, ValueError)


def test_unreadable_images_keep_their_place_among_the_answers(package, make):
    batcher, _ = make()
    package.may_go.release(100)
    images = [b"text", bmp(WHITE), "said before", bmp(BLACK)]
    answers = asyncio.run(batcher.submit(Served(VERSION, package), images))
    assert labels(answers)[1:] == ["light", "said before", "dark"]
    assert "4 bytes are not an image" in answers[0]["error"]


def test_a_failing_package_fails_the_request_alone(package, make, monkeypatch):
    batcher, _ = make(n_threads=1)
    package.may_go.release(100)

    def broken(data):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(package, "decode", broken)
        with pytest.raises(RuntimeError, match="no memory"):
            asyncio.run(batcher.submit(Served(VERSION, package), [bmp(WHITE)]))
    assert labels(asyncio.run(batcher.submit(Served(VERSION, package), [bmp(WHITE)]))) == ["light"]


def test_too_few_answers_fail_the_request_alone(package, make, monkeypatch):
    batcher, _ = make(n_threads=1)
    package.may_go.release(100)
    with monkeypatch.context() as patch:
        patch.setattr(package, "predict", lambda *_, **__: [])
        with pytest.raises(ValueError, match="shorter"):
            asyncio.run(batcher.submit(Served(VERSION, package), [bmp(WHITE)]))
    assert labels(asyncio.run(batcher.submit(Served(VERSION, package), [bmp(WHITE)]))) == ["light"]


def test_answers_that_cannot_be_noted_are_given(package, make):
    said = []

    def broken(served, answered):
        raise IndexError("no\nheader")

    batcher, _ = make(n_threads=1, on_batch=broken, log=lambda *line: said.append(line))
    package.may_go.release(100)
    for _ in range(3):
        assert labels(asyncio.run(batcher.submit(Served(VERSION, package), [bmp(WHITE)]))) == ["light"]
    eventually(lambda: len(said) == 3)
    assert set(said) == {("batch_not_noted", "IndexError: no header")}


def test_what_is_answered_after_the_loop_has_ended_harms_nobody(package, make):
    batcher, batches = make(n_threads=1)

    async def give_up():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.submit(Served(VERSION, package), [bmp(WHITE)]), 0.1)

    asyncio.run(give_up())
    package.may_go.release(100)
    eventually(lambda: batches)
    assert labels(asyncio.run(batcher.submit(Served(VERSION, package), [bmp(WHITE)]))) == ["light"]
