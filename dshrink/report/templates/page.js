"use strict";
for (const item of JSON.parse(document.getElementById("figures").textContent)) {
  Bokeh.embed.embed_item(item);
}

/* Figures take their colours from the style when they are drawn; paper is light. Views of Bokeh's
   that are no figures draw nothing. */
matchMedia("screen and (prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const view of Bokeh.index) view.repaint?.();
});

/* Numbers sort by their value, texts as people read them; what is empty comes last either way. */
function sortBy(header) {
  const table = header.closest("table");
  const body = table.tBodies[0];
  const at = [...header.parentElement.children].indexOf(header);
  const isDown = header.getAttribute("aria-sort") === "ascending";
  const isNumber = header.classList.contains("number");
  const key = (row) => {
    const cell = row.cells[at];
    return isNumber ? cell.dataset.value : cell.textContent.trim();
  };
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = isNumber ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
    return isDown ? -order : order;
  };
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", isDown ? "descending" : "ascending");
  body.append(...[...body.rows].sort(compare));
}
for (const header of document.querySelectorAll("th")) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
/* Cells that are cut short say the whole where the pointer is on them. */
for (const cell of document.querySelectorAll("td")) cell.title = cell.textContent.trim();
