"""Videos that something is wrong with: each has its reason, and what is good of it is read."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from deepfake_tools.videos.frames import plan_videos, read_frames
from deepfake_tools.videos.processes import Decoder, VideoPlan
from deepfake_tools.videos.sampling import FrameChoice

from tests.bad_videos import BAD
from tests.ffmpeg import frames_by_ffmpeg, needs_ffmpeg
from tests.videos import FORMS

Clips = Callable[[str], Path]

FAULTS = {
    "without_index": "its index (moov) is missing",
    "audio_only": "it has no video stream",
    "no_frames": "it has no frame in it",
    "lying_sizes": "it is no video that can be read",
    "monstrous": "its frames are 16000 x 16000, over 50 million pixels",
    "unknown_codec": "there is no decoder for its codec, zz9z",
    "unknown_mkv": "there is no decoder for its codec, V_MPEG9/ISO/XYZ",
    "unknown_avi": "there is no decoder for its codec, ZZ9Z",
    "renamed_encrypted": "it is encrypted",
    "encrypted": "it is encrypted",
    "text": "it is no video that can be read",
    "playlist": "it is no video that can be read",
    "concat_script": "it is no video that can be read",
    "empty": "the file is empty",
}
"""What begins the reason why none of a video can be judged."""

NOTES = {
    "cut_mp4": (35, "its header says 72 frames, and there are 35: it ends at 00:02.833"),
    "cut_mkv": (32, "the file is cut off: it ends at 00:02.833 of 00:06.000"),
    "cut_webm": (30, "the file is cut off: it ends at 00:02.417 of 00:06.000"),
    "cut_avi": (None, "its header says 150 frames, and there are "),
    "lying_mp4": (24, "its header says 100000 frames, and there are 24: it ends at 00:01.917"),
    "lying_avi": (50, "its header says 100000 frames, and there are 50: it ends at 00:01.960"),
    "one_pixel": (12, None),
    "huge": (3, None),
    "damaged": (72, None),
    "changing_size": (24, None),
    "changing_webm": (24, None),
}
"""How many frames there are of the others, and what is said of them."""

SIZES = {"one_pixel": (1, 1), "huge": (4320, 7680)}


def test_every_bad_video_has_its_expectation() -> None:
    assert BAD.keys() == FAULTS.keys() | NOTES.keys()
    assert not FAULTS.keys() & NOTES.keys()


@pytest.fixture(scope="module")
def plans(bad_clip: Clips, clip: Clips) -> dict[str, VideoPlan]:
    """Plans of all bad videos, with good ones between them, in one go."""
    names = list(BAD)
    paths = [str(path) for name in names for path in (bad_clip(name), clip("mp4"))]
    found = list(plan_videos(paths, FrameChoice(6)))
    assert [plan.path for plan in found] == paths
    assert {(plan.total, plan.note, plan.fault) for plan in found[1::2]} == {(72, None, None)}
    return dict(zip(names, found[::2], strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_a_video_of_which_none_can_be_judged_has_a_reason_of_its_own(
    name: str, plans: dict[str, VideoPlan]
) -> None:
    fault = plans[name].fault
    assert fault is not None
    assert fault.startswith(FAULTS[name])
    assert "\n" not in fault
    assert not plans[name].frames


@pytest.mark.parametrize("name", NOTES)
def test_what_is_there_of_a_bad_video_is_planned_and_its_fault_said(
    name: str, plans: dict[str, VideoPlan]
) -> None:
    total, note = NOTES[name]
    plan = plans[name]
    assert plan.fault is None
    assert total is None or plan.total == total
    assert (plan.note or "").startswith(note or "")
    assert (plan.note is None) == (note is None)
    numbers = [number for number, _ in plan.frames]
    assert numbers == sorted(set(np.linspace(0, plan.total - 1, 6, dtype=int).tolist()))


@pytest.mark.parametrize("name", [name for name in NOTES if name != "damaged"])
def test_what_is_planned_of_a_bad_video_can_be_decoded(
    name: str, plans: dict[str, VideoPlan]
) -> None:
    numbers = [number for number, _ in plans[name].frames]
    found = dict(read_frames(plans[name].path, numbers))
    assert list(found) == numbers
    for number, picture in found.items():
        assert isinstance(picture, bytes), (number, picture)
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        assert pixels is not None
        if not name.startswith("changing"):
            assert pixels.shape[:2] == SIZES.get(name, (240, 320))
        else:
            assert pixels.shape[:2] == ((240, 320) if number < 12 else (360, 480))


@needs_ffmpeg
@pytest.mark.parametrize("name", ["cut_mp4", "cut_mkv", "cut_webm"])
def test_what_came_before_the_end_of_a_cut_file_is_all_of_it(
    name: str, plans: dict[str, VideoPlan]
) -> None:
    path, total = plans[name].path, plans[name].total
    theirs = frames_by_ffmpeg(Path(path), 240, 320)
    assert total == len(theirs)
    for number, picture in read_frames(path, range(total)):
        assert isinstance(picture, bytes)
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(pixels[..., ::-1], theirs[number])


def test_frames_of_a_damaged_stretch_fail_alone(plans: dict[str, VideoPlan]) -> None:
    found = dict(read_frames(plans["damaged"].path, range(72)))
    broken = [number for number, picture in found.items() if not isinstance(picture, bytes)]
    assert len(found) == 72
    # A tenth of the file, after a third of it.
    assert 0 < len(broken) < 15
    assert min(broken) > 15
    assert max(broken) < 40
    assert "no picture can be decoded at 00:0" in str(found[broken[0]])


@pytest.fixture
def site(tmp_path: Path, clip: Clips) -> Iterator[tuple[str, list[str]]]:
    """A site that serves a clip, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{target}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{target}'\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{target}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n"
        "a=control:{target}\n",
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".m3u8.mkv"])
def test_a_file_that_names_others_leads_nowhere(
    text: str, suffix: str, site: tuple[str, list[str]], clip: Clips, tmp_path: Path
) -> None:
    address, asked = site
    beside = tmp_path / "beside.mp4"
    beside.write_bytes(clip("mp4").read_bytes())
    for number, target in enumerate([beside.name, str(beside), f"{address}/clip.mp4"]):
        path = tmp_path / f"list-{number}{suffix}"
        path.write_text(text.format(target=target))
        (plan,) = plan_videos([str(path)], FrameChoice(4))
        assert plan.fault is not None
        assert not plan.frames
    assert not asked


@pytest.mark.parametrize(
    "name",
    ["concat:a.mp4", "pipe:0", "http:clip.mp4", "%03d.mp4", "subfile,,start,0,end,0,,:a.mp4"],
)
def test_a_files_name_is_no_protocol(
    name: str, clip: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip("mp4").read_bytes())
    with Decoder() as decoder:
        plan = decoder.plan(name, FrameChoice(4))
        assert plan.total == len(FORMS["mp4"].clock.ticks), plan.fault
        assert all(isinstance(picture, bytes) for _, picture in decoder.read(name, [0, 5]))


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    paths = [str(tmp_path / "missing.mp4"), str(folder)]
    missing, directory = plan_videos(paths, FrameChoice(4))
    assert missing.fault is not None
    assert "No such file or directory" in missing.fault
    assert directory.fault is not None
    assert "directory" in directory.fault
