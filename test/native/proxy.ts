/** A TCP proxy on loopback whose line can be cut, and mended on the same port. */
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export type Proxy = {
  readonly port: number;
  /** Where new connections go. */
  pointTo(port: number): void;
  /** Breaks all connections; new ones are refused. */
  cut(): Promise<void>;
  mend(): Promise<void>;
};

export async function startProxy(): Promise<Proxy> {
  let target = 0;
  let server: Server | null = null;
  const sockets = new Set<Socket>();
  const open = (port: number) =>
    new Promise<Server>((resolve) => {
      const fresh = createServer((near) => {
        const far = connect(target, "127.0.0.1");
        for (const socket of [near, far]) {
          sockets.add(socket);
          socket.on("error", () => undefined);
          socket.on("close", () => {
            sockets.delete(socket);
            near.destroy();
            far.destroy();
          });
        }
        near.pipe(far).pipe(near);
      });
      fresh.listen(port, "127.0.0.1", () => resolve(fresh));
    });
  server = await open(0);
  const { port } = server.address() as AddressInfo;
  return {
    port,
    pointTo: (next) => void (target = next),
    async cut() {
      const closing = server;
      server = null;
      for (const socket of sockets) socket.destroy();
      if (closing !== null) await new Promise<void>((resolve) => closing.close(() => resolve()));
    },
    async mend() {
      server ??= await open(port);
    },
  };
}
