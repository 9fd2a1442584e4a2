// What every page can do: light and dark, details, figure tooltips, search. Text is only ever set as text.
// `html.shell` puts the scripts of a page behind one another into one function, so that later ones may use this one's names.
const root = document.documentElement, MISSING = "–";
root.classList.add("js");
const make = (name, options = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "dataset") Object.assign(node.dataset, value);
    else if (key === "role" || key.startsWith("aria-")) node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
};
const read = (box) => JSON.parse(box.querySelector("script.data").textContent);

// light and dark
const button = document.querySelector("button.theme");
const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
try { const kept = localStorage.getItem("steersman-theme"); if (kept) root.dataset.theme = kept; } catch { /* storage is off */ }
button.hidden = false;
button.addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  try { localStorage.setItem("steersman-theme", root.dataset.theme); } catch { /* storage is off */ }
  label();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
label();

// one tooltip for everything
const tip = document.querySelector(".tip");
const hide = () => { tip.hidden = true; };
const show = (x, y, sheet, ...content) => {
  tip.replaceChildren(...content);
  tip.classList.toggle("sheet", sheet);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 16 + width > innerWidth - 8 ? x - 16 - width : x + 16;
  const top = y + 18 + height > innerHeight - 8 ? y - 14 - height : y + 18;
  tip.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  tip.style.top = `${Math.max(8, top)}px`;
};
addEventListener("keydown", (e) => { if (e.key === "Escape") hide(); });
let still = 0; // walking from token to token may scroll, which must not hide what it shows
addEventListener("scroll", () => { if (performance.now() > still) hide(); }, { passive: true });

// details of a table row: hover shows them, a tap opens them
for (const more of document.querySelectorAll("tr.more")) {
  const row = more.previousElementSibling, opener = row.querySelector("button");
  if (!opener) continue;
  opener.setAttribute("aria-expanded", "false");
  opener.addEventListener("click", () => {
    opener.setAttribute("aria-expanded", String(more.classList.toggle("open")));
    hide();
  });
  opener.addEventListener("pointermove", (e) => {
    if (e.pointerType === "mouse" && !more.classList.contains("open"))
      show(e.clientX, e.clientY, false, ...[...more.cells[0].childNodes].map((n) => n.cloneNode(true)));
  });
  opener.addEventListener("pointerleave", hide);
}

// figures
const swatch = (colour) => { const i = make("i", { className: "swatch" }); i.style.setProperty("--c", colour); return i; };
for (const figure of document.querySelectorAll("figure.curves:has(svg)")) {
  const { label: axis, points } = read(figure), svg = figure.querySelector("svg"), cursor = svg.querySelector(".cursor");
  const arms = [...svg.querySelectorAll(".arm")];
  const focus = (name) => { for (const g of arms) g.style.opacity = name === null || g.dataset.arm === name ? "" : ".15"; };
  const leave = () => { focus(null); cursor.style.display = "none"; };
  const move = (e) => {
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const x = (e.clientX - box.left) * view.width / box.width;
    const over = e.target.closest?.(".arm");
    focus(over ? over.dataset.arm : null);
    if (!points.length || (over && e.target.classList.contains("name"))) { hide(); return; }
    const near = points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    cursor.style.display = "";
    for (const [k, v] of [["x1", near[0]], ["x2", near[0]], ["y1", 12], ["y2", view.height - 40]]) cursor.setAttribute(k, v);
    const rows = near[2].map(([arm, colour, mean, range, n]) => make("tr", {}, make("td", {}, swatch(colour), arm),
      make("td", { textContent: mean }), make("td", { textContent: range }), make("td", { textContent: n })));
    show(e.clientX, e.clientY, e.pointerType !== "mouse", make("p", { textContent: `${axis} ${near[1]}` }),
      make("table", {}, make("tbody", {}, ...rows)));
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerdown", move);
  svg.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse") { hide(); leave(); } });
  addEventListener("pointerdown", (e) => { if (!svg.contains(e.target)) leave(); });
  leave();
}

// search
const search = document.querySelector("input[type=search]");
search?.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const cards = [...document.querySelectorAll(".card")];
  for (const card of cards) card.hidden = !words.every((w) => card.dataset.text.includes(w));
  document.querySelector(".nothing").hidden = cards.some((c) => !c.hidden) || !cards.length;
});
