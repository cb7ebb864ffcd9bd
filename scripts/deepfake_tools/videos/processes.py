"""The processes that decode videos, seen from outside: asked, heard, bounded, killed, replaced.

A video may be anything that a stranger sends. What reads it is a process of its own, which is
killed when it hangs, may take so much memory and no more, and whose answers are checked as any
other's. Importing this needs no library; the processes need the extra `videos`.
"""

import json
import os
import queue
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import clip_deepfake
from clip_deepfake.system import available_cores

from deepfake_tools.errors import ImageRefusedError, one_line
from deepfake_tools.videos.sampling import FrameChoice

J = TypeVar("J")
T = TypeVar("T")

SILENT_SECONDS = 60.0
"""A decoder that has said nothing for so long hangs; one that works says so every second."""

MEMORY_BYTES = 2 << 30
"""That a decoder may take besides its libraries."""

LARGEST_PICTURE = 256 << 20
"""Bytes of a picture; 50 million pixels are 150 MB before they are compressed."""

LOOK_UP_SECONDS = 0.2
"""How long an end may go unnoticed."""

LONGEST_LINE = 64 << 20
CHUNK_BYTES = 1 << 20

TOOLS = Path(__file__).resolve().parents[2]
PATHS = (TOOLS, Path(clip_deepfake.__path__[0]).parent)
"""Where both packages lie, which need not be beside each other."""

BROKEN = "broken_video"
"""The kind of failure of a video that cannot be read, and of its frames that cannot."""

UNUSABLE = (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError)
"""What an answer leads to that is no decoder's."""

Picture = bytes | ImageRefusedError
"""A PNG or BMP file's bytes, or why there are none."""


@dataclass(frozen=True)
class VideoPlan:
    """What is to be judged of a video.

    Attributes:
        path: Of the file.
        frames: Each chosen frame's number, from 0 in the order of showing, and its time in seconds.
        total: How many frames there are.
        note: What a person should know of the file, such as that it is cut off.
        fault: Why none of it can be judged; None where some can.
    """

    path: str
    frames: Sequence[tuple[int, float]] = ()
    total: int = 0
    note: str | None = None
    fault: str | None = None


class DecoderLostError(Exception):
    """The decoding process is gone or was killed; the message says why."""


class Decoder:
    """A process that decodes one video after another; a new one takes its place if it is lost.

    Args:
        threads: That it decodes with.
        silent_seconds: After which it is taken to hang.
        memory_bytes: That it may take.
        command: What is run, for tests.
    """

    def __init__(
        self,
        threads: int = 1,
        silent_seconds: float = SILENT_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        command: Sequence[str] = (sys.executable, "-m", "deepfake_tools.videos.decoder"),
    ) -> None:
        self._command = [*command, str(threads), str(memory_bytes)]
        self._silent_seconds = silent_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def plan(self, path: str, choice: FrameChoice) -> VideoPlan:
        """Finds out which frames of a video are chosen."""
        found = VideoPlan(path, fault="its decoder said nothing of it")
        try:
            for said in self._ask({"path": path, "choice": asdict(choice)}):
                if "fault" in said:
                    return VideoPlan(path, fault=one_line(said["fault"]))
                frames = [(int(number), float(at)) for number, at in said["frames"]]
                note = said["note"] and one_line(said["note"])
                found = VideoPlan(path, frames, int(said["total"]), note)
        except DecoderLostError as error:
            return VideoPlan(path, fault=str(error))
        except UNUSABLE as error:
            return VideoPlan(path, fault=self._epitaph(error))
        return found

    def read(
        self, path: str, numbers: Sequence[int], *, to_keep: bool = False
    ) -> Iterator[tuple[int, Picture]]:
        """Decodes frames of a video.

        Args:
            path: Of the file.
            numbers: Of the frames, rising.
            to_keep: Whether the pictures are to be small (PNG), rather than made and read quickly.

        Yields:
            Each frame once, in their order as far as they can be decoded.
        """
        left = dict.fromkeys(numbers)
        fault = "its decoder left it out"
        try:
            for said in self._ask({"path": path, "numbers": list(numbers), "to_keep": to_keep}):
                if "number" not in said:
                    fault = one_line(said["fault"])
                elif said["number"] in left:
                    del left[said["number"]]
                    yield said["number"], said.get("picture") or _broken(said["fault"])
        except DecoderLostError as error:
            fault = str(error)
        except UNUSABLE as error:
            fault = self._epitaph(error)
        yield from ((number, _broken(fault)) for number in left)

    def kill(self) -> None:
        """Ends the process under whoever waits for it in another thread."""
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process, and lets go of it."""
        process, self._process = self._process, None
        self._heard.clear()
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        process.wait()

    def _ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields what the process says to a request, until it is done.

        Raises:
            DecoderLostError: It hangs, has died, or says what no decoder says.
        """
        finished = False
        try:
            process = self._started()
            assert process.stdin is not None  # it is a pipe
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while not (said := self._hear(process)).get("done"):
                if "alive" not in said:
                    yield said
            finished = not said.get("is_spent")
        except UNUSABLE as error:
            raise DecoderLostError(self._epitaph(error)) from error
        finally:
            # What is left of an answer that nobody reads would be taken for the next one's; and one
            # whose memory was used up would fail again.
            if not finished:
                self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            paths = os.pathsep.join(map(str, PATHS))
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process

    def _hear(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Returns the next line, and in it the picture that follows it."""
        end = -1
        while (end := self._heard.find(b"\n", max(end, 0))) < 0:
            end = len(self._heard)
            self._listen(process, LONGEST_LINE)
        said: dict[str, Any] = json.loads(self._heard[:end])
        del self._heard[: end + 1]
        if size := said.get("bytes"):
            if not 0 < size <= LARGEST_PICTURE:
                raise ValueError(f"a picture of {size} bytes")
            while len(self._heard) < size:
                self._listen(process, size + LONGEST_LINE)
            said["picture"] = bytes(memoryview(self._heard)[:size])
            del self._heard[:size]
        return said

    def _listen(self, process: subprocess.Popen[bytes], most: int) -> None:
        assert process.stdout is not None  # it is a pipe
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self._silent_seconds):
                raise TimeoutError
        data = os.read(process.stdout.fileno(), CHUNK_BYTES)
        if not data:
            raise EOFError(process.wait())
        self._heard += data
        if len(self._heard) > most:
            raise ValueError("a line without an end")

    def _epitaph(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return (
                f"its decoder hung: nothing came of it in {self._silent_seconds:g} s, and it was "
                "killed"
            )
        code = None if self._process is None else self._process.poll()
        if code is not None:
            how = f"of signal {-code}" if code < 0 else f"with exit code {code}"
            return f"its decoder died {how}"
        return f"its decoder said what cannot be used ({one_line(error)})"


def _broken(fault: object) -> ImageRefusedError:
    return ImageRefusedError(one_line(fault), BROKEN)


class _OverError(Exception):
    """Nobody wants what a crew finds any more."""


class Crew(Generic[J, T]):
    """Several decoders at work, each on a video of its own; iterating yields what they find.

    No more is kept than one finding of each decoder: they wait until it is taken.

    Args:
        work: What a decoder makes of a job.
        jobs: The jobs.
    """

    def __init__(self, work: Callable[[Decoder, J], Iterable[T]], jobs: Sequence[J]) -> None:
        self._work = work
        self._jobs = iter(enumerate(jobs))
        self._taking = threading.Lock()
        self._over = threading.Event()
        cores = available_cores()
        self._working = max(1, min(cores, len(jobs)))
        self._found: queue.Queue[tuple[int, T] | BaseException | None] = queue.Queue(1)
        self._decoders = [Decoder(cores // self._working) for _ in range(self._working)]
        self._threads = [
            threading.Thread(target=self._run, args=(decoder,), daemon=True)
            for decoder in self._decoders
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is still at work."""
        self._over.set()
        for decoder in self._decoders:
            decoder.kill()
        for thread in self._threads:
            thread.join(LOOK_UP_SECONDS * 10)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, T]:
        """Returns the next finding, and the position of the job that it is of."""
        while self._working and not self._over.is_set():
            try:
                found = self._found.get(timeout=LOOK_UP_SECONDS)
            except queue.Empty:
                continue
            if isinstance(found, BaseException):
                raise found
            if found is not None:
                return found
            self._working -= 1
        raise StopIteration

    def _run(self, decoder: Decoder) -> None:
        try:
            while True:
                with self._taking:
                    place, job = next(self._jobs, (None, None))
                if place is None or job is None:
                    break
                for found in self._work(decoder, job):
                    self._put((place, found))
            self._put(None)
        except _OverError:
            pass
        except BaseException as error:
            with suppress(_OverError):
                self._put(error)
        finally:
            decoder.close()

    def _put(self, found: tuple[int, T] | BaseException | None) -> None:
        while not self._over.is_set():
            with suppress(queue.Full):
                self._found.put(found, timeout=LOOK_UP_SECONDS)
                return
        raise _OverError
