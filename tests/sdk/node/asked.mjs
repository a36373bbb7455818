// Servers that ask, with a TypeScript client (sdk 1.x or client 2.x); the twin of drivers/asked.py.
//
// Where a cell expects `answered`, every question must reach the agent whose call caused it and no other; where it
// expects `refused`, nobody may be asked anything, and the tool must fail or do without.
import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { setTimeout as pause } from 'node:timers/promises';
import { load, said } from './sdk.mjs';

const { values: o } = parseArgs({
  options: {
    client: { type: 'string' },
    transport: { type: 'string' },
    cells: { type: 'string' },
    agents: { type: 'string', default: '4' },
    calls: { type: 'string', default: '3' },
    patience: { type: 'string', default: '25' },
    mode: { type: 'string' },
    checks: { type: 'string', default: 'sampling,elicitation,url,roots' },
  },
});
const patience = Number(o.patience) * 1000;
const CHECKS = o.checks.split(',');
// A question of `everything`'s form carries no nonce, and roots carry none anywhere.
const UNNAMED = ['everything elicitation', 'everything roots', 'fastmcp roots'];

const ask = (kind) => (text) => ({ name: 'ask', arguments: { kind, text } });
const TOOLS = {
  fastmcp: Object.fromEntries(CHECKS.map((check) => [check, ask(check)])),
  everything: {
    sampling: (prompt) => ({ name: 'trigger-sampling-request', arguments: { prompt, maxTokens: 10 } }),
    elicitation: () => ({ name: 'trigger-elicitation-request', arguments: {} }),
    url: (message) => ({ name: 'trigger-url-elicitation', arguments: { url: 'https://example.org/', message } }),
    roots: () => ({ name: 'get-roots-list', arguments: {} }),
  },
};

/** The tool answered, but with an error: what a refusal looks like. */
class ToolError extends Error {
  name = 'ToolError';
}

class Agent {
  failures = {};
  nonces = [];
  asked = { sampling: [], elicitation: [], url: [], roots: [] };

  constructor(sdk, cell, number) {
    this.sdk = sdk;
    this.cell = cell;
    this.secret = `secret-${number}-${randomUUID()}`;
    this.action = ['accept', 'decline'][number % 2];
  }

  async handshake() {
    const Transport = o.transport === 'sse' ? this.sdk.SSEClientTransport : this.sdk.StreamableHTTPClientTransport;
    const capabilities = { sampling: {}, elicitation: { form: {}, url: {} }, roots: { listChanged: true } };
    const options = { ...this.sdk.options, capabilities };
    const client = new this.sdk.Client({ name: `mcpool-gate-${o.client}`, version: '1' }, options);
    this.answerFor(client);
    this.transport = new Transport(new URL(this.cell.url));
    await client.connect(this.transport, { timeout: patience });
    this.client = client;
    this.spoken = this.sdk.spoken(client, this.transport);
  }

  answerFor(client) {
    this.sdk.handle(client, 'sampling/createMessage', async ({ params }) => {
      const content = [params.messages[0].content].flat();
      this.asked.sampling.push(content[0].text);
      const text = `${this.secret} heard ${content[0].text}`;
      return { role: 'assistant', model: 'gate', content: { type: 'text', text } };
    });
    this.sdk.handle(client, 'elicitation/create', async ({ params }) => {
      if (params.mode === 'url') {
        this.asked.url.push(params.message);
        return { action: this.action };
      }
      this.asked.elicitation.push(params.message);
      const field = params.requestedSchema.required[0];
      return { action: 'accept', content: { [field]: `${this.secret} heard ${params.message}` } };
    });
    this.sdk.handle(client, 'roots/list', async () => {
      this.asked.roots.push('');
      return { roots: [{ uri: `file:///${this.secret}` }] };
    });
  }

  async check(check) {
    const expected = this.cell.expect === 'answered' ? 'answered' : 'refused';
    // Several at once, so that answers could also be mixed up within one agent.
    await Promise.all(Array.from({ length: Number(o.calls) }, () => this[expected](check)));
  }

  async call(check) {
    const nonce = randomUUID();
    this.nonces.push(nonce);
    const result = await this.sdk.call(this.client, TOOLS[this.cell.kind][check](nonce), { timeout: patience });
    const answer = (result.content ?? []).map((part) => part.text ?? '').join('\n');
    if (result.isError) throw new ToolError(answer);
    return { nonce, answer };
  }

  async answered(check) {
    const { nonce, answer } = await this.call(check);
    const want = check === 'url' ? [this.action] : [this.secret];
    if (check !== 'url' && !UNNAMED.includes(`${this.cell.kind} ${check}`)) want.push(nonce);
    const missing = want.filter((text) => !answer.includes(text));
    if (missing.length > 0) throw new Error(`answer without ${missing}: ${answer.slice(0, 200)}`);
  }

  async refused(check) {
    let answer;
    try {
      ({ answer } = await this.call(check));
    } catch (error) {
      // A numbered error is JSON-RPC's, except for the SDK's own time limit.
      if (error instanceof ToolError || (Number.isInteger(error.code) && error.code !== -32001)) return;
      throw error;
    }
    if (answer.includes('secret-')) throw new Error(`somebody was asked: ${answer.slice(0, 200)}`);
  }

  audit() {
    for (const check of CHECKS) {
      const problem = this.askedWrongly(check, this.asked[check]);
      if (problem) this.failures[check] ??= problem;
    }
  }

  askedWrongly(check, texts) {
    if (this.cell.expect === 'refused') return texts.length > 0 ? `asked ${texts.length} times` : undefined;
    if (this.failures.handshake) return undefined;
    // A server may keep the roots it was told, or ask again.
    if (check === 'roots') return texts.length > 0 ? undefined : 'never asked';
    if (texts.length !== Number(o.calls)) return `asked ${texts.length} times for ${o.calls} calls`;
    if (UNNAMED.includes(`${this.cell.kind} ${check}`)) return undefined;
    const foreign = texts.find((text) => !this.nonces.some((nonce) => text.includes(nonce)));
    return foreign && `asked what was never caused here: ${foreign.slice(0, 80)}`;
  }

  async close() {
    if (o.transport === 'http') await this.transport.terminateSession();
    await this.client.close();
  }
}

async function step(agents, name, body) {
  await Promise.all(
    agents.map(async (agent) => {
      if (name !== 'handshake' && !agent.client) return;
      const stop = new AbortController();
      const late = pause(patience, undefined, { signal: stop.signal, ref: false }).then(() => {
        throw new Error(`not done within ${patience} ms`);
      });
      try {
        await Promise.race([body(agent), late]);
      } catch (error) {
        agent.failures[name] = said(error);
      } finally {
        late.catch(() => {});
        stop.abort();
      }
    }),
  );
}

async function runCell(sdk, cell) {
  const agents = Array.from({ length: Number(o.agents) }, (_, number) => new Agent(sdk, cell, number));
  await step(agents, 'handshake', (agent) => agent.handshake());
  for (const check of CHECKS) await step(agents, check, (agent) => agent.check(check));
  await step(agents, 'close', (agent) => agent.close());
  agents.forEach((agent) => agent.audit());
  for (const check of ['handshake', ...CHECKS, 'close']) {
    const bad = agents.filter((agent) => agent.failures[check]);
    const line = { cell: cell.name, check, ok: bad.length === 0 };
    if (check === 'handshake') line.spoken = [...new Set(agents.map((agent) => agent.spoken).filter(Boolean))];
    if (bad.length > 0) {
      line.detail = `${bad.length} of ${agents.length}; ${bad.slice(0, 3).map((agent) => agent.failures[check]).join(' | ')}`;
    }
    console.log(JSON.stringify(line));
  }
  return agents.every((agent) => Object.keys(agent.failures).length === 0);
}

const sdk = await load(o.client, o.mode);
let ok = true;
// One after another: a cell must show what its own agents do to each other.
for (const cell of JSON.parse(o.cells)) ok = (await runCell(sdk, cell)) && ok;
process.exit(ok ? 0 : 1);
