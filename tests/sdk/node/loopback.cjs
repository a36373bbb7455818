// Preload (`node -r`): every listener is forced onto loopback and its port is announced as `ready PORT`.
// server-everything binds all interfaces and offers no option against it.
'use strict';
const net = require('node:net');
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined;
  const first = args[0];
  const port = typeof first === 'object' && first !== null ? first.port : first;
  this.once('listening', () => process.stdout.write(`ready ${this.address().port}\n`));
  return listen.call(this, { port: Number(port), host: '127.0.0.1' }, ...(callback ? [callback] : []));
};
