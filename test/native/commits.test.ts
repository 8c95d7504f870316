/** What a message costs on the disk where the ratchets are kept here: each commit is waited for. */
import { describe, expect, test } from "bun:test";
import type { Device } from "@signalapp/mock-server";
import { rmSync } from "node:fs";
import { systemClock, systemRandom } from "../../src/clock.ts";
import { startDaemon } from "../../src/daemon.ts";
import type { Lock } from "../../src/signal/native/context.ts";
import { shareCommits } from "../../src/signal/native/key-store.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import { countCommits } from "../doubles/commits.ts";
import { createPhone, type Seen } from "../doubles/phone.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { startSignalMock } from "../doubles/signal-mock.ts";
import { createTape } from "../doubles/wire.ts";
import { createWorld } from "../doubles/world.ts";
import { makeHome, simConfig } from "../sim/config.ts";
import { linkRig, openNativeDatabase, serviceOf } from "./mock.ts";

/** The whole program, linked to the mock server; the contact writes. */
async function startWhole(reactions: "on" | "off") {
  const home = makeHome();
  const mock = await startSignalMock();
  const config = simConfig(home, {
    allow: `self,${mock.contact.device.aci}`,
    reactions,
    welcome: "false",
    transport: "native",
  });
  const claude = createScriptedClaude({
    clock: systemClock,
    // Long enough for the phone to see it type.
    world: createWorld(systemClock, (prompt) => [{ pauseMs: 300 }, { say: `re: ${prompt}` }]),
  });
  let linked: Device | null = null;
  const seen = createTape<Seen>();
  const daemon = await startDaemon(config, {
    log: quietLog,
    clock: systemClock,
    random: systemRandom,
    networkKey: () => "",
    newId: () => crypto.randomUUID(),
    buildLine: () => Promise.resolve(claude.line),
    async buildTransport({ db: database }) {
      const place = { clock: systemClock, random: systemRandom, log: quietLog, userAgent: "signalman/0.0.0" };
      const deps = { ...place, database, service: await serviceOf(mock) };
      linked = await linkRig(mock, deps);
      createPhone(mock, mock.contact, linked, [], seen.push);
      // Others may see when we type and read.
      void createPhone(mock, mock.phone, linked, [], () => undefined).sendSettings();
      return createNative({ ...deps, isAllowed: () => true, allowedNumbers: [] });
    },
  });
  return {
    daemon,
    seen,
    write: (text: string, timestamp: number) =>
      mock.contact.sendText(linked as unknown as Device, text, { timestamp, sealed: true }),
    async stop() {
      await daemon.stop();
      await mock.stop();
      rmSync(home, { recursive: true, force: true });
    },
  };
}

test.each([
  ["seven", "off", ["message", "read", "typing"], 7],
  ["eight, marks included", "on", ["👀", "message", "read", "typing", "✅"], 8],
] as const)(
  "a message is read, shown as typed at, and answered in %s commits that wait for the disk",
  async (_, reactions, shown, most) => {
    const whole = await startWhole(reactions);
    try {
      const { store, transport, status } = whole.daemon;
      const idle = async () => {
        const isIdle = () => {
          const { inbox, outbox, connection } = status();
          return connection.state === "CONNECTED" && inbox.pending + outbox.pending === 0;
        };
        while (!isIdle()) await new Promise((resolve) => setImmediate(resolve));
        await (transport as ReturnType<typeof createNative>).settled();
      };
      const disk = countCommits(store.db);
      const seen: string[] = [];
      // The first makes the sessions.
      for (const text of ["hello", "again"]) {
        await idle();
        disk();
        seen.splice(0);
        await whole.write(text, Date.now());
        while (!shown.every((what) => seen.includes(what))) {
          const one = await whole.seen.next();
          seen.push(one.kind === "reaction" ? one.emoji : one.kind);
        }
      }
      await idle();
      // Once each: the answer itself ends the typing.
      expect([seen.length, new Set(seen)]).toEqual([shown.length, new Set<string>(shown)]);
      if (reactions === "on") expect(seen.indexOf("message")).toBeLessThan(seen.indexOf("✅"));
      const { fsyncs, commits, first } = disk();
      expect(fsyncs, first.join("\n")).toBeLessThanOrEqual(most);
      // The count of attempts at opening a message does not wait.
      expect(commits).toBe(fsyncs + 1);
    } finally {
      await whole.stop();
    }
  },
);

describe("works on the ratchets that wait at the same time", () => {
  const lock: Lock = async () => () => undefined;
  const open = async () => {
    const database = await openNativeDatabase();
    const withRatchets = shareCommits({ database, clock: systemClock, onIdentityChange: () => undefined }, lock);
    const note = (text: string) =>
      withRatchets(async (ratchets) => {
        ratchets.later(() => void database.run("INSERT INTO inbox (kind, sent_at, text) VALUES ('text', 1, ?)", text));
        await Promise.resolve();
        if (text === "bad") throw new Error("refused");
        return text;
      });
    const texts = () => database.all<{ text: string }>("SELECT text FROM inbox").map(({ text }) => text);
    return { database, note, texts };
  };

  test("share one commit; what one that fails did is dropped", async () => {
    const { database, note, texts } = await open();
    const disk = countCommits(database);
    const ends = await Promise.allSettled(["one", "bad", "two"].map(note));
    expect(ends.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(texts()).toEqual(["one", "two"]);
    expect(disk().commits).toBe(1);
    expect(await note("three")).toBe("three");
  });

  test("all fail where the commit fails, and nothing of them is there", async () => {
    const { database, note, texts } = await open();
    const { transaction } = database;
    database.transaction = () => {
      throw new Error("disk full");
    };
    const ends = await Promise.allSettled(["one", "two"].map(note));
    expect(ends.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    database.transaction = transaction;
    expect(texts()).toEqual([]);
    expect(await note("again")).toBe("again");
  });
});
