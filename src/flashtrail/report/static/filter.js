// Which arms and tasks the tables of a report show: chosen with buttons, kept in the fragment as #arm=...&arm=...&task=....
// A row is of the arm whose key stands in its cell under Arm (Remedy, Reference); a column is of the task that its head
// names; a row without a key, such as a control's, always stays. Nothing is hidden before its reader chooses, and what is hidden is said, also on paper.
{
  const of_arm = ["Arm", "Remedy"];
  const rows = [], columns = [];
  for (const table of document.querySelectorAll(".table table")) {
    for (const row of table.tBodies[0].rows) {
      const key = [...row.cells].find(one => of_arm.includes(one.dataset.head))?.querySelector("code");
      if (key) rows.push([row, key.textContent.trim(), [...row.cells].find(one => one.dataset.head === "Task")?.textContent.trim()]);
    }
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const task = /^Task (\d+)/.exec(head.textContent.trim());
      if (task) columns.push([[head, ...[...table.tBodies[0].rows].map(row => row.cells[place])], task[1]]);
    });
  }
  const tables = new Set(rows.map(([row]) => row.closest("table")));
  const given = { arm: [...new Set(rows.map(([, arm]) => arm))], task: [...new Set(columns.map(([, task]) => task))].sort() };
  if (given.arm.length > 2 && tables.size > 1) offer();

  function offer() {
    const bar = document.createElement("section"), said = document.createElement("output"), line = document.createElement("p");
    bar.className = "shown-rows";
    bar.setAttribute("aria-label", "What the tables show");
    for (const [key, values] of Object.entries(given)) {
      if (values.length < 2) continue;
      const group = document.createElement("div"), name = document.createElement("span");
      name.textContent = key === "arm" ? "Arms" : "Tasks";
      name.id = `filter-${key}`;
      group.setAttribute("role", "group");
      group.setAttribute("aria-labelledby", name.id);
      group.append(name, ...values.map(value => Object.assign(document.createElement("button"),
        { type: "button", textContent: key === "arm" ? value : `task ${value}`, name: key, value })));
      bar.append(group);
    }
    const first = ([...tables].find(table => !table.closest("details:not(.rows, .part)")) || [...tables][0]).closest(".table");
    const place = first.closest("main > *") || first;
    place.before(bar);
    line.append(said);
    bar.append(line);
    const buttons = [...bar.querySelectorAll("button")];
    const everything = document.querySelector('header a[href^="episodes/"]');
    const pages = document.createElement("a");
    pages.textContent = "Their episodes";
    if (everything) line.append(" ", pages);
    const chosen = () => {
      const found = { arm: [], task: [] };
      for (const one of buttons) if (one.getAttribute("aria-pressed") === "true") found[one.name].push(one.value);
      return found;
    };
    function read() {
      const asked = new URLSearchParams(location.hash.slice(1));
      for (const one of buttons) one.setAttribute("aria-pressed", asked.getAll(one.name).includes(one.value));
      show();
    }
    function show() {
      const { arm, task } = chosen();
      for (const [row, own, of_task] of rows) row.hidden = (arm.length > 0 && !arm.includes(own))
        || (task.length > 0 && of_task !== undefined && !task.includes(of_task));
      for (const [cells, own] of columns) for (const cell of cells) cell.hidden = task.length > 0 && !task.includes(own);
      const words = [arm.length ? `${arm.length} of ${given.arm.length} arms` : "", task.length ? `${task.length} of ${given.task.length} tasks` : ""];
      const some = words.some(word => word);
      bar.classList.toggle("on", some);
      said.textContent = some ? `The tables show ${words.filter(word => word).join(", ")}; sums and figures are of all.`
        : "The tables show every arm and task: choose some.";
      pages.href = `${everything?.getAttribute("href")}#${new URLSearchParams([
        ...(arm.length === 2 ? [["a", arm[0]], ["b", arm[1]]] : arm.map(name => ["arm", name])),
        ...task.map(name => ["task", name])])}`;
      pages.hidden = arm.length > 2 || task.length > 1 || !some;
    }
    bar.addEventListener("click", event => {
      const one = event.target.closest("button");
      if (!one) return;
      one.setAttribute("aria-pressed", one.getAttribute("aria-pressed") !== "true");
      show();
      const { arm, task } = chosen();
      location.hash = new URLSearchParams([...arm.map(name => ["arm", name]), ...task.map(name => ["task", name])]);
    });
    addEventListener("hashchange", () => { if (!location.hash || location.hash.includes("=")) read(); });
    read();
  }
}
