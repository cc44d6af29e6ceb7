// Node's ws against `ws serve -- cat`. Run by `cargo xtask clients`; see websockets_client.py for
// the variables.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { promisify } from 'node:util';

// By `require`, which looks where NODE_PATH says; `import` does not.
const WebSocket = createRequire(import.meta.url)('ws');

const URL = process.env.WS_URL;
const COMPRESSION = process.env.WS__COMPRESSION__ENABLED === 'true';
const UNICODE = 'Grüße, мир, 世界, \u{1F600}';

/** An open connection with a queue of what it receives. */
async function open(options = {}) {
  // Where the server agrees, everything is compressed.
  const perMessageDeflate = { threshold: 0 };
  const socket = new WebSocket(URL, options.protocols ?? [], { perMessageDeflate, ...options });
  const received = [];
  const waiting = [];
  socket.on('message', (payload, isBinary) => {
    const message = isBinary ? payload : payload.toString();
    const resolve = waiting.shift();
    if (resolve) resolve(message);
    else received.push(message);
  });
  socket.receive = () =>
    received.length > 0
      ? Promise.resolve(received.shift())
      : new Promise((resolve) => waiting.push(resolve));
  // Heard from the beginning: a refused handshake has an error and then a close.
  socket.closed = new Promise((resolve) => {
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
  });
  await once(socket, 'open');
  return socket;
}

/** Runs `talk` with a connection and closes it. */
async function withConnection(talk, options) {
  const socket = await open(options);
  try {
    await talk(socket);
  } finally {
    socket.close();
    await socket.closed;
  }
}

const checks = {
  'text comes back': () =>
    withConnection(async (socket) => {
      socket.send(UNICODE);
      assert.equal(await socket.receive(), UNICODE);
    }),

  'bytes that are not UTF-8 come back as binary': () =>
    withConnection(async (socket) => {
      const payload = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
      socket.send(payload);
      assert.deepEqual(await socket.receive(), payload);
    }),

  'fragments are one message, with a ping between them': () =>
    withConnection(async (socket) => {
      const pong = once(socket, 'pong');
      socket.send('one, ', { fin: false });
      socket.ping('between');
      socket.send('', { fin: false });
      socket.send('two', { fin: true });
      assert.equal((await pong)[0].toString(), 'between');
      assert.equal(await socket.receive(), 'one, two');
    }),

  'a megabyte comes back': () =>
    withConnection(async (socket) => {
      const payload = Buffer.alloc(1 << 20, 'x').toString();
      socket.send(payload);
      assert.equal(await socket.receive(), payload);
    }),

  'more than a megabyte is too big': async () => {
    const socket = await open();
    socket.on('error', () => {});
    socket.send('x'.repeat((1 << 20) + 1));
    assert.equal((await socket.closed).code, 1009);
  },

  'the close code comes back': async () => {
    const socket = await open();
    socket.close(4001, 'bye');
    assert.equal((await socket.closed).code, 4001);
  },

  [`an offer of compression is ${COMPRESSION ? 'accepted' : 'declined'}`]: () =>
    withConnection(
      async (socket) =>
        assert.equal(socket.extensions, COMPRESSION ? 'permessage-deflate' : ''),
      { perMessageDeflate: true },
    ),

  'what one asks for is agreed to, or nothing': async () => {
    for (const perMessageDeflate of [
      { serverNoContextTakeover: true, clientNoContextTakeover: true },
      { serverMaxWindowBits: 9, clientMaxWindowBits: 9, threshold: 0 },
    ]) {
      await withConnection(
        async (socket) => {
          for (const text of [UNICODE.repeat(1000), '0123456789abcdef'.repeat(5000), 'x']) {
            socket.send(text);
            assert.equal(await socket.receive(), text);
          }
        },
        { perMessageDeflate },
      );
    }
  },

  'an unknown subprotocol fails in the client, not before': async () => {
    const socket = new WebSocket(URL, ['nonsense']);
    const [error] = await once(socket, 'error');
    assert.match(error.message, /sent no subprotocol/);
  },

  'replies are in order': () =>
    withConnection(async (socket) => {
      const messages = Array.from({ length: 50 }, (_, i) => `message ${i}`);
      for (const message of messages) socket.send(message);
      for (const message of messages) assert.equal(await socket.receive(), message);
    }),

  'a push by the client verb arrives': () =>
    withConnection(async (socket) => {
      await promisify(execFile)(process.env.WS_BIN, ['send', '--all', UNICODE]);
      assert.equal(await socket.receive(), UNICODE);
    }),
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('not done after 20 s')), 20_000);
  });
  try {
    await Promise.race([check(), limit]);
    console.log(`  ok ${name}`);
  } catch (error) {
    console.log(`  FAILED ${name}: ${String(error.message).slice(0, 300)}`);
    failed += 1;
  } finally {
    clearTimeout(timer);
  }
}
process.exit(failed === 0 ? 0 : 1);
