/**
 * A Signal TLS proxy: TLS of its own outside, and inside it the name that the next ClientHello asks for; it leads Signal's hosts to
 * `target` and hangs up on every other name, as Signal's own nginx does. **Source:** github.com/signalapp/Signal-TLS-Proxy; RFC 8446, 4.1.2; RFC 6066, 3.
 */
import { type AddressInfo, connect, type Socket } from "node:net";
import { createServer } from "node:tls";
import { mockCertificate } from "./signal-http2.ts";

/** The name in a ClientHello; null where there is none. */
function serverName(hello: Buffer): string | null {
  let at = 5 + 4 + 2 + 32;
  at += 1 + hello.readUInt8(at);
  at += 2 + hello.readUInt16BE(at);
  at += 1 + hello.readUInt8(at);
  const end = at + 2 + hello.readUInt16BE(at);
  for (at += 2; at < end; at += 4 + hello.readUInt16BE(at + 2))
    if (hello.readUInt16BE(at) === 0) return hello.subarray(at + 9, at + 9 + hello.readUInt16BE(at + 7)).toString();
  return null;
}

export async function startTlsProxy(target: () => number, isServed = (name: string) => name.endsWith(".signal.org")) {
  const asked: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer(mockCertificate(), (near) => {
    sockets.add(near);
    near.on("error", () => undefined);
    let hello = Buffer.alloc(0);
    const hear = (part: Buffer): void => {
      hello = Buffer.concat([hello, part]);
      if (hello.length < 5 || hello.length < 5 + hello.readUInt16BE(3)) return;
      near.off("data", hear);
      const name = hello[0] === 22 ? serverName(hello) : null;
      asked.push(name ?? "nothing");
      if (name === null || !isServed(name)) return void near.destroy();
      const far = connect(target(), "127.0.0.1", () => {
        far.write(hello);
        near.pipe(far).pipe(near);
      });
      sockets.add(far);
      far.on("error", () => near.destroy());
    };
    near.on("data", hear);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `https://signal.tube/#localhost:${(server.address() as AddressInfo).port}`,
    asked,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
