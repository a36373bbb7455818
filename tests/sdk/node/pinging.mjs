// A server like Playwright's: after the first tool call it pings its client every 3 s, and it closes a session
// whose client has not answered within 5 s. Both transports of the real sdk 1.x, on one loopback port.
//
// The subtle thing: `/stats` counts what it closed and which pings were answered; a session that was replaced behind
// an agent's back would hide its end from the agent, not from here.
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { SSEServerTransport } from '@modelcontextprotocol/sdk/server/sse.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { EmptyResultSchema } from '@modelcontextprotocol/sdk/types.js';

const EVERY = 3_000;
const PATIENCE = 5_000;
const seen = { opened: 0, answered: 0, silent: 0, calls: 0 };
const sessions = new Map();

function serverFor() {
  const server = new McpServer({ name: 'mcpool-pinging', version: '1' });
  let timer;
  const beat = async () => {
    try {
      await server.server.request({ method: 'ping' }, EmptyResultSchema, { timeout: PATIENCE });
      seen.answered += 1;
      timer = setTimeout(beat, EVERY);
    } catch (error) {
      if (timer === null) return; // the client left, as it may
      seen.silent += 1;
      await server.close();
    }
  };
  let touched = 0;
  server.registerTool('touch', { description: 'Counts the calls of this session.' }, async () => {
    seen.calls += 1;
    touched += 1;
    timer ??= setTimeout(beat, EVERY);
    return { content: [{ type: 'text', text: `touched ${touched}` }] };
  });
  server.server.onclose = () => {
    clearTimeout(timer);
    timer = null;
  };
  seen.opened += 1;
  return server;
}

async function streamable(request, response) {
  const known = sessions.get(request.headers['mcp-session-id']);
  if (known) return known.handleRequest(request, response);
  if (request.headers['mcp-session-id']) return response.writeHead(404).end('Session not found');
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => sessions.set(id, transport),
  });
  const server = serverFor();
  await server.connect(transport);
  const ended = transport.onclose;
  transport.onclose = () => {
    sessions.delete(transport.sessionId);
    ended?.();
  };
  return transport.handleRequest(request, response);
}

async function sse(response) {
  const transport = new SSEServerTransport('/message', response);
  sessions.set(transport.sessionId, transport);
  response.on('close', () => sessions.delete(transport.sessionId));
  await serverFor().connect(transport);
}

async function message(url, request, response) {
  const transport = sessions.get(url.searchParams.get('sessionId'));
  if (!transport) return response.writeHead(404).end('Session not found');
  return transport.handlePostMessage(request, response);
}

async function serve(request, response) {
  const url = new URL(request.url, 'http://loopback');
  switch (`${request.method} ${url.pathname}`) {
    case 'GET /stats': {
      const stats = Buffer.from(JSON.stringify({ seen }));
      return response.writeHead(200, { 'content-length': stats.length }).end(stats);
    }
    case 'GET /sse':
      return sse(response);
    case 'POST /message':
      return message(url, request, response);
    case 'GET /mcp':
    case 'POST /mcp':
    case 'DELETE /mcp':
      return streamable(request, response);
    default:
      return response.writeHead(405).end();
  }
}

const listener = createServer((request, response) => {
  serve(request, response).catch((error) => {
    console.error(error);
    if (!response.headersSent) response.writeHead(500).end();
  });
});
listener.listen(0, '127.0.0.1', () => console.log(`ready ${listener.address().port}`));
