"""Worker processes: batches, the images of a worker that ended, and no work for clients that left."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
import uvloop

from darkroom.errors import RegistryError
from darkroom.serving import server
from darkroom.serving.batching import Batcher
from darkroom.serving.limits import Refused
from darkroom.serving.messages import Task, Unpacker, packed
from darkroom.serving.pool import Pool
from darkroom.serving.worker_process import Image, WorkerFailed
from tests.support.scripted_version import EMPTY_GRAPH, let_go, notes, scripted_version

pytestmark = pytest.mark.heavy


class Started:
    """A pool on a scripted version, and what it reported."""

    def __init__(self, folder, *, n=1, side=4, model="", max_waiting=8, request_seconds=60.0, is_logged=False, **task):
        self.folder, self.batches = folder, list[tuple[list[Image], dict[str, Any]]]()
        self.causes, self.said = list[str](), list[tuple[str, ...]]()
        wanted = {"network_threads": 1, "max_pixels": 100, "max_batch": 4, "seconds": 60.0, "memory_bytes": 1 << 30}
        version = scripted_version(folder, side=side, model=model)
        self.pool = Pool(
            Task(version=version, is_logged=is_logged, **(wanted | task)),
            n=n,
            on_batch=lambda images, told: self.batches.append((images, told)),
            ended=self.causes.append,
            log=lambda *line, **_: self.said.append(line),
        )
        self.batcher = Batcher(max_waiting=max_waiting, seconds=request_seconds)

    async def load(self):
        await self.pool.start()

    def ask(self, *texts):
        images = [text.encode() for text in texts]
        return asyncio.ensure_future(self.batcher.submit(self.pool, images, request_id="ab12"))

    async def labels(self, *texts):
        return labels(await self.ask(*texts))

    async def until(self, holds):
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.005)


def labels(answers):
    return [answer.value.get("label") or answer.value["error"] for answer in answers]


@asynccontextmanager
async def started(folder, **options):
    one = Started(folder, **options)
    try:
        await one.load()
        yield one
    finally:
        await one.pool.finish(0.2)


def run(folder, scenario, **options):
    async def whole():
        async with started(folder, **options) as one:
            await scenario(one)

    uvloop.run(whole())


def test_a_message_may_come_in_any_pieces():
    sent = [[b"", b"abc"], [b"x" * 1000], [], [b"last"]]
    stream, unpacker = b"".join(map(packed, sent)), Unpacker()
    pieces = [stream[start : start + 7] for start in range(0, len(stream), 7)]
    assert [message for piece in pieces for message in unpacker.feed(piece)] == sent


def test_a_lone_image_runs_at_once_and_alone(tmp_path):
    async def scenario(one):
        assert await one.labels("white") == ["light"]
        await one.until(lambda: one.batches)
        (((image,), told),) = one.batches
        assert (image.data, image.group.id, image.position) == (b"white", "ab12", 0)
        assert (told["images"][0]["label"], len(told["images"][0]["id"])) == ("light", 64)
        assert told["images"][0]["measures"]["brightness"] == 1
        assert 0 <= told["network_seconds"] + told["images"][0]["decode_seconds"] < 60

    run(tmp_path, scenario, is_logged=True)
    assert notes(tmp_path) == ["decode white", "predict 1"]


def test_an_explanation_whose_client_left_is_not_finished(tmp_path):
    async def scenario(one):
        (worker,) = one.pool._workers
        let_go(tmp_path, "stop")  # until a signal that comes after it has begun
        process = psutil.Process(worker._process.get_pid())
        process.suspend()
        try:
            asked = one.ask("white")
            await one.until(lambda: worker.images)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)  # the worker is told before it has read the image
        finally:
            process.resume()
        async with asyncio.timeout(60):
            assert await one.labels("black") == ["dark"]
        assert one.pool._workers == {worker}

    run(tmp_path, scenario, max_batch=1, explains=True, model=EMPTY_GRAPH)
    told, following = notes(tmp_path)[:3], notes(tmp_path)[3:]
    assert told == ["decode white", "predict 1", "cover 64"]
    assert following == ["decode black", "predict 1", *["cover 64"] * 6]


def test_images_that_come_meanwhile_form_the_next_batches(tmp_path):
    async def scenario(one):
        first = one.ask("wait first")
        rest = [one.ask("black") for _ in range(7)]
        await asyncio.sleep(0)
        let_go(tmp_path, "first")
        assert [labels(await task) for task in (first, *rest)] == [["light"]] + [["dark"]] * 7

    run(tmp_path, scenario)
    assert [line for line in notes(tmp_path) if "predict" in line] == ["predict 1", "predict 4", "predict 3"]


@pytest.mark.parametrize(("side", "n", "sizes"), [(4, 2, [3, 3]), (64, 2, [1] * 6)])
def test_free_workers_share_what_waits_but_for_large_images(tmp_path, side, n, sizes):
    async def scenario(one):
        assert await one.labels(*["white"] * 6) == ["light"] * 6

    run(tmp_path, scenario, side=side, n=n, max_batch=16)
    assert [int(line.split()[1]) for line in notes(tmp_path) if "predict" in line] == sizes


def test_more_images_than_may_wait_are_refused(tmp_path):
    async def scenario(one):
        first = one.ask("wait first", *["white"] * 5)
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="6 images are already waiting; try again in a second") as refused:
            await one.ask(*["white"] * 3)
        assert (refused.value.status, refused.value.headers) == (503, ((b"retry-after", b"1"),))
        let_go(tmp_path, "first")
        await first
        assert one.batcher.n_waiting == 0
        assert len(await one.ask(*["white"] * 8)) == 8

    run(tmp_path, scenario)


def test_an_image_that_breaks_a_batch_fails_alone(tmp_path):
    async def scenario(one):
        first = one.ask("wait first")
        rest = [one.ask(text) for text in ("nan", "white", "break no memory", "black", "text")]
        await asyncio.sleep(0)
        let_go(tmp_path, "first")
        given = await asyncio.gather(first, *rest, return_exceptions=True)
        assert [labels(given[place]) for place in (0, 2, 4, 5)] == [["light"], ["light"], ["dark"], ["not an image"]]
        assert [str(given[place]) for place in (1, 3)] == ["ValueError: non-finite", "RuntimeError: no memory"]
        assert all(isinstance(given[place], WorkerFailed) for place in (1, 3))
        assert one.causes == []

    run(tmp_path, scenario, max_batch=8)


def test_unreadable_images_keep_their_place_among_the_answers(tmp_path):
    async def scenario(one):
        images = [b"text", b"white", "said before", b"black"]
        answers = await one.batcher.submit(one.pool, images)
        assert labels(answers) == ["not an image", "light", "said before", "dark"]
        assert [answer.is_error for answer in answers] == [True, False, True, False]

    run(tmp_path, scenario)


def test_answers_that_cannot_be_noted_are_given(tmp_path):
    async def scenario(one):
        one.pool._on_batch = lambda *_: [][1]
        for _ in range(2):
            assert await one.labels("white") == ["light"]
        await one.until(lambda: len(one.said) == 2)
        assert set(one.said) == {("batch_not_noted", "IndexError: list index out of range")}

    run(tmp_path, scenario)


# Workers that end


def test_a_worker_that_is_killed_costs_nobody_an_answer(tmp_path):
    async def scenario(one):
        for number in range(3):
            asked = one.ask(f"wait {number}", "white")
            await one.until(lambda n=number: f"decode wait {n}" in notes(tmp_path))
            (worker,) = one.pool._workers
            os.kill(worker._process.get_pid(), signal.SIGKILL)
            let_go(tmp_path, str(number))
            assert labels(await asked) == ["light", "light"]
        assert one.causes == ["signal"] * 3
        assert one.said[0] == ("worker_ended", "a worker process was ended by SIGKILL; another one takes its place")

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("text", "said", "causes"),
    [
        ("end", "was ended by SIGKILL", ["signal"] * 2),
        ("fill 2000", "needed more memory than it may have", ["memory"]),
        ("work", "took longer than 0.3 s", ["time"]),
        ("hang", "took longer than 0.3 s", ["time"]),
    ],
)
@pytest.mark.parametrize("among_others", [False, True])
def test_an_image_that_ends_workers_costs_its_request_alone(tmp_path, text, said, causes, among_others):
    async def scenario(one):
        before = [one.ask("wait before"), one.ask("white")] if among_others else []
        bad = one.ask(text)
        after = [one.ask("white"), one.ask("black")]
        await asyncio.sleep(0)
        let_go(tmp_path, "before")
        with pytest.raises(Refused, match=f"the worker process that had this image {said}; try again") as refused:
            await bad
        assert refused.value.status == 503
        assert [labels(await task) for task in before] == [["light"]] * len(before)
        assert [labels(await task) for task in after] == [["light"], ["dark"]]
        assert one.causes == (causes if not among_others else [causes[0]] * 2)
        assert one.pool.trouble(60) is None

    run(tmp_path, scenario, seconds=0.3, memory_bytes=1 << 30)


def test_a_worker_that_ended_idle_is_replaced(tmp_path):
    async def scenario(one):
        (worker,) = one.pool._workers
        os.kill(worker._process.get_pid(), signal.SIGKILL)
        assert await one.labels("white") == ["light"]
        await one.until(lambda: one.causes == ["signal"])

    run(tmp_path, scenario)


def test_a_version_that_cannot_be_loaded_is_reported(tmp_path):
    with pytest.raises(RegistryError, match="pets version 1 cannot be loaded: OSError: no model"):
        run(tmp_path, None, side=0, n=2)


def test_a_version_that_cannot_be_explained_is_reported(tmp_path):
    with pytest.raises(RegistryError, match="pets version 1 cannot be explained: .* serve it without --explain"):
        run(tmp_path, None, explains=True)


# What is done for nobody


@pytest.mark.parametrize("how", ["cancelled", "too late"])
def test_images_of_a_disconnected_client_are_not_decoded(tmp_path, how):
    async def scenario(one):
        first = asyncio.ensure_future(Batcher(max_waiting=9, seconds=60).submit(one.pool, [b"wait first"]))
        await asyncio.sleep(0)
        gone = one.ask("white", "white")
        await asyncio.sleep(0)
        assert one.pool.trouble(60) is None
        await asyncio.sleep(0.02)
        assert one.pool.trouble(0.01).startswith("the oldest image has waited 0.0 s for a worker")
        if how == "cancelled":
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        else:
            with pytest.raises(Refused, match=r"the images were not answered within 0\.3 s"):
                await gone
        assert (one.batcher.n_waiting, one.pool.trouble(0.01)) == (0, None)
        let_go(tmp_path, "first")
        assert labels(await first) == ["light"]
        assert await one.labels("black") == ["dark"]

    run(tmp_path, scenario, request_seconds=0.3 if how == "too late" else 60.0)
    assert [line for line in notes(tmp_path) if "decode" in line] == ["decode wait first", "decode black"]


def test_retired_workers_answer_what_they_have_and_end(tmp_path):
    async def scenario(one):
        asked = [one.ask("wait first"), one.ask("white")]
        await asyncio.sleep(0)
        one.pool.retire()
        let_go(tmp_path, "first")
        assert [labels(await task) for task in asked] == [["light"], ["light"]]
        await one.until(lambda: not one.pool.n_workers)
        assert one.causes == []

    run(tmp_path, scenario)


# How many, and how large


@pytest.mark.parametrize(
    ("cores", "gigabytes", "n_workers", "megabytes"),
    [(1, 64, 2, 2048), (8, 64, 8, 2048), (8, 2, 4, 256), (2, 2, 2, 640), (64, 0.5, 2, 256), (4, None, 4, 2048)],
)
def test_cores_and_memory_decide_on_the_workers(monkeypatch, cores, gigabytes, n_workers, megabytes):
    monkeypatch.setattr(server, "usable_cores", lambda: cores)
    monkeypatch.setattr(server, "usable_memory", lambda: None if gigabytes is None else int(gigabytes * (1 << 30)))
    n = server.n_workers_of()
    assert (n, server.worker_bytes_of(n) >> 20) == (n_workers, megabytes)
