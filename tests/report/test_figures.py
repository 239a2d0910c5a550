"""Figures for papers: marks where the numbers are, names as they are, the same bytes, and fonts that can be edited."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from invented import as_printed, made, stored, tabled
from recorded import data_of, store_run

from cran_bench.cli.options import load_tables
from cran_bench.comparison.with_paper import PRESETS
from cran_bench.errors import BadInput
from cran_bench.report.figures import MARKS, paper_figure, write_figures
from cran_bench.report.paper import same_data
from cran_bench.tables.paper import paper_rows

SVG = {"svg": "http://www.w3.org/2000/svg"}
NAMES = ["scores:$a_b$<i>&.npy", "scores:כלב.npy", "cca:tuned[text=vectors]"]


def of_other_methods():
    """Three rows that reproduce none of the paper, the last of which is fitted the fastest."""
    runs = [made("cca:tuned", np.array([30, 60, 75, 20, 45, 60]) - 9 * k, data="scenes", images=100) for k in range(3)]
    for k, (record, ranks) in enumerate(runs):
        method = record.method.model_copy(update={"label": NAMES[k], "paper_row": None})
        seconds = record.seconds.model_copy(update={"fit": 10.0 ** (2 - 2 * k)})
        yield record.model_copy(update={"method": method, "seconds": seconds}), ranks


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder, tables = tmp_path_factory.mktemp("figures"), tabled([*of_other_methods()], [])
    return tables, write_figures(tables, folder)


def texts_of(file):
    return [element.text for element in ElementTree.parse(file).iterfind(".//svg:text", SVG)]


def test_marks_are_where_the_numbers_are(drawn):
    (table,), files = drawn
    file = next(file for file in files if file.name == "scenes-documents-recall-rsum.svg")
    root = ElementTree.parse(file).getroot()
    texts = {element.text: element for element in root.iterfind(".//svg:text", SVG)}
    scale = [(float(text), float(element.get("x"))) for text, element in texts.items() if text.isdecimal()]
    slope, start = np.polyfit(*zip(*scale, strict=True), 1)
    names = [element for element in texts.values() if element.text.startswith(("scores", "cca", "[text"))]
    assert "".join(element.text for element in names) == "".join(row.label for row in table.rows)
    of_rows = root.findall(".//svg:g[@id='axes_1']/svg:g", SVG)
    lines = [group for group in of_rows if group.get("id").startswith("line2d")]
    whiskers, marks = lines[: 2 * len(table.rows) : 2], lines[1 : 2 * len(table.rows) : 2]
    marks = [use for line in marks for use in line.iterfind(".//svg:use", SVG)]
    ends = [re.findall(r"[ML] ([\d.]+)", line.find("svg:path", SVG).get("d")) for line in whiskers]
    assert len(marks) == len(ends) == len(table.rows)
    for row, mark, (low, high) in zip(table.rows, marks, ends, strict=True):
        interval = table.samples[row.label].interval("rsum")
        for at, value in ((mark.get("x"), row.mean("rsum")), (low, interval.low), (high, interval.high)):
            assert float(at) == pytest.approx(start + slope * value, abs=0.05)


def test_names_are_shown_as_they_are_and_those_on_the_front_are_listed(drawn):
    seconds = next(file for file in drawn[1] if file.name.endswith("seconds.svg"))
    text = " ".join(texts_of(seconds))
    assert "fast to good: cca:tuned [text=vectors], scores:כלב.npy, scores:$a_b$<i>&.npy" in text and "10 s" in text
    assert "mathtext" not in seconds.read_text() and "&lt;i&gt;&amp;" in seconds.read_text()


def test_fonts_are_embedded_as_truetype_and_nothing_is_dated(drawn):
    for file in drawn[1]:
        data = file.read_bytes()
        assert not re.search(rb"Date|Creator|Producer|\d\d:\d\d:\d\d", data)
        if file.suffix == ".pdf":
            assert b"/CIDFontType2" in data and b"/FontFile2" in data and b"/Type3" not in data
            assert re.search(rb"/MediaBox \[ 0 0 237\.6 ", data)


def test_the_bytes_are_the_same_every_time(drawn, tmp_path):
    files = drawn[1]
    with mpl.rc_context({"axes.grid": True, "font.size": 20}):
        again = write_figures(tabled([*of_other_methods()], []), tmp_path)
    assert [file.name for file in again] == [file.name for file in files] and len(files) == 4
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


def test_the_papers_table_is_drawn_as_printed_and_as_measured():
    runs = [run for run in as_printed(corr_ae=25.0) if run[0].method.name in ("cca", "corr-ae", "gmm-hglmm")]
    (data,) = same_data(tabled(runs, []))
    rows = [data.cells(row, PRESETS[0]) for row in paper_rows(1)]
    figure = paper_figure(rows, data)
    for place, axes in enumerate(figure.axes):
        points = [line for line in axes.lines if len(line.get_xdata()) == 1]
        printed = {line.get_ydata()[0]: line.get_xdata()[0] for line in points if line.get_marker() == "|"}
        measured = {line.get_ydata()[0]: line for line in points if line.get_marker() != "|"}
        assert printed == {at: cells[place].value for at, cells in enumerate(rows)}
        assert [*measured] == [at for at, cells in enumerate(rows) if cells[place].measured] and len(measured) == 3
        for at, line in measured.items():
            cell = rows[at][place]
            assert line.get_xdata()[0] == cell.measured.value and line.get_marker() == MARKS[cell.verdict]["marker"]
    assert {line.get_marker() for line in figure.axes[0].lines} >= {"x", "o", "|"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-f", "svg,png"], "figures are written as svg or pdf, not as 'png'"),
        (["-d", "flickr8k"], "there are no records of flickr8k"),
    ],
)
def test_what_cannot_be_drawn(command, tmp_path, arguments, sentence):
    results = stored(tmp_path / "results", [made("cca:tuned", [20, 40, 50] * 2, data="scenes", images=20)])
    said = command("export", "figures", tmp_path / "figures", *arguments, "--results", results)
    assert said.code == 2 and sentence in said.sentence and not (tmp_path / "figures").exists()


def test_failed_rows_alone_give_no_figure(tmp_path):
    with pytest.raises(BadInput, match="no table has a row"):
        write_figures([], tmp_path)


def test_the_names_of_files_are_of_limited_length(tmp_path):
    store_run(tmp_path, "cca:tuned", data=data_of("d" * 240))
    files = write_figures(load_tables(tmp_path), tmp_path / "figures", ["svg"])
    assert any("paper" in file.name for file in files) and all(file.exists() for file in files)
