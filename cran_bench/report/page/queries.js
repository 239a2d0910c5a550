// Query by query: what each chosen row found, and the contrasts that a row gets most wrong -------------------------------

const FIRST = [1, 5, 10],
  LISTED = 50,
  MOST_SHOWN = 4,
  LETTERS = "ABCD";
const WAYS = { t2i: { one: "caption", answers: "images" }, i2t: { one: "image", answers: "captions" } };
const opened = new Map();

/** A value of details, prepared once; undefined while it is being loaded, after which the view is drawn again; null if there is none. */
function loaded(name, prepare = value => value) {
  if (!name) return null;
  if (!opened.has(name)) {
    opened.set(name, undefined);
    details(name).then(value => {
      opened.set(name, value && prepare(value));
      draw(true);
    });
  }
  return opened.get(name);
}

/** Numbers as Python packed them. */
function unpacked(text) {
  const bytes = atob(text),
    numbers = [];
  let number = 0,
    scale = 1;
  for (let place = 0; place < bytes.length; place += 1) {
    const byte = bytes.charCodeAt(place);
    number += (byte % 128) * scale;
    scale *= 128;
    if (byte < 128) {
      numbers.push(number);
      number = 0;
      scale = 1;
    }
  }
  return numbers;
}

/** The queries of a table: ranks and answers are unpacked when they are asked for. */
function preparedQueries(value) {
  const known = new Map(),
    once = (key, make) => {
      if (!known.has(key)) known.set(key, make());
      return known.get(key);
    };
  const line = label => value.rows.find(row => row.label === label);
  return {
    ...value,
    line,
    owners: unpacked(value.imageOf),
    ranks: (label, way) =>
      once(`${way} ${label}`, () => unpacked(line(label)[way].ranks).map(rank => rank / line(label)[way].scale)),
    few: (label, way) =>
      once(`few ${way} ${label}`, () => {
        const few = line(label).few && line(label).few[way],
          found = few ? unpacked(few.found) : [];
        return new Map(
          few ? unpacked(few.of).map((query, place) => [query, found.slice(5 * place, 5 * place + 5)]) : [],
        );
      }),
  };
}

function preparedAnswers(value) {
  return { t2i: unpacked(value.t2i), i2t: unpacked(value.i2t) };
}

/** What is known of texts and images by their rows, where the dataset is there, and else their numbers. */
function namesOf(data, texts) {
  const { owners, protocol } = data;
  const own = image => (texts ? texts.captions.slice(texts.first[image], texts.first[image + 1]) : []);
  return {
    image: image => (texts ? texts.ids[image] : `image ${numeral(image)}`),
    caption: row => {
      if (!texts) return `caption ${numeral(row)}`;
      return protocol === "captions"
        ? texts.captions[row]
        : protocol === "single"
          ? own(owners[row])[0]
          : own(owners[row]).join(" ");
    },
    captionId: row => {
      if (!texts) return `of image ${numeral(owners[row])}`;
      return protocol === "captions"
        ? `${texts.ids[owners[row]]}#${row - texts.first[owners[row]]}`
        : texts.ids[owners[row]];
    },
    own,
    url: image => (texts && !texts.pictures ? "" : pictureUrl(data.data && `${data.data}/${image}`)),
  };
}

/** The number of a query, counted from 1. */
function numeral(place) {
  return (place + 1).toLocaleString("en");
}

function rankText(rank) {
  return Number.isInteger(rank) ? rank.toLocaleString("en") : rank.toFixed(1);
}

/** Links to the tables that have something of a kind. */
function tablesWith(kind) {
  return tableLinks(
    site.tables.filter(table => table.details[kind]),
    kind,
  );
}

views.queries = (main, { parts, query }) => {
  if (!parts.length) {
    add(
      main,
      el("h1", {}, "Query by query"),
      el("p", {}, "What one row found and another missed."),
      tablesWith("queries"),
    );
    if (site.tables.some(table => table.details.contrasts))
      add(
        main,
        el("h2", {}, "Hardest contrasts"),
        el("p", {}, "False captions that a row scores above the true ones."),
        tablesWith("contrasts"),
      );
    return;
  }
  const table = tableOf(parts[0]);
  if (!table) return missing(main, `There is no table ${parts[0]}.`);
  add(
    main,
    el("h1", {}, "Query by query: ", bdi(table.name)),
    el("p", {}, anchor(link(["table", table.id]), "The table of these rows")),
  );
  const data = loaded(table.details.queries, preparedQueries);
  if (data === undefined) return add(main, el("p", {}, "Loading the ranks of all queries…"));
  if (!data)
    return add(
      main,
      el(
        "p",
        {},
        "This page has no room for the ranks of these queries: cran-bench report --site DIR writes a folder that has all.",
      ),
    );
  const texts = loaded(data.data && `texts-${data.data}`);
  if (texts === undefined) return add(main, el("p", {}, "Loading the captions…"));
  const labels = table.rows.map(row => row.label).filter(data.line);
  drawQueries(main, { table, data, texts, labels, names: namesOf(data, texts), ...chosenOf(query, labels) });
};

/** The chosen rows, at least two if there are so many, and the direction. */
function chosenOf(query, labels) {
  const a = labels.includes(query.get("a")) ? query.get("a") : labels[0];
  const b =
    labels.includes(query.get("b")) && query.get("b") !== a ? query.get("b") : labels.find(label => label !== a);
  const chosen = [a, b, query.get("more"), query.get("more2")].filter(label => labels.includes(label));
  return { chosen: [...new Set(chosen)].slice(0, MOST_SHOWN), way: query.get("way") === "i2t" ? "i2t" : "t2i" };
}

function drawQueries(main, shown) {
  const { table, data, texts, labels, chosen, way } = shown,
    [a, b] = chosen;
  change({ a, b: b || "", more: chosen[2] || "", more2: chosen[3] || "" }, true); // so that the address stays that of these rows
  const others = label => labels.filter(one => !chosen.includes(one) || one === label).map(one => [one, one]);
  const more = place =>
    choice(`Method ${LETTERS[place]}`, [["", "none"], ...others(chosen[place])], chosen[place] || "", value =>
      change(place === 2 ? { more: value || chosen[3] || "", more2: value ? chosen[3] || "" : "" } : { more2: value }),
    );
  const box = el("input", { type: "search", value: route().query.get("find") || "", autocomplete: "off" });
  const status = el("p", { class: "count", role: "status" }),
    list = el("div", {}),
    panel = el("section", { class: "query", "aria-label": "The chosen query" });
  const buttons = [];
  add(
    main,
    el(
      "form",
      { class: "filters", "aria-label": "What is compared", onsubmit: event => event.preventDefault() },
      choice("Method A", others(a), a, value => change({ a: value, b: b || "" })),
      b ? choice("Method B", others(b), b, value => change({ a, b: value })) : "",
      labels.length > 2 ? more(2) : "",
      chosen.length > 2 && labels.length > 3 ? more(3) : "",
      choice(
        "Queries",
        [
          ["t2i", "captions, which rank images"],
          ["i2t", "images, which rank captions"],
        ],
        way,
        value => change({ way: value, query: "" }),
      ),
    ),
    el(
      "ul",
      { class: "letters" },
      chosen.map((label, place) => el("li", { class: `of${place}` }, `${LETTERS[place]} `, bdi(label))),
    ),
    notesOf(shown).map(note => el("p", { class: "notes" }, note)),
  );
  const refresh = () => {
    const now = stateOf(shown);
    for (const button of buttons)
      button.setAttribute(
        "aria-pressed",
        String(
          button.dataset.order === now.order && (!button.dataset.first || Number(button.dataset.first) === now.first),
        ),
      );
    status.textContent = sentenceOf(shown, now);
    drawList(list, shown, now, choose, refresh);
    drawQuery(panel, shown, now);
  };
  const choose = place => {
    change({ query: String(place + 1) }, true);
    refresh();
    panel.querySelector("h2").focus();
  };
  const press = (values, text, name) => {
    const button = el(
      "button",
      {
        type: "button",
        "data-order": values.order,
        "data-first": values.first,
        "aria-pressed": "false",
        "aria-label": name,
        onclick: () => {
          change({ ...values, shown: "", query: "" }, true);
          refresh();
        },
      },
      text,
    );
    buttons.push(button);
    return button;
  };
  if (b) {
    const sums = countsOf(shown);
    add(
      main,
      el(
        "p",
        { class: "notes" },
        `Number of queries of which A, or B, found ${way === "t2i" ? "the right image" : "a right caption"}; the buttons list them`,
      ),
      el(
        "div",
        { class: "sums" },
        plainTable(
          ["among the first", "A, not B", "B, not A", "both", "neither"],
          sums.map(({ first, onlyA, onlyB, both, neither }) => [
            String(first),
            press(
              { order: "a", first },
              onlyA.toLocaleString("en"),
              `${onlyA}: A found the right one among the first ${first}, B missed it`,
            ),
            press(
              { order: "b", first },
              onlyB.toLocaleString("en"),
              `${onlyB}: B found the right one among the first ${first}, A missed it`,
            ),
            both.toLocaleString("en"),
            neither.toLocaleString("en"),
          ]),
          "Who found what",
        ),
      ),
      el(
        "div",
        { class: "orders", role: "group", "aria-label": "Order" },
        press({ order: "apart" }, "Where they differ most, by the ratio of ranks"),
        press({ order: "data" }, "All, in the order of the data"),
        isTold(shown) ? press({ order: "told" }, "Those with recorded answers") : "",
        isExplained(shown) ? press({ order: "why" }, "Those whose first answer is explained") : "",
      ),
    );
  }
  box.addEventListener("input", () => {
    change({ find: box.value, shown: "", query: "" }, true);
    refresh();
  });
  add(
    main,
    el("label", { class: "choice find" }, el("span", {}, texts ? "Find in captions and ids" : "Find a number"), box),
    status,
    el("div", { class: "beside" }, list, panel),
  );
  refresh();
}

/** What one has to know of the ranks and names shown. */
function notesOf({ table, data, texts, chosen }) {
  const seeds = chosen.filter(label => rowOf(table, label).seeds.length > 1);
  return [
    seeds.length
      ? `Of rows with several seeds, the ranks are those of the first, seed ${data.line(seeds[0]).seed}.`
      : "",
    data.folds ? `Ranks are within ${data.folds} folds of the test split; what was found there is not recorded.` : "",
    data.protocol === "mean" ? "Queries are averages of the captions of an image; what was found is not recorded." : "",
    data.data && !texts
      ? "There is no room for captions here: cran-bench report --site DIR writes a folder that has them."
      : "",
    data.data
      ? ""
      : "The page was made without these data: captions and images are numbered by their place in the test split.",
    table.task === "category"
      ? "Ranks are of the query's own image or text; the table counts all of the same category as right."
      : "",
    !data.folds && data.protocol !== "mean" && chosen.some(label => !data.line(label).answers)
      ? "What a row found is recorded for every query by runs of this version, unless the method scores pairs; of others, for ten example queries in each direction."
      : "",
    texts && !texts.words ? "The data has features in place of captions: what stands here are ids of texts." : "",
  ].filter(Boolean);
}

/** What is chosen on the page: which queries, in which order, how many, and the one in detail. */
function stateOf(shown) {
  const query = route().query,
    {
      chosen: [a, b],
      way,
    } = shown;
  const first = FIRST.find(one => String(one) === query.get("first")) || 10;
  const known = { a: Boolean(b), b: Boolean(b), data: true, told: isTold(shown), why: isExplained(shown) };
  const order = known[query.get("order")] ? query.get("order") : b ? "apart" : "data";
  const find = (query.get("find") || "").trim(),
    listed = queriesOf(shown, order, first, find);
  const size = way === "t2i" ? shown.data.texts : shown.data.images,
    asked = Number(query.get("query")) - 1;
  const chosen = Number.isInteger(asked) && asked >= 0 && asked < size ? asked : listed.length ? listed[0] : -1;
  const most = Math.max(LISTED, Number(query.get("shown")) || 0);
  return { a, b, order, first, find, listed, chosen, most };
}

function countsOf({ data, chosen: [a, b], way }) {
  const [x, y] = [data.ranks(a, way), data.ranks(b, way)];
  return FIRST.map(first => {
    const sum = { first, onlyA: 0, onlyB: 0, both: 0, neither: 0 };
    for (let query = 0; query < x.length; query += 1) {
      const [hit, other] = [x[query] <= first, y[query] <= first];
      sum[hit ? (other ? "both" : "onlyA") : other ? "onlyB" : "neither"] += 1;
    }
    return sum;
  });
}

/** What a row found, by query; none while it is being loaded, or where it is not recorded. */
function answersBy({ data, way }, label) {
  const all = loaded(data.line(label).answers, preparedAnswers),
    few = data.few(label, way);
  const stored = query => (all ? all[way].slice(5 * query, 5 * query + 5) : few.get(query) || []);
  return query =>
    stored(query)
      .filter(answer => answer > 0)
      .map(answer => answer - 1);
}

/** Whether only some queries have answers: in records of earlier versions, or of very many queries. */
function isTold(shown) {
  const { data, way, chosen } = shown;
  if (chosen.some(label => loaded(data.line(label).answers, preparedAnswers) === undefined)) return false;
  const found = chosen.map(label => answersBy(shown, label)),
    every = [...data.ranks(chosen[0], way).keys()];
  const told = every.filter(query => found.some(by => by(query).length)).length;
  return told > 0 && told < every.length;
}

function isExplained({ data, chosen }) {
  return chosen.some(label => data.line(label).why);
}

/** The queries to list, in order. */
function queriesOf(shown, order, first, find) {
  const { data, names, texts, chosen, way } = shown;
  const ranks = chosen.map(label => data.ranks(label, way)),
    wanted = texts ? find.toLowerCase() : find.replace(/,/g, "");
  const textOf = query => {
    if (!texts) return String(query + 1);
    return way === "t2i"
      ? `${names.caption(query)}\n${names.captionId(query)}`
      : `${names.image(query)}\n${names.own(query).join("\n")}`;
  };
  const spread = query => {
    const logs = ranks.map(of => Math.log(of[query]));
    return Math.max(...logs) - Math.min(...logs);
  };
  const between = query => Math.abs(Math.log(ranks[0][query]) - Math.log(ranks[1][query]));
  const found = order === "told" ? chosen.map(label => answersBy(shown, label)) : null,
    whys = chosen.map(label => loaded(data.line(label).why));
  const isListed = query => {
    if (found && !found.some(by => by(query).length)) return false;
    if (order === "why" && !whys.some(why => why && why[way] && why[way][query])) return false;
    if (order === "a" && !(ranks[0][query] <= first && ranks[1][query] > first)) return false;
    if (order === "b" && !(ranks[1][query] <= first && ranks[0][query] > first)) return false;
    return !wanted || textOf(query).toLowerCase().includes(wanted);
  };
  const listed = [...ranks[0].keys()].filter(isListed);
  if (order === "data") return listed;
  const keys = new Map(listed.map(query => [query, order === "apart" ? spread(query) : between(query)]));
  return listed.sort((x, y) => keys.get(y) - keys.get(x) || x - y);
}

function sentenceOf({ way, texts }, { order, first, find, listed }) {
  const which = {
    a: ` that A found among the first ${first} and B missed`,
    b: ` that B found among the first ${first} and A missed`,
    apart: ", those first where ranks differ most",
    data: ", in the order of the data",
    told: " with recorded answers",
    why: " whose first answer is explained",
  }[order];
  const holding = find ? ` with “${find}” in ${texts ? "caption or id" : "their number"}` : "";
  return `${count(listed.length, WAYS[way].one)}${holding}${which}. Numbers are ranks of the right answer; ✓: among the first ${first}.`;
}

function drawList(list, shown, now, choose, refresh) {
  const { data, names, chosen, way } = shown,
    { listed, most, first } = now;
  const items = listed.slice(0, most).map(query => {
    const href = link(["queries", shown.table.id], { ...Object.fromEntries(route().query), query: query + 1 });
    const own = way === "t2i" ? [names.caption(query)] : names.own(query);
    const text = own.find(one => one.toLowerCase().includes(now.find.toLowerCase())) || own[0] || "";
    const id = way === "t2i" ? names.captionId(query) : names.image(query);
    return el(
      "li",
      {},
      el(
        "a",
        {
          href,
          "aria-current": query === now.chosen ? "true" : undefined,
          onclick: event => {
            if (event.ctrlKey || event.metaKey || event.shiftKey) return;
            event.preventDefault();
            choose(query);
          },
        },
        el("span", { dir: "auto", class: "text" }, text),
        el("small", {}, bdi(id)),
      ),
      el(
        "span",
        { class: "ranks" },
        chosen.map((label, place) => {
          const rank = data.ranks(label, way)[query];
          return el(
            "span",
            { class: `rank of${place}` },
            el("span", { class: "unseen" }, "rank by "),
            `${LETTERS[place]} ${rankText(rank)}${rank <= first ? " ✓" : ""}`,
          );
        }),
      ),
    );
  });
  const left = listed.length - items.length;
  const button = el(
    "button",
    {
      type: "button",
      onclick: () => {
        change({ shown: String(most + LISTED) }, true);
        refresh();
        const link = list.querySelectorAll("li a")[most];
        if (link) link.focus();
      },
    },
    `${Math.min(LISTED, left)} more of ${count(left, "other")}`,
  );
  list.replaceChildren(
    el(
      "div",
      {
        class: "list",
        tabindex: "0",
        role: "region",
        "aria-label": "Queries, with the rank of the right answer by each method",
      },
      items.length ? el("ol", {}, items) : el("p", {}, "There is none."),
      left > 0 ? button : "",
    ),
  );
}

/** A picture, or what stands in its place; the right one has a border and a tick, and words for all. */
function picture(names, image, label, isRight, why) {
  const frame = el("span", { class: "frame" }),
    url = names.url(image);
  const instead = () => el("span", { class: "placeholder" }, bdi(names.image(image)), " (no picture here)");
  if (url) {
    const shown = el("img", {
      src: url,
      alt: names.own(image)[0] || names.image(image),
      onerror: () => frame.replaceChildren(instead()),
    });
    add(frame, shown, why && why.boxes.length ? overlay(why) : "");
  } else add(frame, instead());
  return el(
    "figure",
    { class: isRight ? "picture right" : "picture" },
    frame,
    label ? el("figcaption", {}, label, isRight ? " ✓ right" : "") : "",
  );
}

/** Boxes of regions, the best pair of them joined by a line that ends in a dot. */
function overlay(why) {
  const [first, second] = why.pairs.length ? why.pairs[0] : [];
  const won = new Set(why.pairs.length ? [first, second] : why.regions.slice(0, 1).map(region => region[0]));
  const boxes = why.boxes.map(([x0, y0, x1, y1], place) =>
    svgEl("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: won.has(place) ? "won" : undefined }),
  );
  const middle = place => [0, 1].map(axis => (why.boxes[place][axis] + why.boxes[place][axis + 2]) / 2);
  const [a, b] = first === undefined ? [] : [middle(first), middle(second)];
  return svgEl(
    "svg",
    { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" },
    boxes,
    a
      ? [svgEl("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1] }), svgEl("circle", { cx: b[0], cy: b[1], r: 0.03 })]
      : [],
  );
}

/** The scores of the first answer level by level, the best pair of regions, and attention over the characters. */
function reasons(why) {
  const scores = Object.entries(why.scores)
    .map(([level, score]) => `${level} ${score.toFixed(3)}`)
    .join(", ");
  const pair = why.pairs[0],
    best = pair ? `; best region pair ${pair[0] + 1} → ${pair[1] + 1} (${pair[2].toFixed(3)})` : "";
  const strips = Object.entries(why.attention)
    .filter(([, weights]) => weights.length === why.read.length)
    .map(([level, weights]) => {
      const most = Math.max(...weights) || 1;
      const letters = [...why.read].map((letter, place) => {
        const made = el("span", {}, letter);
        made.style.borderBottomColor = `rgba(var(--glow), ${(weights[place] / most).toFixed(2)})`;
        return made;
      });
      return el(
        "div",
        {},
        `${level} attention, by the line below each character:`,
        el("div", { class: "attention", dir: "ltr" }, letters),
      );
    });
  return el("div", { class: "why" }, el("p", {}, el("b", {}, "Why the first: "), scores + best), strips);
}

function drawQuery(panel, shown, now) {
  const { data, texts, names, chosen, way } = shown,
    query = now.chosen;
  panel.replaceChildren();
  if (query < 0) return;
  const isText = way === "t2i",
    image = isText ? data.owners[query] : query;
  const id = isText ? names.captionId(query) : names.image(query);
  add(
    panel,
    el(
      "h2",
      { tabindex: "-1" },
      `${isText ? "Caption" : "Image"} ${numeral(query)}${texts ? ", " : isText ? ", of image " : ""}`,
      texts ? bdi(id) : isText ? numeral(image) : "",
    ),
  );
  const others = names.own(image),
    rows = texts ? Array.from(others.keys(), place => texts.first[image] + place) : [];
  if (texts && (texts.words || texts.pictures))
    add(
      panel,
      el(
        "div",
        { class: "own" },
        picture(names, image, isText ? "its own image" : "the query", false),
        el(
          "div",
          {},
          isText ? el("blockquote", { dir: "auto" }, names.caption(query)) : "",
          others.length
            ? [
                el("h3", {}, isText ? "All captions of its image" : "Its own captions"),
                el(
                  "ul",
                  {},
                  others.map((caption, place) =>
                    el(
                      "li",
                      {
                        dir: "auto",
                        class: isText && data.protocol === "captions" && rows[place] === query ? "asked" : undefined,
                      },
                      caption,
                    ),
                  ),
                ),
              ]
            : "",
        ),
      ),
    );
  add(
    panel,
    el(
      "div",
      { class: "methods" },
      chosen.map((label, place) => answersOf(shown, label, place, query)),
    ),
  );
}

/** What a row found for a query. */
function answersOf(shown, label, place, query) {
  const { table, data, names, way } = shown,
    isText = way === "t2i",
    line = data.line(label);
  const rank = data.ranks(label, way)[query],
    size = isText ? data.images : data.texts;
  const within = data.folds ? Math.floor(size / data.folds) : size;
  const made = el(
    "section",
    { class: `method of${place}`, "aria-label": `Method ${LETTERS[place]}, ${label}` },
    el("h3", {}, `${LETTERS[place]} `, rowLink(table, rowOf(table, label))),
    el(
      "p",
      {},
      `The ${isText ? "right image" : "first right caption"} has rank ${rankText(rank)} of ${within.toLocaleString("en")}${Number.isInteger(rank) ? "" : ", as expected over random order of ties"}.`,
    ),
  );
  const all = loaded(line.answers, preparedAnswers),
    whys = loaded(line.why);
  const found = answersBy(shown, label)(query);
  if (!found.length)
    return add(
      made,
      el("p", { class: "notes" }, all === undefined ? "Loading what it found…" : absence(shown, line, all)),
    );
  const why = whys && whys[way] && whys[way][query],
    told = why && why.first === found[0] ? why : null;
  const owner = answer => (isText ? answer : data.owners[answer]),
    own = isText ? data.owners[query] : query;
  if (isText)
    add(
      made,
      el(
        "ol",
        { class: "pictures" },
        found.map((answer, at) =>
          el(
            "li",
            {},
            picture(names, answer, [`${at + 1}. `, bdi(names.image(answer))], answer === own, at ? null : told),
          ),
        ),
      ),
    );
  else {
    if (told) add(made, picture(names, query, "regions that matched its first answer", false, told));
    add(
      made,
      el(
        "ol",
        {},
        found.map(answer =>
          el(
            "li",
            { dir: "auto", class: owner(answer) === own ? "right" : undefined },
            names.caption(answer),
            " ",
            el("small", {}, bdi(names.captionId(answer))),
            owner(answer) === own ? " ✓ right" : "",
          ),
        ),
      ),
    );
  }
  if (told) add(made, reasons(told));
  return made;
}

/** Why nothing is shown that a row found. */
function absence({ data }, line, all) {
  if (data.folds || data.protocol === "mean") return "What it found is not recorded.";
  if (all) return "What it found is recorded for a sample of the queries, not for this one.";
  if (line.answers)
    return "There is no room for what it found: cran-bench report --site DIR writes a folder that has it.";
  return "What it found is not recorded for this query.";
}

// Contrasts ---------------------------------------------------------------------------------------------------------------

views.contrasts = (main, { parts, query }) => {
  if (!parts.length) return add(main, el("h1", {}, "Hardest contrasts"), tablesWith("contrasts"));
  const table = tableOf(parts[0]);
  if (!table) return missing(main, `There is no table ${parts[0]}.`);
  add(
    main,
    el("h1", {}, "Hardest contrasts: ", bdi(table.name)),
    el("p", {}, anchor(link(["table", table.id]), "The table of these rows")),
  );
  const data = loaded(table.details.contrasts);
  if (data === undefined) return add(main, el("p", {}, "Loading…"));
  if (!data)
    return add(
      main,
      el(
        "p",
        {},
        "This page has no contrasts of it, or no room for them: cran-bench report --site DIR writes a folder that has all.",
      ),
    );
  const rows = table.rows.map(row => data.rows.find(one => one.label === row.label)).filter(Boolean);
  const row = rows.find(one => one.label === query.get("method")) || rows.find(one => one.hard.length) || rows[0];
  add(
    main,
    el(
      "form",
      { class: "filters", "aria-label": "Method", onsubmit: event => event.preventDefault() },
      choice(
        "Method",
        rows.map(one => [one.label, one.label]),
        row.label,
        method => change({ method }),
      ),
    ),
    el(
      "p",
      { role: "status" },
      row.hard.length
        ? `${count(row.hard.length, "contrast")} that ${row.label}, seed ${row.seed}, gets wrong by the widest margin, the widest first: the false caption scores above the true one.`
        : `${row.label}, seed ${row.seed}, gets none wrong, or its contrasts are not recorded.`,
    ),
  );
  if (!data.data)
    add(
      main,
      el("p", { class: "notes" }, "The page was made without these data: captions and pictures are not shown."),
    );
  const names = { image: image => image, own: () => [], url: () => "" };
  add(
    main,
    el(
      "div",
      { class: "cards" },
      row.hard.map(([pair, right, wrong], place) => {
        const one = data.pairs[pair],
          [truth, lie] = one.captions || ["the true caption", "the false caption"];
        const able = one.right.map(number => data.rows[number]).filter(other => other !== row);
        const url = one.place < 0 ? "" : pictureUrl(`${data.data}/${one.place}`);
        return el(
          "article",
          { class: "card", "aria-label": `Contrast ${place + 1}` },
          el("h2", {}, `${place + 1}. `, one.kind, " ", el("small", {}, bdi(one.image))),
          el(
            "div",
            { class: "own" },
            picture({ ...names, own: () => [truth], url: () => url }, one.image, "", false),
            el(
              "ul",
              { class: "sides" },
              el(
                "li",
                { dir: "auto", class: "right" },
                el("b", {}, "true ✓ "),
                truth,
                el("small", {}, ` scores ${right.toFixed(3)}`),
              ),
              el(
                "li",
                { dir: "auto", class: "wrong" },
                el("b", {}, "false ✗ "),
                lie,
                el("small", {}, ` scores ${wrong.toFixed(3)}`),
              ),
            ),
          ),
          el(
            "details",
            { class: "notes" },
            el("summary", {}, `${able.length} of ${data.rows.length - 1} other rows get it right`),
            able.length
              ? el(
                  "ul",
                  {},
                  able.map(other => el("li", {}, rowLink(table, other))),
                )
              : el("p", {}, "None does."),
          ),
        );
      }),
    ),
  );
};
