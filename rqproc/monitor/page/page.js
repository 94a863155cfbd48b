"use strict";
// What the page shows, from the stream of news. All text is put in as text, never as HTML.

const byId = (id) => document.getElementById(id);

function make(tag, text, attributes = {}) {
  const found = document.createElement(tag);
  if (text != null) found.textContent = text;
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  return found;
}

// --- tables: kept from one look to the next, so that focus and selection stay where they are ---

function table(where, caption, columns, rows, keyOf, none) {
  const at = byId(where);
  let body = at.querySelector("tbody");
  if (!rows.length) {
    if (body || !at.firstChild) at.replaceChildren(make("p", none, { class: "none" }));
    return;
  }
  if (!body) {
    const head = make("tr");
    for (const column of columns) {
      head.append(make("th", column.name, { scope: "col", class: column.class || "" }));
    }
    const found = make("table");
    const top = make("thead");
    top.append(head);
    body = make("tbody");
    found.append(make("caption", caption, { class: "hidden" }), top, body);
    const scroll = make("div", null, { class: "scroll", tabindex: "0", role: "region", "aria-label": caption });
    scroll.append(found);
    at.replaceChildren(scroll);
  }
  const before = new Map([...body.children].map((row) => [row.dataset.key, row]));
  rows.forEach((row, place) => {
    const key = keyOf(row);
    let line = before.get(key);
    before.delete(key);
    if (!line) {
      line = make("tr", null, { "data-key": key });
      columns.forEach((column, index) => {
        const cell = make(index ? "td" : "th", null, { class: column.class || "" });
        if (!index) cell.setAttribute("scope", "row");
        line.append(cell);
      });
    }
    columns.forEach((column, index) => fill(line.children[index], column, row));
    if (body.children[place] !== line) body.insertBefore(line, body.children[place] || null);
  });
  for (const gone of before.values()) gone.remove();
}

function fill(cell, column, row) {
  if (column.element) {
    const made = column.element(row, cell);
    if (made) cell.replaceChildren(...made);
    return;
  }
  const text = String(column.text(row));
  if (cell.textContent !== text) cell.textContent = text;
  if (column.classOf) cell.className = `${column.class || ""} ${column.classOf(row)}`;
}

function idColumn() {
  return {
    name: "id", class: "id",
    element(row, cell) {
      if (cell.firstChild) return null;
      const button = make("button", `${row.resource}:${row.id}`, { class: "link", type: "button", title: "explain" });
      button.addEventListener("click", () => lookUp(row.resource, row.id));
      return [button];
    },
  };
}

const number = (name, text, more = {}) => ({ name, text, class: `number ${more.wide ? "wide" : ""}`, ...more });
const rates = (row) => row.rates || {};
const keyOfId = (row) => JSON.stringify([row.resource, row.id, row.node]);
let readOnly = true;

const NODES = [
  { name: "node", text: (row) => row.info.name },
  { name: "state", text: (row) => row.info.state, classOf: (row) => `state-${row.info.state}` },
  { name: "owns", class: "wide", element: share },
  number("req/s", (row) => rate(rates(row).requests_per_s)),
  number("hits", (row) => percent(rates(row).hit_rate)),
  number("p50", (row) => duration(rates(row).p50_s), { wide: true }),
  number("p99", (row) => duration(rates(row).p99_s)),
  number("queued", (row) => row.info.queued, { wide: true }),
  number("held", (row) => row.info.held, { wide: true }),
  number("lanes", (row) => `${row.lanes_busy}/${row.lanes}`, { wide: true }),
  number("stuck", (row) => row.info.stuck, { wide: true, classOf: (row) => (row.info.stuck ? "bad" : "") }),
  number("entries", (row) => row.info.entries.toLocaleString("en"), { wide: true }),
  number("lease", (row) => duration(row.info.lease_left_s), { wide: true }),
  { name: "process", class: "wide", text: (row) => `${row.info.host}:${row.info.pid}` },
  { name: "", element: drainButton },
];

function share(row, cell) {
  const text = percent(row.share);
  if (cell.dataset.text === text) return null;
  cell.dataset.text = text;
  const ns = "http://www.w3.org/2000/svg";
  const bar = document.createElementNS(ns, "svg");
  bar.setAttribute("class", "bar");
  bar.setAttribute("viewBox", "0 0 60 8");
  bar.setAttribute("aria-hidden", "true");
  for (const width of [60, 60 * row.share]) {
    const part = document.createElementNS(ns, "rect");
    part.setAttribute("width", width);
    part.setAttribute("height", 8);
    part.setAttribute("rx", 2);
    bar.append(part);
  }
  return [bar, document.createTextNode(text)];
}

function drainButton(row, cell) {
  const wants = !readOnly && row.info.state === "member";
  if (wants === Boolean(cell.firstChild)) return null;
  if (!wants) return [document.createTextNode("")].slice(1);
  const button = make("button", "Drain", { type: "button", "aria-label": `Drain ${row.info.name}` });
  button.addEventListener("click", () => askToDrain(row.info.name));
  return [button];
}

const HOT = [idColumn(), number("req/s", (row) => rate(row.per_s)), { name: "node", text: (row) => row.node }];
const SLOW = [
  idColumn(), number("ran", (row) => duration(row.run_s)), number("waited", (row) => duration(row.queued_s), { wide: true }),
  number("ended", (row) => `${duration(row.ago_s)} ago`), { name: "node", text: (row) => row.node },
  { name: "error", text: (row) => row.error, class: "bad" },
];
const STUCK = [idColumn(), number("for", (row) => duration(row.run_s)), { name: "node", text: (row) => row.node }];
const RESOURCES = [
  { name: "resource", text: (row) => row.name }, number("req/s", (row) => rate(row.rates.requests_per_s)),
  number("hits", (row) => percent(row.rates.hit_rate)), number("p50", (row) => duration(row.rates.p50_s), { wide: true }),
  number("p99", (row) => duration(row.rates.p99_s)), number("errors/s", (row) => rate(row.rates.errors_per_s)),
];

// --- what one look has found ---

function show(seen) {
  readOnly = seen.read_only;
  byId("namespace").textContent = seen.namespace;
  document.title = `${seen.namespace} - rqproc`;
  const nodes = seen.nodes.length === 1 ? "1 node" : `${seen.nodes.length} nodes`;
  byId("where").textContent = `${nodes}, epoch ${seen.epoch}, placement ${seen.placement}, ${seen.server}`;
  const trouble = byId("trouble");
  trouble.hidden = !seen.trouble;
  if (trouble.textContent !== seen.trouble) trouble.textContent = seen.trouble;
  byId("now-requests").textContent = rate(seen.total.requests_per_s);
  byId("now-hits").textContent = percent(seen.total.hit_rate);
  byId("now-p50").textContent = duration(seen.total.p50_s);
  byId("now-p99").textContent = duration(seen.total.p99_s);
  byId("now-errors").textContent = rate(seen.total.errors_per_s);
  table("nodes", "Nodes", NODES, seen.nodes, (row) => row.info.incarnation, "no live node");
  table("hot", "Hottest ids", HOT, seen.hot.slice(0, 12), keyOfId, "nothing was asked for lately");
  table("slow", "Slowest runs", SLOW, seen.slow.slice(0, 12), keyOfId, "nothing was run lately");
  table("resources", "Resources", RESOURCES, seen.resources, (row) => row.name, "nothing was asked for");
  byId("stuck-section").hidden = !seen.stuck.length;
  table("stuck", "Stuck handlers", STUCK, seen.stuck, keyOfId, "none");
  showErrors(seen.errors);
  showEvents(seen.events);
  if (!seen.trouble) Plots.add({ at_s: seen.at_s, rates: seen.total });
}

function showErrors(errors) {
  const at = byId("errors");
  if (!errors.length) {
    at.replaceChildren(make("p", "none that a node remembers", { class: "none" }));
    return;
  }
  const open = new Map([...at.querySelectorAll("details")].map((one) => [one.dataset.key, one]));
  const rows = errors.map((row) => {
    const key = JSON.stringify([row.resource, row.id, row.node, row.error]);
    const found = open.get(key) || errorRow(key);
    open.delete(key);
    fillError(found, row);
    found.querySelector(".ago").textContent = ` ${duration(row.ago_s)} ago on ${row.node}`;
    return found;
  });
  const now = [...at.children];
  if (now.length !== rows.length || rows.some((row, place) => row !== now[place])) at.replaceChildren(...new Set(rows));
}

function errorRow(key) {
  const found = make("details", null, { "data-key": key });
  const line = make("summary");
  line.append(make("strong", ""), make("span", "", { class: "bad" }), make("span", "", { class: "ago soft" }));
  found.append(line, make("pre", "", { tabindex: "0" }));
  return found;
}

// Of the same key, the error that came last is shown; what has not changed keeps its selection.
function fillError(at, row) {
  const texts = {
    strong: `${row.resource}:${row.id} `,
    ".bad": `${row.error}: ${row.message}`,
    pre: row.traceback || "no traceback was kept",
  };
  for (const [where, text] of Object.entries(texts)) {
    const found = at.querySelector(where);
    if (found.textContent !== text) found.textContent = text;
  }
}

let shownEvents = new Set();
const keyOfEvent = (event) => JSON.stringify([event.at_s, event.kind, event.text]);

function showEvents(events) {
  const at = byId("events");
  // Not by their times: a server's clock may be set back.
  const fresh = events.filter((event) => !shownEvents.has(keyOfEvent(event))).reverse();
  shownEvents = new Set(events.map(keyOfEvent));
  for (const event of fresh) {
    const line = make("li");
    line.append(make("time", clock(event.at_s)), make("span", event.text, { class: event.kind }));
    if (at.querySelector(".none")) at.replaceChildren();
    at.prepend(line);
  }
  while (at.children.length > 100) at.lastChild.remove();
  if (!at.children.length) at.append(make("li", "nothing has changed since this page's server began", { class: "none" }));
}

// --- what a user asks and orders ---

async function lookUp(resource, id) {
  const form = byId("look");
  form.elements.resource.value = resource;
  form.elements.id.value = id;
  const found = byId("found");
  found.hidden = false;
  found.textContent = "asking...";
  try {
    const query = new URLSearchParams({ resource, id });
    const told = await (await fetch(`api/explain?${query}`)).json();
    found.textContent = told.error || told.text;
  } catch (error) {
    found.textContent = `it could not be asked: ${error.message}`;
  }
  found.scrollIntoView({ block: "nearest" });
}

byId("look").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target.elements;
  lookUp(form.resource.value.trim() || "demo", form.id.value.trim());
});

function askToDrain(node) {
  const dialog = byId("confirm");
  byId("confirm-node").textContent = node;
  dialog.returnValue = "no";
  dialog.onclose = () => { if (dialog.returnValue === "yes") drain(node); };
  dialog.showModal();
}

async function drain(node) {
  try {
    const answer = await fetch("api/drain", {
      method: "POST", headers: { "Content-Type": "application/json", "X-Rqproc": "drain" }, body: JSON.stringify({ node }),
    });
    const told = await answer.json().catch(() => ({ error: answer.statusText }));
    if (told.error) complain(told.error);
  } catch (error) {
    complain(`${node} was not drained: ${error.message}`);
  }
}

// --- the stream ---

function say(text, kind) {
  const state = byId("state");
  if (state.textContent !== text) state.textContent = text; // else it would be read out each time
  state.className = kind;
}

// What an order has ended in is left for long enough to be read.
const READABLE_MS = 10_000;
let readUntil = 0;

function complain(text) {
  readUntil = Date.now() + READABLE_MS;
  say(text, "lost");
}

const stream = new EventSource("api/news");
stream.addEventListener("history", (event) => Plots.begin(JSON.parse(event.data)));
stream.addEventListener("overview", (event) => {
  if (Date.now() > readUntil) say("live", "live");
  show(JSON.parse(event.data));
});
stream.addEventListener("error", () => {
  say("this page's server does not answer; trying again", "lost");
});
