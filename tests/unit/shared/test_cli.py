import argparse
import importlib
from collections.abc import Callable

import pytest
from deepfake_tools.cli import CommandParser, at_least, given
from deepfake_tools.operations.options import parse_arguments


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser()
    parser.add_argument("words", nargs="*")
    group = parser.add_argument_group("group").add_mutually_exclusive_group()
    group.add_argument("--key-file")
    group.add_argument("--landmark_model")
    parser.add_argument("--dry-run-now", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--key_file", "a"], {"key_file": "a"}),
        (["--key_file=a_b-c"], {"key_file": "a_b-c"}),
        (["--landmark-model", "a-b_c.dat"], {"landmark_model": "a-b_c.dat"}),
        (["--dry_run-now", "a_b"], {"dry_run_now": True, "words": ["a_b"]}),
        (["--", "--key_file"], {"words": ["--key_file"]}),
    ],
)
def test_hyphens_and_underscores_in_options_are_alike(
    parser: CommandParser, words: list[str], expected: dict[str, object]
):
    assert expected.items() <= vars(parser.parse_args(words)).items()


@pytest.mark.parametrize("word", ["--key", "--dry-run", "--landmark", "--key__file", "--keyfile"])
def test_an_option_is_given_in_full(
    parser: CommandParser, word: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([word, "a"])
    assert caught.value.code == 2
    assert f"unrecognized arguments: {word}" in capsys.readouterr().err


def commands() -> dict[str, Callable[[list[str]], object]]:
    """Every command's own reading of its words."""
    client = importlib.import_module("client")
    found: dict[str, Callable[[list[str]], object]] = {
        "client": client.make_parser().parse_args,
        "manage": parse_arguments,
    }
    modules = {"benchmark": "benchmarks.__main__", "drills": "tests.drills.__main__"}
    for name in ("build_mar", "train", *modules):
        found[name] = importlib.import_module(modules.get(name, name)).parse_arguments
    return found


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("client", ["--image", "a", "--key-fil", "b"], "unrecognized arguments: --key-fil"),
        ("manage", ["swap", "a", "--model-stor", "b"], "unrecognized arguments: --model-stor"),
        ("build_mar", ["--precisio", "int8"], "unrecognized arguments: --precisio"),
        ("train", ["--data", "a", "--target", "0"], "unrecognized arguments: --target"),
        ("benchmark", ["--vers"], "unrecognized arguments: --vers"),
        ("drills", ["--shor"], "unrecognized arguments: --shor"),
        ("client", ["--image", "a", "--token_file", "a", "--key_file", "b"], "not allowed with"),
        ("manage", ["swap", "a", "--min_agreement", "2"], "'2' is not a share"),
        ("build_mar", ["--batch_size", "x"], "'x' is not a whole number from 1 to"),
        ("build_mar", ["--threshold", "x"], "'x' is not a number from 0 on"),
        ("build_mar", ["--max_deviation", "0"], "--max-deviation is for --precision int8"),
        ("train", ["--data", "a", "--target_fpr", "7"], "'7' is not a rate"),
        ("manage", ["swap", "a", "--max-slowdown", "0"], "--max-slowdown is for --check"),
        ("client", ["--image", "a", "--landmark", "b"], "unrecognized arguments: --landmark"),
    ],
)
def test_every_command_reads_its_options_in_the_same_way(
    command: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        commands()[command](words)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_what_was_given_is_told_from_what_was_not():
    args = argparse.Namespace(max_deviation=0.0, force=False, labels=None, quick=True, count=0)
    names = ("max_deviation", "force", "labels", "quick", "count")
    assert given(args, *names) == ["--max-deviation", "--quick", "--count"]


def test_whole_numbers_have_bounds():
    read = at_least(1, 8)
    assert [read("1"), read("8")] == [1, 8]
    for text in ("0", "9", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number from 1 to 8"):
            read(text)
