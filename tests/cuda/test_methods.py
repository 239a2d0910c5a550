"""Every method on pretended CUDA: fitted, stored, loaded, ranked, explained and searched, with the CPU's numbers."""

import numpy as np
import pytest
import torch
from pretended_cuda import Pretended, pretended_cuda

from cran_bench.embeddings import as_levels
from cran_bench.ranking.evaluation import evaluate
from cran_bench.registry import DATASETS, METHODS
from cran_bench.running.fits import FitStore
from cran_bench.running.preparation import find_prepared
from cran_bench.running.runner import embed
from cran_bench.similarity import Pairwise
from cran_bench.viewing.search import images_for, texts_for

STACKS = "hidden_image=32,hidden_text=32,rbm_steps=6"
SMALL = "width=compact,lstm_layers=1"
PRETRAINED = "pretraining_epochs=1,frozen_encoder_epochs=1"
GATE = {
    "kcca": "kcca:quick[ridge_image=0.02,ridge_text=0.01,dim=16]",
    "corr-ae": f"corr-ae:quick[{STACKS},steps=6]",
    "cran-plus-relation": f"cran-plus-relation[{SMALL},text_init=random,max_epochs=1]",
    "pcmepp": "pcmepp[dim=16,epochs=1,batch_size=8]",
}
"""The exact solver, stacks and networks, quick enough for every run of the tests."""
SWEEP = {
    "kcca": "kcca[columns=100,solver=cholesky]",
    "kcca-nystrom": "kcca[columns=100,solver=nystrom,kernel_image=chi2,image=none]",
    "kcca-fourier": "kcca[columns=100,solver=fourier,kernel_image=rbf]",
    "kcca-exact": "kcca",
    "macc": "macc:quick",
    "gmm-hglmm": "gmm-hglmm:quick[components=4,fisher_dim=200]",
    "bimodal-ae": f"bimodal-ae:quick[{STACKS},steps=6]",
    "multimodal-dbn": f"multimodal-dbn:quick[{STACKS}]",
    "dcca": "dcca:quick[epochs=2,output_dim=16]",
    "ccl": f"ccl:quick[{STACKS},joint_steps=6,autoencoder_steps=6,steps=6,joint_units=32,code_units=16,units=16]",
    "cca-word-cnn": "cca[text=word_cnn,dim=32]",
    "corr-ae": GATE["corr-ae"],
    "cran": f"cran[{SMALL},max_epochs=1]",
    "cran-baseline": f"cran-baseline[{SMALL},max_epochs=1]",
    "cran-local": f"cran-local[{SMALL},max_epochs=1]",
    "cran-relation": f"cran-relation[{SMALL},max_epochs=1]",
    "cran-ensemble": f"cran-ensemble[{SMALL},max_epochs=1]",
    "cran-plus": f"cran-plus[{SMALL},conv_bn=false,{PRETRAINED},max_epochs=2,restarts=2]",
    "cran-plus-baseline": f"cran-plus-baseline[{SMALL},text_init=cca-targets,pretraining_epochs=1,max_epochs=1]",
    "cran-plus-local": f"cran-plus-local[{SMALL},text_init=random,max_epochs=1]",
    "cran-plus-relation": GATE["cran-plus-relation"],
    "cran-plus-ensemble": f"cran-plus-ensemble[{SMALL},text_init=random,max_epochs=1]",
    "vsepp": "vsepp:quick[dim=16,epochs=2]",
    "vse-infinity": "vse-infinity:quick[dim=16,epochs=2]",
    "scan": "scan:quick[dim=16,epochs=2]",
    "dual-path": "dual-path:quick[epochs=2,stage1_epochs=1,batch_size=20,candidates=20,negatives=mined]",
    "region-phrase": "region-phrase:quick",
    "linear-head": "linear-head[dim=16,epochs=2,batch_size=20]",
    "pcmepp": GATE["pcmepp"],
    "sm": "sm[C=1]",
    "cmdn": f"cmdn:quick[{STACKS},steps=6,autoencoder_steps=6,dbn_steps=6,fusion_steps=6,category_steps=6,units=16|8]",
    "scm": "scm[C=1,dim=16]",
    "cca3v": "cca3v[ridge=0.01,dim=16]",
    "jrl": "jrl[gamma=1,sigma=1,ridge=1,neighbours=20,graph_neighbours=5]",
    "s2upg": "s2upg[gamma=1,sigma=1,ridge=1,neighbours=20,graph_neighbours=5]",
    "ml-cca": "ml-cca[kappa=0.25,few=5,weights=l2exp]",
}
EQUAL = 1e-5


@pytest.fixture(scope="module")
def world(prepared_scenes):
    tiny = prepared_scenes
    return find_prepared(DATASETS.configure(tiny.spec), tiny.data, tiny.cache, tiny.backbone, None, "ppmi-svd")


def split(world, name, unit, device, most):
    whole = world.split(name, unit, device, "captions")
    return whole.take(np.arange(min(most, len(whole))))


def fitted(world, device, folder, method, most):
    train, val, test = (split(world, name, "captions", device, most) for name in ("train", "val", "test"))
    store = FitStore(folder, world.identity, train, val, device)
    made, loaded = (store.fitted(method.build(), 0, method.label) for _ in range(2))
    assert not made.reused and loaded.reused
    return made.part, loaded.part, test


def metrics(world, device, part, most):
    """The metrics under every protocol."""
    found = []
    averages = () if isinstance(part.similarity, Pairwise) else ("mean",)
    for unit, kinds in (("captions", ("captions", "single", *averages)), ("documents", ("documents",))):
        test = split(world, "test", unit, device, most)
        sides = (*embed(part, test), test.image_of, test.twins, part.similarity)
        found += [evaluate(*sides, protocol, folds).metrics for protocol in kinds for folds in (0, 5)]
    return found


def left_on_the_cpu(part, embeddings):
    """Names of tensors on the CPU; states may keep a few constants there."""
    levels = {f"embeddings {k}": x for k, side in enumerate(embeddings) for x in as_levels(side).tensors()}
    states = {name: x for name, x in part.state().items() if x.numel() > 6}
    return [name for name, x in (levels | states).items() if not isinstance(x, Pretended)]


def check(world, tmp_path, spec, most=60):
    method = METHODS.configure(spec)
    made, loaded, test = fitted(world, torch.device("cpu"), tmp_path / "cpu", method, most)
    right = embed(loaded, test)
    recalls = metrics(world, torch.device("cpu"), loaded, most)
    found = images_for(loaded, test, test.texts[0], 3), texts_for(loaded, test, test.take(np.array([1])), 3)
    with pretended_cuda() as gpu:
        made, loaded, test = fitted(world, torch.device("cuda"), tmp_path / "cuda", method, most)
        for part in (made, loaded):
            embeddings = embed(part, test)
            assert not left_on_the_cpu(part, embeddings)
            for given, expected in zip(embeddings, right, strict=True):
                for x, y in zip(as_levels(given).tensors(), as_levels(expected).tensors(), strict=True):
                    torch.testing.assert_close(x.cpu(), y, rtol=EQUAL, atol=EQUAL)
        assert metrics(world, torch.device("cuda"), loaded, most) == recalls
        searched = images_for(loaded, test, test.texts[0], 3), texts_for(loaded, test, test.take(np.array([1])), 3)
        assert [[hit.text for hit in hits] for hits in searched] == [[hit.text for hit in hits] for hits in found]
        if hasattr(loaded, "explain"):
            (explanation,) = loaded.explain(test, [(0, 0)])
            assert explanation.scores["total"] == pytest.approx(float(loaded.similarity.scores(*embeddings)[0, 0]))
        assert not +gpu.unordered  # float sums in any order would make two fits differ


@pytest.mark.parametrize("spec", GATE.values(), ids=GATE)
def test_a_method_has_the_numbers_of_the_cpu(world, tmp_path, spec):
    check(world, tmp_path, spec, most=10)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted({*METHODS.names(), *SWEEP} - {"aligned", "truth"}))  # one needs a text encoder
def test_every_method_has_the_numbers_of_the_cpu(world, tmp_path, name):
    check(world, tmp_path, SWEEP.get(name, name))


def test_truth_which_no_new_sentence_has_has_the_numbers_of_the_cpu(world):
    part = METHODS.configure("truth").build()
    expected = metrics(world, torch.device("cpu"), part, 60)
    with pretended_cuda() as gpu:
        assert metrics(world, torch.device("cuda"), part, 60) == expected
        embeddings = embed(part, split(world, "test", "captions", torch.device("cuda"), 60))
        assert not left_on_the_cpu(part, embeddings) and not +gpu.unordered
