"""Variables that cannot be used are named, in one line; those that can are let through."""

import os
from pathlib import Path

import pytest
from deepfake_tools.packaging import hub
from deepfake_tools.packaging.hub import BuildError, complaint, fetch_settings

from tests.clips import SMALL, write_repository
from tests.forking import Fork
from tests.hub_server import HubServer
from tests.unit.packaging.test_build_mar import COMMAND, assert_refused, run_apart

REFUSED = [
    ("HF_ENDPOINT", "127.0.0.1:9"),
    ("HF_ENDPOINT", "http://"),
    ("HF_ENDPOINT", "ftp://example.org"),
    ("HF_ENDPOINT", "http://[::1"),
    ("HF_ENDPOINT", "http://host:port"),
    ("HF_TOKEN", "hf_ä"),
    ("HF_TOKEN", "hf_a\nb"),
    ("HUGGING_FACE_HUB_TOKEN", "two words"),
    ("HTTPS_PROXY", "foo://proxy"),
    ("https_proxy", "http://127.0.0.1:port"),
    ("HTTP_PROXY", "http://"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
    ("HF_HUB_ETAG_TIMEOUT", "1.5"),
    ("SSL_CERT_FILE", "/nowhere/ca.pem"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_variable_that_cannot_be_used_is_named_and_its_value_kept_back(
    name: str, value: str, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BuildError, match=f"^{name} cannot be used: ") as refused:
        fetch_settings("acme/anything", None)
    assert "\n" not in str(refused.value)
    if "TOKEN" in name:
        assert value not in str(refused.value)


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
def test_a_socks_proxy_needs_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {name: "socks5://127.0.0.1:1080"}
    monkeypatch.setattr(hub, "find_spec", lambda _name: None)
    assert f"{name} cannot be used: a SOCKS proxy needs" in str(complaint(environment))
    monkeypatch.setattr(hub, "find_spec", lambda _name: object())
    assert complaint(environment) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", ""),
        ("HF_ENDPOINT", "https://hub.example.org:8443/mirror"),
        ("HF_ENDPOINT", "http://[::1]:80"),
        ("HF_TOKEN", "hf_abc\n"),
        ("HTTPS_PROXY", "proxy.example.org:3128"),
        ("HTTPS_PROXY", "http://user:secret@proxy:3128"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "30"),
        ("SSL_CERT_FILE", __file__),
    ],
)
def test_what_can_be_used_is_let_through(name: str, value: str) -> None:
    assert complaint({name: value}) is None


@pytest.mark.parametrize("name", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_ENDPOINT"])
def test_the_command_says_so_without_a_traceback_even_with_the_model_cached(
    hub: HubServer, commands: Fork, tmp_path: Path, name: str
) -> None:
    hub.add("acme/cached-too", write_repository(tmp_path / "repo", SMALL))
    fetch_settings("acme/cached-too", None)
    store = tmp_path / "store"
    arguments = ("--model", "acme/cached-too", "--export-path", store)
    if name == "HF_ENDPOINT":
        result = commands.run(COMMAND, *arguments, env=os.environ | {name: "127.0.0.1:9"})
    else:  # the Hub's library stumbles over it as soon as it is imported
        result = run_apart(*arguments, HF_HUB_DOWNLOAD_TIMEOUT="abc")
    assert_refused(result, store, name)
