"use strict";

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawing(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Tables -------------------------------------------------------------------------------------------------------------

function sortBy(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const falls = heading.getAttribute("aria-sort") !== "descending" && column > 0
    || heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const value = row => row.cells[column].dataset.value;
  const order = (a, b) => column === 0 ? value(a).localeCompare(value(b)) : number(value(a)) - number(value(b));
  const rows = [...table.tBodies[0].rows].sort((a, b) => falls ? order(b, a) : order(a, b));
  table.tBodies[0].append(...rows);
}

function number(text) {
  return text === "-inf" ? Number.NEGATIVE_INFINITY : Number(text);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => sortBy(table, column));
  });
}

// Gallery ------------------------------------------------------------------------------------------------------------

const gallery = JSON.parse(document.getElementById("gallery").textContent);

function textOf(section, image, number) {
  const own = (gallery.texts[section.dataset] || {})[image];
  if (!own) return `text ${number} of ${image} (the dataset is not available)`;
  return section.unit === "documents" ? own.join(" ") : own[number - 1] ?? `text ${number} of ${image}`;
}

function picture(section, image, isRight, label, why) {
  const source = (gallery.images[section.dataset] || {})[image];
  const frame = element("span", { class: "frame" });
  if (source) {
    frame.append(element("img", { src: source, alt: image }));
    if (why && why.boxes.length) frame.append(overlay(why));
  } else {
    frame.append(element("span", { class: "placeholder" }, `${image} (no image available)`));
  }
  return element("div", { class: isRight ? "picture right" : "picture" }, frame, label + (isRight ? " ✓" : ""));
}

function overlay(why) {
  const made = drawing("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  const [first, second] = why.pairs.length ? why.pairs[0] : [];
  const won = new Set([first, second, ...(why.pairs.length ? [] : why.regions.slice(0, 1).map(r => r[0]))]);
  why.boxes.forEach(([x0, y0, x1, y1], place) => {
    const box = drawing("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
    if (won.has(place)) box.setAttribute("class", "won");
    made.append(box);
  });
  if (first !== undefined) {
    const middle = place => [0, 1].map(axis => (why.boxes[place][axis] + why.boxes[place][axis + 2]) / 2);
    const [a, b] = [middle(first), middle(second)];
    made.append(drawing("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1] }));
    made.append(drawing("circle", { cx: b[0], cy: b[1], r: 0.03 }));  // where the pair points
  }
  return made;
}

function strips(example) {
  const why = example.why;
  if (!why || !example.read) return [];
  return Object.entries(why.attention).filter(([, weights]) => weights.length === example.read.length).map(([level, weights]) => {
    const most = Math.max(...weights) || 1;
    const line = element("div", { class: "attention", "aria-label": `${level} attention: ${example.read}` });
    [...example.read].forEach((character, place) => {
      const span = element("span", {}, character);
      span.style.backgroundColor = `rgba(var(--glow), ${(0.85 * weights[place] / most).toFixed(2)})`;
      line.append(span);
    });
    return element("div", {}, `${level} attention`, line);
  });
}

function reasons(example) {
  if (!example.why) return [];
  const scores = Object.entries(example.why.scores).map(([level, score]) => `${level} ${score.toFixed(3)}`).join(", ");
  const pair = example.why.pairs[0];
  const best = pair ? `; best region pair ${pair[0] + 1} → ${pair[1] + 1} (${pair[2].toFixed(3)})` : "";
  return [element("div", { class: "why" }, element("b", {}, "Scores of the first answer: "), scores + best, ...strips(example))];
}

function card(section, example) {
  const made = element("article", { class: "card" });
  const body = element("div", { class: "body" });
  if (example.direction === "i2t") {
    made.append(element("h4", {}, `Texts for ${example.image}`));
    body.append(picture(section, example.image, false, "the query", example.why));
    const list = element("ol");
    for (const answer of example.found) {
      const isRight = answer.image === example.image;
      const text = `${textOf(section, answer.image, answer.text)} (${answer.score.toFixed(3)})`;
      list.append(element("li", { class: isRight ? "right" : undefined }, text));
    }
    body.append(list);
  } else {
    made.append(element("h4", {}, `Images for “${textOf(section, example.image, example.text)}”`));
    example.found.forEach((answer, place) => {
      const why = place === 0 ? example.why : undefined;
      const label = `${place + 1}. ${answer.score.toFixed(3)}`;
      body.append(picture(section, answer.image, answer.image === example.image, label, why));
    });
  }
  body.append(...reasons(example));
  made.append(body);
  return made;
}

function contrast(section, one) {
  const [right, wrong] = one.captions || ["the true caption (the dataset is not available)", "the false caption"];
  const made = element("article", { class: "card" });
  const list = element("ul", {},
    element("li", { class: "right" }, `${right} (${one.true.toFixed(3)})`),
    element("li", {}, `${wrong} (${one.false.toFixed(3)})`));
  const body = element("div", { class: "body" }, picture(section, one.image, false, one.kind), list);
  made.append(element("h4", {}, `Captions of ${one.image}`), body);
  return made;
}

function choose(label, options) {
  const select = element("select", {}, ...options.map((text, place) => element("option", { value: place }, text)));
  return [element("label", {}, `${label} `, select), select];
}

function open(details) {
  const section = gallery.sections[details.dataset.section];
  const cards = details.querySelector(".cards");
  const [method, methods] = choose("Method", section.runs.map(run => `${run.method}, seed ${run.seed}`));
  const [direction, directions] = choose("Queries", ["texts", "images"]);
  const hasQueries = "examples" in section.runs[0];
  const show = () => {
    const run = section.runs[methods.value], wanted = directions.value === "0" ? "t2i" : "i2t";
    const examples = (run.examples || []).filter(example => example.direction === wanted);
    const contrasts = (run.contrasts || []).map(one => contrast(section, one));
    cards.replaceChildren(...examples.map(example => card(section, example)), ...contrasts);
  };
  methods.addEventListener("change", show);
  directions.addEventListener("change", show);
  details.querySelector(".choices").append(method, ...(hasQueries ? [direction] : []));
  show();
}

for (const details of document.querySelectorAll("details.gallery")) {
  details.addEventListener("toggle", () => open(details), { once: true });
}
