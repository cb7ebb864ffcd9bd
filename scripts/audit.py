"""Looks for known vulnerabilities: in Python's libraries by pip-audit, in TorchServe's by a table.

What TorchServe's age forces on us is listed in docs/dependencies.md, with what shields against
it. This says what is not in there.
"""

import json
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deepfake_tools.cli import CommandParser

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "dependencies.md"
CONSTRAINTS = ROOT / "constraints.txt"
# As in "| `netty` | 4.1.53.Final |".
BUNDLED_ROW = re.compile(r"^\| `([\w-]+)` \| ([\w.]+) \|", re.MULTILINE)
# The build leaves out META-INF/maven, so each library is asked in the way that it offers.
SIGNS = {
    "netty": (
        "META-INF/io.netty.versions.properties",
        rb"netty-codec-http\.version=([\w.]+)",
    ),
    "log4j-core": ("META-INF/DEPENDENCIES", rb"log4j-core:jar:([\w.]+)"),
    "groovy": ("META-INF/groovy-release-info.properties", rb"ImplementationVersion=([\w.]+)"),
    # A string among the class's constants: a tag, two bytes of length, the text.
    "grpc": ("io/grpc/internal/GrpcUtil.class", rb"\x01\x00.(\d+\.\d+\.\d+)\x01"),
}
FOUND, UNKNOWN = 1, 3
EPILOG = f"""\
exit codes:
  0  nothing is known against any library, but for what docs/dependencies.md lists
  {FOUND}  something else is known, or TorchServe brings other libraries than are listed
  {UNKNOWN}  the vulnerability service did not answer for every library: nothing can be said
"""


class AuditError(Exception):
    """The vulnerability service did not answer."""


def main() -> int:
    """Prints what is known, and returns the exit code."""
    parser = CommandParser(description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "--service",
        choices=("osv", "pypi"),
        default="osv",
        help="who is asked about Python's libraries: osv.dev, or pypi.org (%(default)s)",
    )
    args = parser.parse_args()
    listed = TABLE.read_text(encoding="utf-8")
    findings = java_findings(listed)
    try:
        findings += python_findings(run_pip_audit(args.service), listed)
    except AuditError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNKNOWN
    finally:
        for finding in findings:
            print(f"! {finding}")
    if not findings:
        print("nothing is known but for what docs/dependencies.md lists")
    return FOUND if findings else 0


def java_findings(listed: str) -> list[str]:
    """Prints what TorchServe's jar holds, and returns where the table is about something else."""
    jar = torchserve_jar()
    if jar is None:
        return ["TorchServe is not installed here: pip install -e '.[serve]'"]
    expected = dict(BUNDLED_ROW.findall(listed))
    findings = []
    for library, version in bundled_versions(jar).items():
        print(f"  {library} {version} in {jar.name}")
        if expected.get(library) != version:
            findings.append(
                f"TorchServe brings {library} {version}, and {TABLE.name} lists "
                f"{expected.get(library, 'none')}: look for what is known of it, and change the "
                "table"
            )
    return findings


def torchserve_jar() -> Path | None:
    """Returns where TorchServe's jar is installed; None where TorchServe is not."""
    found = find_spec("ts")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "frontend" / "model-server.jar"


def bundled_versions(jar: Path) -> dict[str, str]:
    """Returns the version of each library that says its own, by name; `?` where it does not."""
    versions = {}
    with zipfile.ZipFile(jar) as archive:
        for library, (entry, pattern) in SIGNS.items():
            try:
                found = re.search(pattern, archive.read(entry), re.DOTALL)
            except KeyError:
                found = None
            versions[library] = found[1].decode("ascii") if found else "?"
    return versions


def run_pip_audit(service: str) -> list[dict[str, Any]]:
    """Returns what pip-audit says of each line of constraints.txt.

    Raises:
        AuditError: It did not get through to the service.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command += ["--vulnerability-service", service]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise AuditError(
            f"pip-audit could not ask {service}, so nothing is known of Python's libraries: "
            f"{lines[-1][:300]}"
        ) from error
    return dependencies


def python_findings(dependencies: list[dict[str, Any]], listed: str) -> list[str]:
    """Returns a line for each vulnerability that the table does not list.

    Args:
        dependencies: As pip-audit describes them.
        listed: The table's text; an identifier in it counts as known.

    Raises:
        AuditError: Of some library nothing is known, which is not the same as nothing wrong.
    """
    if skipped := [entry["name"] for entry in dependencies if "skip_reason" in entry]:
        raise AuditError(
            f"the service knows nothing of {len(skipped)} of {len(dependencies)} libraries, such "
            f"as {', '.join(skipped[:3])}: is the public index reached?"
        )
    print(f"  {len(dependencies)} Python libraries")
    findings = []
    for entry in dependencies:
        for flaw in entry["vulns"]:
            names = [flaw["id"], *flaw["aliases"]]
            if not any(name in listed for name in names):
                fixed = ", ".join(flaw["fix_versions"]) or "no version"
                findings.append(
                    f"{entry['name']} {entry['version']}: {', '.join(names)}, fixed in {fixed}"
                )
    return findings


if __name__ == "__main__":
    sys.exit(main())
