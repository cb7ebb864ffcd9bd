"""The dashboard and the alarms, as they stand in deploy/."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus's promtool is not installed"
)


def test_every_panel_has_a_query_a_unit_and_says_what_a_change_of_it_means() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["targets"], panel["title"]
        assert all(target["expr"] for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert len(panel["description"]) > 20, panel["title"]


def squares(panel: dict[str, Any]) -> Iterator[tuple[int, int]]:
    place = panel["gridPos"]
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def test_no_panel_lies_on_another() -> None:
    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not set(squares(one)) & set(squares(other)), (one["title"], other["title"])
    assert all(x < 24 for panel in DASHBOARD["panels"] for x, _ in squares(panel))


def test_the_runbook_explains_every_alarm() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert f"`{rule['alert']}`" in runbook


@needs_promtool
def test_prometheus_takes_the_files(tmp_path: Path) -> None:
    for kind, name in (("config", "prometheus.yml"), ("rules", "alerts.yml")):
        command = ["promtool", "check", kind, str(DEPLOY / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@needs_promtool
def test_alarms_go_off_when_they_should_and_not_before(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    text = Path(__file__).with_name("alerts_test.yml").read_text()
    rules.write_text(text.replace("ALERTS", str(DEPLOY / "alerts.yml")))
    command = ["promtool", "test", "rules", str(rules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
