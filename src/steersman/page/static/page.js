// The one script of a page: light and dark, details, figure tooltips, token strips, search. Text is only ever set as text.
"use strict";
(() => {
  const root = document.documentElement, MISSING = "–", FOLD = 400;
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

  // token strips
  const SPECIAL = /^(<\|.*\|>|<\/?[A-Za-z_]+>|\[[A-Z_0-9]+\])$/;
  const HIDDEN = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb]|\s/u;
  const number = (v) => {
    if (v === null || v === undefined) return MISSING;
    const n = Number(v), a = Math.abs(n), sign = n < 0 ? "−" : "";
    if (a === Infinity) return `${sign}∞`;
    if (a !== 0 && (a < 1e-3 || a >= 1e5)) return sign + a.toExponential(2).replace("-", "−");
    return sign + (Number.isInteger(n) ? String(a) : a.toFixed(a < 1 ? 4 : a < 100 ? 3 : 1));
  };
  // A token's text with what cannot be seen made visible; a newline keeps breaking the line, a space stays a space.
  const fill = (span, text) => {
    if (text === "") { span.append(make("i", { className: "sign", textContent: "∅" })); return; }
    if (SPECIAL.test(text)) span.classList.add("special");
    let plain = "";
    const flush = () => { if (plain) span.append(plain); plain = ""; };
    for (const c of text) {
      if (!HIDDEN.test(c) || c === "\u200d" || c === "\u200c") { plain += c; continue; }
      flush();
      if (c === " ") span.append(make("i", { className: "sp", textContent: " " }));
      else if (c === "\n") span.append(make("i", { className: "sign", textContent: "↵" }), "\n");
      else if (c === "\t") span.append(make("i", { className: "sign", textContent: "→" }), "\t");
      else span.append(make("i", { className: "sign", textContent: `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}` }));
    }
    flush();
  };

  class Strip {
    constructor(box) {
      Object.assign(this, read(box), { box, sample: 0, stream: 0, open: false, at: null });
      this.where = make("span", { className: "where" });
      this.title = make("span", { className: "title", dir: "auto" });
      const step = (by, text, name) => {
        const b = make("button", { type: "button", textContent: text, "aria-label": name });
        b.addEventListener("click", () => this.go(this.sample + by));
        return b;
      };
      const steps = make("span", { className: "step" }, step(-1, "‹", "previous sample"), this.where, step(1, "›", "next sample"));
      this.picks = this.streams.map((s, k) => {
        const key = k < 9 ? [make("kbd", { textContent: String(k + 1) })] : [];
        const b = make("button", { type: "button", role: "radio" }, ...key, s.name);
        b.addEventListener("click", () => this.choose(k));
        return b;
      });
      this.legend = make("div", { className: "legend" });
      this.views = make("div", { className: "views" });
      this.caption = make("p", { className: "caption" });
      const hint = "← → step through samples, 1–9 choose a stream, Shift with ← → walks from token to token; hover or tap a token for its values.";
      box.append(make("div", { className: "bar" }, steps, this.title),
        make("div", { className: "bar pick", role: "radiogroup", "aria-label": "stream shown as colour" }, ...this.picks),
        this.legend, this.views, this.caption, make("p", { className: "keys", textContent: hint }));
      this.views.addEventListener("pointerover", (e) => { if (e.pointerType === "mouse") this.hover(e); });
      this.views.addEventListener("pointerdown", (e) => this.hover(e));
      this.views.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse") this.mark(null); });
      this.views.addEventListener("focusout", (e) => { if (!this.views.contains(e.relatedTarget)) this.mark(null); });
      this.build();
    }
    get current() { return this.samples[this.sample]; }
    go(k) {
      const next = Math.max(0, Math.min(this.samples.length - 1, k));
      if (next !== this.sample) { this.sample = next; this.open = false; this.build(); }
    }
    choose(k) { if (k < this.streams.length) { this.stream = k; this.colour(); } }
    build() {
      const s = this.current, total = s.tokens.length, end = this.open ? total : Math.min(total, FOLD), truth = new Set(s.truth || []);
      this.mark(null);
      this.where.textContent = `${this.sample + 1} of ${this.samples.length}`;
      this.title.textContent = s.title;
      this.spans = [];
      this.views.replaceChildren(...s.views.map((view) => {
        const dropped = new Set(view.dropped || []), spans = [];
        for (let i = 0; i < end; i++) {
          const span = make("span", { dataset: { i } });
          span.base = "t" + (i < s.prompt ? " given" : "") + (dropped.has(i) ? " drop" : "") + (truth.has(i) ? " true" : "");
          fill(span, s.tokens[i]);
          if (span.classList.contains("special")) span.base += " special";
          spans.push(span);
        }
        this.spans.push(spans);
        const counts = view.dropped ? `${dropped.size} of ${total - s.prompt} tokens dropped` : "";
        const text = make("p", { className: "text", dir: "auto", tabIndex: 0, role: "group", "aria-label": `tokens as ${view.arm} sees them` }, ...spans);
        const parts = [make("p", { className: "viewhead" }, swatch(view.colour), make("b", { textContent: view.arm }), counts,
          make("span", { className: "absent" })), text];
        if (total > FOLD) {
          const fold = make("button", { type: "button", className: "fold", textContent: this.open ? "fold" : `show all ${total.toLocaleString("en")} tokens (${(total - end).toLocaleString("en")} more)` });
          fold.addEventListener("click", () => { this.open = !this.open; this.build(); });
          parts.push(fold);
        }
        return make("div", { className: "view" }, ...parts);
      }));
      this.caption.textContent = (s.truth ? "Underlined: tokens that the task knows to matter. " : "") + s.caption;
      this.colour();
    }
    step(value) {
      if (value === null || value === undefined) return "none";
      const { scale, low, high } = this.streams[this.stream], v = Number(value);
      const share = scale === "signed" ? Math.abs(v) / high : (v - low) / (high - low);
      const k = Math.min(this.steps, Math.max(0, Math.round(share * this.steps)));
      return k === 0 ? "" : (scale === "signed" ? (v < 0 ? "n" : "p") : "q") + k;
    }
    colour() {
      const info = this.streams[this.stream], s = this.current;
      this.picks.forEach((b, k) => b.setAttribute("aria-checked", String(k === this.stream)));
      s.views.forEach((view, k) => {
        const values = info && view.streams[info.name];
        this.views.children[k].querySelector(".absent").textContent = info && !values ? ` ${info.name} was not recorded here` : "";
        for (const span of this.spans[k]) span.className = `${span.base} ${info && values ? this.step(values[span.dataset.i]) : "none"}`;
      });
      this.at = null;
      this.key(info);
    }
    key(info) {
      if (!info) { this.legend.textContent = "No stream was recorded."; return; }
      const count = Array.from({ length: this.steps }, (_, k) => k + 1);
      const names = info.scale === "signed" ? [...count.map((k) => `n${this.steps + 1 - k}`), "", ...count.map((k) => `p${k}`)] : ["", ...count.map((k) => `q${k}`)];
      const ends = info.clipped ? ["≤ ", "≥ "] : ["", ""];
      const low = (info.scale === "signed" ? ends[0] : "") + number(info.low), high = ends[1] + number(info.high);
      const ramp = make("span", { className: "ramp" }, ...names.map((c) => make("i", { className: c })));
      this.legend.replaceChildren(make("span", {}, low, ramp, high, info.unit ? ` ${info.unit}` : ""), make("span", { textContent: info.meaning }));
    }
    hover(e) {
      const span = e.target.closest?.(".t");
      if (!span) { this.mark(null); return; }
      this.mark(Number(span.dataset.i), e.clientX, e.clientY, e.pointerType !== "mouse");
    }
    mark(i, x, y, sheet) {
      if (this.at !== null) for (const spans of this.spans) spans[this.at]?.classList.remove("at");
      const had = this.at;
      this.at = i;
      if (i === null) { if (had !== null) hide(); return; }
      for (const spans of this.spans) spans[i].classList.add("at");
      show(x, y, sheet, ...this.about(i));
    }
    about(i) {
      const s = this.current, row = (cell, ...cells) => make("tr", {}, ...cells.map((c) => make(cell, {}, ...[c].flat())));
      const text = make("span", { className: "tokentext" });
      fill(text, s.tokens[i]);
      const place = i < s.prompt ? "prompt" : `response token ${i - s.prompt + 1}`;
      const known = s.truth ? (s.truth.includes(i) ? ", known to matter" : ", not known to matter") : "";
      const body = this.streams.map((info) => row("td", info.unit ? `${info.name} (${info.unit})` : info.name,
        ...s.views.map((v) => number(v.streams[info.name]?.[i]))));
      if (s.views.some((v) => v.dropped)) body.push(row("td", "dropped", ...s.views.map((v) => (v.dropped ? (v.dropped.includes(i) ? "yes" : "no") : MISSING))));
      return [make("p", {}, text), make("p", { textContent: `position ${i}, ${place}${known}` }),
        make("table", {}, make("thead", {}, row("th", "", ...s.views.map((v) => [swatch(v.colour), v.arm]))), make("tbody", {}, ...body))];
    }
    walk(by) {
      const spans = this.spans[0] || [];
      if (!spans.length) return;
      const i = this.at === null ? (by > 0 ? 0 : spans.length - 1) : Math.max(0, Math.min(spans.length - 1, this.at + by));
      still = performance.now() + 300;
      spans[i].scrollIntoView({ block: "nearest", behavior: "instant" });
      const { left, bottom } = spans[i].getBoundingClientRect();
      this.mark(i, left, bottom, false);
    }
  }
  const strips = [...document.querySelectorAll(".tokens")].map((box) => new Strip(box));
  let active = strips[0];
  for (const strip of strips) for (const kind of ["pointerdown", "focusin"]) strip.box.addEventListener(kind, () => { active = strip; });
  addEventListener("keydown", (e) => {
    if (!active || e.ctrlKey || e.metaKey || e.altKey || e.target.closest?.("input, textarea, select")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key], wide = e.target.closest?.(".scroll, pre");
    if (by && wide && wide.scrollWidth > wide.clientWidth) return; // there the arrows scroll
    if (by && e.shiftKey) active.walk(by);
    else if (by) active.go(active.sample + by);
    else if (/^[1-9]$/.test(e.key)) active.choose(Number(e.key) - 1);
    else return;
    e.preventDefault();
  });
  // Whatever is pressed, what was shown goes first; capturing, so that the pressed thing may then show its own.
  addEventListener("pointerdown", () => { hide(); for (const s of strips) s.mark(null); }, true);

  // search
  const search = document.querySelector("input[type=search]");
  search?.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const cards = [...document.querySelectorAll(".card")];
    for (const card of cards) card.hidden = !words.every((w) => card.dataset.text.includes(w));
    document.querySelector(".nothing").hidden = cards.some((c) => !c.hidden) || !cards.length;
  });
})();
