"use strict";
// The one script of a page: heads of tables become buttons. A click sorts upwards, the next downwards, the third puts
// the rows back as they were. Cells carry what they are sorted by where that is a number; empty ones stay last.
// Without scripts the heads are plain text.
document.querySelectorAll(".table table").forEach(sortable);
function sortable(table) {
  const body = table.tBodies[0], rows = [...body.rows];
  if (rows.length < 2) return;
  table.classList.add("sortable");
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === "ascending" ? "descending" : now ? null : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      body.append(...(next ? sorted(rows, column, next === "descending" ? -1 : 1) : rows));
    });
  });
}
function sorted(rows, column, direction) {
  const filled = rows.filter(row => !row.cells[column].classList.contains("empty"));
  const value = row => row.cells[column].dataset.sort, text = row => row.cells[column].textContent;
  const numbers = filled.every(row => value(row) !== undefined);
  const order = numbers ? (a, b) => value(a) - value(b)
    : (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
  return [...filled.sort((a, b) => direction * order(a, b)), ...rows.filter(row => !filled.includes(row))];
}
// Print what is folded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
// The page of a run under way reads itself again, unless its reader says no.
const again = document.querySelector("#again");
if (again) setInterval(() => { if (again.checked) location.reload(); }, 1000 * again.dataset.seconds);
