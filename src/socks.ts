/** A SOCKS proxy as the HTTP proxy that fetch, `node:https` and libsignal all take: on a free port of loopback, for this process alone. */
import { randomBytes } from "node:crypto";
import { Server } from "proxy-chain";

/** **Source:** the IANA registry of ports. */
const defaultPort = "1080";

export type HttpProxy = { readonly url: string; close(): Promise<void> };

/** Names are resolved by the SOCKS proxy. Resolves once the port listens; only who knows the login in `url` gets through. */
export async function bridgeSocks(socks: string): Promise<HttpProxy> {
  const { href: upstreamProxyUrl } = Object.assign(new URL(socks), { port: new URL(socks).port || defaultPort });
  const token = randomBytes(16).toString("hex");
  const server = new Server({
    host: "127.0.0.1",
    port: 0,
    prepareRequestFunction: ({ password }) => ({ requestAuthentication: password !== token, upstreamProxyUrl }),
  });
  await server.listen();
  server.server.unref();
  return { url: `http://signalman:${token}@127.0.0.1:${server.port}`, close: () => server.close(true) };
}
