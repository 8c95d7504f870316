/**
 * The seam to a port: node:http, which Bun and Deno both have; Hono's adapter makes web requests of its own.
 *
 * Every program of this machine may connect, so that connections are few and short: one too many closes the oldest, and a silent one is
 * closed within seconds. No number of them takes the descriptors that the database and the line to Signal need.
 */
import { getRequestListener } from "@hono/node-server";
import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { ListenAddress } from "../settings.ts";

export type Server = {
  /** The URL, with the port that was taken. */
  readonly url: string;
  /** Resolves when the port is free again; open requests are cut. */
  stop(): Promise<void>;
};

type Handler = (request: Request) => Response | Promise<Response>;

const connectionsMax = 64;
/** The longest waits for the head of a request, for all of it, and for the next one on the same connection. */
const headMs: Millis = 3_000;
const requestMs: Millis = 10_000;
const idleMs: Millis = 5_000;

/** Listens on the address. @throws BridgeError `config` when the port is taken or may not be used */
export async function listen({ host, port }: ListenAddress, handler: Handler): Promise<Server> {
  const bounds = { headersTimeout: headMs, requestTimeout: requestMs, keepAliveTimeout: idleMs };
  const answer = getRequestListener(handler, { overrideGlobalObjects: false });
  const server = createServer({ ...bounds, connectionsCheckingInterval: 500 }, (request, response) => {
    void answer(request, response);
  });
  // CONNECT is refused, since this is no proxy.
  server.on("connect", (_, socket) => void socket.end("HTTP/1.1 405 Method Not Allowed\r\nconnection: close\r\n\r\n"));
  const open = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    // The oldest connection gives way to the newest, so that a command of the owner's gets through a flood.
    const [oldest] = open;
    if (oldest === undefined || open.size <= connectionsMax) return;
    open.delete(oldest);
    oldest.destroy();
  });
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject).listen({ host, port, exclusive: true }, resolve);
    });
  } catch (cause) {
    const isTaken = cause instanceof Error && "code" in cause && cause.code === "EADDRINUSE";
    const why = isTaken ? "another program uses this port" : toFault(cause).message;
    throw new BridgeError("config", `Cannot listen on ${host}:${port} as ${why}`, {
      hint: "Set SIGNALMAN_LISTEN to another address, or to off.",
      cause,
    });
  }
  const { port: taken } = server.address() as AddressInfo;
  return {
    url: `http://${host.includes(":") ? `[${host}]` : host}:${taken}`,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
