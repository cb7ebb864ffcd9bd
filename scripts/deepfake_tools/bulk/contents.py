"""Images' bytes, read ahead of what scores them: from files, Parquet rows and videos."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby, islice
from queue import Empty, Full, Queue
from typing import TypeVar

import pyarrow as pa

from deepfake_tools.bulk.items import Item, SourceKind
from deepfake_tools.bulk.parquet_rows import RowReader
from deepfake_tools.errors import ImageRefusedError
from deepfake_tools.storage import Location, StorageError, open_place
from deepfake_tools.videos.processes import Decoder

T = TypeVar("T")

AHEAD = 64
"""Images that are read before they are needed."""

READERS = 16
"""Files that are read at a time: each waits for a disk or a network, not for a core."""

LOOK_UP_SECONDS = 0.2

UNREADABLE = "unreadable"
TOO_LARGE = "image_too_large"
LOST = "connection_lost"


class Failed(str):
    """The code of an error, in the place of an image's bytes."""

    __slots__ = ()


Content = bytes | Failed


class ImageReader:
    """Reads images; one at work at a time, closed at the end.

    Args:
        stores: The URIs that items' stores are positions of.
        column: Of Parquet data sets, the one that holds the bytes; None without any.
        threads: That decode a video.
    """

    def __init__(self, stores: Sequence[str], column: str | None, threads: int) -> None:
        self._stores = stores
        self._rows = RowReader(column or "")
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self._decoder = Decoder(threads)

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, Content]]:
        """Yields each image once, with its content or the code of why there is none.

        Its order is that of the items, but for the frames of one video.
        """
        for kind, some in groupby(items, key=lambda item: item.kind):
            if kind == SourceKind.FILE:
                yield from self._files(some)
            elif kind == SourceKind.ROW:
                yield from ahead(self._read_rows(some))
            else:
                yield from ahead(self._frames(some))

    def _files(self, items: Iterator[Item]) -> Iterator[tuple[Item, Content]]:
        waiting: deque[tuple[Item, Future[Content]]] = deque()
        while True:
            waiting += [
                (item, self._pool.submit(self._file, item))
                for item in islice(items, AHEAD - len(waiting))
            ]
            if not waiting:
                return
            item, content = waiting.popleft()
            yield item, content.result()

    def _file(self, item: Item) -> Content:
        if item.fault is not None:
            return Failed(item.fault)
        try:
            return self._place(item).read()
        except OverflowError:
            return Failed(TOO_LARGE)
        except (OSError, StorageError) as error:
            return Failed(_code(item, error))

    def _place(self, item: Item) -> Location:
        if item.store < 0:
            return Location(None, item.source)
        return open_place(self._stores[item.store]).at(item.source)

    def _read_rows(self, items: Iterator[Item]) -> Iterator[tuple[Item, Content]]:
        for item in items:
            try:
                found = self._rows.read(self._place(item), item.place)
                yield item, Failed(UNREADABLE) if found is None else found
            except OverflowError:
                yield item, Failed(TOO_LARGE)
            except (OSError, StorageError, StopIteration, pa.ArrowException) as error:
                yield item, Failed(_code(item, error))

    def _frames(self, items: Iterator[Item]) -> Iterator[tuple[Item, Content]]:
        for source, frames in groupby(items, key=lambda item: item.source):
            by_number = {frame.place: frame for frame in frames}
            for number, picture in self._decoder.read(source, sorted(by_number)):
                if isinstance(picture, ImageRefusedError):
                    yield by_number[number], Failed(picture.kind)
                else:
                    yield by_number[number], picture

    def close(self) -> None:
        """Ends what reads."""
        self._decoder.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _code(item: Item, error: Exception) -> str:
    """The code of what could not be read: of a store, a moment later it may be there."""
    gone = isinstance(error, FileNotFoundError | PermissionError)
    return LOST if item.store >= 0 and isinstance(error, OSError) and not gone else UNREADABLE


def ahead(values: Iterable[T], most: int = AHEAD) -> Iterator[T]:
    """Yields values that a thread takes from the iterable beforehand, no more than so many."""
    found: Queue[tuple[bool, T | BaseException | None]] = Queue(most)
    is_over = threading.Event()

    def put(value: tuple[bool, T | BaseException | None]) -> None:
        while not is_over.is_set():
            with suppress(Full):
                found.put(value, timeout=LOOK_UP_SECONDS)
                return

    def fill() -> None:
        try:
            for value in values:
                put((True, value))
                if is_over.is_set():
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            goes_on, value = found.get()
            if goes_on:
                yield value  # type: ignore[misc]
            elif value is None:
                return
            else:
                raise value  # type: ignore[misc]
    finally:
        is_over.set()
        with suppress(Empty):
            found.get_nowait()
        thread.join()
