// The browser library in Chromium, as a page of the server would use it.
//
//   WS_BIN=target/debug/ws NODE_PATH=.../node_modules node library_in_chromium.mjs

import assert from "node:assert/strict";

import { Page, Server, check, launch, main, prepare, ws } from "./support/harness.mjs";

/** Makes a link in the page, and a list of what it tells. */
function connect({ page }, options) {
  return page.evaluate(async (options) => {
    const { ReconnectingSocket } = await import("/ws.js");
    const link = (window.link = new ReconnectingSocket("/", { firstDelay: 100, ...options }));
    const told = (window.told = []);
    link.addEventListener("message", ({ data }) => told.push(data));
    link.addEventListener("close", ({ code, reason, delay }) => told.push([code, reason, delay !== null]));
  }, options);
}

const act = ({ page }, action, argument) => page.evaluate(action, argument);

/** Waits until the page has been told so much, and returns all of it. */
async function told({ page }, count) {
  await page.waitForFunction((count) => window.told.length >= count, count);
  return page.evaluate(() => window.told.splice(0));
}

async function state({ page }, expected) {
  await page.waitForFunction((expected) => window.link.state === expected, expected);
}

await main(async () => {
  const place = await prepare();
  let server = await Server.start(place, "127.0.0.1:0");
  const opened = await Page.open(await launch(), `http://${server.url.host}/`);

  await check("it is served where the console is, and connects to a relative URL", async () => {
    await connect(opened);
    await act(opened, () => window.link.send("/echo/hi"));
    assert.deepEqual(await told(opened, 1), ["hi"]);
  });
  await check("binary comes as an ArrayBuffer", async () => {
    const arrived = act(opened, async () => {
      const { data } = await new Promise((resolve) => window.link.addEventListener("message", resolve, { once: true }));
      return [data instanceof ArrayBuffer, ...new Uint8Array(data)];
    });
    await ws(place, "send", "--all", "--binary", "\u0001\u0002");
    assert.deepEqual(await arrived, [true, 1, 2]);
    await told(opened, 1);
  });
  await check("it outlives a restart, and what was sent meanwhile arrives in order", async () => {
    opened.serverIsDown = true;
    await server.stop();
    const [lost] = await told(opened, 1);
    assert.deepEqual([lost[0], lost[2]], [1001, true]);
    await act(opened, () => ["one", "two", "three"].forEach((text) => window.link.send(`/echo/${text}`)));
    server = await Server.start(place, server.url.host);
    await opened.page.waitForFunction(() => window.told.includes("three"));
    const heard = (await told(opened, 3)).filter((it) => typeof it === "string");
    assert.deepEqual(heard, ["one", "two", "three"]);
    await opened.state("open");
    opened.serverIsDown = false;
  });
  await check("an operator who closes it means it", async () => {
    await act(opened, () => window.link.send("/whoami"));
    const [me] = await told(opened, 1);
    await ws(place, "kick", "--connection", /connection: (\w+)/.exec(me)[1]);
    const [closed] = await told(opened, 1);
    assert.deepEqual([closed[0], closed[2]], [1008, false]);
    await state(opened, "closed");
    assert.equal(await act(opened, () => window.link.send("x")), false);
  });
  await check("when the network goes it asks, and when it comes back it tries at once", async () => {
    // Nothing but the events of the browser could make it do anything within this test.
    const hour = 3_600_000;
    await connect(opened, { firstDelay: hour, pingInterval: hour, pongTimeout: 200 });
    await state(opened, "open");
    server.process.kill("SIGSTOP");
    opened.serverIsDown = true;
    await opened.page.context().setOffline(true);
    assert.deepEqual(await told(opened, 1), [[1006, "no pong in time", true]]);
    await state(opened, "waiting");
    server.process.kill("SIGCONT");
    await opened.page.context().setOffline(false);
    await state(opened, "open");
    await opened.state("open");
    opened.serverIsDown = false;
  });
  await check("a page that is looked at again asks whether the connection lives", async () => {
    server.process.kill("SIGSTOP");
    await act(opened, () => document.dispatchEvent(new Event("visibilitychange")));
    await state(opened, "waiting");
    server.process.kill("SIGCONT");
    await act(opened, () => document.dispatchEvent(new Event("visibilitychange")));
    await state(opened, "open");
    await act(opened, () => window.link.close());
  });
  await check("no policy violation, no error, no foreign request", () => opened.assertFaultless());
  await check("the server ends with 0", () => server.stop());
});
