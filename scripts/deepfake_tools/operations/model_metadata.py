"""Health, readiness and metadata as KServe's v2 protocol has them: TorchServe has no such routes.

Strangers read these answers: they hold names, versions and tensors, and no reason for anything.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote

from clip_deepfake import __version__
from clip_deepfake.tensors import BINARY_EXTENSION, IMAGE, OUTPUTS, Tensor

from deepfake_tools.errors import ModelNotServedError
from deepfake_tools.operations.checks import UnwellError
from deepfake_tools.torchserve.api import ManagementAPI

ROOT = "/v2"
SERVER = {"name": "clip-deepfake", "version": __version__, "extensions": [BINARY_EXTENSION]}
PLATFORM = "clip_deepfake"

Answer = tuple[HTTPStatus, dict[str, object]]
"""A status, and what becomes the JSON."""


class _NotServedError(Exception):
    """A model, or a version of it, that the server does not have."""


@dataclass(frozen=True)
class VersionState:
    """A served version of a model.

    Attributes:
        name: The served name.
        version: The version.
        is_default: Whether it answers when no version is named.
        is_ready: Whether a worker of it takes requests.
    """

    name: str
    version: str
    is_default: bool
    is_ready: bool


def version_states(management: ManagementAPI) -> tuple[VersionState, ...]:
    """Returns every version of every model.

    Raises:
        ServiceError: The server does not answer, or takes no such token.
    """
    states: list[VersionState] = []
    for model in management.models():
        with suppress(ModelNotServedError):  # unregistered at this moment
            default = management.version(model.name).version
            states += [
                VersionState(v.name, v.version, v.version == default, v.ready_workers > 0)
                for v in management.versions(model.name)
            ]
    return tuple(states)


class Metadata:
    """Answers what the protocol has below /v2, but for inference.

    Args:
        ready: Raises UnwellError unless the server answers requests.
        live: Raises UnwellError unless its process answers at all.
        draining: Raises UnwellError while the server is being stopped.
        versions: Returns what is served, or raises UnwellError.
    """

    def __init__(
        self,
        ready: Callable[[], object],
        live: Callable[[], object],
        draining: Callable[[], object],
        versions: Callable[[], Sequence[VersionState]],
    ) -> None:
        self._health = {"live": live, "ready": ready}
        self._draining = draining
        self._versions = versions

    def answer(self, path: str) -> Answer | None:
        """Answers a request.

        Args:
            path: Without its query.

        Returns:
            None where the path is none of this protocol's.
        """
        parts = [unquote(part) for part in path.split("/")[1:]]
        try:
            return self._route(parts)
        except UnwellError:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the server does not answer"}
        except _NotServedError:
            return HTTPStatus.NOT_FOUND, {"error": "no such model, or no such version of it"}

    def _route(self, parts: Sequence[str]) -> Answer | None:
        match parts:
            case ["v2"]:
                return HTTPStatus.OK, dict(SERVER)
            case ["v2", "health", "live" | "ready" as what]:
                is_well = _is_well(self._health[what])
                return _status(is_well), {what: is_well}
            case ["v2", "models", name]:
                return self._describe(name, None)
            case ["v2", "models", name, "versions", version]:
                return self._describe(name, version)
            case ["v2", "models", name, "ready"]:
                return self._say_ready(name, None)
            case ["v2", "models", name, "versions", version, "ready"]:
                return self._say_ready(name, version)
            case ["v2", *_]:
                return _no_route()
        return None

    def _describe(self, name: str, version: str | None) -> Answer:
        states = self._versions_of(name)
        _pick(states, version)
        return HTTPStatus.OK, {
            "name": name,
            "versions": [state.version for state in states],
            "platform": PLATFORM,
            "inputs": [_tensor(IMAGE)],
            "outputs": [_tensor(output) for output in OUTPUTS],
        }

    def _say_ready(self, name: str, version: str | None) -> Answer:
        state = _pick(self._versions_of(name), version)
        is_ready = state.is_ready and _is_well(self._draining)
        return _status(is_ready), {"name": name, "ready": is_ready}

    def _versions_of(self, name: str) -> list[VersionState]:
        return [state for state in self._versions() if state.name == name]


def _pick(states: Sequence[VersionState], version: str | None) -> VersionState:
    """Returns the version of a model that is asked about: the default one if None.

    Raises:
        _NotServedError: There is none.
    """
    for state in states:
        if state.is_default if version is None else state.version == version:
            return state
    raise _NotServedError


def _no_route() -> Answer:
    return HTTPStatus.NOT_FOUND, {
        "error": f"ask for {ROOT}, {ROOT}/health/live, {ROOT}/health/ready, {ROOT}/models/NAME or "
        f"{ROOT}/models/NAME/ready; for verdicts at the server's inference port"
    }


def _is_well(check: Callable[[], object]) -> bool:
    try:
        check()
    except UnwellError:
        return False
    return True


def _status(is_well: bool) -> HTTPStatus:
    return HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE


def _tensor(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [-1]}
