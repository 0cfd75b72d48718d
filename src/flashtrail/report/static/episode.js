// An episode's page: one round chosen, by slider, keys or a click on the timeline; the film jumps there, and the other
// way round. What a round was stands in the table of rounds; what was sent and done, in the page's data. Escape goes
// back to the page of all episodes as its reader left it (#back=...).
{
  const data = JSON.parse(document.querySelector("#rounds")?.textContent || "null");
  const film = document.querySelector("video"), panel = document.querySelector("#round");
  const fragment = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const home = document.querySelector("a[data-home]"), back = fragment.get("back");
  if (home && back !== null) home.href = home.getAttribute("href").split("#")[0] + (back && `#${back}`);
  if (back !== null) for (const near of document.querySelectorAll("a[data-near]"))
    near.href = `${near.getAttribute("href")}#back=${encodeURIComponent(back)}`;
  const busy = () => document.activeElement?.closest("input, select, video, .table, summary");
  document.addEventListener("keydown", event => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.key === "Escape" && home) { event.preventDefault(); location.assign(home.href); }
  });
  if (data && panel) show_rounds();

  function show_rounds() {
    const rounds = data.rounds, rows = [...document.querySelectorAll("#every-round tbody tr")];
    const made = (tag, words = "", name = "") => Object.assign(document.createElement(tag), { textContent: words, className: name });
    const drawn = (tag, given) => {
      const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(given)) shape.setAttribute(key, value);
      return shape;
    };

    // --- what is chosen with ---

    const line = made("div", "", "choose"), said = made("output"), slider = made("input"), facts = made("dl");
    const [before, after] = ["\u2039", "\u203a"].map(word => made("button", word));
    const plots = made("div", "", "actions"), numbers = made("details");
    before.type = after.type = "button";
    before.setAttribute("aria-label", "Previous round");
    after.setAttribute("aria-label", "Next round");
    Object.assign(slider, { type: "range", min: 0, max: rounds.length - 1, value: 0 });
    slider.setAttribute("aria-label", "Round");
    said.setAttribute("aria-live", "polite");
    numbers.append(made("summary", "These actions as numbers"));
    line.append(before, slider, after);
    panel.append(line, said, facts);
    const below = made("div", "", "round");
    below.append(plots, made("p", panel.dataset.note, "note"), numbers);
    panel.closest(".film-and-round").after(below);
    panel.hidden = false;

    // --- the timeline shows the round, and a click on it chooses one ---

    const marks = [...document.querySelectorAll(".lane svg")].map(lane => {
      const mark = drawn("rect", { class: "now", y: 0, height: 32 });
      lane.append(mark);
      lane.addEventListener("click", event => {
        const box = lane.getBoundingClientRect(), step = data.length * (event.clientX - box.left) / box.width;
        const at = rounds.findIndex(one => step >= one.start && step < one.end);
        if (at >= 0) choose(at);
      });
      return mark;
    });

    // --- one round ---

    const reach = data.names.map((_, column) => Math.max(1e-3, ...rounds.flatMap(one =>
      [...one.done.map(action => Math.abs(action[column + 1])), ...(one.chunk || []).map(action => Math.abs(action[column]))])));
    const long = Math.max(1, ...rounds.flatMap(one => [(one.chunk || []).length, one.accepted, one.done.length]));
    let now = -1;
    function choose(at, seek = true) {
      at = Math.max(0, Math.min(rounds.length - 1, at));
      if (at === now) return;
      const first = now < 0;
      now = at;
      const one = rounds[at], cells = [...rows[at].cells].filter(cell => !cell.classList.contains("empty"));
      slider.value = at;
      before.disabled = at === 0;
      after.disabled = at === rounds.length - 1;
      const until = one.end > one.start ? `steps ${one.start} to ${one.end - 1}` : `at step ${one.start}, nothing executed`;
      said.textContent = `Round ${at} of 0 to ${rounds.length - 1}: ${until}`;
      slider.setAttribute("aria-valuetext", said.textContent);
      const known = cells.slice(2).map(cell => [cell.dataset.head, cell.textContent]);
      if (one.prompt !== undefined) known.unshift(["Prompt", `\u201c${one.prompt}\u201d`], ["State", words_of(one.state)]);
      facts.replaceChildren(...known.flatMap(([term, text]) => [made("dt", term), made("dd", text)]));
      plots.replaceChildren(...data.names.map((name, column) => plot(one, name, column)));
      numbers.open = false;
      for (const mark of marks) {
        mark.setAttribute("x", one.start);
        mark.setAttribute("width", Math.max(one.end - one.start, data.length / 300));
      }
      if (first && at === 0) return;
      const next = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
      next.set("round", at);
      history.replaceState(null, "", `#${next}`);
      if (film && seek) jump((at + 0.5) / data.rate);
    }
    const words_of = state => {
      const shown = state.map(value => value === null ? "\u2013" : value.toFixed(3).replace("-", "\u2212"));
      if (state.length !== 8) return shown.join(", ");
      return `position ${shown.slice(0, 3).join(", ")} m; axis-angle ${shown.slice(3, 6).join(", ")} rad; fingers ${shown.slice(6).join(", ")} m`;
    };
    function plot(one, name, column) {
      const y = value => (30 - 28 * value / reach[column]).toFixed(1);
      const path = points => points.map(([x, value], i) => `${i ? "L" : "M"}${x + 0.5} ${y(value)}`).join("");
      const name_of = `${name}: ${one.done.length} executed${one.chunk ? ` of ${one.chunk.length} returned` : ""}, up to \u00b1${reach[column].toFixed(2)}`;
      const svg = drawn("svg", { viewBox: `0 0 ${long} 60`, preserveAspectRatio: "none", role: "img", "aria-label": name_of });
      svg.append(drawn("rect", { class: "prefix", x: 0, y: 0, width: Math.min(one.accepted, long), height: 60 }));
      svg.append(drawn("line", { class: "zero", x1: 0, x2: long, y1: 30, y2: 30, "vector-effect": "non-scaling-stroke" }));
      if (one.chunk) svg.append(drawn("path", { class: "chunk", d: path(one.chunk.map((action, i) => [i, action[column] || 0])) }));
      const done = one.done.map(action => [action[0], action[column + 1]]);
      if (done.length) svg.append(drawn("path", { class: "done", d: path(done.length > 1 ? done : [done[0], done[0]]) }));
      const figure = made("figure");
      figure.append(svg, made("figcaption", `${name}, \u00b1${reach[column].toFixed(2)}`));
      return figure;
    }
    numbers.addEventListener("toggle", () => {
      numbers.querySelector(".table")?.remove();
      if (!numbers.open) return;
      const one = rounds[now], table = made("table"), box = made("div", "", "table wide");
      const head = table.createTHead().insertRow(), body = table.createTBody();
      for (const word of ["Step of chunk", "", ...data.names]) head.append(Object.assign(made("th", word), { scope: "col" }));
      const written = (place, what, action) => {
        const row = body.insertRow();
        for (const value of [place, what, ...action]) row.insertCell().textContent =
          typeof value === "number" ? String(value).replace("-", "\u2212") : value ?? "\u2013";
      };
      for (const action of one.done) written(action[0], "executed", action.slice(1));
      (one.chunk || []).forEach((action, i) => written(i, "returned", action));
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "Actions of the round");
      box.tabIndex = 0;
      box.append(table);
      numbers.append(box);
    });

    // --- the film ---

    function jump(seconds) {
      film.pause();
      if (film.readyState >= 1) { film.currentTime = seconds; return; }
      film.preload = "auto";
      film.addEventListener("loadedmetadata", () => { film.currentTime = (now + 0.5) / data.rate; }, { once: true });
    }
    film?.addEventListener("timeupdate", () => {
      if (!film.paused) choose(Math.floor(film.currentTime * data.rate), false);
    });

    // --- keys ---

    slider.addEventListener("input", () => choose(Number(slider.value)));
    before.addEventListener("click", () => choose(now - 1));
    after.addEventListener("click", () => choose(now + 1));
    document.addEventListener("keydown", event => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!way || busy() || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      choose(now + way);
    });
    choose(Number(fragment.get("round")) || 0);
  }
}
