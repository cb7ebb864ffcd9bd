#!/usr/bin/env python3
"""Builds a detector, serves it for a moment and asks it about photographs; leaves nothing behind.

Without --model the detector is a stand-in, made on the spot, and nothing is downloaded.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from deepfake_tools.local_server import LocalServer, LocalServerError

ROOT = Path(__file__).resolve().parent.parent
READY_LIMIT_S = 120.0


def main() -> int:
    """Runs the demo and returns the exit code: the client's, or that of the step that failed."""
    args = parse_arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt_once)
    try:
        with tempfile.TemporaryDirectory(prefix="demo-") as folder:
            return demonstrate(args.model, args.image, Path(folder))
    except LocalServerError as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode  # the command itself has said why
    except KeyboardInterrupt:
        print("demo.py: interrupted; the server is stopped", file=sys.stderr)
        return 130


def parse_arguments() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="Hub name or local folder (default: a small stand-in)")
    parser.add_argument(
        "--image",
        type=Path,
        nargs="+",
        default=sorted((ROOT / "examples").glob("*.jpg")),
        metavar="FILE",
        help="photographs (default: those in examples/)",
    )
    args = parser.parse_args()
    for image in args.image:
        if not image.is_file():
            parser.error(f"there is no file {image}")
    return args


def interrupt_once(number: int, frame: FrameType | None) -> None:
    """Lets the first signal end the demo, and none after it disturb the tidying up.

    Raises:
        KeyboardInterrupt: Always.
    """
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def demonstrate(model: str | None, images: list[Path], folder: Path) -> int:
    """Builds, serves and asks.

    Args:
        model: Hub name or local folder; None is the stand-in.
        images: The photographs to ask about.
        folder: Holds everything that is made on the way.

    Returns:
        The client's exit code.
    """
    archive = build(model or stand_in(folder), folder / "store")
    name = archive.stem.rpartition("@")[0]
    say(f"starting TorchServe with {archive.name}")
    with LocalServer(archive.parent, ROOT / "config.properties") as server:
        server.wait_ready(name, limit_s=READY_LIMIT_S)
        say(f"asking {server.inference_url} about {len(images)} photograph(s)")
        connection = ["--server", server.inference_url, "--management", server.management_url]
        command = [*script("client.py"), "--model", name, *connection]
        command += ["--key-file", str(server.key_file), "--output", str(folder / "results.txt")]
        code = subprocess.run([*command, "--image", *map(str, images)], check=False).returncode
        say("stopping TorchServe")
    return code


def stand_in(folder: Path) -> str:
    """Writes a small CLIP with random weights and returns its folder."""
    from deepfake_tools.standin import clip_config, write_clip  # torch takes its time

    size = {"intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    vision = {"hidden_size": 256, **size, "image_size": 224, "patch_size": 32}
    text = {"hidden_size": 256, **size, "vocab_size": 1000}
    say(
        "making a stand-in: CLIP's architecture with 4 layers and random weights. It shows how "
        "things work; its predictions mean nothing"
    )
    write_clip(folder / "stand-in-clip", clip_config(vision, text, projection=128))
    return str(folder / "stand-in-clip")


def build(model: str, store: Path) -> Path:
    """Builds the archive of a model and returns its path.

    Raises:
        CalledProcessError: The builder refused; it has said why.
    """
    say(f"building an archive of {Path(model).name if Path(model).is_dir() else model}")
    command = [*script("build_mar.py"), "--model", model, "--export-path", str(store)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = store.glob("*.mar")
    return archive


def script(name: str) -> list[str]:
    """Returns the start of a command line that runs one of the scripts beside this one."""
    return [sys.executable, str(ROOT / "scripts" / name)]


def say(text: str) -> None:
    """Prints a step."""
    print(f"-- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
