// The control API as a page asks it: with a token that is in memory and in a header, never in a URL.

/** The API said no. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const LONGEST_DELAY = 10_000;

/** Resolves after so many milliseconds, or when the signal says that nobody waits any more. */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

export class Api {
  #token;

  constructor(token) {
    this.#token = token;
  }

  /** The answer of a request; what is to be in the body is made JSON. */
  async ask(method, path, body) {
    const response = await this.#fetch(method, path, { body: body && JSON.stringify(body) });
    return response.json();
  }

  /**
   * Hears the server-sent events of a path for as long as the signal lets it, and goes on where it was when it was
   * cut off. (An `EventSource` could not show a token.) A refusal is heard as an event of that name.
   */
  async follow(path, signal, heard) {
    let lastId = "";
    for (let failures = 0; !signal.aborted; failures += 1) {
      try {
        const headers = lastId ? { "Last-Event-ID": lastId } : {};
        const { body } = await this.#fetch("GET", path, { headers, signal });
        for await (const event of eventsOf(body)) {
          failures = 0;
          lastId = event.id ?? lastId;
          if (event.data !== undefined) heard(event);
        }
      } catch (error) {
        if (error.status === 401) throw error;
        if (error.status) heard({ event: "refused", data: error.message });
      }
      await pause(Math.random() * Math.min(LONGEST_DELAY, 1000 * 2 ** failures), signal);
    }
  }

  async #fetch(method, path, { headers, ...options }) {
    const authorization = `Bearer ${this.#token}`;
    const response = await fetch(path, {
      method,
      headers: { ...headers, authorization },
      cache: "no-store",
      credentials: "omit",
      ...options,
    });
    if (response.ok) return response;
    const { error } = await response.json().catch(() => ({}));
    throw new Refused(response.status, error ?? `status ${response.status}`);
  }
}

/** HTML §9.2.6, as far as our server writes it: fields by lines, and an empty line behind each event. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = block.split("\n").map((line) => /^(\w+): ?(.*)$/s.exec(line)?.slice(1) ?? []);
      yield { event: "message", ...Object.fromEntries(fields) };
    }
  }
}
