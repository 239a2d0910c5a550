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
  const standing =
    row === best
      ? `It is the best row${maybe && maybe.length ? `, with ${count(maybe.length, "other that may be as good", "others that may be as good")}` : word === "yes" ? ", certainly" : ""}.`
      : row.place === "maybe"
        ? `It may be the best row: it is ${row.cells.behind_best} behind ${best.label}.`
        : row.cells.behind_best
          ? `It is behind ${best.label}: ${row.cells.behind_best}.`
          : "";
  const place =
    row.rank && !table.quick
      ? ` ${placesText(row.rank).replace("rank", "Rank")} of ${table.rows.filter(one => one.rank).length}.`
      : "";
  add(
    main,
    el(
      "p",
      { class: "answer" },
      el(
        "b",
        {},
        `${table.headlineName} ${valueText(table, row.value)} ${intervalText(table, row.interval)}. `,
      ),
      standing,
      place,
    ),
  );
  add(
    main,
    el(
      "p",
      { class: "answer" },
      el("b", {}, row.comparable ? "Not comparable with the paper: " : "Comparable with the paper. "),
      row.comparable ? `${row.comparable}.` : anchor(link(["paper"]), "Beside its figures"),
    ),
  );
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
  if (links.length)
    add(
      main,
      el(
        "ul",
        { class: "links" },
        links.map(one => el("li", {}, one)),
      ),
    );
  const about = el("div", {});
  add(main, about);
  Promise.all([details(table.details.cards), details(table.details.curves)]).then(([cards, trained]) => {
    const card = (cards && cards[row.label]) || [];
    for (const [heading, lines] of card) add(about, el("h2", {}, heading), facts(lines));
    const mine = trained && trained[row.label];
    if (mine) add(about, el("h2", {}, "Training curves"), curves({ [row.label]: mine }));
  });
};

function facts(lines) {
  return el(
    "dl",
    { class: "facts" },
    lines.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, bdi(value)))),
  );
}
