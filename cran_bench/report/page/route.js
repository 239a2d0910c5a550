// The state of the page is the part of its address after #, so that a link opens what one sees ----------------------------

const views = {};
let drawn = null; // the view that is drawn, with its parts

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path
    .split("/")
    .filter(Boolean)
    .map(part => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    });
  const view = parts[0] && parts[0] !== "main" ? parts[0] : "overview"; // main: the skip link, in a tab of its own
  return { view, parts: parts.slice(1), query: new URLSearchParams(query || "") };
}

/** The address of a state: the view and its parts, and what is chosen in it. */
function link(parts, query) {
  const chosen = new URLSearchParams(
    Object.entries(query || {}).filter(([, value]) => value !== "" && value !== undefined),
  );
  const path = parts.map(encodeURIComponent).join("/");
  return `#/${path}${chosen.size ? `?${chosen}` : ""}`;
}

/**
 * Choose something in the present view: the address changes, and the view is drawn again unless `quietly`.
 * The browser's Back undoes what is drawn again, and the choice of a query.
 */
function change(values, quietly) {
  const now = route(),
    query = Object.fromEntries(now.query);
  for (const [name, value] of Object.entries(values)) query[name] = value;
  const view = now.view === "overview" && !now.parts.length ? [] : [now.view, ...now.parts];
  const isStep = !quietly || "order" in values || (values.query && !("find" in values));
  history[isStep ? "pushState" : "replaceState"](null, "", link(view, query));
  if (!quietly) draw(true);
}

/** What the address names, whatever is chosen in it. */
function named() {
  const { view, parts } = route();
  return [view, ...parts].join("/");
}

/** Draw the view that the address names; the focus stays where it was if the view is the same. */
function draw(isSame) {
  const main = document.getElementById("main"),
    now = route();
  const focus = isSame ? pathTo(document.activeElement, main) : null;
  const view = views[now.view];
  drawn = named();
  main.replaceChildren();
  if (view) view(main, now);
  else add(main, el("h1", {}, "There is no such page"), el("p", {}, anchor("#/", "To the overview")));
  const title = main.querySelector("h1");
  document.title =
    title && now.view !== "overview" ? `${title.textContent} · cran-bench results` : "cran-bench results";
  for (const item of document.querySelectorAll("#pages a")) {
    if (item.dataset.view === now.view) item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
  }
  if (focus) focused(focus, main);
  else if (!isSame) {
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

/** Where an element is, so that its successor can be found after the view is drawn again. */
function pathTo(element, main) {
  if (!element || !main.contains(element) || element === main) return null;
  const path = [];
  for (let at = element; at !== main; at = at.parentElement) path.unshift([...at.parentElement.children].indexOf(at));
  return { path, at: element.selectionStart };
}

function focused({ path, at }, main) {
  const found = path.reduce((element, place) => element && element.children[place], main);
  if (!found) return;
  found.focus({ preventScroll: true });
  if (typeof at === "number" && found.setSelectionRange) found.setSelectionRange(at, at);
}
