"""Two nodes on loopback, one of which is killed: every image has one row, and the run ends well."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clip_deepfake.detector import Detector
from clip_deepfake.verdicts import Verdict

from tests import ROOT
from tests.unit.bulk.conftest import rows_of, write_parquet
from tests.waiting import wait_until

ROWS = 4000
NODES = """
import sys
from ray.cluster_utils import Cluster

# A node that says nothing for two seconds is dead, for a test's sake.
health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500,
          "health_check_timeout_ms": 500, "health_check_failure_threshold": 3}
one = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={**one, "_system_config": health})
second = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
print(cluster.address, flush=True)
for line in sys.stdin:
    for processes in second.all_processes.values():
        for one in processes:
            one.process.kill()
    print("killed", flush=True)
cluster.shutdown()
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that keeps two nodes, and kills one when it is told to."""
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": "/tmp"}
    with subprocess.Popen(
        [sys.executable, "-c", NODES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        yield process
        process.communicate()


@pytest.mark.timeout(600)
def test_a_node_that_is_killed_loses_and_doubles_nothing(
    nodes: "subprocess.Popen[str]",
    archive: Path,
    detector: Detector,
    tinted: Path,
    tmp_path: Path,
) -> None:
    images = [path.read_bytes() for path in sorted(tinted.rglob("*.png"))]
    columns = {"image": [images[row % len(images)] for row in range(ROWS)]}
    file = write_parquet(tmp_path / "images.parquet", columns, group=1000)
    assert nodes.stdout is not None
    assert nodes.stdin is not None
    address, output = nodes.stdout.readline().strip(), tmp_path / "scores"
    command = [
        sys.executable,
        ROOT / "scripts/score.py",
        "--archive",
        archive,
        "--address",
        address,
    ]
    with subprocess.Popen(
        [*command, "--input", file, "--column", "image", "--output", output],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as run:
        parts = -(-ROWS // 32)  # the smallest blocks
        wait_until(lambda: len(list(output.glob("part-*"))) >= 0.4 * parts, 240)
        nodes.stdin.write("kill\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline() == "killed\n"
        assert len(list(output.glob("part-*"))) < parts
        out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    assert "2 actors of 1 cores" in err
    assert "was lost; what it had in hand is scored again" in err
    assert f"{ROWS} images (0 real, 0 fake, {ROWS} without a label), 0 failed" in out
    rows = rows_of(output)
    assert rows.keys() == {f"{file}#{row}" for row in range(ROWS)}
    verdicts = detector.judge(images)
    for row in range(0, ROWS, 7):
        verdict = verdicts[row % len(images)]
        assert isinstance(verdict, Verdict)
        assert rows[f"{file}#{row}"]["margin"] == pytest.approx(verdict.margin, abs=1e-6)
