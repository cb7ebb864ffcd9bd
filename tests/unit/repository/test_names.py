"""A class's name means one thing in the whole repository."""

import ast
from collections import defaultdict

from tests import ROOT

ROOMS = ("handler", "scripts", "benchmarks", "tests/drills")


def test_no_class_name_is_defined_twice() -> None:
    places = defaultdict(list)
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert len(places) > 100
    assert {name: some for name, some in places.items() if len(some) > 1} == {}
