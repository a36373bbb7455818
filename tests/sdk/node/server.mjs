// A real server over the TypeScript SDK 2.x: tools with nonces, progress, and a question. Without `--strict` it is as the
// SDK serves by default: 2026-07-28, and the revisions with a handshake without sessions; with it the former alone.
//
// The subtle thing: the SDK makes a server for each request, so what is counted is kept beside them.
import { createServer } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, fromJsonSchema, inputRequired, inputResponse, McpServer } from '@modelcontextprotocol/server';

const { values: o } = parseArgs({ options: { strict: { type: 'boolean', default: false } } });
const seen = { initialize: 0, legacy: 0, modern: 0, slow_started: 0, slow_cancelled: 0 };
const annotations = { readOnlyHint: true, openWorldHint: false };

const text = (text) => ({ content: [{ type: 'text', text }] });
const takes = (properties) => fromJsonSchema({ type: 'object', properties });
const requestedSchema = { type: 'object', properties: { value: { type: 'string' } }, required: ['value'] };

function serverFor({ era }) {
  const server = new McpServer({ name: 'mcpool-ts', version: '1' });
  const tool = (name, properties, body) =>
    server.registerTool(name, { description: name, annotations, inputSchema: takes(properties) }, (args, ctx) => {
      seen[era] += 1;
      return body(args, ctx.mcpReq);
    });
  tool('echo', { nonce: { type: 'string' } }, async ({ nonce }) => text(nonce));
  tool('slow', { ms: { type: 'integer' } }, async ({ ms }, request) => {
    seen.slow_started += 1;
    try {
      await pause(Math.min(ms, 60_000), undefined, { signal: request.signal });
    } catch (error) {
      seen.slow_cancelled += 1;
      throw error;
    }
    return text('slept');
  });
  tool('progress', { steps: { type: 'integer' } }, async ({ steps }, request) => {
    const progressToken = request._meta?.progressToken;
    for (let progress = 1; progress <= Math.min(steps, 1000); progress++) {
      await pause(20);
      if (progressToken === undefined) continue;
      await request.notify({ method: 'notifications/progress', params: { progressToken, progress, total: steps } });
    }
    return text('done');
  });
  tool('ask', { kind: { type: 'string' }, text: { type: 'string' } }, async (args, request) => {
    const answer = inputResponse(request.inputResponses, 'answer');
    if (answer.kind === 'elicit') return text(`${answer.action} ${answer.content?.value ?? ''}`);
    const question = inputRequired.elicit({ message: args.text, requestedSchema });
    return inputRequired({ inputRequests: { answer: question } });
  });
  return server;
}

const mcp = toNodeHandler(createMcpHandler(serverFor, { legacy: o.strict ? 'reject' : 'stateless' }));

const listener = createServer((request, response) => {
  if (request.url === '/stats') {
    const stats = Buffer.from(JSON.stringify({ seen }));
    return response.writeHead(200, { 'content-length': stats.length }).end(stats);
  }
  mcp(request, response).catch((error) => {
    console.error(error);
    if (!response.headersSent) response.writeHead(500).end();
  });
});
listener.listen(0, '127.0.0.1', () => console.log(`ready ${listener.address().port}`));
