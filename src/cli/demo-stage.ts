/**
 * The stage of the demo: a Signal to talk over, and the phone at its other end. From the source it is Signal's own mock
 * server with real encryption; the binary, which does not carry that, plays Signal in memory.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { renderUnicodeCompact } from "uqr";
import type { Config } from "../config.ts";
import { createMemoryTransport } from "../signal/memory.ts";
import type { Transport } from "../signal/transport.ts";
import type { Store } from "../store/store.ts";
import type { startDemoPhone as StartPhone } from "../../test/doubles/demo-phone.ts";
import { buildTransport, openLink, type AdapterDeps } from "./adapters.ts";
import type { Flags, Io } from "./io.ts";

export interface Stage {
  /** What plays Signal and the phone, for the first line of the demo. */
  readonly title: string;
  /** Settings that the stage needs. */
  readonly flags: Flags;
  /** Links the account; shows how. */
  link(config: Config, deps: AdapterDeps): Promise<void>;
  buildTransport(config: Config, store: Store, deps: AdapterDeps): Promise<Transport>;
  /** The phone sends a message. */
  write(text: string): Promise<void>;
  /** Called for each message that the phone shows. */
  onMessage(show: (text: string) => void): void;
  cut(): Promise<void>;
  mend(): Promise<void>;
  close(): Promise<void>;
}

type StartDemoPhone = typeof StartPhone;
const phoneModule = new URL("../../test/doubles/demo-phone.ts", import.meta.url);

/** `home` is the demo's own folder, removed afterwards. */
export async function openStage(io: Io, home: string): Promise<Stage> {
  const isSource = phoneModule.protocol === "file:" && existsSync(fileURLToPath(phoneModule));
  return isSource ? mockStage(io, home) : memoryStage(io);
}

/** Shows each message that `next` yields, for as long as there are any. */
async function listen(next: () => Promise<string>, shows: readonly ((text: string) => void)[]): Promise<void> {
  for (;;) {
    const text = await next();
    // A reaction has none.
    if (text === "") continue;
    for (const show of shows) show(text);
  }
}

function memoryStage(io: Io): Stage {
  const signal = createMemoryTransport({ clock: io.clock });
  const shows: ((text: string) => void)[] = [];
  void listen(async () => (await signal.next()).text, shows);
  return {
    title: "a simulated Signal and phone",
    flags: {},
    link: () => Promise.resolve(),
    buildTransport: () => Promise.resolve(signal.transport),
    write: (text) => Promise.resolve(void signal.owner.write(text)),
    onMessage: (show) => void shows.push(show),
    cut: () => Promise.resolve(signal.faults.cut()),
    mend: () => Promise.resolve(signal.faults.mend()),
    close: () => Promise.resolve(),
  };
}

async function mockStage(io: Io, home: string): Promise<Stage> {
  // By a name that the bundler does not follow: the mock server is for those who have the source.
  const { startDemoPhone } = (await import(phoneModule.href)) as { startDemoPhone: StartDemoPhone };
  const phone = await startDemoPhone(home);
  const shows: ((text: string) => void)[] = [];
  return {
    title: "Signal's own mock server, a simulated phone",
    flags: { transport: "native", signalService: phone.serviceFile },
    async link(config, deps) {
      const { steps, close } = await openLink(config, deps, io.signal);
      for await (const progress of steps("demo", io.signal)) {
        if (progress.event === "linked") io.out("The phone has scanned it: linked.\n\n");
        else {
          io.out(`${renderUnicodeCompact(progress.url, { border: 1, ecc: "L" })}\n`);
          void phone.scan(progress.url);
        }
      }
      await close();
      void listen(phone.next, shows).catch(() => undefined);
    },
    buildTransport: (config, store, deps) => buildTransport(config, store, deps),
    write: (text) => phone.write(text, io.clock.now()),
    onMessage: (show) => void shows.push(show),
    cut: phone.cut,
    mend: phone.mend,
    close: phone.close,
  };
}
