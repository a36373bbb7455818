// The laboratory's TypeScript client; the twin of drivers/field.py.
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { setTimeout as pause } from 'node:timers/promises';
import { load, said } from './sdk.mjs';

const TOOLS = ['echo', 'echo', 'read', 'special'];
const { values: o } = parseArgs({
  options: { client: { type: 'string' }, 'at-once': { type: 'string', default: '8' } },
});
// An SDK may drop a promise that fails; the visit it belongs to says what became of it.
process.on('unhandledRejection', () => {});
process.on('uncaughtException', (error) => console.error(said(error)));

const sdk = await load(o.client);
const { StdioClientTransport } = await import('@modelcontextprotocol/sdk/client/stdio.js');
const { ErrorCode } = await import('@modelcontextprotocol/sdk/types.js');

async function within(ms, promise) {
  const stop = new AbortController();
  const late = pause(ms, undefined, { signal: stop.signal }).then(
    () => Promise.reject(new Error(`not done within ${ms} ms`)),
    () => new Promise(() => {}),
  );
  try {
    return await Promise.race([promise, late]);
  } finally {
    stop.abort();
  }
}

function failure(error) {
  const more = error?.code === undefined ? '' : ` [${error.code} ${JSON.stringify(error.data ?? null)}]`;
  return said(error) + (error?.code === ErrorCode.RequestTimeout ? ' (timeout)' : '') + more;
}

async function one(ms, promise) {
  try {
    return { ok: await within(ms, promise) };
  } catch (error) {
    return { error: failure(error) };
  }
}

function transportTo(target) {
  if (target.transport === 'stdio') {
    return new StdioClientTransport({ command: target.command[0], args: target.command.slice(1), stderr: 'ignore' });
  }
  const Kind = target.transport === 'sse' ? sdk.SSEClientTransport : sdk.StreamableHTTPClientTransport;
  return new Kind(new URL(target.url));
}

async function call(client, target, ms, tool, number) {
  const nonce = `${target.id}/${number}`;
  const told = { tool, nonce };
  const answer = await one(ms, sdk.call(client, { name: tool, arguments: { nonce } }, { timeout: ms }));
  if (answer.error) return { ...told, ...answer };
  const text = answer.ok.content?.[0]?.text ?? '';
  if (answer.ok.isError) return { ...told, error: `tool error: ${text}`.slice(0, 300) };
  return { ...told, ...(text === nonce ? { ok: true } : { wrong: text.slice(0, 200) }) };
}

async function visit(target) {
  const began = performance.now();
  const ms = target.patience * 1000;
  const report = { id: target.id, handshake: null, list: null, calls: [], close: null };
  const client = new sdk.Client({ name: 'mcpool-field', version: '1' }, sdk.options);
  client.onerror = () => {};
  const transport = transportTo(target);
  const hello = await one(ms, client.connect(transport, { timeout: ms }));
  report.handshake = hello.error ?? null;
  if (!hello.error) {
    const list = await one(ms, client.listTools(undefined, { timeout: ms }));
    report.list = list.error ? list : { ok: list.ok.tools.map((tool) => tool.name) };
    report.calls = await Promise.all(TOOLS.map((tool, number) => call(client, target, ms, tool, number)));
    report.calls.push(await call(client, target, ms, 'echo', TOOLS.length));
    if (target.ask === 'resources/list') {
      const asked = await one(ms, client.listResources(undefined, { timeout: ms }));
      report.ask = asked.error ? asked : { ok: true };
    }
  }
  const end = async () => {
    if (target.transport === 'http' && !hello.error) await transport.terminateSession();
    await client.close();
  };
  report.close = (await one(ms, end())).error ?? null;
  if (report.close) client.close().catch(() => {});
  report.ms = Math.round(performance.now() - began);
  // Half of a pair is no text for whoever reads this.
  console.log(JSON.stringify(report).replace(/\\ud[89a-f][0-9a-f]{2}/gi, '?'));
}

const targets = [];
for await (const line of createInterface({ input: process.stdin })) {
  if (line.trim()) targets.push(JSON.parse(line));
}
const worker = async () => {
  for (let target = targets.shift(); target; target = targets.shift()) await visit(target);
};
await Promise.all(Array.from({ length: Number(o['at-once']) }, worker));
process.exit(0);
