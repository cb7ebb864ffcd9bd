"""TorchServe's entry point: a batch of requests in, as many answers out, no exceptions."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import clip_deepfake
from clip_deepfake.errors import EngineLostError, LoadError
from clip_deepfake.questions import Answer, Question, read_question
from clip_deepfake.system import share_of_cores

if TYPE_CHECKING:
    from clip_deepfake.metrics import Increment
    from clip_deepfake.worker import Batch

logger = logging.getLogger(__name__)

LOST = 70
"""Exit code of a worker whose device is lost; TorchServe starts another in its place."""

COUNT_EVERY_S = 1.0

MODEL_LABELS = ["model_name", "model_version"]
"""Of every counter, as TorchServe's own have them."""

UNEXPECTED = Answer(
    500,
    json.dumps(
        {
            "error": {
                "code": "internal_error",
                "message": "the request could not be answered; the server's log says why",
            }
        }
    ),
)


class DeepfakeHandler:
    """Serves one archive in one worker process."""

    def initialize(self, context: Any) -> None:
        """Loads and tests the detector of the archive that TorchServe unpacked.

        Args:
            context: TorchServe's; its ``system_properties`` hold ``model_dir`` and ``gpu_id``.

        Raises:
            RuntimeError: when the archive must not serve. TorchServe keeps the reason to itself, so
                it is logged before, in one line that ``manage.py`` looks for.
        """
        directory = Path(context.system_properties["model_dir"])
        self.model = [context.model_name, context.manifest["model"]["modelVersion"]]
        try:
            _refuse_foreign_package(directory)
            # Not at the top: where a library is missing, the line below has to say so.
            from clip_deepfake.worker import open_worker

            gpu_id = context.system_properties.get("gpu_id")
            self.worker = open_worker(directory, gpu_id, _threads(context))
        except Exception as error:
            line = _reason(error)
            logger.error("clip_deepfake load failed: %s %s: %s", *self.model, line)
            raise RuntimeError(line) from error
        # TorchServe would make objects of a body of JSON, however many, before anybody has looked.
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"
        self.counters: dict[str, Any] = {}
        # TorchServe takes a counter as a line of the worker's log, each of which costs as much as
        # a resize: they are gathered for a second.
        Thread(target=self._keep_counting, args=(context.metrics,), daemon=True).start()
        logger.info("clip_deepfake ready: %s", json.dumps(self.worker.identity))

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[str | bytes]:
        """Answers a batch of requests.

        Args:
            data: one row a request, the bytes of its parts by name.
            context: TorchServe's; takes each answer's status and headers.

        Returns:
            One JSON text a row; bytes where tensors follow it.
        """
        try:
            batch = self.worker.answer(_questions(data, context))
        except EngineLostError as error:
            # Without an answer: TorchServe's own, that the worker died, is one to be asked again.
            logger.critical("clip_deepfake ends itself, its device is lost: %s", _reason(error))
            os._exit(LOST)
        except Exception:
            logger.exception("a batch of %d requests could not be answered", len(data))
            return self._send([UNEXPECTED] * len(data), context)
        self._report(batch, context.metrics)
        return self._send(batch.answers, context)

    def _send(self, answers: Sequence[Answer], context: Any) -> list[str | bytes]:
        for index, answer in enumerate(answers):
            context.set_response_status(answer.status, answer.phrase, index)
            for name, value in answer.headers.items():
                context.set_response_header(index, name, value)
        return [answer.body for answer in answers]

    def _report(self, batch: "Batch", metrics: Any) -> None:
        try:
            logger.info("clip_deepfake batch: %s", batch.line())
            if batch.describes:
                # Who is about to remove this worker asks that first, and nothing may be lost.
                self._count(metrics)
        except Exception:
            logger.exception("a batch was answered, but not reported")

    def _keep_counting(self, metrics: Any) -> None:
        while True:
            try:
                self._count(metrics)
            except Exception:
                logger.exception("the counters could not be reported")
            time.sleep(COUNT_EVERY_S)

    def _count(self, metrics: Any) -> None:
        """Hands TorchServe what the counters have grown by."""

        def send(increment: "Increment") -> None:
            counter = increment.counter
            if counter.name not in self.counters:
                self.counters[counter.name] = metrics.add_metric_to_cache(
                    counter.name, counter.unit, [counter.label, *MODEL_LABELS]
                )
            self.counters[counter.name].add_or_update(
                increment.amount, [increment.value, *self.model]
            )

        self.worker.report(send)


def _questions(data: Sequence[Mapping[str, Any]], context: Any) -> list[Question]:
    return [
        read_question(row, context.get_all_request_header(index), context.get_request_id(index))
        for index, row in enumerate(data)
    ]


def _reason(error: Exception) -> str:
    """Why a worker cannot go on, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory ({text}): the machine, or its container, has too little for this"
    if isinstance(error, ImportError):
        return f"{text}: install what the card lists as built_with"
    return (
        text
        if isinstance(error, LoadError | EngineLostError)
        else f"{type(error).__name__}: {text}"
    )


def _threads(context: Any) -> int | None:
    """This worker's share of the processor; None where it has no sibling."""
    return share_of_cores(int((context.model_yaml_config or {}).get("maxWorkers", 1)))


def _refuse_foreign_package(directory: Path) -> None:
    """Makes sure that the code that serves is the archive's, not an installed one of other age."""
    package = Path(clip_deepfake.__file__).resolve()
    if not package.is_relative_to(directory.resolve()):
        raise LoadError(
            f"clip_deepfake was imported from {package.parent}, not from the archive; start "
            "TorchServe without PYTHONPATH in its environment"
        )
