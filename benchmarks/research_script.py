"""A job with one image in, its logits out: a process that loads everything anew, as scripts do."""

import sys
from pathlib import Path

import msgspec

from benchmarks.jobs import RivalJob
from benchmarks.transformers_judge import TransformersJudge


def main() -> None:
    """Does the job that the command line names."""
    import torch

    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=RivalJob)
    judge = TransformersJudge(job, "cuda" if torch.cuda.is_available() else "cpu")
    for image in job.images:
        print(
            msgspec.json.encode(judge.judge([judge.prepare(Path(image).read_bytes())])[0]).decode()
        )


if __name__ == "__main__":
    main()
