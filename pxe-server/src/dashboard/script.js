"use strict";
// Text of nodes only ever becomes textContent; nothing here makes markup from a string.

const STATES = {
  failed: "\u2716", waiting: "\u25D4", deploying: "\u25B6", approved: "\u2714", lingering: "\u21C4", deployed: "\u25CF", seen: "\u25CB",
};
const STEPS = ["join", "prepare", "fetch", "verify", "personalise", "linger"];
const RATE_WINDOW_MS = 4000;
const SILENT_MS = 15000;
const DETAIL_PAUSE_MS = 1000;

const nodes = new Map();
const cards = new Map();
const totals = [];
let status = {};
let clockSkewMs = 0;
let filter = "";
let open = null;
let detailDue = false;

const $ = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function bytes(count) {
  let value = count;
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (value < 1000) return (value < 10 && unit !== "B" ? value.toFixed(1) : value.toFixed(0)) + " " + unit;
    value /= 1000;
  }
  return value.toFixed(0) + " PB";
}

function duration(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return (ms / 1000).toFixed(1) + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + String(s % 60).padStart(2, "0") + " s";
  return Math.floor(s / 3600) + " h " + String(Math.floor((s % 3600) / 60)).padStart(2, "0") + " min";
}

function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

function badge(state) {
  const element = make("span", "badge " + state);
  const mark = make("span", "", STATES[state] || "?");
  mark.setAttribute("aria-hidden", "true");
  element.append(mark, make("span", "", state));
  return element;
}

function received(node) {
  return node.traffic.from_server_bytes + node.traffic.from_nodes_bytes;
}

function machine(node) {
  const identity = node.identity || {};
  const parts = [identity.vendor, identity.product].filter(Boolean).join(" ");
  return [parts, node.firmware, node.address || node.mac].filter(Boolean).join(" \u00b7 ");
}

async function order(kind, body, button) {
  if (button) button.disabled = true;
  try {
    const answer = await fetch("/v1/" + kind, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error((await answer.json()).error || answer.statusText);
  } catch (error) {
    say("The order was not taken: " + error.message);
  } finally {
    if (button) button.disabled = false;
  }
}

function deployAgain(name, button) {
  if (confirm("Deploy " + name + " once more at its next boot? What is on its disk will be lost.")) {
    order("deploy", { nodes: [name] }, button);
  }
}

// --- one node's card -------------------------------------------------------------------------

function makeCard(name) {
  const card = make("article", "node");
  const head = make("div", "node-head");
  const title = make("button", "", name);
  title.type = "button";
  title.addEventListener("click", () => showDetail(name));
  const mark = make("span");
  head.append(title, mark);
  const machineLine = make("p", "machine");
  const steps = make("div", "steps");
  steps.setAttribute("aria-hidden", "true");
  for (const step of STEPS) steps.append(make("i", "", "")), (steps.lastChild.title = step);
  const work = make("p", "work");
  const stage = make("span");
  const amount = make("span");
  work.append(stage, amount);
  const bar = make("div", "bar");
  bar.setAttribute("role", "progressbar");
  bar.append(make("b"));
  const sources = make("p", "sources");
  const fromServer = make("span");
  const fromNodes = make("span", "peers");
  sources.append(fromServer, fromNodes);
  const split = make("div", "bar split");
  split.append(make("b"), make("b"));
  const why = make("p", "why");
  const late = make("p", "late");
  const actions = make("div", "actions");
  const approve = make("button", "primary", "Approve");
  approve.type = "button";
  approve.addEventListener("click", () => order("approve", { nodes: [name] }, approve));
  const again = make("button", "", "Deploy again");
  again.type = "button";
  again.addEventListener("click", () => deployAgain(name, again));
  actions.append(approve, again);
  card.append(head, machineLine, steps, work, bar, sources, split, why, late, actions);
  return { card, mark, machineLine, steps, work, stage, amount, bar, sources, fromServer, fromNodes, split, why, late, actions, approve, again, state: "" };
}

function drawCard(node) {
  let parts = cards.get(node.name);
  if (!parts) {
    parts = makeCard(node.name);
    cards.set(node.name, parts);
    insertSorted(parts.card, node.name);
  }
  if (parts.state !== node.state) {
    parts.state = node.state;
    parts.card.className = "node " + node.state;
    parts.mark.replaceChildren(badge(node.state));
  }
  setText(parts.machineLine, machine(node));
  drawSteps(parts.steps, node);
  drawProgress(parts, node);
  const got = received(node);
  parts.sources.hidden = parts.split.hidden = got === 0;
  setText(parts.fromServer, bytes(node.traffic.from_server_bytes) + " from server");
  setText(parts.fromNodes, bytes(node.traffic.from_nodes_bytes) + " from nodes");
  parts.split.children[0].style.width = (got ? (node.traffic.from_server_bytes / got) * 100 : 0) + "%";
  parts.split.children[1].style.width = (got ? (node.traffic.from_nodes_bytes / got) * 100 : 0) + "%";
  const alarm = node.alarm ? "ALARM: " + node.alarm : "";
  const state = node.failure ? node.failure.message + " (" + node.failure.code + ")" : node.waits_for ? "Waits: " + node.waits_for : "";
  const why = [alarm, state].filter(Boolean).join("; ");
  setText(parts.why, why);
  parts.why.hidden = !why;
  parts.approve.hidden = !["waiting", "seen", "failed"].includes(node.state);
  setText(parts.approve, node.state === "failed" ? "Try again" : "Approve");
  parts.again.hidden = !["deployed", "lingering"].includes(node.state) || node.armed;
  parts.actions.hidden = parts.approve.hidden && parts.again.hidden;
  drawLate(parts, node);
  parts.card.hidden = !isShown(node);
}

function drawSteps(steps, node) {
  const at = STEPS.indexOf(node.stage);
  const past = node.state === "deployed" ? STEPS.length : at;
  steps.hidden = !["deploying", "lingering", "deployed", "failed"].includes(node.state);
  for (let i = 0; i < STEPS.length; i++) {
    const name = i < past ? "done" : i === at ? (node.state === "failed" ? "bad" : "now") : "";
    if (steps.children[i].className !== name) steps.children[i].className = name;
  }
}

function drawProgress(parts, node) {
  const progress = node.progress;
  const busy = node.state === "deploying" && progress && progress.total_bytes > 0 && progress.stage === node.stage;
  parts.bar.hidden = !busy;
  let stage = node.stage || "";
  if (node.state === "deployed") stage = node.installed ? "boots from its own disk" : "";
  if (node.state === "approved") stage = stage ? "waits for its task (" + stage + ")" : "waits for its next boot";
  let amount = "";
  if (busy) {
    const percent = Math.min(100, (progress.done_bytes / progress.total_bytes) * 100);
    parts.bar.firstChild.style.width = percent + "%";
    parts.bar.setAttribute("aria-valuenow", percent.toFixed(0));
    parts.bar.setAttribute("aria-label", node.name + " " + node.stage);
    amount = bytes(progress.done_bytes) + " of " + bytes(progress.total_bytes) + " \u00b7 " + percent.toFixed(0) + " %";
  } else if (node.ended_unix_ms && node.started_unix_ms && node.outcome === "installed") {
    amount = "installed in " + duration(node.ended_unix_ms - node.started_unix_ms);
  }
  setText(parts.stage, stage);
  setText(parts.amount, amount);
  parts.work.hidden = !stage && !amount;
}

function drawLate(parts, node) {
  const silentMs = Date.now() + clockSkewMs - node.last_seen_unix_ms;
  const late = ["deploying", "lingering"].includes(node.state) && silentMs > SILENT_MS;
  setText(parts.late, late ? "not heard of for " + duration(silentMs) : "");
  parts.late.hidden = !late;
}

function insertSorted(card, name) {
  card.dataset.name = name;
  const after = [...$("nodes").children].find((other) => other.dataset.name > name);
  $("nodes").insertBefore(card, after || null);
}

function isShown(node) {
  if (filter && node.state !== filter) return false;
  const wanted = $("search").value.trim().toLowerCase();
  if (!wanted) return true;
  const identity = node.identity || {};
  const text = [node.name, node.address, identity.serial, identity.product, node.stage, ...node.macs].join(" ").toLowerCase();
  return text.includes(wanted);
}

// --- the head of the page --------------------------------------------------------------------

function count(state) {
  let found = 0;
  for (const node of nodes.values()) if (node.state === state) found++;
  return found;
}

function drawHead() {
  setText($("site"), status.site || "");
  if (status.image) {
    setText($("serving"), status.image + ", " + bytes(status.image_bytes) + " \u00b7 server " + status.server + " \u00b7 kernel " + status.kernel + (status.approve_all ? " \u00b7 every machine is approved" : ""));
  }
  let fromServer = 0;
  let fromNodes = 0;
  for (const node of nodes.values()) {
    fromServer += node.traffic.from_server_bytes;
    fromNodes += node.traffic.from_nodes_bytes;
  }
  const all = fromServer + fromNodes;
  drawTotals([
    ["nodes", String(nodes.size)],
    ["deploying", String(count("deploying"))],
    ["installed", String(count("deployed") + count("lingering"))],
    ["failed", String(count("failed"))],
    ["total rate", bytes(rate()) + "/s"],
    ["from nodes", all ? Math.round((fromNodes / all) * 100) + " %" : "\u2013"],
  ]);
  drawFilters();
  const waiting = count("waiting");
  $("approve-all").hidden = waiting < 2;
  setText($("approve-all"), "Approve all " + waiting + " waiting");
  const shown = [...nodes.values()].some(isShown);
  $("empty").hidden = shown;
  setText($("empty"), nodes.size ? "No node fits this choice." : "No machine has booted over the network yet. Power one on.");
  document.title = (count("failed") ? "\u2716 " : "") + "ESIR" + (nodes.size ? " \u00b7 " + (count("deployed") + count("lingering")) + "/" + nodes.size : "");
}

function drawTotals(pairs) {
  const list = $("totals");
  while (list.children.length < pairs.length) {
    const box = make("div");
    box.append(make("dt"), make("dd"));
    list.append(box);
  }
  pairs.forEach(([name, value], i) => {
    setText(list.children[i].children[0], name);
    setText(list.children[i].children[1], value);
  });
}

function drawFilters() {
  const group = $("filters");
  if (!group.children.length) {
    for (const state of ["", ...Object.keys(STATES)]) {
      const button = make("button");
      button.type = "button";
      button.dataset.state = state;
      button.addEventListener("click", () => {
        filter = state;
        drawAll();
      });
      group.append(button);
    }
  }
  for (const button of group.children) {
    const state = button.dataset.state;
    const found = state ? count(state) : nodes.size;
    setText(button, state ? STATES[state] + " " + state + " " + found : "all " + found);
    button.setAttribute("aria-pressed", String(filter === state));
    button.hidden = state !== "" && found === 0 && filter !== state;
  }
}

function rate() {
  if (totals.length < 2) return 0;
  const [first, last] = [totals[0], totals[totals.length - 1]];
  return last.at > first.at ? Math.max(0, ((last.sum - first.sum) * 1000) / (last.at - first.at)) : 0;
}

function noteTotals(at) {
  let sum = 0;
  for (const node of nodes.values()) sum += received(node);
  totals.push({ at, sum });
  while (totals.length > 2 && totals[0].at < at - RATE_WINDOW_MS) totals.shift();
}

function drawAll() {
  for (const node of nodes.values()) drawCard(node);
  drawHead();
}

function say(text) {
  setText($("connection"), text);
  $("connection").hidden = !text;
}

// --- one node in full ------------------------------------------------------------------------

async function showDetail(name) {
  open = name;
  setText($("detail-name"), name);
  if (!$("detail").open) $("detail").showModal();
  await loadDetail();
}

async function loadDetail() {
  const name = open;
  if (!name) return;
  const answer = await fetch("/v1/nodes/" + encodeURIComponent(name)).catch(() => null);
  if (!answer || !answer.ok || open !== name) return;
  const node = await answer.json();
  $("detail-badge").replaceChildren(badge(node.state));
  const body = $("detail-body");
  const log = body.querySelector("pre");
  const follow = !log || log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  const scroll = [body.scrollTop, log ? log.scrollTop : 0];
  body.replaceChildren(...detailParts(node));
  body.scrollTop = scroll[0];
  const newLog = body.querySelector("pre");
  if (newLog) newLog.scrollTop = follow ? newLog.scrollHeight : scroll[1];
}

function detailParts(node) {
  const parts = [];
  if (node.alarm) parts.push(section("Alarm", make("p", "why failed", node.alarm)));
  if (node.failure) parts.push(section("What is wrong", make("p", "why failed", node.failure.message + " (" + node.failure.code + ", in " + node.failure.stage + "; it will " + node.failure.recovery + ")")));
  if (node.waits_for) parts.push(section("Waits for approval", make("p", "", node.waits_for)));
  parts.push(facts(node));
  if (node.stages.length) parts.push(section("Stages of its last boot with an agent", gantt(node)));
  parts.push(section("What happened", timeline(node.history)));
  if (node.log.length) {
    parts.push(section("Last log lines", make("pre", "", node.log.map((line) => (line.uptime_ms / 1000).toFixed(3).padStart(10) + "  " + line.source.padEnd(6) + "  " + line.text).join("\n"))));
  }
  return parts;
}

function section(title, content) {
  const element = make("section");
  element.append(make("h3", "", title), content);
  return element;
}

function firmware(node) {
  const locked = node.lockdown && node.lockdown !== "none" ? "lockdown " + node.lockdown : "";
  return [node.firmware, node.refused_ipxe_unix_ms ? "signed loaders" : "", locked].filter(Boolean).join(", ");
}

function facts(node) {
  const identity = node.identity || {};
  const inventory = node.inventory || { disks: [], nics: [] };
  const disks = inventory.disks.map((disk) => disk.name + " " + bytes(disk.size_bytes) + (disk.model ? " " + disk.model : "")).join(", ");
  const rows = [
    ["Machine", [identity.vendor, identity.product].filter(Boolean).join(" ")], ["Serial number", identity.serial], ["SMBIOS UUID", identity.uuid],
    ["Firmware", firmware(node)], ["MAC", node.macs.join(", ")], ["Address", node.address], ["Software", node.software],
    ["Processor", inventory.processor_model ? inventory.processors + " \u00d7 " + inventory.processor_model : ""], ["Memory", inventory.memory_bytes ? bytes(inventory.memory_bytes) : ""],
    ["Disks", disks], ["Image", node.image], ["From server / from nodes", bytes(node.traffic.from_server_bytes) + " / " + bytes(node.traffic.from_nodes_bytes)],
    ["Sent to nodes", bytes(node.traffic.sent_bytes)], ["Machine id", node.machine_id], ["Last heard of", clock(node.last_seen_unix_ms)],
  ];
  const list = make("dl", "facts");
  for (const [name, value] of rows) {
    if (!value) continue;
    const row = make("div");
    row.append(make("dt", "", name), make("dd", "", String(value)));
    list.append(row);
  }
  return list;
}

function gantt(node) {
  const now = Date.now() + clockSkewMs;
  const spans = node.stages.map((stage) => [stage, stage.began_unix_ms, stage.took_ms === null ? now : stage.began_unix_ms + stage.took_ms]);
  const first = Math.min(...spans.map((span) => span[1]));
  const whole = Math.max(1, Math.max(...spans.map((span) => span[2])) - first);
  const chart = make("div", "gantt");
  for (const [stage, begin, end] of spans) {
    const lane = make("div", "lane");
    const bar = make("b");
    bar.style.left = ((begin - first) / whole) * 100 + "%";
    bar.style.width = Math.max(0, ((end - begin) / whole) * 100) + "%";
    lane.title = stage.detail;
    lane.append(bar);
    chart.append(make("span", "", stage.stage), lane, make("span", "took", stage.took_ms === null ? "runs" : duration(stage.took_ms)));
  }
  return chart;
}

function timeline(history) {
  const list = make("ol", "timeline");
  for (const entry of [...history].reverse()) {
    const item = make("li");
    const changed = entry.from !== entry.to;
    const mark = make("span", "state " + (changed ? entry.to : ""), changed ? (STATES[entry.to] || "") + " " + entry.to : "");
    item.append(make("time", "", clock(entry.at_unix_ms)), mark, make("span", "what", entry.text));
    list.append(item);
  }
  return list;
}

// --- news ------------------------------------------------------------------------------------

function take(news) {
  clockSkewMs = news.now_unix_ms - Date.now();
  for (const node of news.nodes) {
    nodes.set(node.name, node);
    drawCard(node);
    if (node.name === open) detailDue = true;
  }
  noteTotals(news.now_unix_ms);
  drawHead();
}

function listen() {
  const source = new EventSource("/v1/events");
  source.addEventListener("snapshot", (event) => {
    const news = JSON.parse(event.data);
    status = news.status;
    nodes.clear();
    totals.length = 0;
    const known = new Set(news.nodes.map((node) => node.name));
    for (const [name, parts] of cards) {
      if (!known.has(name)) {
        parts.card.remove();
        cards.delete(name);
      }
    }
    take(news);
    say("");
  });
  source.addEventListener("nodes", (event) => take(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    say("The server does not answer; trying again \u2026");
    // The browser tries again by itself unless the answer was a refusal.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

$("search").addEventListener("input", drawAll);
$("approve-all").addEventListener("click", () => {
  const names = [...nodes.values()].filter((node) => node.state === "waiting").map((node) => node.name);
  if (confirm("Approve " + names.length + " nodes? Their disks will be written.")) order("approve", { nodes: names }, $("approve-all"));
});
$("detail-close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("close", () => (open = null));
$("detail").addEventListener("click", (event) => {
  if (event.target === $("detail")) $("detail").close();
});
setInterval(() => {
  if (detailDue) {
    detailDue = false;
    loadDetail();
  }
  for (const node of nodes.values()) {
    const parts = cards.get(node.name);
    if (parts) drawLate(parts, node);
  }
}, DETAIL_PAUSE_MS);
window.addEventListener("hashchange", () => location.hash.length > 1 && showDetail(decodeURIComponent(location.hash.slice(1))));
listen();
if (location.hash.length > 1) showDetail(decodeURIComponent(location.hash.slice(1)));
