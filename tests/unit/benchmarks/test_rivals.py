"""The rivals compute what the archive does: its weights, read by transformers."""

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import pytest
import torch
from deepfake_tools.demonstration.random_clip import preprocessor_config
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from benchmarks.archives import Unpacked, unpack
from benchmarks.contenders import in_process_job, run_in_process
from benchmarks.litserve_app import DetectorAPI
from benchmarks.measurements import (
    BenchmarkError,
    Logits,
    Measurements,
    RunSettings,
    Scenario,
    largest_difference,
)
from benchmarks.photographs import write_images
from benchmarks.processes import RivalJob, Runtime
from benchmarks.rivals import (
    CLIP_PROCESSOR,
    OPENCV,
    ScriptContender,
    line_up_rivals,
    preprocessings,
    write_checkpoint,
)
from tests.building import Builder

Build = Callable[..., Unpacked]
LogitsOf = Callable[..., dict[str, tuple[Logits, ...]]]

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


@pytest.fixture(scope="module")
def build(small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds each archive once; nobody may change what it gives."""
    options = ("--model", small_clip, "--served-name", "small")

    @cache
    def run(*more: str) -> Unpacked:
        folder = tmp_path_factory.mktemp("archive")
        return unpack([Builder(folder)(*options, *more).path], folder)[0]

    return run


@pytest.fixture(scope="module")
def settings(examples: list[Path], tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    folder = tmp_path_factory.mktemp("settings")
    images = write_images(examples, folder / "images", 3)
    return RunSettings(tuple(images), (1, 2), 0.1, 0.0, None, False, Path("none"), folder)


@pytest.fixture(scope="module")
def logits_of(build: Build, settings: RunSettings) -> LogitsOf:
    """An archive's own, by the options that it was built with."""
    return cache(lambda *options: logits_after(build(*options), settings))


def test_archives_of_one_precision_are_told_apart_by_their_files(build: Build, tmp_path: Path):
    second, rounded = ("--version", "2"), ("--precision", "bfloat16", "--batch-size", "3")
    found = unpack([build(*options).path for options in ((), second, rounded)], tmp_path)
    assert [archive.label for archive in found] == [
        "float32 (small@1)",
        "float32 (small@2)",
        "bfloat16",
    ]
    assert [archive.batch_size for archive in found] == [8, 8, 3]


def logits_after(archive: Unpacked, settings: RunSettings) -> dict[str, tuple[Logits, ...]]:
    job = in_process_job(archive, settings, preprocessings=preprocessings(archive.card))
    return run_in_process(job, settings).logits_after


def served_by(job: RivalJob, settings: RunSettings) -> list[Logits]:
    """What LitServe would answer, by the calls that it makes."""
    api = DetectorAPI(job)
    api.setup("cpu")
    texts = [base64.b64encode(image.read_bytes()).decode() for image in settings.images]
    inputs = api.batch([api.decode_request({"image_data": text}) for text in texts])
    answers = [api.encode_response(output) for output in api.unbatch(api.predict(inputs))]
    return [tuple(answer["logits"]) for answer in answers]


@pytest.mark.parametrize("feature", ["pooler_output", "image_embeds", "class_token"])
@pytest.mark.parametrize(
    ("runtime", "preparation", "most"),
    [
        ("transformers", CLIP_PROCESSOR, 1e-3),
        ("OpenVINO float32", OPENCV, 1e-3),
        ("OpenVINO bfloat16", OPENCV, 0.1),
    ],
)
def test_litserve_has_the_archives_logits(
    build: Build,
    settings: RunSettings,
    logits_of: LogitsOf,
    tmp_path: Path,
    feature: str,
    runtime: Runtime,
    preparation: str,
    most: float,
):
    options = ("--feature", feature)
    job = replace(write_checkpoint(build(*options), tmp_path / "checkpoint"), runtime=runtime)
    ours = logits_of(*options)[preparation]
    for one, other in zip(served_by(job, settings), ours, strict=True):
        assert largest_difference(one, other) < most


def of_type(kind: str, folder: Path) -> Path:
    """A repository of a small model that is no CLIP."""
    settings = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    torch.manual_seed(1)
    models = {
        "dinov2": lambda: Dinov2Model(Dinov2Config(**settings)),
        "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**settings)),
        "classifier": lambda: Dinov2ForImageClassification(
            Dinov2Config(**settings, id2label={0: "real", 1: "fake"})
        ),
    }
    models[kind]().save_pretrained(folder)
    content = preprocessor_config(32) | {"image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", ["dinov2", "siglip", "classifier"])
def test_other_encoders_have_the_same_rivals(
    builder: Builder, settings: RunSettings, kind: str, tmp_path: Path
):
    path = builder("--model", of_type(kind, tmp_path / kind), "--served-name", "other").path
    archive = unpack([path], tmp_path / "unpacked")[0]
    job = write_checkpoint(archive, tmp_path / "checkpoint")
    ours = logits_after(archive, settings)
    for runtime, preparation in (("transformers", CLIP_PROCESSOR), ("OpenVINO float32", OPENCV)):
        answers = served_by(replace(job, runtime=runtime), settings)
        for one, other in zip(answers, ours[preparation], strict=True):
            assert largest_difference(one, other) < 1e-3


@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_rival_in_bfloat16_is_measured_where_the_processor_has_it(
    build: Build, tmp_path: Path, bfloat16: bool
):
    job = write_checkpoint(build(), tmp_path / "checkpoint")
    expected = {CLIP_PROCESSOR: ((1.0,),), OPENCV: ((2.0,),)}
    found = line_up_rivals(job, expected, bfloat16=bfloat16)
    assert [(rival.name, rival.expected[0][0]) for rival in found] == [
        ("LitServe", 1.0),
        ("LitServe, OpenVINO float32", 2.0),
        *[("LitServe, OpenVINO bfloat16", 2.0)] * bfloat16,
        ("script", 1.0),
    ]


def test_a_new_process_per_image_has_them_too(
    build: Build,
    settings: RunSettings,
    logits_of: LogitsOf,
    tmp_path: Path,
):
    options = ("--feature", "pooler_output")
    job = write_checkpoint(build(*options), tmp_path / "checkpoint")
    measurements = Measurements(lambda _: None)
    ours = logits_of(*options)[CLIP_PROCESSOR]
    ScriptContender("script", job, ours).measure(1, settings, measurements)
    assert measurements.differences["script"] < 1e-3
    assert [cell.place.way for cell in measurements.cells] == [Scenario.SCRIPT]


def test_one_process_is_measured_with_its_stages(build: Build, settings: RunSettings):
    result = run_in_process(in_process_job(build(), settings, stages=True), settings)
    assert [timing.size for timing in result.passes] == [1, 2, 4, 8]
    assert [one.size for one in result.stages] == [1, 2, 4, 8]
    assert all(min(timing.times_ms) > 0 for timing in (*result.passes, result.judged))
    assert len(result.logits) == len(settings.images)


def test_code_of_another_place_is_refused(build: Build, settings: RunSettings, tmp_path: Path):
    (archive,) = unpack([build().path], tmp_path)
    shutil.rmtree(archive.folder / "clip_deepfake")
    with pytest.raises(BenchmarkError, match="clip_deepfake was imported from"):
        run_in_process(in_process_job(archive, settings), settings)


def test_an_archive_without_an_encoder_has_no_rival(build: Build, tmp_path: Path):
    archive = build()
    card = msgspec.structs.replace(archive.card, files={"encoder.xml": "0" * 64})
    with pytest.raises(BenchmarkError, match="give a float32 archive of the same detector"):
        write_checkpoint(replace(archive, card=card), tmp_path / "checkpoint")
