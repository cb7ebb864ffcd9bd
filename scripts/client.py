"""Asks a served deepfake detector about images: files in, a prediction line for each out."""

import argparse
import io
import shlex
import sys
from pathlib import Path

from deepfake_tools.answers import Verdict
from deepfake_tools.failures import (
    ImageError,
    ModelNotServedError,
    NoWorkerError,
    OutputError,
    ServerBusyError,
    ServiceError,
    TimeLimitError,
    exit_code_table,
)
from deepfake_tools.options import add_connection_options
from deepfake_tools.results import Outcome, write_results
from deepfake_tools.tokens import Purpose, find_key, find_token
from deepfake_tools.torchserve import (
    MANAGEMENT_ADDRESS,
    InferenceAPI,
    ManagementAPI,
    served_name,
)

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
# A look at the management port explains a failure; it must not make the user wait again.
EXPLAIN_SECONDS = 5.0
EPILOG = f"""\
examples:
  python scripts/client.py --image photo.jpg
  python scripts/client.py --model openai/clip-vit-large-patch14 --image a.jpg b.png

{exit_code_table()}
  130  interrupted
"""


def main() -> int:
    """Asks about each image, prints and writes what came of it, and returns the exit code."""
    args = parse_arguments()
    try:
        token = find_token(Purpose.INFERENCE, args.token_file, args.key_file)
        if token is not None and token.warning:
            print(f"warning: {token.warning}", file=sys.stderr)
        outcomes = ask_all(args, InferenceAPI(args.server, token, args.timeout))
        save(args.output, outcomes)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    failures = [o.result for o in outcomes if isinstance(o.result, ServiceError)]
    return max((failure.exit_code for failure in failures), default=0)


def parse_arguments() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="Hub name, or the name that it is served under (%(default)s)",
    )
    parser.add_argument(
        "--image", type=Path, nargs="+", required=True, metavar="FILE", help="one or several images"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("inference_results_huggingface.txt"),
        metavar="FILE",
        help="results file (%(default)s)",
    )
    add_connection_options(parser, timeout=60)
    return parser.parse_args()


def ask_all(args: argparse.Namespace, api: InferenceAPI) -> list[Outcome]:
    """Asks about the images in order, printing as the answers come."""
    results: list[Verdict | ServiceError] = []
    for image in args.image:
        result = ask(args, api, image)
        results.append(result)
        show(args, image, result)
        if isinstance(result, ServiceError) and result.is_general:
            results += [result] * (len(args.image) - len(results))
            break
    if any(isinstance(result, Verdict) and result.detector.is_untrained for result in results):
        print(
            "warning: this detector's head is untrained: its predictions are chance, not evidence",
            file=sys.stderr,
        )
    return [Outcome(image, result) for image, result in zip(args.image, results, strict=True)]


def ask(args: argparse.Namespace, api: InferenceAPI, image: Path) -> Verdict | ServiceError:
    """Returns the verdict on one image, or why there is none."""
    try:
        return api.predict(served_name(args.model), read_image(image))
    except (ModelNotServedError, ServerBusyError, TimeLimitError) as error:
        return explain(args, error)
    except ServiceError as error:
        return error


def read_image(path: Path) -> bytes:
    """Returns the file's bytes.

    Raises:
        ImageError: There is no such file, it cannot be read, or it is empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise ImageError("the file is empty")
    return data


def explain(args: argparse.Namespace, error: ServiceError) -> ServiceError:
    """Returns what the management port knows about a failure, or the failure where it is mute."""
    name = served_name(args.model)
    try:
        token = find_key(Purpose.MANAGEMENT, args.key_file)
        management = ManagementAPI(args.management, token, EXPLAIN_SECONDS)
        if isinstance(error, ModelNotServedError):
            served = ", ".join(model.name for model in management.models()) or "no model at all"
            return ModelNotServedError(f"{name} is not served; {args.server} serves {served}")
        version = management.version(name)
    except ServiceError:
        return error
    if version.ready_workers:
        return error
    workers = ", ".join(worker.status for worker in version.workers) or "none"
    return NoWorkerError(
        f"{name} version {version.version} has no running worker (workers: {workers}): it is still "
        "starting, could not start (the reason is in the server's logs/model_log.log), or was "
        "scaled to none (`python scripts/manage.py scale` brings it back)"
    )


def show(args: argparse.Namespace, image: Path, result: Verdict | ServiceError) -> None:
    """Prints what came of one image."""
    name = f"{image.name}: " if len(args.image) > 1 else ""
    if isinstance(result, Verdict):
        line = f"{name}Prediction: {result.label} (confidence: {result.confidence:.4f})"
        print(line, flush=True)
        return
    print(f"error: {'' if result.is_general else f'{image}: '}{result}", file=sys.stderr)
    if isinstance(result, ModelNotServedError):
        print(how_to_serve(args), file=sys.stderr)


def how_to_serve(args: argparse.Namespace) -> str:
    """Returns the commands that build and register the model, as they can be typed."""
    name = served_name(args.model)
    model = args.model if "/" in args.model else name.replace("--", "/", 1)
    build = ["python", "scripts/build_mar.py", "--model", model]
    register = ["python", "scripts/manage.py", "register", f"model_store/{name}@1.mar"]
    if args.management != MANAGEMENT_ADDRESS:
        register += ["--management", args.management]
    if args.key_file is not None:
        register += ["--key-file", str(args.key_file)]
    return f"build and register it:\n  {shlex.join(build)}\n  {shlex.join(register)}"


def save(path: Path, outcomes: list[Outcome]) -> None:
    """Writes the results file, unless the server could not be asked about a single image.

    Raises:
        OutputError: The file cannot be written.
    """
    first = outcomes[0].result
    if isinstance(first, ServiceError) and first.is_general:
        return
    try:
        write_results(path, outcomes)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; see --output") from error


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal cannot show must not end the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
