// A WebSocket that comes back. All of it is documented in ws.d.ts.

/** @type {import("./ws.js").isFinal} */
export const isFinal = (code) => [1000, 1002, 1003, 1007, 1008, 1010].includes(code);

const DEFAULTS = {
  isFinal,
  firstDelay: 1000,
  maxDelay: 30_000,
  stableAfter: 5000,
  connectTimeout: 10_000,
  pingInterval: 25_000,
  pongTimeout: 8000,
  queueSize: 65_536,
  binaryType: "arraybuffer",
};

const valueOf = (value) => (typeof value === "function" ? value() : value);

function absolute(url) {
  const result = new URL(url, globalThis.location?.href);
  result.protocol = result.protocol.replace("http", "ws");
  return result.href;
}

export class ReconnectingSocket extends EventTarget {
  /** @type {import("./ws.js").State} */
  state = "closed";
  #url;
  #options;
  /** What is under way or open, `{ socket }`: whatever another one says comes too late. */
  #attempt;
  #failures = 0;
  #queue = [];
  #queued = 0;
  /** Pings whose pongs have not come. */
  #asked = 0;
  /** For when the state, or while open the silence, has lasted too long. */
  #timer;
  #stable;
  #page;

  /** @param {import("./ws.js").Url} url @param {import("./ws.js").Options} [options] */
  constructor(url, options) {
    super();
    if (typeof url !== "function") absolute(url);
    this.#url = url;
    this.#options = { ...DEFAULTS, ...options };
    this.connect();
  }

  get queued() {
    return this.#queue.length;
  }

  connect() {
    if (this.#attempt) return;
    if (this.state === "closed") this.#watchPage();
    const attempt = (this.#attempt = {});
    const late = () => this.#lose(1006, "no connection in time");
    this.#become("connecting", this.#options.connectTimeout, late);
    this.#open(attempt).catch((error) => attempt === this.#attempt && this.#lose(1006, "", error));
  }

  send(data) {
    const socket = this.#attempt?.socket;
    if (socket?.readyState === 1) {
      socket.send(data);
      return true;
    }
    const size = 1 + (data.size ?? data.byteLength ?? data.length);
    if (this.state === "closed" || this.#queued + size > this.#options.queueSize) return false;
    this.#queue.push(data);
    this.#queued += size;
    return true;
  }

  close(code = 1000, reason = "") {
    if (this.state === "closed") return;
    this.#attempt?.socket?.close(code, reason);
    this.#end(code, reason);
  }

  async #open(attempt) {
    const { WebSocket = globalThis.WebSocket, protocols, binaryType } = this.#options;
    const [url, offered = []] = await Promise.all([valueOf(this.#url), valueOf(protocols)]);
    if (attempt !== this.#attempt) return;
    const socket = (attempt.socket = new WebSocket(absolute(url), offered));
    const on = (type, action) => {
      socket["on" + type] = (event) => attempt === this.#attempt && action(event);
    };
    socket.binaryType = binaryType;
    on("open", () => this.#opened(socket));
    on("message", ({ data }) => this.#heard(data));
    on("close", ({ code, reason }) => this.#lose(code, reason));
    // What went wrong is said by the close that follows.
    on("error", () => {});
  }

  #opened(socket) {
    this.#asked = 0;
    this.#stable = setTimeout(() => (this.#failures = 0), this.#options.stableAfter);
    this.#become("open", this.#options.pingInterval, () => this.#ping());
    if (this.state === "open") this.#tell("open", { protocol: socket.protocol });
    while (this.#queue.length && this.state === "open") socket.send(this.#queue.shift());
    if (!this.#queue.length) this.#queued = 0;
  }

  #heard(data) {
    this.#after(this.#options.pingInterval, () => this.#ping());
    if (data === "pong" && this.#asked) this.#asked--;
    else this.#tell("message", { data });
  }

  #ping() {
    this.#asked++;
    this.#attempt.socket.send("ping");
    this.#after(this.#options.pongTimeout, () => this.#lose(1006, "no pong in time"));
  }

  #lose(code, reason, error) {
    const { isFinal, firstDelay, maxDelay } = this.#options;
    // A peer that is gone does not answer this for long, and nobody waits for it.
    this.#attempt.socket?.close();
    if (isFinal(code, reason)) return this.#end(code, reason);
    const delay = Math.random() * Math.min(maxDelay, firstDelay * 2 ** this.#failures++);
    this.#attempt = null;
    this.#become("waiting", delay, () => this.connect());
    this.#tell("close", { code, reason, error, delay, unsent: [] });
  }

  #end(code, reason) {
    this.#page.abort();
    this.#attempt = null;
    this.#failures = this.#queued = 0;
    const unsent = this.#queue.splice(0);
    this.#become("closed");
    this.#tell("close", { code, reason, delay: null, unsent });
  }

  #become(state, delay, action) {
    if (state !== "open") clearTimeout(this.#stable);
    this.#after(delay, action);
    this.state = state;
    this.#tell("state");
  }

  #after(delay, action) {
    clearTimeout(this.#timer);
    if (delay < Infinity) this.#timer = setTimeout(action, delay);
  }

  /** The network came or went, or somebody looks: what is known of the connection may be old. */
  #watchPage() {
    const look = () => {
      if (this.state === "waiting") this.connect();
      else if (this.state === "open" && this.#options.pingInterval < Infinity) this.#ping();
    };
    this.#page = new AbortController();
    const { document } = globalThis;
    const { signal } = this.#page;
    for (const type of ["online", "offline"]) globalThis.addEventListener?.(type, look, { signal });
    document?.addEventListener("visibilitychange", () => document.hidden || look(), { signal });
  }

  #tell(type, fields) {
    this.dispatchEvent(Object.assign(new Event(type), fields));
  }
}
