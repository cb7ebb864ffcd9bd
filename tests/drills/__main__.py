"""Does damage to a server under load, and says what came of it.

kill      workers killed and hung under client.py: every image answered right, back within 10 s
swaps     twenty swaps under load, and two at once: no request lost, none by the wrong version
mutants   6,000 damaged images, and hostile ones: no 5xx, no worker restarted, memory flat
soak      ten minutes of full load: memory and file descriptors flat, no error
security  tokens, registrations, archives, key files, hostile images: each refused, each said
stop      manage.py stop at full load loses nothing; a bare SIGTERM's losses

Each drill starts servers of its own on free ports of this machine, and leaves nothing behind.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake_tools.cli import CommandParser, say
from deepfake_tools.errors import ServiceError
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.files import replacing
from deepfake_tools.interrupts import reliable_interrupts
from deepfake_tools.torchserve.local_server import LocalServerError

from benchmarks import PHOTOGRAPHS
from tests import ROOT
from tests.drills.commands import ClientRunError

if TYPE_CHECKING:
    from tests.drills.drill import Drill, Finding

DRILLS = {
    "kill": ("kills", "kill_workers"),
    "swaps": ("swaps", "swap_under_load"),
    "mutants": ("mutants", "ask_about_mutants"),
    "soak": ("soak", "soak"),
    "security": ("security", "try_what_is_forbidden"),
    "stop": ("stops", "stop_at_full_load"),
}
"""Each one's module and function; their libraries are those of an extra."""

EPILOG = """\
examples:
  python -m tests.drills                    all of it, some 20 minutes
  python -m tests.drills kill stop --archive a@1.mar a@2.mar
  python -m tests.drills --short            a minute or two, as the test suite has it

Ends with 1 when something went otherwise than it must.
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = CommandParser(prog="python -m tests.drills", description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "drills", nargs="*", metavar="DRILL", help="one of those above (default: all)"
    )
    parser.add_argument(
        "--short", action="store_true", help="take seconds for each, with a small encoder"
    )
    parser.add_argument(
        "--archive",
        type=Path,
        nargs=2,
        metavar="FILE.mar",
        help="use two versions of a model (default: a ViT-B/32 with random weights)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    found = parser.parse_args(arguments)
    if unknown := [name for name in found.drills if name not in DRILLS]:
        parser.error(f"there is no drill {unknown[0]!r}; there are {', '.join(DRILLS)}")
    found.drills = found.drills or list(DRILLS)
    return found


def run(arguments: argparse.Namespace, scratch: Path) -> bool:
    """Runs the drills, prints what they found, and returns whether all passed."""
    require_extra("python -m tests.drills", "cv2", "psutil", "torch", "ts", extra="build")
    from tests.drills.drill import prepare

    ground = prepare(
        arguments.archive,
        PHOTOGRAPHS,
        ROOT / "config.properties",
        scratch,
        say,
        short=arguments.short,
    )
    findings = {}
    for name in arguments.drills:
        begun = time.monotonic()
        findings[name] = _drill(name)(ground)
        _print(name, findings[name], time.monotonic() - begun)
    if arguments.json:
        content = {
            name: {"figures": found.figures, "faults": found.faults}
            for name, found in findings.items()
        }
        with replacing(arguments.json) as file:
            file.write(json.dumps(content, indent=1) + "\n")
    return not any(found.faults for found in findings.values())


def _drill(name: str) -> "Drill":
    module, function = DRILLS[name]
    drill: Drill = getattr(import_module(f"tests.drills.{module}"), function)
    return drill


def _print(name: str, found: "Finding", seconds: float) -> None:
    print(f"{name}: {'FAILED' if found.faults else 'passed'}, {seconds:.0f} s")
    for line in found.figures:
        print(f"  {line}")
    for fault in found.faults:
        print(f"  FAULT: {fault}")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    found = parse_arguments(arguments)
    # What ends a run by a signal has servers to end first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with reliable_interrupts(), tempfile.TemporaryDirectory(prefix="drills-") as scratch:
            return 0 if run(found, Path(scratch)) else 1
    except (MissingExtraError, LocalServerError, ClientRunError, TimeoutError) as error:
        print(f"drills: {error}", file=sys.stderr)
        return 1
    except ServiceError as error:
        print(f"drills: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("drills: interrupted; the servers are stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
