"use strict";
// The script of every page; it adds to the page and hides nothing.
// Heads of tables become buttons. A click sorts upwards, the next downwards, the third puts
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
// On a phone each section of a report but the first is folded below its head.
if (document.body.classList.contains("folds") && matchMedia("(max-width: 640px)").matches) {
  for (const head of [...document.querySelectorAll("main > h2")].slice(1)) {
    const part = document.createElement("details"), summary = document.createElement("summary");
    part.className = "part";
    head.before(part);
    summary.append(head);
    part.append(summary);
    while (part.nextSibling && !part.nextSibling.matches?.("h2, footer")) part.append(part.nextSibling);
  }
}
// Whatever is folded opens where the address leads into it, and on paper.
function open_to_target() {
  const target = document.getElementById(location.hash.slice(1));
  for (let part = target?.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
  if (target?.closest("details")) target.scrollIntoView();
}
addEventListener("hashchange", open_to_target);
open_to_target();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
// The list of contents says which section is being read.
const places = new Map([...document.querySelectorAll(".contents a")].map(a => [a.hash.slice(1), a]));
if (places.size) {
  const heads = [...document.querySelectorAll("main, main h2")].filter(head => places.has(head.id));
  const tell = () => {
    const read = heads.filter(head => head.getBoundingClientRect().top < innerHeight / 3).pop() || heads[0];
    for (const [id, place] of places)
      if (id === read.id) place.setAttribute("aria-current", "true"); else place.removeAttribute("aria-current");
  };
  addEventListener("scroll", tell, { passive: true });
  tell();
}
// A command that repeats the run can be copied; as text it can be selected.
for (const text of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.className = "copy";
  button.addEventListener("click", async () => {
    const range = document.createRange();
    range.selectNodeContents(text);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    try { await navigator.clipboard.writeText(text.textContent); } catch { document.execCommand("copy"); }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  text.after(" ", button);
}
// Films of a first screen play, without sound, while they are in view; never for readers who asked for less motion.
const FRAMES_PER_SECOND = 4; // one a round, rollouts/film.py
const still = matchMedia("(prefers-reduced-motion: reduce)");
const seen = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries)
    if (isIntersecting && !still.matches && !target.dataset.stopped) target.play().catch(() => {}); else target.pause();
}, { threshold: 0.5 });
for (const film of document.querySelectorAll(".films video")) {
  const figure = film.closest("figure"), rounds = [...figure.querySelectorAll(".rounds g")];
  const now = figure.querySelector(".now");
  let shown = null;
  const tell = time => {
    const round = rounds[Math.min(Math.floor(time * FRAMES_PER_SECOND + 0.01), rounds.length - 1)];
    if (!round || round === shown) return;
    shown?.removeAttribute("class");
    round.setAttribute("class", "playing");
    shown = round;
    now.textContent = round.dataset.words;
  };
  if (film.requestVideoFrameCallback) {
    const next = (_, frame) => { tell(frame.mediaTime); film.requestVideoFrameCallback(next); };
    film.requestVideoFrameCallback(next);
  } else film.addEventListener("timeupdate", () => tell(film.currentTime));
  film.addEventListener("click", () => { film.dataset.stopped = film.paused ? "" : "yes"; });
  seen.observe(film);
}
// The page of a run under way reads itself again, unless its reader says no.
const again = document.querySelector("#again");
if (again) setInterval(() => { if (again.checked) location.reload(); }, 1000 * again.dataset.seconds);
