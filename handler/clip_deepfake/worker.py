"""A batch of questions in, as many answers out, whatever happens to one of them.

The steps have the names that TorchServe's users look for.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clip_deepfake.budget import Refusals, refuse_excess
from clip_deepfake.detector import Detector, Examined
from clip_deepfake.errors import DetectorError, EngineLostError, InternalError
from clip_deepfake.loading import load_detector
from clip_deepfake.metrics import Increment, Tally, Timings
from clip_deepfake.protocol import Answer, Request, form_answer, parse_request
from clip_deepfake.questions import Question
from clip_deepfake.verdicts import Verdict

logger = logging.getLogger(__name__)

UNEXPECTED = InternalError("the request could not be answered; the server's log says why")

DESCRIBE = Request(images=())
"""A question about the worker itself, which may share a batch with those about images."""


@dataclass(frozen=True)
class Batch:
    """An answered batch.

    Attributes:
        questions: that were asked.
        answers: one for each of them, in order.
        examined: what was found out about their images, in the order of the questions; a question
            that held none has its fault there.
        seconds: that all of it took.
    """

    questions: Sequence[Question]
    answers: Sequence[Answer]
    examined: Examined
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
        results, timings = self.examined.results, self.examined.timings
        fields: dict[str, object] = {
            "requests": len(self.questions),
            "images": len(results),
            "ids": [question.id for question in self.questions],
            "statuses": [answer.status for answer in self.answers],
            "ms": _milliseconds(self.seconds),
        }
        for stage, spent in timings.stages():
            if spent.pictures:
                fields[f"{stage}_ms"] = _milliseconds(spent.seconds)
        if refused := [result.code for result in results if isinstance(result, DetectorError)]:
            fields["refused"] = refused
        return json.dumps(fields)


class Worker:
    """Answers for one detector.

    Attributes:
        identity: its short name, part of every verdict.
    """

    def __init__(self, detector: Detector) -> None:
        """Takes a loaded detector."""
        self._detector = detector
        self._tally = Tally()
        self.identity = detector.card.short() | {"engine": detector.engine.name}

    def answer(self, questions: Sequence[Question]) -> Batch:
        """Answers a batch.

        Args:
            questions: in any mixture.

        Raises:
            EngineLostError: when this process will compute nothing more.
        """
        begun = time.perf_counter()
        requests = self.preprocess(questions)
        examined = self.inference(requests)
        answers = self.postprocess(requests, examined.results)
        batch = Batch(questions, answers, examined, time.perf_counter() - begun)
        if batch.predictions:
            self._tally.add(batch.predictions, examined.results, examined.timings)
        return batch

    def report(self, send: Callable[[Increment], None]) -> None:
        """Hands on what the counters have grown by, as ``Tally.report`` does."""
        self._tally.report(send)

    def preprocess(self, questions: Sequence[Question]) -> list[Request]:
        """Finds the images in each question, and refuses those that exceed a budget of pixels."""
        requests = [self._parse(question) for question in questions]
        # A single one has a limit of its own, and needs no sum.
        if all(len(request.images) <= 1 for request in requests):
            return requests
        return self._bounded(requests)

    def _bounded(self, requests: Sequence[Request]) -> list[Request]:
        images = [image for request in requests for image in request.images]
        found = iter(
            self._detector.measure([one for one in images if not isinstance(one, DetectorError)])
        )
        measured = [
            [image if isinstance(image, DetectorError) else next(found) for image in request.images]
            for request in requests
        ]
        pixels = [[one if isinstance(one, int) else 0 for one in row] for row in measured]
        refusals = refuse_excess(pixels, self._detector.card.limits)
        return [_replace_faulty(*parts) for parts in zip(requests, measured, refusals, strict=True)]

    def _parse(self, question: Question) -> Request:
        if question.describe:
            return DESCRIBE
        try:
            return parse_request(question, max_images=self._detector.card.limits.max_images)
        except Exception:
            logger.exception("request %s could not be read", question.id)
            return Request((UNEXPECTED,), question.kserve)

    def inference(self, requests: Sequence[Request]) -> Examined:
        """Judges the images of all requests in one pass; faults found before stay in place."""
        flat = [image for request in requests for image in request.images]
        examined = self._examine([image for image in flat if not isinstance(image, DetectorError)])
        judged = iter(examined.results)
        results = (image if isinstance(image, DetectorError) else next(judged) for image in flat)
        return Examined(tuple(results), examined.timings)

    def _examine(self, images: Sequence[bytes | bytearray]) -> Examined:
        try:
            return self._detector.examine(images)
        except EngineLostError:
            raise
        except Exception:
            logger.exception("%d images could not be examined", len(images))
            return Examined((UNEXPECTED,) * len(images), Timings())

    def postprocess(
        self, requests: Sequence[Request], results: Sequence[Verdict | DetectorError]
    ) -> list[Answer]:
        """Hands each request its own results."""
        rest = iter(results)
        return [self._answer(request, [next(rest) for _ in request.images]) for request in requests]

    def _answer(self, request: Request, results: Sequence[Verdict | DetectorError]) -> Answer:
        if request is DESCRIBE:
            return Answer(200, json.dumps({"pid": os.getpid(), "detector": self.identity}))
        try:
            return form_answer(request, results, self.identity)
        except Exception:
            logger.exception("no answer could be formed of %s", results)
            return form_answer(request, [UNEXPECTED] * len(results), self.identity)


def _replace_faulty(
    request: Request, measured: Sequence[int | DetectorError], refusals: Refusals
) -> Request:
    """Puts what was found at fault with images in their places."""
    if not request.images:
        return request
    images = tuple(
        found if isinstance(found, DetectorError) else refusal or image
        for image, found, refusal in zip(request.images, measured, refusals, strict=True)
    )
    return replace(request, images=images)


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 1)


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
    return Worker(load_detector(directory, gpu_id, threads))
