// The paper's tables: each printed recall beside the measured one, with a verdict ------------------------------------------

const LOOKS = {
  // of measured recalls, by verdict
  same: ["circle", "filled"],
  above: ["up", "filled"],
  below: ["down", "filled"],
  REGRESSED: ["cross", "alarm"],
  "differs (copied)": ["square", "filled"],
  informational: ["diamond", "hollow"],
  "other protocol": ["square", "hollow"],
  shown: ["right", "hollow"],
  "not comparable": ["circle", "hollow"],
};
const RECALLS = [0, 100];

/** The measured row of a printed one, with what is said of it. */
function measuredRow(section, printed, set, preset, reading) {
  const row = set && set.rows[`${preset} ${reading} ${printed.name}`];
  if (!row) return { status: "not measured", cells: [] };
  const isOwn = set.of === section.dataset,
    why = isOwn ? row.why : set.why[section.dataset] || "";
  const cells = row.measured.map(([value, low, high], place) =>
    value === undefined
      ? null
      : {
          value,
          interval: typeof low === "number" ? [low, high] : null,
          gap: isOwn ? row.gaps[place] : null,
          verdict: isOwn ? row.verdicts[place] : "not comparable",
        },
  );
  const table = tableOf(row.table),
    measured = { ...rowOf(table, row.label), table: table.id, protocol: table.protocol };
  return { row: measured, why, status: measured.seeds.length ? "" : measured.status, cells };
}

function recallText(value) {
  return value.toFixed(1);
}

function signedText(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
}

function gapText(gap) {
  return gap ? `${signedText(gap[0])} [${gap.slice(1).map(signedText).join(", ")}]` : "";
}

function verdictMark(verdict) {
  const [shape, look] = LOOKS[verdict];
  return glyph(shape, look);
}

views.paper = (main, { query }) => {
  const { tables, sets, figures, presets, readings, verdicts } = site.paper;
  const number = Number(query.get("table")) || 1,
    sections = tables.filter(section => section.number === number);
  if (!sections.length) return missing(main, `The paper has tables 1, 2 and 3, not ${query.get("table")}.`);
  const chosen = sets.find(set => set.id === query.get("on"));
  const setOf = section => chosen || (query.get("on") ? undefined : sets.find(set => set.of === section.dataset));
  const preset = presets.includes(query.get("preset")) ? query.get("preset") : presets[0];
  const reading = query.get("reading") in readings ? query.get("reading") : Object.keys(readings)[0];
  const side = figure => figure.split("_r")[1];
  const shown = figures
    .filter(figure => !query.get("figure") || figure === query.get("figure"))
    .sort((a, b) => side(a) - side(b));
  const counts = (name, other) =>
    sections
      .flatMap(section => section.rows.map(printed => measuredRow(section, printed, setOf(section), name, other)))
      .filter(one => one.cells[0]).length;
  const numbered = [...new Set(tables.map(section => section.number))];
  const titleOf = of =>
    tables
      .filter(section => section.number === of)
      .map(section => section.title)
      .join(" and ");
  main.append(
    el("h1", {}, "Against the paper"),
    el(
      "p",
      {},
      "The recalls that the paper prints, beside those that were measured here. A row is comparable only if its data, features, width and options are the paper's, and judged only with the presets paper and literal: what tuned chose on validation is shown.",
    ),
    el(
      "form",
      { class: "filters", "aria-label": "What to compare", onsubmit: event => event.preventDefault() },
      choice(
        "Table",
        numbered.map(one => [String(one), `${one}: ${titleOf(one)}`]),
        String(number),
        table => change({ table }),
      ),
      choice(
        "Measured on",
        [["", "the paper's own data"], ...sets.map(set => [set.id, set.title])],
        query.get("on") || "",
        on => change({ on }),
      ),
      choice(
        "Preset",
        presets.map(name => [name, `${name} (${count(counts(name, reading), "row")})`]),
        preset,
        value => change({ preset: value }),
      ),
      choice(
        "Texts",
        Object.entries({ matching: "as the paper most likely did", captions: "five captions an image" }).map(
          ([name, text]) => [name, `${text} (${count(counts(preset, name), "row")})`],
        ),
        reading,
        value => change({ reading: value }),
      ),
      choice(
        "Recall",
        [["", "all six"], ...figures.map(figure => [figure, figureName(figure)])],
        query.get("figure") || "",
        figure => change({ figure }),
      ),
    ),
  );
  const told = new Set();
  for (const section of sections)
    paperSection(main, section, setOf(section), { preset, reading, shown, figures, told });
  const used = Object.keys(verdicts).filter(verdict => told.has(verdict));
  if (used.length)
    main.append(
      el("h2", {}, "What the marks mean"),
      el(
        "ul",
        { class: "marks" },
        el(
          "li",
          {},
          glyph("tick", "thick"),
          " printed in the paper; the line through another mark is the 95 % interval of the measured recall",
        ),
        used.map(verdict => el("li", {}, verdictMark(verdict), ` ${verdict}: ${verdicts[verdict]}`)),
      ),
    );
  const about = site.comparisons.filter(one =>
    (chosen ? [chosen] : sections.map(setOf).filter(Boolean)).some(set => set.dataset === one.dataset),
  );
  if (about.length)
    main.append(el("h2", {}, "The same as text, and the paper's orders among rows"), ...about.map(comparison));
};

/** "i2t R@5" of "i2t_r5". */
function figureName(figure) {
  const [direction, k] = figure.split("_r");
  return `${direction} R@${k}`;
}

function paperSection(main, section, set, { preset, reading, shown, figures, told }) {
  const lines = section.rows.map(printed => ({ printed, ...measuredRow(section, printed, set, preset, reading) }));
  const measured = lines.filter(line => line.cells[0]),
    tally = new Map();
  for (const cell of measured.flatMap(line => line.cells)) tally.set(cell.verdict, (tally.get(cell.verdict) || 0) + 1);
  for (const verdict of tally.keys()) told.add(verdict);
  const judged = [...tally]
    .filter(([verdict]) => verdict !== "not comparable")
    .map(([verdict, times]) => `${times} ${verdict}`)
    .join(", ");
  const isOwn = set && set.of === section.dataset;
  main.append(
    el("h2", {}, `Table ${section.number}, ${section.title}`, isOwn || !set ? "" : [" beside ", bdi(set.dataset)]),
  );
  const others = site.paper.sets.flatMap((other, place) => [
    place ? ", " : "",
    anchor(link(["paper"], { table: section.number, on: other.id, preset, reading }), bdi(other.title)),
  ]);
  const sentence = !set
    ? [
        `Nothing here was measured on ${section.title}, so the printed numbers stand alone.`,
        ...(others.length
          ? [" Rows of other data can stand beside them, hollow, as they are not comparable: ", ...others, "."]
          : []),
      ]
    : !measured.length
      ? `None of these rows was measured on ${set.dataset} with preset ${preset}, texts ${site.paper.readings[reading]}.`
      : `${measured.length} of ${count(lines.length, "row")} measured. ` +
        (judged ? `Recalls: ${judged}.` : "None is comparable with the paper.");
  main.append(el("p", { class: "answer" }, sentence));
  if (measured.length)
    main.append(el("p", { class: "notes" }, `Measured: preset ${preset}; texts ${site.paper.readings[reading]}.`));
  const reasons = new Map();
  for (const line of measured.filter(one => one.why))
    reasons.set(line.why, [...(reasons.get(line.why) || []), line.row.label]);
  for (const [why, labels] of reasons)
    main.append(
      el(
        "p",
        { class: "notes" },
        el("b", {}, "Not comparable: "),
        labels.length === measured.length && labels.length > 1
          ? "all"
          : labels.flatMap((label, place) => [place ? ", " : "", bdi(label)]),
        `: ${why}.`,
      ),
    );
  for (const sentenceOf of new Set(
    lines.flatMap(line =>
      line.row ? [...line.row.failures, ...line.row.marks.map(mark => `† ${line.row.label}: ${mark}.`)] : [],
    ),
  ))
    main.append(el("p", { class: "warning" }, sentenceOf));
  main.append(
    el(
      "div",
      { class: "multiples" },
      shown.map(figure => dotPlot(section, lines, figure, figures.indexOf(figure))),
    ),
  );
  main.append(
    paperTable(
      section,
      lines,
      figures,
      `Table ${section.number}, ${section.title}: printed and measured`,
      reasons.size > 1 || (reasons.size && measured.some(line => !line.why)),
    ),
  );
  const sources = [...new Set(section.rows.map(printed => printed.provenance))].map(source => [
    section.rows
      .filter(printed => printed.provenance === source)
      .map(printed => printed.name)
      .join(", "),
    `: ${source}.`,
  ]);
  main.append(foldedNotes("Where the printed numbers are from", sources));
}

/** The rows of a table down, a recall across: printed, and measured with its interval. */
function dotPlot(section, lines, figure, place) {
  const title = `${figureName(figure)}, ${section.title}`;
  return el(
    "figure",
    { class: "chart" },
    el(
      "figcaption",
      {},
      figureName(figure),
      " ",
      el("small", {}, figure.startsWith("i2t") ? "image annotation, percent" : "image retrieval, percent"),
    ),
    el(
      "ul",
      { class: "strips dots", "aria-label": title },
      lines.map(line => {
        const cell = line.cells[place],
          printed = line.printed.values[place];
        const marks = [placed("point", printed, RECALLS, glyph("tick", "thick"))];
        if (cell && cell.interval)
          marks.unshift(spanned(`whisker ${LOOKS[cell.verdict][1]}`, ...cell.interval, RECALLS));
        if (cell) marks.push(placed("point", cell.value, RECALLS, verdictMark(cell.verdict)));
        return strip(line.printed.name, marks, [
          recallText(printed),
          " ",
          cell ? [`→ ${recallText(cell.value)} `, el("small", {}, cell.verdict)] : el("small", {}, line.status),
        ]);
      }),
      axis(RECALLS, [0, 25, 50, 75, 100]),
    ),
  );
}

function paperTable(section, lines, figures, caption, hasReasons) {
  const isMeasured = lines.some(line => line.row);
  return dataTable({
    caption,
    key: `t${section.number}${section.dataset}`,
    columns: [
      { name: "row", heading: "Row of the paper", isText: true },
      ...figures.map(figure => ({ name: figure, heading: figureName(figure) })),
      ...(isMeasured ? [{ name: "measured", heading: "Measured row", isText: true }] : []),
      ...(hasReasons ? [{ name: "why", heading: "Why not comparable", isText: true }] : []),
    ],
    rows: lines.map(line => {
      const cells = { row: line.printed.name, why: line.why || "" },
        small = {},
        values = { ...cells };
      figures.forEach((figure, place) => {
        const cell = line.cells[place],
          printed = recallText(line.printed.values[place]);
        cells[figure] = cell ? [`${printed} → ${recallText(cell.value)} `, verdictMark(cell.verdict)] : printed;
        small[figure] = cell
          ? [
              el("span", { class: "line" }, cell.verdict),
              cell.gap ? gapText(cell.gap) : cell.interval ? `[${cell.interval.map(recallText).join(", ")}]` : "",
            ]
          : line.status;
        values[figure] = line.printed.values[place];
      });
      cells.measured = line.row
        ? [
            anchor(link(["row", line.row.table, line.row.label]), bdi(line.row.label)),
            line.row.marks.length ? " †" : "",
          ]
        : "none";
      small.measured = line.row ? `${line.row.protocol}, ${count(line.row.seeds.length, "seed")}` : "";
      values.measured = line.row ? line.row.label : "";
      return { cells, small, values };
    }),
    important: ["row", "i2t_r1", "t2i_r1", "why", "measured"],
  });
}
