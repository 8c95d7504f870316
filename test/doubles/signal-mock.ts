/**
 * A whole Signal service on loopback, with a phone that owns the account and a contact who writes to it: for tests of the
 * native transport, of the compiled binary, and for `signalman demo`. It stands on `@signalapp/mock-server`.
 */
import {
  type Device,
  loadCertificates,
  type PrimaryDevice,
  Server,
  ServiceIdKind,
  type SingleUseKey,
} from "@signalapp/mock-server";
import { X509Certificate } from "node:crypto";
import type { EventEmitter } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ServiceFile } from "../../src/signal/native/signal-service.ts";

export type SignalMock = {
  readonly server: Server;
  /** The owner's phone. */
  readonly phone: PrimaryDevice;
  /** Another person; the first of the owner's contacts. */
  readonly contact: PrimaryDevice;
  readonly contacts: readonly PrimaryDevice[];
  readonly port: number;
  /** Uploaded files are in its `attachments`, as they were sealed. */
  readonly cdnFolder: string;
  /** What `SIGNALMAN_SIGNAL_SERVICE` names, as a value. */
  readonly service: ServiceFile;
  /** Writes that file; gives its path. */
  writeService(path: string): Promise<string>;
  /**
   * The phone scans the code of our `link`. Resolves when our pre-keys have arrived; then the phone and the contact can write
   * to the device. Not to be awaited before the link goes on.
   */
  scan(url: string): Promise<Device>;
  /** Gives `who` keys to write to the device first; each call uses up one of its one-time keys. */
  introduce(who: PrimaryDevice, device: Device, kind?: ServiceIdKind): Promise<void>;
  /** Closes the device's connection, as a server that restarts does. */
  drop(device: Device): void;
  stop(): Promise<void>;
};

export type SignalMockOptions = {
  readonly hasNumber?: boolean;
  /** Names of the owner's contacts. */
  readonly names?: readonly string[];
  /** Port of a proxy in front of the chat server, where faults are injected. */
  readonly chatPort?: number;
  /** Before there is any account: names and numbers may be chosen here. */
  readonly prepare?: (server: Server) => void;
};

export async function startSignalMock({
  hasNumber = true,
  names = [],
  chatPort,
  prepare,
}: SignalMockOptions = {}): Promise<SignalMock> {
  const folder = await mkdtemp(join(tmpdir(), "signal-mock-"));
  const server = new Server({ cdn3Path: folder, timeout: 20_000 });
  await server.listen(0, "127.0.0.1");
  // A connection that a client keeps for later would keep the server from closing.
  const sockets = new Set<Socket>();
  const { https } = server as unknown as { https: EventEmitter };
  https.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  const { port } = server.address();
  prepare?.(server);
  const contact = await server.createPrimaryDevice({ profileName: names[0] ?? "Alice" });
  const contacts = [contact];
  for (const profileName of names.slice(1)) contacts.push(await server.createPrimaryDevice({ profileName }));
  const phone = await server.createPrimaryDevice({ profileName: "Owner", contacts, hasE164: hasNumber });
  const service = await describe(port, chatPort ?? port);
  const introduce = async (who: PrimaryDevice, device: Device, kind = ServiceIdKind.ACI) => {
    const key: SingleUseKey = await device.popSingleUseKey(kind);
    await who.addSingleUseKey(device, key, kind);
  };
  return {
    server,
    phone,
    contact,
    contacts,
    port,
    cdnFolder: folder,
    service,
    introduce,
    async writeService(path) {
      await writeFile(path, JSON.stringify(service));
      return path;
    },
    async scan(url) {
      const pending = await server.waitForProvision();
      const device = await pending.complete({ provisionURL: url, primaryDevice: phone });
      for (const who of [phone, ...contacts]) await introduce(who, device);
      return device;
    },
    drop(device) {
      // Private by its type only; there is no other way to a live connection.
      const { webSockets } = server as unknown as { webSockets: Map<Device, { close(code: number): void }> };
      webSockets.get(device)?.close(1000);
    },
    async stop() {
      const closed = server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The service file of a mock, or of another server with its certificates (`signal-http2.ts`), on these ports. */
export async function describe(port: number, chatPort: number): Promise<ServiceFile> {
  const certificates = await loadCertificates();
  const der = new X509Certificate(certificates.certificateAuthority).raw.toString("base64");
  const base = `https://localhost:${port}`;
  return {
    chat: { port: chatPort, certificateDer: der },
    tlsRoots: [der],
    trustRoots: [...certificates.serverTrustRoots],
    serverPublicParams: certificates.serverPublicParams,
    storage: `${base}/storageService`,
    cdn: { "0": base, "2": base, "3": `${base}/cdn3` },
  };
}
