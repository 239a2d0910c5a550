"""CRAN trained by several processes under torchrun: the losses, fits and tables of one.

The cases below are fitted by three forks of a process that runs this file and has everything imported.  They find the
environment that torchrun would have given them, and leave what they saw in a folder.
"""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cran_bench.errors import BadInput
from cran_bench.machine.environment import own_device
from cran_bench.machine.processes import ALONE, Processes, current, joined
from cran_bench.methods.cran import alignment
from cran_bench.methods.cran.alignment import Alignment
from cran_bench.methods.cran.correlation import Correlation
from cran_bench.methods.cran.model import BatchNorm
from cran_bench.methods.cran.recipe import LEVELS, PAPER, PLUS, SIZES, Sizes
from cran_bench.records.store import ResultStore
from cran_bench.registry import DATASETS
from cran_bench.running.fits import FitStore
from cran_bench.running.preparation import find_prepared
from cran_bench.specs import build
from cran_bench.toolbox.training import Training

CPU = torch.device("cpu")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SMALL = Sizes((12, 16, 24), 16, 12)
PAPER_64 = {
    **PAPER,
    "width": "compact",
    "attn_dim": 8,
    "batch_size": 9,  # batches of 8 and 9
    "max_epochs": 3,
    "clip": 5.0,
}
SCRATCH = {"caption_sampling": "random", "max_epochs": 2}
SURE = {"dropout": 0.0, "attn_dropout": 0.0}
PRETRAINED = {**PLUS, "frozen_encoder_epochs": 1, "restarts": 2, "pretraining_epochs": 1, "max_epochs": 2}
DROPPED = {**SCRATCH, "attn_dropout": 0.2, "geometry": "relations", "hard_negative_batches": 0.5}


@dataclass
class Case:
    """A training.

    Attributes:
        stops: before this epoch, in all processes.
        breaks: in a part that the first process makes by itself.
        losses: of every step.
        norms: of every step's gradient.
        seeds: of torch's own generator in every step.
    """

    fields: dict[str, Any]
    dtype: torch.dtype = torch.float32
    levels: tuple[str, ...] = LEVELS
    stops: int = 0
    breaks: bool = False
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)


CASES = {
    "breaks": Case(PRETRAINED, breaks=True),
    "paper, float64": Case(PAPER_64, torch.float64),
    "paper, float32": Case(PAPER_64),
    "three, then one": Case(PAPER_64, torch.float64, stops=2),
    "one, then three": Case(PAPER_64, torch.float64),
    "normalised": Case({**SCRATCH, **SURE, "batch_size": 9, "bucket": 1}, torch.float64),
    "pretrained": Case({**PRETRAINED, **SURE}),
    "dropout": Case(DROPPED, levels=("relation",)),
    "dropout again": Case(DROPPED, levels=("relation",)),
    "pairs": Case({**SCRATCH, **SURE, "batch_size": 2, "max_epochs": 1}, torch.float64, ("global",)),
}


def fit(case, scenes, folder, processes=ALONE):
    """Fit a case, which then knows what this process saw of it."""
    clip_grad_norm = torch.nn.utils.clip_grad_norm_

    class Watched(Training):
        def run(self, run):
            loss, batches = self.loss, self.batches

            def watched(batch):
                found = loss(batch)
                case.losses.append(float(found.detach()))
                case.seeds.append(torch.initial_seed())
                return found

            def of_epoch(epoch, generator):
                if epoch == case.stops:
                    raise BadInput("stopped")
                return batches(epoch, generator)

            self.loss, self.batches = watched, of_epoch
            return super().run(run)

    def clip(*arguments):
        norm = clip_grad_norm(*arguments)
        case.norms.append(float(norm))
        return norm

    def broken(*_):
        raise ArithmeticError("no correlation")

    case.losses, case.norms, case.seeds = [], [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "Training", Watched)
        patch.setitem(SIZES, "compact", SMALL)
        patch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
        if case.breaks:
            patch.setattr(Correlation, "fit", broken)
        torch.set_default_dtype(case.dtype)
        try:
            train, val = (scenes.split(name, "captions", CPU) for name in ("train", "val"))
            store = FitStore(folder, {}, train, val, CPU, processes=processes)
            processes.helper = store.help
            part = build(Alignment, {**case.fields, "levels": case.levels}, "cran")
            return processes.in_turn(lambda: store.fitted(part, 0, "cran"), lambda: store.stored(part, 0))
        finally:
            torch.set_default_dtype(torch.float32)


def prepared(tiny):
    return find_prepared(DATASETS.configure(tiny.spec), tiny.data, tiny.cache)


def started(*command):
    # gloo would ask the name server for this machine
    loopback = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **loopback},
    )


def main(count, spec, data, cache, folder):
    """Fit all cases in this many forks, and then one more, in which a process is lost."""
    import_module("torch._dynamo")  # which otherwise every fork would import with its first optimiser
    scenes = find_prepared(DATASETS.configure(spec), Path(data), Path(cache))
    FitStore(Path(folder), {}, scenes.split("train", "captions", CPU), None, CPU).fingerprint(Alignment(), 0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    team = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    children = []
    for number in map(str, range(int(count))):
        children.append(os.fork())
        if not children[-1]:
            os.environ |= {"TORCHELASTIC_RUN_ID": "none", "RANK": number, "LOCAL_RANK": number, **team}
            return fit_all(scenes, Path(folder))
    return int(any([os.waitpid(child, 0)[1] for child in children]))


def fit_all(scenes, folder):
    def lost(*_):
        raise MemoryError("no memory left")

    seen = {}
    with joined(CPU) as processes:
        for name, case in CASES.items():
            error = ""
            try:
                fit(case, scenes, folder / name, processes)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
            seen[name] = {"losses": case.losses, "norms": case.norms, "seeds": case.seeds, "error": error}
        (folder / f"process{processes.number}.json").write_text(json.dumps(seen))
        if processes.number == 1:
            processes.gather = lost
        fit(Case(SCRATCH), scenes, folder / "lost", processes)


@pytest.fixture(scope="module")
def by_three(prepared_scenes, tmp_path_factory):
    """The cases, fitted by three processes, where one alone had begun `one, then three`.

    Returns:
        The folder, {case: [what each process saw of it]}, the losses of the beginning, and how all ended.
    """
    folder = tmp_path_factory.mktemp("fits")
    begun = Case(PAPER_64, torch.float64, stops=3)
    with pytest.raises(BadInput, match="stopped"):
        fit(begun, prepared(prepared_scenes), folder / "one, then three")
    done = started(__file__, 3, prepared_scenes.spec, prepared_scenes.data, prepared_scenes.cache, folder)
    files = [folder / f"process{number}.json" for number in range(3)]
    assert all(file.exists() for file in files), done.stderr
    seen = [json.loads(file.read_text()) for file in files]
    return folder, {name: [each[name] for each in seen] for name in CASES}, begun.losses, done


@pytest.fixture(scope="module")
def by_one(prepared_scenes, tmp_path_factory):
    """``by_one(name)``: the losses and the fit of one process."""
    folder, known, scenes = tmp_path_factory.mktemp("alone"), {}, prepared(prepared_scenes)

    def call(name):
        if name not in known:
            case = replace(CASES[name])
            known[name] = case, fit(case, scenes, folder / name)
        return known[name]

    return call


def far(losses, others):
    assert len(losses) == len(others)
    return float(np.abs(np.array(losses) - np.array(others)).max())


@pytest.mark.no_cover
@pytest.mark.parametrize(("name", "tolerance"), [("paper, float64", 1e-5), ("paper, float32", 1e-3)])
def test_losses_are_those_of_one_process(by_three, by_one, name, tolerance):
    _, seen, *_ = by_three
    alone, _ = by_one(name)
    assert len(alone.losses) == 3 * 7
    for process in seen[name]:
        assert process["error"] == "" and far(process["losses"], alone.losses) < tolerance
        assert far(process["norms"], alone.norms) < tolerance  # RMSprop itself would not mind a factor


@pytest.mark.no_cover
def test_losses_would_tell_a_network_that_stays_as_it_is(by_one, prepared_scenes, tmp_path):
    still = Case({**PAPER_64, "lr": 1e-12}, torch.float64)
    fit(still, prepared(prepared_scenes), tmp_path)
    assert far(still.losses, by_one("paper, float64")[0].losses) > 0.1


@pytest.mark.no_cover
def test_the_fit_is_readable_and_the_same(by_three, by_one, prepared_scenes):
    folder, *_ = by_three
    _, one = by_one("paper, float64")
    two = fit(CASES["paper, float64"], prepared(prepared_scenes), folder / "paper, float64")
    assert two.reused and two.fingerprint == one.fingerprint
    assert two.chose["epoch"] == one.chose["epoch"]
    for key, value in one.part.state().items():
        torch.testing.assert_close(two.part.state()[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.no_cover
def test_a_checkpoint_of_three_processes_is_taken_up_by_one(by_three, by_one, prepared_scenes):
    folder, seen, *_ = by_three
    assert [each["error"] for each in seen["three, then one"]] == [
        "BadInput: stopped",
        *2 * ["LeaderFailed: BadInput: stopped"],
    ]
    rest = Case(PAPER_64, torch.float64)
    fit(rest, prepared(prepared_scenes), folder / "three, then one")
    assert len(rest.losses) == 2 * 7
    assert far(seen["three, then one"][0]["losses"] + rest.losses, by_one("paper, float64")[0].losses) < 1e-5


def test_a_checkpoint_of_one_process_is_taken_up_by_three(by_three, by_one):
    _, seen, begun, _ = by_three
    for process in seen["one, then three"]:
        assert len(process["losses"]) == 7
        assert far(begun + process["losses"], by_one("paper, float64")[0].losses) < 1e-5


@pytest.mark.no_cover
def test_batch_normalisation_is_of_the_whole_batch(by_three, by_one, prepared_scenes):
    folder, seen, *_ = by_three
    alone, one = by_one("normalised")
    assert far(seen["normalised"][0]["losses"], alone.losses) < 1e-8
    two = fit(CASES["normalised"], prepared(prepared_scenes), folder / "normalised")
    running = [key for key in one.part.state() if "running" in key]
    assert two.reused and len(running) == 2 * 3 * 3
    for key in running:
        torch.testing.assert_close(two.part.state()[key], one.part.state()[key], rtol=1e-8, atol=1e-8)


@pytest.mark.no_cover
def test_parts_of_the_first_process_and_frozen_encoders(by_three, by_one):
    """CCA and pretraining are done by one, restarts are tried by all, and some weights have no gradient at first."""
    folder, seen, *_ = by_three
    alone, _ = by_one("pretrained")
    assert far(seen["pretrained"][1]["losses"], alone.losses) < 1e-3
    stored = sorted(path.name.partition("-")[0] for path in (folder / "pretrained").glob("*.safetensors"))
    assert stored == ["alignment", "correlation", "pretrainedencoder"]


def test_processes_drop_out_by_themselves_and_the_same_again(by_three):
    _, seen, *_ = by_three
    first, *others = seen["dropout"]
    assert all(each["losses"] == first["losses"] for each in others)
    assert len({seed for each in seen["dropout"] for seed in each["seeds"]}) == 6  # two epochs, three processes
    assert seen["dropout again"][0]["losses"] == first["losses"]


def test_a_failure_of_the_first_process_is_everyones(by_three):
    _, seen, *_ = by_three
    assert [each["error"] for each in seen["breaks"]] == [
        "ArithmeticError: no correlation",
        *2 * ["LeaderFailed: ArithmeticError: no correlation"],
    ]


@pytest.mark.no_cover
def test_a_batch_of_fewer_pairs_than_processes(by_three, by_one):
    _, seen, *_ = by_three
    alone, _ = by_one("pairs")
    for process in seen["pairs"]:
        assert far(process["losses"], alone.losses) < 1e-8


def rows(text):
    return [line.split()[:8] for line in text.splitlines() if line.startswith(("cca", "cran"))]


@pytest.mark.no_cover
def test_torchrun_makes_one_record_and_the_same_table(command, quick_scenes, tmp_path):
    # Without normalisation: the bias before it has a gradient of rounding errors alone, which Adam takes for a sign.
    cran = "cran-ensemble:quick[dropout=0,conv_bn=false,max_epochs=1,caption_sampling=random]"  # with two seeds
    methods = ("-m", f"{cran},cca")
    found = {}
    for name in ("two", "one"):
        common = ("run", *quick_scenes.arguments, *methods, "--results", tmp_path / name)
        fits = ("--cache", tmp_path / "cache", "--force")
        if name == "two":
            done = started(*TORCHRUN, "-m", "cran_bench", *common, *fits)
            assert done.returncode == 0, done.stderr
            table, said = done.stdout, done.stderr
            assert said.count("[1/2]") == said.count("[2/2]") == said.count("records: ") == 1
        else:
            table = command(*common, *fits).out
        records = [run.record for run in ResultStore(tmp_path / name).runs()]
        assert len(records) == 2
        found[name] = rows(table), {record.fingerprint for record in records}
        assert {record.environment["processes"] for record in records} == {2 if name == "two" else 1}
    assert found["two"] == found["one"]


def test_a_process_that_fails_ends_the_run(by_three):
    *_, done = by_three
    assert done.returncode != 0
    assert "process 1 of 3 failed during distributed training (MemoryError: no memory left)" in done.stderr


def test_rows_are_shared_out():
    for rows, shares in ((7, [3, 2, 2]), (3, [1, 1, 1]), (9, [3, 3, 3])):
        team = [Processes(number, 3) for number in range(3)]
        assert team[0].shares(rows) == shares
        assert [row for each in team for row in range(rows)[each.mine(rows)]] == list(range(rows))
        assert team[0].among(rows) is team[0]
    assert team[0].among(2) is ALONE


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("cran_bench.machine.environment.pick_device", torch.device)
    assert own_device("cuda") == torch.device("cuda")
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "x"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_WORLD_SIZE", "4"),
        ("LOCAL_RANK", "2"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own_device("cuda") == torch.device("cuda:2") and own_device("cpu") == CPU
    for name, gpus in (("cuda:1", 4), ("cuda", 3)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        with pytest.raises(BadInput, match=f"torchrun started 4 processes here.* torch finds {gpus}: use --device"):
            own_device(name)


def test_one_process_is_as_if_there_were_none():
    x = torch.rand(3, 2)
    assert current() is ALONE and ALONE.gather(x, 3) is x and ALONE.mine(3) == slice(0, 3)
    norm, plain = BatchNorm(2), torch.nn.BatchNorm2d(2)
    torch.testing.assert_close(norm(x.T[None, :, None]), plain(x.T[None, :, None]), rtol=0, atol=0)
    with joined(CPU) as processes:
        assert processes is ALONE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
