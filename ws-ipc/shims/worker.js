'use strict';

/*
 * Runs a Node application for ws: loads it once, then answers one request after another. Node
 * cannot fork; several workers side by side are the server's to start.
 *
 *     node worker.js app.js
 *
 * The application is a module that exports a function. What that writes to stdout, and what it
 * returns or resolves to (a string, a Buffer or nothing), is the answer:
 *
 *     // Loaded once: modules, configuration, connections.
 *     module.exports = async (env, body, header) => `${body}, said ${env.REMOTE_ADDR}`;
 *
 * `env` holds the variables of CGI, which are also in process.env; `body` is a Buffer.
 * `header('X-WS-Close', '1000 bye')` adds a header to the answer. To answer is to return: who
 * throws or exits has not answered, and what was written before is dropped. What programs that it
 * starts write to stdout goes to the log.
 *
 * Descriptor 0 is a listening Unix socket, the protocol is SCGI, the answer is CGI's with a
 * Content-Length. SIGTERM ends it after the requests that it has accepted. Needs Node 18.
 */

const net = require('node:net');
const path = require('node:path');
const { pathToFileURL } = require('node:url');

const MAX_REQUEST_SIZE = 64 << 20;

/** Whether the application has been called and not yet returned. */
let isRunning = false;

/** Takes an SCGI request apart: `{ env, body }`, or null if more has to come. */
function parseRequest(bytes) {
  const [start, digits] = /^(\d{1,9}):/.exec(bytes.toString('latin1', 0, 10)) ?? [];
  if (start === undefined) {
    if (bytes.length < 10 && /^\d*$/.test(bytes.toString('latin1'))) {
      return null;
    }
    throw new SyntaxError('request does not begin with a length');
  }
  const comma = start.length + Number(digits);
  if (bytes.length <= comma) {
    return null;
  }
  const fields = bytes.toString('utf8', start.length, comma).split('\0');
  if (bytes[comma] !== 0x2c || fields.pop() !== '' || fields.length % 2 !== 0) {
    throw new SyntaxError('variables of the request are malformed');
  }
  const env = {};
  for (let at = 0; at < fields.length; at += 2) {
    env[fields[at]] = fields[at + 1];
  }
  if (!/^\d+$/.test(env.CONTENT_LENGTH)) {
    throw new SyntaxError('request does not tell the length of its body');
  }
  const end = comma + 1 + Number(env.CONTENT_LENGTH);
  return bytes.length < end ? null : { env, body: bytes.subarray(comma + 1, end) };
}

/** Makes an answer of header lines and a Buffer. */
function buildAnswer(headers, body) {
  const head = [...headers, `Content-Length: ${body.length}`, '', ''].join('\r\n');
  return Buffer.concat([Buffer.from(head), body]);
}

/** Collects the headers of one answer. */
class Headers {
  lines = [];

  add(name, value) {
    if (!/^[A-Za-z0-9-]+$/.test(name) || /[\x00-\x1f\x7f]/.test(value)) {
      throw new TypeError(`not a header: ${name}`);
    }
    this.lines.push(`${name}: ${value}`);
  }
}

/** Runs the application for one request and resolves to the answer. */
async function run(application, { env, body }) {
  const headers = new Headers();
  const output = [];
  const { write } = process.stdout;
  const ownEnvironment = { ...process.env };
  isRunning = true;
  Object.assign(process.env, env);
  process.stdout.write = (chunk, encoding, callback) => {
    output.push(Buffer.from(chunk, typeof encoding === 'string' ? encoding : 'utf8'));
    const done = typeof encoding === 'function' ? encoding : callback;
    if (done) {
      process.nextTick(done);
    }
    return true;
  };
  try {
    const returned = await application(env, body, (name, value) => headers.add(name, value));
    output.push(Buffer.from(returned ?? ''));
    return buildAnswer(headers.lines, Buffer.concat(output));
  } catch (error) {
    console.error(error);
    return buildAnswer(['Status: 500'], Buffer.alloc(0));
  } finally {
    process.stdout.write = write;
    isRunning = false;
    for (const name of Object.keys(env)) {
      delete process.env[name];
    }
    Object.assign(process.env, ownEnvironment);
  }
}

/** Reads a whole request; null if the peer hung up first. */
async function readRequest(connection) {
  let bytes = Buffer.alloc(0);
  // Reading ends with the request, but the connection is still needed.
  for await (const chunk of connection.iterator({ destroyOnReturn: false })) {
    bytes = Buffer.concat([bytes, chunk]);
    const request = parseRequest(bytes);
    if (request !== null || bytes.length > MAX_REQUEST_SIZE) {
      return request;
    }
  }
  return null;
}

async function serve(application, connection) {
  try {
    const request = await readRequest(connection);
    if (request !== null) {
      connection.write(await run(application, request));
    }
  } catch (error) {
    console.error(`worker.js: ${error.message}`);
  }
  connection.end();
}

/** Returns the application's function, of a module of either kind. */
async function load(file) {
  const { default: application } = await import(pathToFileURL(path.resolve(file)));
  if (typeof application !== 'function') {
    throw new TypeError(`${file} does not export a function`);
  }
  return application;
}

async function main(file) {
  if (file === undefined) {
    console.error('usage: node worker.js APPLICATION.js');
    process.exit(2);
  }
  const application = await load(file);
  // One at a time, in the order in which they came.
  let last = Promise.resolve();
  const server = net.createServer({ allowHalfOpen: true }, (connection) => {
    // Whoever hangs up does not wait any more: nothing is lost.
    connection.on('error', () => {});
    last = last.then(() => serve(application, connection));
  });
  // Listens already; the kernel allows as many to wait as it ever does.
  server.listen({ fd: 0, backlog: 4096 });
  process.on('SIGTERM', () => server.close());
  process.on('exit', () => {
    if (isRunning) {
      console.error('worker.js: the application exited instead of returning');
    }
  });
}

module.exports = { parseRequest, buildAnswer, Headers, run };

if (require.main === module) {
  main(process.argv[2]);
}
