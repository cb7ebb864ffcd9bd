"""Asks one model about images: what is asked again, how long, and when a run is given up."""

import dataclasses
import random
import threading
import time
from collections.abc import Sequence
from itertools import count
from typing import ClassVar

from deepfake_tools.canary import canary_image
from deepfake_tools.client.concurrency import Throttle
from deepfake_tools.client.diagnosis import explain
from deepfake_tools.client.face_crops import AlignedTwiceError, shows_alignment
from deepfake_tools.client.payloads import PendingImage, group, read_image
from deepfake_tools.client.target import Target
from deepfake_tools.errors import (
    ImageRefusedError,
    RequestTooLargeError,
    ServerBusyError,
    ServerUnreachableError,
    ServiceError,
    TokenError,
    WorkerFailedError,
)
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.torchserve.answers import DetectorInfo, ServedVerdict
from deepfake_tools.torchserve.api import InferenceAPI
from deepfake_tools.torchserve.connection import Token

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
LOST_IN_A_ROW = 5

UNKNOWN = DetectorInfo("", None, "", "", "", "", orientation="opencv-4")
"""Stands for one that has refused what it was asked about so far, and with it a faceless image."""


class DetectorChangedError(ServiceError):
    """The answers come from another detector than before, and one figure cannot hold for both."""

    exit_code: ClassVar[int] = 18
    meaning: ClassVar[str] = "another detector answered in the middle of a run"
    kind = "detector_changed"
    is_general = True


class Asker:
    """Asks one model about images; threads share it.

    Args:
        target: Whom to ask, and how insistently.
        throttle: Says whether anything was answered so far, and waits.
        detector: What an earlier session's answers came from.

    Attributes:
        detector: What the answers come from; None before the first verdict.
    """

    def __init__(
        self,
        target: Target,
        throttle: Throttle,
        detector: DetectorInfo | None = None,
    ) -> None:
        self._target = target
        self._throttle = throttle
        self._own = threading.local()
        self._lock = threading.Lock()
        self._introduction = threading.Lock()
        self._lost = 0
        self.detector = detector

    def ask(self, images: Sequence[PendingImage]) -> list[Outcome]:
        """Asks about some images, in as few requests as their size allows.

        Returns:
            What became of each.

        Raises:
            ServiceError: Every later request would fail in the same way.
            RunEndedError: The run is over.
        """
        outcomes = []
        loaded = []
        changed = any(image.changes for image in images)
        detector = self._introduced() if changed else None
        for image in images:
            try:
                loaded.append((image, read_image(image, detector)))
            except ServiceError as error:
                outcomes.append(_outcome(image, error, 0.0))
        for together in group(loaded):
            outcomes += self._ask_several(together)
        return outcomes

    def ask_why(self, image: PendingImage) -> ServedVerdict:
        """Asks what the verdict on one image is made of, until there is an answer.

        Returns:
            The verdict with its explanation.

        Raises:
            ServiceError: There is none; of kind `not_implemented` where the archive has none.
            RunEndedError: The run is over.
        """
        body = read_image(image, self._introduced() if image.changes else None)
        result, *_ = self._insist(body, explained=True)
        self._throttle.note_answers(_is_answer(result))
        if isinstance(result, ServiceError):
            raise result
        return result

    def _introduced(self) -> DetectorInfo:
        """Returns the detector that images are prepared for, asking it about one of our own first.

        Raises:
            ServiceError: It did not answer.
        """
        with self._introduction:
            if self.detector is None:
                result, *_ = self._insist(canary_image())
                if isinstance(result, ServiceError) and not _is_answer(result):
                    raise result
        return self.detector or UNKNOWN

    def _ask_several(self, images: Sequence[tuple[PendingImage, bytes]]) -> list[Outcome]:
        """Asks in one request; when that fails, about each image by itself.

        Of several images one may be what kills the worker, or makes the request too large.
        """
        if len(images) == 1:
            return [self._ask_one(*images[0])]
        start = time.monotonic()
        try:
            results = self._attempt([body for _, body in images], self._target.attempt_seconds)
        except ServiceError as error:
            if error.is_general:
                raise explain(error, self._target) from error
            alone = [self._ask_one(*image) for image in images]
            return [dataclasses.replace(alone[0], retries=alone[0].retries + 1), *alone[1:]]
        seconds = time.monotonic() - start
        self._throttle.note_answers(len(results))
        return [
            _outcome(image, result, seconds)
            for (image, _), result in zip(images, results, strict=True)
        ]

    def _ask_one(self, image: PendingImage, body: bytes) -> Outcome:
        result, seconds, retries = self._insist(body)
        self._throttle.note_answers(_is_answer(result))
        return _outcome(image, result, seconds, retries)

    def _insist(
        self, image: bytes, *, explained: bool = False
    ) -> tuple[ServedVerdict | ServiceError, float, int]:
        """Asks about one image until there is an answer, or none to be expected.

        Args:
            image: An image file's bytes.
            explained: Whether to ask for an explanation too.

        Returns:
            The verdict, or why there is none; the last request's seconds; the requests before it.
        """
        deadline = time.monotonic() + self._target.seconds
        for retries in count():
            start = time.monotonic()
            limit = min(self._target.attempt_seconds, max(deadline - start, 0.001))
            try:
                (result,) = self._attempt([image], limit, explained=explained)
                return result, time.monotonic() - start, retries
            except ServiceError as error:
                failure = error
            # Of many clients that one failure hit together, each comes back at a time of its own.
            pause = min(FIRST_PAUSE_SECONDS * 2**retries, LONGEST_PAUSE_SECONDS)
            pause *= random.uniform(0.5, 1)
            out_of_time = time.monotonic() + pause >= deadline
            if not self._may_pass(failure) or retries >= self._target.retries or out_of_time:
                break
            self._throttle.rest(pause)
        seconds = time.monotonic() - start
        return self._lose(failure), seconds, retries

    def _may_pass(self, failure: ServiceError) -> bool:
        """Whether to ask again.

        Raises:
            NoWorkerError: Nothing was answered so far, and there is no worker to answer.
        """
        if self._throttle.has_answers:
            # A server that has answered is not at a wrong address: it is being restarted.
            return failure.is_passing or isinstance(failure, ServerUnreachableError)
        if failure.is_passing:
            cause = explain(failure, self._target)
            if cause is not failure:
                raise cause
        return failure.is_passing

    def _lose(self, failure: ServiceError) -> ServiceError:
        """Takes note of an image without an answer, and returns why it has none.

        Raises:
            ServiceError: The failure is not this image's alone.
        """
        if failure.is_general or isinstance(failure, ServerBusyError):
            raise explain(failure, self._target)
        with self._lock:
            self._lost += 1
            lost = self._lost
        cause = explain(failure, self._target)
        if cause.is_general or lost >= LOST_IN_A_ROW:
            raise cause
        return cause

    def _attempt(
        self, images: Sequence[bytes], limit: float, *, explained: bool = False
    ) -> list[ServedVerdict | ServiceError]:
        """Sends one request, and once more when its token was refused and there is a new one."""
        api, token = self._api()
        try:
            results = self._send(api, images, limit, explained=explained)
        except TokenError:
            if not self._target.credentials.replace(token):
                raise
            api, _ = self._api()
            results = self._send(api, images, limit, explained=explained)
        for result in results:
            if self._target.cut is not None and shows_alignment(result):
                raise AlignedTwiceError(self._target.model)
            if isinstance(result, ServedVerdict):
                self._check_detector(result.detector)
        with self._lock:
            self._lost = 0
        return results

    def _send(
        self, api: InferenceAPI, images: Sequence[bytes], limit: float, *, explained: bool
    ) -> list[ServedVerdict | ServiceError]:
        if len(images) > 1:
            return api.predict_several(
                self._target.model, images, version=self._target.version, timeout=limit
            )
        ask = api.explain if explained else api.predict
        try:
            return [ask(self._target.model, images[0], version=self._target.version, timeout=limit)]
        except ServiceError as error:
            if not _is_answer(error):
                raise
            return [error]

    def _api(self) -> tuple[InferenceAPI, Token | None]:
        """Returns this thread's own connection, which has the current token."""
        token = self._target.credentials.token
        if getattr(self._own, "token", self) != token:
            api = InferenceAPI(
                self._target.server, token, self._target.attempt_seconds, self._target.ca
            )
            self._own.api, self._own.token = api, token
        return self._own.api, token

    def _check_detector(self, found: DetectorInfo) -> None:
        """Makes sure that all answers come from one detector.

        Raises:
            DetectorChangedError: They do not; another engine under it makes no difference.
        """
        with self._lock:
            if self.detector is None:
                self.detector = found
        known = self.detector
        if dataclasses.replace(found, engine=known.engine) != known:
            raise DetectorChangedError(
                f"{self._target.model} answers as {_in_words(found)} now, and answered as "
                f"{_in_words(known)} before: one run cannot hold both"
            )


def _is_answer(result: ServedVerdict | ServiceError) -> bool:
    """Whether it is the server's own word on this one image, be it a refusal."""
    if isinstance(result, WorkerFailedError):
        return result.kind != WorkerFailedError.kind
    return isinstance(result, ServedVerdict | ImageRefusedError | RequestTooLargeError)


def _in_words(detector: DetectorInfo) -> str:
    commit = "" if detector.commit is None else f", commit {detector.commit[:8]}"
    return (
        f"version {detector.version} of {detector.model}{commit} ({detector.head} head, "
        f"{detector.precision})"
    )


def _outcome(
    pending: PendingImage, result: ServedVerdict | ServiceError, seconds: float, retries: int = 0
) -> Outcome:
    outcome = Outcome(
        index=pending.index,
        path=pending.image.path,
        label=pending.image.label,
        folder=pending.image.folder,
        variant=pending.variant,
        prediction=None,
        fake_probability=None,
        seconds=seconds,
        retries=retries,
        **pending.image.in_video,
    )
    if isinstance(result, ServedVerdict):
        return dataclasses.replace(
            outcome,
            prediction=result.prediction,
            fake_probability=result.fake_probability,
            margin=result.margin,
            decision=result.decision,
            false_alarm_rate=result.false_alarm_rate,
            faces=result.faces,
        )
    return dataclasses.replace(
        outcome,
        error=result.kind,
        message=str(result),
        exit_code=result.exit_code,
        is_passing=result.is_passing,
    )
