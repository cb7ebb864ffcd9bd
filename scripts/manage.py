"""Changes what a running TorchServe serves, says whether it is ready, and stops it."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

# A clone and `requests` are enough: the detector's package need not be installed.
sys.path.append(str(Path(__file__).resolve().parent.parent / "handler"))

from deepfake_tools.canary import canary_image
from deepfake_tools.client.images import CollectionError, collect
from deepfake_tools.client.target import Target
from deepfake_tools.errors import ServiceError
from deepfake_tools.extras import MissingExtraError
from deepfake_tools.files import read_regular
from deepfake_tools.inspection import ArchiveName, served_name
from deepfake_tools.interrupts import interrupt_on_stops
from deepfake_tools.labels import LabelError
from deepfake_tools.operations import shutdown
from deepfake_tools.operations.addresses import check_alone, check_free
from deepfake_tools.operations.boot import renew, served_path
from deepfake_tools.operations.listing import model_table
from deepfake_tools.operations.model_metadata import VersionState, version_states
from deepfake_tools.operations.options import WRONG_ARGUMENTS, parse_arguments
from deepfake_tools.operations.probe import Probe
from deepfake_tools.operations.readiness import DrainingMark, NotReadyError, check_ready
from deepfake_tools.operations.rollout import RunningServer
from deepfake_tools.operations.service import Check, Service
from deepfake_tools.operations.version_check import (
    CheckError,
    Tolerances,
    compare,
    find_files,
    version_asker,
)
from deepfake_tools.operations.worker_log import WorkerLog
from deepfake_tools.store import Store, StoreError
from deepfake_tools.torchserve.api import InferenceAPI, ManagementAPI
from deepfake_tools.torchserve.connection import KEY_FILE_NAME, Endpoint, Purpose
from deepfake_tools.torchserve.tokens import KEY_FILE_VARIABLE, Credentials, fresh_key

POLL_S = 0.2
CHECK_RETRIES = 6


class ListenError(Exception):
    """The address to listen on is taken, or is none of this machine's."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    args = parse_arguments(arguments)
    interrupt_on_stops()
    try:
        COMMANDS[args.command](args)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (CollectionError, LabelError, ListenError, MissingExtraError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_ARGUMENTS
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
    with tempfile.TemporaryDirectory(prefix="check-") as frames:
        check = None if args.check is None else make_check(args, Path(frames))
        service(args).swap(Store(args.model_store).find(args.archive), image(args), check)


def rollback(args: argparse.Namespace) -> None:
    """Replaces the default version by the one before."""
    service(args).rollback(served_name(args.model), image(args))


def scale(args: argparse.Namespace) -> None:
    """Changes how many workers a version has."""
    service(args).scale(served_name(args.model), args.version, args.workers)


def unregister(args: argparse.Namespace) -> None:
    """Stops serving a version or a model."""
    service(args).unregister(served_name(args.model), args.version)


def ready(args: argparse.Namespace) -> None:
    """Says whether every model answers, or what is wrong."""
    deadline = time.monotonic() + args.wait
    while True:
        try:
            print(f"ready: {look(args)}")
            return
        except ServiceError as error:
            if time.monotonic() >= deadline:
                raise
            if not isinstance(error, NotReadyError) and not error.is_general:
                raise
            time.sleep(POLL_S)


def probe(args: argparse.Namespace) -> None:
    """Tells load balancers, which carry no token, whether the server is ready."""
    host, port = args.listen

    def live() -> str:
        # The one path that asks for no token, and answers while no worker does.
        Endpoint(args.server, None, args.timeout, args.ca).call("GET", "/api-description")
        return "live"

    def versions() -> tuple[VersionState, ...]:
        return version_states(connect(args).management)

    draining = DrainingMark(Store(args.model_store)).check
    try:
        service = Probe(host, port, draining, lambda: f"ready: {look(args)}", live, versions)
    except OSError as error:
        raise ListenError(
            f"--listen {host}:{port}: {error.strerror}: give another address"
        ) from error
    say(f"answering /ready, /live and /v2 at http://{host}:{service.port}")
    service.serve()


def stop(args: argparse.Namespace) -> None:
    """Ends the server once it has answered what it was asked."""
    process = shutdown.ServerProcess.find(
        args.pid_file or shutdown.default_pid_file(), args.management
    )
    times = shutdown.StopTimes(args.grace, args.drain)
    store = Store(args.model_store)
    shutdown.stop(lambda: connect(args), process, store, key_file(args), times, say)


def config(args: argparse.Namespace) -> None:
    """Writes served.properties and prints its path."""
    store = Store(args.model_store)
    if args.check_addresses:
        check_free(args.config)
        check_alone()
    # Of a server that was killed while it was being stopped.
    DrainingMark(store).clear()
    for notice in renew(store, args.config):
        print(f"note: {notice}", file=sys.stderr)
    print(served_path(store))


COMMANDS = {
    "list": list_models,
    "register": register,
    "swap": swap,
    "rollback": rollback,
    "scale": scale,
    "unregister": unregister,
    "ready": ready,
    "probe": probe,
    "stop": stop,
    "config": config,
}


def look(args: argparse.Namespace) -> str:
    """Returns what is ready, in one line, or raises ServiceError."""
    store = Store(args.model_store)
    # First, since a server that is being stopped may take its time with an answer.
    DrainingMark(store).check()
    server = connect(args)
    return check_ready(server.management, store, WorkerLog(server.logs, from_now=False))


def make_check(args: argparse.Namespace, frames: Path) -> Check:
    """Returns what asks the old and the new version about a folder, and refuses the new one.

    Args:
        args: The command line.
        frames: An empty folder for frames of videos; it must last as long as the check.

    Raises:
        CollectionError: It is not there, or there is no image in it.
        LabelError: Its folders' names disagree, as for client.py.
        MissingExtraError: It is a video, and what reads videos is not installed.
        TokenError: The key file holds no usable token.
    """
    if not Path(args.check).exists():
        # The client takes such a name for an image that cannot be read.
        raise CollectionError(f"--check {args.check}: there is no such folder")
    collection = collect([args.check], videos=True)
    for note in collection.left_out.notes():
        print(f"note: {note}", file=sys.stderr)
    files = find_files(collection.images, frames)
    if not files:
        raise CollectionError(f"no video in {args.check} can be read")
    tolerances = Tolerances(
        Tolerances.min_agreement if args.min_agreement is None else args.min_agreement,
        Tolerances.max_slowdown if args.max_slowdown is None else args.max_slowdown,
    )
    credentials = Credentials(None, args.key_file, args.management, args.ca)

    def target(archive: ArchiveName) -> Target:
        return Target(
            model=archive.name,
            version=archive.version,
            server=args.server,
            management=args.management,
            credentials=credentials,
            key_file=args.key_file,
            seconds=args.timeout,
            retries=CHECK_RETRIES,
            concurrency=1,
            ca=args.ca,
        )

    def check(old: ArchiveName, new: ArchiveName) -> None:
        say(f"asking both versions about {len(files)} images in {args.check}")
        ask_old, ask_new = (version_asker(target(each), files) for each in (old, new))
        found = compare(ask_old, ask_new, list(files), tolerances)
        for line in found.lines():
            say(line)
        if objections := found.objections(tolerances):
            raise CheckError(f"{new} is refused: {'; '.join(objections)}")

    return check


def service(args: argparse.Namespace) -> Service:
    """Returns the server and its store."""
    return Service(connect(args), Store(args.model_store), args.config)


def connect(args: argparse.Namespace) -> RunningServer:
    """Finds the tokens, renews those whose time is over, and returns the server's two APIs."""
    tokens = {
        purpose: fresh_key(purpose, args.key_file, args.management, args.ca)
        for purpose in (Purpose.MANAGEMENT, Purpose.INFERENCE)
    }
    return RunningServer(
        management=ManagementAPI(
            args.management, tokens[Purpose.MANAGEMENT], args.timeout, args.ca
        ),
        inference=InferenceAPI(args.server, tokens[Purpose.INFERENCE], args.timeout, args.ca),
        # TorchServe writes its logs and its key file into the folder that it is started in.
        logs=args.logs or key_file(args).parent / "logs",
        limit_s=args.timeout,
        say=say,
    )


def key_file(args: argparse.Namespace) -> Path:
    """Returns where the server's tokens are, or would be."""
    return args.key_file or Path(os.environ.get(KEY_FILE_VARIABLE) or KEY_FILE_NAME)


def say(text: str) -> None:
    """Prints a line; that nobody reads it must not end a change half way."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def image(args: argparse.Namespace) -> bytes:
    """Returns the image that a new version is asked about."""
    return canary_image() if args.image is None else read_regular(args.image)


if __name__ == "__main__":
    sys.exit(main())
