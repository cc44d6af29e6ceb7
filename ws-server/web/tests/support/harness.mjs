// What the tests beside this folder share: a server and a shell, a browser, and an end that leaves nothing behind.
//
// WS_BIN          the binary `ws`
// WS_NODE_MODULES or NODE_PATH: where the packages are installed
// WS_CHROMIUM     the browser, /usr/bin/chromium if not set
// WS_SHOTS        a directory for screenshots of everything; none are taken if not set
// WS_PICTURES     a directory for the pictures of the documentation, likewise

import assert from "node:assert/strict";
import { spawn, execFile } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const TIME_LIMIT = process.env.WS_PICTURES ? 150_000 : 60_000;
export const STEP_LIMIT = 10_000;
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

/** Undone in reverse order at the end, whatever happened. */
const cleanups = [];

/** Finds an installed package. `import` does not look where NODE_PATH says, `require` does. */
export function findPackage(name) {
  const places = [process.env.WS_NODE_MODULES, ...(process.env.NODE_PATH ?? "").split(path.delimiter)].filter(Boolean);
  for (const place of [...places, import.meta.dirname]) {
    const require = createRequire(path.join(path.resolve(place), "resolve.js"));
    for (const candidate of [name, path.join(path.resolve(place), name)]) {
      try {
        return require(candidate);
      } catch {
        continue;
      }
    }
  }
  throw new Error(`${name} not found: npm install ${name}, and name its node_modules in WS_NODE_MODULES`);
}

export async function check(what, action) {
  const start = performance.now();
  try {
    const result = await action();
    console.log(`ok   ${what} (${Math.round(performance.now() - start)} ms)`);
    return result;
  } catch (error) {
    throw new Error(`${what}: ${error.message}`, { cause: error });
  }
}

export async function within(milliseconds, promise, complaint) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(complaint)), milliseconds)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// --- The server and the shell ---------------------------------------------------------------------------------------

/** Directories for a server, for `ws` on the path, and for a shell that is somewhere else. */
export async function prepare() {
  assert.ok(process.env.WS_BIN, "WS_BIN must name the binary of ws");
  const root = await mkdtemp(path.join(tmpdir(), "ws-console-"));
  cleanups.push(() => rm(root, { recursive: true, force: true }));
  const place = { bin: path.join(root, "bin"), work: path.join(root, "it's here"), elsewhere: path.join(root, "elsewhere") };
  for (const directory of Object.values(place)) await mkdir(directory, { mode: 0o755 });
  await symlink(path.resolve(process.env.WS_BIN), path.join(place.bin, "ws"));
  for (const folder of [process.env.WS_SHOTS, process.env.WS_PICTURES]) {
    if (folder) await mkdir(folder, { recursive: true });
  }
  return place;
}

/** The surroundings of a newcomer's shell: no `ws` variables, and `ws` on the path. */
export function environment(bin) {
  const kept = Object.entries(process.env).filter(([name]) => !/^WS_/.test(name));
  return { ...Object.fromEntries(kept), XDG_CONFIG_HOME: "/nonexistent", PATH: `${bin}:${process.env.PATH}` };
}

export class Server {
  /** Starts `ws serve`; `extra` are further arguments. */
  static async start(place, listen, variables = {}, extra = []) {
    const server = new Server();
    server.process = spawn("ws", ["serve", "--listen", listen, ...extra], {
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

/** Runs a line as a person would who pasted it, in a directory that is not the server's. */
export async function shell(place, line) {
  const options = { cwd: place.elsewhere, env: environment(place.bin), timeout: STEP_LIMIT };
  const { stdout } = await promisify(execFile)("sh", ["-c", line], options);
  return stdout;
}

/** Runs `ws` in the server's directory, so that it finds the server, and returns what it prints. */
export async function ws(place, ...args) {
  const options = { cwd: place.work, env: environment(place.bin), timeout: STEP_LIMIT };
  const { stdout } = await promisify(execFile)("ws", args, options);
  return stdout;
}

// --- The browser ----------------------------------------------------------------------------------------------------

export async function launch() {
  const { chromium } = findPackage("playwright-core");
  const browser = await chromium.launch({
    executablePath: process.env.WS_CHROMIUM ?? "/usr/bin/chromium",
    args: BROWSER_FLAGS,
    timeout: 20_000,
  });
  cleanups.push(() => browser.close());
  return browser;
}

/** A page on which nothing may go wrong unnoticed. */
export class Page {
  /** Violations of the policy, errors on the console, failed or foreign requests. */
  faults = [];
  /** While the server is down the browser reports that it cannot connect, as it must. */
  serverIsDown = false;

  static async open(browser, address, options = {}) {
    const opened = new this();
    const context = await browser.newContext({ viewport: { width: 1180, height: 760 }, ...options });
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    const page = (opened.page = await context.newPage());
    page.setDefaultTimeout(STEP_LIMIT);
    page.on("pageerror", (error) => opened.faults.push(`error: ${error.message}`));
    page.on("console", (message) => {
      const refused = opened.serverIsDown && /WebSocket connection .* failed|ERR_/.test(message.text());
      if (/error|warning/.test(message.type()) && !refused) opened.faults.push(message.text());
    });
    page.on("request", (request) => {
      const { host, protocol } = new URL(request.url());
      if (host !== new URL(address).host && protocol !== "data:") opened.faults.push(`foreign: ${request.url()}`);
    });
    page.on("response", (response) => {
      if (response.status() >= 400) opened.faults.push(`${response.status()} for ${response.url()}`);
    });
    opened.response = await page.goto(address);
    return opened;
  }

  async state(name) {
    await this.page.locator(`html[data-state="${name}"]`).waitFor({ state: "attached" });
  }

  async screenshot(name) {
    if (process.env.WS_SHOTS) await this.page.screenshot({ path: path.join(process.env.WS_SHOTS, `${name}.png`) });
  }

  /** Takes a picture for the documentation. */
  async picture(name) {
    if (process.env.WS_PICTURES) await this.page.screenshot({ path: path.join(process.env.WS_PICTURES, `${name}.png`) });
  }

  assertFaultless() {
    assert.deepEqual(this.faults, []);
  }
}

// --- The end --------------------------------------------------------------------------------------------------------

let cleaned;
export function cleanUp() {
  cleaned ??= (async () => {
    for (const undo of cleanups.reverse()) await within(STOP_LIMIT, Promise.resolve(undo()), "slow").catch(() => {});
  })();
  return cleaned;
}

for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => cleanUp().then(() => process.exit(1)));

/** Runs a whole test, and ends the program. */
export async function main(run) {
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
}
