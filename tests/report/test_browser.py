"""The page in a browser: no complaint, no request, nothing cut, usable by keyboard and screen reader."""

import math
import os
import shutil
from urllib.parse import quote

import numpy as np
import pytest
from pages import page_of, routes_of, write_example
from recorded import FOLDERS, make_results

from cran_bench.cli.options import load_tables
from cran_bench.records.tasks import TASKS
from cran_bench.report.contents import table_ids

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra browser")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ALL = [(width, scheme) for width in (1280, 768, 390) for scheme in ("light", "dark")]
LOOKS = ALL if os.environ.get("CRAN_BENCH_LOOKS") else [(390, "dark")]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")

CUT = """
() => [...document.querySelectorAll("main *")].filter(element => {
  const style = getComputedStyle(element);
  const hides = ["hidden", "clip"].includes(style.overflowX) || style.textOverflow === "ellipsis";
  return hides && !element.classList.contains("unseen") && element.scrollWidth > element.clientWidth + 1;
}).map(element => element.outerHTML.slice(0, 200))
"""
OVERLAPPING = """
() => {
  const found = [...document.querySelectorAll("main svg text")];
  const texts = found.map(one => [one.textContent, one.getBoundingClientRect()]);
  const beside = (a, b) => a.right < b.left + 1 || b.right < a.left + 1;
  const apart = (a, b) => beside(a, b) || a.bottom < b.top + 1 || b.bottom < a.top + 1;
  const touching = ([, a], others) => others.filter(([, b]) => !apart(a, b)).map(([name]) => name);
  return texts.map((one, place) => [one[0], touching(one, texts.slice(place + 1))]).filter(([, some]) => some.length);
}
"""

STRIPS = """
rows => rows.map(row => [row.querySelector(".name").textContent,
  [...row.querySelectorAll(".point")].map(one => parseFloat(one.style.left)), row.querySelector(".value").textContent])
"""
SPOTS = """
marks => marks.map(mark => [mark.textContent.split(": ")[0], ...mark.getAttribute("transform").match(/[-\\d.]+/g)])
"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def example(_recorded_scenes, tmp_path_factory):
    return write_example(tmp_path_factory.mktemp("page"), _recorded_scenes)


@pytest.fixture
def opened(browser):
    """Opens an address in a window of some width and colours; complaints and requests to elsewhere fail the test."""
    contexts, complaints = [], []

    def open_at(address, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url))
        page.goto(address)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_view_is_whole_and_accessible(opened, example, width, scheme):
    require_whole(opened(example.page.as_uri(), width, scheme), example.routes, width)


def require_whole(page, routes, width):
    for route in routes:
        page.evaluate("route => { location.hash = route; }", route)
        page.wait_for_timeout(150)
        assert page.locator("h1").count() == 1, route
        assert page.locator("h1").inner_text() not in ("Not found", "There is no such page"), route
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, f"{route} is wider than {width} pixels"
        assert page.evaluate(CUT) == [], route
        assert page.evaluate(OVERLAPPING) == [], route
        broken = page.evaluate("[...document.images].filter(image => image.complete && !image.naturalWidth).length")
        assert broken == 0, route
        found = axe.Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == [], route


def test_a_folder_loads_its_details_from_files(opened, example):
    page = opened(example.folder.as_uri() + example.routes[1])
    page.wait_for_selector(".answer")
    count = (
        "Promise.all(site.tables.map(table => details(table.details.curves))).then(all => all.filter(Boolean).length)"
    )
    assert page.evaluate(count) > 0


def test_the_address_holds_the_state(opened, example):
    page = opened(example.page.as_uri())
    page.locator(".filters").get_by_label("Protocol").select_option("documents")
    assert "protocol=documents" in page.url
    rows = page.locator("main table").first.locator("tbody tr").count()
    again = opened(page.url)
    assert again.locator(".filters").get_by_label("Protocol").input_value() == "documents"
    assert again.locator("main table").first.locator("tbody tr").count() == rows


def test_headings_sort_and_columns_are_chosen_by_keyboard(opened, example):
    page = opened(example.page.as_uri() + example.routes[1])
    table = page.locator("table.data").first
    heading = table.locator("th[data-name=i2t_r1] button")
    read = "cells => cells.map(cell => parseFloat(cell.innerText))"
    values = []
    for _ in range(2):
        heading.focus()
        page.keyboard.press("Enter")
        values.append(table.locator("tbody td[data-name=i2t_r1]").evaluate_all(read))
    assert values[0] == sorted(values[0], reverse=True) and values[1] == values[0][::-1]
    assert table.locator("th[data-name=i2t_r1]").get_attribute("aria-sort") == "ascending"
    page.locator(".chooser summary").first.focus()
    page.keyboard.press("Enter")
    box = page.locator(".chooser").first.get_by_label("MedR")
    shown = table.locator("th[data-name=medr]").is_visible()
    box.focus()
    page.keyboard.press("Space")
    assert table.locator("th[data-name=medr]").is_visible() is not shown
    assert "columns=" in page.url


def test_the_first_tab_skips_to_the_results(opened, example):
    page = opened(example.page.as_uri())
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("kind", FOLDERS if LOOKS == ALL else ["markup"])
def test_no_records_are_too_odd(opened, tmp_path, kind):
    results = make_results(tmp_path / "results", kind)
    made = page_of(results, tmp_path, tmp_path / "cache", tmp_path / "page.html")
    assert made.stat().st_size < 5_000_000
    page = opened(made.as_uri(), 390)
    assert page.evaluate("performance.getEntriesByType('navigation')[0].domComplete") < 1000
    assert page.locator("main table tbody tr").count() > 0
    routes = routes_of(load_tables(results, [], [], [], *TASKS))
    require_whole(page, routes if LOOKS == ALL else routes[:3], 390)


def test_the_papers_numbers_are_drawn_where_they_are(opened, example):
    page = opened(example.page.as_uri() + next(route for route in example.routes if "on=" in route))
    paper = page.evaluate("site.paper")
    (section,) = (one for one in paper["tables"] if one["number"] == 1)
    (data,) = (one for one in paper["sets"] if f"on={one['id']}&" in page.url)
    found = 0
    for place, figure in enumerate(paper["figures"]):
        name = "{} R@{}".format(*figure.split("_r"))
        strips = page.get_by_label(f"{name}, {section['title']}", exact=True).locator(".strip:not(.axis)")
        drawn = strips.evaluate_all(STRIPS)
        for printed, (label, marks, text) in zip(section["rows"], drawn, strict=True):
            row, value = data["rows"].get(f"tuned matching {printed['name']}"), printed["values"][place]
            wanted = [value] if row is None else [value, row["measured"][place][0]]
            assert label == printed["name"] and marks == pytest.approx(wanted, abs=0.006)
            assert text.startswith(f"{value:.1f} ") and text.endswith("not comparable" if row else "not measured")
            found += row is not None
    assert found == 12 and page.locator(".dots .glyph.filled").count() == 0
    assert "measured on scenes, but the paper's numbers are of Flickr-30K" in page.locator("main").inner_text()


def test_quality_and_cost_are_drawn_where_they_are(opened, example):
    page = opened(example.page.as_uri() + example.routes[1])
    page.wait_for_selector(".drawing svg .mark")
    rows = page.evaluate("tableOf(route().parts[0]).rows.filter(row => typeof row.value === 'number')")
    marks = page.locator(".drawing").first.locator(".mark")
    drawn = {label: (float(x), float(y)) for label, x, y, *_ in marks.evaluate_all(SPOTS)}
    assert drawn.keys() == {row["label"] for row in rows} and len(rows) >= 3
    points = np.array([(math.log(row["seconds"]["fit"]), row["value"], *drawn[row["label"]]) for row in rows])
    for value, at, rises in ((0, 2, 1), (1, 3, -1)):
        line = np.polyfit(points[:, value], points[:, at], 1)
        np.testing.assert_allclose(points[:, at], np.polyval(line, points[:, value]), atol=0.2)
        assert rises * line[0] > 0
    beaten = [any(a <= cost and b > quality for a, b, *_ in points) for cost, quality, *_ in points]
    best = {row["label"] for row, worse in zip(rows, beaten, strict=True) if not worse}
    filled = page.locator(".drawing").first.locator(".mark.filled").evaluate_all(SPOTS)
    assert {label for label, *_ in filled} == best
    listed = page.locator("figure .notes").first.locator("a").all_inner_texts()
    assert {*listed} == best


def test_what_one_found_and_another_missed(opened, example):
    """The counts are those of the ranks, the address reopens what was chosen, and the answers are marked."""
    tables = load_tables(example.page.parent / "results")
    name, table = next((name, t) for name, t in zip(table_ids(tables), tables, strict=True) if len(t.finished) > 2)
    a, b = (row.runs[0].ranks.t2i.ranks() for row in table.finished[:2])
    page = opened(example.folder.as_uri() + f"#/queries/{quote(name, safe='')}")
    buttons = page.locator(".sums button")
    buttons.first.wait_for()
    counts = [int(text) for text in buttons.all_inner_texts()]
    assert counts == [n for k in (1, 5, 10) for n in (((a <= k) & (b > k)).sum(), ((b <= k) & (a > k)).sum())]
    buttons.nth(2).press("Enter")
    only = np.flatnonzero((a <= 5) & (b > 5))
    assert page.locator(".list li").count() == min(50, len(only)) and "first=5" in page.url
    assert page.get_by_role("status").inner_text().startswith(f"{len(only)} caption")
    page.locator(".list a").nth(1).press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "H2"
    title = page.locator(".query h2").inner_text()
    query = int(title.split()[1].rstrip(",")) - 1
    assert query in only
    first = page.locator(".method").first
    first.locator("figure").first.wait_for()
    assert [one.endswith("✓ right") for one in first.locator("figure").all_inner_texts()].index(True) == a[query] - 1
    again = opened(page.url)
    again.locator(".query h2").wait_for()
    assert again.locator(".query h2").inner_text() == title
    assert again.locator(".sums button").nth(2).get_attribute("aria-pressed") == "true"


def test_queries_are_found_by_caption_and_id(opened, example):
    route = next(route for route in example.routes if "queries/scenes" in route)
    page = opened(example.page.as_uri() + route)
    box = page.get_by_label("Find in captions and ids")
    box.fill("CIRCLE")
    texts = page.evaluate("Promise.all([...opened].filter(([key]) => key.startsWith('texts')).map(([, one]) => one))")[
        0
    ]
    holding = sum("circle" in caption.lower() for caption in texts["captions"])
    assert page.get_by_role("status").inner_text().startswith(f"{holding} captions with “CIRCLE”")
    assert (
        page.locator(".list li").count() == min(50, holding)
        and page.evaluate("document.activeElement.type") == "search"
    )
    box.fill(texts["ids"][3])
    assert page.locator(".list li").count() == texts["first"][4] - texts["first"][3]
    box.fill("nothing like it")
    assert page.get_by_role("status").inner_text().startswith("0 captions")
    page.get_by_label("Queries").first.select_option("i2t")
    box = page.get_by_label("Find in captions and ids")
    box.fill("")
    assert page.locator(".list li").count() == len(texts["ids"])
