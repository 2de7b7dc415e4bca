"""Singular values of what an adapter adds to a matrix, from its factors; the product itself is never made."""

import math

import numpy as np

from analysis.audit.adapter import Factors
from analysis.audit.tensors import Array

NOTHING = 1e-6
"""A singular value that is a smaller part of the largest is rounding: factors come in float32 at best."""


def singular_values(factors: Factors) -> Array:
    """Return the singular values of B @ diag(e) @ A, the largest first, of shape (rank,).

    With B = Q R and A^T = P S, they are those of R S^T, a matrix of (rank, rank).
    """
    _, upper_b = np.linalg.qr(factors.b.astype(np.float64))
    _, upper_a = np.linalg.qr(factors.scaled_a.astype(np.float64).T)
    values: Array = np.linalg.svd(upper_b @ upper_a.T, compute_uv=False)
    return values


def numerical_rank(values: Array) -> int:
    """Return how many singular values are more than rounding."""
    return int((values > NOTHING * values[0]).sum()) if len(values) and values[0] > 0 else 0


def effective_rank(values: Array) -> float:
    """Return exp of the entropy of the singular values as shares of their sum: between 1 and the rank; 0 of nothing.

    Source: O. Roy and M. Vetterli, The effective rank, EUSIPCO 2007, definition 1.
    """
    total = float(values.sum())
    if not total > 0:
        return 0.0
    shares = values[values > 0] / total
    return math.exp(-float((shares * np.log(shares)).sum()))
