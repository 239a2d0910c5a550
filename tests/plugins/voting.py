"""For tests of jrl and s2upg: standardised features, votes by loops, and precisions without ties."""

import numpy as np

BARE = {"gamma": (0.0,), "sigma": (0.0,), "ridge": (0.0,), "neighbours": (9,), "graph_neighbours": 4}


def standardised(split):
    """X, Y and Z of all pairs, features standardised."""
    X, Y = split.images.numpy()[split.image_of].astype(float), split.text_features.numpy().astype(float)
    Z = split.given.numpy()[split.image_of].astype(float)
    return (X - X.mean(axis=0)) / X.std(axis=0), (Y - Y.mean(axis=0)) / Y.std(axis=0), Z


def brute_votes(codes, groups, k):
    found = []
    for code in codes:
        weighed = [
            (b / (1 + np.exp(np.linalg.norm(code - c))), z) for C, Z, b in groups for c, z in zip(C, Z, strict=True)
        ]
        best = sorted(weighed, key=lambda pair: -pair[0])[:k]
        found.append(sum(w * z for w, z in best) / sum(w for w, _ in best))
    return np.array(found)


def fast_maps(method, split):
    """Mean average precision without ties, of image and text queries."""
    scores = (method.embed_images(split).double() @ method.embed_texts(split).double().T).numpy()
    relevant = split.given.numpy() @ split.given.numpy().T > 0
    found = []
    for S, R in ((scores, relevant), (scores.T, relevant.T)):
        right = np.take_along_axis(R, np.argsort(-S, axis=1, kind="stable"), axis=1)
        precision = np.cumsum(right, axis=1) / np.arange(1, R.shape[1] + 1)
        found.append(((precision * right).sum(axis=1) / right.sum(axis=1)).mean())
    return tuple(found)
