// Agents that live through a restart of the gateway, with a TypeScript client; the twin of drivers/reborn.py.
//
// On HTTP+SSE the client's EventSource finds back to its stream after some seconds; a call before that is refused at once,
// and is made again.
import { createInterface } from 'node:readline';
import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { load, said } from './sdk.mjs';

const { values: o } = parseArgs({
  options: {
    client: { type: 'string' },
    url: { type: 'string' },
    transport: { type: 'string' },
    mode: { type: 'string' },
    agents: { type: 'string', default: '10' },
    patience: { type: 'string', default: '30' },
  },
});
const timeout = Number(o.patience) * 1000;
const sdk = await load(o.client, o.mode);
const spoken = new Set();
const noises = [];

async function agent() {
  const Transport = o.transport === 'sse' ? sdk.SSEClientTransport : sdk.StreamableHTTPClientTransport;
  const client = new sdk.Client({ name: `mcpool-gate-${o.client}`, version: '1' }, sdk.options);
  client.onerror = (error) => noises.push(said(error));
  const transport = new Transport(new URL(o.url));
  await client.connect(transport, { timeout });
  spoken.add(sdk.spoken(client, transport));
  await echo(client);
  return client;
}

async function echo(client) {
  const nonce = randomUUID();
  const answer = await sdk.call(client, { name: 'echo', arguments: { nonce } }, { timeout });
  const text = answer.content?.[0]?.text;
  if (text !== nonce) throw new Error(`asked with ${nonce}, answered ${JSON.stringify(answer).slice(0, 80)}`);
}

async function again(client) {
  const until = Date.now() + timeout;
  for (;;) {
    try {
      return await echo(client);
    } catch (error) {
      if (Date.now() > until || !`${error?.message}`.includes('404')) throw error;
      await pause(250);
    }
  }
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const agents = await Promise.all(Array.from({ length: Number(o.agents) }, agent));
console.log(`ready ${agents.length}`);
await lines.next();
const ends = await Promise.allSettled(agents.map(o.transport === 'sse' ? again : echo));
const failed = {};
for (const { reason } of ends.filter((end) => end.status === 'rejected')) {
  failed[said(reason)] = (failed[said(reason)] ?? 0) + 1;
}
const ok = ends.filter((end) => end.status === 'fulfilled').length;
console.log(JSON.stringify({ ok, failed, spoken: [...spoken] }));
console.error(noises.slice(0, 20).join('\n'));
await lines.next();
process.exit(0);
