"""The losses beside the formulas, written out in NumPy by loops."""

import numpy as np
import pytest
import torch
from deepfake_tools.training.losses import alignment, uniformity
from torch.nn import functional


@pytest.fixture
def features() -> torch.Tensor:
    torch.manual_seed(3)
    return functional.normalize(torch.randn(7, 5, dtype=torch.float64))


LABELS = [0, 1, 1, 0, 1, 0, 1]


def pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i)]


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity(features: torch.Tensor, t: float) -> None:
    points = features.numpy()
    kernels = [np.exp(-t * np.linalg.norm(points[i] - points[j]) ** 2) for i, j in pairs(7)]
    assert uniformity(features, t).item() == pytest.approx(np.log(np.mean(kernels)), abs=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment(features: torch.Tensor, alpha: float) -> None:
    points = features.numpy()
    distances = [
        np.linalg.norm(points[i] - points[j]) ** alpha
        for i, j in pairs(7)
        if LABELS[i] == LABELS[j]
    ]
    found = alignment(features, torch.tensor(LABELS), alpha).item()
    assert found == pytest.approx(np.mean(distances), abs=1e-9)


def test_without_a_pair_of_one_label_there_is_nothing_to_align(features: torch.Tensor) -> None:
    features.requires_grad_()
    loss = alignment(features[:2], torch.tensor([0, 1]), 2.0)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_gradients_are_those_of_differences(features: torch.Tensor) -> None:
    features.requires_grad_()
    labels = torch.tensor(LABELS)
    assert torch.autograd.gradcheck(lambda x: uniformity(x, 2.0), features)
    assert torch.autograd.gradcheck(lambda x: alignment(x, labels, 2.0), features)
