"""TorchServe's inference API and management API: a method for each call."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from urllib3.filepost import encode_multipart_formdata

from deepfake_tools.errors import ServiceError, UnexpectedAnswerError
from deepfake_tools.inspection import version_order
from deepfake_tools.torchserve.answers import (
    ModelVersion,
    ServedModel,
    ServedVerdict,
    parse_customized,
    parse_entries,
    parse_model_page,
    parse_verdict,
    parse_versions,
)
from deepfake_tools.torchserve.connection import Endpoint, Purpose, Token

INFERENCE_ADDRESS = "http://127.0.0.1:8080"
MANAGEMENT_ADDRESS = "http://127.0.0.1:8081"
PAGE_SIZE = 100


class _API:
    """One port.

    Args:
        address: Such as http://127.0.0.1:8080.
        token: A token for this API; None where the server runs without tokens.
        timeout: Seconds for a call, its whole answer included, unless it says otherwise.
        ca: A file with the certificates to trust over https; None for requests' own choice.
    """

    def __init__(
        self, address: str, token: Token | None, timeout: float = 60.0, ca: Path | None = None
    ) -> None:
        self._server = Endpoint(address, token, timeout, ca)


class InferenceAPI(_API):
    """The port that answers predictions."""

    def predict(
        self,
        name: str,
        body: bytes,
        *,
        version: str | None = None,
        content_type: str = "application/octet-stream",
        timeout: float | None = None,
    ) -> ServedVerdict:
        """Asks a model about one image.

        Args:
            name: The served name.
            body: The image file's bytes.
            version: The version to ask; the default one if None.
            content_type: The body's; TorchServe answers 500 to an image sent as a form.
            timeout: Seconds to wait for the answer.

        Raises:
            ServiceError: One of `errors.FAILURES`.
        """
        path = _path("predictions", name, version)
        return self._ask(path, body, content_type, timeout)

    def explain(
        self,
        name: str,
        body: bytes,
        *,
        version: str | None = None,
        timeout: float | None = None,
    ) -> ServedVerdict:
        """Asks a model about one image, and what its verdict is made of.

        Args:
            name: The served name.
            body: The image file's bytes.
            version: The version to ask; the default one if None.
            timeout: Seconds to wait for the answer.

        Returns:
            A verdict with its explanation.

        Raises:
            ServiceError: One of `errors.FAILURES`; of kind `not_implemented` where the archive
                explains nothing.
        """
        path = _path("explanations", name, version)
        verdict = self._ask(path, body, "application/octet-stream", timeout)
        if verdict.explanation is None:
            raise UnexpectedAnswerError(f"{name} answered with a verdict and no explanation of it")
        return verdict

    def _ask(
        self, path: str, body: bytes, content_type: str, timeout: float | None
    ) -> ServedVerdict:
        answer = self._server.call(
            "POST", path, body=body, content_type=content_type, timeout=timeout
        )
        return parse_verdict(answer)

    def predict_several(
        self,
        name: str,
        images: Sequence[bytes],
        *,
        version: str | None = None,
        timeout: float | None = None,
    ) -> list[ServedVerdict | ServiceError]:
        """Asks a model about several images in one request.

        Args:
            name: The served name.
            images: The image files' bytes, two or more.
            version: The version to ask; the default one if None.
            timeout: Seconds to wait for the answer.

        Returns:
            A verdict, or why there is none, for each image in order.

        Raises:
            ServiceError: The request failed as a whole.
        """
        # Of two fields with one name TorchServe hands on the last alone.
        fields = {f"image{index}": ("image", image) for index, image in enumerate(images)}
        body, content_type = encode_multipart_formdata(fields)
        path = _path("predictions", name, version)
        answer = self._server.call(
            "POST", path, body=body, content_type=content_type, timeout=timeout
        )
        return parse_entries(answer, len(images))


class ManagementAPI(_API):
    """The port that lists and changes the models. Every call raises ServiceError."""

    def renew_token(self, purpose: Purpose) -> None:
        """Ends a token for everybody; the server writes the new one into its own key file.

        Args:
            purpose: Which one. This call alone is made with the API key instead of a token.
        """
        self._server.call("GET", "/token", {"type": str(purpose)})

    def models(self) -> tuple[ServedModel, ...]:
        """Returns every model's name, and its default version's archive."""
        models: list[ServedModel] = []
        page: str | None = "0"
        while page is not None:
            query = {"limit": str(PAGE_SIZE), "next_page_token": page}
            entries, page = parse_model_page(self._server.call("GET", "/models", query))
            models += entries
        return tuple(models)

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Returns every registered version of a model, in their order."""
        found = parse_versions(self._server.call("GET", _path("models", name, "all")))
        return tuple(sorted(found, key=lambda entry: version_order(entry.version)))

    def version(self, name: str, version: str | None = None) -> ModelVersion:
        """Returns one version of a model: the default one if None."""
        found = parse_versions(self._server.call("GET", _path("models", name, version)))
        if len(found) != 1:
            raise UnexpectedAnswerError(f"the server described {len(found)} versions of {name}")
        return found[0]

    def ask_handler(self, name: str, version: str, timeout: float | None = None) -> object:
        """Returns the handler's own answer to a description, as untrusted JSON.

        The question waits in the version's queue behind the requests that are there already, so
        its answer says that they have been taken up.
        """
        path, query = _path("models", name, version), {"customized": "true"}
        return parse_customized(self._server.call("GET", path, query, timeout=timeout))

    def register(self, archive: str, workers: int, timeout: float | None = None) -> None:
        """Registers an archive of the server's model store; its workers start afterwards.

        TorchServe can be told to answer when they are up. It then blocks one of the few threads
        that serve both ports, and every client whose connection is on that thread with it.

        Args:
            archive: The file's name in the store.
            workers: How many workers to start, where the archive does not say.
            timeout: Seconds to wait until the archive is unpacked.

        Raises:
            RequestRefusedError: Among others with status 409, when the version is there already.
        """
        query = {"url": archive, "initial_workers": str(workers), "synchronous": "false"}
        self._server.call("POST", "/models", query, timeout=timeout)

    def scale(self, name: str, version: str, workers: int) -> None:
        """Sets how many workers a version has; they start afterwards."""
        count = str(workers)
        query = {"min_worker": count, "max_worker": count, "synchronous": "false"}
        self._server.call("PUT", _path("models", name, version), query)

    def set_default(self, name: str, version: str) -> None:
        """Makes a version the one that answers when none is named."""
        self._server.call("PUT", _path("models", name, version) + "/set-default")

    def unregister(self, name: str, version: str) -> None:
        """Removes a version; what it has in flight and in its queue gets no answer.

        TorchServe refuses this for the default version while there are others.
        """
        self._server.call("DELETE", _path("models", name, version))


def _path(kind: str, name: str, version: str | None) -> str:
    parts = [kind, name] if version is None else [kind, name, version]
    return "".join("/" + quote(part, safe="") for part in parts)
