// The console: wires the socket, the log and the panel of who one is to the page.

import { element } from "./dom.js";
import { Log } from "./log.js";
import { ReconnectingSocket } from "./ws.js";

const $ = (id) => document.getElementById(id);
const told = (name) => document.querySelector(`meta[name="ws-${name}"]`).content;
const isDemo = told("backend") === "demo";
const CHIPS = isDemo ? ["/echo/hello", "/time", "/whoami", "/broadcast/hello"] : ["hello", "/", "ping"];

const STATES = { connecting: "Connecting", open: "Connected", waiting: "Reconnecting", closed: "Disconnected" };
const CLOSE_CODES = {
  1000: "The server ended the connection",
  1001: "The server is going away: it stops or restarts",
  1002: "The server saw an error in the protocol",
  1003: "The server does not take this kind of data",
  1005: "The server gave no reason",
  1006: "The connection broke off without a goodbye",
  1007: "The server saw text that is not UTF-8",
  1008: "The server refuses this by its policy",
  1009: "The message was too big for the server",
  1011: "The server met an internal error",
  1012: "The server restarts",
  1013: "The server has too much to do, or this page read too slowly",
};

function inWords({ code, reason, opened }) {
  if (!opened) return "The server does not answer, or refuses the connection.";
  return `${CLOSE_CODES[code] ?? "The application closed the connection"} (${code}${reason && `, ${reason}`}).`;
}

// Who one is

/**
 * The demo answers `/whoami` with lines `name: value`. Values end up in commands that people paste into a shell, and a
 * push could imitate the answer: so nothing with control characters, and only FIFOs as targets of `echo >`.
 */
function parseIdentity(text) {
  const found = {};
  for (const line of text.split(/\r?\n/)) {
    const [, name, value] = /^\s*(\w+)\s*:\s*(\S.*?)\s*$/.exec(line) ?? [];
    const safe = name && !/\p{C}/u.test(value) && (!name.endsWith("fifo") || /^\/.*\.fifo$/.test(value));
    if (safe) found[name] = value;
  }
  return found.user && found.connection ? found : null;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const word = (text) => (/^[\w@%+:,./-]+$/.test(text) ? text : quoted(text));
// A value that begins with a dash would be read as an option.
const option = (name, value) => name + (value.startsWith("-") ? "=" : " ") + word(value);

/** What to type in a shell: pairs of a purpose and a command. */
function commandsFor({ user, fifo, global_fifo: globalFifo, control, program = "ws" }) {
  const ws = (verb, ...rest) => [word(program), verb, ...(control ? [option("--control", control)] : []), ...rest].join(" ");
  return [
    fifo && ["Run a URI as you; its output comes here", `echo /echo/hi > ${quoted(fifo)}`],
    globalFifo && ["Push to everybody", `echo hi > ${quoted(globalFifo)}`],
    user
      ? ["Push to you, wherever you are connected", ws("send", option("--user", user), "'hi'")]
      : ["Push to everybody", ws("send", "--all", "'hi'")],
    !user && ["See who is connected", ws("ls")],
  ].filter(Boolean);
}

function copyButton(source, label) {
  const button = element("button", "copy");
  button.ariaLabel = button.title = `Copy ${label}`;
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.classList.add("done");
      $("announce").textContent = "Copied";
      setTimeout(() => {
        button.classList.remove("done");
        $("announce").textContent = "";
      }, 1500);
    } catch {
      // Not allowed: then at least one key is enough.
      getSelection().selectAllChildren(source);
    }
  };
  return button;
}

function showIdentity(me) {
  const fields = Object.entries({ user: "User", session: "Session", connection: "Connection", address: "Address", fifo: "FIFO" });
  const rows = fields.filter(([name]) => me[name]).flatMap(([name, label]) => {
    const value = element("dd", "", me[name]);
    value.dataset.field = name;
    return [element("dt", "", label), value, copyButton(value, label)];
  });
  const snippets = commandsFor(me).flatMap(([purpose, command]) => {
    const what = element("p", "what", purpose);
    const code = element("code", "", command);
    what.append(copyButton(code, `command: ${purpose}`));
    return [what, code];
  });
  $("identity").replaceChildren(...rows);
  $("snippets").replaceChildren(...snippets);
  $("unknown").textContent = rows.length ? "" : isDemo ? "Asking the server." : "Only the built-in demo tells this page who you are.";
}

// The connection

const url = new URL(location.pathname + location.search, location.href.replace(/^http/, "ws"));
const socket = new ReconnectingSocket(url, {
  firstDelay: 500,
  maxDelay: 10_000,
  // Whoever types a message wants to know that it did not leave.
  queueSize: 0,
  pingInterval: told("ping") === "true" ? 25_000 : Infinity,
});
const log = new Log($("log"), $("scroller"));

/** Whether the page's own `/whoami`, which is not shown, is still unanswered. */
let asking = false;
/** When each message that may still be answered was sent, oldest first. */
let unanswered = [];
const ANSWER_WITHIN = 30_000;

function received(data) {
  const now = performance.now();
  unanswered = unanswered.filter((sent) => now - sent < ANSWER_WITHIN);
  const me = (asking || unanswered.length > 0) && typeof data === "string" && parseIdentity(data);
  if (me) showIdentity(me);
  if (me && asking) {
    asking = false;
    return;
  }
  // The demo answers each message once, in order: what comes when nothing was asked has been pushed.
  const sent = unanswered.shift();
  if (sent !== undefined) log.add("received", data, `+${Math.round(now - sent)} ms`);
  else log.add(isDemo ? "received push" : "received", data, isDemo && "push");
}

function send(message) {
  const sent = socket.send(message);
  if (sent) {
    unanswered.push(performance.now());
    log.add("sent", message);
  } else {
    log.add("note", "Not sent: there is no connection.");
  }
  log.toEnd();
  return sent;
}

/** Why there is no connection: { code, reason, opened }. Attempts that fail after a loss do not replace the loss. */
let ended = null;
/** Whether the page itself ended it. */
let disconnecting = false;
/** Whether there has been a connection since the last loss. */
let opened = false;
/** While waiting: when the next attempt begins, in the time of performance.now(). */
let retryAt = 0;

function showCountdown() {
  const waiting = socket.state === "waiting";
  const seconds = Math.max(0, (retryAt - performance.now()) / 1000).toFixed(1);
  $("countdown").textContent = waiting ? `Next attempt in ${seconds} s` : socket.state === "closed" ? "" : "Trying now";
  if (waiting) setTimeout(showCountdown, 100);
}

function stateChanged() {
  const { state } = socket;
  document.documentElement.dataset.state = state;
  $("state-text").textContent = STATES[ended && state !== "closed" ? "waiting" : state];
  $("connect").textContent = { waiting: "Connect now", closed: "Connect" }[state] ?? "Disconnect";
  $("trouble").hidden = !ended;
  if (ended) showCountdown();
}

socket.addEventListener("state", () => {
  if (socket.state === "open") ended = null;
  stateChanged();
});
socket.addEventListener("open", () => {
  opened = true;
  log.add("note", `Connected to ${url.href}`);
  unanswered = [];
  asking = isDemo && socket.send("/whoami");
});
socket.addEventListener("close", ({ code, reason, delay }) => {
  if (disconnecting) {
    log.add("note", "You disconnected.");
    ended = null;
  } else if (!ended || delay === null) {
    ended = { code, reason, opened };
    $("why").textContent = inWords(ended);
    log.add("note", inWords(ended));
  }
  opened = disconnecting = false;
  retryAt = performance.now() + delay;
  stateChanged();
});
socket.addEventListener("message", ({ data }) => received(data));

function connectOrNot() {
  disconnecting = /^(open|connecting)$/.test(socket.state);
  if (disconnecting) socket.close();
  else socket.connect();
}

// The controls

const text = $("text");
const history = [];
/** Where in the history the box stands; its length is the line being written, kept in `draft` meanwhile. */
let place = 0;
let draft = "";

function submit() {
  if (!text.value || !send(text.value)) return;
  if (history.at(-1) !== text.value) history.push(text.value);
  place = history.length;
  text.value = "";
}

function recall(step) {
  const next = place + step;
  if (next < 0 || next > history.length) return;
  if (place === history.length) draft = text.value;
  place = next;
  text.value = history[place] ?? draft;
}

text.onkeydown = (event) => {
  if (event.isComposing || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
  // Inside several lines the arrows move between them first.
  const above = text.value.slice(0, text.selectionStart).includes("\n");
  const below = text.value.slice(text.selectionEnd).includes("\n");
  if (event.key === "Enter") submit();
  else if (event.key === "ArrowUp" && !above) recall(-1);
  else if (event.key === "ArrowDown" && !below) recall(1);
  else return;
  event.preventDefault();
};

$("composer").onsubmit = (event) => {
  event.preventDefault();
  submit();
  text.focus();
};

for (const message of CHIPS) {
  const chip = element("button", "", message);
  chip.type = "button";
  chip.onclick = () => send(message);
  $("chips").append(chip);
}

log.onchange = () => {
  $("to-end").hidden = log.atEnd;
  $("pause").ariaPressed = String(log.paused);
  $("pause").textContent = log.paused ? `Resume${log.held ? ` (${log.held} new)` : ""}` : "Pause";
};
$("to-end").onclick = () => log.toEnd();
$("clear").onclick = () => log.clear();
$("pause").onclick = () => log.pause(!log.paused);
$("connect").onclick = connectOrNot;
$("toggle").onclick = () => {
  $("toggle").ariaExpanded = String($("side").classList.toggle("open"));
};

$("host").textContent = location.host;
showIdentity({});
stateChanged();
