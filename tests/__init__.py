"""Tests, the drills among them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Of the repository."""
