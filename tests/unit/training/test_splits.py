import numpy as np
import pytest
from deepfake_tools.training.splits import Plan, plan_splits


def check(plan: Plan, labels: np.ndarray) -> None:
    """Shows that a plan divides as it should, whatever is kept together."""
    train, test = plan.held_out.train, plan.held_out.test
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert sorted(row for fold in plan.folds for row in fold.test) == sorted(train)
    for split in (plan.held_out, *plan.folds):
        assert not set(split.train) & set(split.test)
        assert set(labels[split.train]) == set(labels[split.test]) == {0, 1}
    for fold in plan.folds:
        assert set(fold.train) | set(fold.test) == set(train)


@pytest.mark.parametrize("seed", range(5))
def test_a_folder_never_stands_on_both_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    folders = [f"video-{n}" for n in range(30) for _ in range(rng.integers(1, 20))]
    # Every third video is fake, and one folder holds both.
    labels = np.array([int(name.endswith(("0", "3", "6", "9"))) for name in folders])
    labels[folders.index("video-5")] = 1
    plan = plan_splits(labels, folders, seed)
    check(plan, labels)
    assert plan.kept_together == "folder"
    assert len(plan.folds) == 5
    for split in (plan.held_out, *plan.folds):
        assert not {folders[row] for row in split.train} & {folders[row] for row in split.test}
    assert 0.1 < len(plan.held_out.test) / len(labels) < 0.3


def test_few_folders_give_few_folds() -> None:
    folders = [f"{kind}-{n}" for kind in ("real", "fake") for n in range(3) for _ in range(8)]
    labels = np.array([int(name.startswith("fake")) for name in folders])
    plan = plan_splits(labels, folders, seed=0)
    check(plan, labels)
    assert plan.kept_together == "folder"
    assert len(plan.folds) == 2


@pytest.mark.parametrize("fakes", [1, 2])
def test_too_few_folders_are_not_kept_together_and_the_plan_says_so(fakes: int) -> None:
    folders = [f"real-{n % 9}" for n in range(60)] + [f"fake-{n % fakes}" for n in range(40)]
    labels = np.array([0] * 60 + [1] * 40)
    plan = plan_splits(labels, folders, seed=0)
    check(plan, labels)
    assert plan.kept_together == "image"
    assert len(plan.held_out.test) == 20
    assert len(plan.folds) == 5


def test_the_seed_decides() -> None:
    labels = np.array([0, 1] * 50)
    folders = [str(n // 2) for n in range(100)]
    first, same, other = (plan_splits(labels, folders, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.held_out.test, same.held_out.test)
    assert not np.array_equal(first.held_out.test, other.held_out.test)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="too few images"):
        plan_splits(np.array([0] * 20 + [1]), [str(n) for n in range(21)], seed=0)
