/**
 * The seam to a port: node:http, which Bun and Deno both have, and requests and responses as the web knows them.
 *
 * Every program of this machine may connect, so that connections are few and short: one too many closes the oldest, and one that says
 * nothing is closed within seconds. No number of them takes the descriptors that the database and the line to Signal need.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { ListenAddress } from "../settings.ts";

export type Server = {
  /** With the port that was taken. */
  readonly url: string;
  /** Resolves when the port is free again; open requests are cut. */
  stop(): Promise<void>;
};

type Handler = (request: Request) => Response | Promise<Response>;

/** More than any request here needs. */
const bodyBytesMax = 1024 * 1024;
const connectionsMax = 64;
/** For the head of a request, for all of it, and for the next one on the same connection. */
const headMs: Millis = 3_000;
const requestMs: Millis = 10_000;
const idleMs: Millis = 5_000;

/** Listens on the address. @throws BridgeError `config` when the port is taken or may not be used */
export async function listen({ host, port }: ListenAddress, handler: Handler): Promise<Server> {
  const bounds = { headersTimeout: headMs, requestTimeout: requestMs, keepAliveTimeout: idleMs };
  const server = createServer({ ...bounds, connectionsCheckingInterval: 500 }, (request, response) => {
    void serve(handler, request, response).catch(() => response.destroy());
  });
  // It is no proxy.
  server.on("connect", (_, socket) => void socket.end("HTTP/1.1 405 Method Not Allowed\r\nconnection: close\r\n\r\n"));
  const open = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    // The longest open goes for the newest: a command of the owner's gets through a flood. Of many that come at once, each has its own.
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

async function serve(handler: Handler, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const end = (status: number, text: string): void => {
    response.writeHead(status, { "content-type": "text/plain", connection: "close" }).end(`${text}\n`);
  };
  const { method = "GET", url: path = "", headers } = request;
  // A request in absolute form, without a name, or with two, is meant for a proxy, or for nothing.
  const url = path.startsWith("/") ? URL.parse(`http://${headers.host ?? ""}${path}`) : null;
  const hosts = request.rawHeaders.filter((name, at) => at % 2 === 0 && name.toLowerCase() === "host");
  if (url === null || !headers.host || hosts.length > 1) return end(400, "This is no request that can be read.");
  if (Number(headers["content-length"] ?? 0) > bodyBytesMax) return end(413, "This is too large.");
  const hasBody = method !== "GET" && method !== "HEAD";
  const fields = Object.entries(headers).map(([name, value]) => [name, String(value)] as [string, string]);
  const body = hasBody ? await readBody(request) : null;
  if (hasBody && body === null) return end(413, "This is too large.");
  const answer = await handler(new Request(url, { method, headers: fields, body: body && new Uint8Array(body) }));
  const content = new Uint8Array(await answer.arrayBuffer());
  response.writeHead(answer.status, { ...Object.fromEntries(answer.headers), "content-length": content.length });
  response.end(method === "HEAD" ? undefined : content);
}

/** Null where it is too large: the rest is not kept. */
function readBody(request: IncomingMessage): Promise<Uint8Array | null> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  return new Promise((resolve, reject) => {
    request.on("data", (chunk: Uint8Array) => {
      bytes += chunk.length;
      if (bytes <= bodyBytesMax) chunks.push(chunk);
      else resolve(null);
    });
    request.once("end", () => resolve(Buffer.concat(chunks))).once("error", reject);
  });
}
