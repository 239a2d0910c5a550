// Tables: sortable, with a choice of columns; one card a row on a narrow screen -------------------------------------------

const ON_CARDS = 7; // columns of a row on a narrow screen, unless one chooses others

/**
 * A table of data.
 *
 * caption: what it shows, for screen readers.
 * columns: {name, heading, help, isText}; the first one heads the rows.
 * rows: {cells: {name: text or node}, small: {name: text}, values: {name: what to sort by}, mark: class}.
 * above: cells by name of lines that stay at the top.
 * sort: name of the column at first, with "-" for descending.
 * important: names, the last of which are hidden first where the table does not fit.
 * key: prefix of what is kept in the address.
 */
function dataTable({ caption, columns, rows, above = [], sort = "", important = [], key = "" }) {
  const query = route().query,
    named = name => (key ? `${key}.${name}` : name);
  const chosen = query.get(named("columns")),
    shown = new Set(chosen ? chosen.split(",") : columns.map(column => column.name));
  const table = el("table", { class: "data", role: "table" }, el("caption", { class: "unseen" }, caption));
  const box = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
  let by = query.get(named("sort")) || sort;

  const heads = columns.map(column => {
    const button = el(
      "button",
      { type: "button", title: column.help, onclick: () => sorted(column.name) },
      column.heading,
    );
    return el(
      "th",
      { scope: "col", role: "columnheader", "data-name": column.name, class: column.isText ? "text" : undefined },
      button,
    );
  });
  const cell = (column, place, content, small, isHead) =>
    el(
      place || !isHead ? "td" : "th",
      {
        role: place || !isHead ? "cell" : "rowheader",
        scope: place || !isHead ? undefined : "row",
        "data-name": column.name,
        "data-heading": column.heading,
        class: column.isText ? "text" : undefined,
      },
      el("span", {}, content ?? "", small ? el("small", {}, small) : undefined),
    );
  const lines = above.map(cells =>
    el(
      "tr",
      { class: "above", role: "row" },
      columns.map((column, place) => cell(column, place, cells[column.name] ?? "")),
    ),
  );
  table.append(
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads), lines),
    el(
      "tbody",
      { role: "rowgroup" },
      rows.map(row =>
        el(
          "tr",
          { role: "row", class: row.mark },
          columns.map((column, place) =>
            cell(column, place, row.cells[column.name], row.small && row.small[column.name], true),
          ),
        ),
      ),
    ),
  );
  const body = table.tBodies[0],
    places = new Map(rows.map((row, place) => [body.rows[place], row]));

  function order() {
    const falls = by.startsWith("-"),
      name = by.replace(/^-/, "");
    for (const head of heads) {
      if (head.dataset.name === name) head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    if (!columns.some(column => column.name === name)) return;
    const value = line => places.get(line).values[name] ?? "";
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what says nothing comes last
      const less =
        typeof x === "number" && typeof y === "number"
          ? x - y
          : String(x).localeCompare(String(y), "en", { numeric: true });
      return falls ? -less : less;
    };
    body.append(...[...body.rows].sort(compare));
  }

  function sorted(name) {
    const rises = name === columns[0].name || (rows[0] && typeof rows[0].values[name] === "string");
    by = by === name ? `-${name}` : by === `-${name}` ? name : rises ? name : `-${name}`;
    change({ [named("sort")]: by === sort ? "" : by }, true);
    order();
    pick.querySelector("select").value = by.replace(/^-/, "");
  }

  const boxes = columns.slice(1).map(column => {
    const tick = el("input", { type: "checkbox" });
    tick.checked = shown.has(column.name);
    tick.addEventListener("change", () => {
      const names = columns
        .filter((one, place) => !place || (one === column ? tick.checked : isShown(one.name)))
        .map(one => one.name);
      change({ [named("columns")]: names.length === columns.length ? "" : names.join(",") }, true);
      show(new Set(names));
      isChosen = true;
      summary();
    });
    return [column.name, tick, el("label", {}, tick, " ", column.heading)];
  });
  let isChosen = Boolean(chosen);
  const title = el("summary", {});
  const chooser = el(
    "details",
    { class: "chooser" },
    title,
    el(
      "div",
      { class: "boxes" },
      boxes.map(([, , label]) => label),
    ),
  );
  const pick = choice(
    "Sort by",
    columns.map(column => [column.name, column.heading]),
    by.replace(/^-/, ""),
    name => sorted(name),
  );
  pick.classList.add("narrow");

  function isShown(name) {
    return !heads.find(head => head.dataset.name === name).hidden;
  }

  function show(names) {
    for (const one of table.querySelectorAll("[data-name]")) one.hidden = !names.has(one.dataset.name);
    for (const [name, tick] of boxes) tick.checked = names.has(name);
  }

  function summary() {
    const number = columns.filter(column => isShown(column.name)).length;
    title.textContent =
      number === columns.length ? `All ${number} columns` : `${number} of ${columns.length} columns; choose`;
  }

  function fit() {
    if (!box.clientWidth) return;
    if (!isChosen) {
      const names = columns.map(column => column.name),
        order = [...important, ...names.filter(name => !important.includes(name))];
      const isCards = getComputedStyle(table).display === "block",
        left = new Set(isCards ? order.slice(0, ON_CARDS) : names);
      show(left);
      for (const name of order.reverse()) {
        if (isCards || table.scrollWidth <= box.clientWidth + 1 || left.size < 3) break;
        if (name === names[0]) continue;
        left.delete(name);
        show(left);
      }
    }
    summary();
  }

  if (isChosen) show(shown);
  order();
  new ResizeObserver(() => fit()).observe(box);
  return el(
    "div",
    { class: "table" },
    columns.length > 3 ? el("div", { class: "tools" }, chooser, pick) : undefined,
    box,
  );
}

/** What a cell is sorted by: its first number, or its text; the best row is 0 behind itself. */
function sortValue(text = "") {
  if (text === "best") return 0;
  const found = /^-?[\d,]*\.?\d+/.exec(text);
  return found ? Number(found[0].replaceAll(",", "")) : text;
}

/** A small table of texts, whose first column is a heading. */
function plainTable(headings, lines, caption) {
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el(
      "table",
      { class: "plain" },
      el("caption", { class: "unseen" }, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          headings.map(heading => el("th", { scope: "col" }, heading || " ")),
        ),
      ),
      el(
        "tbody",
        {},
        lines.map(line =>
          el(
            "tr",
            {},
            line.map((cell, place) => (place ? el("td", {}, cell) : el("th", { scope: "row" }, cell))),
          ),
        ),
      ),
    ),
  );
}
