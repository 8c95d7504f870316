/** The real daemon in this process, between a Signal and a Claude in memory: what depends on how much is stored. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { countCommits } from "../doubles/commits.ts";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { createWorld } from "../doubles/world.ts";
import { headersTimeoutMs, silenceMs, type ClaudeApi } from "../../src/claude/api.ts";
import type { Line } from "../../src/claude/line.ts";
import { createMessagesLine } from "../../src/claude/messages.ts";
import { systemClock } from "../../src/clock.ts";
import { encodeMetadata } from "../../src/core/metadata.ts";
import type { Chat, Context, JsonValue } from "../../src/core/model.ts";
import { calculateDiff, merge } from "../../src/core/synchronizer.ts";
import { startDaemon, type Daemon } from "../../src/daemon.ts";
import { createMemorySignal, type MemorySignal } from "../doubles/memory.ts";
import { openDatabase } from "../../src/store/database.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { openBench } from "../sim/bench.ts";
import { simConfig } from "../sim/config.ts";
import type { Figure } from "./measure.ts";
import { until } from "./program.ts";

type Scene = {
  readonly daemon: Daemon;
  readonly signal: MemorySignal;
  readonly claude: ReturnType<typeof createScriptedClaude>;
  readonly home: string;
};

/** Runs a daemon on a home that `fill` has prepared. */
async function onScene<T>(
  fill: (store: Store, claude: Scene["claude"]) => void,
  flags: Readonly<Record<string, string>>,
  work: (scene: Scene) => Promise<T>,
  line?: Line,
): Promise<T> {
  const home = mkdtempSync(join(tmpdir(), "signalman-bench-"));
  const signal = createMemorySignal({ clock: systemClock });
  const world = createWorld(systemClock, () => [{ say: "pong" }]);
  const claude = createScriptedClaude({ clock: systemClock, world });
  try {
    const store = await openStore(home, { isExclusive: false });
    store.db.transaction(() => fill(store, claude));
    store.close();
    const daemon = await startDaemon(simConfig(home, { log: "error", ...flags }), {
      log: quietLog,
      clock: systemClock,
      random: Math.random,
      networkKey: () => "",
      newId: () => crypto.randomUUID(),
      buildTransport: () => Promise.resolve(signal.transport),
      buildLine: () => Promise.resolve(line ?? claude.line),
    });
    try {
      return await work({ daemon, signal, claude, home });
    } finally {
      await daemon.stop();
    }
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}

const connected = ({ daemon }: Scene): Promise<true> => until(() => (daemon.isReady() ? true : null));

/** What the disk asks for one durable commit of a row: the floor under most of the other figures. */
export async function commitCost(when: string, runs: number): Promise<Figure[]> {
  const home = mkdtempSync(join(tmpdir(), "signalman-bench-"));
  const db = await openDatabase(join(home, "x.db"));
  db.exec("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)");
  const values = Array.from({ length: runs }, () => {
    const from = performance.now();
    db.run("INSERT INTO t (b) VALUES (?)", "x".repeat(300));
    return performance.now() - from;
  });
  db.close();
  rmSync(home, { recursive: true, force: true });
  return [{ group: "disk", name: `one commit of one row, fsync included, ${when}`, unit: "ms", values }];
}

/** A backlog that comes at once, asked of a Claude that answers at once: what the program itself can do. */
export const backlog = (chats: number, messages: number, runs: number): Promise<Figure[]> => {
  const people = Array.from({ length: chats }, (_, index) => ({
    aci: `00000000-0000-4000-8000-${String(index + 10).padStart(12, "0")}`,
    number: `+1555${5_000_000 + index}`,
  }));
  const allow = people.map(({ number }) => number).join(",");
  const plain = { reactions: "off", readReceipts: "false", welcome: "false" };
  /** Each in a home of its own: a turn looks a minute back, where the backlog before would still stand. */
  const once = (flags: Readonly<Record<string, string>>, synchronous: "FULL" | "OFF"): Promise<number> =>
    onScene(
      () => undefined,
      { allow, ...flags },
      async (scene) => {
        await connected(scene);
        scene.daemon.store.db.exec(`PRAGMA synchronous = ${synchronous}`);
        const writers = people.map((person) => scene.signal.person(person));
        const from = performance.now();
        for (let index = 0; index < messages; index++) writers[index % chats]?.write(`question ${index}`);
        for (let count = 0; count < messages; count++) await nextText(scene.signal);
        return (messages / (performance.now() - from)) * 1000;
      },
    );
  const measure = async (...how: Parameters<typeof once>): Promise<number[]> => {
    const values: number[] = [];
    for (let run = 0; run < runs; run++) values.push(await once(...how));
    return values;
  };
  const group = "backlog";
  const name = `${messages.toLocaleString("en-US")} messages over ${chats.toLocaleString("en-US")} chats, received to sent`;
  return (async (): Promise<Figure[]> => [
    { group, name, unit: "/s", values: await measure(plain, "FULL"), target: 300 },
    { group, name: `${name}, with receipts and reactions`, unit: "/s", values: await measure({}, "FULL") },
    { group, name: `${name}, without waiting for the disk`, unit: "/s", values: await measure(plain, "OFF") },
  ])();
};

/** One chat with so many prompts answered already: rows of inbox, outbox and log as they would be. */
function store(messages: number) {
  return ({ sessions, inbox, outbox, posts, log }: Store): void => {
    const now = Date.now();
    const chat: Chat = { kind: "self" };
    const session = sessions.create("bench", chat, "messages", { title: "bench" }, {}, now);
    for (let index = 0; index < messages / 2; index++) {
      const at = now - messages + index;
      const source = { aci: "00000000-0000-4000-8000-000000000001", number: null };
      const content = {
        kind: "text",
        text: `question ${index}`,
        quote: null,
        mentions: [],
        attachments: [],
        expiresInSeconds: 0,
        isViewOnce: false,
      } as const;
      inbox.accept(
        `past|${index}`,
        "prompt",
        { source, sourceDevice: 1, sentAt: at, serverAt: at, chat, isOwn: true, sourceName: null, content },
        at,
      );
      posts.add(session.id, "prompt", String(index + 1), null, at);
      posts.markPosted(index + 1, `prompt_${index}`);
      posts.finish(index + 1);
      inbox.finish(index + 1, "answered", at);
      log.apply(
        session,
        [
          { id: `prompt_${index}`, at, type: "prompt", text: content.text },
          { id: `reply_${index}`, at, type: "reply", text: "an answer" },
          { id: `idle_${index}`, at, type: "idle", stop: { kind: "end_turn" } },
        ],
        at,
      );
      outbox.add(
        "send",
        `past|${index}`,
        0,
        chat,
        { kind: "text", text: "an answer", styles: [], quote: null, files: [] },
        at,
      );
      outbox.markSent(index + 1, at, at);
    }
  };
}

/** A Messages API that says "pong" to whatever conversation it is sent. */
const pongApi: ClaudeApi = {
  call: () => Promise.reject(new Error("messages asks by stream alone")),
  bytes: () => Promise.resolve(null),
  bounds: { headersMs: headersTimeoutMs, silenceMs },
  model: () => Promise.resolve(null),
  models: () => Promise.resolve([]),
  async stream(_site, work, signal) {
    const create = (params: object) => {
      // As it goes out.
      JSON.stringify(params);
      return { asResponse: () => new Promise<Response>(() => undefined) };
    };
    void work({ messages: { create } } as never, { signal, timeout: headersTimeoutMs }).asResponse();
    await Promise.resolve();
    return frames();
  },
  skewMs: () => 0,
};

async function* frames(): AsyncGenerator {
  await Promise.resolve();
  yield { type: "message_start", message: { id: "msg", usage: { input_tokens: 1 } } };
  yield { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } };
  yield { type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "pong" } };
  yield { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 1 } };
  yield { type: "message_stop" };
}

/** One message at a time, with everything in memory but the database, to the backend that sends what was said before along: what the program itself costs. */
export const latency = (stored: number, runs: number): Promise<Figure[]> => {
  const newId = (): string => crypto.randomUUID();
  const line = createMessagesLine({ api: pongApi, clock: systemClock, hasWebSearch: false, newId });
  const title = `with ${stored.toLocaleString("en-US")} messages in the chat`;
  return onScene(store(stored), { backend: "messages" }, (scene) => oneByOne(scene, title, runs), line);
};

/** The same, where the conversation is kept at Claude. */
export const latencyThere = (runs: number): Promise<Figure[]> =>
  onScene(
    () => undefined,
    {},
    (scene) => oneByOne(scene, "with the conversation at Claude", runs),
  );

async function oneByOne(scene: Scene, title: string, runs: number): Promise<Figure[]> {
  await connected(scene);
  const disk = countCommits(scene.daemon.store.db);
  const times: number[] = [];
  const statements: number[] = [];
  const commits: number[] = [];
  for (let run = -20; run < runs; run++) {
    disk();
    const from = performance.now();
    const { sentAt } = scene.signal.owner.write(`ping ${run}`);
    await nextText(scene.signal);
    const at = performance.now();
    // The last reaction is still on its way.
    const isMarked = (): boolean =>
      scene.signal.reactions().some(({ targetSentAt, emoji }) => targetSentAt === sentAt && emoji === "✅");
    await until(() => (isMarked() ? true : null));
    if (run < 0) continue;
    times.push(at - from);
    const count = disk();
    statements.push(count.statements);
    commits.push(count.commits);
  }
  const group = "stored";
  return [
    { group, name: `message to answer ${title}`, unit: "ms", values: times, target: 10 },
    { group, name: `statements per message ${title}`, unit: "statements", values: statements, target: 25 },
    { group, name: `commits per message ${title}`, unit: "commits", values: commits },
  ];
}

/**
 * Outages that last long, on a clock that moves when told; the daemon on this machine is tried once a second. What was written
 * meanwhile is answered as well.
 */
export async function recovery(outageMs: number, runs: number): Promise<Figure[]> {
  await using bench = await openBench();
  const isConnected = (): boolean => bench.state() === "CONNECTED";
  await bench.until("the line", isConnected);
  const connected: number[] = [];
  const answered: number[] = [];
  for (let run = 0; run < runs; run++) {
    bench.signal.faults.cut();
    await bench.until("the loss", () => !isConnected());
    bench.signal.owner.write(`while away ${run}`);
    await bench.pass(outageMs + (run / runs) * 1_000);
    bench.signal.faults.mend();
    const from = bench.clock.monotonic();
    await bench.until("the line", isConnected);
    connected.push(bench.clock.monotonic() - from);
    await bench.until("the answer", () => bench.texts().at(-1) === `re: while away ${run}`);
    answered.push(bench.clock.monotonic() - from);
  }
  const after = `after an outage of ${outageMs / 60_000} min (virtual clock)`;
  return [
    { group: "recovery", name: `line back → CONNECTED, ${after}`, unit: "ms", values: connected, target: 2000 },
    { group: "recovery", name: `line back → what waited is answered, ${after}`, unit: "ms", values: answered },
  ];
}

async function nextText(signal: MemorySignal): Promise<void> {
  for (;;) if ((await signal.next()).text === "pong") return;
}

const contextOf = (keys: number, word = ""): Context =>
  Object.fromEntries(
    Array.from({ length: keys }, (_, index): [string, JsonValue] => [`key_${index}`, { index, word, list: [1, 2, 3] }]),
  );

/** One sync of so many cached sessions of which a share changed at Claude while the line was down. */
export const syncCost = (cached: number, changedShare: number, runs: number): Promise<Figure[]> => {
  const idle = Date.now() - 20 * 24 * 3_600_000;
  const remoteIds: string[] = [];
  const fill = ({ sessions }: Store, claude: Scene["claude"]): void => {
    for (let index = 0; index < cached; index++) {
      const aci = `00000000-0000-4000-8000-${String(index).padStart(12, "0")}`;
      const context = { title: `chat ${index}` };
      const remote = claude.world.create(context.title, encodeMetadata(context, {}));
      sessions.create(`s${index}`, { kind: "direct", peer: { aci, number: null } }, "scripted", context, {}, idle);
      sessions.setRemote(`s${index}`, remote.id);
      sessions.setSynced(`s${index}`, remote.updatedAt === 0 ? null : new Date(remote.updatedAt).toISOString(), idle);
      remoteIds.push(remote.id);
    }
  };
  return onScene(fill, {}, async (scene) => {
    const remote = scene.claude.line.remote;
    if (!remote) throw new Error("the scripted backend has sessions");
    const count = { requests: 0 };
    const { retrieve, list, update } = remote;
    Object.assign(remote, {
      retrieve: (...args: Parameters<typeof retrieve>) => (count.requests++, retrieve(...args)),
      list: (...args: Parameters<typeof list>) => (count.requests++, list(...args)),
      update: (...args: Parameters<typeof update>) => (count.requests++, update(...args)),
    });
    await connected(scene);
    const requests: number[] = [];
    const times: number[] = [];
    for (let run = 0; run < runs; run++) {
      for (let index = 0; index < cached * changedShare; index++)
        scene.claude.world.say(remoteIds[index] ?? "", `news ${run}`);
      count.requests = 0;
      const from = performance.now();
      await scene.daemon.sync();
      times.push(performance.now() - from);
      requests.push(count.requests);
    }
    const name = `${cached.toLocaleString("en-US")} sessions, ${changedShare * 100} % changed`;
    return [
      { group: "sync", name, unit: "ms", values: times },
      { group: "sync", name, unit: "requests", values: requests },
    ];
  });
};

/** The pure half: what differs, and the merged whole, per second. */
export function synchronizer(keys: number, ms: number): Figure[] {
  const local = contextOf(keys);
  const remote = { ...local, ...contextOf(Math.ceil(keys / 10), "changed") };
  const diff = calculateDiff(local, remote);
  const rateOf = (work: () => unknown): number[] =>
    Array.from({ length: 5 }, () => {
      const from = performance.now();
      let count = 0;
      for (; performance.now() - from < ms / 5; count++) work();
      return (count / (performance.now() - from)) * 1000;
    });
  const group = "synchronizer";
  const title = `${keys.toLocaleString("en-US")} keys, 10 % differ`;
  return [
    { group, name: `calculateDiff, ${title}`, unit: "/s", values: rateOf(() => calculateDiff(local, remote)) },
    { group, name: `merge, ${title}`, unit: "/s", values: rateOf(() => merge(local, diff)) },
  ];
}
