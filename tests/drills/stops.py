"""A server at full load that is ended in, which requests got no answer out."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from deepfake_tools.torchserve.local_server import LocalServer

from tests.drills.commands import MANAGE, command_line
from tests.drills.drill import Finding, Ground, VersionExchange, version_load

CLIENTS = 16
BEFORE = 64
"""Answers before the end begins."""

GRACE_S = 3.0
SHORT_GRACE_S = 1.0
GONE_WITHIN_S = 20.0
POLL_S = 0.02
LIMIT_S = 60.0


@dataclass(frozen=True)
class End:
    """How a server under load has ended.

    Attributes:
        exchanges: Every request.
        off: When readiness went off, or the signal was sent; as time.monotonic().
        gone_s: Seconds from the command, or the signal, until the process was gone.
        exit_code: Of the command; 0 of a signal.
    """

    exchanges: Sequence[VersionExchange]
    off: float
    gone_s: float
    exit_code: int

    @property
    def before(self) -> list[VersionExchange]:
        """Those that were sent before readiness went off."""
        return [exchange for exchange in self.exchanges if exchange.sent < self.off]

    @property
    def lost(self) -> list[VersionExchange]:
        """Those of them that got no answer."""
        return [exchange for exchange in self.before if exchange.failure is not None]


def stop_at_full_load(ground: Ground) -> Finding:
    """Ends one server by a bare SIGTERM, and one by `manage.py stop`."""
    bare = _end(ground, _send_sigterm)
    grace_s = SHORT_GRACE_S if ground.short else GRACE_S
    proper = _end(ground, lambda server: _run_stop(server, ground.store, grace_s))
    figures = (
        f"a bare SIGTERM: {len(bare.before)} requests sent before it, {len(bare.lost)} of them "
        f"lost; gone after {bare.gone_s:.1f} s",
        f"manage.py stop --grace {grace_s:g}: {len(proper.before)} requests sent before readiness "
        f"went off, {len(proper.lost)} of them lost; gone after {proper.gone_s:.1f} s",
    )
    faults = []
    if proper.lost:
        faults.append(f"manage.py stop lost {len(proper.lost)}: {proper.lost[0].failure}")
    if proper.exit_code:
        faults.append(f"manage.py stop ended with {proper.exit_code}")
    if proper.gone_s > GONE_WITHIN_S:
        faults.append(f"manage.py stop took {proper.gone_s:.1f} s, over {GONE_WITHIN_S:g} s")
    return Finding(figures, tuple(faults))


def _end(ground: Ground, begin: Callable[[LocalServer], tuple[float, int]]) -> End:
    """Ends a server by something that returns when readiness went off, and an exit code."""
    image = ground.photographs[0].read_bytes()
    with ground.serving() as server:
        java = int(server.pid_file.read_text("ascii"))
        with version_load(server, ground.name, image, CLIENTS) as load:
            load.wait_for(BEFORE)
            begun = time.monotonic()
            off, exit_code = begin(server)
            while psutil.pid_exists(java) and time.monotonic() < begun + LIMIT_S:
                time.sleep(POLL_S)
            gone_s = time.monotonic() - begun
    return End(load.exchanges, off, gone_s, exit_code)


def _send_sigterm(server: LocalServer) -> tuple[float, int]:
    now = time.monotonic()
    os.kill(int(server.pid_file.read_text("ascii")), signal.SIGTERM)
    return now, 0


def _run_stop(server: LocalServer, store: Path, grace_s: float) -> tuple[float, int]:
    words = ("stop", "--grace", grace_s, "--pid-file", server.pid_file, "--model-store", store)
    command = command_line(MANAGE, server, *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = iter(process.stdout or ())
        off = next((time.monotonic() for line in lines if "readiness is off" in line), None)
        for _ in lines:
            pass
    if off is None:
        raise RuntimeError(f"manage.py stop ended with {process.returncode}, readiness still on")
    return off, process.returncode
