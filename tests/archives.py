"""Tiny archives in the shape of real ones, without torch: a worker is READY in a second."""

import hashlib
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from deepfake_tools.packaging.archive import plain_entry

END = struct.Struct("<4s4H2LH")
"""The last record of a zip."""

HANDLER = '''
"""Answers every request with its own version."""

import json
import logging
import os
import time
from pathlib import Path


class Handler:
    def initialize(self, context):
        folder = Path(context.system_properties["model_dir"])
        self.card = json.loads((folder / "detector.json").read_text())
        stub = self.card["stub"]
        self.delay = stub["delay_s"]
        time.sleep(stub["load_delay_s"])
        self.answers = stub["answers"]
        self.fake_probability = stub["fake_probability"]
        if stub["load_failure"]:
            logging.error(
                "clip_deepfake load failed: %s %s: %s",
                self.card["name"], self.card["version"], stub["load_failure"],
            )
            raise RuntimeError(stub["load_failure"])

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [json.dumps({"pid": os.getpid()})]
        time.sleep(self.delay)
        if not self.answers:
            for index in range(len(data)):
                context.set_response_status(500, "Internal Server Error", index)
            return [{"error": {"code": "internal_error", "message": "stub"}}] * len(data)
        fake = self.fake_probability
        verdict = {
            "label": "FAKE" if fake > 0.5 else "REAL", "prediction": int(fake > 0.5),
            "confidence": max(fake, 1 - fake), "fake_probability": fake,
            "logits": [0.5, -0.5], "detector": {
                "model": self.card["name"], "commit": None, "version": self.card["version"],
                "head": "untrained", "precision": "float32", "engine": "stub",
            },
        }
        return [verdict for _ in data]
'''


def write_archive(
    folder: Path,
    name: str = "acme--stub",
    version: str = "1",
    *,
    delay_s: float = 0.005,
    load_delay_s: float = 0,
    load_failure: str = "",
    answers: bool = True,
    fake_probability: float = 0.25,
    workers: int = 1,
    batch_size: int = 4,
    replace: dict[str, bytes] | None = None,
    manifest: dict[str, Any] | None = None,
) -> Path:
    """Writes NAME@VERSION.mar.

    Args:
        folder: Where to.
        name: Served name.
        version: Version on the manifest, on the card and in the file's name.
        delay_s: How long a batch takes.
        load_delay_s: How long a worker takes to come up.
        load_failure: When given, the worker logs this reason and does not come up.
        answers: Whether images get a verdict, or else a 500.
        fake_probability: What it says of every image.
        workers: How many workers the archive asks for.
        batch_size: How many requests a worker takes at once.
        replace: Entries by name, to add or to replace.
        manifest: Fields of the manifest's `model` to replace.
    """
    weights = b"weights of " + version.encode()
    stub = {
        "delay_s": delay_s,
        "load_delay_s": load_delay_s,
        "load_failure": load_failure,
        "answers": answers,
        "fake_probability": fake_probability,
    }
    card = {
        "schema": 1,
        "name": name,
        "version": version,
        "files": {"head.safetensors": hashlib.sha256(weights).hexdigest()},
        "stub": stub,
    }
    model = {
        "modelName": name,
        "modelVersion": version,
        "handler": "deepfake_handler.py",
        "configFile": "model-config.yaml",
        **(manifest or {}),
    }
    config = f"minWorkers: {workers}\nmaxWorkers: {workers}\nbatchSize: {batch_size}\n"
    config += "maxBatchDelay: 1\nresponseTimeout: 20\nstartupTimeout: 30\n"
    entries = {
        "MAR-INF/MANIFEST.json": json.dumps(
            {"runtime": "python", "model": model, "archiverVersion": "0.12.0"}
        ).encode(),
        "deepfake_handler.py": HANDLER.encode(),
        "detector.json": json.dumps(card).encode(),
        "head.safetensors": weights,
        "model-config.yaml": config.encode(),
        **(replace or {}),
    }
    path = folder / f"{name}@{version}.mar"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(plain_entry(entry), content)
    return path


def hide(data: bytes, name: str, content: bytes) -> bytes:
    """Puts an entry between the last content and the directory, which does not list it."""
    entry = plain_entry(name)
    entry.CRC, entry.file_size, entry.compress_size = zlib.crc32(content), *[len(content)] * 2
    hidden = entry.FileHeader(False) + content
    *fields, start, comment = END.unpack(data[-END.size :])
    end = END.pack(*fields, start + len(hidden), comment)
    return data[:start] + hidden + data[start : -END.size] + end
