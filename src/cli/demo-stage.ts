/** The stage of the demo: a Signal to talk over, and the phone at its other end. */
import type { Log } from "../log.ts";
import { createMemoryTransport } from "../signal/memory.ts";
import type { Transport } from "../signal/transport.ts";
import type { Store } from "../store/store.ts";
import type { Io } from "./io.ts";

export interface Stage {
  /** What plays Signal and the phone, for the first line of the demo. */
  readonly title: string;
  buildTransport(store: Store, log: Log): Promise<Transport>;
  /** The phone sends a message. */
  write(text: string): Promise<void>;
  /** Called for each message that the phone shows. */
  onMessage(show: (text: string) => void): void;
  cut(): void;
  mend(): void;
  close(): Promise<void>;
}

/** `home` is the demo's own folder, removed afterwards. */
export async function openStage(io: Io, _home: string): Promise<Stage> {
  return memoryStage(io);
}

function memoryStage(io: Io): Stage {
  const signal = createMemoryTransport({ clock: io.clock });
  const shows: ((text: string) => void)[] = [];
  const listen = async (): Promise<never> => {
    for (;;) {
      const { text } = await signal.next();
      for (const show of shows) show(text);
    }
  };
  void listen();
  return {
    title: "a simulated Signal and phone",
    buildTransport: () => Promise.resolve(signal.transport),
    write: (text) => Promise.resolve(void signal.owner.write(text)),
    onMessage: (show) => void shows.push(show),
    cut: signal.faults.cut,
    mend: signal.faults.mend,
    close: () => Promise.resolve(),
  };
}
