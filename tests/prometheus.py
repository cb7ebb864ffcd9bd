"""Addresses of metrics pages in, a Prometheus that collects them and answers queries out."""

import math
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, Self

import requests
import yaml

from tests import ROOT
from tests.waiting import wait_until

SCRAPE_CONFIG = ROOT / "deploy" / "prometheus.yml"

Series = tuple[dict[str, str], float]


def find_prometheus() -> str | None:
    """Its executable, where there is one."""
    return shutil.which("prometheus")


class Prometheus:
    """Runs by deploy/prometheus.yml, but for addresses and haste; on loopback, in its own folder.

    Args:
        folder: for its data and its log.
        targets: addresses, HOST:PORT, by the name of the job.
    """

    def __init__(self, folder: Path, targets: dict[str, str]) -> None:
        config = yaml.safe_load(SCRAPE_CONFIG.read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(SCRAPE_CONFIG.parent / name) for name in config["rule_files"]]
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        self._folder = folder
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> Self:
        command = [
            str(find_prometheus()),
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self._address}",
        ]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(self._collects)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)

    def _collects(self) -> bool:
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            ready = requests.get(f"http://{self._address}/-/ready", timeout=30).ok
        except requests.ConnectionError:
            return False
        return ready and [value for _, value in self.ask("up")] == [1, 1]

    def ask(self, query: str) -> list[Series]:
        """The series that a query has at this moment, those that are no number left out."""
        answer = requests.get(
            f"http://{self._address}/api/v1/query", params={"query": query}, timeout=30
        ).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        series = [(entry["metric"], float(entry["value"][1])) for entry in answer["data"]["result"]]
        return [(labels, value) for labels, value in series if math.isfinite(value)]

    def await_verdicts(self, count: int) -> None:
        """Waits until it has seen so many on the page, and once more after that."""
        asked = "sum(clip_deepfake_verdicts_total)"
        wait_until(lambda: [value for _, value in self.ask(asked)] == [count])
        (_, before), *_ = self.ask('timestamp(up{job="clip-deepfake"})')
        wait_until(lambda: self.ask('timestamp(up{job="clip-deepfake"})')[0][1] > before)

    def rules(self) -> list[dict[str, Any]]:
        """The alarms as it has read them, with `health` and `state`."""
        answer = requests.get(f"http://{self._address}/api/v1/rules", timeout=30).json()
        (group,) = answer["data"]["groups"]
        return group["rules"]

    def raised(self) -> set[str]:
        """Names of the alarms whose expression holds, however short a time yet."""
        return {rule["name"] for rule in self.rules() if rule["state"] != "inactive"}
