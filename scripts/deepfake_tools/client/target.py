"""Whom the client asks, and how insistently."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from deepfake_tools.client.payloads import Change
from deepfake_tools.inspection import served_name
from deepfake_tools.torchserve.tokens import Credentials

SHORTEST_ATTEMPT_SECONDS = 5.0


@dataclass(frozen=True)
class Target:
    """Whom to ask, and how insistently.

    Attributes:
        model: The served name.
        version: The version to ask; the default one if None.
        server: The inference API's address.
        management: The management API's address.
        credentials: The inference token.
        key_file: TorchServe's key file (--key-file).
        seconds: How long to wait for an image's answer, all attempts together.
        retries: How many times a request is repeated.
        concurrency: Most requests on their way at a time.
        ca: A file with the certificates to trust over https.
        cut: Leaves the face of each image; None sends images as they are.
    """

    model: str
    version: str | None
    server: str
    management: str
    credentials: Credentials
    key_file: Path | None
    seconds: float
    retries: int
    concurrency: int
    ca: Path | None = None
    cut: Change | None = None

    @property
    def attempt_seconds(self) -> float:
        """For one attempt: a request that the server has lost must leave time to ask again."""
        return min(self.seconds, max(self.seconds / 4, SHORTEST_ATTEMPT_SECONDS))


def read_target(args: argparse.Namespace, cut: Change | None) -> Target:
    """Returns whom a command line asks.

    Args:
        args: With the options of connections, and --model, --version, --retries, --concurrency.
        cut: Leaves the face of each image; None sends images as they are.

    Raises:
        TokenError: A place that was named holds no usable token.
    """
    return Target(
        model=served_name(args.model),
        version=args.version,
        server=args.server,
        management=args.management,
        credentials=Credentials(args.token_file, args.key_file, args.management, args.ca),
        key_file=args.key_file,
        seconds=args.timeout,
        retries=args.retries,
        concurrency=args.concurrency,
        ca=args.ca,
        cut=cut,
    )
