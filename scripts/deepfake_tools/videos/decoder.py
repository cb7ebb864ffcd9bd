"""The process that decodes: a request a line on stdin, answers on stdout (`frames.py` starts it).

What it says is JSON, a line each; a picture's line tells how many bytes of an image file follow it.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import cv2

from deepfake_tools.image_files import encode, encode_quickly
from deepfake_tools.videos.decoding import RGB, Video, VideoError
from deepfake_tools.videos.sampling import FrameChoice

ALIVE_SECONDS = 1.0
PR_SET_PDEATHSIG = 1


class Speaker:
    """What this process says, and that it lives where it has said nothing for a while."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._spoke = time.monotonic()

    def say(self, what: dict[str, Any], picture: bytes = b"") -> None:
        """Says a line, and the bytes after it."""
        self._stream.write(json.dumps(what).encode() + b"\n" + picture)
        self._stream.flush()
        self._spoke = time.monotonic()

    def alive(self) -> None:
        """Says that something takes long."""
        if time.monotonic() - self._spoke > ALIVE_SECONDS:
            self.say({"alive": True})


def main() -> None:
    """Answers until nobody asks any more."""
    # The terminal's Ctrl-C is for who started this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    threads, more_bytes = map(int, sys.argv[1:])
    cv2.setNumThreads(1)
    limit_memory(more_bytes)
    speaker = Speaker(os.fdopen(os.dup(sys.stdout.fileno()), "wb"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        answer(json.loads(line), threads, speaker)


def answer(request: dict[str, Any], threads: int, speaker: Speaker) -> None:
    """Answers one request."""
    is_spent = False
    try:
        with Video(request["path"], threads, speaker.alive) as video:
            if "choice" in request:
                plan(video, FrameChoice(**request["choice"]), speaker)
            else:
                form = encode if request["to_keep"] else encode_quickly
                read(video, request["numbers"], form, speaker)
    except VideoError as error:
        speaker.say({"fault": str(error)})
    except MemoryError:
        speaker.say({"fault": "it takes more memory than a decoder may have"})
        is_spent = True  # what is left may be too scattered for the next video
    speaker.say({"done": True, "is_spent": is_spent})


def plan(video: Video, choice: FrameChoice, speaker: Speaker) -> None:
    """Says which frames are chosen."""
    index = video.index
    frames = [(place, index.times[place]) for place in choice.pick(index.times)]
    speaker.say({"frames": frames, "total": len(index.times), "note": index.note})


def read(video: Video, numbers: list[int], form: Callable[[RGB], bytes], speaker: Speaker) -> None:
    """Says the pictures of these frames."""
    for number, picture in video.read(numbers):
        if isinstance(picture, VideoError):
            speaker.say({"number": number, "fault": str(picture)})
        else:
            data = form(picture)
            speaker.say({"number": number, "bytes": len(data)}, data)


def die_with_parent() -> None:
    """Ends this process with the one that started it, even where a decoder hangs.

    Elsewhere than on Linux it ends where it next says something.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def limit_memory(more: int) -> None:
    """Lets this process take so many more bytes of address space than it has."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return  # macOS, whose system holds nobody to such a limit
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
