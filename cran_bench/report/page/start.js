// The page ----------------------------------------------------------------------------------------------------------------

for (const [view, text] of [
  ["overview", "Overview"],
  ["queries", "Query by query"],
  ["paper", "Against the paper"],
]) {
  if (views[view]) {
    const item = anchor(view === "overview" ? "#/" : link([view]), text);
    item.dataset.view = view;
    document.getElementById("pages").append(el("li", {}, item));
  }
}
document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault(); // the part after # is the state
  document.getElementById("main").focus();
});
addEventListener("hashchange", () => draw(named() === drawn));
draw(true);
