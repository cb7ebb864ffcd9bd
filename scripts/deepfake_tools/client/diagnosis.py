"""What the management port knows of a model: why requests fail, whether it is the only one."""

from pathlib import Path
from urllib.parse import urlsplit

from deepfake_tools.errors import (
    ModelNotServedError,
    NoWorkerError,
    ServerBusyError,
    ServiceError,
    TimeLimitError,
)
from deepfake_tools.torchserve.api import ManagementAPI
from deepfake_tools.torchserve.connection import Purpose
from deepfake_tools.torchserve.tokens import find_key, fresh_key

# A look at the management port explains a failure; it must not make the user wait again.
EXPLAIN_SECONDS = 5.0


def only_model(
    server: str, management: str, key_file: Path | None, ca: Path | None = None
) -> str | None:
    """Returns the name of the one model that is served; None where several are, or nobody says.

    Args:
        server: The inference API's address.
        management: The management API's address.
        key_file: TorchServe's key file (--key-file).
        ca: A file with the certificates to trust over https.
    """
    if urlsplit(server).hostname != urlsplit(management).hostname:
        return None  # what another machine serves says nothing of this one
    try:
        token = fresh_key(Purpose.MANAGEMENT, key_file, management, ca)
        models = ManagementAPI(management, token, EXPLAIN_SECONDS, ca).models()
    except ServiceError:
        return None
    return models[0].name if len(models) == 1 else None


class Diagnosis:
    """Explains failures of requests to one model.

    Args:
        name: The served name.
        version: The version that is asked; the default one if None.
        server: The inference API's address.
        management: The management API's address.
        key_file: TorchServe's key file (--key-file).
        ca: A file with the certificates to trust over https.
    """

    def __init__(
        self,
        name: str,
        version: str | None,
        server: str,
        management: str,
        key_file: Path | None,
        ca: Path | None = None,
    ) -> None:
        self._name = name
        self._version = version
        self._server = server
        self._management = management
        self._key_file = key_file
        self._ca = ca

    def explain(self, error: ServiceError) -> ServiceError:
        """Returns the failure's cause, or the failure where the management port is mute."""
        if not isinstance(error, ModelNotServedError | ServerBusyError | TimeLimitError):
            return error
        try:
            token = find_key(Purpose.MANAGEMENT, self._key_file)
            management = ManagementAPI(self._management, token, EXPLAIN_SECONDS, self._ca)
            if isinstance(error, ModelNotServedError):
                return self._not_served(management)
            return self._without_workers(management) or error
        except ServiceError:
            return error

    def _not_served(self, management: ManagementAPI) -> ServiceError:
        names = [model.name for model in management.models()]
        if self._version is not None and self._name in names:
            found = ", ".join(one.version for one in management.versions(self._name))
            return ModelNotServedError(
                f"version {self._version} of {self._name} is not served; {self._server} serves "
                f"version {found}"
            )
        served = ", ".join(names) or "no model at all"
        return ModelNotServedError(f"{self._name} is not served; {self._server} serves {served}")

    def _without_workers(self, management: ManagementAPI) -> ServiceError | None:
        version = management.version(self._name, self._version)
        if version.ready_workers:
            return None
        workers = ", ".join(worker.status for worker in version.workers) or "none"
        return NoWorkerError(
            f"{self._name} version {version.version} has no running worker (workers: {workers}): "
            "it is still starting, could not start (the reason is in the server's "
            "logs/model_log.log), or was scaled to none (`python scripts/manage.py scale` brings "
            "it back)"
        )
