"""The rivals compute what the archive does: its weights, read by transformers."""

import base64
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from deepfake_tools.benchmarking.cells import BenchmarkError, Way
from deepfake_tools.benchmarking.checkpoint import write_checkpoint
from deepfake_tools.benchmarking.contenders import in_process_job, run_in_process
from deepfake_tools.benchmarking.jobs import largest_difference
from deepfake_tools.benchmarking.litserve_app import DetectorAPI
from deepfake_tools.benchmarking.photographs import write_images
from deepfake_tools.benchmarking.plan import Plan, Record
from deepfake_tools.benchmarking.rivals import ScriptContender
from deepfake_tools.benchmarking.unpacked import Unpacked, unpack

from tests.building import Builder

Build = Callable[..., Unpacked]


@pytest.fixture
def build(builder: Builder, small_clip: Path, tmp_path: Path) -> Build:
    def run(*options: str) -> Unpacked:
        path = builder("--model", small_clip, "--served-name", "small", *options).path
        return unpack([path], tmp_path / path.stem)[0]

    return run


@pytest.fixture
def plan(examples: list[Path], tmp_path: Path) -> Plan:
    images = write_images(examples, tmp_path / "images", 3)
    return Plan(tuple(images), (1, 2), 0.1, 0.0, None, Path("none"), tmp_path)


def test_archives_of_one_precision_are_told_apart_by_their_files(build: Build, tmp_path: Path):
    built = [build(), build(), build("--precision", "bfloat16", "--batch-size", "3")]
    found = unpack([one.path for one in built], tmp_path / "all")
    assert [archive.label for archive in found] == [
        "float32 (small@1)",
        "float32 (small@2)",
        "bfloat16",
    ]
    assert [archive.batch_size for archive in found] == [8, 8, 3]


@pytest.mark.parametrize("feature", ["pooler_output", "image_embeds"])
def test_litserve_has_the_archives_logits(build: Build, plan: Plan, feature: str):
    archive = build("--feature", feature)
    api = DetectorAPI(write_checkpoint(archive, plan.scratch / "checkpoint"))
    api.setup("cpu")
    texts = [base64.b64encode(image.read_bytes()).decode() for image in plan.images]
    inputs = api.batch([api.decode_request({"image_data": text}) for text in texts])
    found = [api.encode_response(output) for output in api.unbatch(api.predict(inputs))]
    ours = run_in_process(in_process_job(archive, plan, clip=True), plan).clip_logits
    for one, other in zip(found, ours, strict=True):
        assert largest_difference(tuple(one["logits"]), other) < 1e-3


def test_a_new_process_per_image_has_them_too(build: Build, plan: Plan):
    archive = build()
    job = write_checkpoint(archive, plan.scratch / "checkpoint")
    ours = run_in_process(in_process_job(archive, plan, clip=True), plan).clip_logits
    record = Record(lambda _: None)
    ScriptContender(job, ours).measure(1, plan, record)
    assert record.differences["script"] < 1e-3
    assert [cell.place.way for cell in record.cells] == [Way.SCRIPT]


def test_one_process_is_measured_with_its_stages(build: Build, plan: Plan):
    result = run_in_process(in_process_job(build(), plan, stages=True), plan)
    assert [timing.size for timing in result.passes] == [1, 2, 4, 8]
    assert [one.size for one in result.stages] == [1, 2, 4, 8]
    assert all(min(timing.times_ms) > 0 for timing in (*result.passes, result.judged))
    assert len(result.logits) == len(plan.images)


def test_code_of_another_place_is_refused(build: Build, plan: Plan):
    archive = build()
    shutil.rmtree(archive.folder / "clip_deepfake")
    with pytest.raises(BenchmarkError, match="clip_deepfake was imported from"):
        run_in_process(in_process_job(archive, plan), plan)


def test_an_archive_without_an_encoder_has_no_rival(build: Build, plan: Plan):
    archive = build()
    card = msgspec.structs.replace(archive.card, files={"encoder.xml": "0" * 64})
    with pytest.raises(BenchmarkError, match="give a float32 archive of the same detector"):
        write_checkpoint(replace(archive, card=card), plan.scratch / "checkpoint")
