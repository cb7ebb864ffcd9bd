"""What can go wrong in a command that asks TorchServe: a class and an exit code each."""

from typing import ClassVar


class ServiceError(Exception):
    """A failure that its one-line message explains, remedy included.

    Attributes:
        exit_code: What a command ends with. The more requests a failure concerns, the higher its
            code, so that of several failures the highest code says most.
        meaning: The failure in a few words, for a command's --help.
        kind: The failure in one word, to count it by; the detector's own code where it gave one.
        is_general: Whether every later request would fail in the same way.
        is_passing: Whether the same request may succeed a moment later.
    """

    exit_code: ClassVar[int]
    meaning: ClassVar[str]
    kind: str
    is_general: ClassVar[bool] = False
    is_passing: bool = False


class ImageRefusedError(ServiceError):
    """This image cannot be judged: it cannot be read here, or the detector refused it."""

    exit_code = 1
    meaning = "an image could not be read, or the detector refused it"
    kind = "unreadable"

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class RequestTooLargeError(ServiceError):
    """TorchServe took no request of this size (413 with no body)."""

    exit_code = 3
    meaning = "an image is larger than the server takes"
    kind = "request_too_large"


class ServerBusyError(ServiceError):
    """TorchServe took no more requests for the model: its queue is full, or no worker runs.

    TorchServe's answer is the same in both cases; the workers' status tells them apart.
    """

    exit_code = 4
    meaning = "the model's queue is full"
    kind = "queue_full"
    is_passing = True


class WorkerFailedError(ServiceError):
    """The worker died, or its handler failed, with this request in hand."""

    exit_code = 5
    meaning = "a worker died or failed on a request"
    kind = "worker_failed"

    def __init__(
        self, message: str, kind: str = "worker_failed", *, is_passing: bool = False
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_passing = is_passing


class ConnectionLostError(ServiceError):
    """The server took the request and hung up without an answer."""

    exit_code = 6
    meaning = "the connection broke before the answer"
    kind = "connection_lost"
    is_passing = True


class TimeLimitError(ServiceError):
    """No answer within the time limit."""

    exit_code = 7
    meaning = "no answer within the time limit"
    kind = "time_limit"
    is_passing = True


class RequestRefusedError(ServiceError):
    """TorchServe refused the request for a reason of its own, such as a version that exists.

    Attributes:
        status: The HTTP status, 409 for a version that is registered already.
    """

    exit_code = 8
    meaning = "the server refused a request"
    kind = "refused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NoWorkerError(ServiceError):
    """The model is registered, and no worker of it came up."""

    exit_code = 9
    meaning = "the model has no running worker"
    kind = "no_worker"
    is_general = True


class ModelNotServedError(ServiceError):
    """The server knows no such model or version."""

    exit_code = 10
    meaning = "the model is not served"
    kind = "not_served"
    is_general = True


class TokenError(ServiceError):
    """The token is missing, unreadable, expired or refused."""

    exit_code = 11
    meaning = "the token is missing, unreadable, expired or refused"
    kind = "token"
    is_general = True


class UnexpectedAnswerError(ServiceError):
    """What answered does not speak as TorchServe and the detector do."""

    exit_code = 12
    meaning = "the answer is not one that TorchServe or the detector gives"
    kind = "unexpected_answer"


class ServerUnreachableError(ServiceError):
    """No connection could be made."""

    exit_code = 13
    meaning = "no server answers at the address"
    kind = "unreachable"
    is_general = True


class OutputError(ServiceError):
    """What was found out cannot be written down."""

    exit_code = 14
    meaning = "the results file cannot be written"
    kind = "output"
    is_general = True


FAILURES: tuple[type[ServiceError], ...] = (
    ImageRefusedError,
    RequestTooLargeError,
    ServerBusyError,
    WorkerFailedError,
    ConnectionLostError,
    TimeLimitError,
    RequestRefusedError,
    NoWorkerError,
    ModelNotServedError,
    TokenError,
    UnexpectedAnswerError,
    ServerUnreachableError,
    OutputError,
)


def exit_code_table() -> str:
    """Returns the exit codes as indented lines, for the end of a command's --help."""
    rows = [(0, "success"), (2, "wrong arguments")]
    rows += [(failure.exit_code, failure.meaning) for failure in FAILURES]
    lines = [f"  {code:>3}  {meaning}" for code, meaning in sorted(rows)]
    return "\n".join(["exit codes (of several failures, the highest):", *lines])


def one_line(text: object, limit: int = 300) -> str:
    """Returns what a server said as one printable line, since it may hold anything."""
    words = "".join(char if char.isprintable() else " " for char in str(text)).split()
    line = " ".join(words)
    return line if len(line) <= limit else line[: limit - 3] + "..."
