"use strict";

// Elements ------------------------------------------------------------------------------------------------------------

/** An element with attributes, listeners (onclick: function) and children; texts never become markup. */
function el(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svgEl(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(3).filter(child => child !== undefined && child !== null && child !== ""));
  return made;
}

/** Append children: nodes, texts, and lists of them. */
function add(parent, ...children) {
  return filled(parent, {}, children);
}

/** A name from the data, which may run from right to left, and which may be folded after a separator. */
function bdi(text) {
  const pieces = String(text).split(/(?<=[[\],:|/=_])/);
  return el(
    "bdi",
    {},
    pieces.flatMap((piece, place) => (place ? [el("wbr"), piece] : [piece])),
  );
}

function anchor(href, ...children) {
  return el("a", { href }, ...children);
}

/** A list of links; "" if there are none. */
function linkList(links) {
  return links.length
    ? el(
        "ul",
        { class: "links" },
        links.map(one => el("li", {}, one)),
      )
    : "";
}

/** Notes below a heading that opens them. */
function foldedNotes(heading, notes) {
  return el(
    "details",
    { class: "notes" },
    el("summary", {}, heading),
    el(
      "ul",
      {},
      notes.map(note => el("li", {}, note)),
    ),
  );
}

/** Links to tables, with the number of their rows. */
function tableLinks(tables, view) {
  return linkList(
    tables.map(table => [anchor(link([view, table.id]), bdi(table.name)), `: ${count(table.rows.length, "row")}`]),
  );
}

let made = 0;

/** An id that no other element has. */
function newId(prefix) {
  made += 1;
  return `${prefix}-${made}`;
}

/** A labelled select box: `options` are [value, text]. */
function choice(label, options, value, onchange) {
  const select = el(
    "select",
    { id: newId("choice") },
    options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)),
  );
  select.addEventListener("change", () => onchange(select.value));
  return el("div", { class: "choice" }, el("label", { for: select.id }, label), select);
}

// Numbers -------------------------------------------------------------------------------------------------------------

/** "12 s", "3.4 min"; "" if it is not known. */
function durationText(seconds) {
  if (typeof seconds !== "number") return "";
  const [number, unit] =
    seconds < 120 ? [seconds, "s"] : seconds < 7200 ? [seconds / 60, "min"] : [seconds / 3600, "h"];
  return `${number < 1 ? Number(number.toPrecision(2)) : number.toFixed(number < 10 ? 1 : 0)} ${unit}`;
}

/** "800 MB", "1.2 GB"; "" if it is not known. */
function memoryText(bytes) {
  if (!bytes) return "";
  return bytes < 1e9 ? `${Math.round(bytes / 1e6)} MB` : `${Number((bytes / 1e9).toFixed(1))} GB`;
}

function count(number, one, many) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many || `${one}s`}`;
}

// Data ----------------------------------------------------------------------------------------------------------------

const site = JSON.parse(document.getElementById("contents").textContent);
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const isFolder = document.documentElement.hasAttribute("data-folder");
const kept = new Map(),
  waiting = new Map();

/** Called by the files of details. */
function keep(name, value) {
  kept.set(name, value);
}

/** The value that Python put under a name; null if there is none. */
function details(name) {
  if (kept.has(name)) return Promise.resolve(kept.get(name));
  const inline = name && document.getElementById(`detail-${name}`);
  if (inline) keep(name, JSON.parse(inline.textContent));
  if (inline || !name || !isFolder) return Promise.resolve(kept.get(name) ?? null);
  if (!waiting.has(name)) {
    waiting.set(
      name,
      new Promise(resolve => {
        const script = el("script", { src: `details/${encodeURIComponent(name)}.js` });
        script.addEventListener("load", () => resolve(kept.get(name) ?? null));
        script.addEventListener("error", () => resolve(null));
        document.head.append(script);
      }),
    );
  }
  return waiting.get(name);
}

/** The address of a picture that Python kept; "" if there is none. */
function pictureUrl(key) {
  if (!key) return "";
  return isFolder ? `pictures/${key.split("/").map(encodeURIComponent).join("/")}.webp` : pictures[key] || "";
}

function tableOf(id) {
  return site.tables.find(table => table.id === id);
}

function rowOf(table, label) {
  return table && table.rows.find(row => row.label === label);
}
