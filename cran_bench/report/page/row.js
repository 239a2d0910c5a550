// One row: its figures, whether it can be held against the paper, and how it was made --------------------------------------

views.row = (main, { parts }) => {
  const table = tableOf(parts[0]),
    row = rowOf(table, parts[1]);
  if (!row) return missing(main, `There is no row ${parts[1] || ""} in ${parts[0] || "this page"}.`);
  add(
    main,
    el("h1", {}, bdi(row.label)),
    el(
      "p",
      {},
      "On ",
      anchor(link(["table", table.id]), bdi(table.name)),
      ". All rows of ",
      anchor(link(["method", row.label]), bdi(row.method)),
      ".",
    ),
  );
  for (const failure of row.failures) add(main, el("p", { class: "warning" }, failure));
  if (!row.seeds.length) return;
  const { best, maybe, word } = verdictOf(table);
  const others = maybe && maybe.length ? count(maybe.length, "other row may be", "other rows may be") : "";
  const certainty = others ? `; ${others} as good` : word === "yes" ? ", certainly" : "";
  const place =
    row.rank && !table.quick
      ? ` Its ${placesText(row.rank).replace("rank ", "rank among all rows is ").replace("–", " to ")} of ${table.rows.filter(one => one.rank).length} (95 % interval).`
      : "";
  const standing = table.quick
    ? "A quick run is for trying out, not for comparison."
    : row === best
      ? `It has the highest value${certainty}.`
      : row.behind
        ? `It is ${valueText(table, -row.behind[0])} behind ${best.label}, ${behindText(table, row)}${row.place === "maybe" ? ", so that it may be as good" : ""}.`
        : "";
  add(
    main,
    el(
      "p",
      { class: "answer" },
      el("b", {}, `${table.headlineName} ${valueText(table, row.value)} ${intervalText(table, row.interval)}. `),
      standing,
      place,
    ),
  );
  add(
    main,
    el(
      "p",
      { class: "answer" },
      el("b", {}, `${row.comparable ? "Not comparable" : "Comparable"} with the CRAN paper (IJCAI 2018). `),
      row.comparable ? `Why not: ${row.comparable}.` : anchor(link(["paper"]), "Beside its figures"),
    ),
  );
  if (row.reference)
    add(main, el("p", { class: "notes" }, `‡ A reference row, not a method and not ranked: ${row.reference}.`));
  for (const mark of row.marks) add(main, el("p", { class: "warning" }, `† ${mark}.`));
  const links = [];
  if (table.details.queries && best) {
    const other = row === best ? table.rows.find(one => one.seeds.length && one !== row) : best;
    if (other)
      links.push(
        anchor(
          link(["queries", table.id], { a: row.label, b: other.label }),
          "Query by query, beside ",
          bdi(other.label),
        ),
      );
  }
  if (table.details.contrasts)
    links.push(anchor(link(["contrasts", table.id], { method: row.label }), "Its hardest contrasts"));
  add(main, linkList(links));
  const about = el("div", {});
  add(main, about);
  Promise.all([details(table.details.cards), details(table.details.curves)]).then(([cards, trained]) => {
    const card = (cards && cards[row.label]) || [];
    for (const [heading, lines] of card) add(about, el("h2", {}, heading), facts(lines));
    const mine = trained && trained[row.label];
    if (mine) add(about, el("h2", {}, "Training curves"), curves({ [row.label]: mine }));
  });
};

/** The interval of how far a row is behind; its far end says nothing if too few seeds were run to bound it. */
function behindText(table, row) {
  const [low, high] = [-row.behind[2], -row.behind[1]];
  const far =
    high < table.most ? `${valueText(table, low)} to ${valueText(table, high)}` : `at least ${valueText(table, low)}`;
  return `95 % interval ${far}`;
}

function facts(lines) {
  return el(
    "dl",
    { class: "facts" },
    lines.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, bdi(value)))),
  );
}
