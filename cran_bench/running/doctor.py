"""Check records, features and fits for leftovers of interrupted runs, damaged files and missing companion files.

No measurement is deleted: untrustworthy files are set aside, and the next run regenerates them.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cran_bench.errors import BadInput
from cran_bench.frontend.features import MANIFEST, UNFINISHED, read_manifest
from cran_bench.frontend.text.encoding import FOLDER, read_text_manifest
from cran_bench.frontend.trained_on import described, noted
from cran_bench.machine.storage import clear_os_errors, is_abandoned, is_locked, sha256_file
from cran_bench.machine.tensor_files import require_intact
from cran_bench.records.archive import read_answers, read_curves, read_examples, read_ranks, read_record
from cran_bench.records.schema import ANSWERS, CURVES, ERROR, EXAMPLES
from cran_bench.records.store import ResultStore

ASIDE = "set-aside"
AT_LENGTH = 5  # number of files of which the same is said one by one


@dataclass(frozen=True)
class Complaint:
    """Something wrong with a file.

    Attributes:
        path: the file, or the folder of damaged features.
        what: what is wrong, in a sentence.
        home: the folder of results, or the cache.
        is_litter: whether the file may be deleted; otherwise it is set aside.
    """

    path: Path
    what: str
    home: Path
    is_litter: bool = False


def gathered(lines: Iterable[tuple[Path, str]]) -> Iterator[str]:
    """Yield lines about files; more than `AT_LENGTH` that say the same of files of one kind become one with a count."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, line in lines:
        kind = re.sub(r"\(.*\)|\S*[./]\S*|\d+", "", line.replace(str(path), ""), flags=re.DOTALL)
        alike[kind, path.suffix].append(line)
    for same in alike.values():
        yield from same if len(same) <= AT_LENGTH else [f"{same[0]}; and {len(same) - 1:,} more files alike"]


def examine_results(results: Path) -> Iterator[Complaint]:
    """Yield everything that is wrong below ``results/runs``."""
    root = ResultStore(results).root
    for path in sorted(root.rglob("*")):
        if path.suffix == ".part":
            yield from _examine_temporary(path, results)
        elif path.name.endswith(ERROR):
            if path.with_name(path.name.removesuffix(ERROR) + ".json").exists():
                yield Complaint(path, "an error of a run that has finished since", results, is_litter=True)
        elif path.suffix == ".json" and not path.name.endswith(EXAMPLES):
            yield from _examine_record(path, results)
        elif path.suffix in (".npz", ".csv", ".json") and not _record_of(path).exists():
            yield Complaint(path, f"its record {_record_of(path).name} is missing", results)


def count_provenance(results: Path, bad: Container[Path]) -> str:
    """A sentence on how many records other code than the present one measured, and how many uncommitted changes.

    Code is other code if it could give other numbers.  Records at the paths `bad` are not counted.
    """
    from cran_bench.running.present import is_by_present_code  # which imports torch

    records = [run.record for run in ResultStore(results).runs(damaged={}) if run.path not in bad]
    commits = [str(record.environment.get("commit")) for record in records]
    return (
        f"records: {len(records)}; commits: {len(set(commits))}; by other code than the present: "
        f"{sum(not is_by_present_code(record) for record in records)}; "
        f"with uncommitted changes: {sum(commit.endswith('+') for commit in commits)}"
    )


def on_features(cache: Path) -> Iterator[str]:
    """Yield a line on all finished features: how they were made, and what the encoders were trained on."""
    for path in _finished(cache):
        with suppress(BadInput):  # which is a complaint
            if path.suffix == ".npy":
                made = read_text_manifest(path)
                yield f"text features {path.stem} by {made.encoder}: {described({'text': made.trained_on})}"
            else:
                manifest = read_manifest(path)
                label = f"{manifest['dataset']}: {manifest['images_with']} + {manifest['regions_with']}"
                yield f"features {path.name} of {label}: {described(noted(manifest))}"


def _finished(cache: Path) -> list[Path]:
    """The folders of finished features of images, and the files of those of texts."""
    images = [path.parent for path in sorted((cache / "features").glob(f"*/{MANIFEST}"))]
    found = [*images, *sorted((cache / FOLDER).glob("*.npy"))]
    return [path for path in found if not path.name.startswith(UNFINISHED)]


def examine_cache(cache: Path) -> Iterator[Complaint]:
    """Yield everything that is wrong with features and fits, except those that are being written or can be resumed."""
    for path in _finished(cache):
        if is_locked(path):
            continue
        try:
            if path.suffix == ".npy":
                digests = {path: read_text_manifest(path).sha256}
            else:
                arrays = read_manifest(path)["arrays"].items()
                digests = {path / f"{name}.npy": about["sha256"] for name, about in arrays}
            for file, digest in digests.items():
                if sha256_file(file) != digest:
                    raise BadInput(f"{file.name} was changed after it was written (its checksum does not match)")
        except BadInput as error:
            yield Complaint(path, str(error), cache)
    for path in sorted((cache / "fits").glob("*")):
        if path.suffix == ".checkpoint" and path.with_suffix(".safetensors").exists():
            yield Complaint(path, "a checkpoint of a fit that has finished since", cache, is_litter=True)
        elif path.suffix in (".safetensors", ".checkpoint"):
            try:
                require_intact(path)
            except Exception as error:  # safetensors raises many kinds for a damaged file
                yield Complaint(path, f"it is not a usable fit ({error})", cache)
    for path in sorted(cache.rglob(".*.part")):
        yield from _examine_temporary(path, cache)


def cure(complaints: list[Complaint]) -> Iterator[tuple[Path, str]]:
    """Delete litter and move the rest below ``set-aside`` in the same folder of results or cache; yield a line on each.

    Raises:
        BadInput: the folder cannot be written.
    """
    for complaint in complaints:
        path, home = complaint.path, complaint.home
        with clear_os_errors(path):
            if complaint.is_litter:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                yield path, f"deleted {path}: {complaint.what}"
            else:
                aside = home / ASIDE / path.relative_to(home)
                aside.parent.mkdir(parents=True, exist_ok=True)
                if aside.is_dir():
                    shutil.rmtree(aside)  # from an earlier repair
                path.replace(aside)
                yield path, f"set aside {path}: {complaint.what}"


def _examine_temporary(path: Path, home: Path) -> Iterator[Complaint]:
    if is_abandoned(path):
        yield Complaint(path, "an interrupted write", home, is_litter=True)


def _examine_record(path: Path, results: Path) -> Iterator[Complaint]:
    """Check a record and its companion files; if the record is bad, they are set aside with it."""
    try:
        record = read_record(path)
        read_ranks(path, record, correlations=True)
        if not path.stem.endswith(f"-s{record.seed}-{record.fingerprint[:12]}"):
            raise BadInput(f"{path} has the file name of another run")
    except BadInput as error:
        yield Complaint(path, str(error), results)
        beside = [path.with_name(path.stem + ending) for ending in (".npz", EXAMPLES, ANSWERS, CURVES)]
        yield from (Complaint(other, f"it belongs to {path.name}", results) for other in beside if other.exists())
        return
    companions = (read_curves, CURVES), (read_examples, EXAMPLES), (partial(read_answers, record=record), ANSWERS)
    for read, ending in companions:
        try:
            read(path)
        except BadInput as error:
            yield Complaint(path.with_name(path.stem + ending), str(error), results)


def _record_of(path: Path) -> Path:
    """The path of the record to which a file beside it belongs."""
    endings = (EXAMPLES, ANSWERS, CURVES)
    stem = next((path.name.removesuffix(end) for end in endings if path.name.endswith(end)), path.stem)
    return path.with_name(stem + ".json")
