// The operator's page: who is connected, how the server does, what it logs; and to send and to close. Ids, messages and
// lines of the log come from strangers: they enter the page as text, never as markup.

import { Api } from "./api.js";
import { element } from "./dom.js";
import { Plot } from "./plot.js";

const $ = (id) => document.getElementById(id);

/**
 * How often the server is asked. No stream is held open: a browser opens six connections to a server, which all tabs
 * share, so that the seventh would get no answer.
 */
const ASK_EVERY = 2_000;
/** Whatever happens, the lists are not older than this. */
const LISTS_EVERY = 15_000;
/** When much happens, they are fetched no more often than this. */
const LISTS_PAUSE = 1_000;
const PAGE_LENGTH = 50;
const LOG_LINES = 500;
/** Of the log's lines that are there when one signs in. */
const FIRST_LINES = 200;
/** Where the tab keeps the token, so that a reload does not ask for it again. */
const TOKEN = "ws-control-token";

const query = (parameters) => new URLSearchParams(Object.entries(parameters).filter(([, value]) => value)).toString();
const time = (seconds) => new Date(seconds * 1000);

function timeElement(date) {
  const node = element("time", "", date.toTimeString().slice(0, 8));
  node.dateTime = date.toISOString();
  node.title = date.toLocaleString();
  return node;
}

function button(text, label, action) {
  const node = element("button", "", text);
  node.type = "button";
  node.ariaLabel = label;
  node.onclick = action;
  return node;
}

// Figures

const perSecond = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en")}/s`;
const bytes = (value) => (value < 1 << 30 ? `${(value / 1048576).toFixed(1)} MiB` : `${(value / (1 << 30)).toFixed(2)} GiB`);

/** Label, and what of the status it shows: a value that stands, or one of which the growth counts. */
const FIGURES = [
  { label: "Connections", of: (status) => status.connections.open },
  { label: "Users", of: (status) => status.users },
  { label: "Messages in", rate: (status) => status.messages.received },
  { label: "Messages out", rate: (status) => status.messages.sent },
  { label: "Callbacks", rate: (status) => status.callbacks.finished + status.callbacks.failed },
  { label: "Failed callbacks", rate: (status) => status.callbacks.failed },
  { label: "Handshakes refused", rate: (status) => status.sockets.refused },
  { label: "Memory", of: (status) => status.memory_bytes ?? 0, format: bytes },
];
for (const figure of FIGURES) figure.plot = new Plot($("figures"), figure.label, figure.rate ? perSecond : figure.format);

/** The last status, and when it came. */
let former = null;

/** Changes when somebody comes or goes. */
const comings = ({ connections }) => connections.opened + connections.closed;

function showStatus(status) {
  const now = performance.now();
  if (former?.status.pid !== status.pid) {
    former = null;
    for (const { plot } of FIGURES) plot.clear();
  }
  for (const { of, rate, plot } of FIGURES) {
    if (of) plot.add(of(status));
    else if (former) plot.add(Math.max(0, (rate(status) - rate(former.status)) * 1000) / (now - former.at));
  }
  // Of a server that was started anew, who came before it was asked has come already.
  if (!former || comings(former.status) !== comings(status)) fetchLists();
  former = { status, at: now };
  $("version").textContent = `· version ${status.version}, pid ${status.pid}`;
  $("connections-count").textContent = `${status.connections.open.toLocaleString("en")} open`;
  $("users-count").textContent = `${status.users.toLocaleString("en")} here`;
}

// Lists

/** A table of which a page is shown at a time. */
class List {
  #name;
  #filter;
  #row;
  #after = "";
  #next = "";
  #asked = 0;

  /** `filter` says the parameters of the query, `row` makes the cells of an entry. */
  constructor(name, filter, row) {
    this.#name = name;
    this.#filter = filter;
    this.#row = row;
    $(`${name}-first`).onclick = () => this.turnTo("");
    $(`${name}-next`).onclick = () => this.turnTo(this.#next);
  }

  turnTo(after) {
    this.#after = after;
    return this.fetch();
  }

  async fetch() {
    const asked = (this.#asked += 1);
    const parameters = query({ limit: PAGE_LENGTH, after: this.#after, ...this.#filter() });
    const answer = await ask("GET", `/v1/${this.#name}?${parameters}`);
    // One that was asked later may have been answered sooner.
    if (answer && asked === this.#asked) this.#show(answer);
  }

  #show({ [this.#name]: entries, next = "" }) {
    const focused = document.activeElement?.dataset?.key;
    const rows = entries.map((entry) => this.#rowOf(entry));
    const none = element("tr");
    const cell = element("td", "none", "Nobody");
    cell.colSpan = 6;
    none.append(cell);
    $(this.#name).replaceChildren(...(rows.length ? rows : [none]));
    this.#next = next;
    $(`${this.#name}-next`).hidden = !next;
    $(`${this.#name}-first`).hidden = !this.#after;
    if (focused) $(this.#name).querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  #rowOf(entry) {
    const row = element("tr");
    const actions = element("td");
    for (const [text, label, action] of [
      ["Send", `Send to ${entry.id}`, () => addressTo(this.#name === "users" ? "user" : "connection", entry.id)],
      ["Close", `Close ${entry.id}`, () => askToClose(this.#name, entry)],
    ]) {
      const node = button(text, label, action);
      // The table is made anew while somebody may be about to press this.
      node.dataset.key = `${text} ${entry.id}`;
      actions.append(node, " ");
    }
    row.append(...this.#row(entry), actions);
    return row;
  }
}

function addressOf(ip, port) {
  if (!ip) return "";
  const host = ip.includes(":") ? `[${ip}]` : ip;
  return port ? `${host}:${port}` : host;
}

function timeCell(seconds) {
  const cell = element("td", "time");
  cell.append(timeElement(time(seconds)));
  return cell;
}

const connections = new List(
  "connections",
  () => ({ user: $("of-user").value.trim() }),
  ({ id, user, ip, port, uri, opened_at: openedAt }) => [
    element("td", "", user),
    element("td", "", id),
    element("td", "", addressOf(ip, port)),
    element("td", "", uri),
    timeCell(openedAt),
  ],
);
const users = new List(
  "users",
  () => ({ prefix: $("prefix").value }),
  ({ id, connections, sessions, since }) => [
    element("td", "", id),
    element("td", "number", connections),
    element("td", "number", sessions),
    timeCell(since),
  ],
);
$("of-user").oninput = () => connections.turnTo("");
$("prefix").oninput = () => users.turnTo("");

let listsTimer = 0;
let listsAreDue = false;

/** Fetches the lists at once, or if that has just been done, a little later. */
function fetchLists() {
  if (listsTimer) {
    listsAreDue = true;
    return;
  }
  listsAreDue = false;
  connections.fetch();
  users.fetch();
  listsTimer = setTimeout(() => {
    listsTimer = 0;
    if (listsAreDue) fetchLists();
  }, LISTS_PAUSE);
}

// Send, close

function addressTo(kind, id) {
  $("kind").value = kind;
  $("kind").onchange();
  $("target").value = id;
  $("text").focus();
}

$("kind").onchange = () => {
  $("target").disabled = $("kind").value === "all";
  if ($("target").disabled) $("target").value = "";
};

/** What the server says of what it was asked to do, in words. */
async function outcome(place, action) {
  place.classList.remove("bad");
  try {
    place.textContent = await action();
    return true;
  } catch (error) {
    place.classList.add("bad");
    place.textContent = error.message;
    return false;
  }
}

$("send").onsubmit = (event) => {
  event.preventDefault();
  const kind = $("kind").value;
  const to = { [kind]: kind === "all" ? true : $("target").value };
  outcome($("sent"), async () => {
    const { connections, dropped } = await api.ask("POST", "/v1/send", { to, text: $("text").value });
    if (!connections) return "Nobody was reached.";
    return `Reached ${connections.toLocaleString("en")}${dropped ? `, of which ${dropped.toLocaleString("en")} dropped it` : ""}.`;
  });
};

/** The path of what is to be closed. */
let closing = "";

function askToClose(kind, { id, user, connections }) {
  closing = `/v1/${kind}/${encodeURIComponent(id)}`;
  $("close-title").textContent = kind === "users" ? `Close all ${connections} of ${id}?` : `Close ${id} of ${user}?`;
  $("close-trouble").textContent = "";
  $("close").showModal();
}

$("keep").onclick = () => $("close").close();
$("close").querySelector("form").onsubmit = async (event) => {
  event.preventDefault();
  const words = query({ code: $("code").value, reason: $("reason").value });
  const isDone = await outcome($("close-trouble"), async () => {
    await api.ask("DELETE", `${closing}?${words}`);
    return "";
  });
  if (!isDone) return;
  $("close").close();
  fetchLists();
};

// Log

let isPaused = false;
let held = [];

/** The levels of syslog, as far as there are such lines. */
const PRIORITIES = { 3: "ERROR", 4: "WARN", 5: "INFO", 6: "INFO", 7: "DEBUG" };

/** A line is JSON, or text as on a terminal: the time, the level, the rest; or for the journal: <priority>, the rest. */
function parseLine(line) {
  try {
    const { timestamp, level, message = "", target, span, line: written = "", ...fields } = JSON.parse(line);
    const rest = Object.entries({ ...span, ...fields }).map(([name, value]) => {
      return `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`;
    });
    // What a callback writes is a field of its line.
    return { at: new Date(timestamp), level, text: `${message} ${written}`.trim(), fields: rest.join(" ") };
  } catch {
    const [, priority, rest] = /^<(\d)>(.*)$/s.exec(line) ?? [];
    if (priority) return { at: new Date(NaN), level: PRIORITIES[priority], text: rest, fields: "" };
    const [, stamp, level, text] = /^(\S+)\s+(ERROR|WARN|INFO|DEBUG|TRACE)\s+(.*)$/s.exec(line) ?? [];
    return { at: new Date(stamp), level, text: text ?? line, fields: "" };
  }
}

function lineElement(line) {
  const { at, level = "", text, fields } = parseLine(line);
  const row = element("li", /^(error|warn|info|debug|trace)$/i.test(level) ? level.toLowerCase() : "plain");
  const content = element("span", "text", text);
  content.append(element("span", "fields", fields && ` ${fields}`));
  row.append(Number.isNaN(at.getTime()) ? element("time") : timeElement(at), element("span", "level", level), content);
  return row;
}

/** What is said of the log, and not in it. */
const ASIDES = {
  lagged: (data) => `${JSON.parse(data).missed} lines were missed`,
  refused: (data) => `The log cannot be followed: ${data}`,
};

function logged({ event, data }) {
  const aside = ASIDES[event];
  const row = aside ? element("li", "plain", aside(data)) : lineElement(data);
  if (isPaused) {
    held = [...held, row].slice(-LOG_LINES);
    $("pause").textContent = `Resume (${held.length} new)`;
  } else {
    addRows([row]);
  }
}

/** The id of the last line that was heard of, and what was wrong the last time. */
let lastLine = "";
let logTrouble = "";

async function pollLog(signal) {
  const asked = api;
  let events = [];
  try {
    events = await asked.events(`/v1/log?follow=false&lines=${FIRST_LINES}`, lastLine);
    logTrouble = "";
  } catch (error) {
    if (error.status === 401 && api === asked) failed(error);
    else if (error.status && error.message !== logTrouble) events = [{ event: "refused", data: error.message }];
    logTrouble = error.message;
  }
  // What somebody asked who has signed out or looked away meanwhile is nobody's.
  if (api !== asked || signal.aborted) return;
  for (const event of events) {
    lastLine = event.id ?? lastLine;
    if (event.data !== undefined) logged(event);
  }
}

function addRows(rows) {
  const scroller = $("log-scroller");
  const isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 24;
  $("log").append(...rows);
  while ($("log").childElementCount > LOG_LINES) $("log").firstChild.remove();
  if (isAtEnd) scroller.scrollTop = scroller.scrollHeight;
}

$("pause").onclick = () => {
  isPaused = !isPaused;
  $("pause").ariaPressed = String(isPaused);
  $("pause").textContent = isPaused ? "Resume" : "Pause";
  if (!isPaused) addRows(held.splice(0));
};
$("clear").onclick = () => {
  held = [];
  $("log").replaceChildren();
};

// Signed in, signed out

/** Asks with the operator's token, while signed in. */
let api = null;
/** Ends what goes on while the page is seen by somebody who is signed in. */
let watching = null;

function showState(state, text) {
  document.documentElement.dataset.state = state;
  $("state-text").textContent = text;
}

/** The answer, or nothing if there is none: then the page says so. */
async function ask(method, path) {
  const asked = api;
  try {
    const answer = await asked?.ask(method, path);
    // What somebody asked who has signed out meanwhile is nobody's.
    if (api !== asked) return undefined;
    if (answer) showState("open", "Connected");
    return answer;
  } catch (error) {
    if (api === asked) failed(error);
    return undefined;
  }
}

function failed(error) {
  if (error.status === 401) signOut("The token is not good any more.");
  else if (api) showState("waiting", error.status ? error.message : "The server does not answer");
}

/** Remembers the token for this tab, or forgets it. */
function keep(token) {
  try {
    if (token) sessionStorage.setItem(TOKEN, token);
    else sessionStorage.removeItem(TOKEN);
  } catch {
    // The browser keeps nothing for pages: then it is asked for again after a reload.
  }
}

function kept() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}

/** Grows with each sign-in and sign-out: only the last of them counts. */
let turn = 0;

async function signIn(token) {
  const mine = ++turn;
  const candidate = new Api(token);
  let status;
  try {
    status = await candidate.ask("GET", "/v1/status");
  } catch (error) {
    if (turn !== mine) return;
    const isUnknown = error.status === 401;
    const words = isUnknown ? "The server does not know this token." : error.message;
    // A server that is down or busy may know it well.
    signOut(error.status ? words : "The server does not answer.", isUnknown);
    return;
  }
  if (turn !== mine) return;
  look(false);
  api = candidate;
  keep(token);
  showStatus(status);
  $("token").value = "";
  $("sign-in-trouble").textContent = "";
  $("sign-in").hidden = true;
  $("signed-in").hidden = $("sign-out").hidden = false;
  showState("open", "Connected");
  look(!document.hidden);
}

/** Asks the server again and again, or stops: nobody looks at a tab that is hidden. */
function look(isSeen) {
  if (!isSeen) watching?.abort();
  if (!isSeen || !api || (watching && !watching.signal.aborted)) return;
  watching = new AbortController();
  const { signal } = watching;
  fetchLists();
  every(ASK_EVERY, signal, () => Promise.all([pollStatus(), pollLog(signal)]));
  const timer = setInterval(fetchLists, LISTS_EVERY);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** Does something at once, and again so many milliseconds after it is done. */
async function every(milliseconds, signal, action) {
  while (!signal.aborted) {
    await action();
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
  }
}

document.onvisibilitychange = () => look(!document.hidden);

async function pollStatus() {
  const status = await ask("GET", "/v1/status");
  if (status && api) showStatus(status);
}

function signOut(why = "", forgets = true) {
  turn += 1;
  look(false);
  api = former = null;
  held = [];
  lastLine = logTrouble = "";
  if (forgets) keep(null);
  for (const list of ["connections", "users", "log"]) $(list).replaceChildren();
  for (const { plot } of FIGURES) plot.clear();
  $("close").close();
  $("signed-in").hidden = $("sign-out").hidden = true;
  $("sign-in").hidden = false;
  $("sign-in-trouble").textContent = why;
  $("token").focus();
  showState("closed", "Signed out");
}

$("sign-in").onsubmit = (event) => {
  event.preventDefault();
  signIn($("token").value.trim());
};
$("sign-out").onclick = () => signOut();

$("host").textContent = location.host;
const token = kept();
if (token) signIn(token);
