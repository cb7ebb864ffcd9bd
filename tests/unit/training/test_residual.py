"""The residual beside Effort's equations, written out with whole matrices."""

import pytest
import torch
from deepfake_tools.training.residual import ResidualLinear
from torch import nn

SHAPES = [(6, 6), (9, 6), (6, 9)]


@pytest.fixture(params=SHAPES, ids=str)
def linear(request: pytest.FixtureRequest) -> nn.Linear:
    torch.manual_seed(1)
    outputs, inputs = request.param
    return nn.Linear(inputs, outputs)


def moved(layer: ResidualLinear) -> ResidualLinear:
    """As it may be after some steps."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in (layer.u, layer.s, layer.v):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def whole(linear: nn.Linear, layer: ResidualLinear, rank: int) -> tuple[torch.Tensor, ...]:
    """All left directions, all right directions, and the matrix, in float64."""
    u, s, v = torch.linalg.svd(linear.weight.detach().double(), full_matrices=False)
    kept = len(s) - rank
    left = torch.cat([u[:, :kept], layer.u.detach().double()], dim=1)
    right = torch.cat([v[:kept], layer.v.detach().double()])
    values = torch.cat([s[:kept], layer.s.detach().double()])
    return left, right, (left * values) @ right


@pytest.mark.parametrize("rank", [1, 3])
def test_at_first_it_is_the_layer(linear: nn.Linear, rank: int) -> None:
    values = torch.randn(4, linear.in_features)
    layer = ResidualLinear(linear, rank, penalised=False)
    assert torch.allclose(layer(values), linear(values), atol=1e-6)
    assert sum(p.numel() for p in (layer.u, layer.s, layer.v)) == rank * (
        linear.in_features + linear.out_features + 1
    )


@pytest.mark.parametrize("rank", [1, 3])
def test_later_it_is_the_sum_of_its_parts(linear: nn.Linear, rank: int) -> None:
    layer = moved(ResidualLinear(linear, rank, penalised=False))
    *_, matrix = whole(linear, layer, rank)
    values = torch.randn(4, linear.in_features)
    expected = values.double() @ matrix.T + linear.bias.detach().double()
    assert torch.allclose(layer(values).double(), expected, atol=1e-6)
    merged = layer.merged()
    assert torch.allclose(merged.weight.double(), matrix, atol=1e-7)
    assert torch.allclose(merged(values), layer(values), atol=1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_penalties_are_those_of_the_paper(linear: nn.Linear, rank: int) -> None:
    layer = moved(ResidualLinear(linear, rank, penalised=True))
    left, right, matrix = whole(linear, layer, rank)
    exact = torch.eye(left.shape[1], dtype=torch.float64)
    orthogonality = (
        torch.linalg.norm(left.T @ left - exact) / 2
        + torch.linalg.norm(right @ right.T - exact) / 2
    )
    assert layer.orthogonality().item() == pytest.approx(orthogonality.item(), abs=1e-6)
    original = linear.weight.detach().double()
    spectrum = abs(matrix.square().sum() - original.square().sum())
    assert layer.spectrum().item() == pytest.approx(spectrum.item(), abs=1e-6)


def test_gradients_are_those_of_the_whole_matrices(linear: nn.Linear) -> None:
    layer = moved(ResidualLinear(linear, 1, penalised=True))
    values = torch.randn(4, linear.in_features)
    loss = layer(values).square().sum() + layer.orthogonality() + layer.spectrum()
    loss.backward()

    u, s, v = torch.linalg.svd(linear.weight.detach().double(), full_matrices=False)
    parts = [p.detach().double().requires_grad_() for p in (layer.u, layer.s, layer.v)]
    left = torch.cat([u[:, :-1], parts[0]], dim=1)
    right = torch.cat([v[:-1], parts[2]])
    matrix = (left * torch.cat([s[:-1], parts[1]])) @ right
    exact = torch.eye(len(s), dtype=torch.float64)
    answer = values.double() @ matrix.T + linear.bias.detach().double()
    plain = (
        answer.square().sum()
        + torch.linalg.norm(left.T @ left - exact) / 2
        + torch.linalg.norm(right @ right.T - exact) / 2
        + abs(matrix.square().sum() - linear.weight.detach().double().square().sum())
    )
    plain.backward()
    for found, expected in zip((layer.u, layer.s, layer.v), parts, strict=True):
        scale = expected.grad.abs().max().item()
        assert (found.grad.double() - expected.grad).abs().max().item() < 1e-6 * max(scale, 1)


def test_untouched_it_is_orthogonal_and_keeps_its_spectrum(linear: nn.Linear) -> None:
    layer = ResidualLinear(linear, 1, penalised=True)
    assert layer.orthogonality().item() < 1e-5
    assert layer.spectrum().item() < 1e-5
    layer.orthogonality().backward()
    assert torch.isfinite(layer.u.grad).all()


def test_a_rank_that_leaves_nothing_is_refused(linear: nn.Linear) -> None:
    with pytest.raises(ValueError, match="rank 6 leaves nothing of a matrix of rank 6"):
        ResidualLinear(linear, 6, penalised=False)
