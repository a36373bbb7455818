// Large results beside many small calls, with a real TypeScript client: an agent asks for 1 and 16 MiB again and again,
// a hundred others call all the while, and the longest any of them waited is what counts.

import { parseArgs } from 'node:util';

import { load, said } from './sdk.mjs';

const OTHERS = 100;
const PAUSE_MS = 250;
// Far beyond what the bytes take on a slow machine, far below any time limit of a call.
const TOLERABLE_MS = 10_000;
// The server gives each text twice (content and structured content), and a message may have 16 MiB.
const LARGE = [1 << 20, (8 << 20) - 4096];

const { values: options } = parseArgs({
  options: { client: { type: 'string' }, transport: { type: 'string' }, cells: { type: 'string' } },
});
const sdk = await load(options.client);

async function connect(url, name) {
  const client = new sdk.Client({ name, version: '1' }, { capabilities: {} });
  const Transport = options.transport === 'sse' ? sdk.SSEClientTransport : sdk.StreamableHTTPClientTransport;
  await client.connect(new Transport(new URL(url)));
  return client;
}

async function text(client, name, args) {
  const result = await sdk.call(client, { name, arguments: args });
  if (result.isError) throw new Error(`${name} failed: ${JSON.stringify(result.content).slice(0, 200)}`);
  return result.content.map((part) => part.text ?? '').join('');
}

async function chatter(client, number, state) {
  let longest = 0;
  for (let n = 0; !state.over; n += 1) {
    const begin = performance.now();
    const nonce = `agent ${number} call ${n}`;
    if ((await text(client, 'echo', { nonce })) !== nonce) throw new Error('a foreign answer');
    longest = Math.max(longest, performance.now() - begin);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  return longest;
}

async function large(url) {
  const others = [];
  for (let n = 0; n < OTHERS; n += 1) others.push(await connect(url, `other-${n}`));
  const asker = await connect(url, 'asker');
  const state = { over: false };
  const chatting = Promise.all(others.map((client, number) => chatter(client, number, state)));
  const asking = (async () => {
    try {
      for (const bytes of [...LARGE, ...LARGE, ...LARGE]) {
        const got = (await text(asker, 'big', { bytes })).length;
        if (got !== bytes) throw new Error(`asked for ${bytes} bytes, got ${got}`);
      }
    } finally {
      state.over = true;
    }
  })();
  const [waits] = await Promise.all([chatting, asking]);
  await Promise.all([asker, ...others].map((client) => client.close()));
  const longest = Math.max(...waits);
  if (longest > TOLERABLE_MS) throw new Error(`a small call waited ${longest.toFixed(0)} ms`);
  return `longest wait of a small call ${longest.toFixed(0)} ms`;
}

let failed = false;
for (const cell of JSON.parse(options.cells)) {
  const line = { cell: cell.name, check: 'large', ok: true };
  try {
    line.detail = await large(cell.url);
  } catch (error) {
    failed = true;
    Object.assign(line, { ok: false, detail: said(error) });
  }
  console.log(JSON.stringify(line));
  console.error(line.detail);
}
process.exit(failed ? 1 : 0);
