// Loaded before the conformance suite, which has no option for it: every request of its own brings a token.
import diagnostics from "node:diagnostics_channel";

const authorization = `Bearer ${process.env.CONFORMANCE_TOKEN}`;

diagnostics.subscribe("undici:request:create", ({ request }) => request.addHeader("authorization", authorization));
diagnostics.subscribe("http.client.request.created", ({ request }) =>
  request.setHeader("authorization", authorization),
);
