"""Every reader of bytes from elsewhere, given damaged, hostile and random ones: it reads them, or says why not.

CRAN_BENCH_FUZZ is the number of inputs of all readers together; ``tox -e faults`` gives 100,000.
"""

import contextlib
import io
import json
import math
import os
import re
import resource
import shutil
import signal
import struct
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from cran_bench.bench.measuring import COLUMNS, NUMBERS, render_all
from cran_bench.dataset import Collection, FolderImages
from cran_bench.errors import BadInput
from cran_bench.frontend.extraction import _Extraction
from cran_bench.frontend.features import SCHEMA, folder_name, ids_sha, load_features, prepared
from cran_bench.frontend.npy import NpyImages, NpyRegions, NpyTexts
from cran_bench.frontend.text import onnx as onnx_texts
from cran_bench.frontend.text.encoding import TextManifest, load_texts
from cran_bench.frontend.text.vectors import vector_source
from cran_bench.frontend.torchvision_network import read_state
from cran_bench.images import open_image
from cran_bench.machine.ledger import Ledger
from cran_bench.machine.progress import say
from cran_bench.machine.storage import canonical_json, sha256_bytes, sha256_json
from cran_bench.protocols import parse_protocols
from cran_bench.ranking.metrics import Counts, Ranks
from cran_bench.records.archive import read_answers, read_curves, read_examples, read_record
from cran_bench.records.schema import Address, DataInfo, Failure, MethodInfo, Record, Seconds, SimilarityInfo
from cran_bench.records.store import ResultStore
from cran_bench.registry import DATASETS, METHODS, each
from cran_bench.running.fits import FitStore, LentRun, load_state, save_state
from cran_bench.running.runner import parse_seeds
from cran_bench.specs import parse_spec
from cran_bench.tables.tables import build_tables, render

INPUTS = int(os.environ.get("CRAN_BENCH_FUZZ", "0"))
QUICK = 50  # inputs of each reader in the gate
BATCH = 10  # inputs of one drawn seed, for drawing takes as long as reading
SLOW = 2.0  # seconds that no input may take
HANGS = 30.0  # seconds after which a reader is interrupted
MEMORY = 1 << 30  # bytes a reader may ask for beyond those the process has

IDS = [f"{k:02}.jpg" for k in range(12)]
MEMBERS = {"train": IDS[:6], "val": IDS[6:9], "test": IDS[9:]}
CAPTIONS = {name: [f"a dog number {k}", f"two cats, a red one and {k}"] for k, name in enumerate(IDS)}

TOKENS = b"\0 \xff \xef\xbb\xbf \xff\xfe \xed\xa0\x80 , # : [ ] | {} [] null true nan inf -1 0 1e999 1e-999".split(b" ")
TOKENS += (
    rb'" "\ud800" 18446744073709551616 ../../../etc/passwd /etc/passwd /dev/zero out.jpg loop/00.jpg folder.jpg'.split()
)
TOKENS += [
    b"\r\n",
    b"\n",
    b"\t",
    b" ",
    b"999999999999 300\n",
    *(text.encode() for text in ["²", "١٢", "\u2028"]),
]
TOKENS += [
    b"9" * 25,
    b"9" * 5000,
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"x" * 200_000,
    b"a " * 50_000,
    b"0" * 300 + b".jpg",
]

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    3,
    2**31,
    2**63,
    10**30,
    1.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [0],
]
VALUES += [["a"], {"a": 1}, {"": None}, "", "a", "\0", "\ud800", "../x", "/etc/passwd", "x" * 10_000, "١"]
VALUES += ["<1e999>", "<digits>", "<nested>"]
BEYOND_JSON = {'"<1e999>"': "1e999", '"<digits>"': "9" * 5000, '"<nested>"': "[" * 3000 + "]" * 3000}

SHAPES = [
    "(999999999999,)",
    "(3, 999999999999)",
    "(-1, 4)",
    "()",
    "(0, 4)",
    "(1e9,)",
    "{}",
    "(2, 'a')",
    "None",
    "[3, 4]",
    "(True, 4)",
    "",
]
SHAPES += ["(4611686018427387904, 4)", "(4294967296, 4294967296)", f"({'9' * 30},)", "(" * 300]
DESCRIPTIONS = [
    "'|O'",
    "'<f8'",
    "'<U999999999'",
    "'|V0'",
    "'|S0'",
    "'<c16'",
    "'>f4'",
    "'|b1'",
    "'<M8[s]'",
    "'<f16'",
    "7",
    "'nonsense'",
]
DESCRIPTIONS += ["[('a', '<f4')]", "('<f4', (2, 2))", "[('a', '|O')]"]


def of_bytes(data, random):
    """One change that knows nothing of the format."""
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + 1 + int(random.expovariate(0.1)))
    head, some, tail = data[:start], data[start:end], data[end:]
    match random.randrange(9):
        case 0 if some:
            return head + bytes([some[0] ^ 1 << random.randrange(8)]) + some[1:] + tail
        case 1:
            return head + tail
        case 2:
            return head + some * random.choice((2, 3, 50)) + tail
        case 3:
            return head
        case 4:
            return head + random.randbytes(1 + random.randrange(6)) + some + tail
        case 5:
            return head + random.choice(TOKENS) + some + tail
        case 6:
            return head + random.choice(TOKENS) + tail
        case 7:
            lines = data.split(b"\n")
            lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
            return b"\n".join(lines)
        case _:
            numbers = list(re.finditer(rb"\d+", data))
            if not numbers:
                return data + random.choice(TOKENS)
            number = random.choice(numbers)
            other = random.choice((b"0", b"-1", b"7", b"9" * 5000, b"999999999999", b"1e999", b"18446744073709551616"))
            return data[: number.start()] + other + data[number.end() :]


def of_json(data, random):
    """One change to the value of a JSON file, or to one of its lines."""
    lines = data.split(b"\n") if data.count(b"\n{") else [data]
    k = random.randrange(len(lines))
    try:
        value = json.loads(lines[k])
    except (ValueError, RecursionError):
        return of_bytes(data, random)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    if isinstance(value, dict | list):
        walk(value)
    if not places:
        value = random.choice(VALUES)
    else:
        node, key = random.choice(places)
        match random.randrange(5):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[random.choice(("", "a", "../x", "\ud800", key * 2))] = node[key]
            case 2 if isinstance(node, list):
                node.extend([node[key]] * random.choice((1, 20)))
            case 3:
                other, place = random.choice(places)
                node[key] = json.loads(json.dumps(other[place])) if place in range(len(other)) or place in other else 0
            case _:
                node[key] = random.choice(VALUES)
    text = json.dumps(value)
    for name, written in BEYOND_JSON.items():
        text = text.replace(name, written)
    lines[k] = text.encode()
    return b"\n".join(lines)


def of_npy(data, random):
    """Another header before the same numbers."""
    if len(data) < 12 or not data.startswith(b"\x93NUMPY"):
        return of_bytes(data, random)
    length = struct.unpack("<H", data[8:10])[0]
    header = data[10 : 10 + length].decode("latin1")
    match random.randrange(4):
        case 0:
            header = re.sub(r"'shape': .*, \}", lambda _: f"'shape': {random.choice(SHAPES)}, }}", header)
        case 1:
            header = re.sub(r"'descr': [^,]*,", lambda _: f"'descr': {random.choice(DESCRIPTIONS)},", header)
        case 2:
            header = header.replace("False", "True")
        case _:
            header = of_bytes(header.encode("latin1"), random)[:60_000].decode("latin1")
    version = random.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x09\0"))
    size = struct.pack("<H" if version == b"\1\0" else "<I", random.choice((len(header), len(header), 60_000)))
    return b"\x93NUMPY" + version + size + header.encode("latin1") + data[10 + length :]


def of_npz(data, random):
    """Another array, name or packing in an archive of arrays."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return of_bytes(data, random)
    name = random.choice(list(members) or ["image_of.npy"])
    packing = random.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED] * 10 + [zipfile.ZIP_LZMA])
    match random.randrange(6):
        case 0:
            members.pop(name, None)
        case 1:
            members["../" + name] = members.pop(name, b"")
        case 2:
            dtype = random.choice((np.int32, np.int64, np.float64))
            members[name] = saved(np.zeros(random.choice((1, 12, 30, 300_000)), dtype))
        case 3:
            members[name] = of_bytes(members.get(name, b""), random)
        case _:
            members[name] = of_npy(members.get(name, b""), random)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return buffer.getvalue()


def of_safetensors(data, random):
    """Another header before the same numbers."""
    if len(data) < 8 or (length := struct.unpack("<Q", data[:8])[0]) > len(data):
        return of_bytes(data, random)
    header = json.loads(data[8 : 8 + length])
    about = header.get("__metadata__", {})
    if isinstance(about, dict) and isinstance(about.get("about"), str) and random.random() < 0.7:
        about["about"] = of_json(about["about"].encode(), random).decode("utf-8", "replace")
        changed = json.dumps(header).encode()
    else:
        changed = of_json(data[8 : 8 + length], random)
    size = random.choice((len(changed), len(changed), len(changed), 1 << 62, 99_999_999))
    return struct.pack("<Q", size) + changed + data[8 + length :]


STRUCTURED = {
    ".json": of_json,
    ".jsonl": of_json,
    ".npy": of_npy,
    ".npz": of_npz,
    ".safetensors": of_safetensors,
    ".checkpoint": of_safetensors,
}


def changed(name, data, random, times):
    """The bytes of a file after some changes, or others altogether."""
    if random.random() < 0.05:
        return random.choice((b"", data[: random.randrange(13)] + random.randbytes(random.randrange(300))))
    for _ in range(times):
        structured = STRUCTURED.get(Path(name).suffix)
        with contextlib.suppress(ValueError, RecursionError):  # what is no JSON any more is changed as bytes
            data = (structured if structured and random.random() < 0.7 else of_bytes)(data, random)
    return data


@dataclass(frozen=True)
class Reader:
    """Files below a folder, and what reads them.

    Attributes:
        files: good ones.
        read: folder and the name of the file that was changed to whatever is read.
        changing: names of those that are changed; all where empty.
        seal: makes sums fit what was changed, so that it is not refused for its sum alone.
    """

    files: dict[str, bytes]
    read: Callable[[Path, str], object]
    changing: tuple[str, ...] = ()
    seal: Callable[[dict[str, bytes]], None] = lambda files: None


def lines(*texts):
    return "".join(f"{text}\n" for text in texts).encode()


def as_bytes(value):
    return json.dumps(value).encode()


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def loads(spec):
    """A reader of a dataset, which also does what is done with every collection."""

    def read(folder, _):
        collection = DATASETS.configure(spec).build().load(folder)
        for name in collection.images.ids:
            assert not Path(name).is_absolute() and ".." not in Path(name).parts, name
        collection.split_sha(), collection.extras_sha(), collection.describe(), ids_sha(collection.images.ids)
        collection.images_sha(collection.images.digests(Ledger(folder / "ledger")))

    return read


def photographs(folder):
    return {f"{folder}/{name}": b"" for name in IDS}


def tokens():
    return lines(*(f"{name}#{k}\t{text}" for name, own in CAPTIONS.items() for k, text in enumerate(own)))


def flickr8k():
    texts = {
        f"Flickr_8k.{o}Images.txt": lines(*MEMBERS[s])
        for s, o in {"train": "train", "val": "dev", "test": "test"}.items()
    }
    texts["Flickr8k.token.txt"] = tokens()
    return Reader(photographs("images") | texts, loads("flickr8k"), tuple(texts))


def flickr30k(split):
    texts = {"results_20130124.token": tokens()}
    if split == "karpathy":
        images = [{"filename": n, "split": s, "sentids": [1]} for s, names in MEMBERS.items() for n in names]
        texts["dataset_flickr30k.json"] = as_bytes({"dataset": "flickr30k", "images": images})
    else:
        texts |= {f"{s}.txt": lines(*(n.removesuffix(".jpg") for n in names)) for s, names in MEMBERS.items()}
    return Reader(photographs("flickr30k-images") | texts, loads(f"flickr30k[split={split}]"), tuple(texts))


def mscoco(split):
    texts, images = {}, []
    for year, some in (("train2014", range(6)), ("val2014", range(6, 12))):
        listed = [{"id": k, "file_name": f"COCO_{year}_{k}.jpg"} for k in some]
        spoken = [{"id": 10 * k + j, "image_id": k, "caption": t} for k in some for j, t in enumerate(CAPTIONS[IDS[k]])]
        seen = [{"image_id": k, "category_id": 1 + k % 3} for k in some]
        kinds = [{"id": k, "name": f"kind {k}"} for k in (1, 2, 3)]
        texts[f"annotations/captions_{year}.json"] = as_bytes({"images": listed, "annotations": spoken})
        texts[f"annotations/instances_{year}.json"] = as_bytes(
            {"images": listed, "annotations": seen, "categories": kinds}
        )
        images += [(year, image["file_name"]) for image in listed]
    if split == "karpathy":
        splits = ["restval", "train", "train", "train", "val", "test"] * 2
        listed = [{"filename": n, "filepath": y, "split": s} for (y, n), s in zip(images, splits, strict=True)]
        texts["dataset_coco.json"] = as_bytes({"dataset": "coco", "images": listed})
    files = {f"{year}/{name}": b"" for year, name in images} | texts
    return Reader(files, loads(f"mscoco[split={split}]"), tuple(texts))


def folder(kind):
    rows = [(n, s, own) for s, names in MEMBERS.items() for n in names for own in [CAPTIONS[n]]]
    if kind == "csv":
        text = lines("image,caption,split", *(f'{n},"{t}",{s}' for n, s, own in rows for t in own))
    else:
        text = lines(*(json.dumps({"image": n, "captions": own, "split": s}) for n, s, own in rows))
    return Reader(photographs(".") | {f"captions.{kind}": text}, loads("folder"), (f"captions.{kind}",))


def precomp():
    rng, files = np.random.default_rng(0), {}
    for name, count in (("train", 4), ("dev", 2), ("test", 2)):
        files[f"{name}_ims.npy"] = saved(rng.normal(size=(count, 3, 4)).astype(np.float32))
        files[f"{name}_caps.txt"] = lines(*(f"caption {k}" for k in range(5 * count)))
    return Reader(files, loads("precomp"))


def wikipedia(kind):
    rng = np.random.default_rng(0)
    if kind == "npz":
        arrays = {"image": rng.normal(size=(12, 4)), "text": rng.normal(size=(12, 3)), "category": np.arange(12) % 2}
        arrays |= {"categories": np.array(["art", "war"]), "train": np.arange(8), "test": np.arange(8, 12)}
        arrays |= {name: np.array(IDS) for name in ("image_id", "text_id")} | {"pku_order": np.arange(4)}
        np.savez(file := io.BytesIO(), **arrays)
        return Reader({"wikipedia_sift128_lda10.npz": file.getvalue()}, loads("wikipedia"))
    arrays = {f"{k}_{s}": rng.normal(size=(n, 3)) for k in "IT" for s, n in (("tr", 8), ("te", 4))}
    savemat(file := io.BytesIO(), arrays, do_compression=kind == "compressed")
    listed = lines(*(f"{name}-1\t{name}\t{1 + k % 2}" for k, name in enumerate(IDS))).splitlines(keepends=True)
    lists = {"trainset_txt_img_cat.list": b"".join(listed[:8]), "testset_txt_img_cat.list": b"".join(listed[8:])}
    return Reader({"raw_features.mat": file.getvalue(), **lists}, loads("wikipedia"))


def features():
    rng = np.random.default_rng(0)
    shapes = {"globals": (12, 4), "regions": (12, 5, 4), "boxes": (12, 5, 4), "scores": (12, 5)}
    arrays = {name: rng.random(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["mask"] = np.ones((12, 5), bool)
    about = {"schema": SCHEMA, "dataset": "mine", "images_with": "pixels", "regions_with": "grid", "images": 12}
    about |= {"backbone": {"name": "pixels", "dim": 4}, "proposer": {"name": "grid"}, "ids_sha": ids_sha(IDS)}
    about |= {"images_sha": "0" * 64, "failed": {"3": "03.jpg"}, "seconds": 1.5}
    about["arrays"] = {n: {"shape": list(a.shape), "dtype": a.dtype.name, "sha256": "0"} for n, a in arrays.items()}
    where = "features/" + folder_name(about, about["ids_sha"], about["images_sha"])
    files = {f"{where}/{name}.npy": saved(array) for name, array in arrays.items()}

    def read(root, _):
        prepared(root)
        found = load_features(root / where, IDS)
        assert len(found.globals) == len(IDS) and all(0 <= row < len(IDS) for row in found.failed)
        found.seconds, found.label, found.fingerprint()

    return Reader(files | {f"{where}/manifest.json": as_bytes(about)}, read)


def journal():
    digests = {range(0, 6): "a" * 64, range(6, 12): "b" * 64}
    about = {"done": {"0-6": "a" * 64, "6-12": "c" * 64}, "seconds": 1.5, "failed": {"3": "it is empty"}}

    def read(root, _):
        done, seconds, failed = _Extraction._journal(SimpleNamespace(folder=root, shards=digests, skip_bad=True))
        assert {*done} <= {"0-6", "6-12"} and isinstance(seconds, float) and {*failed} <= {str(k) for k in range(12)}

    return Reader({"journal.json": as_bytes(about)}, read)


def npy_images():
    files = {"a.npy": saved(np.random.default_rng(0).normal(size=(12, 4))), "ids.txt": lines(*IDS)}

    def read(root, _):
        found = NpyImages(str(root / "a.npy"), str(root / "ids.txt"))
        assert np.isfinite(found.features(IDS)).all()
        found.identity()

    return Reader(files, read)


def captioned():
    owners = [k for k in range(len(IDS)) for _ in CAPTIONS[IDS[k]]]
    texts = [text for name in IDS for text in CAPTIONS[name]]
    return Collection("mine", FolderImages(Path(), IDS), texts, owners, {"test": [0]})


def npy_texts():
    collection = captioned()
    told = zip(collection.caption_keys(), collection.captions, strict=True)
    files = {"a.npy": saved(np.random.default_rng(0).normal(size=(24, 4))), "ids.txt": lines(*map("\t".join, told))}

    def read(root, _):
        found = NpyTexts(str(root / "a.npy"), str(root / "ids.txt"))
        assert np.isfinite(found.features(collection, np.arange(24))).all()

    return Reader(files, read)


def text_features():
    collection = captioned()
    captions_sha = sha256_json(list(collection.captions))
    about = TextManifest(encoder="npy:a.npy", identity={"name": "npy", "ids": [1, 0.5]}, captions_sha=captions_sha)
    name = about.sources_sha()[:16]

    def read(root, _):
        found = load_texts(root / f"{name}.npy", collection)
        assert len(found.array[found.rows]) == 24 and found.manifest.sources_sha()

    array = saved(np.random.default_rng(0).random((24, 4)).astype(np.float32))
    return Reader({f"{name}.npy": array, f"{name}.json": as_bytes(about.model_dump())}, read)


def vocabulary():
    def read(root, _):
        assert set(onnx_texts.SPECIAL) <= set(onnx_texts._read(root / "vocab.txt"))

    return Reader({"vocab.txt": lines(*onnx_texts.SPECIAL, "dog", "##s")}, read)


def npy_regions():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((60, 2, 2, 4)), axis=2).reshape(60, 4, 4)[:, :, [0, 1, 2, 3]]
    corners[..., :2], corners[..., 2:] = corners[..., :2] / 2, 0.5 + corners[..., 2:] / 2
    files = {
        "a.npy": saved(np.repeat(rng.normal(size=(12, 4, 3)).astype(np.float16), 5, axis=0)),
        "boxes.npy": saved(np.repeat(corners[:12], 5, axis=0)),
        "ids.txt": lines(*np.repeat(IDS, 5)),
    }

    def read(root, _):
        found = NpyRegions(*(str(root / name) for name in ("a.npy", "boxes.npy", "ids.txt")))
        assert np.isfinite(found.regions(IDS).regions).all()

    return Reader(files, read)


def vectors(kind):
    words, rng = ("dog", "cat", "red", "two", "of"), np.random.default_rng(0)
    values = rng.normal(size=(5, 4)).astype("<f4")
    if kind == "word2vec.bin":
        content = b"5 4\n" + b"".join(w.encode() + b" " + v.tobytes() for w, v in zip(words, values, strict=True))
    else:
        listed = [f"{w} " + " ".join(f"{x:.3f}" for x in v) for w, v in zip(words, values, strict=True)]
        content = lines(*(["5 4"] if kind == "word2vec.txt" else []), *listed)
    name = kind if "." in kind else f"{kind}.txt"

    def read(root, _):
        source = vector_source(f"{kind.partition('.')[0]}:{root / name}")
        found = source.open([["a", "dog", "and", "cats"]])
        assert np.isfinite(found.lookup(["dog", "cats", "nowhere"])).all()
        source.sample(found, 3, 0), source.identity()

    return Reader({name: content}, read)


ADDRESS = Address("scenes", "captions", 0, "cca:tuned", 0, "0123456789abcdef")
STEM = f"runs/{ADDRESS.stem()}"


def a_record():
    data = DataInfo(
        label="scenes",
        quick=False,
        split_sha="5" * 64,
        images=12,
        captions=24,
        front_end="pixels + boxes",
        features_sha="f" * 64,
        vectors="ppmi-svd",
    )
    method = MethodInfo(
        label="cca:tuned",
        name="cca",
        preset="tuned",
        paper_row="CCA",
        parameters={"dim": [8, 16]},
        chose={"dim": 8},
        unit="captions",
        code_sha="c" * 64,
        fit_fingerprint="d" * 64,
    )
    counts = Counts(*(np.ones(12, np.int32) for _ in range(3))), Counts(*(np.ones(24, np.int32) for _ in range(3)))
    ranks = Ranks(*counts, np.arange(24) // 2)
    record = Record(
        fingerprint=ADDRESS.fingerprint,
        data=data,
        method=method,
        protocol="captions",
        folds=0,
        seed=0,
        metrics=ranks.metrics().values(),
        ties=ranks.ties(),
        device="cpu",
        peak_memory=1,
        environment={"cpu": "a cpu"},
        seconds=Seconds(features=1, fit=2, embed=3, similarity=4, rank=5),
        started="2026-01-01T00:00:00+00:00",
        similarity=SimilarityInfo(name="cosine", kernel="torch", dtype="float32"),
        ranks_sha="",
    )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **ranks.arrays())
    record = record.model_copy(update={"ranks_sha": sha256_bytes(buffer.getvalue())}).sealed()
    return record, buffer.getvalue()


def seal(files):
    """A record that fits its ranks and its own checksum, as far as it is one."""
    with contextlib.suppress(Exception):
        record = Record.model_validate(json.loads(files[f"{STEM}.json"]))
        own = {"ranks_sha": sha256_bytes(files[f"{STEM}.npz"])}
        if own["ranks_sha"] != record.ranks_sha:  # other ranks, of which these are the figures
            with contextlib.suppress(Exception), np.load(io.BytesIO(files[f"{STEM}.npz"])) as arrays:
                ranks = Ranks.from_arrays(arrays)
                own |= {"metrics": ranks.metrics().values(), "ties": ranks.ties()}
        record = record.model_copy(update=own).sealed()
        files[f"{STEM}.json"] = canonical_json(record.model_dump()).encode()


def _answers(texts):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, i2t=np.zeros((12, 5), np.int32), t2i=texts)
    return buffer.getvalue()


def records(changing):
    made, arrays = record, _ = a_record()
    failure = Failure(
        data=record.data,
        method_label="cfa",
        protocol="mean",
        folds=0,
        seed=0,
        error="it",
        traceback="at",
        started=record.started,
        environment={},
    )
    why = {
        "scores": {"global": 0.5},
        "attention": {"words": [0.1, 0.9]},
        "boxes": [[0, 0, 1, 1]],
        "regions": [[0, 0.5]],
        "pairs": [[0, 0, 0.5]],
    }
    example = {
        "direction": "i2t",
        "image": "a",
        "text": 0,
        "found": [{"image": "a", "text": 1, "score": 0.5}],
        "why": why,
    }
    files = {
        f"{STEM}.json": canonical_json(record.model_dump()).encode(),
        f"{STEM}.npz": arrays,
        f"{STEM}.error.json": canonical_json(failure.model_dump()).encode(),
        f"{STEM}.examples.json": as_bytes({"examples": [example]}),
        f"{STEM}.answers.npz": _answers(np.zeros((24, 5), np.int32)),
        f"{STEM}.curves.csv": lines("trained,epoch,rsum", "cran,1,2.5", "cran,2,3.5"),
    }

    def read(root, name):
        store, path = ResultStore(root), root / f"{STEM}.json"
        if name.endswith(".error.json"):
            render(build_tables([], store.failures()), "markdown")
        elif name.endswith(".examples.json"):
            read_examples(path)
        elif name.endswith(".answers.npz"):
            read_answers(path, made)
        elif name.endswith(".csv"):
            read_curves(path)
        else:
            record = read_record(path)
            assert store.path_of(record).is_relative_to(store.root)
            run = store.finished(ADDRESS, record)
            assert np.isfinite(list(run.ranks.metrics().values().values())).all()
            store.find(ADDRESS), store.runs()
            render(build_tables([run], []), "csv")

    return Reader(files, read, tuple(f"{STEM}{ending}" for ending in changing), seal)


@dataclass
class Part:
    """A part that is nothing but a matrix."""

    size: int = 3

    def fit(self, train, val, run):
        self.w = torch.ones(self.size)

    def state(self):
        return {"w": self.w, "b": torch.zeros(2, 2)}

    def load(self, state):
        self.w = state["w"] + state["b"].sum()


def _stored(root):
    nothing = SimpleNamespace(unit="captions")
    return FitStore(root, {}, nothing, nothing, torch.device("cpu"))


def fits(tmp):
    part = Part()
    found = _stored(tmp).fitted(part, 0, "part")
    (path,) = tmp.glob("*.safetensors")

    def read(root, _):
        again = _stored(root).fitted(Part(), 0, "part")
        assert again.fingerprint == found.fingerprint and again.seconds >= 0
        dict(again.chose), {name: [dict(p) for p in curve] for name, curve in again.curves.items()}

    return Reader({path.name: path.read_bytes()}, read)


def checkpoints(tmp):
    path = tmp / "a.checkpoint"
    about = {"fingerprint": "f", "at": "epoch 1", "seconds": 1.5, "parts": {"p": 2.0}, "chose": {"dim": 3}}
    save_state(path, {"w": torch.ones(3)}, {**about, "curves": {"Part": [{"rsum": 1.0}]}})

    def read(root, _):
        run = LentRun(_stored(root), Part(), 0, "part", "f", root / "a.checkpoint")
        run.resume()
        assert sum(run.costs().values()) >= 0
        run._status(), run.log(rsum=1), run.chose(dim=3)

    return Reader({path.name: path.read_bytes()}, read)


def weights(tmp):
    state = {"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3)}
    torch.save(state, tmp / "a.pth")
    files = {"a.pth": (tmp / "a.pth").read_bytes(), "a.safetensors": safetensors.torch.save(state)}
    return Reader(files, lambda root, name: read_state(root / name))


def images():
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    files = {}
    for name in ("a.jpg", "a.png", "a.gif", "a.tiff", "a.webp", "a.bmp", "a.ppm"):
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        extra = {"exif": exif} if name in ("a.jpg", "a.png", "a.webp") else {}
        Image.fromarray(pixels).save(buffer, "JPEG" if name == "a.jpg" else name[2:].upper(), **extra)
        files[name] = buffer.getvalue()
    files["a.eps"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 9\n%%EndComments\n(%stdout) (w) file\nshowpage\n"
    return Reader(files, lambda root, name: open_image(root / name))


def onnx_files(whole):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    from cran_bench.frontend.catalogue import open_backbone
    from cran_bench.frontend.images.onnx import OnnxBackbone, _cut, _find_tensor
    from cran_bench.frontend.onnx_network import load_model
    from cran_bench.frontend.sidecar import sidecar_options

    rng, make, value = np.random.default_rng(0), onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Conv", ["image", "kernel"], ["conv"]),
        make("Relu", ["conv"], ["map"]),
        make("GlobalAveragePool", ["map"], ["mean"]),
        make("Flatten", ["mean"], ["pooled"]),
        make("MatMul", ["pooled", "head"], ["scores"]),
    ]
    kernel = onnx.numpy_helper.from_array(rng.normal(size=(4, 3, 1, 1)).astype(np.float32), "kernel")
    head = onnx.numpy_helper.from_array(rng.normal(size=(4, 3)).astype(np.float32), "head")
    files = {"data.bin": head.raw_data + bytes(16)}
    onnx.external_data_helper.set_external_data(head, "data.bin", 0, len(head.raw_data))
    head.ClearField("raw_data")
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [value("image", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [value("scores", onnx.TensorProto.FLOAT, ["n", 3])],
        [kernel, head],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    files |= {"a.onnx": model.SerializeToString(), "a.json": as_bytes({"size": 8, "layout": "nchw", "mean": [1, 2, 3]})}

    def read(root, _):
        for tensor in (None, "penultimate", "map"):
            with contextlib.suppress(BadInput):
                found, _ = load_model(root / "a.onnx")
                _cut(found, _find_tensor(found, tensor, "a.onnx"))
        sidecar_options(root / "a.onnx", OnnxBackbone)

    def read_whole(root, _):
        assert np.isfinite(open_backbone(f"onnx:{root / 'a.onnx'}[tensor=penultimate]").dim)

    return Reader(files, read_whole, ("a.json", "a.onnx")) if whole else Reader(files, read)


def specs():
    texts = [
        "cca",
        "cca:paper",
        "cca:tuned[dim=8|16,text=tfidf]",
        "cran:paper[margin=0.2,top=5]",
        "kcca[columns=100,unit=documents]",
        "scenes[train=600,val=60,seed=3]",
        "flickr8k:quick",
        "flickr8k[limit=100]",
        "mscoco[split=random,seed=1,captions=3]",
        "folder[file=a.csv,seed=1]",
        "ppmi-svd[dim=30,window=2,shift=2.5]",
        "glove:a.txt",
        "pixels[dim=16]",
        "mine.py:Mine[a=1]",
        "0:5",
        "0,3,7",
        "captions,documents",
        "all",
        "dcca[lr=0.001,epochs=none]",
    ]

    def read(root, name):
        text = os.fsdecode((root / name).read_bytes())
        refused = None
        asked = [parse_spec, METHODS.configure, DATASETS.configure, vector_source, parse_seeds, parse_protocols]
        asked += [lambda text: str(parse_spec(str(parse_spec(text)))), lambda text: each([text])]
        for ask in asked:
            try:
                found = ask(text)
                if ask in (METHODS.configure, DATASETS.configure):
                    found.build()
            except BadInput as error:
                refused = refused or error
        if refused:
            raise refused

    return Reader({f"{k}.spec": text.encode() for k, text in enumerate(texts)}, read)


def timings():
    row = [("1.5" if name in NUMBERS else "x") for name in COLUMNS]
    text = lines(",".join(COLUMNS), ",".join(row), ",".join(row))
    return Reader({"a-cpu.csv": text}, lambda root, _: [render_all(root, style) for style in ("csv", "markdown")])


READERS = {
    "flickr8k": lambda tmp: flickr8k(),
    "flickr30k, Karpathy": lambda tmp: flickr30k("karpathy"),
    "flickr30k, Entities": lambda tmp: flickr30k("entities"),
    "mscoco, Karpathy": lambda tmp: mscoco("karpathy"),
    "mscoco, random": lambda tmp: mscoco("random"),
    "folder, CSV": lambda tmp: folder("csv"),
    "folder, JSON lines": lambda tmp: folder("jsonl"),
    "precomp": lambda tmp: precomp(),
    "wikipedia": lambda tmp: wikipedia("mat"),
    "wikipedia, compressed": lambda tmp: wikipedia("compressed"),
    "wikipedia, npz": lambda tmp: wikipedia("npz"),
    "features": lambda tmp: features(),
    "journal": lambda tmp: journal(),
    "npy of images": lambda tmp: npy_images(),
    "npy of texts": lambda tmp: npy_texts(),
    "text features": lambda tmp: text_features(),
    "vocabulary": lambda tmp: vocabulary(),
    "npy of regions": lambda tmp: npy_regions(),
    "glove": lambda tmp: vectors("glove"),
    "word2vec, text": lambda tmp: vectors("word2vec.txt"),
    "word2vec, binary": lambda tmp: vectors("word2vec.bin"),
    "records": lambda tmp: records([".json"]),
    "ranks": lambda tmp: records([".npz"]),
    "failures, examples, curves": lambda tmp: records([".error.json", ".examples.json", ".curves.csv"]),
    "answers": lambda tmp: records([".answers.npz"]),
    "fits": fits,
    "checkpoints": checkpoints,
    "weights": weights,
    "images": lambda tmp: images(),
    "ONNX files": lambda tmp: onnx_files(whole=False),
    "ONNX backbones": lambda tmp: onnx_files(whole=True),
    "specs": lambda tmp: specs(),
    "timings": lambda tmp: timings(),
}
SHARES = {"fits": 0.3, "checkpoints": 0.5, "weights": 0.5, "ONNX files": 0.5, "ONNX backbones": 0.1, "timings": 0.5}
"""Of inputs, where it is not as much as others."""


class Hangs(BaseException):
    """Not an Exception, which a reader may catch."""


@contextlib.contextmanager
def alarm(seconds):
    def ring(*_):
        raise Hangs(f"no answer in {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def little_memory():
    """The process may grow by `MEMORY`, so that what a header claims is an error and not an allocation."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        size = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def tally():
    """What all readers were given."""
    counts = {"inputs": 0, "seconds": 0.0}
    yield counts
    if counts["inputs"]:
        pace = counts["inputs"] / counts["seconds"]
        say(f"{counts['inputs']:,} inputs in {counts['seconds']:.0f} s, {pace:.0f} a second")


@pytest.fixture
def home(tmp_path):
    """A folder in memory where there is one."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    place = memory / f"cran-bench-fuzz-{os.getpid()}"
    place.mkdir()
    yield place
    shutil.rmtree(place)


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.filterwarnings("ignore")  # a warning is no refusal
@pytest.mark.parametrize("name", READERS)
def test_it_reads_or_says_why(name, home, tmp_path, little_memory, tally, capsys):
    reader = READERS[name](tmp_path)
    names = reader.changing or tuple(reader.files)
    for file, content in reader.files.items():
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_bytes(content)
    for folder in {(home / file).parent for file in reader.files}:
        (folder / "out.jpg").symlink_to("/etc/passwd")
        (folder / "loop").symlink_to("loop")
        (folder / "folder.jpg").mkdir()
    with contextlib.suppress(BadInput) if name in ("specs", "images") else contextlib.nullcontext():
        for file in names:
            reader.read(home, file)
    found = {"read": 0, "refused": 0, "slowest": 0.0}
    share = SHARES.get(name, 1.0)
    every = sum(SHARES.get(key, 1.0) for key in READERS)
    count = math.ceil(share * (INPUTS / every if INPUTS else QUICK) / BATCH)

    def attempt(file):
        start = time.perf_counter()
        try:
            with alarm(HANGS):
                reader.read(home, file)
            found["read"] += 1
        except BadInput as error:
            found["refused"] += 1
            assert not any(isinstance(cause, MemoryError) for cause in causes(error)), "it asked for too much memory"
            assert len(str(error)) < 20_000 and str(error)
        return time.perf_counter() - start

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not INPUTS,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )
    @given(seed=st.integers(0, 2**40), times=st.integers(1, 5))
    def check(seed, times):
        for k in range(BATCH):
            try:
                one(Random(f"{seed} {k}"), times)
            except BaseException as error:
                error.add_note(f"input {k} of this seed")
                raise
        capsys.readouterr()

    def one(random, times):
        file = random.choice(names)
        files = {**reader.files, file: changed(file, reader.files[file], random, times)}
        if random.random() < 0.8:
            reader.seal(files)
        others = [key for key in files if files[key] is not reader.files[key]]
        for key in others:
            (home / key).write_bytes(files[key])
        try:
            seconds = attempt(file)
            if seconds > SLOW:
                seconds = min(seconds, attempt(file))  # a busy machine is slow once, a slow reader twice
            assert seconds < SLOW, f"{seconds:.1f} seconds"
            found["slowest"] = max(found["slowest"], seconds)
        finally:
            for key in {*others, file}:
                (home / key).write_bytes(reader.files[key])

    start = time.perf_counter()
    check()
    seconds = time.perf_counter() - start
    tally["inputs"] += found["read"] + found["refused"]
    tally["seconds"] += seconds
    total = found["read"] + found["refused"]
    if INPUTS:
        with capsys.disabled():
            about = f"{found['refused']:,} refused, {total / seconds:.0f} a second, slowest {found['slowest']:.2f} s"
            say(f"{name}: {total:,} inputs, {about}")


def _header(description="'<f8'", shape="(12, 4)", size=None, version=b"\1\0"):
    text = f"{{'descr': {description}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", size or len(text)) + text


def _packed(**arrays):
    """Ranks in which some arrays are others."""
    with np.load(io.BytesIO(a_record()[1])) as good:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{**good, **arrays})
    return buffer.getvalue()


def _record(**changes):
    return canonical_json({**a_record()[0].model_dump(), **changes}).encode().replace(b'"<1e999>"', b"1e999")


LISTED = folder("jsonl").files["captions.jsonl"].split(b"\n", 1)

FOUND = [  # before they were mended: another error than BadInput, a hang, or an allocation of what a header claims
    ("flickr8k", "Flickr8k.token.txt", b"00.jpg#" + b"9" * 5000 + b"\ta dog\n", "should end in #k"),
    ("flickr8k", "Flickr8k.token.txt", "00.jpg#١\ta dog\n".encode(), "should end in #k"),
    ("flickr8k", "Flickr_8k.trainImages.txt", b"a\0b.jpg\n", r"1 images of .* the first is a\\x00b\.jpg"),
    ("flickr8k", "Flickr_8k.trainImages.txt", b"0" * 300 + b"/a.jpg\n", "1 images of"),
    ("flickr8k", "Flickr_8k.trainImages.txt", b"loop/a.jpg\n", "1 images of"),
    ("flickr8k", "Flickr_8k.trainImages.txt", b"\x1b[2J" + b"x" * 100_000, r"is \\x1b\[2Jxxx.* \.\.\. "),
    ("flickr30k, Karpathy", "dataset_flickr30k.json", b"[" * 100_000, "cannot be read as JSON"),
    ("flickr30k, Karpathy", "dataset_flickr30k.json", b'{"images": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
    ("mscoco, random", "annotations/captions_val2014.json", b'{"images": [{"id": 1}], "annotations": [3]}', "other"),
    ("mscoco, random", "annotations/captions_val2014.json", b'{"images": [3], "annotations": [{"caption": 1}]}',
     "an image has no id or file_name"),
    ("mscoco, random", "annotations/instances_train2014.json",
     b'{"images": [1], "annotations": [{"category_id": []}], "categories": [{"id": 1, "name": "a"}]}',
     "no image_id or category_id"),
    ("mscoco, random", "annotations/instances_train2014.json",
     b'{"images": [1], "annotations": [{"category_id": 1}], "categories": [{"id": 1e999}]}', "a category has no id"),
    ("folder, CSV", "captions.csv", b'image,caption\n00.jpg,"a\n', "not valid CSV"),
    ("folder, JSON lines", "captions.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
    ("folder, JSON lines", "captions.jsonl", b'{"image": "00.jpg", "caption": "a", "split": 3}', "must be strings"),
    ("folder, JSON lines", "captions.jsonl", b'{"image": "00.jpg", "caption": "\\ud800", "split": "val"}\n' + LISTED[1],
     "contains an unpaired surrogate"),
    ("npy of images", "a.npy", _header(shape="(999999999999, 4)"), "is not a numeric .npy array"),
    ("npy of images", "a.npy", _header(shape=f"({'9' * 30},)"), "is not a numeric .npy array"),
    ("npy of images", "a.npy", _header(description="7"), "is not a numeric .npy array"),
    ("npy of images", "a.npy", _header(size=2**32 - 1, version=b"\2\0"), "its header claims 4,294,967,295 bytes"),
    ("npy of images", "ids.txt", lines(*IDS[:-1], "x" * 10_000_000), "1 of 12 images have no row"),
    ("word2vec, binary", "word2vec.bin", b"999999999999 300000000000\ndog \1", "the file ends within word 1"),
    ("word2vec, text", "word2vec.txt", b"9" * 5000 + b" 4\n", "expected the number of words and their dimension"),
    ("records", f"{STEM}.json", b"[" * 100_000, "is not a record"),
    ("records", f"{STEM}.json", _record(metrics={"rsum": "<1e999>"}), "i2t_meanr is missing"),
    ("records", f"{STEM}.json", _record(environment={"cores": "<1e999>"}), "is not a record .Out of range float"),
    ("records", f"{STEM}.json", _record(metrics={"rsum": 60.0}), r"metrics: Value error, i2t_meanr is missing"),
    ("ranks", f"{STEM}.npz", saved(np.zeros(3)), "holds no ranks"),
    ("ranks", f"{STEM}.npz", b"PK\5\6" + bytes(18), "holds no ranks"),
    ("ranks", f"{STEM}.npz", _packed(i2t_tied=np.zeros(3, np.int32)), "the counts are not those of"),
    ("ranks", f"{STEM}.npz", _packed(image_of=np.arange(24, dtype=np.int32)), "an image outside 0 to 11"),
    ("ranks", f"{STEM}.npz", _packed(i2t_tied=np.zeros(300_000)), "has 2,400,128 bytes for at most 24 numbers"),
    ("answers", f"{STEM}.answers.npz", _answers(np.zeros((999_999, 5), np.int32)), "bytes for at most 120 numbers"),
    ("answers", f"{STEM}.answers.npz", _answers(np.zeros((24, 5))), "t2i is not a list of int32"),
    ("answers", f"{STEM}.answers.npz", _answers(np.zeros(120, np.int32)), "t2i is not a list of int32"),
    ("answers", f"{STEM}.answers.npz", _answers(np.full((24, 5), 12, np.int32)), "not those of 12 images and 24 texts"),
    ("answers", f"{STEM}.answers.npz", _answers(np.zeros((23, 5), np.int32)), "not those of 12 images and 24 texts"),
    ("answers", f"{STEM}.answers.npz", b"PK\5\6" + bytes(18), "holds no answers"),
    ("weights", "a.pth", b"", "is not a state dict|cannot be read"),
    ("timings", "a-cpu.csv", lines(",".join(COLUMNS), ",".join(["9" * 500] * len(COLUMNS))), "holds no timings"),
    ("images", "a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 9\n%%EndComments\nshow\n", "cannot identify"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "file", "content", "message"), FOUND, ids=[f"{k} {f[0]}" for k, f in enumerate(FOUND)]
)
def test_what_was_found(name, file, content, message, home, tmp_path, little_memory):
    reader = READERS[name](tmp_path)
    files = {**reader.files, file: content}
    if name == "ranks":
        reader.seal(files)
    for path, data in files.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(data)
    (home / "images").mkdir(exist_ok=True)
    (home / "images" / "loop").symlink_to("loop")
    with alarm(HANGS), pytest.raises(BadInput, match=re.compile(message, re.DOTALL)) as caught:
        reader.read(home, file)
    assert not any(isinstance(cause, MemoryError) for cause in causes(caught.value))
    assert len(str(caught.value)) < 3000 and str(caught.value).replace("\n", " ").isprintable()


def test_a_cycle_in_a_network_is_no_hang(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    from cran_bench.frontend.images.onnx import _find_tensor

    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [make("Relu", ["image"], ["a"]), make("Add", ["a", "b"], ["b"]), make("Relu", ["b"], ["a"])]
    ends = ([value(name, onnx.TensorProto.FLOAT, [1])] for name in ("image", "b"))
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "network", *ends))
    with alarm(HANGS), pytest.raises(BadInput, match="has no final matrix product"):
        _find_tensor(model, "penultimate", "a.onnx")
    del model.graph.output[:]
    with pytest.raises(BadInput, match="has no output"):
        _find_tensor(model, None, "a.onnx")


@pytest.mark.parametrize("where", ["../secret.bin", "/etc/passwd", "/dev/zero"])
def test_weights_of_a_network_lie_beside_it(tmp_path, where, little_memory):
    reader = onnx_files(whole=False)
    from cran_bench.frontend.onnx_network import load_model

    (tmp_path / "in").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    content = reader.files["a.onnx"]
    import onnx

    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = where if entry.key == "location" else entry.value
    (tmp_path / "in" / "a.onnx").write_bytes(model.SerializeToString())
    with alarm(HANGS), pytest.raises(BadInput, match=f"its weights {where} are not in the same folder"):
        load_model(tmp_path / "in" / "a.onnx")


@pytest.mark.parametrize("text", ["0:999999999999", "5000000000", "9" * 5000])
def test_seeds_beyond_reason(text):
    with pytest.raises(BadInput, match="seeds"):
        parse_seeds(text)


@pytest.mark.parametrize("damage", ["a bit", "about", "nothing about"])
def test_a_fit_that_changed_is_made_again(tmp_path, capsys, damage):
    stored = _stored(tmp_path)
    stored.fitted(Part(), 0, "part")
    (path,) = tmp_path.glob("*.safetensors")
    state, about = load_state(path)
    if damage == "a bit":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "about":
        save_state(path, state, {**about, "costs": {"x": "much"}})
    else:
        path.write_bytes(safetensors.torch.save(state))
    assert not stored.fitted(Part(), 0, "part").reused
    assert f"the stored fit {path.name} is damaged" in capsys.readouterr().err
    assert stored.fitted(Part(), 0, "part").reused


def test_a_fit_that_does_not_load_is_the_fault_of_its_method(tmp_path):
    stored = _stored(tmp_path)
    stored.fitted(Part(), 0, "part")
    (path,) = tmp_path.glob("*.safetensors")
    state, about = load_state(path)
    save_state(path, {"x": state["w"]}, about)
    said = r"Part.load does not accept what state returned \(KeyError: 'w' \(.*, line \d+\)\)"
    with pytest.raises(BadInput, match=said):
        stored.fitted(Part(), 0, "part")
