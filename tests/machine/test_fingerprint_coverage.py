"""What runs in a fit is covered by its fingerprint: every function of the engine that a profiler sees."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from cran_bench.frontend.text.encoding import TextFeatures, TextManifest
from cran_bench.frontend.text.words import TextFrontEnd
from cran_bench.machine.fingerprint import code
from cran_bench.registry import METHODS
from cran_bench.running.fits import FitStore, run_of
from cran_bench.running.fits.run import parts_of
from cran_bench.running.fits.store import ASKED, LENT
from cran_bench.split import Split

CPU = torch.device("cpu")
FEW = "rbm_steps=4,steps=4"
QUICK = [
    *(
        "cca",
        "cca[text=word_cnn]",
        "cca[text=encoder+tfidf]",
        "cca[text=encoder,unit=documents]",
        "cfa",
        "kcca",
        "kcca[solver=nystrom,columns=40]",
        "kcca[solver=fourier,columns=40]",
    ),
    *("dcca:quick", "gmm-hglmm[components=2,gmm_iterations=2,hglmm_iterations=1,fisher_dim=40]"),
    *("macc[neighbours=1|2,codewords=4]", f"bimodal-ae:quick[{FEW}]", f"multimodal-dbn:quick[{FEW}]"),
    *(f"corr-ae:quick[{FEW},text=encoder]", f"ccl:quick[{FEW},joint_steps=4,autoencoder_steps=4]"),
    *("linear-head:quick[epochs=2]", "pcmepp:quick[epochs=2]"),
    *("sm[C=1]", "scm[C=1]", "cca3v", "ml-cca", "ml-cca:code"),
    *(f"{name}[gamma=1,sigma=1,ridge=0.1,neighbours=5,graph_neighbours=5]" for name in ("jrl", "jrl:code", "s2upg")),
    "s2upg:paper[patches=false]",
    f"cmdn:quick[{FEW},dbn_steps=4,fusion_steps=4,autoencoder_steps=4,category_steps=4]",
    *(
        pytest.param(spec, marks=pytest.mark.no_cover)
        for spec in (
            "cran[max_epochs=2,top=2]",
            "cran-ensemble[max_epochs=2]",
            "cran-plus[max_epochs=2,top=2,restarts=2]",
            "cran-plus:quick[max_epochs=2,top=2,joint=true]",
            "cran-plus-baseline[max_epochs=2]",
        )
    ),
    *("vsepp:quick[dim=8,epochs=2,word_init=random]", "vse-infinity:quick[dim=8,epochs=2]"),
    "scan:quick[dim=8,epochs=2]",
    *(
        "dual-path:quick[epochs=2,stage1_epochs=1,batch_size=20]",
        "dual-path:quick[losses=ranking,epochs=1,negatives=mined]",
    ),
    *("region-phrase:quick", "region-phrase:quick[text=hglmm,boxes=annotated]"),
]
NO_MEANING = (
    "cran_bench.errors",
    "cran_bench.machine.",
    "cran_bench.running.",
    "cran_bench.registry",
    "cran_bench.specs",
)
NOT_COVERED = ".parts", ".part_name", "__create_fn__", "<lambda>"  # lambdas are part of the definition around them


def covered(part, asked=ASKED):
    own = code(type(part), *LENT, asked=asked)
    return own.symbols.union(*(covered(inner, own.names) for inner in parts_of(part)))


@pytest.mark.parametrize("spec", QUICK)
def test_whatever_runs_in_a_fit_is_covered_by_its_fingerprint(spec, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("cran_bench.running.fits.store.require_room", lambda *_: None)  # memory changes no number
    part, ran = METHODS.configure(spec).build(), set()
    known = {(symbol.module, symbol.name) for symbol in covered(part) | code(run_of(part).score).symbols}
    boxes = [[(f"thing{row % 6}", (0.0, 0.0, 1.0, 1.0))] for row in range(100)]
    collection = replace(tiny.train._collection, phrase_boxes=boxes)
    words = TextFrontEnd.fit(tiny.train.texts)
    rows = np.random.default_rng(0).normal(size=(len(collection.captions), 6)).astype(np.float32)
    texts = TextFeatures(
        tmp_path, TextManifest(encoder="made", identity={}, captions_sha=""), rows, np.arange(len(rows))
    )
    unit = "documents" if "unit=documents" in spec else "captions"
    splits = [
        Split(split.name, unit, collection, split._features, words, CPU, encoded=texts)
        for split in (tiny.train, tiny.val, tiny.test)
    ]

    def note(frame, event, _):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("cran_bench."):
            ran.add((module, frame.f_code.co_qualname.partition(".<locals>")[0]))

    fits = FitStore(tmp_path, {}, splits[0], splits[1], CPU)
    fits.fingerprint(part, 0)
    sys.setprofile(note)
    try:
        for _ in range(2):
            fitted = fits.fitted(METHODS.configure(spec).build(), 0, spec).part
            fitted.embed_images(splits[2]), fitted.embed_texts(splits[2])
    finally:
        sys.setprofile(None)
    missing = {
        f"{module}:{name}"
        for module, name in ran - known
        if not module.startswith(NO_MEANING) and not name.endswith(NOT_COVERED)
    }
    assert not missing
    assert len(ran & known) > 40
