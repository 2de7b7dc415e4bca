"""What a site is given: one vector for each token, whatever form the model passes them in."""

import itertools

import torch

from strategies.measurement import NotMeasurable


def vectors_of_tokens(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the vectors of some tokens of a batch.

    Most layers are given (rows, length, d_in). Some models flatten the first two, or have a dimension for heads or
    streams before, between or after them; each token then has several vectors.

    Args:
        given: The input of a layer, its last dimension d_in.
        wanted: (rows, length), whether a token is.

    Returns:
        (vectors, d_in), in the order of the tokens.

    Raises:
        NotMeasurable: No dimensions of it are those of the tokens.
    """
    if given.ndim == 2 and len(given) == wanted.numel():
        return given[wanted.flatten()]
    rows, length = wanted.shape
    sizes = given.shape[:-1]
    places = sorted(itertools.combinations(range(len(sizes)), 2), key=lambda pair: pair[1] - pair[0])
    for first, second in places:  # beside each other rather than not
        if (sizes[first], sizes[second]) == (rows, length):
            return given.movedim((first, second), (0, 1))[wanted].reshape(-1, given.shape[-1])
    raise NotMeasurable(f"a layer is given {tuple(given.shape)} for {rows} rows of {length} tokens")
