"""What a run's images are: folders, patterns, lists, videos and Parquet, by path or by URI.

They are yielded as they are found, so that of a hundred million none has to be kept.
"""

import glob
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from pyarrow import fs

from deepfake_tools.bulk.dataset import read_schema
from deepfake_tools.bulk.items import Item, SourceKind, printable
from deepfake_tools.bulk.parquet_rows import (
    ColumnError,
    Columns,
    NamedRow,
    list_rows,
)
from deepfake_tools.bulk.uri_patterns import matches, split_pattern
from deepfake_tools.client.images import (
    LIST_SUFFIX,
    CollectionError,
    ListError,
    expand,
    read_list,
    videos_if_readable,
)
from deepfake_tools.image_files import SUFFIXES, LeftOut, is_image, is_video, walk_images
from deepfake_tools.labels import Label, LabelCounts, read_folder
from deepfake_tools.storage import (
    Location,
    StorageError,
    is_parquet,
    is_uri,
    open_place,
    parquet_files,
    walk_store,
)
from deepfake_tools.videos.frames import plan_videos
from deepfake_tools.videos.processes import BROKEN
from deepfake_tools.videos.sampling import FrameChoice, clock

VIDEOS_AT_A_TIME = 64
IMAGES = ", ".join(SUFFIXES)


@dataclass(frozen=True)
class Wanted:
    """What is to be scored.

    Attributes:
        what: Paths and URIs, as they were given.
        columns: Of Parquet data sets; None where files of images are meant.
        choice: Which frames of a video are taken.
    """

    what: Sequence[str]
    columns: Columns | None = None
    choice: FrameChoice = field(default_factory=FrameChoice)


@dataclass(frozen=True)
class _Source:
    """Images that were named together.

    Attributes:
        base: The folder that counts for the run's root.
        paths: Of the images, as they are found.
        store: That they are in; -1 for this machine's own files.
        shown: What stands before a path of the store.
    """

    base: str
    paths: Iterable[str]
    store: int = -1
    shown: str = ""


@dataclass
class Listing:
    """The images of a run; iterating yields them, and fills in the rest.

    Attributes:
        wanted: What was asked for.
        stores: The URIs that items' stores are positions of.
        left_out: Files that were met and not taken.
        labelled: How many images have which label, by the folder that says so.
        notes: What a person should know.
    """

    wanted: Wanted
    stores: list[str] = field(default_factory=list)
    left_out: LeftOut = field(init=False)
    labelled: LabelCounts = field(default_factory=LabelCounts)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Takes videos where they can be read.

        Raises:
            MissingExtraError: They cannot, and one was named.
        """
        self.left_out = videos_if_readable(self.wanted.what)

    @property
    def may_repeat(self) -> bool:
        """Whether one image may be named twice."""
        what = self.wanted.what
        return len(what) > 1 or self.wanted.columns is not None or what[0].endswith(LIST_SUFFIX)

    def __iter__(self) -> Iterator[Item]:
        """Yields the images, named ones in their order, those of a folder sorted.

        Raises:
            CollectionError: What was named holds no images.
            ColumnError: A Parquet data set has not the columns that were named.
            LabelError: A label cannot be known.
            StorageError: It cannot be read.
        """
        if self.wanted.columns is not None:
            for what in self.wanted.what:
                yield from self._rows(what, self.wanted.columns)
            return
        sources = [source for what in self.wanted.what for source in self._sources(what)]
        roots = {store: _root(sources, store) for store in {source.store for source in sources}}
        videos: list[Item] = []
        for source in sources:
            for path in source.paths:
                item = self._item(source, path, roots[source.store])
                if item.kind != SourceKind.FRAME:
                    yield item
                    continue
                videos.append(item)
                if len(videos) == VIDEOS_AT_A_TIME:
                    yield from self._frames(videos)
                    videos.clear()
        yield from self._frames(videos)

    def _sources(self, what: str) -> Iterator[_Source]:
        """Finds out what an argument stands for; of a folder, nothing is listed yet."""
        if is_uri(what):
            yield self._by_uri(what)
        elif Path(what).is_dir():
            yield _Source(_absolute(what), self._walk(what))
        elif what.lower().endswith(LIST_SUFFIX):
            yield from self._listed(what)
        elif is_parquet(Path(what).name):
            raise _which_column(Location(None, what))
        else:
            for entry in expand(what, self.left_out):
                yield _Source(entry.base, entry.paths)

    def _walk(self, folder: str) -> Iterator[str]:
        """Yields the images in a folder, or those below it where it holds none itself."""
        found = 0
        try:
            for number, (folders, images) in enumerate(walk_images(folder, self.left_out)):
                yield from images
                found += len(images)
                if number == 0 and images:
                    self._note_shallow(folder, bool(folders))
                    break
        except OSError as error:
            raise CollectionError(f"{error.filename} cannot be read: {error.strerror}") from error
        if not found:
            self._refuse_empty(Location(None, folder))

    def _listed(self, file: str) -> Iterator[_Source]:
        """Reads a list: one image, folder, pattern or URI a line."""
        try:
            names = read_list(file)
        except (OSError, ListError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CollectionError(f"the list {file} cannot be read: {reason}") from error
        if not names:
            raise CollectionError(f"the list {file} names no image")
        single: list[str] = []
        for name in names:
            whole = name if is_uri(name) else str(Path(file).parent / name)
            if is_uri(name) or Path(whole).is_dir() or glob.has_magic(name):
                yield from self._sources(whole)
            else:
                single.append(whole)
        if single:
            # Of a hundred thousand files one source is enough.
            bases = {posixpath.dirname(_absolute(path)) for path in single}
            yield _Source(os.path.commonpath([_absolute(str(Path(file).parent)), *bases]), single)

    def _by_uri(self, uri: str) -> _Source:
        given, pattern = split_pattern(uri)
        place, store = open_place(given), self._store(given)
        if pattern:
            wanted = (place / pattern).path
            found = (path for path in walk_store(place) if matches(path, wanted))
            return _Source(place.path, self._taken(found, place / pattern), store, place.shown)
        kind = place.kind()
        if kind == fs.FileType.NotFound:
            raise StorageError(f"{place} is not there: is it spelled right?")
        if kind != fs.FileType.File:
            return _Source(place.path, self._walk_uri(place), store, place.shown)
        if is_parquet(place.name):
            raise _which_column(place)
        if is_video(place.name):
            raise CollectionError(f"{place}: videos are read by path: copy or mount it")
        return _Source(posixpath.dirname(place.path), [place.path], store, place.shown)

    def _walk_uri(self, place: Location) -> Iterator[str]:
        """Yields the images in a folder of a store, or those below it, as of a local one."""
        entries = list(place.entries())
        here = [path for path, is_folder in entries if not is_folder]
        if any(is_image(posixpath.basename(path)) for path in here):
            self._note_shallow(place, len(here) < len(entries))
            yield from self._taken(here, place)
        else:
            yield from self._taken(walk_store(place), place)

    def _taken(self, paths: Iterable[str], place: Location) -> Iterator[str]:
        """Yields those paths within a store that are images by their names."""
        found = False
        for path in paths:
            name = posixpath.basename(path)
            # No videos: they are read by a process that opens files by their paths.
            if is_image(name):
                found = True
                yield path
            elif not name.startswith("."):
                self.left_out.add(name)
        if not found:
            self._refuse_empty(place)

    def _note_shallow(self, folder: object, has_folders: bool) -> None:
        if has_folders:
            self.notes.append(f"{folder} holds images, so the folders in it are left out")

    def _refuse_empty(self, folder: Location) -> None:
        if any(is_parquet(f"a{ending}") for ending in self.left_out.endings):
            raise _which_column(parquet_files(folder)[0])
        other = "".join(f"; {note}" for note in self.left_out.notes())
        raise CollectionError(f"there is no image ({IMAGES}) in {folder} or below it{other}")

    def _store(self, uri: str) -> int:
        if uri not in self.stores:
            self.stores.append(uri)
        return self.stores.index(uri)

    def _item(self, source: _Source, path: str, root: str) -> Item:
        whole = path if source.store >= 0 else _absolute(path)
        label = self._label(posixpath.dirname(whole), root)
        if source.store >= 0:
            return Item(source.shown + path, path, label, store=source.store)
        kind = SourceKind.FRAME if is_video(posixpath.basename(path)) else SourceKind.FILE
        # Elsewhere a path may begin from another folder.
        return Item(printable(path), whole, label, kind)

    def _label(self, folder: str, root: str) -> Label | None:
        """Reads a label off a folder's path, and counts it."""
        reading = read_folder(Path(folder), Path(root))
        name = PurePosixPath(folder).relative_to(root).as_posix()
        self.labelled.add(reading, "" if name == "." else printable(name))
        return reading.label

    def _frames(self, videos: Sequence[Item]) -> Iterator[Item]:
        """Yields the chosen frames of videos; of one that cannot be read a single faulty item."""
        plans = plan_videos([video.source for video in videos], self.wanted.choice)
        for video, plan in zip(videos, plans, strict=True):
            if (note := plan.fault or plan.note) is not None:
                self.notes.append(f"{video.name}: {note}")
            if plan.fault is not None:
                yield Item(video.name, video.source, video.label, fault=BROKEN)
                continue
            for number, time in plan.frames:
                name = f"{video.name}@{clock(time)}"
                yield Item(name, video.source, video.label, SourceKind.FRAME, number)

    def _rows(self, what: str, columns: Columns) -> Iterator[Item]:
        """Yields the rows of a Parquet data set."""
        place = open_place(what)
        store = -1 if place.files is None else self._store(what)
        files = parquet_files(place)
        if not files:
            raise CollectionError(f"there is no Parquet file in {place} or below it")
        root = posixpath.dirname(place.path) if files == [place] else place.path
        for file in files:
            for row in list_rows(file, columns):
                item = self._row(file, row, store)
                if columns.label is not None:
                    self.labelled.add_listed("", item.label)
                    yield item
                else:
                    yield replace(item, label=self._label_of_row(file, row, root))

    def _row(self, file: Location, row: NamedRow, store: int) -> Item:
        name = row.text or f"{printable(str(file))}#{row.number}"
        own = file.path if store >= 0 else _absolute(file.path)
        if not row.holds_path:
            return Item(name, own, row.label, SourceKind.ROW, row.number, store)
        if not row.text:
            return Item(name, own, row.label, fault="unreadable")
        if is_uri(row.text) and file.shown and row.text.startswith(file.shown):
            # In the data set's own store, which may have been opened with options.
            return Item(name, row.text.removeprefix(file.shown), row.label, store=store)
        if is_uri(row.text):
            bucket, _, path = row.text.partition("://")[2].partition("/")
            uri = f"{row.text.partition('://')[0]}://{bucket}"
            source = (open_place(uri) / path).path
            return Item(name, source, row.label, store=self._store(uri))
        source = posixpath.join(posixpath.dirname(own), row.text)
        return Item(name, source, row.label, store=store)

    def _label_of_row(self, file: Location, row: NamedRow, root: str) -> Label | None:
        """Reads a row's label off its path or name, else off where its file lies."""
        if not row.text:
            return self._label(posixpath.dirname(file.path), root)
        path = posixpath.join("/", row.text.partition("://")[2] or row.text)
        inside = path.startswith(root.rstrip("/") + "/")
        return self._label(posixpath.dirname(path), root if inside else "/")


def _root(sources: Sequence[_Source], store: int) -> str:
    """The deepest folder that holds all that was named of a store, or of this machine's files."""
    return os.path.commonpath([source.base for source in sources if source.store == store])


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links stay as they are


def _which_column(file: Location) -> ColumnError:
    names = ", ".join(read_schema(file).names)
    return ColumnError(
        f"{file} is Parquet: name by --column the column with the images' bytes or paths; it has "
        f"{names}"
    )
