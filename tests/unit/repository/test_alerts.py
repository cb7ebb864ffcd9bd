import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.queries import ALERTS, alarms

HERE = Path(__file__).parent
SCENARIOS = [HERE / "alerts_test.yml", HERE / "drift_alerts_test.yml"]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus' promtool is not installed"
)


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@needs_promtool
@pytest.mark.parametrize(
    ("kind", "path"), [("rules", ALERTS), ("config", ROOT / "deploy" / "prometheus.yml")]
)
def test_promtool_finds_nothing_wrong(kind, path):
    done = promtool("check", kind, path)

    assert (done.returncode, done.stderr) == (0, "")


@needs_promtool
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_alarms_fire_at_what_they_are_for_and_at_nothing_else(path):
    done = promtool("test", "rules", path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alarm_has_a_scenario_in_which_it_fires():
    fired = set()
    for path in SCENARIOS:
        for scenario in yaml.safe_load(path.read_text())["tests"]:
            for expectation in scenario["promql_expr_test"]:
                for sample in expectation["exp_samples"]:
                    fired.add(re.search(r'alertname="(\w+)"', sample["labels"])[1])

    assert fired == set(alarms())


def test_the_runbook_says_of_each_alarm_what_it_means_and_what_to_do():
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    rows = {
        name: cells
        for line in runbook.splitlines()
        if line.startswith("|")
        for cells in [line.strip("|").split(" | ")]
        for name in re.findall(r"`(ClipDeepfake\w+)`", cells[0])
    }

    assert set(rows) == set(alarms())
    assert all(len(cells) == 3 and all(map(str.strip, cells)) for cells in rows.values())
