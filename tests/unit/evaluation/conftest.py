"""What tests of saved runs share."""

from pathlib import Path

import pytest

from tests.forking import Fork
from tests.unit.evaluation.saved import EVALUATE, Evaluate


@pytest.fixture
def evaluate(tmp_path: Path, clients: Fork) -> Evaluate:
    def run(*words: object) -> object:
        done = clients.run(EVALUATE, *map(str, words), cwd=tmp_path)
        assert "Traceback" not in done.stderr
        return done

    return run
