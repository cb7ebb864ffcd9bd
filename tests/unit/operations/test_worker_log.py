from deepfake_tools.inspection import ArchiveName
from deepfake_tools.operations.worker_log import WorkerLog

PREFIX = "2026-01-01T10:00:00,123 [INFO ] W-9000-acme--a_{}-stdout MODEL_LOG - "
FAILED = "clip_deepfake load failed: acme--a {}: {}\n"
ARCHIVE = ArchiveName("acme--a", "2")


def test_the_latest_reason_of_that_version_is_returned(tmp_path):
    log = WorkerLog(tmp_path)
    (tmp_path / "model_log.log").write_text(
        PREFIX.format(2)
        + FAILED.format(2, "first")
        + PREFIX.format(2)
        + FAILED.format(2, "second: with a colon")
        + PREFIX.format(3)
        + FAILED.format(3, "another version's")
        + PREFIX.format(2)
        + "RuntimeError: 500 - Unknown exception\n"
    )

    assert log.failure(ARCHIVE) == "second: with a colon"


def test_reasons_from_before_do_not_count(tmp_path):
    file = tmp_path / "model_log.log"
    file.write_text(PREFIX.format(2) + FAILED.format(2, "of an earlier start"))

    assert WorkerLog(tmp_path).failure(ARCHIVE) is None
    assert WorkerLog(tmp_path, from_now=False).failure(ARCHIVE) == "of an earlier start"


def test_a_log_that_was_rotated_is_read_from_its_beginning(tmp_path):
    file = tmp_path / "model_log.log"
    file.write_text("long " * 100)
    log = WorkerLog(tmp_path)

    file.write_text(PREFIX.format(2) + FAILED.format(2, "new"))

    assert log.failure(ARCHIVE) == "new"


def test_without_a_log_there_is_no_reason(tmp_path):
    assert WorkerLog(tmp_path / "none").await_failure(ARCHIVE) is None
