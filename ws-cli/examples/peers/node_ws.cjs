// Node's ws. README.md has the contract. NODE_PATH says where the package lies.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const { WebSocketServer } = require('ws');

const [port, cert, key] = process.argv.slice(2);
const server = cert
  ? https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) })
  : http.createServer();
const sockets = new WebSocketServer({
  server,
  perMessageDeflate: false,
  maxPayload: 64 * 1024 * 1024,
  clientTracking: false,
});
const subscribers = new Set();

sockets.on('connection', (socket, request) => {
  socket.on('error', () => socket.terminate());
  switch (request.url) {
    case '/subscribe':
      subscribers.add(socket);
      socket.on('close', () => subscribers.delete(socket));
      break;
    case '/publish':
      socket.on('message', (data, binary) => {
        for (const subscriber of subscribers) subscriber.send(data, { binary });
      });
      break;
    default:
      socket.on('message', (data, binary) => socket.send(data, { binary }));
  }
});

server.listen({ host: '127.0.0.1', port: Number(port), backlog: 4096 }, () => {
  console.log(server.address().port);
});
