"""The losses on features of length 1: uniformity and alignment, over the pairs of a batch."""

import torch
from torch import Tensor


def uniformity(features: Tensor, t: float) -> Tensor:
    """How unevenly features lie on the sphere: log of the mean of exp(-t ||x - y||^2).

    Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment
    and Uniformity on the Hypersphere", ICML 2020, section 4.1; the mean is over all pairs.

    Args:
        features: float32 (images, feature size), each of length 1.
        t: of the Gaussian kernel, above 0.
    """
    return (-t * _squared_distances(features)).exp().mean().log()


def alignment(features: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """How far features of one label lie apart: the mean of ||x - y||^alpha.

    Source: Wang and Isola, as above; the pairs are those of equal labels, as in GenD (arXiv
    2508.06248). A batch without such a pair has none of it.

    Args:
        features: float32 (images, feature size), each of length 1.
        labels: int64 (images,).
        alpha: exponent, above 0.
    """
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    alike = labels[first] == labels[second]
    if not alike.any():
        return features.sum() * 0
    return _squared_distances(features)[alike].pow(alpha / 2).mean()


def _squared_distances(features: Tensor) -> Tensor:
    """Of each pair (i, j) with i < j, row by row, (pairs,)."""
    count = len(features)
    first, second = torch.triu_indices(count, count, 1, device=features.device)
    return (features[first] - features[second]).pow(2).sum(dim=1)
