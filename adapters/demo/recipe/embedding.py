"""First token embeddings: positive pointwise mutual information, factorised.

Ten seconds of counting give neighbours that make sense before any training (Levy and Goldberg,
2014: word2vec factorises such a matrix implicitly), which saves a short pre-training a good part
of its steps.
"""

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

WINDOW = 6
MAX_TOKENS = 9_000_000
SMOOTHING = 0.75  # of the context distribution, as in word2vec's negative samples
SINGULAR_POWER = 0.5


def first_embedding(tokens: np.ndarray, vocabulary: int, width: int, seed: int) -> Tensor:
    """[vocabulary, width] with rows of root mean square 1; unseen ids get a normal draw."""
    counts = _pair_counts(tokens[:MAX_TOKENS].astype(np.int32), vocabulary)
    total = counts.sum()
    words = np.asarray(counts.sum(1)).ravel() / total
    contexts = np.asarray(counts.sum(0)).ravel() ** SMOOTHING
    contexts /= contexts.sum()
    pairs = counts.tocoo()
    information = np.log(pairs.data / total / (words[pairs.row] * contexts[pairs.col]))
    is_positive = information > 0
    matrix = csr_matrix(
        (information[is_positive], (pairs.row[is_positive], pairs.col[is_positive])),
        shape=counts.shape,
        dtype=np.float32,
    )
    left, singular, _ = randomized_svd(matrix, width, n_iter=2, random_state=seed)
    rows = left * singular**SINGULAR_POWER
    draw = np.random.default_rng(seed).standard_normal((vocabulary, width))
    scale = np.sqrt((rows**2).mean(1, keepdims=True))
    rows = np.where(scale > 1e-6, rows / np.maximum(scale, 1e-6), draw)
    return torch.tensor(rows, dtype=torch.float32)


def _pair_counts(tokens: np.ndarray, vocabulary: int) -> csr_matrix:
    """Symmetric counts of ids at most WINDOW apart, nearer pairs counting more."""
    counts = csr_matrix((vocabulary, vocabulary), dtype=np.float32)
    for offset in range(1, WINDOW + 1):
        weights = np.full(len(tokens) - offset, 1.0 / offset, dtype=np.float32)
        pairs = coo_matrix(
            (weights, (tokens[:-offset], tokens[offset:])), shape=(vocabulary, vocabulary)
        )
        counts = counts + pairs.tocsr()
    return csr_matrix(counts + counts.T)
