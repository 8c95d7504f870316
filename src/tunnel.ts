/**
 * Opens a SOCKS proxy, or a Signal TLS proxy, as the HTTP proxy that fetch, `node:https` and libsignal all take: on a free port of
 * loopback, for this process alone.
 *
 *   CONNECT name:port ─▶ SOCKS: the proxy connects to the name it is told
 *                      ─▶ Signal TLS: the proxy reads the name in the TLS that goes through, and knows Signal's hosts alone
 */
import { randomBytes } from "node:crypto";
import type { Server as HttpServer } from "node:http";
import { createServer } from "node:net";
import { connect } from "node:tls";
import { Server } from "proxy-chain";
import { signalTlsPlace } from "./settings.ts";

const socksPort = "1080";
const tlsPort = 443;

export type HttpProxy = { readonly url: string; close(): Promise<void> };

/** The URL of a SOCKS proxy, which resolves names itself, with its port. */
const throughSocks = (url: string): string =>
  Object.assign(new URL(url), { port: new URL(url).port || socksPort }).href;

/** A server for the tunnels through a Signal TLS proxy. A certificate that this machine does not trust ends the tunnel. */
function throughTls(place: string): HttpServer {
  const { hostname: host, port } = new URL(`https://${place}`);
  const server = createServer((near) => {
    const far = connect({ host, port: Number(port) || tlsPort, servername: host });
    // The client gives up by itself where the proxy is silent.
    near.on("error", () => undefined).on("close", () => far.destroy());
    far.on("error", () => undefined).on("close", () => near.destroy());
    near.pipe(far).pipe(near);
  });
  // proxy-chain takes an HTTP server, but gives it tunnels only and no request.
  return server as HttpServer;
}

/** `url` is `socks5://…` or the link of a Signal TLS proxy. Resolves once the port listens, which takes only the login in the result. */
export async function openTunnel(url: string): Promise<HttpProxy> {
  const place = signalTlsPlace(url);
  const way = place === null ? { upstreamProxyUrl: throughSocks(url) } : { customConnectServer: throughTls(place) };
  const token = randomBytes(16).toString("hex");
  const server = new Server({
    host: "127.0.0.1",
    port: 0,
    prepareRequestFunction: ({ password }) => ({ requestAuthentication: password !== token, ...way }),
  });
  await server.listen();
  server.server.unref();
  return { url: `http://signalman:${token}@127.0.0.1:${server.port}`, close: () => server.close(true) };
}
