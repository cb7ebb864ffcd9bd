"""The manifests: against published schemas where there are any, and against what they name."""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import requests
import yaml
from deepfake_tools.operations.options import LOOK_SECONDS, make_parser, parse_arguments
from deepfake_tools.operations.shutdown import KILL_LIMIT_S, TERM_LIMIT_S
from deepfake_tools.torchserve.properties import read_settings

from tests import ROOT
from tests.manifests import (
    DEPLOY,
    KUBERNETES,
    containers,
    files,
    load,
    pods,
    words,
    write_image_settings,
)
from tests.queries import dashboard_queries, scaling_queries, selectors

NO_SCHEMA_HERE = {"InferenceService", "ScaledObject", "PodMonitor"}
"""Kinds of others (KServe, KEDA, the Prometheus operator), whose schemas no package brings.

They were compared by hand with the definitions in these projects' repositories.
"""

LABEL = {"app.kubernetes.io/name": "clip-deepfake"}
INSTALLED = "/opt/clip-deepfake"
WORK = "/srv/detector"
KINDS = pytest.mark.parametrize("kind", ["Deployment", "InferenceService"])


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_an_object_is_valid_by_its_published_schema(path: Path) -> None:
    (found,) = yaml.safe_load_all(path.read_text())
    if found["kind"] in NO_SCHEMA_HERE:
        with pytest.raises(kubernetes_validate.SchemaNotFoundError):
            kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)
        return
    kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)


@KINDS
def test_a_pod_is_valid_by_its_published_schema(kind: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pods()[kind]}
    # Sidecars are Kubernetes 1.29's, beyond which nothing here goes.
    for version in ("1.29", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(pod, version, strict=True)


def test_kserve_gets_the_same_pod_but_for_the_names_that_it_wants() -> None:
    plain, kserve = pods()["Deployment"], pods()["InferenceService"]
    assert plain["containers"][0].pop("name") == "detector"
    assert kserve["containers"][0].pop("name") == "kserve-container"
    for check, route in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
        ours, theirs = (pod["containers"][0][f"{check}Probe"] for pod in (plain, kserve))
        assert ours["httpGet"].pop("path") == f"/{route}"
        assert theirs["httpGet"].pop("path") == f"/v2/health/{route}"
    assert plain == kserve


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a probe whose server is not there."""
    command = [sys.executable, str(ROOT / "scripts" / "manage.py"), "probe"]
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--management", "http://127.0.0.1:1"],
        cwd=tmp_path_factory.mktemp("probe"),
        stdout=subprocess.PIPE,
        text=True,
    )
    yield re.search(r"http://\S+", process.stdout.readline())[0]
    process.terminate()
    process.wait()


@KINDS
def test_what_the_kubelet_asks_is_what_the_probe_answers(kind: str, probe: str) -> None:
    sidecar, detector = containers(pods()[kind])
    (listens,) = (port["containerPort"] for port in sidecar["ports"])
    for check in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = detector[check]["httpGet"]
        assert asked["port"] == listens
        # The server is not there, but the path is known.
        assert requests.get(probe + asked["path"], timeout=10).status_code == 503
        # The probe's own look at the server has this long.
        assert detector[check]["timeoutSeconds"] > LOOK_SECONDS


def manage(command: list[str]) -> argparse.Namespace:
    """What manage.py makes of a container's command."""
    assert command[:2] == ["python", f"{INSTALLED}/scripts/manage.py"]
    return parse_arguments(command[2:])


@KINDS
def test_every_command_is_one_that_manage_and_the_server_know(kind: str) -> None:
    sidecar, detector = containers(pods()[kind])
    probe = manage(words(sidecar))
    assert (probe.command, probe.listen) == ("probe", ("0.0.0.0", 8083))
    stop = manage(detector["lifecycle"]["preStop"]["exec"]["command"])
    assert stop.command == "stop"
    # The kubelet does not say in which folder it runs the hook.
    assert str(stop.model_store) == str(probe.model_store) == f"{WORK}/model_store"
    for command in ("config", "stop"):
        args = make_parser().parse_args([command, *words(detector)])
        assert str(args.config) == f"{INSTALLED}/pod.properties"


@KINDS
def test_the_grace_period_is_longer_than_a_stop_may_take(kind: str) -> None:
    pod = pods()[kind]
    stop = manage(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
    longest = stop.grace + stop.drain + stop.timeout + TERM_LIMIT_S + KILL_LIMIT_S
    assert pod["terminationGracePeriodSeconds"] > longest


def test_selectors_choose_the_pod_and_ports_are_its_own() -> None:
    template = load("plain/deployment.yaml")["spec"]["template"]
    assert template["metadata"]["labels"] == LABEL
    predictor = load("kserve/inference-service.yaml")["spec"]["predictor"]
    assert predictor["labels"] == LABEL
    spread = template["spec"]["topologySpreadConstraints"][0]["labelSelector"]
    chosen = [load("plain/service.yaml")["spec"]["selector"], spread["matchLabels"]]
    for name, key in (
        ("plain/deployment.yaml", "selector"),
        ("common/disruption-budget.yaml", "selector"),
        ("common/network-policy.yaml", "podSelector"),
        ("prometheus/pod-monitor.yaml", "selector"),
    ):
        chosen.append(load(name)["spec"][key]["matchLabels"])
    assert chosen == [LABEL] * len(chosen)

    ports = {
        p["name"]: p["containerPort"] for c in containers(template["spec"]) for p in c["ports"]
    }
    (service,) = load("plain/service.yaml")["spec"]["ports"]
    assert ports[service["targetPort"]] == 8080
    monitored = load("prometheus/pod-monitor.yaml")["spec"]["podMetricsEndpoints"]
    assert [ports[endpoint["port"]] for endpoint in monitored] == [8082, 8083]


def test_no_port_is_open_but_to_those_whom_the_policy_names(tmp_path: Path) -> None:
    policy = load("common/network-policy.yaml")["spec"]
    asked, collected = policy["ingress"]
    assert [port["port"] for port in asked["ports"]] == [8080]
    assert [port["port"] for port in collected["ports"]] == [8082, 8083]
    assert asked["from"]
    assert collected["from"]
    assert policy["egress"] == []
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}

    write_image_settings(tmp_path)
    settings = read_settings((tmp_path / "pod.properties").read_text())
    open_ones = {key for key, value in settings.items() if "0.0.0.0" in value}
    assert open_ones == {"inference_address", "metrics_address"}
    assert settings["disable_token_authorization"] == "true"
    changed = settings.keys() - {
        key
        for key, value in read_settings((ROOT / "config.properties").read_text()).items()
        if settings[key] == value
    }
    assert changed == {*open_ones, "disable_token_authorization"}


@KINDS
def test_a_container_may_write_into_the_pods_own_folders_alone(kind: str) -> None:
    pod = pods()[kind]
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = re.search(r"^USER (\d+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)[1]
    assert pod["securityContext"]["runAsUser"] == int(user)
    assert pod["automountServiceAccountToken"] is False
    temporary = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        written = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert written <= temporary
    releases = {m["subPath"] for c in containers(pod) for m in c["volumeMounts"] if "subPath" in m}
    assert len(releases) == 1
    (claim,) = (v["persistentVolumeClaim"] for v in pod["volumes"] if v["name"] == "archives")
    assert claim == {
        "claimName": load("common/archives.yaml")["metadata"]["name"],
        "readOnly": True,
    }
    # A worker takes as many threads as the limit has cores.
    assert pod["containers"][0]["resources"]["limits"]["cpu"] == "2"


def test_autoscalers_ask_for_one_metric_that_a_server_has_under_the_monitors_job() -> None:
    # Their own queries are put to a real server by test_watch.py.
    known = {one.metric for query in dashboard_queries() for one in selectors(query.text)}
    jobs = [
        endpoint["relabelings"][0]["replacement"]
        for endpoint in load("prometheus/pod-monitor.yaml")["spec"]["podMetricsEndpoints"]
    ]
    queries = scaling_queries()
    assert len(queries) == 3
    for query in queries:
        (selector,) = selectors(query.text)
        assert selector.metric in known
        assert selector.equal["job"] == jobs[0]


def test_autoscalers_scale_what_is_there_by_the_same_number() -> None:
    keda, hpa = load("keda/scaled-object.yaml")["spec"], load("hpa/autoscaler.yaml")["spec"]
    predictor = load("kserve/inference-service.yaml")["spec"]["predictor"]
    name = load("plain/deployment.yaml")["metadata"]["name"]
    assert keda["scaleTargetRef"]["name"] == hpa["scaleTargetRef"]["name"] == name
    (trigger,) = keda["triggers"]
    (metric,) = hpa["metrics"]
    (external,) = predictor["autoScaling"]["metrics"]
    adapter = yaml.safe_load((KUBERNETES / "hpa" / "prometheus-adapter.yaml").read_text())
    assert metric["pods"]["metric"]["name"] == adapter["rules"][0]["name"]["as"]
    targets = [
        trigger["metadata"]["threshold"],
        metric["pods"]["target"]["averageValue"],
        external["external"]["target"]["value"],
    ]
    assert targets == ["8"] * 3
    bounds = {
        (keda["minReplicaCount"], keda["maxReplicaCount"]),
        (hpa["minReplicas"], hpa["maxReplicas"]),
        (predictor["minReplicas"], predictor["maxReplicas"]),
    }
    assert len(bounds) == 1


def test_every_object_is_on_a_list() -> None:
    listed = {
        (folder.parent / name).resolve()
        for folder in KUBERNETES.rglob("kustomization.yaml")
        for name in yaml.safe_load(folder.read_text())["resources"]
    }
    assert set(files()) - listed == {KUBERNETES / "loader.yaml"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize(
    ("chosen", "kinds"),
    [
        ({}, {"Deployment", "Service", "ScaledObject"}),
        ({"keda": "hpa"}, {"Deployment", "Service", "HorizontalPodAutoscaler"}),
        ({"plain": "kserve"}, {"InferenceService", "ScaledObject"}),
    ],
)
def test_kustomize_builds_each_choice(
    chosen: dict[str, str], kinds: set[str], tmp_path: Path
) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    entry = tmp_path / "deploy" / "kustomization.yaml"
    for old, new in chosen.items():
        entry.write_text(
            entry.read_text().replace(f"- kubernetes/{old}\n", f"- kubernetes/{new}\n")
        )

    built = kustomized(entry.parent)

    always = {"Namespace", "PersistentVolumeClaim", "PodDisruptionBudget", "NetworkPolicy"}
    assert {one["kind"] for one in built} == kinds | always | {"ConfigMap", "PodMonitor"}
    images = set(re.findall(r"'image': '([^']*)'", str(built)))
    assert images == {load("loader.yaml")["spec"]["containers"][0]["image"]}
    for one in built:
        if one["kind"] == "ConfigMap":
            ((name, text),) = one["data"].items()
            assert text == (DEPLOY / name).read_text()
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "clip-deepfake"


def kustomized(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
