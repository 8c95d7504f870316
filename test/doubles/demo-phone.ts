/** The phone of `signalman demo`: Signal's own mock server with the owner's phone, behind a line that can be cut. */
import type { Device } from "@signalapp/mock-server";
import { join } from "node:path";
import { startProxy } from "../native/proxy.ts";
import { startSignalMock } from "./signal-mock.ts";

export type DemoPhone = Awaited<ReturnType<typeof startDemoPhone>>;

/** `folder` takes the service file. */
export async function startDemoPhone(folder: string) {
  const proxy = await startProxy();
  const mock = await startSignalMock({ chatPort: proxy.port });
  proxy.pointTo(mock.port);
  const linked = Promise.withResolvers<Device>();
  let lastSentAt = 0;
  const shown = new Set<string>();
  return {
    serviceFile: await mock.writeService(join(folder, "service.json")),
    /** Scans the code. Not to be awaited before the link goes on. */
    async scan(url: string): Promise<void> {
      linked.resolve(await mock.scan(url));
    },
    /** Writes in Note to Self; Signal keeps it while the line is cut. */
    async write(text: string, now: number): Promise<void> {
      const device = await linked.promise;
      lastSentAt = Math.max(lastSentAt + 1, now);
      const self = mock.phone.device.aci;
      const sent = await mock.phone.encryptSyncSent(device, text, {
        timestamp: lastSentAt,
        destinationServiceId: self,
      });
      // Settles when it was acknowledged, which may be after a reconnect.
      mock.server.send(device, sent).catch(() => undefined);
    },
    /** The next message in Note to Self that came from the linked device; a second copy is not shown, as on any phone. */
    async next(): Promise<string> {
      for (;;) {
        const { syncMessage } = await mock.phone.waitForSyncMessage();
        const { sent } = syncMessage.content ?? {};
        const body = sent?.message?.body ?? sent?.editMessage?.dataMessage?.body;
        const id = String(sent?.timestamp);
        if (!body || shown.has(id)) continue;
        shown.add(id);
        return body;
      }
    },
    cut: () => proxy.cut(),
    mend: () => proxy.mend(),
    async close(): Promise<void> {
      await proxy.cut();
      await mock.stop();
    },
  };
}
