"""aligned: the cosine of what two encoders give, and nothing else."""

import numpy as np
import pytest
import torch

from cran_bench.errors import BadInput
from cran_bench.methods.aligned import Aligned
from cran_bench.ranking.rank import rank
from cran_bench.running.fits.serialisation import load_state, save_state
from cran_bench.split import MissingFeature


class Encoded:
    """What `aligned` asks of a split: 12 images with three texts each, in the space of one model."""

    def __init__(self, p=5, q=5):
        random = np.random.default_rng(0)
        self.image_of = torch.arange(12).repeat_interleave(3)
        self.images = torch.from_numpy(random.normal(size=(12, p)).astype(np.float32))
        self.text_features = torch.from_numpy(random.normal(size=(36, q)).astype(np.float32))
        self.image_dim, self.text_dim = p, q
        if p == q:
            self.text_features += self.images[self.image_of]


def test_recall_is_that_of_the_cosine_in_numpy():
    split = Encoded()
    method = Aligned()
    method.fit(split, split, None)
    x, y = split.images.double().numpy(), split.text_features.double().numpy()
    scores = x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
    owner = split.image_of.numpy()
    i2t = [(scores[i] > scores[i, owner == i].max()).sum() for i in range(12)]
    t2i = [(scores[:, k] > scores[owner[k], k]).sum() for k in range(36)]
    expected = [100 * (np.array(ranks) < k).mean() for ranks in (i2t, t2i) for k in (1, 5, 10)]
    metrics = rank(method.embed_images(split), method.embed_texts(split), split.image_of, method.similarity).metrics()
    assert metrics.rsum == pytest.approx(sum(expected)) and 100 < sum(expected) < 590
    assert [metrics.i2t_r1, metrics.t2i_r1] == pytest.approx([expected[0], expected[3]])


def test_there_is_nothing_to_store(tmp_path):
    save_state(tmp_path / "aligned", Aligned().state(), {"chose": {}})
    state, about = load_state(tmp_path / "aligned")
    Aligned().load(state)
    assert state == {} and about == {"chose": {}}


@pytest.mark.parametrize(
    ("dims", "kind", "message"),
    [
        ((5, 4), BadInput, "images have 5 dimensions and texts have 4: prepare with the image and the text encoder of"),
        ((5, 0), MissingFeature, "images have 5 dimensions and there is no text encoder: prepare with"),
    ],
)
def test_encoders_of_two_spaces_are_refused(dims, kind, message):
    with pytest.raises(kind, match=message):
        Aligned().fit(Encoded(*dims), None, None)
