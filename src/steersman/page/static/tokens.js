// Token views: a text as tokens, coloured by what each method sees in them. Text is only ever set as text.
const SPECIAL = /^(<\|.*\|>|<\/?[A-Za-z_]+>|\[[A-Z_0-9]+\])$/;
const HIDDEN = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb]|\s/u;
const FOLD = 400, FOLD_PROMPT = 200; // tokens shown before a reader asks for all, and the last ones of a prompt among them
const number = (v, short = false) => {
  if (v === null || v === undefined) return short ? "" : MISSING;
  const n = Number(v), a = Math.abs(n), sign = n < 0 ? "−" : "";
  if (a === Infinity) return `${sign}∞`;
  if (a !== 0 && (a < (short ? 5e-3 : 1e-3) || a >= 1e5)) return sign + a.toExponential(short ? 0 : 2).replace("-", "−");
  if (Number.isInteger(n)) return sign + a;
  return sign + a.toFixed(short ? (a < 10 ? 2 : a < 100 ? 1 : 0) : a < 1 ? 4 : a < 100 ? 3 : 1);
};
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
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
    else if (c === "\n") span.append(make("i", { className: "sign", textContent: "↵" }), make("i", { className: "nl", textContent: "\n" }));
    else if (c === "\t") span.append(make("i", { className: "sign", textContent: "→" }), "\t");
    else span.append(make("i", { className: "sign", textContent: `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}` }));
  }
  flush();
};

class TokenView {
  constructor(box) {
    Object.assign(this, read(box), { box, sample: 0, stream: 0, open: false, at: null, spans: [] });
    for (const s of this.samples) for (const v of s.views) v.drop = new Set(v.dropped || []);
    const button = (text, name, act, ...inside) => {
      const b = make("button", { type: "button", "aria-label": name }, ...inside, text);
      b.addEventListener("click", act);
      return b;
    };
    this.where = make("span", { className: "where" });
    this.title = make("span", { className: "title", dir: "auto" });
    this.notes = make("span", { className: "notes" });
    const steps = make("span", { className: "step" }, button("‹", "previous sample", () => this.go(this.sample - 1)), this.where,
      button("›", "next sample", () => this.go(this.sample + 1)));
    const key = (k) => make("kbd", { textContent: k });
    this.picks = this.streams.map((s, k) => {
      const b = button(s.name, s.name, () => this.choose(k), ...(k < 9 ? [key(String(k + 1))] : []));
      b.setAttribute("role", "radio");
      return b;
    });
    this.switches = {
      lanes: button("aligned", "methods aligned under each token", () => this.turn("lanes"), key("A")),
      numbers: button("numbers", "values written at the tokens", () => this.turn("numbers"), key("N")),
    };
    this.legend = make("div", { className: "legend" });
    this.views = make("div", { className: "views" });
    this.caption = make("p", { className: "caption" });
    const hint = "← → step through samples, 1–9 choose a stream, A aligns the methods, N writes the values, Shift with ← → walks from token to token; hover or tap a token for its values.";
    box.append(make("div", { className: "bar" }, steps, this.title, this.notes), this.map(),
      make("div", { className: "bar" }, make("div", { className: "pick", role: "radiogroup", "aria-label": "stream shown as colour" }, ...this.picks),
        make("div", { className: "switch", role: "group", "aria-label": "how tokens are shown" }, ...Object.values(this.switches))),
      this.legend, this.views, this.caption, make("p", { className: "keys", textContent: hint }));
    this.views.addEventListener("pointerover", (e) => { if (e.pointerType === "mouse") this.hover(e); });
    this.views.addEventListener("pointerdown", (e) => this.hover(e));
    this.views.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse") this.mark(null); });
    this.views.addEventListener("focusout", (e) => { if (!this.views.contains(e.relatedTarget)) this.mark(null); });
    this.watch = new ResizeObserver(() => this.labels());
    this.on = { lanes: this.samples.some((s) => s.views.length > 2), numbers: false };
    // begin where most methods learn something
    const using = this.samples.map((s) => s.views.filter((v) => v.copies && v.drop.size < s.tokens.length - s.prompt).length);
    this.sample = using.indexOf(Math.max(...using));
    this.build();
  }
  get current() { return this.samples[this.sample]; }
  go(k) {
    const next = Math.max(0, Math.min(this.samples.length - 1, k));
    if (next !== this.sample) { this.sample = next; this.open = false; this.build(); }
  }
  choose(k) { if (k < this.streams.length) { this.stream = k; this.colour(); } }
  turn(name) {
    this.on[name] = !this.on[name];
    if (name === "lanes") this.build(); else this.colour();
  }

  // which rows each method uses: a column a sample, a cell a method, filled as far as its tokens are kept
  map() {
    const chosen = this.samples.some((s) => s.views.some((v) => v.copies !== 1 || v.drop.size));
    this.places = [];
    if (this.samples.length < 2 || !chosen) return "";
    const arms = [...new Map(this.samples.flatMap((s) => s.views.map((v) => [v.arm, v.colour])))];
    const label = ([arm, colour]) => make("span", { className: "cell", title: arm }, swatch(colour), arm);
    const names = make("div", { className: "col names" }, ...arms.map(label));
    let group = this.samples[0].group;
    this.places = this.samples.map((s, k) => {
      const cells = arms.map(([arm]) => {
        const v = s.views.find((x) => x.arm === arm), cell = make("span", { className: "cell" });
        if (!v) return cell;
        cell.style.setProperty("--c", v.colour);
        cell.classList.add(v.copies ? "used" : "gone");
        cell.style.setProperty("--part", String(1 - v.drop.size / Math.max(s.tokens.length - s.prompt, 1)));
        if (v.copies > 1) cell.append(make("b", { textContent: `×${v.copies}` }));
        return cell;
      });
      const said = s.views.map((v) => `${v.arm}: ${this.summary(s, v) || "all tokens used"}`).join("; ");
      const b = make("button", { type: "button", className: "col", "aria-label": `${s.title}. ${said}` }, ...cells);
      if (s.group !== group) b.classList.add("next");
      group = s.group;
      b.addEventListener("click", () => this.go(k));
      b.addEventListener("pointermove", (e) => {
        if (e.pointerType !== "mouse") return;
        const rows = s.views.map((v) => make("tr", {}, make("td", {}, swatch(v.colour), v.arm), make("td", { textContent: this.summary(s, v) || "all tokens used" })));
        show(e.clientX, e.clientY, false, make("p", { textContent: [s.title, ...s.notes.map((n) => n.join(" "))].join(", ") }), make("table", {}, make("tbody", {}, ...rows)));
      });
      b.addEventListener("pointerleave", hide);
      return b;
    });
    return make("div", { className: "map scroll", role: "group", tabIndex: 0, "aria-label": "responses that each method uses" }, names, ...this.places);
  }
  // scroll the map, and nothing else, to a column
  reveal(column) {
    const map = column?.parentElement, names = map?.firstElementChild.offsetWidth;
    if (!map) return;
    const left = column.offsetLeft - map.offsetLeft;
    map.scrollLeft = Math.min(Math.max(map.scrollLeft, left + column.offsetWidth + 12 - map.clientWidth), left - names - 8);
  }
  summary(s, view) {
    const total = s.tokens.length - s.prompt, kept = total - view.drop.size, parts = [];
    if (!view.copies) return "response dropped";
    if (view.copies > 1) parts.push(`used ${view.copies} times`);
    if (view.dropped) parts.push(`${kept} of ${plural(total, "token")} kept`);
    if (view.dropped && s.truth) parts.push(`${s.truth.filter((i) => !view.drop.has(i)).length} of ${s.truth.length} ${s.mark} among them`);
    return parts.join(", ");
  }

  build() {
    const s = this.current, total = s.tokens.length, truth = new Set(s.truth || []);
    const begin = this.open ? 0 : Math.max(0, s.prompt - FOLD_PROMPT), end = this.open ? total : Math.min(total, begin + FOLD);
    this.mark(null);
    this.watch.disconnect();
    this.where.textContent = `${this.sample + 1} of ${this.samples.length}`;
    this.title.textContent = s.title;
    this.notes.replaceChildren(...s.notes.map(([name, value]) => make("span", { dir: "auto" }, make("i", { textContent: name }), ` ${value}`)));
    this.places.forEach((b, k) => b.setAttribute("aria-current", String(k === this.sample)));
    this.reveal(this.places[this.sample]);
    const lanes = this.on.lanes;
    const places = Array.from({ length: end - begin }, (_, k) => begin + k);
    this.spans = s.views.map(() => []); // by position; positions that are folded away have none
    for (const i of places) s.views.forEach((view, k) => {
      if (lanes && i < s.prompt && k) { this.spans[k][i] = this.spans[0][i]; return; } // one prompt for all
      const span = make("span", lanes && i >= s.prompt ? {} : { dataset: { i } }), marked = truth.has(i) && !(lanes && i >= s.prompt);
      span.base = "t" + (i < s.prompt ? " given" : "") + (view.drop.has(i) ? " drop" : "") + (marked ? " true" : "");
      if (span.dataset.i) fill(span, s.tokens[i]);
      if (span.classList.contains("special")) span.base += " special";
      this.spans[k][i] = span;
    });
    this.views.className = `views ${lanes ? "aligned" : "text-view"}`;
    this.views.replaceChildren(...(lanes ? this.lanes(s, places, truth) : this.texts(s)));
    if (places.length < total || this.open) {
      const text = this.open ? "fold" : `show all ${total.toLocaleString("en")} tokens (${(total - places.length).toLocaleString("en")} more)`;
      const fold = make("button", { type: "button", className: "fold", textContent: text });
      fold.addEventListener("click", () => { this.open = !this.open; this.build(); });
      this.views.append(fold);
    }
    this.caption.textContent = s.caption;
    this.colour();
  }
  head(view) {
    return make("p", { className: "viewhead" }, swatch(view.colour), make("b", { textContent: view.arm }),
      this.summary(this.current, view), make("span", { className: "absent" }));
  }
  texts(s) {
    return s.views.map((view, k) => make("div", { className: view.copies ? "view" : "view gone" }, this.head(view),
      make("p", { className: "text", dir: "auto", tabIndex: 0, role: "group", "aria-label": `tokens as ${view.arm} sees them` }, ...this.spans[k].flatMap((span, i) => (s.tokens[i].includes("\n") ? [span, make("span", { className: "break" })] : [span])))));
  }
  lanes(s, places, truth) {
    const columns = [], prompt = places.filter((i) => i < s.prompt).map((i) => this.spans[0]?.[i]).filter(Boolean);
    for (const i of places.filter((i) => i >= s.prompt)) {
      const token = make("span", { className: truth.has(i) ? "tok true" : "tok" });
      fill(token, s.tokens[i]);
      columns.push(make("span", { className: "col", dataset: { i } }, token, ...this.spans.map((spans) => spans[i])));
      if (s.tokens[i].includes("\n")) columns.push(make("span", { className: "break" }));
    }
    this.gutter = make("div", { className: "gutter", "aria-hidden": "true" });
    this.flow = make("div", { className: "flow", dir: "auto", tabIndex: 0, role: "group", "aria-label": `tokens, and below each what it is to ${s.views.map((v) => v.arm).join(", ")}` }, ...columns);
    this.watch.observe(this.flow);
    return [make("div", { className: "heads" }, ...s.views.map((view) => this.head(view))),
      prompt.length ? make("p", { className: "prompt", dir: "auto" }, ...prompt) : "", make("div", { className: "lanes" }, this.gutter, this.flow)];
  }
  // the names of the methods at the beginning of every line that the tokens take
  labels() {
    const tops = new Set([...this.flow.querySelectorAll(".col")].map((c) => c.offsetTop));
    if (tops.size === this.gutter.childElementCount) return;
    const line = () => make("span", { className: "col" }, make("span", { className: "tok" }),
      ...this.current.views.map((v) => make("span", { className: "t", title: v.arm }, swatch(v.colour), v.arm)));
    this.gutter.replaceChildren(...Array.from(tops, line));
  }

  value(view, i) {
    const info = this.streams[this.stream];
    if (info?.scale === "kept") return i < this.current.prompt ? null : view.drop.has(i) ? "×" : "✓";
    const column = info && view.streams[info.name];
    return column === undefined ? undefined : this.columns[column][i];
  }
  step(v) {
    if (v === null || v === undefined) return "none";
    const { scale, low, high } = this.streams[this.stream];
    if (scale === "kept") return v === "✓" ? "q6" : "";
    const share = scale === "signed" ? Math.abs(v) / high : (v - low) / (high - low);
    const k = Math.min(this.steps, Math.max(0, Math.round(share * this.steps)));
    return k === 0 ? "" : (scale === "signed" ? (v < 0 ? "n" : "p") : "q") + k;
  }
  colour() {
    const info = this.streams[this.stream], s = this.current, kept = info?.scale === "kept", heads = this.views.querySelectorAll(".viewhead");
    this.picks.forEach((b, k) => b.setAttribute("aria-checked", String(k === this.stream)));
    for (const [name, b] of Object.entries(this.switches)) b.setAttribute("aria-pressed", String(this.on[name]));
    this.views.classList.toggle("numbers", this.on.numbers);
    s.views.forEach((view, k) => {
      const absent = info && !kept && view.streams[info.name] === undefined;
      heads[k].querySelector(".absent").textContent = absent ? ` ${info.name} was not recorded here` : "";
      this.spans[k].forEach((span, i) => {
        const v = this.value(view, i);
        span.className = `${span.base} ${this.step(v)}`;
        span.dataset.v = kept ? v || "" : number(v, true);
      });
    });
    this.at = null;
    this.key(info);
  }
  key(info) {
    if (!info) { this.legend.textContent = "No stream was recorded."; return; }
    const signed = info.scale === "signed", count = Array.from({ length: this.steps }, (_, k) => k + 1), s = this.current;
    const names = signed ? [...count.map((k) => `n${this.steps + 1 - k}`), "", ...count.map((k) => `p${k}`)] : ["", ...count.map((k) => `q${k}`)];
    const ends = info.clipped ? ["≤ ", "≥ "] : ["", ""], parts = [];
    const low = (signed ? ends[0] : "") + number(info.low), high = ends[1] + (signed ? "+" : "") + number(info.high);
    const box = (name, text) => make("span", {}, make("span", { className: `ramp one ${name}` }, make("i")), text);
    if (info.scale === "kept") parts.push(make("span", {}, make("span", { className: "ramp one" }, make("i", { className: "q6" })), "kept"));
    else parts.push(make("span", {}, low, make("span", { className: "ramp" }, ...names.map((c) => make("i", { className: c }))), high, info.unit ? ` ${info.unit}` : ""));
    if (s.views.some((v) => v.drop.size)) parts.push(box("hatch", "dropped"));
    if (s.truth?.length) parts.push(box("line", s.mark));
    this.legend.replaceChildren(...parts, make("span", { textContent: info.meaning }));
  }

  hover(e) {
    const span = e.target.closest?.("[data-i]");
    if (!span) { this.mark(null); return; }
    this.mark(Number(span.dataset.i), e.clientX, e.clientY, e.pointerType !== "mouse");
  }
  mark(i, x, y, sheet) {
    const set = (k, on) => { for (const spans of this.spans) spans[k]?.closest("[data-i]").classList.toggle("at", on); };
    if (this.at !== null) set(this.at, false);
    const had = this.at;
    this.at = i;
    if (i === null) { if (had !== null) hide(); return; }
    set(i, true);
    show(x, y, sheet, ...this.about(i));
  }
  about(i) {
    const s = this.current, row = (cell, ...cells) => make("tr", {}, ...cells.map((c) => make(cell, {}, ...[c].flat())));
    const text = make("span", { className: "tokentext" });
    fill(text, s.tokens[i]);
    const place = i < s.prompt ? "prompt" : `response token ${i - s.prompt + 1}`;
    const known = s.truth && i >= s.prompt ? (s.truth.includes(i) ? `, ${s.mark}` : `, not ${s.mark}`) : "";
    const line = (name, values) => { // what is the same for all methods is said once
      if (values.length < 2 || values.some((v) => v !== values[0])) return row("td", name, ...values);
      const one = row("td", name, values[0]);
      Object.assign(one.lastChild, { colSpan: values.length, className: "same" });
      return one;
    };
    const body = this.streams.filter((info) => info.scale !== "kept").map((info) => line(info.unit ? `${info.name} (${info.unit})` : info.name,
      s.views.map((v) => number(this.columns[v.streams[info.name]]?.[i]))));
    body[this.stream]?.classList.add("chosen");
    if (s.views.some((v) => v.dropped)) body.push(line("dropped", s.views.map((v) => (!v.dropped || i < s.prompt ? MISSING : !v.copies ? "response" : v.drop.has(i) ? "yes" : "no"))));
    return [make("p", {}, text), make("p", { textContent: `position ${i}, ${place}${known}` }),
      make("table", { className: "values" }, make("thead", {}, row("th", "", ...s.views.map((v) => [swatch(v.colour), v.arm]))), make("tbody", {}, ...body))];
  }
  walk(by) {
    const spans = this.spans[0] || [];
    if (!spans.length) return;
    const first = spans.findIndex(Boolean), from = this.at ?? (by > 0 ? first - 1 : spans.length);
    const i = Math.max(first, Math.min(spans.length - 1, from + by));
    still = performance.now() + 300;
    spans[i].scrollIntoView({ block: "nearest", behavior: "instant" });
    const { left, bottom } = spans[i].closest("[data-i]").getBoundingClientRect();
    this.mark(i, left, bottom, false);
  }
}
const tokenViews = [...document.querySelectorAll(".tokens")].map((box) => new TokenView(box));
let active = tokenViews[0];
for (const view of tokenViews) for (const kind of ["pointerdown", "focusin"]) view.box.addEventListener(kind, () => { active = view; });
addEventListener("keydown", (e) => {
  if (!active || e.ctrlKey || e.metaKey || e.altKey || e.target.closest?.("input, textarea, select")) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key], wide = e.target.closest?.(".scroll, pre"), turn = { a: "lanes", n: "numbers" }[e.key.toLowerCase()];
  if (by && wide && wide.scrollWidth > wide.clientWidth) return; // there the arrows scroll
  if (by && e.shiftKey) active.walk(by);
  else if (by) active.go(active.sample + by);
  else if (turn) active.turn(turn);
  else if (/^[1-9]$/.test(e.key)) active.choose(Number(e.key) - 1);
  else return;
  e.preventDefault();
});
// Whatever is pressed, what was shown goes first; capturing, so that the pressed thing may then show its own.
addEventListener("pointerdown", () => { hide(); for (const v of tokenViews) v.mark(null); }, true);
