"""How fast a detector is: archives and their rivals, measured side by side."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Of the repository."""

SCRIPTS = ROOT / "scripts"
PHOTOGRAPHS = sorted((ROOT / "examples").glob("*.jpg"))
