// Cells of the matrix with a TypeScript client (sdk 1.x or client 2.x); the twin of drivers/cell.py.
//
// Agents go through the checks in step, so that every step is a herd. After the last call `{"hold": true}` is
// printed and a line on standard input awaited (with --hold). Errors that no call reports (a stream that broke)
// are collected by `onerror` and shown beside a failure, never swallowed into a pass.
import { createInterface } from 'node:readline';
import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { setTimeout as pause } from 'node:timers/promises';
import { load, said } from './sdk.mjs';

const { values: o } = parseArgs({
  options: {
    client: { type: 'string' },
    url: { type: 'string' },
    cells: { type: 'string' },
    transport: { type: 'string' },
    mode: { type: 'string' },
    kind: { type: 'string' },
    agents: { type: 'string', default: '10' },
    calls: { type: 'string', default: '20' },
    patience: { type: 'string', default: '25' },
    hold: { type: 'boolean', default: false },
  },
});
const patience = Number(o.patience) * 1000;

const TOOLS = {
  fastmcp: {
    echo: (nonce) => ({ name: 'echo', arguments: { nonce } }),
    progress: { name: 'progress', arguments: { steps: 5, nonce: 'p', interval_ms: 20 } },
    slow: { name: 'slow', arguments: { ms: 20_000 } },
  },
  testkit: {
    echo: (nonce) => ({ name: 'echo', arguments: { nonce } }),
    progress: { name: 'progress', arguments: { steps: 5, nonce: 'p', interval_ms: 20 } },
    slow: { name: 'sleep', arguments: { ms: 20_000 } },
  },
  everything: {
    echo: (message) => ({ name: 'echo', arguments: { message } }),
    progress: { name: 'trigger-long-running-operation', arguments: { duration: 0.2, steps: 5 } },
    slow: { name: 'trigger-long-running-operation', arguments: { duration: 20, steps: 1 } },
  },
};

class Agent {
  failures = {};
  noises = [];

  constructor(sdk, cell, number) {
    this.sdk = sdk;
    this.cell = cell;
    this.number = number;
    this.tools = TOOLS[cell.kind];
  }

  async handshake() {
    const Transport = o.transport === 'sse' ? this.sdk.SSEClientTransport : this.sdk.StreamableHTTPClientTransport;
    const client = new this.sdk.Client({ name: `mcpool-gate-${o.client}`, version: '1' }, this.sdk.options);
    client.onerror = (error) => this.noises.push(said(error));
    this.transport = new Transport(new URL(this.cell.url));
    await client.connect(this.transport, { timeout: patience });
    this.client = client;
    this.spoken = this.sdk.spoken(client, this.transport);
  }

  async list() {
    const names = (await this.client.listTools()).tools.map((tool) => tool.name);
    if (!names.includes(this.tools.slow.name)) throw new Error(`no tool ${this.tools.slow.name} in ${names}`);
  }

  async call(request, options = {}) {
    const result = await this.sdk.call(this.client, request, { timeout: patience, ...options });
    const text = result.content?.[0]?.text ?? '';
    if (result.isError) throw new Error(`tool error: ${text}`);
    return text;
  }

  async calls() {
    const one = async () => {
      const nonce = randomUUID();
      const answer = await this.call(this.tools.echo(nonce));
      if (!answer.includes(nonce)) throw new Error(`asked with ${nonce}, answered ${answer.slice(0, 80)}`);
    };
    await Promise.all(Array.from({ length: Number(o.calls) }, one));
  }

  // The SDK takes an answer at once but hands progress on a moment later, and then knows its token no more: what comes in
  // one read with its answer, as on a machine that is busy, is lost to it. So one call of some must show it all.
  async progress() {
    let seen = [];
    for (let tries = 0; tries < 5 && seen.length === 0; tries++) seen = await this.followed();
    const sorted = seen.every((value, i) => i === 0 || seen[i - 1] <= value);
    if (seen.length === 0 || !sorted || seen.at(-1) > 5) throw new Error(`progress seen: ${seen}`);
  }

  async followed() {
    const seen = [];
    await this.call(this.tools.progress, { onprogress: (note) => seen.push(note.progress) });
    for (let i = 0; i < 20 && seen.length < 3; i++) await pause(50);
    return seen;
  }

  async cancel() {
    const stop = new AbortController();
    const call = this.call(this.tools.slow, { signal: stop.signal }).then(
      (answer) => `answered: ${answer}`,
      () => 'cancelled',
    );
    await pause(300);
    stop.abort('test');
    const end = await call;
    if (end !== 'cancelled') throw new Error(`a cancelled call was ${end}`);
  }

  async afterCancel() {
    await this.calls();
  }

  async close() {
    if (o.transport === 'http') await this.transport.terminateSession();
    await this.client.close();
  }
}

async function step(agents, check, method) {
  const began = performance.now();
  await Promise.all(
    agents.map(async (agent) => {
      if (check !== 'handshake' && !agent.client) return;
      const stop = new AbortController();
      const late = pause(patience, undefined, { signal: stop.signal, ref: false }).then(() => {
        throw new Error(`not done within ${patience} ms`);
      });
      try {
        await Promise.race([agent[method](), late]);
      } catch (error) {
        agent.failures[check] = [said(error), ...agent.noises.slice(0, 2)].join(' / ');
      } finally {
        late.catch(() => {});
        stop.abort();
      }
    }),
  );
  const bad = agents.filter((agent) => agent.failures[check]);
  const line = { check, ok: bad.length === 0, ms: Math.round(performance.now() - began) };
  const { name } = agents[0].cell;
  if (name) line.cell = name;
  if (check === 'handshake') line.spoken = [...new Set(agents.map((agent) => agent.spoken).filter(Boolean))];
  if (bad.length > 0) {
    const some = bad.slice(0, 3).map((agent) => `agent ${agent.number}: ${agent.failures[check]}`);
    line.detail = `${bad.length} of ${agents.length}; ${some.join(' | ')}`;
  }
  console.log(JSON.stringify(line));
  return line.ok;
}

function released() {
  const lines = createInterface({ input: process.stdin });
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error('not released within 30 s')), 30_000);
    lines.once('line', () => {
      clearTimeout(late);
      lines.close();
      resolve();
    });
  });
}

async function runCell(sdk, cell) {
  const agents = Array.from({ length: Number(o.agents) }, (_, number) => new Agent(sdk, cell, number));
  let ok = true;
  for (const [check, method] of [
    ['handshake', 'handshake'],
    ['list', 'list'],
    ['calls', 'calls'],
    ['progress', 'progress'],
    ['cancel', 'cancel'],
    ['after-cancel', 'afterCancel'],
  ]) {
    ok = (await step(agents, check, method)) && ok;
  }
  if (o.hold) {
    console.log(JSON.stringify({ hold: true }));
    await released();
  }
  return (await step(agents, 'close', 'close')) && ok;
}

const sdk = await load(o.client, o.mode);
let ok = true;
// One after another: a cell must show what its own agents do to each other.
for (const cell of o.cells ? JSON.parse(o.cells) : [{ url: o.url, kind: o.kind }]) {
  ok = (await runCell(sdk, cell)) && ok;
}
process.exit(ok ? 0 : 1);
