"""The rival server: LitServe, which answers until it is ended.

As LitServe's documentation serves images ("Speed up serving by 200x", its batched form): base64 in
JSON, decoded and preprocessed on a pool of threads in `batch`, one worker, batches of 8, 10 ms.
"""

import base64
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import litserve
import msgspec

from benchmarks.predictors import open_predictor
from benchmarks.processes import RivalJob

BATCH_TIMEOUT_S = 0.01
REQUEST_TIMEOUT_S = 120


class DetectorAPI(litserve.LitAPI):
    """The detector as LitServe wants it."""

    def __init__(self, job: RivalJob) -> None:
        super().__init__(max_batch_size=job.batch_size, batch_timeout=BATCH_TIMEOUT_S)
        self._job = job

    def setup(self, device: str) -> None:
        """Loads the model, in the worker process."""
        self._predictor = open_predictor(self._job, device)
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def decode_request(self, request: dict[str, str]) -> str:
        """Finds the image in the request."""
        return request["image_data"]

    def batch(self, inputs: Sequence[str]) -> list[Any]:
        """Decodes and prepares the images, several at a time."""
        return list(self._pool.map(self._prepare, inputs))

    def _prepare(self, text: str) -> Any:
        return self._predictor.prepare(base64.b64decode(text))

    def predict(self, x: Sequence[Any]) -> list[list[float]]:
        """Computes the logits."""
        return self._predictor.predict(x)

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """Gives each request its own."""
        return output

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        """Forms the answer."""
        return {"logits": output}


def main() -> None:
    """Serves what the job that the command line names asks for."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads its standard output
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=RivalJob)
    server = litserve.LitServer(
        DetectorAPI(job), accelerator="auto", workers_per_device=1, timeout=REQUEST_TIMEOUT_S
    )
    server.run(host="127.0.0.1", port=job.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
