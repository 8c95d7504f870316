/** A SOCKS proxy as the HTTP proxy that fetch, `node:https` and libsignal all take: on a free port of loopback, for this process alone. */
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { SocksClient } from "socks";
import type { Millis } from "./core/model.ts";

const connectMs: Millis = 20_000;
const defaultPort = 1080;

export type HttpProxy = { readonly url: string; close(): void };

/** Names are resolved by the SOCKS proxy. Resolves once the port listens; only who knows the login in `url` gets through. */
export async function bridgeSocks(url: string): Promise<HttpProxy> {
  const { hostname: host, port, username, password } = new URL(url);
  const login = username === "" ? {} : { userId: decodeURIComponent(username), password: decodeURIComponent(password) };
  const proxy = { host, port: Number(port) || defaultPort, type: 5 as const, ...login };
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
    const { hostname, port: wanted } = new URL(`https://${target}`);
    const destination = { host: hostname.replaceAll(/[[\]]/gu, ""), port: Number(wanted) || 443 };
    const { socket: far } = await SocksClient.createConnection({
      proxy,
      destination,
      command: "connect",
      timeout: connectMs,
    });
    if (near.destroyed) return void far.destroy();
    keep(far, near);
    near.on("close", () => far.destroy());
    near.write("HTTP/1.1 200 OK\r\n\r\n");
    if (head.length > 0) far.write(head);
    far.pipe(near).pipe(far);
  };
  const server = createServer((_, response) => response.writeHead(501).end("Only https:// goes through SOCKS.\n"));
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
