'use strict';

// What the tests of the shims ask for.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');

let count = 0;

const answers = {
  '/body': (env, body) => body,
  '/variables': (env) => `${env.PROBE} ${process.env.PROBE} ${process.env.OTHER ?? 'none'}`,
  '/print': () => {
    process.stdout.write('printed, ');
    return 'returned';
  },
  '/header': (env, body, header) => header('X-WS-Close', '1000 bye'),
  '/split-header': (env, body, header) => header('X-WS-Close', '1000\r\nX-WS-User: root'),
  '/throw': () => {
    console.log('half');
    throw new RangeError('thrown as asked');
  },
  '/exit-0': () => {
    console.log('half');
    process.exit();
  },
  '/exit-3': () => process.exit(3),
  '/signal': () => process.kill(process.pid, 'SIGKILL'),
  '/count': () => String(++count),
  '/pid': () => String(process.pid),
  '/hang': () => spawnSync('sleep', ['600']),
  '/wait': async (env) => {
    fs.writeFileSync(`${env.FILE}.begun`, '');
    while (!fs.existsSync(env.FILE)) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return 'waited';
  },
};

module.exports = (env, body, header) => answers[env.REQUEST_URI](env, body, header);
