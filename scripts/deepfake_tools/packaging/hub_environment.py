"""Environment variables that the Hub's library reads in, the first that it cannot use out.

It meets them in the middle of its work, or when it is imported, with an error that names none.
"""

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

ENDPOINTS = ("HF_ENDPOINT",)
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SECONDS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


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
