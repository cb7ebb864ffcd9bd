"""A command line of build_mar.py in, an archive in a store of its own out, in this process."""

import zipfile
from pathlib import Path

import build_mar
from deepfake_tools.packaging.builder import Built, build


class Builder:
    """Builds into a store of its own.

    Attributes:
        store: the folder, which the first archive makes.
        notes: what the last build reported, a line each.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.notes: list[str] = []

    def __call__(self, *arguments: object) -> Built:
        """Builds as `build_mar.py` would with these arguments."""
        self.notes = []
        words = [*map(str, arguments), "--export-path", str(self.store)]
        return build(build_mar.parse_arguments(words), self.notes.append)


def unpack(built: Built, folder: Path) -> Path:
    """Unpacks an archive as TorchServe does; returns the folder."""
    with zipfile.ZipFile(built.path) as archive:
        archive.extractall(folder)
    return folder
