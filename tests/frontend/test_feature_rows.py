"""Features by the batch: the same numbers whether they are held or read anew, and nothing held that is too large."""

import gc
import weakref

import numpy as np
import pytest
import torch

from cran_bench.embeddings import as_levels
from cran_bench.frontend import feature_rows
from cran_bench.methods.cran import batches, model
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore
from cran_bench.toolbox import kernels

HELD = ("images", "regions")
STEPS = "hidden_image=8,hidden_text=8,rbm_steps=8,steps=8"


@pytest.fixture
def fresh(tiny):
    """``fresh(name)``: a split of `tiny` of which nothing is in memory yet."""

    def made(name):
        split = getattr(tiny, name)
        return split.take(np.arange(len(split)))

    return made


def held(split):
    return [name for name in HELD if name in vars(split)]


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_rows_are_those_of_the_whole(fresh, monkeypatch, most):
    monkeypatch.setattr(feature_rows, "BLOCK", 16)
    monkeypatch.setattr(feature_rows, "HELD", most)
    split, whole = fresh("train"), fresh("train")
    found = split.image_rows, split.region_rows, split.existing_regions
    for rows, tensor in zip(found, (whole.images, whole.regions, whole.regions[whole.region_mask]), strict=True):
        assert rows.shape == tensor.shape and len(rows) == len(tensor)
        assert bool(rows.held) == bool(most)
        some = torch.tensor([3, 0, 3, len(tensor) - 1])
        for index in (some, some.numpy(), slice(2, 5), slice(None), slice(0, None, 7), slice(4, 4)):
            assert rows[index].equal(tensor[index]) and rows[index].dtype == torch.float32
            assert rows.map(torch.neg)[index].equal(-tensor[index])
    assert not held(split)
    assert (split.image_rows.held, split.region_rows.held) == ((60 * 16 * 4, 60 * 2 * 16 * 4) if most else (0, 0))


def test_few_regions_of_many_are_held_by_themselves(fresh, monkeypatch):
    regions = fresh("train").existing_regions.shape[0]
    monkeypatch.setattr(feature_rows, "HELD", 4 * regions * 16)
    split = fresh("train")
    assert split.region_rows.held == 0 and split.existing_regions.held == 4 * regions * 16
    assert split.existing_regions[:].equal(fresh("train").regions[split.region_mask])


def test_features_go_with_their_split(fresh):
    gc.disable()  # which would find it in a cycle
    try:
        split = fresh("train")
        assert len(split.existing_regions[:])
        kept = [weakref.ref(found) for found in (split, split.images, split.regions)]
        del split
        assert not any(found() is not None for found in kept)
    finally:
        gc.enable()


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_rows_that_were_first_read_in_inference_can_be_trained_on(fresh, monkeypatch, most):
    monkeypatch.setattr(feature_rows, "HELD", most)
    split = fresh("train")
    with torch.inference_mode():
        assert len(split.images)
    layer = torch.nn.Linear(split.image_dim, 1)
    layer(split.images).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "spec",
    [
        "cca[text=word_cnn]",
        "kcca[solver=exact,kernel_image=rbf]",
        "kcca[solver=cholesky,kernel_image=rbf,columns=20]",
        "kcca[solver=nystrom,kernel_image=rbf,columns=20]",
        "dcca[output_dim=8,epochs=2,batch_size=60]",
        f"bimodal-ae[{STEPS}]",
        f"multimodal-dbn[{STEPS}]",
        f"corr-ae[{STEPS},granularity=parts]",
        f"ccl[{STEPS},autoencoder_steps=8,joint_steps=8,joint_units=8,code_units=8,units=8]",
        "cran-plus[top=2,max_epochs=1,pretraining_epochs=1,restarts=1]",
        "cran[top=2,max_epochs=1,image_scaling=standard]",
        "cran-baseline[max_epochs=1,image_scaling=whiten]",
    ],
)
def test_a_fit_is_the_same_whether_features_are_held_or_read_anew(fresh, tmp_path, monkeypatch, spec):
    for module in (feature_rows, kernels, batches, model):
        monkeypatch.setattr(module, "BLOCK", 16)  # of 60 images
    scores = []
    for most in (1 << 20, 0):
        monkeypatch.setattr(feature_rows, "HELD", most)
        train, val, test = map(fresh, ("train", "val", "test"))
        store = FitStore(tmp_path / str(most), {}, train, val, torch.device("cpu"))
        method = store.fitted(METHODS.configure(spec).build(), 0, spec).part
        scores.append(
            method.similarity.scores(as_levels(method.embed_images(test)), as_levels(method.embed_texts(test)))
        )
        assert most or not held(train) + held(val)
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=0)
