"""Effort's residual: the smallest singular directions of a matrix, trained, the others frozen.

Source: Yan et al., "Orthogonal Subspace Decomposition for Generalizable AI-Generated Image
Detection", ICML 2025, section 3.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 1e-24
"""Under a square root, where its slope would be infinite."""


class ResidualLinear(nn.Module):
    """A linear layer ``(main + U diag(s) V) x + b`` of which U, s and V are trained.

    At first it is the layer that it is made of. The product with the residual is taken from the
    right, so that no gradient of the size of the whole matrix is ever made.
    """

    main: Tensor
    kept_u: Tensor
    kept_v: Tensor
    deviation_u: Tensor
    deviation_v: Tensor
    removed: Tensor

    def __init__(self, linear: nn.Linear, rank: int, *, penalised: bool) -> None:
        """Divides the layer's matrix, in float64.

        Args:
            linear: with a float32 weight (outputs, inputs).
            rank: singular directions that are trained, the smallest ones; below those it has.
            penalised: whether the kept directions stay in memory, which ``orthogonality`` needs.
        """
        super().__init__()
        weight = linear.weight.detach()
        u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
        kept = len(s) - rank
        if kept < 1:
            raise ValueError(f"rank {rank} leaves nothing of a matrix of rank {len(s)}")
        main = (u[:, :kept] * s[:kept]) @ v[:kept]
        self.register_buffer("main", main.to(weight.dtype), persistent=False)
        self.register_buffer("removed", s[kept:].square().sum().to(weight.dtype), persistent=False)
        self.bias = linear.bias
        self.u, self.s, self.v = (
            nn.Parameter(part.to(weight.dtype).contiguous())
            for part in (u[:, kept:], s[kept:], v[kept:])
        )
        if penalised:
            for name, vectors in (("u", u[:, :kept].T), ("v", v[:kept])):
                exact = torch.eye(kept, dtype=vectors.dtype, device=vectors.device)
                own = vectors.to(weight.dtype).contiguous()
                deviation = (own.double() @ own.double().T - exact).square().sum()
                self.register_buffer(f"kept_{name}", own, persistent=False)
                self.register_buffer(
                    f"deviation_{name}", deviation.to(weight.dtype), persistent=False
                )

    def forward(self, values: Tensor) -> Tensor:
        """Maps (..., inputs) to (..., outputs)."""
        residual = functional.linear(functional.linear(values, self.v) * self.s, self.u)
        return functional.linear(values, self.main, self.bias) + residual

    def orthogonality(self) -> Tensor:
        """Half of ||U'U - I|| and half of ||VV' - I||, Frobenius norms, over all directions.

        The blocks of the kept directions with each other do not change, so that only those with
        trained ones are computed.
        """
        u = _departure(self.kept_u, self.u.T, self.deviation_u)
        v = _departure(self.kept_v, self.v, self.deviation_v)
        return (u + v) / 2

    def spectrum(self) -> Tensor:
        """Distance of the matrix's squared Frobenius norm from that of the original one.

        That of the original is that of the kept part and of the removed singular values, so that
        no difference of large numbers is taken.
        """
        scaled = self.u * self.s
        mixed = (scaled * functional.linear(self.v, self.main).T).sum()
        own = ((scaled.T @ scaled) * (self.v @ self.v.T)).sum()
        return (2 * mixed + own - self.removed).abs()

    def merged(self) -> nn.Linear:
        """Returns a plain layer, its matrix folded in float64."""
        weight = self.main.double() + (self.u * self.s).double() @ self.v.double()
        with torch.device("meta"):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=self.bias is not None)
        layer.weight = nn.Parameter(weight.to(self.main.dtype), requires_grad=False)
        layer.bias = self.bias
        return layer


def _departure(kept: Tensor, trained: Tensor, deviation: Tensor) -> Tensor:
    """Frobenius norm of the Gram matrix of rows less the identity.

    Args:
        kept: rows that do not change, (kept, size).
        trained: rows that do, (rank, size).
        deviation: the squared norm of the kept rows' own block.
    """
    across = kept @ trained.T
    own = trained @ trained.T - torch.eye(len(trained), device=trained.device)
    squares = deviation + 2 * across.square().sum() + own.square().sum()
    return squares.clamp_min(SMALLEST).sqrt()
