"""Get answers for the images of a request, with limits on number and time of waiting."""

import asyncio
from collections.abc import Sequence

from darkroom.serving.limits import busy
from darkroom.serving.pool import Pool
from darkroom.serving.worker_process import Answer, Group, Image, refusal


class Batcher:
    """Passes images to workers. For the event loop's thread only.

    Args:
        max_waiting: maximum number of accepted and unanswered images, over all versions.
        seconds: time limit for the answers of a request.
        advice: for clients that exceed it.

    Attributes:
        n_waiting: number of accepted and unanswered images.
    """

    def __init__(self, *, max_waiting: int, seconds: float, advice: str = "try again in a second") -> None:
        self._max_waiting = max_waiting
        self._seconds = seconds
        self._advice = advice
        self.n_waiting = 0

    async def submit(self, pool: Pool, images: Sequence[bytes | str], *, request_id: str = "") -> list[Answer]:
        """Return one answer per image, in order, all from this version. Cancelling it frees the images.

        Args:
            pool: the workers of a version.
            images: image files; text is the reason why a file is missing, and becomes the answer.
            request_id: for the log.

        Raises:
            Refused: too many images wait already; it takes too long; a worker ended with one of the images.
            WorkerFailed: the version's code failed.
        """
        n_images = sum(not isinstance(image, str) for image in images)
        if self.n_waiting + n_images > self._max_waiting:
            raise busy(f"{self.n_waiting} images are already waiting")
        answers = [refusal(image) if isinstance(image, str) else None for image in images]
        done: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        group = Group(request_id, answers, n_images, done)
        if not n_images:
            return group.complete()
        self.n_waiting += n_images
        try:
            pool.put(
                Image(group, position, image) for position, image in enumerate(images) if not isinstance(image, str)
            )
            async with asyncio.timeout(self._seconds):
                return await done
        except TimeoutError:
            raise busy(f"the images were not answered within {self._seconds:g} s", advice=self._advice) from None
        finally:
            self.n_waiting -= n_images
            if group.n_open:
                done.cancel()  # answers of workers are ignored from now on
                pool.drop(group)
