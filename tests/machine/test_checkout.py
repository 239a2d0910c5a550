"""What a record says of the code that made it."""

import subprocess

import pytest

from cran_bench.machine import checkout
from cran_bench.machine.checkout import commit


@pytest.fixture
def module(tmp_path):
    """The file of `checkout` in a checkout with nothing committed."""
    path = tmp_path / "cran_bench" / "machine" / "checkout.py"
    path.parent.mkdir(parents=True)
    path.write_text("")
    return path


@pytest.fixture
def git(tmp_path):
    """``git("add", ".")``: what git says in that checkout."""

    def call(*arguments):
        about = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *about, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return call


def test_the_commit_of_a_checkout_and_whether_it_was_changed(module, git):
    assert commit(str(module)) is None
    git("init", "-q")
    assert commit(str(module)) is None
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit(str(module)) == head[:12]
    module.write_text("changed")
    assert commit(str(module)) == head[:12] + "+"
    git("checkout", "-q", ".")
    module.with_name("new.py").write_text("")
    assert commit(str(module)) == head[:12] + "+"
    assert checkout.__file__.endswith("cran_bench/machine/checkout.py")  # two folders below the checkout


def test_records_and_documentation_are_no_code(module, git, tmp_path):
    """Records may be committed between two runs, which are of one code all the same."""
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "code")
    code = git("rev-parse", "HEAD")[:12]
    for name in ("results/reference/runs/a.json", "docs/page.md"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
        assert commit(str(module)) == code
        git("add", ".")
        git("commit", "-q", "-m", "a record")
        assert commit(str(module)) == code != git("rev-parse", "HEAD")[:12]
