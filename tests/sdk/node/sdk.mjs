// One face over the two real TypeScript clients: sdk 1.x and client 2.x, which name the same things differently.

export async function load(client) {
  return client === 'sdk1' ? sdk1() : client2();
}

async function sdk1() {
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
  return { Client, SSEClientTransport, StreamableHTTPClientTransport, call, handle };
}

async function client2() {
  const { Client, SSEClientTransport, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
  const call = (client, request, options) => client.callTool(request, options);
  const handle = (client, method, handler) => client.setRequestHandler(method, handler);
  return { Client, SSEClientTransport, StreamableHTTPClientTransport, call, handle };
}

export function said(error) {
  return `${error?.name ?? 'Error'}: ${error?.message ?? error}`.replaceAll('\n', ' ').slice(0, 300);
}
