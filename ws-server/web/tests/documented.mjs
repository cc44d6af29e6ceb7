// The scripts of the documentation, in Chromium, as the pages print them.
//
//   WS_BIN=target/debug/ws NODE_PATH=.../node_modules node documented.mjs
//
// A block of a page that begins with ```js browser=NAME is run as a module of a page of the server's, and CHECKS[NAME]
// says what has to come of it. Each block needs such a check, and each check a block.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";

import { Page, Server, check, launch, main, prepare, ws } from "./support/harness.mjs";

const REPOSITORY = path.join(import.meta.dirname, "../../..");
const PAGES = ["docs/browser.md", "docs/identity.md", "ws-server/web/client/README.md"];

const SECRET = "a secret of at least thirty-two bytes";

// Says who speaks, and where.
const APPLICATION = String.raw`printf '%s at %s: %s' "$REMOTE_USER" "$REQUEST_URI" "$(cat)"`;

/** What a script needs besides that the page has said before. */
const IMPORT = 'import { ReconnectingSocket } from "./ws.js";\n';

/** Lets the test have what a script makes. */
const kept = (script) => script.replace("new ReconnectingSocket(", "globalThis.link = new ReconnectingSocket(");

const CHECKS = {
  chat: async ({ opened, user, script }) => {
    await run(opened, script);
    await heard(opened, "open", `${user} at /chat: hello`);
  },
  published: async ({ opened, user, script }) => {
    await run(opened, script.replace("@ws-server/client", "./ws.js"));
    await heard(opened, `${user} at /chat: hello`);
  },
  final: async ({ opened, place, script }) => {
    await run(opened, kept(script));
    await state(opened, "open");
    await kick(place, "1008", "token expired");
    await state(opened, "waiting");
    await state(opened, "open");
    await kick(place, "4001", "bye");
    await state(opened, "closed");
  },
  token: async ({ opened, server, script }) => {
    const known = script.replace("wss://example.org/", server.url.href);
    await run(opened, `const token = "${token("alice")}";\n${known}
      socket.addEventListener("message", ({ data }) => console.log(data));
      socket.addEventListener("open", () => socket.send("hello"));`);
    await heard(opened, "alice at /: hello");
  },
  "fresh-tokens": async ({ opened, place, script }) => {
    const users = ["alice", "bob"];
    await opened.page.route("**/token", (route) => route.fulfill({ body: token(users.shift()) }));
    await run(opened, `${IMPORT}${kept(script)}
      link.addEventListener("message", ({ data }) => console.log(data));
      link.send("hello");`);
    await heard(opened, "alice at /chat: hello");
    await kick(place, "1001", "go away");
    await state(opened, "waiting");
    await opened.page.evaluate(() => link.send("again"));
    await heard(opened, "bob at /chat: again");
  },
};

/** Runs a script as a module of the page. */
async function run(opened, script) {
  opened.said = [];
  opened.page.on("console", (message) => opened.said.push(message.text()));
  await opened.page.addScriptTag({ type: "module", content: script });
}

/** Waits until the page has logged these, in this order. */
async function heard(opened, ...expected) {
  for (const text of expected) {
    while (!opened.said.includes(text)) await opened.page.waitForEvent("console");
    opened.said.splice(0, opened.said.indexOf(text) + 1);
  }
}

async function state({ page }, expected) {
  await page.waitForFunction((expected) => globalThis.link?.state === expected, expected);
}

/** Closes what is connected to /chat. */
async function kick(place, code, reason) {
  const { connections } = JSON.parse(await ws(place, "ls", "--json"));
  const { id } = connections.find(({ uri }) => uri === "/chat");
  await ws(place, "kick", "--connection", id, "--code", code, "--reason", reason);
}

/** A token (JWT) that the server believes. */
function token(user) {
  const encoded = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const signed = `${encoded({ alg: "HS256" })}.${encoded({ sub: user, exp: 4_102_444_800 })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

async function blocks() {
  const found = [];
  for (const file of PAGES) {
    const text = await readFile(path.join(REPOSITORY, file), "utf8");
    const matches = text.matchAll(/^```js browser=(\S+)\n(.*?)^```$/gms);
    for (const [, name, script] of matches) found.push({ file, name, script });
  }
  return found;
}

await main(async () => {
  const place = await prepare();
  await writeFile(path.join(place.work, "secret"), SECRET, { mode: 0o600 });
  const variables = {
    WS__IDENTITY__TOKEN__SECRET_FILE: "secret",
    WS__IDENTITY__TOKEN__FROM: "subprotocol:ws.token",
  };
  const extra = ["--dev", "--", "sh", "-c", APPLICATION];
  const server = await Server.start(place, "127.0.0.1:0", variables, extra);
  const browser = await launch();
  const found = await blocks();
  assert.deepEqual(found.map(({ name }) => name).sort(), Object.keys(CHECKS).sort());
  for (const { file, name, script } of found) {
    await check(`${file}: ${name}`, async () => {
      // The policy of the page at / is for its own scripts.
      const opened = await Page.open(browser, `http://${server.url.host}/`, { bypassCSP: true });
      opened.serverIsDown = true;
      const { connections } = JSON.parse(await ws(place, "ls", "--json"));
      await CHECKS[name]({ opened, place, server, script, user: connections[0]?.user });
      await opened.page.context().close();
    });
  }
  await server.stop();
});
