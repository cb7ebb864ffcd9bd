"""TorchServe's jar in, the versions of the Java libraries in it out, as far as it says."""

import re
import zipfile
from importlib.util import find_spec
from pathlib import Path

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
