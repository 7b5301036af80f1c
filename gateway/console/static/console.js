// The console works without this. It adds live numbers, keys, copying, and a word or two of help in forms.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);

// ---- live parts: the server sends a part of the page again; cells that changed are put in place, focus stays.

function renew(region, html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  const old = new Map(all("[data-cell]", region).map((cell) => [cell.dataset.cell, cell]));
  const cells = all("[data-cell]", fresh.content);
  const skeleton = (root) => {
    const copy = root.cloneNode(true);
    all("[data-cell]", copy).forEach((cell) => cell.replaceChildren());
    return all("*", copy).map((e) => e.tagName + (e.dataset.cell || "")).join();
  };
  if (skeleton(region) !== skeleton(fresh.content)) {
    const focused = region.contains(document.activeElement);
    region.replaceChildren(fresh.content);
    if (focused) one("#main").focus();
    return;
  }
  for (const cell of cells) {
    const before = old.get(cell.dataset.cell);
    if (before.innerHTML !== cell.innerHTML && !before.contains(document.activeElement)) {
      before.innerHTML = cell.innerHTML;
      before.className = cell.className;
    }
  }
}

function follow(region) {
  const end = region.dataset.liveUntil;
  let source = null;
  const stop = () => { source?.close(); source = null; };
  const start = () => {
    source = new EventSource(region.dataset.live);
    source.addEventListener("part", (event) => {
      renew(region, event.data);
      if (end && one(end, region)) { stop(); toggle?.remove(); }
    });
  };
  const toggle = one("[data-live-switch]");
  const wanted = () => toggle?.getAttribute("aria-pressed") !== "true";
  if (toggle) {
    toggle.hidden = false;
    toggle.addEventListener("click", () => {
      toggle.setAttribute("aria-pressed", String(wanted()));
      if (wanted()) start(); else stop();
    });
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop(); else if (!source && wanted() && !(end && one(end, region))) start();
  });
  addEventListener("pagehide", stop);
  start();
}

all("[data-live]").forEach(follow);

// ---- selecting

const boxes = all("[data-select]");
const count = one("[data-selected-count]");
let everyBox = null;

function selected() {
  const n = boxes.filter((box) => box.checked).length;
  if (count) count.textContent = `(${n})`;
  if (everyBox) { everyBox.checked = n === boxes.length; everyBox.indeterminate = n > 0 && n < boxes.length; }
}

if (boxes.length) {
  const head = one("[data-select-all]");
  everyBox = Object.assign(document.createElement("input"), { type: "checkbox" });
  everyBox.setAttribute("aria-label", "Select all on this page");
  head.replaceChildren(everyBox);
  everyBox.addEventListener("change", () => { boxes.forEach((box) => { box.checked = everyBox.checked; }); picked(); });
  boxes.forEach((box) => box.addEventListener("change", picked));
  selected();
}

function picked() {
  const some = one("[data-what-selected]");
  if (some) some.checked = true;
  selected();
}

// ---- copying, over plain HTTP too, where the clipboard's interface is missing

async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(from);
    document.execCommand("copy");
  }
}

for (const pre of all("pre[data-copy]")) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "copy quiet" });
  button.textContent = `Copy as ${pre.dataset.copy}`;
  button.addEventListener("click", async () => {
    await copy(pre.textContent, pre);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = `Copy as ${pre.dataset.copy}`; }, 1500);
  });
  pre.after(button);
}

// ---- the search box suggests for its last word

const search = one("#q");
if (search) {
  const list = one("#q-words");
  const words = all("option", list).map((option) => option.value);
  search.addEventListener("input", () => {
    const before = search.value.replace(/\S*$/, "");
    list.replaceChildren(...words.map((word) => Object.assign(document.createElement("option"), { value: before + word })));
  });
}

// ---- keys

const keys = one("#keys");
const opener = one("#keys-open");
opener.hidden = false;
opener.addEventListener("click", () => keys.showModal());

function step(by) {
  const rows = all("[data-row]");
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1);
  one("[data-open]", rows[next]).focus();
}

addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]):not([type=radio]), select, textarea");
  if (typing || keys.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const row = document.activeElement?.closest("[data-row]");
  const acts = {
    "/": () => one("[data-search]")?.focus(),
    "?": () => keys.showModal(),
    j: () => step(1),
    k: () => step(-1),
    x: () => row && one("[data-select]", row)?.click(),
    p: () => one("[data-live-switch]:not([hidden])")?.click(),
  };
  if (!(event.key in acts)) return;
  event.preventDefault();
  acts[event.key]();
});

// A page that was left for its details is shown again as it was: its numbers are old, but the selection is kept.
addEventListener("pageshow", selected);
