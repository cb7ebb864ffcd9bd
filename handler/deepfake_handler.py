"""TorchServe's entry point: a batch of requests in, as many JSON answers out."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import clip_deepfake
from clip_deepfake.cores import available_cores
from clip_deepfake.detector import load_detector
from clip_deepfake.errors import DetectorError, LoadError
from clip_deepfake.protocol import Answer, Request, form_answer, parse_request

logger = logging.getLogger(__name__)

DESCRIBE = Request(images=())
"""The management API's ``?customized=true``, which may share a batch with predictions."""


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
        version = context.manifest["model"]["modelVersion"]
        try:
            _refuse_foreign_package(directory)
            gpu_id = context.system_properties.get("gpu_id")
            self.detector = load_detector(directory, gpu_id, _threads(context))
        except Exception as error:
            reason = str(error) if isinstance(error, LoadError) else repr(error)
            line = " ".join(reason.split())
            logger.error("clip_deepfake load failed: %s %s: %s", context.model_name, version, line)
            raise RuntimeError(line) from error
        self.identity = self.detector.card.short() | {"engine": self.detector.engine.name}
        logger.info("clip_deepfake ready: %s", json.dumps(self.identity))

    def handle(self, data: Sequence[Mapping[str, object]], context: Any) -> list[str]:
        """Answers a batch of requests.

        Args:
            data: one row a request, its parts by name.
            context: TorchServe's; takes each answer's status and content type.

        Returns:
            One JSON text a row.
        """
        requests = self.preprocess(data, context)
        answers = self.postprocess(requests, self.inference(requests))
        for index, answer in enumerate(answers):
            context.set_response_status(answer.status, answer.phrase, index)
            context.set_response_content_type(index, "application/json")
        return [answer.body for answer in answers]

    def preprocess(self, data: Sequence[Mapping[str, object]], context: Any) -> list[Request]:
        """Finds the images in each row."""
        return [self._parse(row, context, index) for index, row in enumerate(data)]

    def _parse(self, row: Mapping[str, object], context: Any, index: int) -> Request:
        if context.get_request_header(index, "describe") == "True":
            return DESCRIBE
        return parse_request(
            row,
            explain=context.get_request_header(index, "explain") == "True",
            # TorchServe gives every path but KServe's a `url_path`, if an empty one.
            kserve=context.get_request_header(index, "url_path") is None,
            max_images=self.detector.card.limits.max_images,
        )

    def inference(self, requests: Sequence[Request]) -> list[Any]:
        """Judges the images of all requests in one pass; faults found before stay in place."""
        flat = [image for request in requests for image in request.images]
        judged = iter(
            self.detector.judge([image for image in flat if not isinstance(image, DetectorError)])
        )
        return [image if isinstance(image, DetectorError) else next(judged) for image in flat]

    def postprocess(self, requests: Sequence[Request], verdicts: Sequence[Any]) -> list[Answer]:
        """Hands each request its own verdicts."""
        rest = iter(verdicts)
        return [
            self._describe()
            if request is DESCRIBE
            else form_answer(request, [next(rest) for _ in request.images], self.identity)
            for request in requests
        ]

    def _describe(self) -> Answer:
        return Answer(200, json.dumps({"pid": os.getpid(), "detector": self.identity}))


def _threads(context: Any) -> int | None:
    """This worker's share of the processor; None where it has no sibling."""
    workers = int((context.model_yaml_config or {}).get("maxWorkers", 1))
    return None if workers == 1 else max(1, available_cores() // workers)


def _refuse_foreign_package(directory: Path) -> None:
    """Makes sure that the code that serves is the archive's, not an installed one of other age."""
    package = Path(clip_deepfake.__file__).resolve()
    if not package.is_relative_to(directory.resolve()):
        raise LoadError(
            f"clip_deepfake was imported from {package.parent}, not from the archive; start "
            "TorchServe without PYTHONPATH in its environment"
        )
