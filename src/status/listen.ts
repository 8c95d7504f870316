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
type BunServer = { readonly port: number; stop(isForced: boolean): Promise<void> };
type DenoServer = { readonly addr: { readonly port: number }; shutdown(): Promise<void> };
type Runtime = {
  readonly Bun?: {
    serve(options: {
      hostname: string;
      port: number;
      fetch: Handler;
      development: boolean;
      reusePort: boolean;
      maxRequestBodySize: number;
    }): BunServer;
  };
  readonly Deno?: {
    serve(
      options: { hostname: string; port: number; signal: AbortSignal; onListen: () => void },
      handler: Handler,
    ): DenoServer;
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

function open(runtime: Runtime, hostname: string, port: number, handler: Handler): Server {
  const name = hostname.includes(":") ? `[${hostname}]` : hostname;
  if (runtime.Bun) {
    const server = runtime.Bun.serve({
      hostname,
      port,
      fetch: handler,
      development: false,
      reusePort: false,
      maxRequestBodySize: bodyBytesMax,
    });
    return { url: `http://${name}:${server.port}`, stop: () => server.stop(true) };
  }
  if (!runtime.Deno) throw new Error("neither Bun nor Deno runs this program");
  const stopping = new AbortController();
  const server = runtime.Deno.serve({ hostname, port, signal: stopping.signal, onListen: () => undefined }, handler);
  return {
    url: `http://${name}:${server.addr.port}`,
    async stop() {
      stopping.abort();
      await server.shutdown();
    },
  };
}
