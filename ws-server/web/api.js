// The control API as a page asks it: with a token that is in memory and in a header, never in a URL.

/** The API said no. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
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

  /** The server-sent events that a path has now, those behind the one with this id if it is known. */
  async events(path, lastId) {
    const headers = lastId ? { "Last-Event-ID": lastId } : {};
    const response = await this.#fetch("GET", path, { headers });
    return eventsOf(await response.text());
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
function eventsOf(text) {
  const blocks = text.split("\n\n").filter((block) => block);
  return blocks.map((block) => {
    const fields = block.split("\n").map((line) => /^(\w+): ?(.*)$/s.exec(line)?.slice(1) ?? []);
    return { event: "message", ...Object.fromEntries(fields) };
  });
}
