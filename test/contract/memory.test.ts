import { createMemorySignal } from "../doubles/memory.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { alice, groupId, me } from "../doubles/wire.ts";
import type { SeenMessage, TransportHarness } from "./transport.ts";
import { transportContract } from "./transport.ts";

const harness = (ownTimestamps: boolean) => async (): Promise<TransportHarness> => {
  const clock = createVirtualClock();
  const account = { aci: me.aci, number: me.number, deviceId: 2 };
  const signal = createMemorySignal({ clock, account, ownTimestamps });
  const person = signal.person(alice, alice.name);
  return {
    transport: signal.transport,
    clock,
    phoneWrites: (text) => signal.owner.write(text).sentAt,
    personWrites: (text) => person.write(text).sentAt,
    groupWrites: (text) => person.write(text, { group: groupId }).sentAt,
    personSendsFile(bytes) {
      const base64 = Buffer.from(bytes).toString("base64");
      person.write("", { files: [{ fileName: "a.bin", contentType: "application/octet-stream", base64 }] });
    },
    seen: () =>
      signal.screen().flatMap((seen): SeenMessage[] => {
        const plain = { ...seen, quoteSentAt: seen.quote?.sentAt ?? null, editOf: null, reaction: null };
        const edits = seen.versions.slice(0, -1).map((editOf) => ({ ...plain, editOf }));
        return edits.length > 0 ? [plain, ...edits, ...reactions()] : [plain];
      }),
    readMarks: () => signal.readMarks(),
    parked: () => new Promise((resolve) => setImmediate(resolve)),
    cut: async () => signal.faults.cut(),
    mend: async () => signal.faults.mend(),
    unlink: () => signal.faults.unlink(),
    loseAnswer: () => signal.faults.loseAnswers(),
    refuse: (code) => signal.faults.refuseSends(code),
    close: () => signal.transport.disconnect(),
  };

  /** Reactions to messages of theirs are shown beside the screen. */
  function reactions(): SeenMessage[] {
    return signal.reactions().map(({ chat, targetSentAt, emoji }) => ({
      chat,
      timestamp: targetSentAt,
      text: "",
      styles: [],
      quoteSentAt: null,
      editOf: null,
      reaction: { emoji: emoji ?? "", targetSentAt },
    }));
  }
};

transportContract("memory", harness(true));
transportContract("memory without timestamps of its own", harness(false));
