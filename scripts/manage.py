"""Changes what a running TorchServe serves: registers, swaps, scales and removes detectors."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from deepfake_tools.deployment import INTERRUPTS, Server
from deepfake_tools.failures import ServiceError, exit_code_table
from deepfake_tools.inspection import ArchiveError
from deepfake_tools.options import address, seconds
from deepfake_tools.served import renew, served_path
from deepfake_tools.service import Service
from deepfake_tools.store import Store, StoreError
from deepfake_tools.table import model_table
from deepfake_tools.tokens import KEY_FILE_NAME, KEY_FILE_VARIABLE, Purpose, find_key
from deepfake_tools.torchserve import (
    INFERENCE_ADDRESS,
    MANAGEMENT_ADDRESS,
    InferenceAPI,
    ManagementAPI,
    served_name,
)
from deepfake_tools.trial import trial_image
from deepfake_tools.worker_log import WorkerLog

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

ARCHIVE_HELP = "NAME@VERSION.mar, in the store or elsewhere: then it is copied there first"
IMAGE_HELP = "what to ask the new version about (a small image of its own)"
CONFIG = Path(__file__).resolve().parent.parent / "config.properties"
EPILOG = f"""\
examples:
  python scripts/manage.py list
  python scripts/manage.py register model_store/openai--clip-vit-base-patch32@1.mar
  python scripts/manage.py swap model_store/openai--clip-vit-base-patch32@2.mar --image photo.jpg
  python scripts/manage.py rollback openai/clip-vit-base-patch32

MODEL is a Hub name or the name that it is served under. What is the default survives a restart
by `make serve`: every change rewrites served.properties beside the model store.

{exit_code_table()}
   {ArchiveError.exit_code}  {ArchiveError.meaning}
   {StoreError.exit_code}  {StoreError.meaning}
  130  interrupted; a change that was under way has been undone
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    args = parse_arguments(arguments)
    # A polite kill and a lost terminal undo a change as Ctrl-C does, unless nohup has said no.
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        args.run(args)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return StoreError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def list_models(args: argparse.Namespace) -> None:
    """Prints every version of every model, and what keeps it from being READY."""
    server = connect(args)
    versions = []
    for model in server.management.models():
        default = server.management.version(model.name).version
        versions += [(v, v.version == default) for v in server.management.versions(model.name)]
    if not versions:
        print("no model is served: python scripts/manage.py register ARCHIVE")
        return
    for line in model_table(versions, WorkerLog(server.logs, from_now=False)):
        print(line)


def register(args: argparse.Namespace) -> None:
    """Serves an archive."""
    service(args).register(Store(args.model_store).find(args.archive))


def swap(args: argparse.Namespace) -> None:
    """Replaces the default version by an archive."""
    service(args).swap(Store(args.model_store).find(args.archive), image(args))


def rollback(args: argparse.Namespace) -> None:
    """Replaces the default version by the one before."""
    service(args).rollback(served_name(args.model), image(args))


def scale(args: argparse.Namespace) -> None:
    """Changes how many workers a version has."""
    service(args).scale(served_name(args.model), args.version, args.workers)


def unregister(args: argparse.Namespace) -> None:
    """Stops serving a version or a model."""
    service(args).unregister(served_name(args.model), args.version)


def config(args: argparse.Namespace) -> None:
    """Writes served.properties and prints its path."""
    store = Store(args.model_store)
    for notice in renew(store, args.config):
        print(f"note: {notice}", file=sys.stderr)
    print(served_path(store))


def service(args: argparse.Namespace) -> Service:
    """Returns the server and its store."""
    return Service(connect(args), Store(args.model_store), args.config)


def connect(args: argparse.Namespace) -> Server:
    """Finds the tokens and returns the server's two APIs."""
    key_file = args.key_file or Path(os.environ.get(KEY_FILE_VARIABLE) or KEY_FILE_NAME)
    token = find_key(Purpose.MANAGEMENT, args.key_file)
    if token is not None and token.warning:
        print(f"warning: {token.warning}", file=sys.stderr)
    return Server(
        management=ManagementAPI(args.management, token, args.timeout),
        inference=InferenceAPI(
            args.server, find_key(Purpose.INFERENCE, args.key_file), args.timeout
        ),
        # TorchServe writes its logs and its key file into the folder that it is started in.
        logs=args.logs or key_file.parent / "logs",
        limit_s=args.timeout,
        say=say,
    )


def say(text: str) -> None:
    """Prints a line; that nobody reads it must not end a change half way."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def image(args: argparse.Namespace) -> bytes:
    """Returns the image that a new version is asked about."""
    return trial_image() if args.image is None else args.image.read_bytes()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line's arguments; `run` is the command's function."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, list_models, "what is served, and by how many workers")
    _add_archive_commands(commands)
    _add_model_commands(commands)
    _add(
        commands,
        config,
        "write served.properties and print its path; needs no server",
        "Writes served.properties, which `make serve` starts TorchServe with: config.properties, "
        "with one version of each model to load. These are the defaults as the last change left "
        "them, or the newest archives where nothing was ever changed.",
    )
    return parser.parse_args(arguments)


def _add_archive_commands(commands: Commands) -> None:
    command = _add(
        commands,
        register,
        "serve an archive",
        "Checks an archive and serves it: as the default if it is the first of its model, else "
        "beside the default, to be asked by its number until the server's next start.",
    )
    command.add_argument("archive", type=Path, metavar="ARCHIVE", help=ARCHIVE_HELP)
    command = _add(
        commands,
        swap,
        "replace a default version, without losing a request",
        "Checks an archive, serves it beside the default, asks it about an image, makes it the "
        "default, waits until the old version has answered everything, and removes that one. If "
        "any step fails, the old version stays the default and the new one is removed.",
    )
    command.add_argument("archive", type=Path, metavar="ARCHIVE", help=ARCHIVE_HELP)
    command.add_argument("--image", type=Path, metavar="FILE", help=IMAGE_HELP)


def _add_model_commands(commands: Commands) -> None:
    command = _add(
        commands,
        rollback,
        "swap back to the version before",
        "Swaps to the version before the last swap; its file is still in the store. A second "
        "rollback undoes the first.",
    )
    command.add_argument("model", metavar="MODEL")
    command.add_argument("--image", type=Path, metavar="FILE", help=IMAGE_HELP)
    command = _add(
        commands,
        scale,
        "change how many workers a model has",
        "Changes how many workers a version has until the server's next start (build_mar.py "
        "--workers does so for good). With fewer, what the removed ones have in flight is lost.",
    )
    command.add_argument("model", metavar="MODEL")
    command.add_argument("--workers", type=_count, required=True, metavar="N")
    command.add_argument("--version", metavar="V", help="which one (the default one)")
    command = _add(
        commands,
        unregister,
        "stop serving a model, or one version of it",
        "Removes a model, or one version that is not the default. What it has in flight is lost. "
        "Files stay in the store.",
    )
    command.add_argument("model", metavar="MODEL")
    command.add_argument("--version", metavar="V", help="this one alone (all of them)")


def _add(
    commands: Commands,
    run: Callable[[argparse.Namespace], None],
    summary: str,
    description: str | None = None,
) -> argparse.ArgumentParser:
    """Adds a command that is named as its function is."""
    command = commands.add_parser(
        run.__name__.partition("_")[0], help=summary, description=description or summary
    )
    command.set_defaults(run=run)
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
    if run is not config:
        _add_server_options(command)
    return command


def _add_server_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("server")
    group.add_argument(
        "--server", type=address, default=INFERENCE_ADDRESS, help="inference (%(default)s)"
    )
    group.add_argument(
        "--management", type=address, default=MANAGEMENT_ADDRESS, help="management (%(default)s)"
    )
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
        default=150,
        metavar="SECONDS",
        help="longest wait for one step, such as a worker's start (%(default)g)",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
