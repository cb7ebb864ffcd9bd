"""The command line of manage.py."""

import argparse
from pathlib import Path

from deepfake_tools.cli import (
    CommandParser,
    at_least,
    fraction,
    given,
    listen_address,
    not_negative,
    seconds,
)
from deepfake_tools.errors import exit_code_table
from deepfake_tools.inspection import ArchiveError
from deepfake_tools.operations.addresses import AddressTakenError
from deepfake_tools.operations.readiness import NotReadyError
from deepfake_tools.operations.rollout import ConflictError
from deepfake_tools.operations.version_check import CheckError, Tolerances
from deepfake_tools.store import StoreError
from deepfake_tools.torchserve.connection import KEY_FILE_NAME
from deepfake_tools.torchserve.options import add_address_options, add_ca_option
from deepfake_tools.torchserve.tokens import KEY_FILE_VARIABLE

WRONG_ARGUMENTS = 2
CHANGE_SECONDS = 150
LOOK_SECONDS = 5
ARCHIVE_HELP = "NAME@VERSION.mar, in the store or elsewhere: then it is copied there first"
IMAGE_HELP = "what to ask the new version about (a small image of its own)"
MODEL_HELP = "Hub name, or the name that it is served under"
CONFIG = Path(__file__).resolve().parents[3] / "config.properties"
OWN_CODES = "\n".join(
    f"  {failure.exit_code:>3}  {failure.meaning}"
    for failure in (
        ArchiveError,
        StoreError,
        NotReadyError,
        CheckError,
        ConflictError,
        AddressTakenError,
    )
)
EPILOG = f"""\
examples:
  python scripts/manage.py list
  python scripts/manage.py register model_store/openai--clip-vit-base-patch32@1.mar
  python scripts/manage.py swap model_store/openai--clip-vit-base-patch32@2.mar --check faces
  python scripts/manage.py rollback openai/clip-vit-base-patch32
  python scripts/manage.py stop

MODEL is a Hub name or the name that it is served under. What is the default survives a restart
by `make serve`: every change rewrites served.properties beside the model store.

{exit_code_table()}
{OWN_CODES}
  130  interrupted; a change that was under way has been undone
"""


class Commands:
    """The command line under construction.

    Args:
        parser: The program's parser.
    """

    def __init__(self, parser: CommandParser) -> None:
        self._commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def add(
        self,
        name: str,
        summary: str,
        description: str | None = None,
        timeout: float | None = CHANGE_SECONDS,
    ) -> argparse.ArgumentParser:
        """Adds a command.

        Args:
            name: What is typed.
            summary: For the list of commands.
            description: For the command's own --help.
            timeout: The default of --timeout in seconds; None for one that asks no server.
        """
        command: CommandParser = self._commands.add_parser(
            name,
            help=summary,
            description=description or summary,
            formatter_class=argparse.HelpFormatter,
        )
        _add_file_options(command)
        if timeout is not None:
            _add_server_options(command, timeout)
        return command


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line; `command` is the name of the one that was given."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.command == "swap":
        limits = given(args, "min_agreement", "max_slowdown")
        if limits and args.check is None:
            parser.error(f"{limits[0]} is for --check DIR: nothing is compared without it")
    return args


def make_parser() -> CommandParser:
    """Returns the command line's parser; `command` is the name of the one that was given."""
    parser = CommandParser(
        prog="manage.py",
        description="Changes what a running TorchServe serves, says whether it is ready, and "
        "stops it.",
        epilog=EPILOG,
    )
    adding = Commands(parser)
    adding.add(
        "list",
        "what is served, and by how many workers",
        "Lists what is served, and by how many workers.",
    )
    _add_archive_commands(adding)
    _add_model_commands(adding)
    _add_server_commands(adding)
    command = adding.add(
        "config",
        "write served.properties and print its path; needs no server",
        "Writes served.properties, which `make serve` starts TorchServe with: config.properties, "
        "with one version of each model to load. These are the defaults as the last change left "
        "them, or the newest archives where nothing was ever changed.",
        timeout=None,
    )
    addresses_help = "fail where an address or the pid file of the server is taken"
    command.add_argument("--check-addresses", action="store_true", help=addresses_help)
    return parser


def _add_archive_commands(commands: Commands) -> None:
    command = commands.add(
        "register",
        "serve an archive",
        "Checks an archive and serves it: as the default if it is the first of its model, else "
        "beside the default, to be asked by its number until the server's next start.",
    )
    command.add_argument("archive", type=Path, metavar="ARCHIVE", help=ARCHIVE_HELP)
    command = commands.add(
        "swap",
        "replace a default version, without losing a request",
        "Checks an archive, serves it beside the default, asks it about an image, makes it the "
        "default, waits until the old version has answered everything, and removes that one. If "
        "any step fails, the old version stays the default and the new one is removed. One that "
        "was registered before is promoted; what a swap that was killed has left is completed.",
    )
    command.add_argument("archive", type=Path, metavar="ARCHIVE", help=ARCHIVE_HELP)
    command.add_argument("--image", type=Path, metavar="FILE", help=IMAGE_HELP)
    _add_check_options(command)


def _add_check_options(command: argparse.ArgumentParser) -> None:
    tolerances = Tolerances()
    group = command.add_argument_group(
        "comparison before the switch",
        "Both versions are asked about every image, in turns. The new one is refused by one of "
        "the limits below, or when its share of images without a verdict is a point higher. What "
        "others ask meanwhile waits in the old version's queue alone, so compare latencies while "
        "there is little to do.",
    )
    group.add_argument(
        "--check",
        metavar="DIR",
        help="ask both about these images and videos, named as for client.py --image",
    )
    group.add_argument(
        "--min-agreement",
        type=fraction,
        metavar="SHARE",
        help=f"least share of equal labels ({tolerances.min_agreement:g})",
    )
    group.add_argument(
        "--max-slowdown",
        type=not_negative,
        metavar="SHARE",
        help=f"share by which the 95th percentile may grow ({tolerances.max_slowdown:g})",
    )


def _add_model_commands(commands: Commands) -> None:
    command = commands.add(
        "rollback",
        "swap back to the version before",
        "Swaps to the version before the last swap; its file is still in the store. A second "
        "rollback undoes the first.",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--image", type=Path, metavar="FILE", help=IMAGE_HELP)
    command = commands.add(
        "scale",
        "change how many workers a model has",
        "Changes how many workers a version has until the server's next start (build_mar.py "
        "--workers does so for good). With fewer, what the removed ones have in flight is lost.",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    command.add_argument(
        "--workers", type=at_least(1), required=True, metavar="N", help="how many from now on"
    )
    command.add_argument(
        "--version", metavar="V", help="the version whose workers are meant (the default one)"
    )
    command = commands.add(
        "unregister",
        "stop serving a model, or one version of it",
        "Removes a model, or one version that is not the default. What it has in flight is lost. "
        "Files stay in the store.",
    )
    command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    command.add_argument("--version", metavar="V", help="remove this version alone (all of them)")


def _add_server_commands(commands: Commands) -> None:
    command = commands.add(
        "ready",
        "exit code 0 when every model answers",
        "Exit code 0 when the default version of every model has a READY worker and the server "
        "is not being stopped; else another code, and a line that says why. TorchServe's /ping is "
        "healthy while no worker could start. For liveness ask the inference port for "
        "/api-description, which takes no token.",
        timeout=LOOK_SECONDS,
    )
    wait_help = "wait this long for it (%(default)g)"
    command.add_argument("--wait", type=not_negative, default=0, metavar="SECONDS", help=wait_help)
    command = commands.add(
        "probe",
        "answer the same to load balancers and Prometheus, over HTTP and without a token",
        "Answers GET /ready with 200 or 503 as `ready` would, and GET /live likewise while "
        "TorchServe itself answers, until Ctrl-C; GET /metrics tells Prometheus both, and /v2 has "
        "health, readiness and metadata by KServe's v2 protocol. It reads the key file; who asks "
        "needs no token.",
        timeout=LOOK_SECONDS,
    )
    listen_help = "the address to listen on (%(default)s); answers name models and versions"
    command.add_argument(
        "--listen",
        type=listen_address,
        default=("127.0.0.1", 8083),
        metavar="HOST:PORT",
        help=listen_help.replace("%(default)s", "127.0.0.1:8083"),
    )
    _add_stop(commands)


def _add_stop(commands: Commands) -> None:
    command = commands.add(
        "stop",
        "end the server without losing a request",
        "Ends readiness, waits for load balancers to notice, waits until everything has been "
        "answered, and ends TorchServe, as its own user and on its own machine. Interrupted "
        "before that, it leaves the server ready as before.",
        timeout=LOOK_SECONDS,
    )
    grace_help = "between the end of readiness and the drain (%(default)g)"
    command.add_argument(
        "--grace", type=not_negative, default=5, metavar="SECONDS", help=grace_help
    )
    drain_help = "longest wait for what is under way (%(default)g)"
    command.add_argument(
        "--drain", type=not_negative, default=10, metavar="SECONDS", help=drain_help
    )
    pid_help = "TorchServe's own (.model_server.pid in TMPDIR)"
    command.add_argument("--pid-file", type=Path, metavar="FILE", help=pid_help)


def _add_file_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("files")
    group.add_argument(
        "--model-store",
        type=Path,
        default=Path("model_store"),
        metavar="DIR",
        help="the store that the server was started with (%(default)s)",
    )
    group.add_argument(
        "--config",
        type=Path,
        default=CONFIG,
        metavar="FILE",
        help="settings that served.properties begins with (the repository's config.properties)",
    )


def _add_server_options(command: argparse.ArgumentParser, timeout: float) -> None:
    group = command.add_argument_group("server")
    add_address_options(group)
    group.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help=f"TorchServe's tokens (${KEY_FILE_VARIABLE}, else ./{KEY_FILE_NAME})",
    )
    group.add_argument(
        "--logs",
        type=Path,
        metavar="DIR",
        help="the server's logs, for why a worker did not start (logs beside the key file)",
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        default=timeout,
        metavar="SECONDS",
        help="longest wait for one step, such as a worker's start (%(default)g)",
    )
    add_ca_option(group)
