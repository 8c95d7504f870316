/**
 * A SOCKS proxy as strict as the RFCs: methods, login, one request of the kind CONNECT; it leads every name to `target`, or refuses it.
 * **Source:** RFC 1928 and RFC 1929.
 */
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

type Socks = { readonly url: string; readonly asked: string[]; close(): void };

export async function startSocks(target: number | null, login: string | null = null): Promise<Socks> {
  const asked: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    sockets.add(near);
    near.on("error", () => undefined);
    let step: "methods" | "login" | "request" = "methods";
    const refuse = (...bytes: number[]): void => void near.end(Uint8Array.from(bytes));
    const hear = (data: Buffer): void => {
      if (step === "methods") {
        const method = login === null ? 0 : 2;
        if (data[0] !== 5 || !data.subarray(2, 2 + (data[1] ?? 0)).includes(method)) return refuse(5, 0xff);
        near.write(Uint8Array.from([5, method]));
        step = login === null ? "request" : "login";
        return;
      }
      if (step === "login") {
        const userLength = data[1] ?? 0;
        const user = data.subarray(2, 2 + userLength).toString();
        const password = data.subarray(3 + userLength).toString();
        if (data[0] !== 1 || `${user}:${password}` !== login) return refuse(1, 1);
        near.write(Uint8Array.from([1, 0]));
        step = "request";
        return;
      }
      near.off("data", hear);
      const [, command, , kind, length = 0] = data;
      if (command !== 1 || kind !== 3) return refuse(5, 8, 0, 1, 0, 0, 0, 0, 0, 0);
      asked.push(`${data.subarray(5, 5 + length).toString()}:${data.readUInt16BE(5 + length)}`);
      if (target === null) return refuse(5, 5, 0, 1, 0, 0, 0, 0, 0, 0);
      const far = connect(target, "127.0.0.1", () => {
        near.write(Uint8Array.from([5, 0, 0, 1, 127, 0, 0, 1, 0, 0]));
        near.pipe(far).pipe(near);
      });
      sockets.add(far);
      far.on("error", () => near.destroy());
    };
    near.on("data", hear);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `socks5://${login === null ? "" : `${login}@`}127.0.0.1:${port}`,
    asked,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
