"""The page in headless Chromium, on a screen and on a phone, over a stand-in and a real server."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import requests
from deepfake_tools.torchserve.local_server import LocalServer
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests import ROOT
from tests.browser import NEEDS_BROWSER, chromium, hosts_asked
from tests.unit.client.test_client_videos import write_grey
from tests.unit.page.grey import Grey
from tests.unit.torchserve_stub import Reply, Request, StubServer
from tests.waiting import wait_until

pytestmark = [pytest.mark.serving, NEEDS_BROWSER]
SCREEN, PHONE = 1280, 390


class Swapping:
    """A server behind an address that stays: restarted, swapped, as the tests have it."""

    def __init__(self) -> None:
        self.now: Callable[[Request], Reply] = Grey(explains=True)

    def __call__(self, request: Request) -> Reply:
        return self.now(request)


class Shown:
    """A page that is shown, by a process of its own, for as long as a test takes."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        env = {key: v for key, v in os.environ.items() if not key.startswith("TORCHSERVE_")}
        env |= {"TMPDIR": str(self.temporary), "HOME": str(folder)}
        command = [sys.executable, str(ROOT / "scripts" / "page.py"), "--listen", self.host]
        self.log = folder / "page.log"
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                [*command, *options], cwd=folder, env=env, stdout=log, stderr=log
            )
        wait_until(lambda: self.process.poll() is not None or "Ctrl-C" in self.said)
        assert self.process.poll() is None, self.said

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def files(self) -> list[Path]:
        """What lies in temporary folders, but for what has just arrived."""
        walked = os.walk(self.temporary)  # which minds no folder that is removed meanwhile
        found = [Path(folder, name) for folder, _, names in walked for name in names]
        return [path for path in found if path.parents[1].name != "incoming" != path.parent.name]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        assert list(self.temporary.iterdir()) == []


@pytest.fixture
def swapping() -> Swapping:
    return Swapping()


@pytest.fixture
def page(tmp_path: Path, swapping: Swapping) -> Iterator[Shown]:
    keys = {name: {"key": f"{name}-token"} for name in ("inference", "management")}
    key_file = tmp_path / "key_file.json"
    key_file.write_text(json.dumps(keys))
    key_file.chmod(0o600)
    with StubServer(swapping) as stub:
        shown = Shown(tmp_path, "--server", stub.address, "--management", stub.address)
        yield shown
        shown.stop()


class Reader:
    """A person with a browser."""

    def __init__(self, driver: Chrome, page: Shown) -> None:
        self.driver, self.page = driver, page
        driver.get(f"http://{page.host}/")
        self.wait(lambda: self.one("#model input").get_attribute("value"))

    def wait(self, condition: Callable[[], object], limit_s: float = 60) -> None:
        def holds() -> bool:
            try:
                return bool(condition())
            except WebDriverException:
                return False  # what is looked at is being drawn anew

        wait_until(holds, limit_s)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def drop(self, *files: Path) -> None:
        self.one("#files input[type=file]").send_keys("\n".join(map(str, files)))

    def sees(self, words: str) -> None:
        self.wait(lambda: words in self.one("body").text)

    def picture(self, path: Path) -> None:
        """Keeps a picture of the whole page for whoever wants to look at it."""
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        width = self.driver.execute_script("return document.documentElement.clientWidth")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.save_screenshot(str(path))

    def leave(self) -> None:
        self.driver.get("about:blank")


@pytest.fixture(params=[SCREEN, PHONE])
def reader(request: pytest.FixtureRequest, page: Shown, tmp_path: Path) -> Iterator[Reader]:
    with chromium(tmp_path / "profile", request.param) as driver:
        yield Reader(driver, page)
        asked = hosts_asked(driver)
        assert asked == {page.host}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_grey(tmp_path / "clip.mp4", np.linspace(30, 220, 40))


ASTRONAUT = ROOT / "examples" / "astronaut.jpg"


def test_a_photograph_its_map_and_what_is_no_image(reader: Reader, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    reader.one("#map input").click()
    reader.drop(ASTRONAUT, text)
    reader.sees("with confidence")
    reader.sees("not_an_image")
    grey = cv2.imread(str(ASTRONAUT), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    real = 1 - grey.mean() / 255
    assert f"REAL with confidence {real:.1%}" in reader.one("#findings").text

    parts = reader.all(".heat rect")
    assert [part.get_attribute("fill") for part in parts] == ["#e66101", "#5e3c99"]
    # The grid's first part lies in the picture's upper left corner, its last in the lower right.
    picture, first, last = (
        reader.driver.execute_script("return arguments[0].getBoundingClientRect()", element)
        for element in (reader.one(".seen image"), *parts)
    )
    assert (first["left"], first["top"]) == pytest.approx((picture["left"], picture["top"]), abs=1)
    ends = (picture["right"], picture["bottom"])
    assert (last["right"], last["bottom"]) == pytest.approx(ends, abs=1)
    assert first["width"] == pytest.approx(picture["width"] / 7, abs=1)

    opacity = "return getComputedStyle(document.querySelector('.heat')).opacity"
    assert reader.driver.execute_script(opacity) == "0.6"
    reader.one("#opacity input[type=range]").send_keys(Keys.HOME)
    reader.wait(lambda: reader.driver.execute_script(opacity) == "0")
    reader.one("#opacity input[type=range]").send_keys(Keys.END)
    reader.wait(lambda: reader.driver.execute_script(opacity) == "1")

    width = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert reader.driver.execute_script(width) == 0
    reader.picture(tmp_path / "photograph.png")


def test_a_video_shows_the_frame_that_is_chosen(reader: Reader, clip: Path, tmp_path: Path) -> None:
    reader.drop(clip)
    reader.wait(lambda: len(reader.all(".timeline button")) == 32)
    assert "shown" in str(reader.all(".timeline button")[-1].get_attribute("class"))
    assert "Frame at 00:03.900" in reader.one("#findings").text
    ActionChains(reader.driver).move_to_element(reader.all(".timeline button")[5]).click().perform()
    # The sixth of 32 frames of 40, ten a second.
    number = np.linspace(0, 39, 32, dtype=int)[5]
    reader.sees(f"Frame at 00:00.{number}00")
    score = round(np.linspace(30, 220, 40)[number]) / 255
    reader.sees(f"REAL with confidence {1 - score:.1%}")
    reader.picture(tmp_path / "video.png")


def test_stability_and_json(reader: Reader) -> None:
    reader.one("#stability input").click()
    next(button for button in reader.all("button") if button.text == "coffee").click()
    reader.sees("after small changes")
    reader.one("#json button").click()
    reader.sees('"path": "coffee.jpg"')
    titles = {button.get_attribute("aria-label") for button in reader.all("#json button")}
    assert {"Copy", "Download"} <= titles or any("opy" in str(title) for title in titles)


def test_a_restart_and_a_swap_are_messages_and_then_it_works_again(
    reader: Reader, swapping: Swapping
) -> None:
    reader.drop(ASTRONAUT)
    reader.sees("with confidence")
    swapping.now = Grey(name="another")  # as a server is that has not registered it yet
    reader.one("#again").click()
    reader.wait(lambda: reader.all("[role=alert].message"))
    assert "is not served" in reader.one("[role=alert].message").text

    swapping.now = Grey(explains=True)
    reader.one("#again").click()
    reader.sees("with confidence")
    swapping.now = Grey(head="untrained", explains=True)
    reader.one("#map input").click()
    reader.sees("answered as")
    assert reader.all(".heat") == []
    reader.one("#again").click()
    reader.sees("head is untrained")
    reader.wait(lambda: reader.all(".heat rect"))


def test_two_people_see_their_own_and_nothing_is_left(
    page: Shown, tmp_path: Path, clip: Path
) -> None:
    with (
        chromium(tmp_path / "ann", SCREEN) as one,
        chromium(tmp_path / "bob", SCREEN) as other,
    ):
        ann, bob = Reader(one, page), Reader(other, page)
        ann.drop(ASTRONAUT)
        bob.drop(ASTRONAUT, ROOT / "examples" / "cat.jpg")
        bob.sees("cat.jpg")
        ann.sees("astronaut.jpg")
        assert "cat.jpg" not in ann.one("body").text
        assert sorted(path.name for path in page.files) == ["astronaut.jpg"] * 2 + ["cat.jpg"]
        arrived = page.files[0].parents[2] / "incoming"
        for path in (*page.files, *arrived.rglob("*.jpg")):
            for prefix in ("/gradio_api/file=", "/file="):
                answer = requests.get(f"http://{page.host}{prefix}{path}", timeout=10)
                assert answer.status_code == 404
        bob.leave()
        wait_until(lambda: [path.name for path in page.files] == ["astronaut.jpg"])
        ann.one("#clear").click()
        wait_until(lambda: page.files == [])
    assert "inference-token" not in page.said


def test_a_page_for_other_machines_asks_who_is_there(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "page.py"), "--listen", "0.0.0.0:1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "--auth-file" in done.stderr

    accounts = tmp_path / "accounts"
    accounts.write_text("ann:correct horse\n")
    accounts.chmod(0o600)
    page = Shown(tmp_path, "--auth-file", str(accounts))
    try:
        address = f"http://{page.host}"
        assert requests.get(f"{address}/config", timeout=10).status_code == 401
        files = {"files": ("a.jpg", b"image")}
        unknown = requests.post(f"{address}/gradio_api/upload", files=files, timeout=10)
        assert unknown.status_code == 401
        for password, status in (("wrong horse", 400), ("correct horse", 200)):
            account = {"username": "ann", "password": password}
            assert requests.post(f"{address}/login", data=account, timeout=10).status_code == status
        elsewhere = requests.get(address, headers={"Host": "evil.example"}, timeout=10)
        assert elsewhere.status_code == 400
    finally:
        page.stop()


def test_a_real_torchserve_says_the_same_to_page_and_client(
    start_server: Callable[..., LocalServer], store: Path, small_clip: Path, tmp_path: Path
) -> None:
    name = "acme--small"
    build = [sys.executable, ROOT / "scripts/build_mar.py", "--model", small_clip]
    options = ["--served-name", name, "--export-path", store]
    subprocess.run([*build, *options], check=True, capture_output=True, timeout=200)
    server = start_server()
    server.wait_ready(name)
    place = ["--server", server.inference_url, "--management", server.management_url]
    place += ["--key-file", str(server.key_file)]
    client = [sys.executable, ROOT / "scripts/client.py", *place, "--model", name]
    asked = [*client, "--image", ASTRONAUT, "--json", "o.json"]
    subprocess.run(asked, check=True, capture_output=True, cwd=tmp_path)
    (image,) = json.loads((tmp_path / "o.json").read_text())["images"]

    page = Shown(tmp_path, *place)
    with chromium(tmp_path / "profile", SCREEN) as driver:
        reader = Reader(driver, page)
        assert reader.one("#model input").get_attribute("value") == name
        reader.drop(ASTRONAUT)
        reader.sees("head is untrained")
        reader.one("#map input").click()
        reader.wait(lambda: reader.all(".heat rect"))
        reader.sees(f"together they are the margin, {image['margin']:+.4f}")
        reader.one("#json button").click()
        reader.sees(f'"fake_probability": {image["fake_probability"]}')
    page.stop()
