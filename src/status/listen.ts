/** The seam to a port: Bun's server, or Deno's. Nobody else knows which. */
import type { ListenAddress } from "../settings.ts";
import { BridgeError } from "../core/errors.ts";

export type Server = {
  /** With the port that was taken. */
  readonly url: string;
  /** Resolves when the port is free again; open requests are cut. */
  stop(): Promise<void>;
};

type Handler = (request: Request) => Response | Promise<Response>;
type Runtime = {
  readonly Bun?: { serve(options: object): { readonly port: number; stop(isForced: boolean): Promise<void> } };
  readonly Deno?: {
    serve(options: object, handler: Handler): { readonly addr: { readonly port: number }; shutdown(): Promise<void> };
  };
};

/** More than any request here needs. */
const bodyBytesMax = 1024 * 1024;

/** Listens on the address. @throws BridgeError `config` when the port is taken or may not be used */
export async function listen({ host, port }: ListenAddress, handler: Handler): Promise<Server> {
  try {
    return open(globalThis as unknown as Runtime, host, port, handler);
  } catch (cause) {
    const isTaken =
      cause instanceof Error && (("code" in cause && cause.code === "EADDRINUSE") || cause.name === "AddrInUse");
    const why = isTaken ? "another program uses this port" : cause instanceof Error ? cause.message : String(cause);
    throw new BridgeError("config", `Cannot listen on ${host}:${port} as ${why}`, {
      hint: "Set SIGNALMAN_LISTEN to another address, or to off.",
      cause,
    });
  }
}

function open({ Bun, Deno }: Runtime, hostname: string, port: number, fetch: Handler): Server {
  const url = (taken: number): string => `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${taken}`;
  if (Bun) {
    // With `reusePort` a second daemon would take half of the requests instead of a refusal.
    const options = { development: false, reusePort: false, maxRequestBodySize: bodyBytesMax };
    const server = Bun.serve({ hostname, port, fetch, ...options });
    return { url: url(server.port), stop: () => server.stop(true) };
  }
  if (!Deno) throw new Error("neither Bun nor Deno runs this program");
  const stopping = new AbortController();
  const server = Deno.serve({ hostname, port, signal: stopping.signal, onListen: () => undefined }, fetch);
  return {
    url: url(server.addr.port),
    async stop() {
      stopping.abort();
      await server.shutdown();
    },
  };
}
