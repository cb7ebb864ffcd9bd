from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deepfake_tools.errors import ModelNotServedError, NoWorkerError, TimeLimitError
from deepfake_tools.operations.boot import Served, renew, served_path
from deepfake_tools.operations.rollout import ConflictError, RunningServer
from deepfake_tools.operations.service import Service
from deepfake_tools.store import Store, StoreError

from tests.archives import write_archive
from tests.unit.fake_torchserve import FakeTorchServe, Killed, Management

MOST_CALLS = 60


class Site:
    """A fake server with a real store, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.fake = FakeTorchServe()
        self.store = Store(folder / "model_store")
        self.store.folder.mkdir(parents=True)
        self.config = folder / "config.properties"
        self.config.write_text("inference_address=http://127.0.0.1:8080\n")
        self.said: list[str] = []

    @property
    def service(self) -> Service:
        """A command's own, as each is a process of its own."""
        apis: Any = Management(self.fake)
        server = RunningServer(apis, apis, self.store.folder / "logs", 0.3, self.said.append)
        return Service(server, self.store, self.config)

    @property
    def served(self) -> Served:
        return Served.read(served_path(self.store))

    def archive(self, version: str) -> Path:
        return write_archive(self.store.folder, "m", version)


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[[str], Site]:
    """Returns a site, its version 1 registered with two workers."""

    def make(name: str = "site") -> Site:
        site = Site(tmp_path / name)
        site.service.register(site.archive("1"))
        site.service.scale("m", None, 2)
        site.archive("2")
        return site

    return make


def is_swapped(site: Site) -> bool:
    return (site.fake.default, list(site.fake.versions), site.served) == (
        "2",
        ["2"],
        Served({"m": "2"}, {"m": "1"}),
    )


@pytest.mark.parametrize("dies_before", [True, False])
def test_a_swap_that_was_killed_at_any_call_is_completed_by_the_same_command(
    make_site: Callable[[str], Site], dies_before: bool
):
    steps = set()
    for dies_at in range(MOST_CALLS):
        site = make_site(f"{dies_at}")
        archive = site.store.folder / "m@2.mar"
        first = len(site.fake.calls)
        site.fake.dies_at, site.fake.dies_before = first + dies_at, dies_before
        try:
            site.service.swap(archive, b"image")
        except Killed:
            steps.add(site.fake.calls[-1])
        else:
            break
        assert site.fake.versions[str(site.fake.default)], "somebody answers all the time"
        was_written_down = site.served.versions == {"m": "2"}
        left = list(site.fake.versions)
        site.fake.dies_at = None
        site.said.clear()
        site.service.swap(archive, b"image")
        if was_written_down and left == ["1", "2"]:
            # All that was left to do; the version may by now be a canary that is wanted.
            assert "`python scripts/manage.py unregister m --version 1`" in site.said[-1]
            site.service.unregister("m", "1")
        assert is_swapped(site), (dies_at, site.fake.calls[first:])
    assert is_swapped(site)
    assert {"register", "scale", "predict", "set_default", "ask_handler"} <= steps


def test_a_registered_canary_is_promoted_and_keeps_its_workers(make_site: Callable[[], Site]):
    site = make_site()
    site.service.register(site.store.folder / "m@2.mar")
    assert site.fake.default == "1"
    site.service.scale("m", "2", 3)

    site.service.swap(site.store.folder / "m@2.mar", b"image")

    assert is_swapped(site)
    assert site.fake.workers["2"] == 3


def test_a_canary_that_fails_its_check_stays_beside_the_default(make_site: Callable[[], Site]):
    site = make_site()
    site.service.register(site.store.folder / "m@2.mar")

    def refuse(*_: object) -> None:
        raise TimeLimitError("too slow")

    with pytest.raises(TimeLimitError, match="too slow"):
        site.service.swap(site.store.folder / "m@2.mar", b"image", refuse)

    assert (site.fake.default, list(site.fake.versions)) == ("1", ["1", "2"])
    assert site.served.versions == {"m": "1"}
    assert any("unregister m --version 2" in line for line in site.said)


def test_a_version_that_was_registered_from_another_file_is_not_promoted(
    make_site: Callable[[], Site],
):
    site = make_site()
    site.service.register(site.store.folder / "m@2.mar")
    site.fake.versions["2"] = "/elsewhere/other.mar"
    with pytest.raises(ConflictError, match=r"from /elsewhere/other\.mar: first `python.*unreg"):
        site.service.swap(site.store.folder / "m@2.mar", b"image")
    assert (site.fake.default, list(site.fake.versions)) == ("1", ["1", "2"])


def test_a_swap_to_the_default_changes_nothing(make_site: Callable[[], Site]):
    site = make_site()
    site.service.swap(site.store.folder / "m@1.mar", b"image")
    assert site.said[-1] == "m version 1 is the default already"
    assert (site.fake.default, list(site.fake.versions)) == ("1", ["1"])
    assert site.served == Served({"m": "1"}, {})


@pytest.mark.parametrize("dies_before", [True, False])
def test_a_first_registration_that_was_killed_is_completed_by_the_same_command(
    tmp_path: Path, dies_before: bool
):
    for dies_at in range(MOST_CALLS):
        site = Site(tmp_path / f"{dies_at}")
        archive = site.archive("1")
        site.fake.dies_at, site.fake.dies_before = dies_at, dies_before
        try:
            site.service.register(archive)
        except Killed:
            site.fake.dies_at = None
            site.service.register(archive)
            assert (site.fake.default, site.served) == ("1", Served({"m": "1"}))
        else:
            break
    assert dies_at > 3


def test_unregistering_a_model_that_was_killed_is_completed_by_the_same_command(
    make_site: Callable[[], Site],
):
    site = make_site()
    site.fake.unregister("m", "1")
    assert site.served.versions == {"m": "1"}

    site.service.unregister("m")

    assert site.served.versions == {}
    with pytest.raises(ModelNotServedError):
        site.service.unregister("m")


def test_a_rollback_of_a_name_that_is_not_served_names_those_that_are(
    make_site: Callable[[], Site],
):
    with pytest.raises(ModelNotServedError, match=r"^n is not served.*; served are: m$"):
        make_site().service.rollback("n", b"image")


def test_a_rollback_without_a_swap_before_asks_for_an_archive(make_site: Callable[[], Site]):
    with pytest.raises(StoreError, match=r"no version of m before.*name an archive"):
        make_site().service.rollback("m", b"image")


@pytest.mark.parametrize("version", [None, "1"])
def test_a_chosen_archive_that_was_deleted_is_forgotten(
    make_site: Callable[[], Site], version: str | None
):
    site = make_site()
    (site.store.folder / "m@1.mar").unlink()
    (notice, _) = renew(site.store, site.config)
    assert "m@1.mar is no file" in notice
    site.fake = FakeTorchServe()

    site.service.unregister("m", version)

    assert site.said[-1] == "m is not served; a restart does not serve it either now"
    assert site.served == Served()
    (site.store.folder / "m@2.mar").unlink()
    assert renew(site.store, site.config) == []


def test_a_new_version_that_does_not_come_up_is_gone_again(
    make_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch
):
    site = make_site()
    real = site.fake.register

    def without_workers(archive: str, workers: int, timeout: float | None = None) -> None:
        real(archive, 0, timeout)

    monkeypatch.setattr(site.fake, "register", without_workers)
    with pytest.raises((TimeLimitError, NoWorkerError)):
        site.service.swap(site.store.folder / "m@2.mar", b"image")
    assert (site.fake.default, list(site.fake.versions)) == ("1", ["1"])
