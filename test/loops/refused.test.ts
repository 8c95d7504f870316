/** Claude does not take an answer of ours, a yes or a result: it is given again a counted number of times, and then over, in words. */
import { describe, expect, test } from "bun:test";
import type { Line, Request } from "../../src/claude/line.ts";
import { promptBounds } from "../../src/core/backoff.ts";
import { BridgeError, type ErrorCode } from "../../src/core/errors.ts";
import type { SessionEvent } from "../../src/core/model.ts";
import { createScriptedClaude, type Script } from "../doubles/scripted.ts";
import { openStage } from "../e2e/stage.ts";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";

const minuteMs = 60_000;
const script: Script = (prompt) =>
  prompt === "work"
    ? [{ ask: "bash", input: { command: "rm one" } }, { say: "worked" }]
    : prompt === "work twice"
      ? [{ asks: ["rm one", "rm two"].map((command) => ({ name: "bash", input: { command } })) }, { say: "worked" }]
      : prompt === "look"
        ? [{ call: "local_read", input: { file_path: "a" } }, { say: "looked" }]
        : [{ say: `re: ${prompt}` }];

/** Of these kinds the line refuses the first `times`; resolves to what it was asked. */
function refuse(bench: Bench, kind: Request["kind"], times: number, code: ErrorCode = "claude_request"): Request[] {
  const { line } = bench.claude();
  const { post } = line;
  const seen: Request[] = [];
  line.post = (session, requests, ...rest) => {
    const own = requests.filter((request) => request.kind === kind);
    seen.push(...own);
    if (own.length === 0 || seen.length > times) return post(session, requests, ...rest);
    return Promise.reject(new BridgeError(code, "Cannot post as Claude does not take it"));
  };
  return seen;
}
const isSaid = (bench: Bench, words: string) => (): boolean => bench.texts().some((text) => text.includes(words));
const stages = (bench: Bench): string[] =>
  bench.world
    .sessions()
    .flatMap(({ log }) =>
      log.flatMap((event) => (event.type === "confirmation" || event.type === "tool_result" ? event.type : [])),
    );

async function openAsking(times: number) {
  const bench = await openBench({ script });
  const seen = refuse(bench, "confirm", times);
  bench.signal.owner.write("work");
  await bench.until("the question", isSaid(bench, "rm one"));
  await bench.pass(1_000);
  bench.signal.owner.write("yes");
  await bench.until("the word", isSaid(bench, "answer once more"));
  await bench.pass(10 * minuteMs);
  return { bench, seen, [Symbol.asyncDispose]: () => bench[Symbol.asyncDispose]() };
}

test("a yes that Claude does not take is asked for once more, by its question; the second is taken", async () => {
  await using stage = await openAsking(1);
  const { bench, seen } = stage;
  expect(seen).toHaveLength(1);
  expect(bench.texts().slice(1)).toEqual([expect.stringMatching(/did not take that answer.*rm one/u)]);
  bench.signal.owner.write("yes");
  await bench.until("the end", () => isSettled(bench));
  expect(bench.texts().at(-1)).toBe("worked");
  expect(stages(bench)).toEqual(["confirmation", "tool_result"]);
});

test("a yes that Claude never takes is over after two, in words: the turn is stopped, and the next message is answered", async () => {
  await using stage = await openAsking(99);
  const { bench, seen } = stage;
  await bench.kill();
  await bench.start();
  const again = refuse(bench, "confirm", 99);
  await bench.until("the line", () => bench.state() === "CONNECTED");
  bench.signal.owner.write("yes");
  await bench.until("the end", () => isSettled(bench));
  await bench.pass(10 * minuteMs);
  expect(seen.length + again.length).toBe(2);
  expect(bench.texts().slice(2)).toEqual([expect.stringContaining("twice, so I have stopped it")]);
  expect(bench.world.sessions().map(({ status }) => status)).toEqual(["idle"]);
  bench.signal.owner.write("hello");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts().at(-1)).toBe("re: hello");
});

test("of a question with numbers each that was not taken is asked for once more", async () => {
  await using bench = await openBench({ script });
  // The two together, and then each by itself.
  refuse(bench, "confirm", 4);
  bench.signal.owner.write("work twice");
  await bench.until("the question", isSaid(bench, "rm two"));
  await bench.pass(1_000);
  bench.signal.owner.write("yes");
  await bench.until("the words", () => bench.texts().filter((text) => text.includes("once more")).length === 2);
  await bench.pass(1_000);
  bench.signal.owner.write("yes");
  await bench.until("the end", () => isSettled(bench));
  expect(bench.texts().at(-1)).toBe("worked");
});

test("a no of time alone that is never taken ends as well", async () => {
  await using bench = await openBench({ script, flags: { approvalMinutes: "2" } });
  const seen = refuse(bench, "confirm", 99);
  bench.signal.owner.write("work");
  await bench.until("the question", isSaid(bench, "rm one"));
  await bench.pass(20 * minuteMs);
  expect(seen).toHaveLength(2);
  expect(isSettled(bench)).toBe(true);
  expect(bench.texts().at(-1)).toContain("I have stopped it");
});

test("a result that Claude does not take goes once more, in a few words, and the turn goes on", async () => {
  await using bench = await openBench({ script });
  const seen = refuse(bench, "result", 1);
  bench.signal.owner.write("look");
  await bench.until("the end", () => isSettled(bench));
  expect(seen).toHaveLength(2);
  expect(seen[1]).toMatchObject({ isError: true, text: expect.stringContaining("could not be handed over") });
  expect(bench.texts()).toEqual(["looked"]);
});

test("a result that Claude never takes is over after two, in words, and no wake posts it again", async () => {
  await using bench = await openBench({ script });
  const seen = refuse(bench, "result", 99);
  bench.signal.owner.write("look");
  await bench.until("the end", () => isSettled(bench));
  for (let wake = 0; wake < 5; wake++) {
    bench.signal.owner.write("/status");
    await bench.pass(2 * minuteMs);
  }
  expect(seen).toHaveLength(2);
  expect(bench.texts().filter((text) => text.includes("twice, so I have stopped it"))).toHaveLength(1);
  bench.signal.owner.write("hello");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts().at(-1)).toBe("re: hello");
});

test("of a session that is over, nothing is wrong with the answer: what was asked there is asked anew", async () => {
  await using stage = await openAsking(1);
  const { bench } = stage;
  bench.world.archive(bench.world.sessions()[0]?.id ?? "");
  bench.signal.owner.write("yes");
  await bench.until("the question, in a fresh session", () => bench.world.sessions()[1]?.asks.length === 1);
  expect(bench.texts().some((text) => text.includes("closed elsewhere"))).toBe(true);
});

test("what a turn says that was taken back meanwhile is not told, where the conversation is kept here", async () => {
  const said = Promise.withResolvers<void>();
  let asked = 0;
  const stage = await openStage({
    flags: { reactions: "off" },
    line: (clock): Line => ({
      ...createScriptedClaude({ clock }).line,
      remote: null,
      async post(_session, requests, hear) {
        const [request] = requests;
        if (request?.kind !== "prompt") return;
        const at = clock.now();
        const id = `p${++asked}`;
        hear({ kind: "event", event: { id, at, type: "prompt", text: request.text } });
        // It heeds no signal.
        if (asked === 1) await said.promise;
        hear({ kind: "event", event: { id: `r${asked}`, at, type: "reply", text: `re: ${request.text}` } });
        hear({ kind: "event", event: { id: `i${asked}`, at, type: "idle", stop: { kind: "end_turn" } } });
      },
    }),
  });
  stage.write("first");
  await stage.pass(10);
  stage.write("/stop");
  await stage.pass(10);
  said.resolve();
  await stage.pass(10);
  stage.write("second");
  await stage.pass(60);
  expect(stage.texts()).toEqual(["Stopped.", "re: second"]);
  await stage.close();
});

/** The conversation is kept here: `look` calls a tool of ours, and its result fails with this. */
async function openKept(code: ErrorCode, partial?: string) {
  const asked: string[] = [];
  const stage = await openStage({
    flags: { reactions: "off" },
    line(clock): Line {
      let count = 0;
      const missing = (): Promise<never> => Promise.reject(new BridgeError("claude_models_unlisted", "Cannot list"));
      return {
        name: "messages",
        remote: null,
        hasSandbox: () => false,
        check: () => Promise.resolve(),
        models: missing,
        model: () => Promise.resolve(null),
        async post(_session, requests, hear) {
          const tell = (events: readonly SessionEvent[]): void =>
            events.forEach((event) => hear({ kind: "event", event }));
          asked.push(requests.map(({ kind }) => kind).join("+"));
          const at = clock.now();
          const entry = <E extends object>(event: E) => ({ id: `e${++count}`, at, ...event });
          const entries: SessionEvent[] = requests.flatMap((request): SessionEvent[] => {
            if (request.kind === "prompt") return [entry({ type: "prompt", text: request.text } as const)];
            const isError = true;
            return request.kind === "result"
              ? [entry({ type: "tool_result", toolUseId: request.toolUseId, isError } as const)]
              : [];
          });
          const end = (): SessionEvent => entry({ type: "idle", stop: { kind: "end_turn" } } as const);
          if (requests.some(({ kind }) => kind === "interrupt")) return tell([...entries, end()]);
          if (requests.some(({ kind }) => kind === "result"))
            throw new BridgeError(code, "Cannot ask Claude as it fails", { partial });
          if (!requests.some((request) => request.kind === "prompt" && request.text.endsWith("look")))
            return tell([...entries, entry({ type: "reply", text: "fine" } as const), end()]);
          const tool = { type: "tool_use", name: "local_read", input: {}, isAsk: false, isLocal: true } as const;
          const use = entry(tool);
          const stop = { kind: "requires_action", eventIds: [use.id] } as const;
          return tell([...entries, use, entry({ type: "idle", stop } as const)]);
        },
      };
    },
  });
  return { stage, asked, [Symbol.asyncDispose]: () => stage.close() };
}

test.each([
  ["claude_request", ["result", "result"], /twice, so I have stopped it/u],
  ["claude_context", ["result", "result"], /too long for the model/u],
  ["claude_stream_lost", ["result", "result", "result"], /broke off three times/u],
] as const)(
  "kept here: a result that fails with %s ends in words, after a counted number of requests",
  async (code, results, words) => {
    await using kept = await openKept(code);
    const { stage, asked } = kept;
    stage.write("look");
    await stage.pass(3_600);
    stage.write("/status");
    await stage.pass(600);
    expect(asked.filter((kinds) => !kinds.includes("interrupt"))).toEqual(["prompt", ...results]);
    expect(stage.texts().slice(0, -1)).toEqual([expect.stringMatching(words)]);
    stage.write("hello");
    await stage.pass(60);
    expect(stage.texts().at(-1)).toBe("fine");
  },
);

describe("rule 8: what no prompt of ours bears counts by itself, and has an end", () => {
  const triesOf = (bench: Bench) => bench.daemon().store.db.all("SELECT kind, state, tries FROM posts ORDER BY id");

  test.each(["/stop", "/new"])(
    "what ends a turn by %s, and is not taken, is over after the tries of its class",
    async (words) => {
      await using bench = await openBench({ script: (prompt) => [{ pauseMs: 60_000 }, { say: `re: ${prompt}` }] });
      const seen = refuse(bench, "interrupt", 99, "claude_busy");
      bench.signal.owner.write("long work");
      await bench.until("the work", () => bench.posts.length === 1);
      bench.signal.owner.write(words);
      await bench.pass(10 * minuteMs);
      expect(seen).toHaveLength(promptBounds.busy.triesMax);
      expect(triesOf(bench)[1]).toEqual({ kind: "interrupt", state: "done", tries: '{"busy":3}' });
      bench.signal.owner.write("hello");
      await bench.until("the answer", () => isSettled(bench));
      expect(bench.texts().at(-1)).toBe("re: hello");
    },
  );

  test("the end is the row's, and not the process's: a stop of a long outage goes on counting after a restart", async () => {
    await using bench = await openBench({ script: (prompt) => [{ pauseMs: 60_000 }, { say: `re: ${prompt}` }] });
    let seen = refuse(bench, "interrupt", Infinity, "claude_unreachable");
    bench.signal.owner.write("long work");
    await bench.until("the work", () => bench.posts.length === 1);
    bench.signal.owner.write("/stop");
    await bench.until("some tries", () => seen.length > 3);
    const { db } = bench.daemon().store;
    db.exec(`UPDATE posts SET tries = '{"outage":${promptBounds.outage.triesMax - 2}}' WHERE kind = 'interrupt'`);
    await bench.kill();
    const started = bench.start();
    seen = refuse(bench, "interrupt", Infinity, "claude_unreachable");
    await started;
    await bench.pass(30 * minuteMs);
    expect(seen).toHaveLength(2);
    expect(bench.daemon().store.posts.dueSessions()).toEqual([]);
  });

  test("a session that cannot be opened keeps the stop and the result that wait for it: they go out once it can", async () => {
    await using bench = await openBench({ script: (prompt) => [{ pauseMs: 60_000 }, { say: `re: ${prompt}` }] });
    const seen = refuse(bench, "interrupt", 1, "claude_unreachable");
    bench.signal.owner.write("long work");
    await bench.until("the work", () => bench.posts.length === 1);
    for (let count = 0; count < 5; count++) bench.claude().fail("open", { kind: "refuse", code: "claude_model" });
    bench.signal.owner.write("/stop");
    await bench.until("the stop", () => seen.length === 2);
    expect(triesOf(bench)[1]).toMatchObject({ kind: "interrupt", tries: expect.stringMatching(/"outage":[2-9]/u) });
    bench.signal.owner.write("hello");
    await bench.until("the answer", () => isSettled(bench));
    expect(bench.texts().at(-1)).toBe("re: hello");
  });

  test("a session that could not be reached for as long is given up in words, and the next prompt starts a fresh one", async () => {
    await using bench = await openBench({ script: (prompt) => [{ pauseMs: 60_000 }, { say: `re: ${prompt}` }] });
    const seen = refuse(bench, "interrupt", 3, "claude_unreachable");
    bench.signal.owner.write("long work");
    await bench.until("the work", () => bench.posts.length === 1);
    bench.signal.owner.write("/stop");
    await bench.until("a try", () => seen.length === 1);
    const { db } = bench.daemon().store;
    db.exec(`UPDATE posts SET tries = '{"outage":${promptBounds.outage.triesMax - 1}}' WHERE kind = 'interrupt'`);
    await bench.until("the word", isSaid(bench, "The next message starts a fresh one"));
    bench.signal.owner.write("hello");
    await bench.until("the answer", () => isSettled(bench) && bench.texts().at(-1) === "re: hello");
    expect(bench.world.sessions()).toHaveLength(2);
  });

  test("a yes to what another device's turn asks is asked for once more; then its turn is stopped, in words", async () => {
    await using bench = await openBench({ script });
    bench.signal.owner.write("hello");
    await bench.until("an answer", () => isSettled(bench));
    const session = bench.world.sessions()[0];
    bench.world.post(session?.id ?? "", "work");
    await bench.until("the question", isSaid(bench, "rm one"));
    await bench.pass(1_000);
    const seen = refuse(bench, "confirm", 99, "claude_busy");
    bench.signal.owner.write("yes");
    await bench.until("the word", isSaid(bench, "answer once more"));
    expect(seen).toHaveLength(promptBounds.busy.triesMax);
    await bench.pass(1_000);
    bench.signal.owner.write("yes");
    await bench.until("the end", isSaid(bench, "twice, so I have stopped it"));
    await bench.pass(10 * minuteMs);
    expect(seen.length).toBeLessThanOrEqual(2 * promptBounds.busy.triesMax);
    expect(session?.status).toBe("idle");
    expect(bench.daemon().store.posts.dueSessions()).toEqual([]);
    bench.signal.owner.write("and now?");
    await bench.until("the answer", () => isSettled(bench));
    expect(bench.texts().at(-1)).toBe("re: and now?");
  });

  test.each(["ours", "another device's"])(
    "where Claude took neither the results nor the stop of a turn of %s, it is asked all the same, stopped once more, and answers",
    async (whose) => {
      await using bench = await openBench({ script });
      bench.signal.owner.write("hello");
      await bench.until("an answer", () => isSettled(bench));
      const results = refuse(bench, "result", 99);
      const stops = refuse(bench, "interrupt", 1);
      if (whose === "ours") bench.signal.owner.write("look");
      else bench.world.post(bench.world.sessions()[0]?.id ?? "", "look");
      await bench.until("the refused stop", () => stops.length === 1);
      bench.signal.owner.write("and now?");
      await bench.until("the answer", () => isSettled(bench) && bench.texts().at(-1) === "re: and now?");
      expect([results.length, stops.length]).toEqual([2, 2]);
      expect(bench.world.sessions()).toHaveLength(1);
    },
  );

  test("a stopped session that does not come to rest is waited for some minutes; then Claude says whether it takes a prompt", async () => {
    await using bench = await openBench({
      // It goes on with its tools: the stream is not silent.
      script: (prompt) =>
        prompt === "long"
          ? Array.from({ length: 200 }, () => [{ pauseMs: 20_000 }, { use: "bash", input: {} }]).flat()
          : [{ say: `re: ${prompt}` }],
    });
    const { line } = bench.claude();
    const { post } = line;
    let looks = 0;
    // Taken, and nothing comes of it.
    line.post = (view, requests, ...rest) =>
      requests.some(({ kind }) => kind === "interrupt") ? Promise.resolve() : post(view, requests, ...rest);
    const { remote } = line;
    if (remote === null) throw new Error("The scripted line keeps its log elsewhere");
    const { retrieve } = remote;
    Object.assign(remote, {
      retrieve: (...args: Parameters<typeof retrieve>) => {
        looks++;
        return retrieve(...args);
      },
    });
    bench.signal.owner.write("long");
    await bench.until("the work", () => bench.posts.length === 1);
    bench.signal.owner.write("/stop");
    bench.signal.owner.write("next");
    await bench.pass(3 * minuteMs);
    expect(bench.posts).toEqual(["long"]);
    await bench.pass(7 * minuteMs);
    expect(bench.posts).toEqual(["long", "next"]);
    expect(looks).toBeLessThan(200);
  });
});
