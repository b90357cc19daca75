"use strict";
(() => {
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const text = "key" in cell.dataset ? cell.dataset.key : cell.textContent.trim();
    if (text === "" || text === "-") return null;
    const number = Number(text.replace(/[,\s%]/g, "").replace("\u2212", "-"));
    return Number.isNaN(number) ? text.toLowerCase() : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const numbers = !head.classList.contains("text") && column > 0;
        const now = head.getAttribute("aria-sort");
        const first = numbers ? "descending" : "ascending";
        const other = numbers ? "ascending" : "descending";
        const order = now === first ? other : first;
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row, column), row]);
        rows.sort(([a], [b]) =>
          a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }
  const stacked = 8;  // rows; longer tables keep their columns on a narrow screen
  for (const table of document.querySelectorAll(".scroll > table")) {
    const labels = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
    const rows = [...table.tBodies[0].rows];
    if (rows.length > stacked) continue;
    table.classList.add("stack");
    for (const row of rows) {
      [...row.cells].forEach((cell, column) => { cell.dataset.label = labels[column] ?? ""; });
    }
  }
  for (const frame of document.querySelectorAll(".scroll")) {
    const mark = () => {
      const rest = frame.scrollWidth - frame.clientWidth - frame.scrollLeft;
      frame.classList.toggle("more", rest > 1);
    };
    frame.addEventListener("scroll", mark, { passive: true });
    new ResizeObserver(mark).observe(frame);
  }
  const nav = document.querySelector("nav");
  const links = [...nav.querySelectorAll("a")];
  const sections = links.map((link) => document.getElementById(link.hash.slice(1)) ??
    document.getElementById(decodeURIComponent(link.hash.slice(1))));
  let current = null;
  const mark = () => {
    const passed = sections.filter((one) => one && one.getBoundingClientRect().top < 100).length;
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const link = links[(atEnd && scrollY > 0 ? links.length : passed) - 1] ?? null;
    if (link === current) return;
    current?.removeAttribute("aria-current");
    link?.setAttribute("aria-current", "true");
    current = link;
    nav.scrollLeft = link ? link.offsetLeft - (nav.clientWidth - link.offsetWidth) / 2 : 0;
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
  const root = document.documentElement;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "theme";
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use ${dark() ? "light" : "dark"} colors`);
  };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  name();
  document.querySelector("header").append(button);
})();
