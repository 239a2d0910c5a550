// The overview: which row is best on what, and every method on every dataset ----------------------------------------------

const TASKS = { recall: "recall", category: "by category", contrasts: "contrasts", judgments: "judgments" };

const NAMED = 5; // rows that a sentence names

/** The best row of a table and whether that is certain, in words. */
function verdictOf(table) {
  const ranked = table.rows.filter(row => row.value !== null && row.value !== undefined && row.ranked);
  const best = ranked.find(row => row.place === "best") || ranked[0];
  const maybe = ranked.filter(row => row.place === "maybe"),
    behind = ranked.filter(row => row.place === "behind");
  if (!best) return { best, word: "no row", sentence: ["No row has finished."] };
  if (table.quick)
    return { best, word: "not for comparison", sentence: ["A quick run is for trying out: nothing is certain."] };
  if (ranked.length === 1)
    return { best, word: "the only row", sentence: ["It is the only row: there is nothing to compare it with."] };
  if (!best.place) return { best, word: "not tested", sentence: ["There are no intervals for so many records."] };
  if (!maybe.length) {
    const nearest = behind[0];
    return {
      best,
      word: "yes",
      sentence: [
        "Certainly: each other row is behind it, the nearest, ",
        rowLink(table, nearest),
        `, by ${nearest.cells.behind_best.replace(/^-/, "").trim()}.`,
      ],
    };
  }
  const names = maybe.slice(0, NAMED).flatMap((row, place) => [place ? ", " : "", rowLink(table, row)]);
  const more = maybe.length > NAMED ? ` and ${count(maybe.length - NAMED, "other")}` : "";
  const these = maybe.length === 1 ? "this row may be as good or better: " : "these rows may be as good or better: ";
  return {
    best,
    maybe,
    word: `no, ${count(maybe.length, "other", "others")} may be as good`,
    sentence: [`Not certainly: ${these}`, names, `${more}.`],
  };
}

function rowLink(table, row) {
  return anchor(link(["row", table.id, row.label]), bdi(row.label));
}

function valueText(table, value) {
  return value === null || value === undefined ? "" : value.toFixed(table.most === 1 ? 3 : 1);
}

function intervalText(table, interval) {
  return interval ? `[${interval.map(end => valueText(table, end)).join(", ")}]` : "";
}

function optionsOf(name, tables, text) {
  return [
    ["", "all"],
    ...[...new Set(tables.map(table => table[name]))].map(value => [value, text ? text(value) : value]),
  ];
}

views.overview = (main, { query }) => {
  const all = site.tables,
    preset = query.get("preset") || "";
  const wanted = ["dataset", "protocol", "task"].every.bind(["dataset", "protocol", "task"]);
  const rowsOf = table =>
    table.rows.filter(row => (!preset || row.preset === preset) && (!query.get("comparable") || !row.comparable));
  const tables = all.filter(
    table => wanted(name => !query.get(name) || table[name] === query.get(name)) && rowsOf(table).length,
  );
  const methods = new Set(tables.flatMap(table => rowsOf(table).map(row => row.method)));
  const presets = [...new Set(all.flatMap(table => table.rows.map(row => row.preset)).filter(Boolean))].sort();
  add(
    main,
    el("h1", {}, "Image-text retrieval: results"),
    el(
      "p",
      {},
      `${count(methods.size, "method")} on ${count(new Set(tables.map(table => table.dataset)).size, "dataset")}`,
      tables.length === all.length ? `, ${count(site.runs, "run")}. ` : ". ",
      "Image annotation (i2t) ranks texts for an image, image retrieval (t2i) ranks images for a text.",
    ),
    el(
      "form",
      { class: "filters", "aria-label": "Filters", onsubmit: event => event.preventDefault() },
      choice("Dataset", optionsOf("dataset", all), query.get("dataset") || "", dataset => change({ dataset })),
      choice("Protocol", optionsOf("protocol", all), query.get("protocol") || "", protocol => change({ protocol })),
      choice(
        "Task",
        optionsOf("task", all, task => TASKS[task]),
        query.get("task") || "",
        task => change({ task }),
      ),
      choice("Preset", [["", "all"], ...presets.map(name => [name, name])], preset, value => change({ preset: value })),
      choice(
        "Rows",
        [
          ["", "all"],
          ["yes", "comparable with the CRAN paper"],
        ],
        query.get("comparable") || "",
        comparable => change({ comparable }),
      ),
    ),
  );
  if (!tables.length) {
    const why = query.get("comparable")
      ? "No row here is comparable with the CRAN paper (IJCAI 2018): each row's page says why not."
      : "There are no such results.";
    add(
      main,
      el(
        "p",
        { class: "empty", role: "status" },
        why,
        " ",
        el(
          "button",
          {
            type: "button",
            onclick: () => {
              location.hash = "#/";
            },
          },
          "Show all",
        ),
      ),
    );
    return;
  }
  add(main, el("h2", {}, "Best rows"), bestRows(tables, rowsOf));
  add(
    main,
    el(
      "p",
      { class: "notes" },
      "Only rows of one table are compared: they saw the same images, captions and features, under one protocol. ",
      "A row is certainly the best if the 95 % intervals of its differences from all others, which hold at once, exclude zero. ",
      "† An encoder of the row was trained on images or captions of the test split.",
    ),
  );
  standings(main, tables, rowsOf, query);
};

function bestRows(tables, rowsOf) {
  const rows = tables.map(table => {
    const verdict = verdictOf(table),
      rows = rowsOf(table).filter(row => row.value !== null && row.value !== undefined && !row.reference);
    const best = verdict.best && rows.includes(verdict.best) ? verdict.best : rows[0];
    const word = best === verdict.best ? verdict.word : `no: ${verdict.best ? verdict.best.label : "another"} is ahead`;
    return {
      cells: {
        table: anchor(link(["table", table.id]), bdi(table.dataset)),
        protocol: table.protocol + (table.folds ? `, ${table.folds} folds` : ""),
        task: table.kind,
        best: best ? rowLink(table, best) : "none finished",
        value: best ? `${table.headlineName} ${valueText(table, best.value)}` : "",
        certain: word,
        rows: String(rowsOf(table).length),
        images: table.images.toLocaleString("en"),
      },
      small: { value: best ? intervalText(table, best.interval) : "", table: table.apart },
      values: {
        table: table.dataset,
        protocol: table.protocol,
        task: table.kind,
        best: best ? best.label : "",
        value: best ? best.value : "",
        certain: word,
        rows: rowsOf(table).length,
        images: table.images,
      },
    };
  });
  return dataTable({
    caption: "The best row of each table",
    key: "best",
    rows,
    columns: [
      { name: "table", heading: "Dataset", isText: true },
      { name: "protocol", heading: "Protocol", isText: true },
      { name: "task", heading: "Task", isText: true },
      { name: "best", heading: "Best row", isText: true },
      { name: "value", heading: "Figure" },
      { name: "certain", heading: "Certainly?", isText: true },
      { name: "rows", heading: "Rows" },
      { name: "images", heading: "Images" },
    ],
    important: ["table", "protocol", "task", "best", "certain", "value", "rows", "images"],
  });
}

/** Every method on every dataset, for one task and protocol. */
function standings(main, tables, rowsOf, query) {
  const ids = new Set(tables.map(table => table.id));
  const blocks = site.standings.filter(block => block.columns.some(column => ids.has(column.id)));
  const block = blocks.find(one => one.title === query.get("block")) || blocks[0];
  const columns = block.columns.map((column, place) => ({ ...column, place })).filter(column => ids.has(column.id));
  const isWanted = (row, column) => rowsOf(tableOf(column.id)).some(one => one.label === row.label);
  const rows = block.rows.filter(row => columns.some(column => isWanted(row, column)));
  const isMean = columns.filter(column => column.inMean).length > 1,
    only = columns.length === 1 ? tableOf(columns[0].id) : null;
  const last = Math.max(...rows.map(row => (row.rankAlike ? row.rankAlike[1] : 0)));
  const isAlike = rows.some(row => row.rankAlike && (row.rankAlike[0] > 1 || row.rankAlike[1] < last));
  const costOf = row => {
    const own = only && rowOf(only, row.label);
    return own
      ? { seconds: own.seconds.fit ?? null, memory: own.memory || null }
      : { seconds: row.seconds, memory: row.memory };
  };
  const lines = rows.map(row => {
    const cells = { label: [anchor(link(["method", row.label]), bdi(row.label)), row.reference ? " ‡" : ""] },
      small = {},
      values = { label: row.label };
    for (const column of columns) {
      const cell = row.cells[column.place],
        key = `c${column.place}`;
      cells[key] = cell ? cell.text + ({ best: " best", maybe: " ≈" }[cell.place] || "") : "–";
      small[key] = cell ? placesText(cell.rank) : "";
      values[key] = cell ? (cell.value ?? "") : "";
    }
    const front = row.front.join(", ");
    const { seconds, memory } = costOf(row);
    return {
      cells: {
        ...cells,
        mean: row.mean === null ? "–" : row.mean.toFixed(1),
        alike: placesText(row.rankAlike),
        fit: durationText(seconds),
        memory: memoryText(memory),
        front,
      },
      small: { ...small, mean: placesText(row.rankHere) },
      values: {
        ...values,
        mean: row.mean ?? "",
        alike: row.rankAlike ? row.rankAlike[0] : "",
        fit: seconds ?? "",
        memory: memory ?? "",
        front,
      },
    };
  });
  add(
    main,
    el("h2", {}, "Every method on every dataset"),
    blocks.length > 1
      ? choice(
          "Task and protocol",
          blocks.map(one => [one.title, one.title]),
          block.title,
          value => change({ block: value }),
        )
      : "",
    block.quick ? el("p", { class: "warning" }, "Quick runs: for trying out, not for comparison.") : "",
    dataTable({
      caption: `Every method: ${block.title}`,
      key: "all",
      rows: lines,
      sort: isMean ? "-mean" : `-c${columns[0].place}`,
      columns: [
        { name: "label", heading: "Method", isText: true },
        ...columns.map(column => ({
          name: `c${column.place}`,
          heading: `${column.name}, ${block.figure}`,
          help: tableOf(column.id).name,
        })),
        ...(isMean
          ? [
              { name: "mean", heading: "Mean score", help: "0 at chance, 100 if perfect" },
              ...(isAlike ? [{ name: "alike", heading: "Rank on datasets like these" }] : []),
            ]
          : []),
        { name: "fit", heading: isMean ? "Fit, sum" : "Fit", help: "Seconds of all fits that the row is made of" },
        { name: "memory", heading: "Memory", help: "The most that the process held" },
        ...(only ? [] : [{ name: "front", heading: "Pareto front" }]),
      ],
      important: ["label", "mean", ...columns.map(column => `c${column.place}`), "front", "fit", "memory", "alike"],
    }),
    foldedNotes(
      "What ranks and means say, and what they hide",
      [
        "Small: the interval of the rank in that column, of which 1 is the best; all of a column hold at once at 95 %. ≈ may be the best.",
        isMean
          ? "Mean score: of scores that are 0 at chance and 100 for a perfect ranking; each dataset weighs the same. It hides where a row is bad, and datasets on which scores differ more decide more. Small: its rank on these datasets."
          : "",
        isMean && !isAlike ? "On other datasets like these, any row may have any rank: these are too few to tell." : "",
        isMean ? "Fit, sum: over the datasets of the mean." : "",
        "Pareto front: no other row is as good for less time or memory, whatever machine each was run on.",
        ...block.notes,
      ].filter(Boolean),
    ),
  );
  const points = rows
    .filter(row => !row.reference)
    .map(row => ({
      label: row.label,
      href: link(["method", row.label]),
      quality: only ? row.cells[columns[0].place]?.value : row.mean,
      ...costOf(row),
    }));
  const known = points.filter(point => typeof point.quality === "number" && point.seconds !== null);
  if (known.length)
    add(main, el("h2", {}, "Quality and cost"), scatter(known, { quality: only ? block.figure : "mean score" }));
}

function placesText(rank) {
  if (!rank) return "";
  return rank[0] === rank[1] ? `rank ${rank[0]}` : `rank ${rank[0]}–${rank[1]}`;
}
