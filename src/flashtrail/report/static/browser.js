// The page of all episodes: filters by arm, task, end and words; two arms side by side; keys. What is chosen stands in
// the fragment as #arm=...&task=...&end=...&q=... or #a=...&b=..., and where the reader was as at=.... Nothing is hidden
// for good: without this script every picture stands below its arm.
{
  const all = document.querySelector("#episodes"), bar = document.querySelector("#chosen");
  const cards = [...all.querySelectorAll("li")], sections = [...all.querySelectorAll("section")];
  const link = card => card.querySelector("a"), place = card => link(card).dataset.place;
  for (const card of cards) link(card).dataset.place = link(card).getAttribute("href");
  const values = key => [...new Set(cards.map(card => card.dataset[key]))];
  const words = { arm: "Arm", task: "Task", end: "Outcome", q: "Words", a: "Side by side", b: "with" };
  const called = Object.fromEntries(sections.map(section => [section.dataset.arm, section.dataset.name]));
  const named = arm => called[arm] ? `${arm} \u2013 ${called[arm]}` : arm;
  const shown = {
    arm: named, a: named, b: named, task: name => `task ${name}`,
    end: kind => cards.find(card => card.dataset.end === kind).querySelector(".end").textContent,
  };
  const order = { task: (a, b) => a - b };
  const fields = {};

  // --- the form ---

  const form = document.createElement("form");
  form.setAttribute("role", "search");
  form.setAttribute("aria-label", "Episodes");
  for (const key of Object.keys(words)) {
    const label = document.createElement("label");
    const field = document.createElement(key === "q" ? "input" : "select");
    label.append(words[key], field);
    field.name = key;
    if (key === "q") field.type = "search";
    else {
      const given = values({ a: "arm", b: "arm" }[key] || key).sort(order[key] || (() => 0));
      field.append(new Option(key === "a" || key === "b" ? "\u2013" : "all", ""));
      for (const value of given) field.append(new Option(shown[key](value), value));
      if (given.length < 2) label.hidden = true;
    }
    fields[key] = field;
    form.append(label);
  }
  const clear = document.createElement("button"), said = document.createElement("output");
  clear.type = "button";
  clear.textContent = "Clear";
  form.append(clear, said);
  const note = document.createElement("p");
  note.className = "note";
  note.textContent = all.dataset.keys;
  bar.append(form);
  bar.after(note);
  bar.hidden = false;
  const paired = document.createElement("div");
  paired.className = "pairs";
  all.before(paired);

  // --- what is chosen, and the address ---

  const fragment = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const state = () => Object.fromEntries(Object.entries(fields).map(([key, f]) => [key, f.value.trim()]));
  const spelled = more => {
    const chosen = Object.entries({ ...state(), ...more }).filter(([, value]) => value);
    return chosen.length ? `#${new URLSearchParams(chosen)}` : "";
  };
  function note_place(card) { history.replaceState(null, "", spelled({ at: place(card) }) || "#"); }
  function read() {
    const found = fragment();
    for (const [key, field] of Object.entries(fields)) {
      field.value = found.get(key) || "";
      if (field.value === "" && field.options) field.selectedIndex = 0;
    }
    show();
    const at = found.get("at"), card = at && cards.find(one => place(one) === at);
    if (card) (paired.querySelector(`a[data-place="${CSS.escape(at)}"]`) || link(card)).focus();
  }
  function choose() {
    const next = spelled();
    show();
    if (next !== location.hash) location.hash = next;
  }
  addEventListener("hashchange", () => { if (location.hash === "" || location.hash.includes("=")) read(); });
  form.addEventListener("change", choose);
  form.addEventListener("submit", event => { event.preventDefault(); choose(); });
  fields.q.addEventListener("input", () => { show(); history.replaceState(null, "", spelled() || "#"); });
  clear.addEventListener("click", () => { forget(); clear.blur(); });
  function forget() {
    for (const field of Object.values(fields)) field.value = "";
    choose();
  }

  // --- showing ---

  const meant = (card, { arm, task, end, q }) => (!arm || card.dataset.arm === arm) && (!task || card.dataset.task === task)
    && (!end || card.dataset.end === end) && q.toLowerCase().split(/\s+/).every(word =>
      `${card.dataset.arm} ${card.dataset.words} ${card.textContent}`.toLowerCase().includes(word));
  function show() {
    const now = state();
    const both = now.a && now.b && now.a !== now.b;
    for (const card of cards) link(card).href = `${place(card)}#back=${encodeURIComponent(spelled({ at: place(card) }).slice(1))}`;
    fields.arm.disabled = both;
    all.hidden = both;
    paired.replaceChildren();
    if (both) return side_by_side(now);
    let count = 0;
    for (const card of cards) count += !(card.hidden = !meant(card, now));
    for (const section of sections) section.hidden = !section.querySelector("li:not([hidden])");
    said.textContent = `${count} of ${cards.length} episodes`;
  }
  function side_by_side(now) {
    const of = arm => new Map(cards.filter(c => c.dataset.arm === arm && meant(c, { ...now, arm: "", end: "" }))
      .map(card => [card.dataset.start, card]));
    const [first, second] = [of(now.a), of(now.b)];
    const starts = [...first.keys()].filter(start => second.has(start)).filter(start => !now.end
      || [first, second].some(side => side.get(start).dataset.end === now.end));
    const ends = start => first.get(start).dataset.won + second.get(start).dataset.won;
    const kinds = [["10", `Success only in ${now.a}`], ["01", `Success only in ${now.b}`],
      ["00", "Success in neither"], ["11", "Success in both"]];
    const groups = kinds.map(([kind, head]) => [head, starts.filter(start => ends(start) === kind)]);
    groups.push(["Not judged in both", starts.filter(start => ends(start).length < 2)]);
    for (const [head, group] of groups) if (group.length) paired.append(section_of(head, group, first, second, now));
    const counts = groups.filter(([, group]) => group.length).map(([head, group]) => `${head}: ${group.length}`);
    said.textContent = starts.length ? `${starts.length} starts in both arms. ${counts.join("; ")}.`
      : "No start is in both arms.";
  }
  function section_of(head, group, first, second, now) {
    const section = document.createElement("section"), title = document.createElement("h2");
    const number = document.createElement("small");
    number.textContent = ` ${group.length} ${group.length === 1 ? "start" : "starts"}`;
    title.append(head, number);
    const list = document.createElement("div");
    list.className = "pair-list";
    section.append(title, list);
    for (const start of group) {
      const pair = document.createElement("div"), name = document.createElement("h3");
      pair.className = "pair";
      name.textContent = link(first.get(start)).querySelector(".what").textContent.split(",").slice(0, 2).join(",");
      pair.append(name);
      for (const [arm, side] of [[now.a, first], [now.b, second]]) {
        const column = document.createElement("div"), copy = link(side.get(start)).cloneNode(true);
        const label = document.createElement("p");
        label.textContent = named(arm);
        column.append(copy);
        pair.append(column);
        copy.prepend(label);
      }
      list.append(pair);
    }
    return section;
  }

  // --- keys ---

  const links_shown = () => [...document.querySelectorAll("#episodes li:not([hidden]) a, .pair a")]
    .filter(a => a.offsetParent !== null);
  const middle = a => { const box = a.getBoundingClientRect(); return [box.left + box.width / 2, box.top]; };
  document.addEventListener("keydown", event => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const here = document.activeElement, typing = here && here.matches("input, select, button");
    if (event.key === "Escape" && location.hash.includes("=")) { event.preventDefault(); return forget(); }
    if (typing || !event.key.startsWith("Arrow") || (here && here.closest(".table"))) return;
    const given = links_shown(), at = given.indexOf(here);
    const next = at < 0 ? (event.key === "ArrowRight" ? given[0] : null) : {
      ArrowRight: () => given[at + 1], ArrowLeft: () => given[at - 1],
      ArrowDown: () => row(given, here, 1), ArrowUp: () => row(given, here, -1),
    }[event.key]();
    if (next) { event.preventDefault(); next.focus(); next.scrollIntoView({ block: "nearest" }); }
  });
  function row(given, here, way) {
    const [x, y] = middle(here);
    const other = given.map(a => [a, ...middle(a)]).filter(([, , top]) => way * (top - y) > 4);
    const near = Math.min(...other.map(([, , top]) => way * (top - y)));
    const same = other.filter(([, , top]) => way * (top - y) < near + 4);
    return same.length ? same.reduce((best, one) => Math.abs(one[1] - x) < Math.abs(best[1] - x) ? one : best)[0] : null;
  }
  document.addEventListener("click", event => {
    const chosen = event.target.closest("#episodes a, .pair a");
    const card = chosen && cards.find(one => place(one) === chosen.dataset.place);
    if (card) note_place(card);
  });
  read();
}
