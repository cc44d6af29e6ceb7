// Drives the console page in Chromium against a real server: send, reply, pushes from a shell, restart, reconnect.
//
//   WS_BIN=target/debug/ws NODE_PATH=.../node_modules node console.mjs
//
// support/harness.mjs says what else the environment may set.

import assert from "node:assert/strict";

import { Page, Server, check, launch, main, prepare, shell, ws } from "./support/harness.mjs";

const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

class Console extends Page {
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
}

async function run() {
  const place = await prepare();
  let server = await check("the server starts and prints its URL", () => Server.start(place, "127.0.0.1:0"));
  const address = `http://${server.url.host}/`;
  const browser = await launch();

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
    await ws(place, "send", "--all", "hi");
    await light.arrives("hi");
    await dark.arrives("hi");
    dark.assertFaultless();
    await dark.page.context().close();
  });
  await check("binary is shown as hex", async () => {
    const control = `${place.work}/tmp/control.sock`;
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
  await check("an operator who closes it means it, and the page says so and stays away", async () => {
    const before = await light.field("connection").textContent();
    await ws(place, "kick", "--connection", before, "--reason", "enough");
    await light.state("closed");
    await page.locator("#trouble").getByText(/policy.*1008, enough/).waitFor();
    await page.getByRole("button", { name: "Connect", exact: true }).click();
    await light.state("open");
    assert.equal(await page.locator("#trouble").isVisible(), false);
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
    const { connections, payload_bytes, frame_bytes } = JSON.parse(await ws(place, "status", "--json")).compression;
    assert.equal(connections, 2);
    assert.ok(payload_bytes > 25_000 && frame_bytes < payload_bytes / 2, `${payload_bytes} as ${frame_bytes}`);
    compressed.assertFaultless();
  });
  await browser.close();
  await check("this server ends with 0, too", () => server.stop());
}

await main(run);
