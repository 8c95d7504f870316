/**
 * A SOCKS proxy, or a Signal TLS proxy, as the HTTP proxy that fetch, `node:https` and libsignal all take: on a free port of loopback,
 * for this process alone.
 *
 *   CONNECT name:port ─▶ SOCKS: the proxy connects to the name it is told
 *                      ─▶ Signal TLS: the proxy reads the name in the TLS that goes through, and knows Signal's hosts alone
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { connect } from "node:tls";
import { SocksClient } from "socks";
import type { Millis } from "./core/model.ts";
import { signalTlsPlace } from "./settings.ts";

const connectMs: Millis = 20_000;
const socksPort = 1080;
const tlsPort = 443;

export type HttpProxy = { readonly url: string; close(): void };

type Reach = (host: string, port: number) => Promise<Socket>;

/** Names are resolved by the proxy. */
function throughSocks(url: string): Reach {
  const { hostname, port: given, username, password } = new URL(url);
  const login = username === "" ? {} : { userId: decodeURIComponent(username), password: decodeURIComponent(password) };
  const proxy = { host: hostname, port: Number(given) || socksPort, type: 5 as const, ...login };
  return async (host, port) => {
    const wanted = { proxy, destination: { host, port }, command: "connect", timeout: connectMs } as const;
    return (await SocksClient.createConnection(wanted)).socket;
  };
}

/** A certificate of the proxy that the machine does not trust is refused. */
const throughTls = (place: string): Reach => {
  const { hostname: host, port } = new URL(`https://${place}`);
  return async () => {
    const socket = connect({ host, port: Number(port) || tlsPort, servername: host });
    try {
      await once(socket, "secureConnect", { signal: AbortSignal.timeout(connectMs) });
      return socket;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  };
};

/** `url` is `socks5://…` or the link of a Signal TLS proxy. Resolves once the port listens; only who knows the login in the result gets through. */
export async function openTunnel(url: string): Promise<HttpProxy> {
  const place = signalTlsPlace(url);
  const reach = place === null ? throughSocks(url) : throughTls(place);
  const token = randomBytes(16).toString("hex");
  const isOurs = (given: string | undefined): boolean => given === `Basic ${btoa(`signalman:${token}`)}`;
  const sockets = new Set<Socket>();
  const keep = (socket: Socket, other?: Socket): void => {
    sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      sockets.delete(socket);
      other?.destroy();
    });
  };
  const tunnel = async (near: Socket, target: string, head: Uint8Array): Promise<void> => {
    const { hostname, port } = new URL(`https://${target}`);
    const far = await reach(hostname.replaceAll(/[[\]]/gu, ""), Number(port) || tlsPort);
    if (near.destroyed) return void far.destroy();
    keep(far, near);
    near.on("close", () => far.destroy());
    near.write("HTTP/1.1 200 OK\r\n\r\n");
    if (head.length > 0) far.write(head);
    far.pipe(near).pipe(far);
  };
  const server = createServer((_, response) => response.writeHead(501).end("Only https:// goes through.\n"));
  server.on("connect", ({ url: target = "", headers }, near: Socket, head: Uint8Array) => {
    keep(near);
    if (!isOurs(headers["proxy-authorization"])) near.end("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    else tunnel(near, target, head).catch(() => near.end("HTTP/1.1 502 Bad Gateway\r\n\r\n"));
  });
  await new Promise<void>((resolve, reject) => server.on("error", reject).listen(0, "127.0.0.1", resolve));
  server.unref();
  return {
    url: `http://signalman:${token}@127.0.0.1:${(server.address() as AddressInfo).port}`,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
