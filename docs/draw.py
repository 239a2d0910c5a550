"""Draw docs/images/scenes.svg from results/scenes/captions.csv."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Draw rsum with its interval, and twin accuracy, of every tuned row."""
    rows = pd.read_csv(ROOT / "results/scenes/captions.csv")
    rows = rows[rows["method"].str.fullmatch(r"[a-z-]+:tuned(\[width=compact\])?")].sort_values("rsum")
    names = rows["method"].str.partition(":")[0]
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "scenes"})
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    recall, twins = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    off = [rows["rsum"] - rows["rsum_low"], rows["rsum_high"] - rows["rsum"]]
    recall.errorbar(rows["rsum"], names, xerr=off, fmt="o", ms=4, capsize=2, color="#00796b")
    recall.set(xlabel="rsum with 95 % interval", xlim=(0, 600))
    twins.errorbar(rows["twin_accuracy"], names, xerr=rows["twin_accuracy_sd"], fmt="o", ms=4, color="#c2571a")
    twins.axvline(50, color="grey", lw=0.8, ls=":")
    twins.set(xlabel="twin accuracy in %, ± SD over seeds", xlim=(44, 100), xticks=range(50, 101, 10))
    for axes in (recall, twins):
        axes.grid(axis="y", lw=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs/images/scenes.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
