"""Swaps under load, and two at once: each request is answered, by the version that it should be."""

import subprocess

from deepfake_tools.operations.rollout import RunningServer
from deepfake_tools.operations.service import Service
from deepfake_tools.store import Store, StoreError
from deepfake_tools.torchserve.connection import Purpose
from deepfake_tools.torchserve.local_server import LocalServer
from deepfake_tools.torchserve.tokens import find_key

from tests.drills.commands import MANAGE, command_line
from tests.drills.drill import Finding, Ground
from tests.drills.load import Load
from tests.drills.swapping import TimedManagement, judge_swaps, swap_repeatedly

CLIENTS = 16
SWAPS = 20
SHORT_SWAPS = 2
BETWEEN = 64
"""Answers between two swaps."""

REFUSAL = "ask again when it has ended"
READY_LIMIT_S = 120.0


def swap_under_load(ground: Ground) -> Finding:
    """Swaps to and fro between two versions, then lets two swaps meet."""
    times = SHORT_SWAPS if ground.short else SWAPS
    image = ground.photographs[0].read_bytes()
    with ground.serving() as server:
        management = TimedManagement(
            server.management_url, find_key(Purpose.MANAGEMENT, server.key_file), READY_LIMIT_S
        )
        deployed = RunningServer(
            management, server.inference(), server.logs, READY_LIMIT_S, ground.say
        )
        service = Service(deployed, Store(ground.store), server.properties)
        with Load(server.inference, ground.name, image, CLIENTS) as load:
            switches = swap_repeatedly(
                service, management, ground.archives, image, times, lambda: load.wait_for(BETWEEN)
            )
            met = _two_at_once(server, ground)
            load.wait_for(BETWEEN)
        served = server.management().version(ground.name).version
    # What became of the two belongs to no switch that was timed.
    report = judge_swaps([e for e in load.exchanges if e.ended <= switches[-1].after], switches)
    lost = [exchange for exchange in load.exchanges if exchange.failure is not None]
    faults = [f"{len(lost)} requests failed: {lost[0].failure}"] if lost else []
    if report.wrong:
        faults.append(f"{len(report.wrong)} answers by the wrong version")
    codes = [code for code, _ in met]
    if sorted(codes) != [0, StoreError.exit_code] or served != "2":
        faults.append(f"two swaps at once ended with {codes}, and version {served} is served")
    refusal = next((said for code, said in met if code == StoreError.exit_code), "")
    if REFUSAL not in refusal:
        faults.append(f"the swap that was refused said nothing of another one: {refusal!r}")
    figures = (
        str(report),
        f"two swaps to version 2 at once, exit codes {codes[0]} and {codes[1]}: version {served} "
        f"is served; {len(load.exchanges)} requests in all, {len(lost)} failed",
        f"one of the two was told: {refusal}",
    )
    return Finding(figures, tuple(faults))


def _two_at_once(server: LocalServer, ground: Ground) -> list[tuple[int, str]]:
    """Starts `manage.py swap` to version 2 twice; returns the exit code and last words of both."""
    words = ("swap", ground.archives[1], "--model-store", ground.store)
    command = command_line(MANAGE, server, *words)
    both = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=READY_LIMIT_S)[1] for process in both]
    lasts = [(text.splitlines() or [""])[-1] for text in said]
    return [(process.returncode, last) for process, last in zip(both, lasts, strict=True)]
