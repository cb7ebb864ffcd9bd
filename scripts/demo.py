#!/usr/bin/env python3
"""Builds and serves a detector for a moment and asks it; leaves nothing behind.

Alone it also trains a head, on crops of the photographs in examples/ and on manipulated copies of
them, and asks about other parts of the same photographs; the encoder is a stand-in, made on the
spot, and nothing is downloaded. With --model or --image nothing is trained, and the verdicts are
chance. Either way it is a demonstration, and no deepfake detector.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from deepfake_tools.cli import CommandParser
from deepfake_tools.demonstration.crops import Pair, write_held_out_crops, write_training_crops
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.interrupts import interrupt_once
from deepfake_tools.torchserve.local_server import LocalServer, LocalServerError

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = sorted((ROOT / "examples").glob("*.jpg"))
READY_LIMIT_S = 120.0

# What the client's results file says of an image.
ANSWER = re.compile(r"\| Pred: ([01]) .*\| Prob: ([01]\.\d{4}) \|")


def main() -> int:
    """Runs the demo and returns the exit code: the client's, or that of the step that failed."""
    args = parse_arguments()
    interrupt_once()
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
    parser = CommandParser(description=__doc__)
    parser.add_argument("--model", help="Hub name or local folder (default: a small stand-in)")
    parser.add_argument(
        "--image",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="ask about these photographs (default: those in examples/)",
    )
    args = parser.parse_args()
    for image in args.image:
        if not image.is_file():
            parser.error(f"there is no file {image}")
    return args


def demonstrate(model: str | None, images: list[Path], folder: Path) -> int:
    """Builds, serves and asks; trains first where that takes seconds and can be judged.

    Args:
        model: Hub name or local folder; None is the stand-in.
        images: The photographs to ask about; none are those in examples/.
        folder: Holds everything that is made on the way.

    Returns:
        The client's exit code.
    """
    trains = model is None and not images
    model = model or stand_in(folder)
    asked, head = images or PHOTOGRAPHS, None
    if trains:
        asked = [path for pair in make_crops(folder) for path in (pair.real, pair.fake)]
        head = train(model, folder)
    archive = build(model, head, folder / "store")
    results = folder / "results.txt"
    code = serve_and_ask(archive, asked, results)
    if head is None:
        say(
            "the head was never trained: these verdicts are chance, and show that the plumbing "
            "works. It is no deepfake detector"
        )
        return code
    if code == 0:
        say(judgement(results.read_text(encoding="utf-8")))
    say(
        "this was a demonstration of how things work: its head knows one kind of trace, on five "
        "photographs. It is no deepfake detector"
    )
    return code


def serve_and_ask(archive: Path, images: list[Path], results: Path) -> int:
    """Starts a server, asks it about each image and stops it; returns the client's exit code.

    Raises:
        LocalServerError: The server did not come up.
    """
    name = ArchiveName.parse(archive.name).name
    say(f"starting TorchServe with {archive.name}")
    with LocalServer(archive.parent, ROOT / "config.properties") as server:
        server.wait_ready(name, limit_s=READY_LIMIT_S)
        say(f"asking {server.inference_url} about {len(images)} image(s)")
        connection = ["--server", server.inference_url, "--management", server.management_url]
        command = [*script("client.py"), "--model", name, *connection]
        command += ["--key-file", str(server.key_file), "--output", str(results)]
        code = subprocess.run([*command, "--image", *map(str, images)], check=False).returncode
        say("stopping TorchServe")
    return code


def make_crops(folder: Path) -> list[Pair]:
    """Writes the images to train on, and returns those to ask about."""
    say(
        "cutting the photographs in examples/ into crops, and making a manipulated copy of each: "
        "an oval of it is reduced to half, enlarged again with the grid that a careless generator "
        "leaves, and blended back in (after the method of self-blended images)"
    )
    write_training_crops(PHOTOGRAPHS, folder / "training", each=12)
    return write_held_out_crops(PHOTOGRAPHS, folder / "held-out", each=2)


def stand_in(folder: Path) -> str:
    """Writes a small CLIP with random weights and returns its folder."""
    from deepfake_tools.demonstration.random_clip import (  # torch takes its time
        clip_config,
        write_clip,
    )

    size = {"intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    vision = {"hidden_size": 256, **size, "image_size": 224, "patch_size": 32}
    text = {"hidden_size": 256, **size, "vocab_size": 1000}
    say("making a stand-in for the encoder: CLIP's architecture with 4 layers and random weights")
    write_clip(folder / "stand-in-clip", clip_config(vision, text, projection=128))
    return str(folder / "stand-in-clip")


def train(model: str, folder: Path) -> Path:
    """Trains a head on the crops and returns its file.

    Raises:
        CalledProcessError: It cannot be trained; the command has said why.
    """
    say("training a head on the crops of one part of each photograph")
    head = folder / "head.safetensors"
    command = [*script("train.py"), "--model", model, "--data", str(folder / "training")]
    command += ["--cache", str(folder / "features"), "--output", str(head)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return head


def build(model: str, head: Path | None, store: Path) -> Path:
    """Builds the archive of a model, with a head or an untrained one, and returns its path.

    Raises:
        CalledProcessError: The builder refused; it has said why.
    """
    what = Path(model).name if Path(model).is_dir() else model
    say(f"building an archive of {what}" + ("" if head else ", under a head that is NOT TRAINED"))
    command = [*script("build_mar.py"), "--model", model, "--export-path", str(store)]
    command += [] if head is None else ["--weights", str(head)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = store.glob("*.mar")
    return archive


def judgement(results: str) -> str:
    """Says how well the held-out crops were judged.

    Args:
        results: The client's results file; real crops and manipulated copies take turns in it.
    """
    from sklearn.metrics import roc_auc_score

    answers = [(int(label), float(score)) for label, score in ANSWER.findall(results)]
    truth = [number % 2 for number in range(len(answers))]
    right = sum(label == true for (label, _), true in zip(answers, truth, strict=True))
    auc = roc_auc_score(truth, [score for _, score in answers])
    return (
        f"{right} of {len(truth)} verdicts on crops that the head was not trained on are right, "
        f"AUC {auc:.4f}"
    )


def script(name: str) -> list[str]:
    """Returns the start of a command line that runs one of the scripts beside this one."""
    return [sys.executable, str(ROOT / "scripts" / name)]


def say(text: str) -> None:
    """Prints a step."""
    print(f"-- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
