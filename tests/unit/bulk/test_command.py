"""score.py as a person runs it: refused words, missing libraries, Ctrl-C."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import score as command

from tests import ROOT
from tests.unit.bulk.conftest import rows_of, write_parquet
from tests.waiting import wait_until

SCORE = [sys.executable, str(ROOT / "scripts/score.py")]


@pytest.mark.parametrize(
    ("missing", "named"), [("ray", "ray"), ("pyarrow", "pyarrow"), ("msgspec", "msgspec")]
)
def test_without_its_libraries_it_says_which_extra(
    missing: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = command.require_extra.__globals__["find_spec"]
    monkeypatch.setattr(
        "deepfake_tools.extras.find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(SystemExit) as ended:
        command.main(["--archive", "a.mar", "--input", "data", "--output", "scores"])
    assert ended.value.code == 2
    wanted = f"score.py needs {named}: pip install 'clip-deepfake[score]'"
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--input", "{folder}", "--label-column", "x"), 2, "are for --column NAME"),
        (("--input", "{folder}"), 2, "there is no image"),
        (("--input", "{folder}/none.parquet", "--column", "x"), 25, "cannot be read"),
        (("--input", "s9://bucket/x"), 25, "neither pyarrow nor fsspec opens this"),
        (("--input", "{folder}", "--gpus", "0"), 2, "is not a whole number from 1 on"),
    ],
)
def test_what_cannot_be_done_is_said_before_ray_starts(
    words: tuple[str, ...],
    code: int,
    said: str,
    archive: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed = [word.format(folder=tmp_path) for word in words]
    typed += ["--archive", str(archive), "--output", str(tmp_path / "scores")]
    try:
        ended = command.main(typed)
    except SystemExit as error:
        ended = error.code
    assert ended == code
    assert said in capsys.readouterr().err


def test_ctrl_c_keeps_the_parts_that_there_are(archive: Path, tinted: Path, tmp_path: Path) -> None:
    images = [path.read_bytes() for path in sorted(tinted.rglob("*.png"))]
    rows = 12_000
    columns = {"image": [images[row % len(images)] for row in range(rows)]}
    file = write_parquet(tmp_path / "images.parquet", columns, group=4000)
    output = tmp_path / "scores"
    words = ["--archive", archive, "--input", file, "--column", "image", "--output", output]
    with subprocess.Popen(
        [*SCORE, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        wait_until(lambda: len(list(output.glob("part-*"))) >= 3, 120)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    done = len(rows_of(output))
    assert 0 < done < rows
    assert f"{done} images (0 real, 0 fake, {done} without a label), 0 failed" in out
    assert "images have no answer: the same command with --resume goes on" in err
