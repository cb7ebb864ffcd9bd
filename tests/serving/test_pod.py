"""The pod of deploy/kubernetes as far as one machine without a container engine can have it.

The commands, settings, probes and preStop of the manifests, under their restrictions: user 10001,
no capabilities, a root file system and archives that can only be read, and a network of its own.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from deepfake_tools.canary import canary_image

from tests import ROOT
from tests.archives import write_archive
from tests.building import Builder
from tests.manifests import containers, image_environment, pods, words, write_image_settings
from tests.waiting import wait_until

DETECTOR = "small"
SLOW = "acme--slow"
USER = "10001"
WORK = "/srv/detector"
INSTALLED = "/opt/clip-deepfake"
SERVE = f"{INSTALLED}/deploy/serve.sh"
MANAGE = ("python", f"{INSTALLED}/scripts/manage.py")
NAMESPACES = ("--mount", "--net", "--pid")
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "curl")

IMAGE = ("--data-binary", "@/mnt/settings/image.png", "-H", "Content-Type: image/png")

# The host's folders are held below /mnt: the pod's /tmp and an empty home of root's may cover them.
SETUP = f"""
set -eu
mount -t tmpfs tmpfs /mnt
stage() {{ mkdir "/mnt/$1"; mount --bind "$2" "/mnt/$1"; }}
stage python "$BASE"; stage environment "$VENV"; stage project "$PROJECT"; stage store "$STORE"
stage settings "$SETTINGS"
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /root
restore() {{ mkdir -p "$2"; mount --bind "/mnt/$1" "$2"; }}
restore project "$PROJECT"; restore environment "$VENV"; restore python "$BASE"
mount -t tmpfs -o mode=755 tmpfs /opt
mkdir {INSTALLED}
for name in handler scripts deploy; do
    mkdir "{INSTALLED}/$name"; mount --bind "/mnt/project/$name" "{INSTALLED}/$name"
done
cp /mnt/settings/*.properties /mnt/project/log4j2.xml {INSTALLED}
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir {WORK}
mount -t tmpfs -o uid={USER},gid={USER},mode=755 tmpfs {WORK}
mkdir {WORK}/model_store
mount --bind /mnt/store {WORK}/model_store
for place in / /mnt /root /opt /srv {WORK}/model_store; do mount -o remount,ro,bind "$place"; done
ip link set lo up
echo ready
exec sleep infinity
"""


def can_have_namespaces() -> bool:
    if os.geteuid() or not all(map(shutil.which, TOOLS)):
        return False
    return subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], check=False).returncode == 0


pytestmark = [
    pytest.mark.serving,
    pytest.mark.skipif(
        not can_have_namespaces(), reason=f"needs root, namespaces and {', '.join(TOOLS)}"
    ),
]


class Pod:
    """A place with a pod's restrictions, whose processes end with it."""

    def __init__(self, store: Path, settings: Path) -> None:
        places = {
            "BASE": sys.base_prefix,
            "VENV": sys.prefix,
            "PROJECT": str(ROOT),
            "STORE": str(store),
            "SETTINGS": str(settings),
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._holder = subprocess.Popen(
            ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "sh", "-c", SETUP],
            env={"PATH": os.environ["PATH"], **places},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        self._enter = ["nsenter", "--target", children.read_text().split()[0], *NAMESPACES]

    def close(self) -> None:
        self._holder.kill()
        for process in (self._holder, *self._started):
            process.wait()

    def command(self, *words: str) -> list[str]:
        """A container's command, as its user, in its folder and with its environment."""
        drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        drop += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
        environment = ["env", "-i", f"--chdir={WORK}", f"PATH={path}", *image_environment()]
        return [*self._enter, *drop, *environment, *words]

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Starts a container's command, which ends with the pod at the latest."""
        self._started.append(subprocess.Popen(self.command(*words), stdout=subprocess.DEVNULL))
        return self._started[-1]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=120, check=False
        )

    def asking(self, port: int, path: str, *options: str) -> "subprocess.Popen[str]":
        """A request on its way; it prints the answer's body, and its status on a last line."""
        asked = [*self._enter, "curl", "-s", "-m", "60", "-w", "\n%{http_code}", *options]
        address = f"http://127.0.0.1:{port}{path}"
        return subprocess.Popen([*asked, address], stdout=subprocess.PIPE, text=True)

    def ask(self, port: int, path: str, *options: str) -> tuple[str, str]:
        """The status, 000 where nobody answers, and the body."""
        return answer_to(self.asking(port, path, *options))


def answer_to(request: "subprocess.Popen[str]") -> tuple[str, str]:
    body, _, status = request.communicate()[0].rpartition("\n")
    return status, body


@pytest.fixture
def store(tmp_path: Path, small_clip: Path) -> Path:
    """A detector, and what is slow."""
    folder = tmp_path / "store"
    Builder(folder)("--model", small_clip, "--served-name", DETECTOR)
    write_archive(folder, SLOW, delay_s=4)
    return folder


@pytest.fixture
def pod(tmp_path: Path, store: Path) -> Iterator[Pod]:
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "image.png").write_bytes(canary_image())
    write_image_settings(settings)
    made = Pod(store, settings)
    yield made
    made.close()


def test_the_manifests_pod_serves_without_a_token_and_loses_nothing_when_it_is_stopped(
    pod: Pod,
) -> None:
    probe, detector = containers(pods()["Deployment"])
    pod.start(*words(probe))
    server = pod.start(SERVE, *words(detector))

    def status(check: str) -> str:
        asked = detector[check]["httpGet"]
        return pod.ask(asked["port"], asked["path"])[0]

    def predict(name: str) -> "subprocess.Popen[str]":
        return pod.asking(8080, f"/predictions/{name}", *IMAGE)

    wait_until(lambda: status("startupProbe") == "200")
    wait_until(lambda: status("readinessProbe") == "200")
    verdict = answer_to(predict(DETECTOR))
    assert verdict[0] == "200", verdict
    assert '"label"' in verdict[1]
    assert "ts_inference_latency_microseconds" in pod.ask(8082, "/metrics")[1]
    written = pod.run("touch", f"{INSTALLED}/x", f"{WORK}/model_store/x", "/x")
    assert written.stderr.count("Read-only file system") == 3

    # Four batches of 4 s: more than preStop's --grace, so that the drain has to wait.
    waiting = [predict(SLOW) for _ in range(16)]
    stopped = pod.run(*detector["lifecycle"]["preStop"]["exec"]["command"])

    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert [answer_to(one)[0] for one in waiting] == ["200"] * 16
    assert server.wait(30) == 0
    # The sidecar is still there to say so.
    assert status("livenessProbe") == "503"


def test_the_containers_own_way_swaps_within_a_store_that_its_user_only_reads(
    pod: Pod, store: Path
) -> None:
    server = pod.start(SERVE)
    ready = pod.run(*MANAGE, "ready", "--wait", "60")
    assert ready.returncode == 0, ready.stderr
    second = write_archive(store, SLOW, "2")
    before = sorted(store.iterdir())

    swapped = pod.run(*MANAGE, "swap", second.name)

    assert swapped.returncode == 0, swapped.stderr
    assert f"{SLOW}@2.mar" in pod.run("cat", f"{WORK}/served.properties").stdout
    assert sorted(store.iterdir()) == before
    # Here each request needs a token.
    assert pod.ask(8080, f"/predictions/{SLOW}", *IMAGE)[0] == "400"
    assert pod.run(*MANAGE, "stop", "--grace", "0").returncode == 0
    assert server.wait(30) == 0
