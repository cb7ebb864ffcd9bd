"""What the management port knows of a model: why requests fail, whether it is the only one."""

from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from deepfake_tools.client.target import Target
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


def ready_models(target: Target) -> list[str]:
    """Returns the names of the models whose default version takes requests, in order.

    Args:
        target: The server; which model makes no difference.

    Raises:
        ServiceError: The management port does not say.
    """
    token = fresh_key(Purpose.MANAGEMENT, target.key_file, target.management, target.ca)
    management = ManagementAPI(target.management, token, EXPLAIN_SECONDS, target.ca)
    ready = []
    for model in management.models():
        with suppress(ModelNotServedError):  # it was removed meanwhile
            if management.version(model.name).ready_workers:
                ready.append(model.name)
    return sorted(ready)


def explain(error: ServiceError, target: Target) -> ServiceError:
    """Returns a failure's cause, or the failure where the management port is mute.

    Args:
        error: What failed a request, for good or again and again.
        target: Whom the request went to.
    """
    if not isinstance(error, ModelNotServedError | ServerBusyError | TimeLimitError):
        return error
    try:
        token = find_key(Purpose.MANAGEMENT, target.key_file)
        management = ManagementAPI(target.management, token, EXPLAIN_SECONDS, target.ca)
        if isinstance(error, ModelNotServedError):
            return _not_served(target, management)
        return _without_workers(target, management) or error
    except ServiceError:
        return error


def _not_served(target: Target, management: ManagementAPI) -> ServiceError:
    names = [model.name for model in management.models()]
    if target.version is not None and target.model in names:
        found = ", ".join(one.version for one in management.versions(target.model))
        return ModelNotServedError(
            f"version {target.version} of {target.model} is not served; {target.server} serves "
            f"version {found}"
        )
    served = ", ".join(names) or "no model at all"
    return ModelNotServedError(f"{target.model} is not served; {target.server} serves {served}")


def _without_workers(target: Target, management: ManagementAPI) -> ServiceError | None:
    version = management.version(target.model, target.version)
    if version.ready_workers:
        return None
    workers = ", ".join(worker.status for worker in version.workers) or "none"
    return NoWorkerError(
        f"{target.model} version {version.version} has no running worker (workers: {workers}): "
        "it is still starting, could not start (the reason is in the server's "
        "logs/model_log.log), or was scaled to none (`python scripts/manage.py scale` brings "
        "it back)"
    )
