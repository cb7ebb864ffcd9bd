"""TorchServe's models in memory, behind the calls of ManagementAPI and InferenceAPI."""

from collections.abc import Callable

from deepfake_tools.errors import ModelNotServedError, RequestRefusedError
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.torchserve.answers import (
    DetectorInfo,
    ModelVersion,
    ServedModel,
    ServedVerdict,
    WorkerStatus,
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that is done after it has an effect."""


class FakeTorchServe:
    """One model's versions.

    Attributes:
        versions: The archive that each version was registered from.
        default: The one that answers when none is named.
        calls: The names of the calls so far.
        dies_at: The call with which the client is killed, counted from 0.
        dies_before: Whether that call no longer reached the server.
    """

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self.default: str | None = None
        self.workers: dict[str, int] = {}
        self.calls: list[str] = []
        self.dies_at: int | None = None
        self.dies_before = True

    def _call(self, name: str, step: Callable[[], object] = lambda: None) -> object:
        dies = self.dies_at is not None and len(self.calls) >= self.dies_at
        if dies and (self.dies_before or len(self.calls) > (self.dies_at or 0)):
            raise Killed
        self.calls.append(name)
        done = step()
        if dies:
            raise Killed
        return done

    def models(self) -> tuple[ServedModel, ...]:
        self._call("models")
        if self.default is None:
            return ()
        return (ServedModel("m", self.versions[self.default]),)

    def version(self, name: str, version: str | None = None) -> ModelVersion:
        self._call("version")
        return self._describe(version or self.default)

    def versions_of(self, name: str) -> tuple[ModelVersion, ...]:
        self._call("versions")
        return tuple(self._describe(version) for version in self.versions)

    def _describe(self, version: str | None) -> ModelVersion:
        if version is None or version not in self.versions:
            raise ModelNotServedError(f"Model version: {version} does not exist")
        count = self.workers[version]
        workers = tuple(WorkerStatus(str(n), "READY", 100 * int(version) + n) for n in range(count))
        return ModelVersion("m", version, self.versions[version], count, count, 1, 0, workers)

    def register(self, archive: str, workers: int, timeout: float | None = None) -> None:
        def step() -> None:
            version = ArchiveName.parse(archive).version
            if version in self.versions:
                raise RequestRefusedError("Model version is already registered", 409)
            self.versions[version] = archive
            self.workers[version] = workers
            self.default = self.default or version

        self._call("register", step)

    def scale(self, name: str, version: str, workers: int) -> None:
        self._call("scale", lambda: self.workers.update({version: workers}))

    def set_default(self, name: str, version: str) -> None:
        self._call("set_default", lambda: setattr(self, "default", version))

    def ask_handler(self, name: str, version: str, timeout: float | None = None) -> object:
        self._call("ask_handler")
        asked = self.calls.count("ask_handler")
        return {"pid": 100 * int(version) + asked % self.workers[version]}

    def unregister(self, name: str, version: str) -> None:
        def step() -> None:
            if version not in self.versions:
                raise ModelNotServedError("Model version does not exist")
            if version == self.default and len(self.versions) > 1:
                raise RequestRefusedError("cannot remove the default version", 403)
            del self.versions[version]
            self.default = self.default if self.versions else None

        self._call("unregister", step)

    def predict(
        self, name: str, body: bytes, *, version: str | None = None, timeout: float | None = None
    ) -> ServedVerdict:
        self._call("predict")
        answering = version or str(self.default)
        detector = DetectorInfo("m", None, answering, "untrained", "float32", "stub")
        return ServedVerdict("REAL", 0, 0.75, 0.25, detector)


class Management:
    """The same, where `versions` is the call."""

    def __init__(self, fake: FakeTorchServe) -> None:
        self._fake = fake
        self.versions = fake.versions_of

    def __getattr__(self, name: str) -> object:
        return getattr(self._fake, name)
