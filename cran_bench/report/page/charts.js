// Charts: rows of marks whose texts are texts, and drawings that are made for the width they get ---------------------------

const SHAPES = {
  circle: "M6 2a4 4 0 1 0 .01 0z",
  up: "M6 1.2 11 10.2H1z",
  down: "M6 10.8 1 1.8H11z",
  square: "M2.2 2.2H9.8V9.8H2.2z",
  diamond: "M6 .6 11.4 6 6 11.4 .6 6z",
  right: "M1.8 1 10.8 6 1.8 11z",
  cross: "M2 2 10 10M10 2 2 10",
  tick: "M6 0V12",
};

/** A mark of 12 pixels: `filled`, `hollow` or, for crosses and ticks, drawn by lines. */
function glyph(shape, look) {
  return svgEl(
    "svg",
    { class: `glyph ${look || ""}`, viewBox: "0 0 12 12", "aria-hidden": "true" },
    svgEl("path", { d: SHAPES[shape] }),
  );
}

function percent(value, [least, most]) {
  return `${Math.min(100, Math.max(0, (100 * (value - least)) / (most - least))).toFixed(2)}%`;
}

/** A name on the left, marks on a scale, a text on the right; one line, or two where it is narrow. */
function strip(name, marks, text) {
  return el(
    "li",
    { class: "strip" },
    el("span", { class: "name" }, name),
    el("span", { class: "track", "aria-hidden": "true" }, marks),
    el("span", { class: "value" }, text),
  );
}

function spanned(kind, low, high, scale) {
  const from = percent(low, scale),
    to = percent(high, scale);
  return el("span", { class: kind, style: `left:${from};width:calc(${to} - ${from})` });
}

function placed(kind, value, scale, ...children) {
  return el("span", { class: kind, style: `left:${percent(value, scale)}` }, ...children);
}

/** The numbers of a scale below its rows. */
function axis(scale, ticks) {
  return el(
    "li",
    { class: "strip axis", "aria-hidden": "true" },
    el("span", { class: "name" }),
    el(
      "span",
      { class: "track" },
      ticks.map(tick => placed("number", tick, scale, String(tick))),
    ),
    el("span", { class: "value" }),
  );
}

/**
 * Bars with whiskers.
 *
 * rows: {label, value, interval: [low, high], text}; those without a value are left out.
 * title, note: above the bars.
 * least, most: the ends of the scale; bars begin at zero.
 * chance: what a line marks.
 */
function bars(rows, { title, note = "", least = 0, most = 100, chance }) {
  const drawn = rows.filter(row => typeof row.value === "number");
  if (!drawn.length) return "";
  const ends = drawn.flatMap(row => [row.value, ...(row.interval || [])]),
    scale = [Math.min(least, ...ends), Math.max(most, ...ends)];
  const line = chance === undefined ? [] : [placed("chance", chance, scale)];
  return el(
    "figure",
    { class: "chart" },
    el(
      "figcaption",
      {},
      title,
      " ",
      el("small", {}, note, chance === undefined ? "" : ` The line marks chance, ${chance}.`),
    ),
    el(
      "ul",
      { class: "strips", "aria-label": title },
      drawn.map(row =>
        strip(
          bdi(row.label),
          [
            spanned("fill", Math.min(0, row.value), Math.max(0, row.value), scale),
            row.interval ? spanned("whisker", ...row.interval, scale) : "",
            ...line.map(one => one.cloneNode()),
          ],
          row.text,
        ),
      ),
    ),
  );
}

const PHASES = ["fit", "embed", "similarity", "rank"];

/** Seconds by phase, stacked; rows: {label, seconds: {fit, embed, similarity, rank}}. */
function phases(rows) {
  const total = row => PHASES.reduce((sum, phase) => sum + (row.seconds[phase] || 0), 0);
  const drawn = rows.filter(row => PHASES.some(phase => typeof row.seconds[phase] === "number"));
  const scale = [0, Math.max(...drawn.map(total)) || 1];
  if (!drawn.length) return "";
  const stacked = row =>
    PHASES.map((phase, place) => {
      const before = PHASES.slice(0, place).reduce((sum, other) => sum + (row.seconds[other] || 0), 0);
      return spanned(`part ${phase}`, before, before + (row.seconds[phase] || 0), scale);
    });
  return el(
    "figure",
    { class: "chart" },
    el(
      "figcaption",
      {},
      "Seconds by phase ",
      el(
        "small",
        {},
        "means over seeds: ",
        PHASES.map(phase => el("span", { class: "pair" }, el("span", { class: `key ${phase}` }), phase)),
      ),
    ),
    el(
      "ul",
      { class: "strips", "aria-label": "Seconds by phase" },
      drawn.map(row => strip(bdi(row.label), stacked(row), durationText(total(row)))),
    ),
    el(
      "details",
      {},
      el("summary", {}, "Seconds as a table"),
      plainTable(
        ["row", ...PHASES, "sum"],
        drawn.map(row => [
          bdi(row.label),
          ...PHASES.map(phase => durationText(row.seconds[phase])),
          durationText(total(row)),
        ]),
        "Seconds by phase",
      ),
    ),
  );
}

// Quality against cost ------------------------------------------------------------------------------------------------

const COSTS = {
  seconds: {
    title: "Quality against fit time",
    axis: "fit time",
    better: "faster",
    text: durationText,
    ticks: [
      [0.001, "1 ms"],
      [0.01, "10 ms"],
      [0.1, "0.1 s"],
      [1, "1 s"],
      [10, "10 s"],
      [60, "1 min"],
      [600, "10 min"],
      [3600, "1 h"],
      [36000, "10 h"],
      [360000, "100 h"],
    ],
  },
  memory: {
    title: "Quality against memory",
    axis: "peak memory",
    better: "smaller",
    text: memoryText,
    ticks: [6, 7, 8, 9, 10, 11].flatMap(power =>
      [1, 1.5, 2, 3, 5, 7].map(factor => [factor * 10 ** power, memoryText(factor * 10 ** power)]),
    ),
  },
};

/** The points that no other beats in quality without costing more, from cheap to good. */
function front(points, cost) {
  const found = [];
  for (const point of [...points].sort((a, b) => a[cost] - b[cost] || b.quality - a.quality)) {
    const last = found[found.length - 1];
    if (!last || point.quality > last.quality || (point.quality === last.quality && point[cost] === last[cost]))
      found.push(point);
  }
  return found;
}

/** Quality against fit time and against memory; points: {label, href, quality, seconds, memory}, quality: its name. */
function scatter(points, { quality }) {
  const known = Object.keys(COSTS)
    .map(cost => [cost, points.filter(point => point[cost] > 0)])
    .filter(([, some]) => some.length > 1);
  if (!known.length) return "";
  const fronts = known.map(([cost, some]) => [cost, new Set(front(some, cost))]);
  const rows = [...points].sort((a, b) => b.quality - a.quality);
  return el(
    "div",
    { class: "pair-of-charts" },
    known.map(([cost, some]) => cloud(some, cost, quality, points.length - some.length)),
    el(
      "details",
      { class: "whole" },
      el("summary", {}, "Quality and cost as a table"),
      plainTable(
        ["row", quality, "fit time", "peak memory", "on the front of"],
        rows.map(point => [
          bdi(point.label),
          numberText(point.quality),
          durationText(point.seconds) || "unknown",
          memoryText(point.memory) || "unknown",
          fronts
            .filter(([, some]) => some.has(point))
            .map(([cost]) => COSTS[cost].axis)
            .join(", "),
        ]),
        `${quality}, fit time and memory`,
      ),
    ),
  );
}

function numberText(value) {
  return Math.abs(value) < 1.5 ? value.toFixed(3) : value.toFixed(1);
}

function cloud(points, cost, quality, left) {
  const about = COSTS[cost],
    best = front(points, cost),
    named = best.slice(-12),
    box = el("div", { class: "drawing" });
  const where = point => [
    anchor(point.href, bdi(point.label)),
    ` (${numberText(point.quality)}, ${about.text(point[cost])})`,
  ];
  const title = `${about.title}: ${points.length} rows; ${best.length} on the Pareto front, listed below.`;
  new ResizeObserver(() => {
    const width = Math.floor(box.clientWidth);
    if (width && box.dataset.width !== String(width)) {
      box.dataset.width = width;
      box.replaceChildren(drawCloud(points, best, cost, quality, width, title));
    }
  }).observe(box);
  return el(
    "figure",
    { class: "chart" },
    el(
      "figcaption",
      {},
      about.title,
      " ",
      el(
        "small",
        {},
        el("span", { class: "pair" }, glyph("diamond", "filled"), " on the Pareto front"),
        " ",
        el("span", { class: "pair" }, glyph("circle", "hollow"), " behind it"),
      ),
    ),
    box,
    el(
      "p",
      { class: "notes" },
      `No row is both better and ${about.better} than `,
      best.length > 1 ? "these: " : "",
      named.flatMap((point, place) => [place ? ", " : "", ...where(point)]),
      best.length > named.length ? `, and ${best.length - named.length} that cost less, in the table below` : "",
      ".",
      left ? ` Left out, without a ${about.axis}: ${count(left, "row")}.` : "",
    ),
  );
}

/** Round numbers that divide a scale into about `count` parts. */
function roundTicks(low, high, count) {
  const raw = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(raw)),
    step = [1, 2, 5, 10].find(factor => factor * power >= raw) * power;
  const ticks = [];
  for (let place = Math.ceil(low / step); place * step <= high + 1e-9 * step; place += 1)
    ticks.push(Number((place * step).toPrecision(12)));
  return ticks;
}

const pen = document.createElement("canvas").getContext("2d");

function widthOf(text, weight = 400) {
  pen.font = `${weight} 12px system-ui, -apple-system, "Segoe UI", sans-serif`;
  return pen.measureText(text).width;
}

function drawCloud(points, best, cost, quality, width, title) {
  const about = COSTS[cost],
    height = Math.round(Math.min(340, Math.max(240, 0.62 * width)));
  const costs = points.map(point => Math.log(point[cost])),
    values = points.map(point => point.quality);
  const spread = (numbers, least, more) => {
    const low = Math.min(...numbers),
      high = Math.max(...numbers),
      pad = 0.07 * (high - low) + least;
    return [low - pad, high + more * pad];
  };
  const across = spread(costs, 0.2, 1),
    up = spread(values, 1e-3 * Math.max(...values.map(Math.abs), 1), 2);
  const marks = roundTicks(...up, 5),
    texts = marks.map(mark => String(mark));
  const area = {
    left: Math.ceil(Math.max(...texts.map(widthOf))) + 10,
    right: width - 8,
    top: 24,
    bottom: height - 40,
  };
  const x = value => area.left + ((area.right - area.left) * (value - across[0])) / (across[1] - across[0]);
  const y = value => area.bottom - ((area.bottom - area.top) * (value - up[0])) / (up[1] - up[0]);
  const spot = point => [x(Math.log(point[cost])), y(point.quality)];
  const drawing = svgEl("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title });
  for (const [place, mark] of marks.entries()) {
    drawing.append(
      svgEl("line", { class: "grid", x1: area.left, x2: area.right, y1: y(mark), y2: y(mark) }),
      svgEl("text", { x: area.left - 6, y: y(mark) + 4, "text-anchor": "end" }, texts[place]),
    );
  }
  let end = -Infinity;
  for (const [value, text] of about.ticks) {
    const at = x(Math.log(value)),
      half = widthOf(text) / 2;
    if (at < area.left || at > area.right) continue;
    drawing.append(svgEl("line", { class: "grid", x1: at, x2: at, y1: area.top, y2: area.bottom }));
    if (at - half < end + 8 || at + half > width) continue;
    drawing.append(svgEl("text", { x: at, y: area.bottom + 17, "text-anchor": "middle" }, text));
    end = at + half;
  }
  drawing.append(
    svgEl(
      "text",
      { class: "soft", x: area.right, y: height - 6, "text-anchor": "end" },
      `${about.axis} (logarithmic) →`,
    ),
    svgEl("text", { class: "soft", x: 2, y: 13 }, `↑ ${quality}`),
  );
  const corners = best.map(spot).flatMap(([left, top], place, spots) =>
    place
      ? [
          [left, spots[place - 1][1]],
          [left, top],
        ]
      : [[left, top]],
  );
  corners.push([area.right, corners[corners.length - 1][1]]);
  drawing.append(
    svgEl("polyline", {
      class: "front",
      points: corners.map(corner => corner.map(at => at.toFixed(1)).join(",")).join(" "),
    }),
  );
  const isBest = new Set(best),
    order = [...points].sort((a, b) => isBest.has(b) - isBest.has(a) || b.quality - a.quality);
  for (const point of [...order].reverse()) {
    const [left, top] = spot(point);
    const look = isBest.has(point) ? "filled" : "hollow";
    const mark = svgEl(
      "path",
      {
        class: `mark ${look}`,
        d: SHAPES[isBest.has(point) ? "diamond" : "circle"],
        transform: `translate(${left.toFixed(1)} ${top.toFixed(1)}) translate(-6 -6)`,
      },
      svgEl("title", {}, `${point.label}: ${numberText(point.quality)}, ${about.text(point[cost])}`),
    );
    if (point.href)
      mark.addEventListener("click", () => {
        location.hash = point.href;
      });
    drawing.append(mark);
  }
  const lines = corners
    .slice(1)
    .map(([left, top], place) => [corners[place][0] - 1, top - 1, left + 1, Math.max(top, corners[place][1]) + 1]);
  const labels = [];
  for (const point of order) {
    // a label stands clear of lines, of labels, and so far from other points that it is plainly its own
    const [left, top] = spot(point),
      long = widthOf(point.label, isBest.has(point) ? 600 : 400);
    const others = points
      .filter(other => other !== point)
      .map(spot)
      .map(([at, line]) => [at - 11, line - 9, at + 11, line + 9]);
    const places = [
      [left + 9, top + 4],
      [left - 9 - long, top + 4],
      [left - long / 2, top - 9],
      [left - long / 2, top + 19],
      [left + 7, top - 7],
      [left + 7, top + 16],
      [left - 7 - long, top - 7],
      [left - 7 - long, top + 16],
    ];
    const free = places
      .map(([at, line]) => [at - 2, line - 11, at + long + 2, line + 3])
      .find(
        ([a, b, c, d]) =>
          a >= area.left &&
          c <= area.right &&
          b >= area.top &&
          d <= area.bottom &&
          [...others, ...lines, ...labels].every(([e, f, g, h]) => c <= e || a >= g || d <= f || b >= h),
      );
    if (!free) continue;
    labels.push(free);
    drawing.append(
      svgEl(
        "text",
        { class: isBest.has(point) ? "name best" : "name", x: (free[0] + 2).toFixed(1), y: free[3] - 3 },
        `\u2068${point.label}\u2069`,
      ),
    );
  }
  return drawing;
}

// Training curves -----------------------------------------------------------------------------------------------------

/** Training curves by label: {seed, plots: [{name, across, lines: [{name, x, y}]}]}; one row's are open. */
function curves(trained) {
  const labels = Object.keys(trained);
  return el(
    "div",
    {},
    labels.map(label => {
      const { seed, plots } = trained[label],
        place = el("div", { class: "curves" });
      const fill = () => {
        if (!place.childElementCount) place.append(...plots.map(plot));
      };
      if (labels.length === 1) fill();
      const about = el(
        "details",
        { open: labels.length === 1, ontoggle: fill },
        el("summary", {}, bdi(label), `, seed ${seed}: ${count(plots.length, "trained model")}`),
        place,
      );
      return about;
    }),
  );
}

function plot({ name, across, lines }) {
  const [width, height] = [240, 90],
    all = lines.flatMap(line => line.x),
    from = Math.min(...all),
    to = Math.max(...all);
  const short = value => String(Number(value.toPrecision(4)));
  const texts = lines.map(
    line =>
      `${line.name} ${short(line.y[0])} → ${short(line.y[line.y.length - 1])} (lowest ${short(Math.min(...line.y))}, highest ${short(Math.max(...line.y))})`,
  );
  const pathOf = line => {
    const low = Math.min(...line.y),
      high = Math.max(...line.y);
    return line.x
      .map(
        (x, at) =>
          `${(4 + ((width - 8) * (x - from)) / (to - from || 1)).toFixed(1)},${(height - 6 - ((height - 12) * (line.y[at] - low)) / (high - low || 1)).toFixed(1)}`,
      )
      .join(" ");
  };
  return el(
    "figure",
    { class: "curve" },
    el("figcaption", {}, bdi(name)),
    svgEl(
      "svg",
      {
        viewBox: `0 0 ${width} ${height}`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `${name} by ${across}: ${texts.join("; ")}`,
      },
      lines.map((line, place) => svgEl("polyline", { class: `line${place}`, points: pathOf(line) })),
    ),
    el(
      "small",
      {},
      texts.map((text, place) =>
        el(
          "span",
          { class: "line" },
          svgEl(
            "svg",
            { class: "stroke", viewBox: "0 0 20 4", "aria-hidden": "true" },
            svgEl("polyline", { class: `line${place}`, points: "0,2 20,2" }),
          ),
          " ",
          text,
        ),
      ),
      el("span", { class: "line" }, `${across} ${from} to ${to}; each line on its own scale`),
    ),
  );
}
