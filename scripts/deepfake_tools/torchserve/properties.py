"""Reads and changes settings in the text of a Java properties file."""

from collections.abc import Mapping


def read_settings(text: str) -> dict[str, str]:
    """Reads `key=value` lines as TorchServe's launcher does.

    Args:
        text: The file's text; lines that start with `#` are comments.

    Returns:
        Each key's value; of a repeated key, the last.
    """
    settings = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.lstrip().startswith("#"):
            settings[key.strip()] = value.strip()
    return settings


def with_settings(text: str, settings: Mapping[str, str]) -> str:
    """Changes settings in place, comments and order kept.

    Args:
        text: The file's text.
        settings: Values by key; a key that the text lacks is added at the end.

    Returns:
        The text with exactly one line for each of these keys.
    """
    missing = dict(settings)
    lines = []
    for line in text.splitlines():
        key = line.partition("=")[0].strip()
        if key not in settings:
            lines.append(line)
        elif key in missing:
            lines.append(f"{key}={missing.pop(key)}")
    lines += [f"{key}={value}" for key, value in missing.items()]
    return "\n".join(lines) + "\n"
