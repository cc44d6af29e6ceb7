// Drives the operator's page in Chromium: signing in, figures, lists, log, sending, closing, and strangers' markup.
//
//   WS_BIN=target/debug/ws NODE_PATH=.../node_modules node operator.mjs

import assert from "node:assert/strict";
import { once } from "node:events";
import { chmod, writeFile } from "node:fs/promises";

import { Page, Server, check, findPackage, launch, main, prepare, within, ws } from "./support/harness.mjs";

const TOKEN = "a-token-of-the-operator";
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; " +
  "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
/** As a user id, which has no spaces, and as anything else. */
const MARKUP = "<img/src=x/onerror=document.title='hit'>";

const VALIDATE = `#!/bin/sh
case $QUERY_STRING in
  markup) printf %s "${MARKUP}" ;;
  *) printf %s "$QUERY_STRING" ;;
esac
`;
const APPLICATION = `#!/bin/sh
read -r line
case $line in
  log*) echo "$line" >&2 ;;
esac
echo "$line"
`;

const WebSocket = findPackage("ws");

/** A connection as this user, and what it gets. */
async function connect(server, user) {
  const socket = new WebSocket(new URL(`/chat?${user}`, server.url));
  socket.messages = [];
  socket.on("message", (data) => socket.messages.push(data.toString()));
  socket.ended = once(socket, "close").then(([code, reason]) => ({ code, reason: reason.toString() }));
  await once(socket, "open");
  return socket;
}

class Operator extends Page {
  async signIn(token) {
    await this.page.getByLabel("Token").fill(token);
    await this.page.getByRole("button", { name: "Sign in" }).click();
  }

  /** The row of a table in which a cell has exactly this text. */
  row(table, text) {
    return this.page.locator(`#${table} tr`).filter({ has: this.page.getByRole("cell", { name: text, exact: true }) });
  }

  async rows(table, count) {
    await this.page.waitForFunction(
      ([table, count]) => document.querySelectorAll(`#${table} td:last-child button:last-child`).length === count,
      [table, count],
    );
  }

  async closes(reason) {
    await this.page.getByLabel("Reason, which the page gets").fill(reason);
    await this.page.getByRole("dialog").getByRole("button", { name: "Close", exact: true }).click();
    await this.page.getByRole("dialog").waitFor({ state: "hidden" });
  }
}

async function settings(place) {
  await writeFile(`${place.work}/token`, `${TOKEN}\n`, { mode: 0o600 });
  for (const [name, text] of Object.entries({ validate: VALIDATE, application: APPLICATION })) {
    await writeFile(`${place.work}/${name}`, text);
    await chmod(`${place.work}/${name}`, 0o755);
  }
  return {
    WS__CONTROL__LISTEN: "127.0.0.1:0",
    WS__CONTROL__TOKEN_FILE: `${place.work}/token`,
    WS__VALIDATE__BACKEND: "exec",
    WS__VALIDATE__COMMAND: "./validate",
    WS__APP__COMMAND: "./application",
    WS__LOG__LEVEL: "info",
  };
}

/** Takes a picture of five minutes, for which the page's clock is set. */
async function picture(browser, address, sockets) {
  const operator = await Operator.open(browser, address, { colorScheme: "light", viewport: { width: 1180, height: 900 } });
  const { page } = operator;
  await page.clock.install();
  await page.reload();
  await operator.signIn(TOKEN);
  await operator.rows("connections", sockets.length);
  const points = page.locator(".figure polyline").first();
  for (let step = 2; step <= 150; step += 1) {
    const busy = Math.round(4 + 3 * Math.sin(step / 9) + 2 * Math.sin(step / 2.3) + (step % 40 < 4 ? 6 : 0));
    for (let count = 0; count < Math.max(0, busy); count += 1) sockets[count % sockets.length].send("hello");
    await page.clock.runFor(2_000);
    const hasCome = (node, step) => node.getAttribute("points").split(" ").length >= step;
    while (!(await points.evaluate(hasCome, step))) await page.clock.runFor(1);
  }
  await operator.row("users", "carol").getByRole("button", { name: "Send to carol" }).click();
  await page.getByRole("textbox", { name: "Message" }).fill("Your order has been sent.");
  await page.locator("#send").getByRole("button", { name: "Send" }).click();
  await page.getByText("Reached 1.", { exact: true }).waitFor();
  await page.evaluate(() => scrollTo(0, 0));
  await operator.picture("operator");
  await page.context().close();
}

await main(async () => {
  const place = await prepare();
  let server = await Server.start(place, "127.0.0.1:0", await settings(place));
  const address = JSON.parse(await ws(place, "status", "--json")).control.listen;
  const browser = await launch();
  const users = ["alice", "alice", "bob", "carol", "dave", "erin"];
  const sockets = await Promise.all(users.map((user) => connect(server, user)));

  const operator = await check("the page is public, and says nothing before one signs in", async () => {
    const opened = await Operator.open(browser, address, { colorScheme: "light" });
    const headers = opened.response.headers();
    assert.equal(opened.response.status(), 200);
    assert.equal(headers["content-security-policy"], CSP);
    assert.equal(headers["cross-origin-resource-policy"], "same-origin");
    assert.doesNotMatch(await opened.response.text(), /alice/);
    await opened.state("closed");
    assert.equal(await opened.page.locator("#signed-in").isVisible(), false);
    return opened;
  });
  const { page } = operator;
  await check("a wrong token is told to be wrong", async () => {
    await operator.signIn("another-token-than-that");
    await page.getByText("The server does not know this token.").waitFor();
    assert.deepEqual(operator.faults.splice(0).length, 2, "a response of 401, and the browser's word of it");
    await operator.screenshot("operator-sign-in");
  });
  await check("with the right one the connections and users are listed", async () => {
    await operator.signIn(TOKEN);
    await operator.state("open");
    await operator.rows("connections", 6);
    await operator.rows("users", 5);
    await page.getByText("6 open").waitFor();
    const alice = operator.row("users", "alice");
    assert.deepEqual((await alice.getByRole("cell").allTextContents()).slice(0, 3), ["alice", "2", "2"]);
    assert.equal(await operator.row("connections", "/chat?bob").count(), 1);
  });
  await check("the token is in no URL, no cookie and no storage that outlives the tab", async () => {
    const places = await page.evaluate(() => [location.href, document.cookie, JSON.stringify(localStorage)]);
    const requests = await page.evaluate(() => performance.getEntriesByType("resource").map(({ name }) => name));
    for (const text of [...places, ...requests]) assert.ok(!text.includes(TOKEN), text);
    assert.equal(await page.locator("#token").inputValue(), "");
  });
  await check("it stays signed in when it is loaded again, in this tab only", async () => {
    await page.reload();
    await operator.rows("connections", 6);
    const other = await Operator.open(browser, address);
    await other.state("closed");
    await other.page.context().close();
  });

  await check("who comes and goes is seen at once", async () => {
    sockets.push(await connect(server, "frank"));
    await operator.row("users", "frank").waitFor();
    sockets.pop().close();
    await operator.row("users", "frank").waitFor({ state: "detached" });
  });
  await check("rates are plotted", async () => {
    for (let round = 0; round < 40; round += 1) {
      for (const socket of sockets) socket.send(`message ${round}`);
      await new Promise((resolve) => setTimeout(resolve, 20 + 8 * (round % 5)));
    }
    const figure = page.locator(".figure", { hasText: "Messages in" });
    await figure.locator("b", { hasText: /^[1-9]\d*(\.\d)?\/s$/ }).waitFor();
    const points = await figure.locator("polyline").getAttribute("points");
    assert.ok(points.split(" ").length >= 2, points);
  });
  await check("the log is followed, from before one looked", async () => {
    await page.locator("#log .info", { hasText: "listening" }).first().waitFor();
    sockets[0].send("log of the application");
    await page.locator("#log li", { hasText: "log of the application" }).waitFor();
    await page.locator("#pause").click();
    sockets[0].send("log that is held");
    await page.getByRole("button", { name: /Resume \(\d+ new\)/ }).waitFor();
    assert.equal(await page.locator("#log li", { hasText: "log that is held" }).count(), 0);
    await page.locator("#pause").click();
    await page.locator("#log li", { hasText: "log that is held" }).waitFor();
  });
  await check("a message is sent to whom one chooses, and it is told how many it reached", async () => {
    await operator.row("users", "alice").getByRole("button", { name: "Send to alice" }).click();
    assert.equal(await page.locator("#target").inputValue(), "alice");
    await page.getByRole("textbox", { name: "Message" }).fill("to alice");
    await page.locator("#send").getByRole("button", { name: "Send" }).click();
    await page.getByText("Reached 2.", { exact: true }).waitFor();
    for (const [index, user] of users.entries()) {
      assert.equal(sockets[index].messages.includes("to alice"), user === "alice", user);
    }
    await page.locator("#target").fill("nobody");
    await page.locator("#send").getByRole("button", { name: "Send" }).click();
    await page.getByText("Nobody was reached.").waitFor();
    await page.getByLabel("To", { exact: true }).selectOption("all");
    await page.locator("#send").getByRole("button", { name: "Send" }).click();
    await page.getByText("Reached 6.").waitFor();
  });
  await page.evaluate(() => scrollTo(0, 0));
  await operator.screenshot("operator-light");
  if (process.env.WS_PICTURES) await check("a picture is taken", () => picture(browser, address, sockets));
  await page.emulateMedia({ colorScheme: "dark" });
  await operator.screenshot("operator-dark");
  await page.emulateMedia({ colorScheme: "light" });

  await check("lists are filtered", async () => {
    await page.getByLabel("Only of this user").fill("alice");
    await operator.rows("connections", 2);
    await page.getByLabel("Only users whose name begins with this").fill("d");
    await operator.rows("users", 1);
    for (const label of ["Only of this user", "Only users whose name begins with this"]) await page.getByLabel(label).fill("");
    await operator.rows("users", 5);
  });
  await check("a connection is closed with one's words, and the keyboard does for it", async () => {
    const close = operator.row("connections", "/chat?bob").getByRole("button", { name: /^Close / });
    await close.focus();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
    await close.click();
    await page.getByLabel("Close code").fill("4001");
    await operator.closes("time to go");
    assert.deepEqual(await within(5_000, sockets[2].ended, "bob stays"), { code: 4001, reason: "time to go" });
    await operator.rows("connections", 5);
  });
  await check("and so are all of a user", async () => {
    await operator.row("users", "alice").getByRole("button", { name: "Close alice" }).click();
    await page.getByText("Close all 2 of alice?").waitFor();
    await page.getByLabel("Close code").fill("1008");
    await operator.closes("");
    for (const socket of sockets.slice(0, 2)) {
      assert.deepEqual(await within(5_000, socket.ended, "alice stays"), { code: 1008, reason: "" });
    }
    await operator.rows("users", 3);
  });
  await check("what strangers call themselves, send and log is text", async () => {
    const socket = await connect(server, "markup");
    const row = operator.row("users", MARKUP);
    await row.waitFor();
    socket.send(`log ${MARKUP}`);
    await page.locator("#log li", { hasText: `log ${MARKUP}` }).waitFor();
    await row.getByRole("button", { name: `Send to ${MARKUP}` }).click();
    await page.getByRole("textbox", { name: "Message" }).fill(MARKUP);
    await page.locator("#send").getByRole("button", { name: "Send" }).click();
    await page.getByText("Reached 1.", { exact: true }).waitFor();
    await row.getByRole("button", { name: `Close ${MARKUP}` }).click();
    await page.getByText(`Close all 1 of ${MARKUP}?`).waitFor();
    await operator.closes(MARKUP);
    assert.deepEqual(await within(5_000, socket.ended, "it stays"), { code: 1008, reason: MARKUP });
    assert.equal(await page.locator("img").count(), 0);
    assert.equal(await page.title(), "ws operator");
  });
  for (const width of [400, 360]) {
    await check(`at ${width} pixels nothing is cut off`, async () => {
      await page.setViewportSize({ width, height: 760 });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
      await operator.screenshot(`operator-${width}`);
    });
  }
  await page.setViewportSize({ width: 1180, height: 760 });
  await check("everything that can be pressed or filled in has a name", async () => {
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll("button, input, select, textarea")]
        .filter((it) => !(it.ariaLabel || it.textContent.trim() || it.labels?.length))
        .map((it) => it.outerHTML),
    );
    assert.deepEqual(nameless, []);
  });

  await check("eight tabs at once are all served, and a hidden one does not ask", async () => {
    const tabs = [];
    for (let tab = 0; tab < 8; tab += 1) {
      const opened = new Operator();
      opened.page = await page.context().newPage();
      await opened.page.goto(address);
      await opened.signIn(TOKEN);
      tabs.push(opened);
    }
    // More than a browser opens connections, and in each the log goes on.
    sockets[3].send("log for every tab");
    for (const tab of tabs) await tab.page.locator("#log li", { hasText: "log for every tab" }).waitFor();
    const asked = () => tabs[0].page.evaluate(() => performance.getEntriesByType("resource").length);
    const hide = (isHidden) =>
      tabs[0].page.evaluate((isHidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
        document.dispatchEvent(new Event("visibilitychange"));
      }, isHidden);
    await hide(true);
    await tabs[1].page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 1_000)));
    const before = await asked();
    sockets[3].send("log for those who look");
    await tabs[1].page.locator("#log li", { hasText: "log for those who look" }).waitFor();
    await tabs[1].page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 3_000)));
    assert.equal(await asked(), before);
    await hide(false);
    await tabs[0].page.locator("#log li", { hasText: "log for those who look" }).waitFor();
    for (const tab of tabs) await tab.page.close();
  });
  await check("another page cannot use it, whatever token it has", async () => {
    const foreign = await browser.newContext();
    const elsewhere = await foreign.newPage();
    await elsewhere.goto(`http://${server.url.host}/nothing`).catch(() => {});
    const ask = (headers) =>
      elsewhere.evaluate(([url, headers]) => fetch(url, { headers }).then(String, () => "refused"), [
        `${address}v1/status`,
        headers,
      ]);
    assert.equal(await ask({ authorization: `Bearer ${TOKEN}` }), "refused");
    assert.equal(await ask({}), "refused");
    await foreign.close();
  });
  await check("it comes back after a restart, and the log goes on", async () => {
    operator.serverIsDown = true;
    const listen = new URL(address).host;
    await server.stop();
    await operator.state("waiting");
    // Grace comes after the list is shown, and before the new server is asked how it does.
    let release;
    const isHere = new Promise((resolve) => (release = resolve));
    await page.route("**/v1/status", async (route) => {
      await isHere;
      await route.continue();
    });
    server = await Server.start(place, server.url.host, { ...(await settings(place)), WS__CONTROL__LISTEN: listen });
    await page.locator("#prefix").fill("g");
    await operator.state("open");
    const after = await connect(server, "grace");
    release();
    await operator.row("users", "grace").waitFor();
    await page.unroute("**/v1/status");
    await page.locator("#prefix").fill("");
    after.send("log after the restart");
    await page.locator("#log li", { hasText: "log after the restart" }).waitFor();
    operator.serverIsDown = false;
    after.close();
  });
  await check("no policy violation, no error, no foreign request until here", () => operator.assertFaultless());
  await check("a token that is taken back signs one out", async () => {
    await writeFile(`${place.work}/token`, "another-token-of-the-operator\n", { mode: 0o600 });
    await page.getByText("The token is not good any more.").waitFor();
    await operator.state("closed");
    assert.equal(await page.locator("#connections tr, #users tr, #log li").count(), 0);
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  });
  await check("the server ends with 0", () => server.stop());
});
