/** The phone of `signalman demo`: Signal's own mock server with the owner's phone, behind a line that can be cut. */
import { join } from "node:path";
import { startProxy } from "../native/proxy.ts";
import { openNotes } from "./phone.ts";
import { startSignalMock } from "./signal-mock.ts";

export type DemoPhone = Awaited<ReturnType<typeof startDemoPhone>>;

/** `folder` takes the service file. */
export async function startDemoPhone(folder: string) {
  const proxy = await startProxy();
  const mock = await startSignalMock({ chatPort: proxy.port });
  proxy.pointTo(mock.port);
  const notes = Promise.withResolvers<ReturnType<typeof openNotes>>();
  return {
    serviceFile: await mock.writeService(join(folder, "service.json")),
    /** Scans the code. Not to be awaited before the link goes on. */
    async scan(url: string): Promise<void> {
      notes.resolve(openNotes(mock, await mock.scan(url)));
    },
    /** Writes in Note to Self; Signal keeps it while the line is cut. */
    async write(text: string, now: number): Promise<void> {
      const { write } = await notes.promise;
      // Settles when it was acknowledged, which may be after a reconnect.
      write(text, now).catch(() => undefined);
    },
    /** The next message in Note to Self that came from the linked device; a second copy is not shown, as on any phone. */
    next: async (): Promise<string> => (await notes.promise).next(),
    cut: () => proxy.cut(),
    mend: () => proxy.mend(),
    async close(): Promise<void> {
      await proxy.cut();
      await mock.stop();
    },
  };
}
