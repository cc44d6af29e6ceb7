// The browser library in Node: against scripted servers on a clock of the test, against a real server, and as a package.
//
//   WS_BIN=target/debug/ws NODE_PATH=.../node_modules node library.mjs

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { after, afterEach, beforeEach, describe, mock, test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { brotliCompressSync, gzipSync } from "node:zlib";

import { ReconnectingSocket, isFinal } from "../client/ws.js";
import { Server, cleanUp, findPackage, prepare, within, ws } from "./support/harness.mjs";

const PACKAGE = path.join(import.meta.dirname, "../client");

/** Whatever was about to happen without the clock has happened. */
const settled = () => new Promise(setImmediate);

/** A scripted server's end: the test says what happens. */
class Scripted {
  static all = [];
  static get last() {
    return this.all.at(-1);
  }

  readyState = 0;
  protocol = "";
  sent = [];

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    Scripted.all.push(this);
  }

  send(data) {
    assert.equal(this.readyState, 1, "sent while not open");
    this.sent.push(data);
  }

  close(code, reason) {
    this.closed = [code, reason];
    this.readyState = 2;
  }

  accept(protocol = "") {
    this.readyState = 1;
    this.protocol = protocol;
    this.onopen({});
  }

  say(data) {
    this.onmessage({ data });
  }

  end(code, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }
}

/** A link to scripted servers, and what it tells. */
async function scripted(options = {}, url = "ws://host/") {
  const socket = new ReconnectingSocket(url, { WebSocket: Scripted, ...options });
  const told = [];
  socket.addEventListener("open", ({ protocol }) => told.push(["open", protocol]));
  socket.addEventListener("message", ({ data }) => told.push(["message", data]));
  socket.addEventListener("close", ({ code, delay, unsent }) => told.push(["close", code, delay, unsent]));
  await settled();
  return { socket, told };
}

/** Lets so many milliseconds pass. */
async function pass(milliseconds) {
  mock.timers.tick(milliseconds);
  await settled();
}

describe("on a clock of the test", () => {
  /** What Math.random says. */
  let chance;

  beforeEach(() => {
    Scripted.all = [];
    chance = 1;
    mock.timers.enable({ apis: ["setTimeout"] });
    mock.method(Math, "random", () => chance);
  });
  afterEach(() => {
    mock.timers.reset();
    mock.restoreAll();
  });

  test("each failure doubles the time of which a random part is waited, up to the longest", async () => {
    const { told } = await scripted({ firstDelay: 100, maxDelay: 1000 });
    for (const part of [1, 0.5, 0.25, 1, 1, 1]) {
      chance = part;
      Scripted.last.end(1006);
      await pass(1000);
    }
    assert.deepEqual(
      told.map(([, , delay]) => delay),
      [100, 100, 100, 800, 1000, 1000],
    );
    assert.equal(Scripted.all.length, 7);
  });

  test("the next attempt is made when the delay is over, and not before", async () => {
    const { socket } = await scripted({ firstDelay: 100 });
    Scripted.last.end(1006);
    await pass(99);
    assert.equal(socket.state, "waiting");
    await pass(1);
    assert.equal(socket.state, "connecting");
    assert.equal(Scripted.all.length, 2);
  });

  test("a connection that held starts anew, one that broke at once does not", async () => {
    const { told } = await scripted({ firstDelay: 100, stableAfter: 5000 });
    for (const held of [0, 4999, 5000, 0]) {
      Scripted.last.accept();
      await pass(held);
      Scripted.last.end(1006);
      await pass(1000);
    }
    const delays = told.filter(([type]) => type === "close").map(([, , delay]) => delay);
    assert.deepEqual(delays, [100, 200, 100, 200]);
  });

  test("an attempt that takes too long is given up, whatever holds it up", async () => {
    const never = new Promise(() => {});
    for (const url of ["ws://host/", () => never]) {
      const { socket, told } = await scripted({ connectTimeout: 1000, firstDelay: 100 }, url);
      await pass(1000);
      assert.equal(socket.state, "waiting");
      assert.deepEqual(told, [["close", 1006, 100, []]]);
      socket.close();
    }
    assert.equal(Scripted.all.length, 1);
    assert.equal(Scripted.last.readyState, 2);
    Scripted.last.accept();
    assert.equal(Scripted.last.sent.length, 0, "what comes too late is nobody's");
  });

  test("what is sent meanwhile waits in order, behind what listeners of open send", async () => {
    const { socket } = await scripted();
    assert.ok(socket.send("one"));
    assert.ok(socket.send(new Uint8Array([2])));
    assert.equal(socket.queued, 2);
    socket.addEventListener("open", () => socket.send("hello"), { once: true });
    Scripted.last.accept();
    assert.deepEqual(Scripted.last.sent, ["hello", "one", new Uint8Array([2])]);
    assert.equal(socket.queued, 0);
    socket.send("now");
    assert.equal(Scripted.last.sent.at(-1), "now");
  });

  test("the queue is bounded, and says that it is full", async () => {
    const { socket } = await scripted({ queueSize: 10 });
    assert.ok(socket.send("12345"));
    assert.ok(!socket.send("12345"), "6 and 6 are more than 10");
    assert.ok(socket.send(new ArrayBuffer(2)));
    assert.ok(socket.send(""), "an empty one counts as one");
    assert.ok(!socket.send(""));
    Scripted.last.accept();
    assert.deepEqual(Scripted.last.sent, ["12345", new ArrayBuffer(2), ""]);
    Scripted.last.end(1006);
    assert.ok(socket.send("123456789"), "there is room again");
    const none = await scripted({ queueSize: 0 });
    assert.ok(!none.socket.send(""));
  });

  test("what is sent while the server closes waits for the next connection", async () => {
    const { socket } = await scripted({ firstDelay: 100 });
    Scripted.last.accept();
    Scripted.last.readyState = 2;
    assert.ok(socket.send("late"));
    Scripted.last.end(1001);
    await pass(100);
    Scripted.last.accept();
    assert.deepEqual(Scripted.last.sent, ["late"]);
  });

  test("a silent connection is asked, and given up if nothing is heard", async () => {
    const { socket, told } = await scripted({ pingInterval: 1000, pongTimeout: 300 });
    const first = Scripted.last;
    first.accept();
    await pass(1000);
    assert.deepEqual(first.sent, ["ping"]);
    await pass(299);
    first.say("pong");
    await pass(999);
    assert.equal(first.sent.length, 1, "whatever is heard, the silence begins anew");
    await pass(1);
    assert.equal(first.sent.length, 2);
    await pass(300);
    assert.equal(socket.state, "waiting");
    assert.deepEqual(told.at(-1).slice(0, 2), ["close", 1006]);
    assert.equal(first.readyState, 2);
    first.end(1006);
    first.say("too late");
    assert.equal(told.length, 2, "open and close, each once");
  });

  test("any message is a sign of life, and only the pongs that were asked for are not seen", async () => {
    const { socket, told } = await scripted({ pingInterval: 1000, pongTimeout: 300 });
    Scripted.last.accept();
    Scripted.last.say("pong");
    await pass(1000);
    await pass(299);
    Scripted.last.say("busy");
    await pass(299);
    assert.equal(socket.state, "open");
    Scripted.last.say("pong");
    Scripted.last.say("pong");
    assert.deepEqual(told.slice(1), [["message", "pong"], ["message", "busy"], ["message", "pong"]]);
  });

  test("without an interval nothing is asked", async () => {
    const { socket } = await scripted({ pingInterval: Infinity });
    Scripted.last.accept();
    await pass(1e9);
    assert.equal(socket.state, "open");
    assert.deepEqual(Scripted.last.sent, []);
  });

  test("a final code ends it for good and gives back what was waiting", async () => {
    for (const code of [1000, 1002, 1003, 1007, 1008, 1010]) {
      const { socket, told } = await scripted();
      const server = Scripted.last;
      server.accept();
      server.readyState = 2;
      socket.send("unsent");
      server.end(code);
      assert.equal(socket.state, "closed");
      assert.deepEqual(told.at(-1), ["close", code, null, ["unsent"]]);
      const attempts = Scripted.all.length;
      await pass(1e9);
      assert.equal(Scripted.all.length, attempts);
    }
    for (const code of [1001, 1005, 1006, 1009, 1011, 1012, 1013, 1014, 4000]) {
      const { socket } = await scripted();
      Scripted.last.end(code);
      assert.equal(socket.state, "waiting", code);
      socket.close();
    }
  });

  test("which codes are final is the page's choice, by the reason too", async () => {
    const options = { isFinal: (code, reason) => (isFinal(code) && reason !== "token expired") || code === 4001 };
    for (const [code, reason, state] of [
      [1008, "token expired", "waiting"],
      [1008, "", "closed"],
      [4001, "", "closed"],
      [4002, "", "waiting"],
    ]) {
      const { socket } = await scripted(options);
      Scripted.last.accept();
      Scripted.last.end(code, reason);
      assert.equal(socket.state, state, `${code} ${reason}`);
      socket.close();
    }
  });

  test("close is for good in every state, until connect", async () => {
    for (const state of ["connecting", "open", "waiting"]) {
      const { socket, told } = await scripted();
      if (state !== "connecting") Scripted.last.accept();
      if (state === "waiting") Scripted.last.end(1006);
      assert.equal(socket.state, state);
      socket.close(4000, "bye");
      assert.equal(socket.state, "closed");
      assert.deepEqual(told.at(-1), ["close", 4000, null, []]);
      if (state !== "waiting") assert.deepEqual(Scripted.last.closed, [4000, "bye"]);
      assert.ok(!socket.send("x"));
      const attempts = Scripted.all.length;
      socket.close();
      await pass(1e9);
      assert.equal(Scripted.all.length, attempts);
      socket.connect();
      socket.connect();
      await settled();
      assert.equal(Scripted.all.length, attempts + 1);
      socket.close();
    }
  });

  test("a listener may close or connect in the midst of anything", async () => {
    for (const state of ["connecting", "open", "waiting"]) {
      const { socket } = await scripted();
      socket.send("x");
      socket.addEventListener("state", () => socket.state === state && socket.close());
      Scripted.last.accept();
      Scripted.last.end(1006);
      await pass(1000);
      assert.equal(socket.state, "closed", state);
      await pass(1e9);
    }
    const { socket } = await scripted();
    socket.addEventListener("close", () => socket.connect(), { once: true });
    Scripted.last.end(1000);
    await settled();
    assert.equal(socket.state, "connecting");
    socket.close();
  });

  test("functions are asked for each attempt, and one that fails is a failed attempt", async () => {
    let count = 0;
    const errors = [];
    const url = async () => `https://host/?${(count += 1)}`;
    const protocols = () => {
      if (count === 2) throw new Error("no token now");
      return ["ws.token", `token-${count}`];
    };
    const { socket, told } = await scripted({ protocols, firstDelay: 1 }, url);
    socket.addEventListener("close", ({ error }) => errors.push(error?.message));
    assert.equal(Scripted.last.url, "wss://host/?1");
    assert.deepEqual(Scripted.last.protocols, ["ws.token", "token-1"]);
    Scripted.last.accept("ws.token");
    assert.deepEqual(told, [["open", "ws.token"]]);
    Scripted.last.end(1006);
    await pass(1);
    assert.equal(socket.state, "waiting");
    await pass(2);
    assert.equal(Scripted.last.url, "wss://host/?3");
    assert.deepEqual(errors, [undefined, "no token now"]);
  });

  test("a URL that is none is said at once", () => {
    for (const url of ["//", "http://", "/relative"]) {
      assert.throws(() => new ReconnectingSocket(url, { WebSocket: Scripted }), TypeError, url);
    }
  });

  test("when the network comes back or somebody looks, it tries or asks at once", async () => {
    const window = new EventTarget();
    const document = Object.assign(new EventTarget(), { hidden: true });
    Object.assign(globalThis, { document, addEventListener: window.addEventListener.bind(window) });
    const online = () => window.dispatchEvent(new Event("online"));
    const look = () => document.dispatchEvent(new Event("visibilitychange"));
    try {
      const { socket } = await scripted({ firstDelay: 1000, pongTimeout: 300 });
      Scripted.last.end(1006);
      look();
      assert.equal(socket.state, "waiting", "a page that is hidden can wait");
      online();
      await settled();
      assert.equal(socket.state, "connecting");
      online();
      assert.equal(Scripted.all.length, 2);
      Scripted.last.end(1006);
      document.hidden = false;
      look();
      await settled();
      assert.equal(Scripted.all.length, 3);
      Scripted.last.accept();
      look();
      assert.deepEqual(Scripted.last.sent, ["ping"]);
      await pass(300);
      assert.equal(socket.state, "waiting", "the network is not what it was");
      socket.close();
      online();
      look();
      await pass(1e9);
      assert.equal(Scripted.all.length, 3, "nobody listens any more");
    } finally {
      delete globalThis.document;
      delete globalThis.addEventListener;
    }
  });

  test("whatever happens, each message that was taken is sent, waits or is given back, in order, once", async () => {
    for (let seed = 1; seed <= 200; seed += 1) await story(seed);
  });

  /** A random story of a hundred steps. */
  async function story(seed) {
    let state = seed;
    // Numerical Recipes' generator: a story can be told again by its seed.
    const random = (below) => (state = (state * 1664525 + 1013904223) >>> 0) % below;
    Scripted.all = [];
    const { socket } = await scripted({ queueSize: 40, firstDelay: 10, pingInterval: 50, pongTimeout: 20 });
    const taken = [];
    const unsent = [];
    socket.addEventListener("close", (event) => unsent.push(...event.unsent));
    for (let step = 0; step < 100; step += 1) {
      chance = random(100) / 100;
      const { last } = Scripted;
      const live = last.readyState < 2;
      const acts = [
        () => socket.send(`m${step}`) && taken.push(`m${step}`),
        () => socket.send(`m${step}`) && taken.push(`m${step}`),
        () => live && last.readyState === 0 && last.accept(),
        () => live && last.end([1001, 1006, 1008, 1013][random(4)]),
        () => last.readyState === 1 && last.say(random(2) ? "pong" : "news"),
        () => pass(random(60)),
        () => random(4) === 0 && socket.close(),
        () => socket.connect(),
      ];
      await acts[random(acts.length)]();
      await settled();
      const lively = Scripted.all.filter(({ readyState }) => readyState < 2);
      assert.ok(lively.length <= 1, `seed ${seed}, step ${step}: ${lively.length} at once`);
      assert.equal(socket.state === "open", lively[0]?.readyState === 1, `seed ${seed}, step ${step}`);
    }
    const waiting = socket.queued;
    socket.close();
    const sent = Scripted.all.flatMap(({ sent }) => sent).filter((data) => data !== "ping");
    assert.ok(unsent.length >= waiting);
    const rank = (message) => Number(message.slice(1));
    assert.deepEqual(sent, sent.toSorted((a, b) => rank(a) - rank(b)), `seed ${seed}: in order`);
    assert.deepEqual([...sent, ...unsent].sort(), taken.sort(), `seed ${seed}: all of them once`);
  }
});

describe("as it is documented", () => {
  const before = { ...globalThis };

  beforeEach(() => {
    Scripted.all = [];
    mock.timers.enable({ apis: ["setTimeout"] });
    const fetched = { ok: true, text: async () => "fresh" };
    Object.assign(globalThis, {
      WebSocket: Scripted,
      location: { href: "http://host/page" },
      fetch: async (path) => (assert.equal(path, "/token"), fetched),
    });
  });
  afterEach(() => {
    mock.timers.reset();
    for (const name of ["WebSocket", "location", "fetch"]) {
      if (name in before) globalThis[name] = before[name];
      else delete globalThis[name];
    }
  });

  /** Runs an example as a module, and returns its first connection. */
  async function example(code) {
    const library = JSON.stringify(pathToFileURL(path.join(PACKAGE, "ws.js")));
    const module = code.replace(/"(\.\/ws\.js|@ws-server\/client)"/, library);
    assert.notEqual(module, code, "it imports the library");
    await import(`data:text/javascript,${encodeURIComponent(module)}`);
    await settled();
    return Scripted.last;
  }

  async function examples(file) {
    const page = await readFile(path.join(PACKAGE, file), "utf8");
    return [...page.matchAll(/^```js\b[^\n]*\n(.*?)^```/gms)].map(([, code]) => code);
  }

  test("the examples of the documentation work", async () => {
    const [first, final, token, ...none] = await examples("../../../docs/browser.md");
    assert.deepEqual(none, []);
    const log = mock.method(console, "log", () => {});
    const server = await example(first);
    assert.equal(server.url, "ws://host/chat");
    server.accept();
    assert.deepEqual(server.sent, ["hello"]);
    server.say("hi");
    server.end(1000);
    const said = log.mock.calls.map(({ arguments: [word] }) => word);
    log.mock.restore();
    assert.deepEqual(said, ["open", "hi", "closed"]);

    const imports = 'import { ReconnectingSocket } from "./ws.js";\n';
    const coded = await example(final);
    coded.accept();
    coded.end(4001);
    await pass(1e9);
    assert.equal(Scripted.last, coded, "there is nothing to come back for");
    const tokened = await example(imports + token);
    assert.deepEqual(tokened.protocols, ["ws.token", "fresh"]);
    tokened.end(1000);
    const [readme] = await examples("README.md");
    const described = await example(readme);
    described.accept();
    assert.deepEqual(described.sent, ["hello"]);
    mock.method(console, "log", () => {});
    described.end(1000);
    mock.restoreAll();
  });
});

describe("with a real server", () => {
  const WebSocket = findPackage("ws");
  const made = [];

  /** The next event of this type, or the next for which `is` holds. */
  const next = (socket, type, is = () => true) =>
    within(
      10_000,
      new Promise((resolve) => {
        const listen = (event) => {
          if (!is(event)) return;
          socket.removeEventListener(type, listen);
          resolve(event);
        };
        socket.addEventListener(type, listen);
      }),
      `no ${type}`,
    );

  function connect(server, options) {
    const socket = new ReconnectingSocket(server.url, { WebSocket, firstDelay: 50, ...options });
    made.push(socket);
    return socket;
  }

  after(() => {
    for (const socket of made) socket.close();
    return cleanUp();
  });

  test("it talks, outlives a restart, and what was sent meanwhile arrives", async () => {
    const place = await prepare();
    let server = await Server.start(place, "127.0.0.1:0");
    const socket = connect(server);
    socket.send("/echo/early");
    assert.equal((await next(socket, "message")).data, "early");
    const closed = next(socket, "close");
    await server.stop();
    assert.equal((await closed).code, 1001);
    socket.send("/echo/one");
    socket.send("/echo/two");
    const heard = [];
    socket.addEventListener("message", ({ data }) => heard.push(data));
    const both = next(socket, "message", () => heard.length === 2);
    server = await Server.start(place, server.url.host);
    await both;
    assert.deepEqual(heard, ["one", "two"]);
    socket.close();
    await server.stop();
  });

  test("the server answers its pings, and one that hangs is noticed", async () => {
    const place = await prepare();
    const server = await Server.start(place, "127.0.0.1:0", {}, ["--", "cat"]);
    const pings = [];
    let thirdIsSent;
    const thirdPing = new Promise((resolve) => (thirdIsSent = resolve));
    class Watched extends WebSocket {
      send(data) {
        super.send(data);
        if (pings.push(data) === 3) thirdIsSent();
      }
    }
    const socket = connect(server, { WebSocket: Watched, pingInterval: 50, pongTimeout: 1000 });
    socket.addEventListener("message", ({ data }) => assert.fail(`heard ${data}`));
    await within(10_000, thirdPing, "not three pings");
    assert.equal(socket.state, "open");
    const lost = next(socket, "close");
    server.process.kill("SIGSTOP");
    const { code, reason } = await lost;
    assert.deepEqual([code, reason], [1006, "no pong in time"]);
    assert.ok(pings.every((data) => data === "ping"));
    server.process.kill("SIGCONT");
    await next(socket, "open");
    socket.close();
    await server.stop();
  });

  test("an operator who closes it means it", async () => {
    const place = await prepare();
    const server = await Server.start(place, "127.0.0.1:0");
    const socket = connect(server);
    await next(socket, "open");
    const closed = next(socket, "close");
    const [{ id }] = JSON.parse(await ws(place, "ls", "--json")).connections;
    await ws(place, "kick", "--connection", id);
    const { code, delay } = await closed;
    assert.deepEqual([code, delay, socket.state], [1008, null, "closed"]);
    await server.stop();
  });
});

describe("as a package", () => {
  test("it is smaller than 2 KiB compressed", async () => {
    const text = await readFile(path.join(PACKAGE, "ws.js"));
    const sizes = { plain: text.length, gzip: gzipSync(text, { level: 9 }).length, brotli: brotliCompressSync(text).length };
    console.log(sizes);
    assert.ok(sizes.gzip < 2048 && sizes.brotli < 2048, JSON.stringify(sizes));
  });

  test("npm would publish the library, its types and its papers, and nothing else", async () => {
    const options = { cwd: PACKAGE, env: { ...process.env, npm_config_update_notifier: "false" } };
    const { stdout } = await promisify(execFile)("npm", ["pack", "--dry-run", "--json", "--offline"], options);
    const report = JSON.parse(stdout);
    const [{ name, version, files }] = Array.isArray(report) ? report : Object.values(report);
    assert.deepEqual(
      files.map((file) => file.path).sort(),
      ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "package.json", "ws.d.ts", "ws.js"],
    );
    const workspace = await readFile(path.join(PACKAGE, "../../../Cargo.toml"), "utf8");
    assert.equal(name, "@ws-server/client");
    assert.equal(version, /^version = "(.*)"$/m.exec(workspace)[1], "the version of the server");
    for (const paper of ["LICENSE-MIT", "LICENSE-APACHE"]) {
      const [ours, theirs] = await Promise.all(["", "../../../"].map((up) => readFile(path.join(PACKAGE, up + paper))));
      assert.deepEqual(ours, theirs, paper);
    }
  });

  test("it is found by its name, with its types", async () => {
    const manifest = JSON.parse(await readFile(path.join(PACKAGE, "package.json"), "utf8"));
    const { default: file, types } = manifest.exports["."];
    assert.equal(manifest.sideEffects, false);
    const exported = Object.keys(await import(path.join(PACKAGE, file))).sort();
    const declared = await readFile(path.join(PACKAGE, types), "utf8");
    const values = [...declared.matchAll(/^export (?:class|function|const) (\w+)/gm)].map(([, name]) => name);
    assert.deepEqual(values.sort(), exported);
    const [, members] = /^export class ReconnectingSocket .*?\{\n(.*?)^\}/ms.exec(declared);
    const named = [...members.matchAll(/^ {2}(?:readonly )?(\w+)[(:<]/gm)].map(([, name]) => name);
    const own = ["state", "connect", "send", "close", "queued"];
    const inherited = ["constructor", "addEventListener", "removeEventListener"];
    assert.deepEqual([...new Set(named)].sort(), [...own, ...inherited].sort());
    for (const name of own.slice(1)) assert.ok(name in ReconnectingSocket.prototype, name);
  });
});
