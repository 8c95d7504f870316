/** The one reader of a session's log: what it tells, when it stops, and what it leaves alone. */
import { expect, test } from "bun:test";
import { BridgeError } from "../../src/core/errors.ts";
import { boundary } from "../doubles/clock.ts";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";
import type { Script } from "../doubles/scripted.ts";

const minuteMs = 60_000;
const two: Script = () => [{ ask: "bash", input: { command: "rm one" } }, { say: "done" }];
const promptsOf = (bench: Bench): number =>
  bench.world.sessions().flatMap(({ log }) => log.filter(({ type }) => type === "prompt")).length;

test("a stream that breaks off over and over says nothing about a turn that goes on: its person hears that it does, and the answer", async () => {
  const end = Promise.withResolvers<void>();
  await using bench = await openBench({ script: () => [{ hold: end.promise }, { say: "at last" }] });
  bench.signal.owner.write("a long one");
  await bench.until("the question", () => promptsOf(bench) === 1);
  for (let cut = 0; cut < 6; cut++) {
    await bench.pass(minuteMs);
    bench.world.cut();
  }
  end.resolve();
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts()).toEqual([expect.stringContaining("still at work on that"), "at last"]);
  expect(promptsOf(bench)).toBe(1);
});

const isAsked = (bench: Bench): boolean => bench.texts().some((text) => text.includes("rm one"));
const confirmations = (bench: Bench): number =>
  bench.world.sessions().flatMap(({ log }) => log.filter(({ type }) => type === "confirmation")).length;

test("a yes that is refused for good is over: no later life posts it again", async () => {
  await using bench = await openBench({ script: two });
  bench.signal.owner.write("work");
  await bench.until("the question", () => isAsked(bench));
  await bench.pass(1_000);
  bench.claude().fail("post", { kind: "refuse", code: "claude_request" });
  bench.signal.owner.write("yes");
  await bench.pass(minuteMs);
  await bench.kill();
  await bench.start();
  await bench.pass(minuteMs);
  expect(confirmations(bench)).toBe(0);
});

test("of a request that is refused, each part is told by itself: what can be stopped is stopped", async () => {
  await using bench = await openBench({ script: (prompt) => (prompt === "work" ? two(prompt) : [{ say: "here" }]) });
  bench.signal.owner.write("work");
  await bench.until("the question", () => isAsked(bench));
  await bench.pass(1_000);
  bench.claude().fail("post", { kind: "refuse", code: "claude_request" });
  bench.signal.owner.write("/stop");
  await bench.pass(minuteMs);
  expect(bench.world.sessions().map(({ status }) => status)).toEqual(["idle"]);
  expect(confirmations(bench)).toBe(1);
  bench.signal.owner.write("hello");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts().at(-1)).toBe("here");
});

test("a sync beside a post whose row cannot be read fails, and neither the process nor the post does", async () => {
  await using bench = await openBench({ script: () => [{ say: "done" }] });
  bench.signal.owner.write("first");
  await bench.until("an answer", () => isSettled(bench));
  bench.claude().fail("post", { kind: "hang" });
  bench.signal.owner.write("work");
  const isPosting = "SELECT 1 FROM posts WHERE state = 'posting'";
  await bench.until("the post", () => bench.life().look()?.get(isPosting) !== undefined);
  const { db } = bench.daemon().store;
  const { all } = db;
  db.all = (sql, ...params) => {
    if (!sql.includes("FROM posts WHERE session_id")) return all(sql, ...params);
    db.all = all;
    throw new BridgeError("database", "Cannot use the database");
  };
  // Forgets what was read before.
  db.exec("PRAGMA optimize");
  const failure: unknown = await bench
    .daemon()
    .sync()
    .catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: "database" });
  // With the end of the line what was to be caught up is given up, too.
  bench.claude().setDown(true);
  await bench.pass(5 * minuteMs);
  bench.claude().setDown(false);
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts().filter((text) => text === "done")).toHaveLength(2);
  expect(promptsOf(bench)).toBe(2);
  expect(bench.log.filter((line) => line.includes("fault in signalman itself"))).toEqual([]);
});

test("a turn of another device that runs as the line comes back is followed to its end", async () => {
  const end = Promise.withResolvers<void>();
  await using bench = await openBench({
    script: (prompt) => [{ hold: prompt === "elsewhere" ? end.promise : Promise.resolve() }, { say: `re: ${prompt}` }],
  });
  bench.signal.owner.write("here");
  await bench.until("an answer", () => isSettled(bench));
  await bench.kill();
  bench.world.post(bench.world.sessions()[0]?.id ?? "", "elsewhere");
  await bench.start();
  await bench.pass(5_000);
  end.resolve();
  await bench.pass(5_000);
  expect(bench.texts().at(-1)).toBe("re: elsewhere");
});

test("a question without an answer ends as a no, in a life that saw the clock set back", async () => {
  await using bench = await openBench({ script: two, flags: { approvalMinutes: "2" } });
  bench.signal.owner.write("work");
  await bench.until("the question", () => bench.texts().some((text) => text.includes("rm one")));
  bench.machine.wallOffsetMs -= 600 * minuteMs;
  await bench.pass(4 * minuteMs);
  await bench.until("its end", () => isSettled(bench));
  expect(bench.texts().some((text) => text.includes("not answered in time"))).toBe(true);
  expect(bench.texts().at(-1)).toBe("done");
});

/** Another device's turn dies; what the stream tells of it, and of all that follows, is held back until `tell`, or lost by `cut`. */
async function openDying() {
  const bench = await openBench({
    script: (prompt) =>
      prompt === "elsewhere" ? [{ fail: "x_error", retry: "exhausted" }] : [{ say: `re: ${prompt}` }],
  });
  bench.signal.owner.write("hello");
  await bench.until("an answer", () => isSettled(bench));
  const { line } = bench.claude();
  const { remote, post } = line;
  if (remote === null) throw new Error("no remote");
  const told = Promise.withResolvers<"told" | "cut">();
  // It dies after our log was read, and before our prompt comes.
  line.post = async (session, ...rest) => {
    bench.world.post(session.remoteId ?? "", "elsewhere");
    await boundary();
    return post(session, ...rest);
  };
  const { open, list } = remote;
  let isSplit = false;
  Object.assign(remote, {
    async open(...args: Parameters<typeof open>) {
      const frames = await open(...args);
      return (async function* () {
        for await (const frame of frames) {
          if ((await told.promise) === "cut") return;
          // Each by itself.
          await bench.clock.sleep(100, new AbortController().signal);
          yield frame;
        }
      })();
    },
    /** One entry a page, where it is wanted. */
    async *list(...args: Parameters<typeof list>) {
      for await (const page of list(...args)) yield* isSplit ? page.map((event) => [event]) : [page];
    },
  });
  return {
    bench,
    tell: () => told.resolve("told"),
    /** The stream ends, and the log is listed entry by entry. */
    cut(): void {
      Object.assign(remote, { open });
      isSplit = true;
      told.resolve("cut");
    },
    [Symbol.asyncDispose]: () => bench[Symbol.asyncDispose](),
  };
}
const own = (bench: Bench): number => bench.posts.filter((text) => text === "mine").length;
const isEchoed = (bench: Bench): boolean =>
  bench.daemon().store.posts.lastAsked(bench.daemon().store.sessions.active("self")?.id ?? "") === 2;

test("the flush of another turn that is heard after the echo of our prompt is not the prompt's: it is asked once", async () => {
  await using dying = await openDying();
  const { bench, tell } = dying;
  bench.signal.owner.write("mine");
  await bench.until("the post", () => own(bench) === 1 && isEchoed(bench));
  await bench.pass(1_000);
  tell();
  await bench.until("the answer", () => isSettled(bench));
  await bench.pass(minuteMs);
  expect(own(bench)).toBe(1);
  expect(bench.texts()).toEqual(["re: hello", "re: mine"]);
});

test("nor where a listing has it, page by page", async () => {
  await using dying = await openDying();
  const { bench, cut } = dying;
  bench.signal.owner.write("mine");
  await bench.until("the post", () => own(bench) === 1 && isEchoed(bench));
  await bench.pass(1_000);
  cut();
  await bench.until("the answer", () => isSettled(bench));
  await bench.pass(minuteMs);
  expect(own(bench)).toBe(1);
  expect(bench.texts()).toEqual(["re: hello", "re: mine"]);
});

test("what was made at Claude for a conversation that was forgotten meanwhile is deleted by the next sync", async () => {
  await using bench = await openBench();
  bench.signal.owner.write("hello");
  await bench.until("an answer", () => isSettled(bench));
  bench.signal.owner.write("/new");
  bench.claude().fail("create", { kind: "lose" });
  bench.claude().fail("find", { kind: "refuse", code: "claude_unreachable" });
  bench.signal.owner.write("again");
  await bench.until("the making", () => bench.world.sessions().length === 2);
  bench.signal.owner.write("/forget");
  await bench.until("its answer", () => bench.texts().some((text) => /delete|forg/iu.test(text)));
  await bench.pass(31 * minuteMs);
  expect(bench.world.sessions()).toHaveLength(1);
  const { settings } = bench.daemon().store;
  expect([...settings.idsOf("creating"), ...settings.idsOf("forget")]).toEqual([]);
});
