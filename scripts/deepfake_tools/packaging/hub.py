"""Fetches a checkpoint's files from the Hub, or finds them in a local folder.

What the environment sets for the Hub's library is looked at first: the library meets a bad
variable in the middle of its work, or when it is imported, with an error that names none.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

DEFAULT_MODEL = "openai/clip-vit-base-patch32"

PROCESSOR_SETTINGS = ("preprocessor_config.json", "processor_config.json")
"""Where transformers keeps an image processor's settings: before version 5, and since."""

SETTINGS = ("config.json", *PROCESSOR_SETTINGS)

# In the order of preference: a pickle is asked for only where there is nothing else.
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)

# Variables that the Hub's library reads.
ENDPOINTS = ("HF_ENDPOINT",)
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SECONDS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class BuildError(Exception):
    """No archive can be made; the one-line message says why and what to do."""


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint at one commit.

    Attributes:
        name: Hub name, or the base name of a local folder.
        revision: as asked for; None for a local folder.
        commit: what the revision stands for; None for a local folder.
        folder: holds the settings, and the weights once ``fetch_weights`` was called.
    """

    name: str
    revision: str | None
    commit: str | None
    folder: Path


def fetch_settings(model: str, revision: str | None) -> Snapshot:
    """Gets the small files of a checkpoint, so that it can be refused before its weights come.

    Args:
        model: Hub name, or a local folder in Hugging Face's format.
        revision: branch, tag or commit; None is the Hub's ``main``.

    Raises:
        BuildError: when it does not exist, is gated, or cannot be reached.
    """
    local = Path(model)
    if local.is_dir():
        if revision is not None:
            raise BuildError(f"--revision {revision} needs a Hub name; {model} is a local folder")
        return Snapshot(local.resolve().name, None, None, local)
    if local.exists() or model.startswith(("/", ".", "~")):
        raise BuildError(
            f"{model} is no folder; give a Hub name such as openai/clip-vit-base-patch32, or a "
            "folder with config.json and model.safetensors"
        )
    folder = _download(model, revision or "main", SETTINGS)
    return Snapshot(model, revision or "main", folder.name, folder)


def fetch_weights(snapshot: Snapshot) -> list[Path]:
    """Gets the weights of a checkpoint: safetensors, or else ``.bin``.

    Returns:
        The files of one kind, in the order of their names.

    Raises:
        BuildError: when there are none, or the Hub cannot be reached.
    """
    for patterns in WEIGHTS:
        folder = snapshot.folder
        if snapshot.commit is not None:
            folder = _download(snapshot.name, snapshot.commit, patterns)
        files = sorted(
            path
            for pattern in patterns
            for path in folder.glob(pattern)
            if not path.name.endswith(".json")
        )
        single = [path for path in files if path.name == patterns[0]]
        if files:
            return single or files
    raise BuildError(
        f"{snapshot.name} holds neither model.safetensors nor pytorch_model.bin; if the Hub cannot "
        "be reached, the cache holds only a part of the model: build once with the network"
    )


def _download(model: str, revision: str, patterns: Sequence[str]) -> Path:
    if wrong := complaint():
        raise BuildError(wrong)
    # Its import reads the environment, and fails on some values that were refused just now.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise BuildError(
            f"{model!r} is neither a folder nor a Hub name such as owner/model"
        ) from error
    except GatedRepoError as error:
        raise BuildError(
            f"{model} is gated: ask for access on its Hub page, then set HF_TOKEN to a token of "
            "the account that was given it"
        ) from error
    except RevisionNotFoundError as error:
        raise BuildError(
            f"{model} has no revision {revision!r}; name a branch, tag or commit"
        ) from error
    except RepositoryNotFoundError as error:
        raise BuildError(
            f"{model} does not exist on the Hub, or is private; check the spelling, or set HF_TOKEN"
        ) from error
    except OfflineModeIsEnabled as error:
        raise BuildError(
            f"{model} is not in the cache and HF_HUB_OFFLINE is set; build once without it"
        ) from error
    except Exception as error:
        # The library lets through whatever its HTTP client makes of settings and answers.
        raise BuildError(
            f"{model} cannot be fetched and is not in the cache ({_cause(error)}); check the "
            "network, HF_ENDPOINT, HF_TOKEN, proxies and the free space under HF_HOME, or give a "
            "local folder"
        ) from error


def _cause(error: BaseException) -> str:
    """The innermost reason, one line of it: the Hub's library wraps it in paragraphs."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def import_with_hub(module: str) -> ModuleType:
    """Imports a module that brings the Hub's library along.

    Raises:
        BuildError: when that library cannot be imported since it cannot use a variable.
    """
    try:
        return import_module(module)
    except ValueError as error:
        if wrong := complaint():
            raise BuildError(wrong) from error
        raise


def complaint(environment: Mapping[str, str] = os.environ) -> str | None:
    """Returns one line that names a variable and what to do, if one cannot be used."""
    return next(_complaints(environment), None)


def _complaints(environment: Mapping[str, str]) -> Iterator[str]:
    checks = (
        (ENDPOINTS, _endpoint),
        (TOKENS, _token),
        (SECONDS, _seconds),
        (PROXIES, _proxy),
        (CERTIFICATES, _certificates),
    )
    for names, check in checks:
        for name in names:
            value = environment.get(name, "")
            reason = check(value) if value else None
            if reason is not None:
                # A token, and a password in an address, stay out of logs.
                yield f"{name} cannot be used: {reason}"


def _endpoint(value: str) -> str | None:
    if _scheme(value) in ("http", "https"):
        return None
    return "it is no address such as https://huggingface.co, with its scheme; unset it, or mend it"


def _proxy(value: str) -> str | None:
    # As httpx reads it: an address without a scheme is one of HTTP.
    scheme = _scheme(value if "://" in value else f"http://{value}")
    if scheme in ("socks5", "socks5h"):
        if find_spec("socksio") is None:
            return "a SOCKS proxy needs the package socksio (pip install socksio); or unset it"
        return None
    if scheme in ("http", "https"):
        return None
    return "it is no address of a proxy, such as http://proxy:3128; unset it, or mend it"


def _scheme(address: str) -> str | None:
    """The scheme of an address that has a host, and a port that is a number if it has one."""
    try:
        parts = urlsplit(address)
        return parts.scheme if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _token(value: str) -> str | None:
    token = value.strip()
    if token.isascii() and token.isprintable() and " " not in token:
        return None
    return "a token is letters, digits and _ of ASCII; copy it again"


def _seconds(value: str) -> str | None:
    try:
        int(value)
    except ValueError:
        return "it is no whole number of seconds; unset it, or mend it"
    return None


def _certificates(value: str) -> str | None:
    return None if Path(value).exists() else "there is no such file or folder; unset it, or mend it"
