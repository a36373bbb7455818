// One face over the two real TypeScript clients: sdk 1.x and client 2.x, which name the same things differently.
//
// `options` are those of a Client for a mode of finding out the era; without a mode an SDK does what it does by itself.

export async function load(client, mode) {
  return client === 'sdk1' ? sdk1(mode) : client2(mode);
}

async function sdk1(mode) {
  if (mode && mode !== 'legacy') throw new Error(`sdk 1.x has no mode ${mode}`);
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
  const { SSEClientTransport } = await import('@modelcontextprotocol/sdk/client/sse.js');
  const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const types = await import('@modelcontextprotocol/sdk/types.js');
  const call = (client, request, options) => client.callTool(request, undefined, options);
  const schemas = {
    'sampling/createMessage': types.CreateMessageRequestSchema,
    'elicitation/create': types.ElicitRequestSchema,
    'roots/list': types.ListRootsRequestSchema,
  };
  const handle = (client, method, handler) => client.setRequestHandler(schemas[method], handler);
  // It keeps the agreed revision in its transport, and over HTTP+SSE for its headers alone.
  const spoken = (_client, transport) => transport.protocolVersion ?? transport._protocolVersion;
  return { Client, SSEClientTransport, StreamableHTTPClientTransport, call, handle, spoken, options: {} };
}

async function client2(mode) {
  const { Client, SSEClientTransport, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
  const call = (client, request, options) => client.callTool(request, options);
  const handle = (client, method, handler) => client.setRequestHandler(method, handler);
  const spoken = (client) => client.getNegotiatedProtocolVersion();
  const options = mode ? { versionNegotiation: { mode: mode === 'modern' ? { pin: '2026-07-28' } : mode } } : {};
  return { Client, SSEClientTransport, StreamableHTTPClientTransport, call, handle, spoken, options };
}

export function said(error) {
  return `${error?.name ?? 'Error'}: ${error?.message ?? error}`.replaceAll('\n', ' ').slice(0, 300);
}
