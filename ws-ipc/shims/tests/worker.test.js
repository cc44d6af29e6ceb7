'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');

const { Headers, buildAnswer, parseRequest, run } = require('../worker.js');

const REQUEST = Buffer.from('35:CONTENT_LENGTH\x003\0REQUEST_URI\0/t\u00fc,\0,a\0b');

test('request is taken apart', () => {
  const { env, body } = parseRequest(REQUEST);
  assert.deepEqual(env, { CONTENT_LENGTH: '3', REQUEST_URI: '/t\u00fc,' });
  assert.deepEqual(body, Buffer.from('a\0b'));
});

test('what has to come is waited for', () => {
  for (let end = 0; end < REQUEST.length; end += 1) {
    assert.equal(parseRequest(REQUEST.subarray(0, end)), null);
  }
});

test('what follows is ignored', () => {
  const longer = Buffer.concat([REQUEST, Buffer.from('more')]);
  assert.deepEqual(parseRequest(longer), parseRequest(REQUEST));
});

test('what is no request is refused', () => {
  const faulty = [
    'x', ':', '-1:,', '1234567890', '3:abc,', '4:A\0B\0,',
    '17:CONTENT_LENGTH\x000\0;', '18:CONTENT_LENGTH\0-1\0,', '16:CONTENT_LENGTH\0\0,',
  ];
  for (const bytes of faulty) {
    assert.throws(() => parseRequest(Buffer.from(bytes)), SyntaxError, bytes);
  }
});

test('answer announces its length in bytes', () => {
  const answer = buildAnswer(['X-WS-Type: text'], Buffer.from('\u00fc'));
  assert.equal(answer.toString(), 'X-WS-Type: text\r\nContent-Length: 2\r\n\r\n\u00fc');
  assert.equal(buildAnswer([], Buffer.alloc(0)).toString(), 'Content-Length: 0\r\n\r\n');
});

test('what is no header is refused', () => {
  for (const [name, value] of [['', 'a'], ['A B', 'a'], ['A:', 'a'], ['A\n', 'a'], ['A', 'a\rb']]) {
    assert.throws(() => new Headers().add(name, value), TypeError);
  }
});

test('what is written and what is returned is the answer', async () => {
  const application = async () => {
    await new Promise((resolve) => process.stdout.write('written, ', resolve));
    return 'returned';
  };
  const answer = await run(application, { env: {}, body: Buffer.alloc(0) });
  assert.equal(answer.toString(), 'Content-Length: 17\r\n\r\nwritten, returned');
});
