// A table with all that belongs to it; and the tables of a dataset, and the rows of a method --------------------------------

const HELP = {
  medr: "Median rank of the right answer, for image and text queries",
  rsum: "Sum of the six recalls, at most 600",
  twin_accuracy: "Share of captions, in percent, that score their own scene above its twin; chance is 50",
  behind_best: "Difference from the best other row; the intervals of a table hold at once at 95 %",
};

views.table = (main, { parts }) => {
  const table = tableOf(parts[0]);
  if (!table) return missing(main, `There is no table ${parts[0]}.`);
  add(main, el("h1", {}, bdi(table.name)));
  drawTable(main, table, "h2");
  const drawn = table.rows.filter(row => typeof row.value === "number");
  add(
    main,
    el("h2", {}, "Quality and cost"),
    bars(
      drawn.map(row => ({
        label: row.label,
        value: row.value,
        interval: row.interval,
        text: `${valueText(table, row.value)} ${intervalText(table, row.interval)}`,
      })),
      {
        title: table.headlineName,
        note: "with 95 % intervals.",
        most: table.most,
        chance: table.task === "contrasts" ? 50 : undefined,
      },
    ),
    bars(
      drawn.map(row => ({
        label: row.label,
        value: sortValue(row.cells.twin_accuracy),
        text: row.cells.twin_accuracy,
      })),
      { title: "Twin accuracy", note: "in percent.", chance: 50 },
    ),
    scatter(
      drawn
        .filter(row => !row.reference)
        .map(row => ({
          label: row.label,
          href: link(["row", table.id, row.label]),
          quality: row.value,
          seconds: row.seconds.fit,
          memory: row.memory,
        })),
      { quality: table.headlineName },
    ),
    phases(drawn.map(row => ({ label: row.label, seconds: row.seconds }))),
  );
  const place = el("div", {});
  add(main, place);
  details(table.details.curves).then(value => {
    if (value) place.replaceChildren(el("h2", {}, "Training curves"), curves(value));
  });
  const finished = table.rows.filter(row => row.environment.length);
  add(
    main,
    el("h2", {}, "Environment"),
    el(
      "details",
      {},
      el("summary", {}, "Environment and commit of each row"),
      plainTable(
        ["row", "seeds", ...table.environment],
        finished.map(row => [bdi(row.label), row.seeds.join(" "), ...row.environment]),
        "Environment of each row",
      ),
    ),
  );
  const mine = site.comparisons.filter(one => one.dataset === table.dataset);
  if (mine.length) add(main, el("h2", {}, "Comparisons"), mine.map(comparison));
};

/** The marks of a row that is a reference, or exposed to the test split. */
function markText(row) {
  return (row.reference ? " ‡" : "") + (row.marks.length ? " †" : "");
}

function missing(main, sentence) {
  add(main, el("h1", {}, "Not found"), el("p", {}, sentence, " ", anchor("#/", "To the overview")));
}

function comparison(one) {
  return el(
    "details",
    { class: "comparison" },
    el("summary", {}, one.title),
    plainTable(one.headings, one.lines, one.title),
    el(
      "ul",
      { class: "notes" },
      [...one.notes, ...one.regressions].map(note => el("li", {}, note)),
    ),
  );
}

/** The best row, the links, the figures and the notes of a table. */
function drawTable(main, table, heading) {
  const { best, sentence } = verdictOf(table);
  add(main, el("p", {}, table.title.split(" · ").slice(2).join(" · ") || "", table.inputs ? ` · ${table.inputs}` : ""));
  if (table.quick) add(main, el("p", { class: "warning" }, "Quick run: for trying out, not for comparison."));
  if (best)
    add(
      main,
      el(
        "p",
        { class: "answer" },
        el("b", {}, "Best: ", rowLink(table, best)),
        `, ${table.headlineName} ${valueText(table, best.value)} ${intervalText(table, best.interval)}. `,
        sentence,
      ),
    );
  const links =
    heading === "h2" ? [anchor(link(["dataset", table.dataset]), "All tables of ", bdi(table.dataset))] : [];
  if (table.details.queries)
    links.push(anchor(link(["queries", table.id]), "Query by query: what one row found and another missed"));
  if (table.details.contrasts) links.push(anchor(link(["contrasts", table.id]), "Hardest contrasts, with pictures"));
  add(main, linkList(links));
  add(
    main,
    dataTable({
      caption: `Figures of ${table.name}`,
      key: heading === "h2" ? "" : table.id,
      columns: table.columns.map(column => ({ ...column, isText: column.name === "method", help: HELP[column.name] })),
      rows: table.rows.map(row => ({
        mark: row.status === "ok" ? "" : "failed",
        cells: { ...row.cells, method: [rowLink(table, row), markText(row)] },
        small: (row.cells[table.headline] || "").includes("[")
          ? {}
          : { [table.headline]: intervalText(table, row.interval) },
        values: {
          ...Object.fromEntries(Object.entries(row.cells).map(([name, text]) => [name, sortValue(text)])),
          method: row.label,
        },
      })),
      above: table.above,
      sort: `-${table.headline}`,
      important: ["method", table.headline, "behind_best", ...table.important.flat()].filter(
        (name, place, names) => names.indexOf(name) === place,
      ),
    }),
  );
  if (table.rows.some(row => row.place === "maybe"))
    add(main, el("p", { class: "notes" }, "≈ may be as good as the best row: the 95 % interval reaches zero."));
  for (const mark of table.marks) add(main, el("p", { class: "notes" }, mark));
  for (const failure of table.rows.flatMap(row => row.failures)) add(main, el("p", { class: "warning" }, failure));
  add(main, foldedNotes("What the figures are, and how they were measured", table.notes));
}

views.dataset = (main, { parts }) => {
  const tables = site.tables.filter(table => table.dataset === parts[0]);
  if (!tables.length) return missing(main, `There is no dataset ${parts[0]}.`);
  add(main, el("h1", {}, bdi(parts[0])));
  add(main, tableLinks(tables, "table"));
  for (const table of tables) {
    add(main, el("h2", {}, anchor(link(["table", table.id]), bdi(table.name))));
    drawTable(main, table, "h3");
  }
};

views.method = (main, { parts }) => {
  const base = (parts[0] || "").split("[")[0].split(":")[0],
    about = site.methods[base];
  const found = site.tables.flatMap(table =>
    table.rows.filter(row => row.method === base).map(row => ({ table, row })),
  );
  if (!found.length) return missing(main, `There is no row of ${base}.`);
  add(main, el("h1", {}, bdi(base)));
  if (about)
    add(
      main,
      el(
        "p",
        {},
        about.summary,
        about.paperRow
          ? ` It reproduces the row ${about.paperRow} of the CRAN paper.`
          : " It reproduces no row of the CRAN paper.",
      ),
    );
  const labels = [...new Set(found.map(one => one.row.label))];
  add(
    main,
    dataTable({
      caption: `All rows of ${base}`,
      key: "rows",
      columns: [
        { name: "row", heading: "Row", isText: true },
        { name: "dataset", heading: "Dataset", isText: true },
        { name: "protocol", heading: "Protocol", isText: true },
        { name: "task", heading: "Task", isText: true },
        { name: "value", heading: "Figure" },
        { name: "behind", heading: "Behind best" },
        { name: "rank", heading: "Rank" },
        { name: "fit", heading: "Fit" },
        { name: "paper", heading: "With the CRAN paper", isText: true },
      ],
      rows: found.map(({ table, row }) => ({
        mark: row.label === parts[0] ? "chosen" : row.status === "ok" ? "" : "failed",
        cells: {
          row: rowLink(table, row),
          dataset: anchor(link(["table", table.id]), bdi(table.dataset)),
          protocol: table.protocol,
          task: table.kind + (table.apart ? `, ${table.apart}` : ""),
          value:
            row.value === null || row.value === undefined
              ? row.status
              : `${table.headlineName} ${valueText(table, row.value)}`,
          behind: row.cells.behind_best || "",
          rank: placesText(row.rank).replace("rank ", ""),
          fit: durationText(row.seconds.fit),
          paper: row.comparable ? "not comparable" : row.seeds.length ? "comparable" : "",
        },
        small: { value: intervalText(table, row.interval) },
        values: {
          row: row.label,
          dataset: table.dataset,
          protocol: table.protocol,
          task: table.kind,
          value: row.value ?? "",
          behind: sortValue(row.cells.behind_best),
          rank: row.rank ? row.rank[0] : "",
          fit: row.seconds.fit ?? "",
          paper: row.comparable,
        },
      })),
      important: ["row", "dataset", "value", "behind", "protocol", "rank", "paper", "task", "fit"],
    }),
  );
  add(
    main,
    el(
      "p",
      { class: "notes" },
      `${count(labels.length, "variant")}: `,
      labels.flatMap((label, place) => [place ? ", " : "", bdi(label)]),
      ".",
    ),
  );
};
