"""The pictures of a video's frames."""

from collections.abc import Iterator, Sequence


def read_frames(
    path: str, numbers: Sequence[int], choice_total: None = None
) -> Iterator[tuple[int, bytes | Exception]]:
    """Yields frames as PNG by their number, or why one cannot be read."""
    raise NotImplementedError(path)
