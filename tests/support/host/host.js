// A host of MCP Apps on the official bridge: connects to the server, shows a tool's page in a sandboxed frame with the
// policy that the specification gives for the resource's metadata, and forwards what the page asks for.
import { AppBridge, PostMessageTransport } from "@modelcontextprotocol/ext-apps/app-bridge";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const state = { heard: [], errors: [], looks: 0 };
window.state = state;

function policy({ connectDomains = [], resourceDomains = [], frameDomains = [] } = {}) {
  const from = (...sources) => sources.join(" ") || "'none'";
  return [
    "default-src 'none'",
    "script-src 'self' 'unsafe-inline'",
    "style-src 'self' 'unsafe-inline'",
    `img-src ${from("'self'", ...(state.previews ? ["data:"] : []), ...resourceDomains)}`,
    `font-src ${from("'self'", ...resourceDomains)}`,
    `media-src ${from("'self'", "data:", ...resourceDomains)}`,
    `connect-src ${from(...connectDomains)}`,
    `frame-src ${from(...frameDomains)}`,
    "object-src 'none'",
    "base-uri 'self'",
  ].join("; ");
}

/** Connect, and show the page of a tool; `capabilities` and `context` are what the host says of itself. */
window.start = async ({ token, tool, capabilities, context, answers, previews }) => {
  const client = new Client({ name: "host", version: "1" }, {
    capabilities: { extensions: { "io.modelcontextprotocol/ui": { mimeTypes: ["text/html;profile=mcp-app"] } } },
  });
  const headers = { Authorization: `Bearer ${token}` };
  const address = new URL(`/mcp${location.search}`, location.href);
  await client.connect(new StreamableHTTPClientTransport(address, { requestInit: { headers } }));
  state.client = client;
  state.tool = (await client.listTools()).tools.find(({ name }) => name === tool);
  const [page] = (await client.readResource({ uri: state.tool._meta.ui.resourceUri })).contents;
  Object.assign(state, { answers, previews });
  state.bridge = await show(client, page, capabilities, { ...context, toolInfo: { tool: state.tool } });
};

async function show(client, page, capabilities, hostContext) {
  const frame = document.querySelector("iframe");
  const bridge = new AppBridge(client, { name: "host", version: "1" }, capabilities, { hostContext });
  const granted = (name) => async (params) => {
    state.heard.push([name, params]);
    return state.refuses ? { isError: true } : {};
  };
  bridge.onopenlink = granted("open-link");
  bridge.ondownloadfile = granted("download-file");
  bridge.onupdatemodelcontext = async (params) => {
    state.heard.push(["update-model-context", params]);
    return {};
  };
  bridge.addEventListener("sizechange", ({ height }) => {
    if (height) frame.style.height = `${height}px`;
  });
  bridge.onerror = (error) => state.errors.push(String(error));
  const ready = new Promise((resolve) => bridge.addEventListener("initialized", resolve));
  await bridge.connect(new PostMessageTransport(frame.contentWindow, frame.contentWindow));
  bridge.oncalltool = async ({ name, arguments: args }) => {
    const instead = name === "get_task" && state.answers[state.looks++];
    return instead || client.callTool({ name, arguments: args }, { timeout: 120_000 });
  };
  const meta = `<meta http-equiv="Content-Security-Policy" content="${policy(page._meta?.ui?.csp)}">`;
  frame.srcdoc = page.text.replace("<head>", `<head>${meta}`);
  await ready;
  return bridge;
}

/** Call the tool as a model would, and hand the page what it was asked and what came. */
window.call = async (args) => {
  await state.bridge.sendToolInput({ arguments: args });
  const result = await state.client.callTool({ name: state.tool.name, arguments: args }, { timeout: 120_000 });
  state.result = result;
  state.resultAt = performance.timeOrigin + performance.now();
  await state.bridge.sendToolResult(result);
};
