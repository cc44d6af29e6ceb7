// A WebSocket that comes back. It knows nothing of the page.
//
// Events: `state` when `state` changes, `message` with the payload (a string or an ArrayBuffer) as `detail`.
//
//   connecting -> open -> waiting -> connecting -> ...     close(): -> closed, until connect()

const FIRST_DELAY = 300;
const LONGEST_DELAY = 10_000;
const CONNECT_TIMEOUT = 10_000;
/** A connection that held this long starts the back-off anew; one that ends at once does not. */
const STABLE_AFTER = 5_000;

/** Doubles with each failure up to the longest delay; the upper half is random, so that pages do not return in step. */
function backoff(failures) {
  return Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** failures) * (0.5 + Math.random() / 2);
}

export class ReconnectingSocket extends EventTarget {
  state = "closed";
  /** Why there is no connection: { code, reason, opened }. Attempts that fail after a loss do not replace the loss. */
  ended = null;
  /** While waiting: when the next attempt begins, in the time of performance.now(). */
  retryAt = 0;

  #url;
  #socket = null;
  #failures = 0;
  #openedAt = 0;
  #timer = 0;

  constructor(url) {
    super();
    this.#url = url;
    const retry = () => this.state === "waiting" && !document.hidden && this.connect();
    addEventListener("online", retry);
    document.addEventListener("visibilitychange", retry);
  }

  /** Connects now, whatever the countdown says. */
  connect() {
    if (this.#socket) return;
    const socket = new WebSocket(this.#url);
    // What a socket says after it was given up is nobody's business.
    const current = (action) => (event) => socket === this.#socket && action(event);
    socket.binaryType = "arraybuffer";
    socket.onopen = current(() => this.#opened());
    socket.onclose = current((event) => this.#lost(event));
    socket.onmessage = current(({ data }) => this.dispatchEvent(new CustomEvent("message", { detail: data })));
    this.#socket = socket;
    this.#openedAt = 0;
    this.#become("connecting", () => socket.close(), CONNECT_TIMEOUT);
  }

  /** Closes and stays closed. */
  close() {
    this.#socket?.close(1000);
    this.#socket = null;
    this.#failures = 0;
    this.ended = null;
    this.#become("closed");
  }

  /** Whether the message was handed to an open connection. */
  send(data) {
    if (this.state !== "open") return false;
    this.#socket.send(data);
    return true;
  }

  #opened() {
    this.#openedAt = performance.now();
    this.ended = null;
    this.#become("open");
  }

  #lost({ code, reason }) {
    const now = performance.now();
    const opened = this.#openedAt > 0;
    if (opened && now - this.#openedAt > STABLE_AFTER) this.#failures = 0;
    const delay = backoff(this.#failures++);
    this.#socket = null;
    this.retryAt = now + delay;
    this.ended ??= { code, reason, opened };
    this.#become("waiting", () => this.connect(), delay);
  }

  /** Each state has at most one thing that happens when it lasts too long. */
  #become(state, then, after) {
    clearTimeout(this.#timer);
    if (then) this.#timer = setTimeout(then, after);
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
