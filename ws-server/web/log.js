// The list of what went over the connection. What comes from outside enters the page as text, never as markup.

import { element } from "./dom.js";

const MAX_ROWS = 500;
const FOLD_CHARS = 500;
const FOLD_LINES = 8;
const FOLD_BYTES = 128;

/** The kind of an entry is its class and what a screen reader says of it. */
const SIGNS = { sent: "↑", received: "↓", "received push": "↓", note: "·" };

function formatSize(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1048576 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`;
}

/** Offset, sixteen bytes, the printable ones of them, as `hexdump -C` has it. */
function hexDump(bytes) {
  const width = Math.min(16, bytes.length) * 3 - 1;
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = Array.from(bytes.subarray(at, at + 16));
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const printable = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${hex.padEnd(width)}  ${printable}`);
  }
  return lines.join("\n");
}

/** The first lines, not too much of them, and no half of a surrogate pair. */
function head(text) {
  const lines = text.slice(0, FOLD_CHARS).split("\n", FOLD_LINES).join("\n");
  return lines.length < text.length ? lines.replace(/[\uD800-\uDBFF]$/, "") : text;
}

/** A long payload is shortened, with a button that shows the rest; until then only the shown part is in the page. */
function payloadOf(data) {
  const bytes = typeof data === "string" ? null : new Uint8Array(data);
  const size = (bytes ?? new TextEncoder().encode(data)).length;
  const short = bytes ? hexDump(bytes.subarray(0, FOLD_BYTES)) : head(data);
  const body = element("pre", bytes ? "hex" : "", short);
  body.dir = "auto";
  if (bytes ? size <= FOLD_BYTES : short === data) return { size, nodes: [body] };

  const label = `Show all ${formatSize(size)}`;
  const button = element("button", "fold", label);
  button.ariaExpanded = "false";
  button.onclick = () => {
    const open = button.ariaExpanded === "false";
    button.ariaExpanded = String(open);
    button.textContent = open ? "Show less" : label;
    body.textContent = !open ? short : bytes ? hexDump(bytes) : data;
  };
  return { size, nodes: [body, button] };
}

function rowOf({ kind, data, hint, date }) {
  const row = element("li", kind);
  const time = element("time", "", date.toTimeString().slice(0, 8) + date.toISOString().slice(19, 23));
  const arrow = element("span", "arrow", SIGNS[kind]);
  arrow.ariaHidden = "true";
  const payload = element("div", "payload");
  const { size, nodes } = kind === "note" ? { nodes: [data] } : payloadOf(data);
  payload.append(element("span", "unseen", `${kind}: `), ...nodes);
  const meta = size === undefined ? [] : [hint, typeof data !== "string" && "binary", formatSize(size)];
  row.append(time, arrow, payload, element("span", "meta", meta.filter(Boolean).join(" · ")));
  return row;
}

/** Shows entries once per frame, keeps the newest five hundred, follows the end unless the reader scrolled up. */
export class Log {
  paused = false;
  onchange = () => {};

  #list;
  #scroller;
  #waiting = [];
  #frame = 0;
  /** Whether the end was in sight when the reader last scrolled. */
  #following = true;

  constructor(list, scroller) {
    this.#list = list;
    this.#scroller = scroller;
    scroller.onscroll = () => {
      this.#following = this.atEnd;
      this.onchange();
    };
    new ResizeObserver(() => this.#following && this.toEnd()).observe(scroller);
  }

  /** How many entries came while paused and are not shown yet. */
  get held() {
    return this.paused ? this.#waiting.length : 0;
  }

  get atEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < 24;
  }

  /** `hint` is a word or two beside the size. */
  add(kind, data, hint) {
    this.#waiting.push({ kind, data, hint, date: new Date() });
    // There are no frames while the page is in the background.
    if (this.#waiting.length > 2 * MAX_ROWS) this.#waiting.splice(0, MAX_ROWS);
    if (this.paused) this.onchange();
    else this.#frame ||= requestAnimationFrame(() => this.#flush());
  }

  clear() {
    this.#waiting = [];
    this.#list.replaceChildren();
    this.onchange();
  }

  pause(paused) {
    this.paused = paused;
    this.#flush();
  }

  toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #flush() {
    this.#frame = 0;
    if (!this.paused) {
      const follow = this.atEnd;
      this.#list.append(...this.#waiting.splice(0).slice(-MAX_ROWS).map(rowOf));
      while (this.#list.childElementCount > MAX_ROWS) this.#list.firstChild.remove();
      if (follow) this.toEnd();
    }
    this.onchange();
  }
}
