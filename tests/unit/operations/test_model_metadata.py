import pytest
from deepfake_tools.operations.model_metadata import VersionState, version_states

from tests.unit.fake_torchserve import FakeTorchServe, Management


@pytest.fixture
def served() -> FakeTorchServe:
    fake = FakeTorchServe()
    for version, workers in (("1", 1), ("2", 2), ("3", 0)):
        fake.register(f"m@{version}.mar", workers)
    fake.set_default("m", "2")
    return fake


def test_every_version_says_whether_it_is_the_default_and_has_a_worker(served):
    assert version_states(Management(served)) == (
        VersionState("m", "1", is_default=False, is_ready=True),
        VersionState("m", "2", is_default=True, is_ready=True),
        VersionState("m", "3", is_default=False, is_ready=False),
    )


def test_a_model_that_is_unregistered_meanwhile_is_left_out(served):
    def unregistered() -> None:
        served.versions.clear()

    served.version = _after(unregistered, served.version)  # type: ignore[method-assign]
    assert version_states(Management(served)) == ()


def _after(step, call):
    def changed(*arguments: object) -> object:
        step()
        return call(*arguments)

    return changed
