/** The compiled program while much is to be done: how long `/health` waits at most, which is how long anything holds up its loop. */
import { startClaudeDouble } from "../doubles/claude.ts";
import { textContent } from "../doubles/chats.ts";
import { startSignalCliDouble } from "../doubles/signal-cli.ts";
import { me } from "../doubles/wire.ts";
import { newHome, start } from "../e2e/harness.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import type { Figure } from "./measure.ts";

const dayMs = 86_400_000;
const owner = { aci: me.aci, number: me.number };
const chat = { kind: "self" } as const;

/** So many messages that wait for their answer. */
function fillInbox({ inbox }: Store, open: number): void {
  const common = { source: owner, sourceDevice: 1, serverAt: null, chat, isOwn: true, sourceName: null } as const;
  for (let index = 0; index < open; index++) {
    const sentAt = Date.now() - open + index;
    inbox.accept(`open|${index}`, "prompt", { ...common, sentAt, content: textContent(`question ${index}`) }, sentAt);
  }
}

/** A log of so many megabytes, most of it older than is kept. */
function fillLog({ sessions, log }: Store, megabytes: number): void {
  const session = sessions.create("old", chat, "messages", { title: "months" }, {}, Date.now());
  const text = "It is a long story. ".repeat(125);
  for (let index = 0; index < megabytes * 400; index++) {
    const at = Date.now() - 100 * dayMs + index * 60_000;
    const [id, stop] = [`past${index}`, { kind: "end_turn" } as const];
    log.apply(
      session,
      [
        { id, at, type: index % 2 === 0 ? "prompt" : "reply", text },
        ...(index % 2 === 0 ? [] : [{ id: `${id}:idle`, at, type: "idle", stop } as const]),
      ],
      at,
    );
  }
}

/** `/health` again and again from the start on, while what waits is answered and what is old is removed. */
export async function healthUnderLoad(open: number, megabytes: number, requests: number): Promise<Figure[]> {
  const [claude, signal, home] = [await startClaudeDouble(), await startSignalCliDouble(), newHome()];
  try {
    const store = await openStore(home.path, { isExclusive: false });
    store.db.transaction(() => {
      fillInbox(store, open);
      fillLog(store, megabytes);
    });
    store.close();
    const running = await start({
      SIGNALMAN_HOME: home.path,
      SIGNALMAN_TRANSPORT: "signal-cli",
      SIGNALMAN_SIGNAL_URL: signal.url,
      SIGNALMAN_ACCOUNT: me.number,
      SIGNALMAN_BACKEND: "messages",
      ANTHROPIC_API_KEY: claude.apiKey,
      ANTHROPIC_BASE_URL: claude.url,
    });
    try {
      const values: number[] = [];
      for (let request = 0; request < requests; request++) {
        const from = performance.now();
        await (await fetch(`${running.url}/health`)).text();
        values.push(performance.now() - from);
      }
      const { pending } = (await running.status()).inbox;
      if (pending === 0 || pending === open) throw new Error(`${pending} of ${open} were open in the end`);
      const name = `/health with ${open.toLocaleString("en-US")} messages that wait, and a log of ${megabytes} MB`;
      const slowest = [Math.max(...values)];
      return [
        { group: "health", name, unit: "ms", values },
        { group: "health", name: `${name}, the slowest`, unit: "ms", values: slowest, target: 100 },
      ];
    } finally {
      await running.stop("SIGKILL");
    }
  } finally {
    await signal.stop();
    await claude.close();
    home.remove();
  }
}
