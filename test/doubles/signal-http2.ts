/**
 * A Signal chat host that only ever refuses: HTTP/2 that answers each websocket upgrade (extended CONNECT, RFC 8441) with the
 * status of the day. The mock cannot do that.
 *
 *   const host = await startRefusingHost(); host.answer = { status: 429, retryAfterSeconds: 7 }; … await host.stop();
 */
import { readFileSync } from "node:fs";
import { createSecureServer, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

export type Refusal = {
  /** 403 unlinked, 499 version too old, 429 rate limit, 5xx trouble. */
  readonly status: number;
  readonly retryAfterSeconds?: number;
};

export type RefusingHost = {
  readonly port: number;
  /** The answer to the next upgrades. */
  answer: Refusal;
  /** How many upgrades were refused so far. */
  readonly attempts: () => number;
  /** Resolves when `count` upgrades have been refused since the start. */
  readonly waitForAttempts: (count: number) => Promise<void>;
  readonly stop: () => Promise<void>;
};

/** Key and certificate of the mock server, good for localhost and 127.0.0.1; its CA is that of every service file. */
export function mockCertificate(): { readonly key: Buffer; readonly cert: Buffer } {
  const folder = join(dirname(createRequire(import.meta.url).resolve("@signalapp/mock-server/package.json")), "certs");
  return { key: readFileSync(join(folder, "key.pem")), cert: readFileSync(join(folder, "full-cert.pem")) };
}

/** Listens on loopback; the constants of `serviceFileFor(port)` fit it. */
export async function startRefusingHost(answer: Refusal = { status: 403 }): Promise<RefusingHost> {
  const sessions = new Set<ServerHttp2Session>();
  const waiting = new Set<() => void>();
  let attempts = 0;
  const server = createSecureServer({ ...mockCertificate(), settings: { enableConnectProtocol: true } });
  server.on("session", (session) => {
    sessions.add(session);
    session.on("close", () => sessions.delete(session));
    session.on("error", () => session.destroy());
  });
  server.on("stream", (stream: ServerHttp2Stream) => {
    const { status, retryAfterSeconds } = host.answer;
    stream.on("error", () => undefined);
    stream.respond({
      ":status": status,
      ...(retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) }),
    });
    stream.end();
    attempts++;
    for (const check of waiting) check();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("The host has no port");
  const host: RefusingHost = {
    port: address.port,
    answer,
    attempts: () => attempts,
    waitForAttempts: (count) =>
      new Promise((resolve) => {
        const check = () => {
          if (attempts < count) return;
          waiting.delete(check);
          resolve();
        };
        waiting.add(check);
        check();
      }),
    stop: () =>
      new Promise((resolve) => {
        for (const session of sessions) session.destroy();
        server.close(() => resolve());
      }),
  };
  return host;
}
