"""Nothing that is read is run: no pickle, no eval, no way out of a folder, no module by chance, no markup in a page."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import cran_bench
import cran_bench.datasets
import cran_bench.methods
from cran_bench.errors import BadInput
from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.records.examples import Examples
from cran_bench.records.schema import Address, DataInfo, Failure, MethodInfo, Record, Seconds, SimilarityInfo
from cran_bench.records.store import ResultStore
from cran_bench.registry import DATASETS

CRAN_BENCH = Path(sys.executable).with_name("cran-bench")
PACKAGES = (cran_bench, cran_bench.methods, cran_bench.datasets)
SOURCES = sorted({path for package in PACKAGES for folder in package.__path__ for path in Path(folder).rglob("*.py")})

UNPICKLE = {"pickle", "cPickle", "_pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib", "yaml"}
HARMLESS = {"UnpicklingError", "cpu_count"}
WORKERS = "joblib.externals.loky"  # pickles between processes of one run, and reads no file
RUN = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"os.system", "os.popen", "tempfile.mktemp", "torch.hub.load", "torch.jit.load"}
METHODS_OF_ANYTHING = {"read_pickle", "to_pickle", "extract", "extractall", "query", "unsafe_load", "full_load"}


def complaints(text, where="a.py"):
    """What in a module could run what it reads, or write where an archive says; ``a.py:3: pickle``."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names if alias.name.split(".")[0] in UNPICKLE]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLE:
            if not node.module.startswith(WORKERS):
                found += [(node, node.module) for alias in node.names if alias.name not in HARMLESS]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            last = name.rpartition(".")[2]
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in RUN or name in ATTRIBUTES or (last in METHODS_OF_ANYTHING and last != name):
                found.append((node, name))
            if last == "eval" and (node.args or node.keywords):  # a network's takes nothing
                found.append((node, name))
            if name == "torch.load" and words.get("weights_only") != "True":
                found.append((node, "torch.load without weights_only=True"))
            if name in ("np.load", "numpy.load") and words.get("allow_pickle") != "False":
                found.append((node, "np.load without allow_pickle=False"))
            if words.get("allow_pickle", "False") != "False" or words.get("shell", "False") != "False":
                found.append((node, "allow_pickle or shell"))
            if name == "Image.open" and "formats" not in words:
                found.append((node, "Image.open without formats, among which is PostScript"))
            if name == "Environment" and words.get("autoescape") != "True":
                found.append((node, "a page without autoescape=True"))
    return [f"{where}:{node.lineno}: {what}" for node, what in found]


def test_the_suite_runs_nothing_that_it_reads():
    assert len(SOURCES) > 90 and {path.name for path in SOURCES} >= {"registry.py", "cca.py", "flickr8k.py"}
    assert not [line for path in SOURCES for line in complaints(path.read_text(encoding="utf-8"), path.name)]


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "import joblib.numpy_pickle",
        "from joblib import load",
        "eval(text)",
        "frame.eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "tar.extractall(path)",
        "pd.read_pickle(path)",
        "Image.open(path)",
        "Environment(loader=loader)",
    ],
)
def test_what_would_be_found(text):
    assert complaints(text)


def test_what_is_harmless():
    harmless = "from pickle import UnpicklingError\nnetwork.eval()\ntorch.compile(f)\nre.compile(p)\n"
    assert not complaints(harmless + "np.load(p, allow_pickle=False)\ntorch.load(p, weights_only=True)")


def test_modules_are_imported_by_name_in_few_places():
    """A name that is computed is the suite's own, an extra's, an entry point's, or a file that the user named."""
    dynamic = {"import_module", "exec_module", "spec_from_file_location", "entry_points", "run_path", "run_module"}
    found = {
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in dynamic
        if not (node.args and isinstance(node.args[0], ast.Constant))
    }
    assert found == {"registry.py", "extras.py", "catalogue.py", "__init__.py"}


OUTSIDE = ["../secret.jpg", "a/../../secret.jpg", "{root}/secret.jpg"]


def _annotated(root, dataset, name):
    """A dataset below ``root/data`` that names one image more than it should."""
    names = [*(f"{k}.jpg" for k in range(12)), name]
    data = root / "data"
    photographs = {"flickr8k": "images", "flickr30k": "flickr30k-images", "mscoco": "train2014", "folder": "."}[dataset]
    for path in (data / photographs / "a", data / "annotations"):
        path.mkdir(parents=True)
    for k in range(12):
        (data / photographs / f"{k}.jpg").touch()
    Image.new("RGB", (8, 8)).save(root / "secret.jpg")
    tokens = "".join(f"{n}#0\ta dog\n" for n in names)
    split = {n: ("val", "test", "train")[min(k, 2)] for k, n in enumerate(names)}
    if dataset == "flickr8k":
        (data / "Flickr8k.token.txt").write_text(tokens)
        for owners, part in (("train", "train"), ("dev", "val"), ("test", "test")):
            listed = "".join(f"{n}\n" for n in names if split[n] == part)
            (data / f"Flickr_8k.{owners}Images.txt").write_text(listed)
    elif dataset == "flickr30k":
        (data / "results_20130124.token").write_text(tokens)
        listed = [{"filename": n, "split": split[n]} for n in names]
        (data / "dataset_flickr30k.json").write_text(json.dumps({"dataset": "flickr30k", "images": listed}))
    elif dataset == "mscoco":
        listed = [{"id": k, "file_name": n} for k, n in enumerate(names)]
        spoken = [{"id": k, "image_id": k, "caption": "a dog"} for k in range(len(names))]
        text = json.dumps({"images": listed, "annotations": spoken})
        (data / "annotations" / "captions_train2014.json").write_text(text)
        last = {"images": [{"id": 99, "file_name": "a"}], "annotations": [{"id": 99, "image_id": 99, "caption": "a"}]}
        (data / "annotations" / "captions_val2014.json").write_text(json.dumps(last))
        karpathy = [{"filename": f"{k}.jpg", "split": split[n]} for k, n in enumerate(names)]
        (data / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": karpathy}))
    else:
        rows = "".join(f"{n},a dog,{split[n]}\n" for n in names)
        (data / "captions.csv").write_text("image,caption,split\n" + rows)
    return data


@pytest.mark.parametrize("dataset", ["flickr8k", "flickr30k", "mscoco", "folder"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_an_annotation_names_nothing_outside_the_folder(tmp_path, dataset, name):
    name = name.format(root=tmp_path)
    data = _annotated(tmp_path, dataset, name)
    with pytest.raises(BadInput, match=r"names the image .*secret\.jpg, which is outside|1 images of .*secret\.jpg"):
        DATASETS.configure(dataset).build().load(data)


def test_a_link_in_a_folder_is_its_owners(tmp_path):
    """Photographs are often links to another disk; a list of names cannot make one."""
    data = _annotated(tmp_path, "folder", "link.jpg")
    (data / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    collection = DATASETS.configure("folder").build().load(data)
    assert collection.images.read(list(collection.images.ids).index("link.jpg")).size == (8, 8)


EVIL_LABELS = ["..", ".", "", "../..", "../../x", "/etc/passwd", "a/../../b", "\0", "..[a=1]", ".hidden", "~", "con"]
labels = st.one_of(st.sampled_from(EVIL_LABELS), st.text("./\\-~a\0[]=:", max_size=12), st.text(max_size=12))


@given(dataset=labels, method=labels)
def test_a_label_writes_nothing_outside_the_results(dataset, method):
    store = ResultStore(Path("/results"))
    path = store.path(Address(dataset, "captions", 0, method, 0, "f" * 64))
    assert ".." not in path.parts and path.parts[:3] == ("/", "results", "runs") and len(path.parts) == 6
    assert not any(part.startswith(".") for part in path.parts)


MARK = "import pathlib\n(pathlib.Path(__file__).parent / 'run.txt').open('a').write(__name__ + '\\n')\n"
BY_CHANCE = ("torch", "numpy", "methods", "datasets", "cran_bench", "mine", "sitecustomize", "usercustomize", "typer")


def _run(folder, *arguments):
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    said = subprocess.run([CRAN_BENCH, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False)
    return said.returncode, said.stdout + said.stderr


def test_a_file_in_the_current_folder_is_not_imported(tmp_path):
    for name in BY_CHANCE:
        (tmp_path / f"{name}.py").write_text(MARK)
    code, said = _run(tmp_path, "info", "mine.py:Mine")
    assert code == 2 and "mine.py has no class 'Mine'" in said
    (imported,) = (tmp_path / "run.txt").read_text().splitlines()
    assert imported.startswith("cran_bench_file_mine_"), "none but the file that the user names"


MARKUP = "<script>alert(1)</script>\x1b\u202e"


def _record(dataset, method):
    counts = [Counts(*(np.ones(n, np.int32) for _ in range(3))) for n in (12, 24)]
    ranks = Ranks(*counts, np.arange(24) // 2)  # type: ignore[call-arg]
    record = Record(
        fingerprint="f" * 64,
        data=DataInfo(
            label=dataset,
            quick=False,
            split_sha="5" * 64,
            images=12,
            captions=24,
            front_end=MARKUP,
            features_sha="f" * 64,
            vectors=MARKUP,
        ),
        method=MethodInfo(
            label=method,
            name=MARKUP,
            preset=MARKUP,
            paper_row="CRAN",
            parameters={},
            chose={MARKUP: MARKUP},
            unit="captions",
            code_sha="c" * 64,
            fit_fingerprint="d" * 64,
        ),
        protocol="captions",
        folds=0,
        seed=0,
        metrics={**ranks.metrics().values(), "twin_accuracy": 50.0},
        ties=ranks.ties(),
        seconds=Seconds(features=1, fit=2, embed=3, similarity=4, rank=5),
        similarity=SimilarityInfo(name=MARKUP, kernel=MARKUP, dtype="float32"),
        device=MARKUP,
        peak_memory=1,
        environment=dict.fromkeys(("cpu", "gpu", "torch", "commit"), MARKUP),
        started="2026-01-01T00:00:00+00:00",
        ranks_sha="",
    )
    return record, ranks


def _stored(results, dataset, *methods):
    store = ResultStore(results)
    example = {"direction": "i2t", "image": MARKUP, "text": 0, "found": [{"image": MARKUP, "text": 1, "score": 0.5}]}
    for method in methods:
        record, ranks = _record(dataset, method)
        address = Address(dataset, "captions", 0, method, 0, record.fingerprint)
        curves = {MARKUP: [{"epoch": 1, "rsum": 2.0}, {"epoch": 2, "rsum": 3.0}]}
        store.write(address, record, ranks, curves, Examples.model_validate({"examples": [example]}))
    return store, record


def test_nothing_in_a_record_becomes_markup(command, tmp_path):
    store, record = _stored(tmp_path / "results", f"folder[file={MARKUP}]", f"cca{MARKUP}", f"cran:{MARKUP}")
    failure = Failure(
        data=record.data,
        method_label=f"{MARKUP} fails",
        protocol="captions",
        folds=0,
        seed=0,
        error=MARKUP,
        traceback=MARKUP,
        started=record.started,
        environment={},
    )
    store.write_failure(Address(record.data.label, "captions", 0, failure.method_label, 0, "e" * 64), failure)
    out = tmp_path / "report.html"
    said = command("report", "--results", tmp_path / "results", "-o", out)
    assert said.code == 0, said.err
    page = out.read_text(encoding="utf-8")
    assert page.count(r"\u003cscript\u003ealert(1)") > 10 and "<script>alert" not in page
    assert page.count("</script>") == page.count("<script")
    for text in (page.replace(r"\\", "\\"), command("table", "--results", tmp_path / "results").out):
        assert r"\x1b\u202e" in text and "\x1b" not in text and "\u202e" not in text


def test_verbs_print_nothing_unescaped():
    verbs = [path for path in Path(cran_bench.__file__).parent.glob("cli/*.py") if path.stem != "options"]
    assert verbs and not any(re.search(r"typer\.echo|\bprint\(", path.read_text()) for path in verbs)


def test_a_record_runs_no_file(command, tmp_path, monkeypatch):
    """A folder of results with a file beside it: what a label names is not what the user names."""
    _stored(tmp_path / "results", "mine.py:Mine", "mine.py:Mine")
    (tmp_path / "mine.py").write_text(MARK)
    monkeypatch.chdir(tmp_path)
    for verb in ("report", "table", "compare", "significance", "doctor"):
        command(verb, "--results", tmp_path / "results", *(["-o", "report.html"] if verb == "report" else []))
    assert not (tmp_path / "run.txt").exists()
    assert (tmp_path / "report.html").exists()
