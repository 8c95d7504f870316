/**
 * A small HTTP/1.1 server on a bare socket: one request after another per connection, and every way of answering badly. Doubles stand on
 * it since a real server hides what they have to know (the client hung up) and to do (cut in the middle).
 */
import type { AddressInfo, Socket } from "node:net";
import { createServer } from "node:net";

export type RawRequest = {
  readonly method: string;
  readonly path: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** The client has closed the connection. */
  isGone(): boolean;
};

export type RawReply =
  | {
      readonly status: number;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: string | Uint8Array;
      /** Bytes of the body that are written before the connection is cut. */
      readonly cutAfterBytes?: number;
    }
  | "cut"
  | "hang";

export type RawServer = {
  readonly port: number;
  readonly url: string;
  /** Closes the port and cuts every connection. */
  stop(): Promise<void>;
  /** Listens again on the same port. */
  start(): Promise<void>;
  /** How many were made so far. */
  connections(): number;
};

/** @param port 0 takes a free one */
export async function startRawServer(answer: (request: RawRequest) => Promise<RawReply>, port = 0): Promise<RawServer> {
  const sockets = new Set<Socket>();
  let connections = 0;
  let server = createServer();
  const listen = async (at: number): Promise<number> => {
    server = createServer((socket) => {
      connections++;
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => sockets.delete(socket));
      serve(socket, answer);
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(at, "127.0.0.1", resolve);
    });
    return (server.address() as AddressInfo).port;
  };
  const bound = await listen(port);
  return {
    port: bound,
    url: `http://127.0.0.1:${bound}`,
    async stop() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
    async start() {
      await listen(bound);
    },
    connections: () => connections,
  };
}

function serve(socket: Socket, answer: (request: RawRequest) => Promise<RawReply>): void {
  let bytes = Buffer.alloc(0);
  let isGone = false;
  socket.on("close", () => {
    isGone = true;
  });
  let isBusy = false;
  const takeUp = (): void => {
    const found = isBusy ? null : parse(bytes);
    if (!found) return;
    const { request, bytesRead } = found;
    bytes = bytes.subarray(bytesRead);
    isBusy = true;
    void answer({ ...request, isGone: () => isGone }).then((reply) => {
      write(socket, reply, request.headers["connection"]?.toLowerCase() === "close");
      isBusy = false;
      takeUp();
    });
  };
  // Kept flowing while it is busy, so that the client's hang-up is noticed.
  socket.on("data", (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk]);
    takeUp();
  });
}

function parse(bytes: Buffer): { readonly request: Omit<RawRequest, "isGone">; readonly bytesRead: number } | null {
  const end = bytes.indexOf("\r\n\r\n");
  if (end < 0) return null;
  const [first = "", ...lines] = bytes.subarray(0, end).toString("latin1").split("\r\n");
  const headers = Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]),
  );
  const bytesRead = end + 4 + Number(headers["content-length"] ?? 0);
  if (bytes.length < bytesRead) return null;
  const [method = "", path = ""] = first.split(" ");
  return { request: { method, path, headers, body: bytes.subarray(end + 4, bytesRead).toString("utf8") }, bytesRead };
}

function write(socket: Socket, reply: RawReply, isLast: boolean): void {
  if (reply === "hang" || socket.destroyed) return;
  if (reply === "cut") return void socket.destroy();
  const body = Buffer.from(reply.body ?? "");
  const headers = {
    ...reply.headers,
    "Content-length": String(body.length),
    ...(isLast && { Connection: "close" }),
  };
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`HTTP/1.1 ${reply.status} X\r\n${head.join("")}\r\n`);
  if (reply.cutAfterBytes === undefined) return void (isLast ? socket.end(body) : socket.write(body));
  // Time for the client to read it: Bun's fetch drops what it has not handed out when the connection breaks.
  socket.write(body.subarray(0, reply.cutAfterBytes), () => setTimeout(() => socket.destroy(), 20));
}
