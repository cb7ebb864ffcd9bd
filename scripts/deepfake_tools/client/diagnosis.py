"""Why requests to a model fail: not served, no worker, as the management port knows it."""

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
from deepfake_tools.torchserve.tokens import find_key

# A look at the management port explains a failure; it must not make the user wait again.
EXPLAIN_SECONDS = 5.0


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
        return _without_workers(target.model, management) or error
    except ServiceError:
        return error


def _not_served(target: Target, management: ManagementAPI) -> ServiceError:
    served = ", ".join(model.name for model in management.models()) or "no model at all"
    return ModelNotServedError(f"{target.model} is not served; {target.server} serves {served}")


def _without_workers(name: str, management: ManagementAPI) -> ServiceError | None:
    version = management.version(name)
    if version.ready_workers:
        return None
    workers = ", ".join(worker.status for worker in version.workers) or "none"
    return NoWorkerError(
        f"{name} version {version.version} has no running worker (workers: {workers}): "
        "it is still starting, could not start (the reason is in the server's "
        "logs/model_log.log), or was scaled to none (`python scripts/manage.py scale` brings "
        "it back)"
    )
