"""A row of a server's batch in, the same without the server's own types out."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """One request, as the server received it.

    Attributes:
        parts: its body, or its fields, by name.
        id: the server's name for it.
        describe: whether the worker is asked about itself.
        explain: whether an explanation is asked for.
        kserve: whether it came by KServe's v1 path.
    """

    parts: Mapping[str, object]
    id: str | None = None
    describe: bool = False
    explain: bool = False
    kserve: bool = False
