"""Shows the served detectors in a browser: drop images or a video, see verdicts and why."""

import argparse
import os
import sys
import threading
from pathlib import Path

from deepfake_tools.cli import CommandParser, listen_address
from deepfake_tools.client.target import read_target
from deepfake_tools.errors import ServiceError
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.interrupts import interrupt_on_stops
from deepfake_tools.page.access import AccessError, check_listening, is_loopback, read_accounts
from deepfake_tools.page.uploads import Desk
from deepfake_tools.ports import try_to_listen
from deepfake_tools.torchserve.options import add_connection_options

LISTEN = ("127.0.0.1", 7860)
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def main() -> int:
    """Shows the page until it is stopped, and returns the exit code."""
    parser = make_parser()
    args = parser.parse_args()
    host, port = args.listen
    try:
        require_extra("page.py", extra="page")
        accounts = None if args.auth_file is None else read_accounts(args.auth_file)
        check_listening(host, accounts)
    except (MissingExtraError, AccessError) as error:
        parser.error(str(error))
    try:
        # Gradio's own message names its variables and functions.
        try_to_listen(host, port)
    except OSError as error:
        parser.error(f"--listen {host}:{port}: {error.strerror}: give another address")
    interrupt_on_stops()
    try:
        with Desk() as desk:
            return show(args, desk, host, port, accounts)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: the page cannot be shown at {host}:{port}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    listen_help = "where to show the page ({}:{})".format(*LISTEN)
    add("--listen", type=listen_address, default=LISTEN, metavar="HOST:PORT", help=listen_help)
    auth_help = "who may open it, a user:password a line, mode 600; needed for other machines"
    add("--auth-file", type=Path, metavar="FILE", help=auth_help)
    add_connection_options(parser, timeout=60)
    parser.set_defaults(model="", version=None, retries=3, concurrency=8)
    return parser


def show(
    args: argparse.Namespace, desk: Desk, host: str, port: int, accounts: dict[str, str] | None
) -> int:
    """Shows the page for as long as nobody stops it.

    Raises:
        ServiceError: A place that was named holds no usable token.
        OSError: The address cannot be had.
        KeyboardInterrupt: Somebody has stopped it.
    """
    stay_here(desk)
    # Gradio takes seconds to import, and reads what was just set.
    from deepfake_tools.page.app import Page, build, launch

    examples = {path.stem: path for path in sorted(EXAMPLES.glob("*.jpg"))}
    blocks = build(Page(read_target(args, None), desk, examples), examples)
    try:
        address = launch(blocks, desk, host, port, accounts)
        print(f"The page is at {address if is_loopback(host) else f'http://{host}:{port}/'}")
        print("Ctrl-C stops it.", flush=True)
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)
    return 0


def stay_here(desk: Desk) -> None:
    """Lets Gradio ask nobody in the internet, and keep files where they are deleted."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(desk.incoming)
    # Gradio looks whether its own page answers: not by way of a proxy.
    for name in ("no_proxy", "NO_PROXY"):
        known = os.environ.get(name)
        os.environ[name] = ",".join(filter(None, (known, "127.0.0.1", "localhost")))


if __name__ == "__main__":
    sys.exit(main())
