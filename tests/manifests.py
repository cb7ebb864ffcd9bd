"""The manifests of deploy/: their objects, the pod in both its forms, and the image's settings."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
NOT_OBJECTS = ("kustomization.yaml", "prometheus-adapter.yaml")


def files() -> list[Path]:
    """Every file that holds an object."""
    return sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name not in NOT_OBJECTS)


def load(name: str) -> dict[str, Any]:
    """The one object of a file below deploy/kubernetes."""
    return yaml.safe_load((KUBERNETES / name).read_text())


def pods() -> dict[str, dict[str, Any]]:
    """The pod's specification by the kind of object that makes it."""
    predictor = load("kserve/inference-service.yaml")["spec"]["predictor"]
    own = ("labels", "minReplicas", "maxReplicas", "autoScaling", "deploymentStrategy")
    return {
        "Deployment": load("plain/deployment.yaml")["spec"]["template"]["spec"],
        "InferenceService": {key: value for key, value in predictor.items() if key not in own},
    }


def containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The containers, sidecars first."""
    yield from pod["initContainers"]
    yield from pod["containers"]


def words(container: dict[str, Any]) -> list[str]:
    """What a container runs, as far as its specification says so."""
    return [*container.get("command", ()), *container.get("args", ())]


def image_environment() -> list[str]:
    """What the image sets, as NAME=VALUE."""
    (line,) = re.findall(r"^ENV (.*)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    return line.split()


def write_image_settings(folder: Path) -> None:
    """Writes config.properties and pod.properties as the Containerfile does in the image."""
    (folder / "config.properties").write_text((ROOT / "config.properties").read_text())
    text = (DEPLOY / "Containerfile").read_text()
    commands = re.findall(r"^    && (sed (?:.*\\\n)*?.*?) \\\n(?=    (?:&&|#))", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        subprocess.run(["sh", "-ec", command], cwd=folder, check=True)
