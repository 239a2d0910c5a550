"""What a record says of the code that made it."""

import subprocess

from cran_bench.machine import checkout
from cran_bench.machine.checkout import commit


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path):
    module = tmp_path / "cran_bench" / "machine" / "checkout.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    assert commit(str(module)) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert commit(str(module)) == head[:12]
    module.write_text("changed")
    assert commit(str(module)) == head[:12] + "+"
    assert checkout.__file__.endswith("cran_bench/machine/checkout.py")  # two folders below the checkout
