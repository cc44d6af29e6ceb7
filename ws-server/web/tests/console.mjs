// Drives the console page in Chromium against a real server: send, reply, pushes from a shell, restart, reconnect.
//
//   WS_BIN=target/debug/ws NODE_PATH=.../node_modules node console.mjs
//
// WS_BIN          the binary `ws`
// WS_NODE_MODULES or NODE_PATH: where playwright-core is installed
// WS_CHROMIUM     the browser, /usr/bin/chromium if not set
// WS_SHOTS        a directory for screenshots; none are taken if not set

import assert from "node:assert/strict";
import { spawn, execFile } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const TIME_LIMIT = 60_000;
const STEP_LIMIT = 10_000;
const STOP_LIMIT = 5_000;
const BROWSER_FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Undone in reverse order at the end, whatever happened. */
const cleanups = [];

function findPlaywright() {
  const places = [process.env.WS_NODE_MODULES, ...(process.env.NODE_PATH ?? "").split(path.delimiter)].filter(Boolean);
  for (const place of [...places, import.meta.dirname]) {
    const require = createRequire(path.join(path.resolve(place), "resolve.js"));
    try {
      return require("playwright-core");
    } catch {
      try {
        return require(path.join(path.resolve(place), "playwright-core"));
      } catch {
        continue;
      }
    }
  }
  throw new Error("playwright-core not found: npm install playwright-core, and name its node_modules in WS_NODE_MODULES");
}

async function check(what, action) {
  const start = performance.now();
  try {
    const result = await action();
    console.log(`ok   ${what} (${Math.round(performance.now() - start)} ms)`);
    return result;
  } catch (error) {
    throw new Error(`${what}: ${error.message}`, { cause: error });
  }
}

// --- The server and the shell ---------------------------------------------------------------------------------------

/** The surroundings of a newcomer's shell: no `ws` variables, and `ws` on the path. */
function environment(bin) {
  const kept = Object.entries(process.env).filter(([name]) => !/^WS_/.test(name));
  return { ...Object.fromEntries(kept), XDG_CONFIG_HOME: "/nonexistent", PATH: `${bin}:${process.env.PATH}` };
}

class Server {
  static async start(place, listen, variables = {}) {
    const server = new Server();
    server.process = spawn("ws", ["serve", "--listen", listen], {
      cwd: place.work,
      env: { ...environment(place.bin), ...variables },
      stdio: ["ignore", "pipe", "pipe"],
      detached: true, // a process group of its own, so that nothing of it can be left
    });
    cleanups.push(() => server.kill());
    server.stderr = "";
    server.process.stderr.setEncoding("utf8").on("data", (text) => (server.stderr += text));
    server.ended = new Promise((resolve, reject) => {
      server.process.once("error", reject);
      server.process.once("exit", (code, signal) => resolve({ code, signal }));
    });
    const lines = createInterface(server.process.stdout);
    const ready = once(lines, "line").then(([line]) => line);
    const early = server.ended.then(({ code, signal }) => {
      throw new Error(`the server ended with ${code ?? signal} before it was ready\n${server.stderr}`);
    });
    server.url = new URL(await Promise.race([ready, early]));
    early.catch(() => {});
    assert.equal(server.url.protocol, "ws:");
    return server;
  }

  /** As an operator stops it. */
  async stop() {
    this.process.kill("SIGTERM");
    const end = await within(STOP_LIMIT, this.ended, "the server did not stop after SIGTERM");
    assert.deepEqual(end, { code: 0, signal: null }, this.stderr);
  }

  kill() {
    try {
      process.kill(-this.process.pid, "SIGKILL");
    } catch {
      // It has ended, as it should.
    }
  }
}

async function within(milliseconds, promise, complaint) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(complaint)), milliseconds)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Runs a line as a person would who pasted it, in a directory that is not the server's. */
async function shell(place, line) {
  const options = { cwd: place.elsewhere, env: environment(place.bin), timeout: STEP_LIMIT };
  const { stdout } = await promisify(execFile)("sh", ["-c", line], options);
  return stdout;
}

// --- The page -------------------------------------------------------------------------------------------------------

class Console {
  /** Violations of the policy, errors on the console, failed or foreign requests. */
  faults = [];
  /** While the server is down the browser reports that it cannot connect, as it must. */
  serverIsDown = false;

  static async open(browser, address, options = {}) {
    const console = new Console();
    const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, ...options });
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    const page = (console.page = await context.newPage());
    page.setDefaultTimeout(STEP_LIMIT);
    page.on("pageerror", (error) => console.faults.push(`error: ${error.message}`));
    page.on("console", (message) => {
      const refused = console.serverIsDown && /WebSocket connection .* failed/.test(message.text());
      if (/error|warning/.test(message.type()) && !refused) console.faults.push(message.text());
    });
    page.on("request", (request) => {
      const { host, protocol } = new URL(request.url());
      if (host !== new URL(address).host && protocol !== "data:") console.faults.push(`foreign: ${request.url()}`);
    });
    page.on("response", (response) => {
      if (response.status() >= 400) console.faults.push(`${response.status()} for ${response.url()}`);
    });
    console.response = await page.goto(address);
    return console;
  }

  async state(name) {
    await this.page.locator(`html[data-state="${name}"]`).waitFor({ state: "attached" });
  }

  field(name) {
    return this.page.locator(`#identity [data-field="${name}"]`);
  }

  async type(text) {
    await this.page.locator("#text").fill("");
    await this.page.locator("#text").pressSequentially(text);
    await this.page.keyboard.press("Enter");
  }

  /** The row of a message received with exactly this payload. */
  received(payload) {
    const exact = new RegExp(`^${payload.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`);
    return this.page.locator("#log .received", { has: this.page.locator("pre", { hasText: exact }) });
  }

  async arrives(payload) {
    await this.received(payload).first().waitFor();
  }

  async clear() {
    await this.page.locator("#clear").click();
    assert.equal(await this.page.locator("#log li").count(), 0);
  }

  /** The command that the panel offers, by how it begins or what it mentions. */
  async command(part) {
    return (await this.page.locator("#snippets code", { hasText: part }).first().textContent()) ?? "";
  }

  async screenshot(name) {
    if (process.env.WS_SHOTS) await this.page.screenshot({ path: path.join(process.env.WS_SHOTS, `${name}.png`) });
  }

  assertFaultless() {
    assert.deepEqual(this.faults, []);
  }
}

// --- The story ------------------------------------------------------------------------------------------------------

async function prepare() {
  assert.ok(process.env.WS_BIN, "WS_BIN must name the binary of ws");
  const root = await mkdtemp(path.join(tmpdir(), "ws-console-"));
  cleanups.push(() => rm(root, { recursive: true, force: true }));
  const place = { bin: path.join(root, "bin"), work: path.join(root, "it's here"), elsewhere: path.join(root, "elsewhere") };
  for (const directory of Object.values(place)) await mkdir(directory, { mode: 0o755 });
  await symlink(path.resolve(process.env.WS_BIN), path.join(place.bin, "ws"));
  if (process.env.WS_SHOTS) await mkdir(process.env.WS_SHOTS, { recursive: true });
  return place;
}

async function run() {
  const { chromium } = findPlaywright();
  const place = await prepare();
  let server = await check("the server starts and prints its URL", () => Server.start(place, "127.0.0.1:0"));
  const address = `http://${server.url.host}/`;
  const browser = await chromium.launch({
    executablePath: process.env.WS_CHROMIUM ?? "/usr/bin/chromium",
    args: BROWSER_FLAGS,
    timeout: 20_000,
  });
  cleanups.push(() => browser.close());

  const light = await check("the page opens under its policy and says what it is", async () => {
    const opened = await Console.open(browser, address, { colorScheme: "light" });
    assert.equal(opened.response.status(), 200);
    assert.equal(opened.response.headers()["content-security-policy"], CSP);
    assert.match(await opened.response.text(), /WebSocket/);
    return opened;
  });
  const { page } = light;

  await check("it connects by itself", () => light.state("open"));
  await check("it shows who one is, and its own question is not in the log", async () => {
    for (const name of ["user", "session", "connection", "address", "fifo"]) await light.field(name).waitFor();
    assert.match(await light.field("session").textContent(), /^[0-9a-f]{32}$/);
    assert.match(await light.field("connection").textContent(), /^[0-9a-f]{16}$/);
    assert.equal(await page.locator("#log .sent, #log .received").count(), 0);
  });

  await check("a message typed and sent with Enter is answered, and the answer is escaped", async () => {
    await light.type("/echo/<b>x</b>");
    await light.arrives("<b>x</b>");
    assert.equal(await page.locator("#log b").count(), 0);
    assert.equal(await page.locator("#text").inputValue(), "");
  });
  await check("the arrows bring back what was sent", async () => {
    await light.type("/echo/second");
    await light.arrives("second");
    await page.locator("#text").fill("draft");
    for (const [key, expected] of [
      ["ArrowUp", "/echo/second"],
      ["ArrowUp", "/echo/<b>x</b>"],
      ["ArrowUp", "/echo/<b>x</b>"],
      ["ArrowDown", "/echo/second"],
      ["ArrowDown", "draft"],
    ]) {
      await page.keyboard.press(key);
      assert.equal(await page.locator("#text").inputValue(), expected);
    }
    await page.locator("#text").fill("");
  });
  await check("the demo's URIs are one click away", async () => {
    for (const uri of ["/echo/hello", "/time", "/whoami", "/broadcast/hello"]) {
      const before = await page.locator("#log .received").count();
      await page.locator("#chips").getByRole("button", { name: uri, exact: true }).click();
      await page.locator("#log .received").nth(before).waitFor();
    }
    await light.received("hello").nth(1).waitFor();
  });

  await check("the line for the FIFO of the connection runs a URI as this user", async () => {
    const line = await light.command("echo /echo/hi >");
    const fifo = await light.field("fifo").textContent();
    assert.equal(line, `echo /echo/hi > '${fifo.replaceAll("'", "'\\''")}'`);
    await shell(place, line.replace("/echo/hi", "/echo/from-fifo"));
    await light.arrives("from-fifo");
  });
  await check("the line for the global FIFO reaches the page", async () => {
    const line = await light.command("global_pipe.fifo");
    await shell(place, line.replace("echo hi", "echo from-global"));
    await light.arrives("from-global");
  });
  await check("the line for `ws send` reaches the page", async () => {
    const line = await light.command("--user");
    assert.match(line, / send .*--user/);
    await shell(place, line.replace("'hi'", "'from send'"));
    await light.arrives("from send");
  });
  await check("`ws send --all` reaches every page", async () => {
    const dark = await Console.open(browser, address, { colorScheme: "dark" });
    await dark.state("open");
    const options = { cwd: place.work, env: environment(place.bin), timeout: STEP_LIMIT };
    await promisify(execFile)("ws", ["send", "--all", "hi"], options);
    await light.arrives("hi");
    await dark.arrives("hi");
    dark.assertFaultless();
    await dark.page.context().close();
  });
  await check("binary is shown as hex", async () => {
    const control = path.join(place.work, "tmp", "control.sock");
    const quoted = `'${control.replaceAll("'", "'\\''")}'`;
    await shell(place, `printf '\\000\\377ws' | ws send --control ${quoted} --all --binary -`);
    await page.locator("#log .received pre.hex", { hasText: /^000000 {2}00 ff 77 73 +\.\.ws$/ }).waitFor();
  });
  await check("a long message is folded and opens", async () => {
    await page.locator("#text").fill(`/echo/${"long ".repeat(600)}end`);
    await page.keyboard.press("Enter");
    const row = page.locator("#log .received").last();
    await row.getByRole("button", { name: /^Show all/ }).click();
    assert.match(await row.locator("pre").textContent(), /^(long ){600}end$/);
    await row.getByRole("button", { name: "Show less" }).click();
    assert.ok((await row.locator("pre").textContent()).length < 1000);
  });
  await check("copy puts the exact line on the clipboard", async () => {
    await page.locator("#snippets").getByRole("button", { name: /^Copy command/ }).first().click();
    const line = await page.locator("#snippets code").first().textContent();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), line);
  });
  await light.screenshot("console-light");
  await page.emulateMedia({ colorScheme: "dark" });
  await light.screenshot("console-dark");
  await page.emulateMedia({ colorScheme: "light" });

  await check("pause holds messages back, resume shows them, clear empties the log", async () => {
    await light.clear();
    await page.locator("#pause").click();
    await light.type("/echo/held");
    await page.getByRole("button", { name: "Resume (2 new)" }).click();
    await light.arrives("held");
    await light.clear();
  });
  await check("at 360 pixels nothing is cut off", async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    await light.type("/echo/narrow");
    await light.arrives("narrow");
    await light.screenshot("console-360");
    await page.locator("#toggle").click();
    await light.field("user").waitFor();
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
    await light.screenshot("console-360-you");
    await page.locator("#toggle").click();
    await page.setViewportSize({ width: 1180, height: 760 });
  });
  await check("no policy violation, no error, no foreign request until here", () => light.assertFaultless());

  const connection = await light.field("connection").textContent();
  await check("SIGTERM ends the server with 0 while the page is connected", async () => {
    light.serverIsDown = true;
    await server.stop();
  });
  await check("the page says why and counts down to the next attempt", async () => {
    await page.locator("#trouble").getByText(/going away.*1001/).waitFor();
    await page.locator("#countdown", { hasText: /Next attempt in \d+\.\d s/ }).waitFor();
    await page.getByRole("button", { name: "Connect now" }).waitFor();
    await light.screenshot("console-reconnecting");
  });
  server = await check("the server starts again on the same port", async () => {
    const again = await Server.start(place, server.url.host);
    assert.equal(again.url.host, server.url.host);
    return again;
  });
  await check("the page reconnects by itself and knows who it is now", async () => {
    await light.state("open");
    await page.waitForFunction(
      (before) => document.querySelector('[data-field="connection"]').textContent !== before,
      connection,
    );
    light.serverIsDown = false;
  });
  await check("it works again: reply, FIFO, push", async () => {
    await light.clear();
    await light.type("/echo/again");
    await light.arrives("again");
    await shell(place, (await light.command("echo /echo/hi >")).replace("/echo/hi", "/echo/fifo-again"));
    await light.arrives("fifo-again");
    await shell(place, (await light.command("--user")).replace("'hi'", "'send again'"));
    await light.arrives("send again");
  });
  await check("disconnect stays disconnected, connect comes back", async () => {
    await page.getByRole("button", { name: "Disconnect" }).click();
    await light.state("closed");
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await light.state("open");
  });
  await check("no policy violation, no error, no foreign request at all", () => light.assertFaultless());
  await page.context().close();
  await check("the server ends with 0", () => server.stop());

  server = await Server.start(place, "127.0.0.1:0", { WS__COMPRESSION__ENABLED: "true" });
  await check("with compression enabled the browser agrees to it, and long messages come through", async () => {
    const compressed = await Console.open(browser, `http://${server.url.host}/`);
    await compressed.state("open");
    const [extensions, reply] = await compressed.page.evaluate(async (text) => {
      const socket = new WebSocket(`ws://${location.host}/`);
      await new Promise((resolve) => (socket.onopen = resolve));
      const message = new Promise((resolve) => (socket.onmessage = ({ data }) => resolve(data)));
      socket.send(`/echo/${text}`);
      const result = [socket.extensions, await message];
      socket.close();
      return result;
    }, "long ".repeat(5000));
    assert.match(extensions, /^permessage-deflate; server_no_context_takeover; client_no_context_takeover\b/);
    assert.equal(reply, "long ".repeat(5000));
    const options = { cwd: place.work, env: environment(place.bin), timeout: STEP_LIMIT };
    const { stdout } = await promisify(execFile)("ws", ["status", "--json"], options);
    const { connections, payload_bytes, frame_bytes } = JSON.parse(stdout).compression;
    assert.equal(connections, 2);
    assert.ok(payload_bytes > 25_000 && frame_bytes < payload_bytes / 2, `${payload_bytes} as ${frame_bytes}`);
    compressed.assertFaultless();
  });
  await browser.close();
  await check("this server ends with 0, too", () => server.stop());
}

let cleaned;
function cleanUp() {
  cleaned ??= (async () => {
    for (const undo of cleanups.reverse()) await within(STOP_LIMIT, Promise.resolve(undo()), "slow").catch(() => {});
  })();
  return cleaned;
}

for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => cleanUp().then(() => process.exit(1)));
try {
  await within(TIME_LIMIT, run(), `not done after ${TIME_LIMIT / 1000} s`);
  await cleanUp();
  console.log("all is well");
  process.exit(0);
} catch (error) {
  console.error(`FAIL ${error.message}`);
  if (process.env.WS_VERBOSE) console.error(error);
  await cleanUp();
  process.exit(1);
}
