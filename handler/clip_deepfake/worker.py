"""Answers batches of questions, whatever happens to one of them.

The steps have the names that TorchServe's users look for.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clip_deepfake.card import Card, Limits, read_card
from clip_deepfake.detector import UNEXPECTED, Detector, Submission
from clip_deepfake.errors import DetectorError, EngineLostError, ImageTooLargeError
from clip_deepfake.loading import load_detector
from clip_deepfake.metrics import Increment, Tally, Timings
from clip_deepfake.protocol import Task, form_answer, read_task
from clip_deepfake.questions import Answer, Question
from clip_deepfake.verdicts import Verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """An answered batch.

    Attributes:
        questions: that were asked.
        answers: one for each of them, in order.
        results: of their images, in the order of the questions; a question that held none has its
            fault there.
        timings: what the images took.
        seconds: that all of it took.
    """

    questions: Sequence[Question]
    answers: Sequence[Answer]
    results: Sequence[Verdict | DetectorError]
    timings: Timings
    seconds: float

    @property
    def predictions(self) -> int:
        """How many questions were about images."""
        return sum(not question.describe for question in self.questions)

    @property
    def describes(self) -> bool:
        """Whether a question was about the worker."""
        return self.predictions < len(self.questions)

    def line(self) -> str:
        """The batch in one line of JSON for the log: names, sizes and times, and no image.

        Times are in milliseconds. A stage that ran on several threads has the sum of theirs.
        """
        fields: dict[str, object] = {
            "requests": len(self.questions),
            "images": len(self.results),
            "ids": [question.id for question in self.questions],
            "statuses": [answer.status for answer in self.answers],
            "ms": _milliseconds(self.seconds),
        }
        for stage, spent in self.timings.stages():
            if spent.pictures:
                fields[f"{stage}_ms"] = _milliseconds(spent.seconds)
        if refused := [result.code for result in self.results if isinstance(result, DetectorError)]:
            fields["refused"] = refused
        return json.dumps(fields)


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 1)


class Worker:
    """Answers for one detector.

    Attributes:
        identity: its short name, part of every verdict.
    """

    def __init__(self, detector: Detector, card: Card) -> None:
        """Takes a loaded detector and its card."""
        self._detector = detector
        self._limits = card.limits
        self._name = card.name
        self._fingerprint = card.fingerprint()
        self._tally = Tally()
        self.identity = {**card.short(), "engine": detector.engine.name}

    def answer(self, questions: Sequence[Question]) -> Batch:
        """Answers a batch.

        Args:
            questions: in any mixture.

        Raises:
            EngineLostError: when this process will compute nothing more.
        """
        begun = time.perf_counter()
        tasks = self.preprocess(questions)
        timings = self.inference(tasks)
        answers = self.postprocess(questions, tasks)
        results = [image.outcome for task in tasks for image in task.images]
        batch = Batch(questions, answers, results, timings, time.perf_counter() - begun)
        if batch.predictions:
            self._tally.add(batch.predictions, results, timings)
        return batch

    def report(self, send: Callable[[Increment], None]) -> None:
        """Hands on what the counters have grown by, as ``Tally.report`` does."""
        self._tally.report(send)

    def preprocess(self, questions: Sequence[Question]) -> list[Task]:
        """Finds each question's images, and refuses those that exceed a budget of pixels."""
        tasks = [self._read(question) for question in questions]
        images = [task.images for task in tasks]
        # A single one has a limit of its own, and needs no sum.
        if any(len(own) > 1 for own in images):
            self._detector.preparer.measure(
                [image for own in images for image in own if image.result is None]
            )
            refuse_excess(images, self._limits)
        return tasks

    def _read(self, question: Question) -> Task:
        plain = partial(form_answer, listed_as=question.listed_as)
        if question.describe:
            return Task([], plain)
        try:
            task = read_task(question, self._limits.max_images, self._name)
            self._detector.refuse_wishes(task.images)
            return task
        except Exception:
            logger.exception("request %s could not be read", question.id)
            return Task([Submission(result=UNEXPECTED)], plain)

    def inference(self, tasks: Sequence[Task]) -> Timings:
        """Judges the images of all questions in one pass; those with a result keep it."""
        together = [image for task in tasks for image in task.images]
        try:
            return self._detector.examine(together)
        except EngineLostError:
            raise
        except Exception:
            logger.exception("%d images could not be examined", len(together))
            return Timings()

    def postprocess(self, questions: Sequence[Question], tasks: Sequence[Task]) -> list[Answer]:
        """Answers each question with its images' results."""
        return [self._answer(*pair) for pair in zip(questions, tasks, strict=True)]

    def _answer(self, question: Question, task: Task) -> Answer:
        if question.describe:
            return Answer(200, json.dumps(self._description()))
        results = [image.outcome for image in task.images]
        try:
            return task.reply(results, self.identity)
        except Exception:
            logger.exception("no answer could be formed of %s", results)
            return task.reply([UNEXPECTED] * len(results), self.identity)

    def _description(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "detector": self.identity,
            "fingerprint": self._fingerprint,
        }


def refuse_excess(requests: Sequence[Sequence[Submission]], limits: Limits) -> None:
    """Refuses the images that exceed their request's budget, or the batch's.

    A limit on each image alone bounds neither a request's time nor its memory: a file of 61 bytes
    may hold as many pixels as a photograph of 20 megabytes, and a request 32 of these.

    The first image of a request exceeds neither, so that one that is sent alone depends on no
    other's. Of the batch's budget the smaller requests have theirs first.

    Args:
        requests: the images of each, measured.
        limits: of the card.
    """
    batch = sum(images[0].cost for images in requests if images)
    for images in sorted(requests, key=lambda images: sum(image.cost for image in images)):
        request = sum(image.cost for image in images[:1])
        for image in images[1:]:
            if image.result is not None:
                continue
            if request + image.cost > limits.max_request_pixels:
                image.result = ImageTooLargeError(
                    f"with this image the request would hold {request + image.cost} pixels, over "
                    f"the limit of {limits.max_request_pixels}; send it in another one"
                )
            elif batch + image.cost > limits.max_batch_pixels:
                image.result = ImageTooLargeError(
                    f"with this image the requests that are answered together would hold "
                    f"{batch + image.cost} pixels, over the limit of {limits.max_batch_pixels}; "
                    "send it in a request of its own"
                )
            else:
                request, batch = request + image.cost, batch + image.cost


def open_worker(directory: Path, gpu_id: int | None, threads: int | None) -> Worker:
    """Loads and tests the detector of an unpacked archive.

    Args:
        directory: holds the card and the files that it names.
        gpu_id: the CUDA device to use, or None.
        threads: that prepare images, and that a CPU engine computes with; None takes every core
            that this process may use.

    Raises:
        LoadError: when it must not serve.
    """
    detector = load_detector(directory, gpu_id, threads)
    return Worker(detector, read_card(directory))
