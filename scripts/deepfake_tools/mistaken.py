"""The first bytes of a file in, what it is instead of weights or settings out."""

from pathlib import Path

START_BYTES = 64

_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer to it: fetch the content with git lfs pull"),
    (b"<", "a web page, saved in place of the download: fetch the file itself"),
    (b"BZh", "packed with bzip2: unpack it with bunzip2, and give what comes out"),
    (b"\x1f\x8b", "packed with gzip: unpack it with gunzip, and give what comes out"),
    (b"\xfd7zXZ\x00", "packed with xz: unpack it with unxz, and give what comes out"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd: unpack it with unzstd, and give what comes out"),
    (b"7z\xbc\xaf\x27\x1c", "packed with 7-Zip: unpack it, and give what comes out"),
    (b"Rar!", "packed with RAR: unpack it, and give what comes out"),
)


def what_instead(start: bytes) -> str | None:
    """Says what people have instead of a file, and what to do.

    Args:
        start: The file's first bytes, ``START_BYTES`` or fewer.
    """
    for beginning, meaning in _BEGINNINGS:
        if start.startswith(beginning):
            return meaning
    return None


def file_instead(path: Path) -> str | None:
    """The same for a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return what_instead(file.read(START_BYTES))
