import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { SessionEvent, StopReason } from "../../src/core/model.ts";
import { findUncertain, inLogOrder, openLog, progressOf, readEntry, trackAll } from "../../src/core/turn.ts";

const prompt = (id: string, at: number | null, text = "hi"): SessionEvent => ({ id, at, type: "prompt", text });
const running = (at: number): SessionEvent => ({ id: `run${at}`, at, type: "running" });
const reply = (id: string, at: number): SessionEvent => ({ id, at, type: "reply", text: "…" });
const idle = (id: string, at: number, stop: StopReason = { kind: "end_turn" }): SessionEvent => ({
  id,
  at,
  type: "idle",
  stop,
});
const asks = (...eventIds: string[]): StopReason => ({ kind: "requires_action", eventIds });
const confirmation = (toolUseId: string, at: number | null): SessionEvent => ({
  id: `yes${toolUseId}`,
  at,
  type: "confirmation",
  toolUseId,
  isAllowed: true,
});
const exhausted: StopReason = { kind: "retries_exhausted" };

describe("trackAll", () => {
  const cases: readonly [name: string, log: readonly SessionEvent[], expected: object][] = [
    ["nothing in the log", [], { kind: "queued" }],
    ["queued", [prompt("p", null)], { kind: "queued" }],
    ["processed", [prompt("p", 5)], { kind: "running" }],
    ["running may come before the prompt that caused it", [running(4), prompt("p", 5)], { kind: "running" }],
    [
      "the stop after the prompt ends it",
      [prompt("p", 5), reply("r", 6), idle("i", 7)],
      { kind: "ended", stop: { kind: "end_turn" } },
    ],
    ["a stop before the prompt does not", [idle("i", 4), prompt("p", 5)], { kind: "running" }],
    ["nor one that arrives late", [prompt("p", 5), idle("i", 4)], { kind: "running" }],
    ["nor one while the prompt is queued", [prompt("p", null), idle("i", 4)], { kind: "queued" }],
    [
      "nor one that was there before, in the same millisecond, when it is repeated",
      [idle("i", 5), prompt("p", 5), idle("i", 5)],
      { kind: "running" },
    ],
    ["but a tie after the prompt does", [prompt("p", 5), idle("i", 5)], { kind: "ended" }],
    [
      "seen on the stream as queued only, and found processed in the listing",
      [prompt("p", null), running(5), reply("r", 6), idle("i", 7), prompt("p", 5), reply("r", 6), idle("i", 7)],
      { kind: "ended" },
    ],
    [
      "a flush that is heard after the prompt is seen, and left it in the queue, was that of another turn",
      [prompt("p", null), idle("i", 4, exhausted), idle("i", 4, exhausted), prompt("p", null)],
      { kind: "queued" },
    ],
    [
      "a flush after which the prompt is not in the queue any more was its own",
      [prompt("p", null), idle("i", 4, exhausted), idle("i", 4, exhausted)],
      { kind: "flushed" },
    ],
    ["a refusal is an end", [prompt("p", 5), idle("i", 6, { kind: "refusal" })], { kind: "ended" }],
    [
      "a prompt of another device in the same turn changes nothing",
      [prompt("p", 5), prompt("q", 6), idle("i", 7)],
      { kind: "ended" },
    ],
    ["a stop that waits for answers ends nothing", [prompt("p", 5), idle("i", 6, asks("a", "b"))], { kind: "running" }],
    [
      "the end after the answers does",
      [prompt("p", 5), idle("i", 6, asks("a")), confirmation("a", 7), idle("j", 8)],
      { kind: "ended" },
    ],
    [
      "an end that is older than the stop that waits is that of another turn",
      [prompt("p", 5), idle("i", 8, asks("a")), idle("j", 7)],
      { kind: "running" },
    ],
    ["died", [prompt("p", 5), idle("i", 6, exhausted)], { kind: "flushed" }],
    ["flushed from the queue", [prompt("p", null), idle("i", 6, exhausted)], { kind: "flushed" }],
    [
      "a flush before the prompt was there is not ours",
      [idle("i", 6, exhausted), prompt("p", null)],
      { kind: "queued" },
    ],
    [
      "a flush that turns out to be older than the prompt's processing",
      [prompt("p", null), idle("i", 6, exhausted), prompt("p", 8)],
      { kind: "running" },
    ],
    [
      "and in the same millisecond: the stop was there before",
      [prompt("p", null), idle("i", 6, exhausted), prompt("p", 6)],
      { kind: "running" },
    ],
    ["and one that does not", [prompt("p", null), idle("i", 6, exhausted), prompt("p", 5)], { kind: "flushed" }],
    [
      "an end is final",
      [prompt("p", 5), idle("i", 6), prompt("q", 7), idle("j", 8, asks("a"))],
      { kind: "ended", stop: { kind: "end_turn" } },
    ],
  ];
  for (const [name, log, expected] of cases)
    test(name, () => expect(trackAll(progressOf("p"), log)).toMatchObject(expected));

  test("of what is not in the log nothing is known", () => {
    const log = [prompt("p", 5), idle("i", 6), idle("j", 7, exhausted)];
    expect(trackAll(progressOf("none"), log).kind).toBe("queued");
  });

  test("a flush that was there before the prompt was sent is none of its own, however often a listing shows it again", () => {
    const before = trackAll(progressOf("none"), [prompt("o", 5), idle("i", 6, exhausted)]);
    const sent = trackAll(progressOf("p", before.facts.earlierStopIds), [prompt("p", null)]);
    const again = trackAll(sent, [idle("i", 6, exhausted), idle("j", 9)]);
    expect(again.kind).toBe("queued");
    expect(trackAll(again, [idle("k", 10, exhausted)]).kind).toBe("flushed");
  });

  test("is the same reference when nothing changes", () => {
    const done = trackAll(progressOf("p"), [prompt("p", 5), idle("i", 6)]);
    expect(trackAll(done, [idle("j", 9)])).toBe(done);
    const fresh = progressOf("p");
    expect(trackAll(fresh, [reply("r", 1)])).toBe(fresh);
  });
});

/** A log as a server writes it: turns with one or more prompts, questions, and an end each; times never fall, and often tie. */
const logs = fc
  .array(
    fc.record({
      prompts: fc.integer({ min: 1, max: 3 }),
      asks: fc.integer({ min: 0, max: 2 }),
      end: fc.constantFrom("end_turn", "budget_reached", "retries_exhausted"),
      steps: fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 16, maxLength: 16 }),
    }),
    { minLength: 1, maxLength: 4 },
  )
  .map((turns) => {
    const log: SessionEvent[] = [];
    let at = 100;
    let count = 0;
    for (const { prompts, asks: askCount, end, steps } of turns) {
      const next = (): number => (at += steps.shift() ?? 1);
      const add = (event: Record<string, unknown>): void =>
        void log.push({ id: `e${++count}`, at: next(), ...event } as SessionEvent);
      add({ type: "running" });
      for (let i = 0; i < prompts; i++) add({ type: "prompt", text: "ok" });
      for (let i = 0; i < askCount; i++) {
        add({ type: "tool_use", name: "bash", input: null, isAsk: true, isLocal: false });
        const toolUseId = `e${count}`;
        add({ type: "idle", stop: asks(toolUseId) });
        add({ type: "confirmation", toolUseId, isAllowed: true });
        add({ type: "running" });
      }
      add({ type: "reply", text: "fine" });
      add({ type: "idle", stop: { kind: end } });
    }
    return log;
  });

/** In stretches that overlap backwards, as a stream, a listing and a second look deliver them. */
const deliveries = (log: readonly SessionEvent[]) =>
  fc.array(fc.tuple(fc.nat(log.length), fc.nat(8)), { maxLength: 6 }).map((cuts) => {
    const seen: SessionEvent[] = [];
    let done = 0;
    for (const [to, back] of [...cuts.sort((a, b) => a[0] - b[0]), [log.length, 3] as const]) {
      if (to <= done) continue;
      seen.push(...log.slice(Math.max(0, done - back), to));
      done = to;
    }
    return seen;
  });

describe("trackAll, any log delivered any way", () => {
  const runs = logs.chain((log) =>
    fc.tuple(
      fc.constant(log),
      deliveries(log),
      fc.constantFrom(...log.filter((event) => event.type === "prompt").map(({ id }) => id)),
      fc.boolean(),
    ),
  );

  test("ends exactly with the first real stop after the prompt", () => {
    fc.assert(
      fc.property(runs, ([log, delivered, id, isSeenQueued]) => {
        const start = isSeenQueued ? trackAll(progressOf(id), [prompt(id, null, "ok")]) : progressOf(id);
        const mine = log.findIndex((event) => event.id === id);
        const tied = log.slice(0, mine).filter((event) => event.at === log[mine]?.at && event.type === "idle");
        // Seen queued, and a flush in the very millisecond in which it was processed: the next look at the listing decides.
        fc.pre(
          !isSeenQueued || !tied.some((event) => event.type === "idle" && event.stop.kind === "retries_exhausted"),
        );
        const after = log.slice(log.findIndex((event) => event.id === id));
        const stop = after.find((event) => event.type === "idle" && event.stop.kind !== "requires_action");
        const progress = trackAll(start, delivered);
        const kind = stop?.type === "idle" ? stop.stop.kind : "none";
        expect(progress).toMatchObject(
          kind === "retries_exhausted" ? { kind: "flushed" } : { kind: "ended", stop: { kind } },
        );
      }),
    );
  });

  test("never ends before that", () => {
    fc.assert(
      fc.property(runs, fc.nat(), ([log, , id], cut) => {
        const from = log.findIndex((event) => event.id === id);
        const length = log
          .slice(from)
          .findIndex((event) => event.type === "idle" && event.stop.kind !== "requires_action");
        const part = log.slice(0, from + (cut % (length + 1)));
        expect(["queued", "running"]).toContain(trackAll(progressOf(id), part).kind);
      }),
    );
  });

  test("a second delivery of the whole changes nothing", () => {
    fc.assert(
      fc.property(runs, ([log, , id]) => {
        const once = trackAll(progressOf(id), log);
        expect(trackAll(once, log).kind).toBe(once.kind);
      }),
    );
  });
});

describe("findUncertain", () => {
  const log = [
    prompt("a", 10, "ok"),
    reply("r", 11),
    prompt("b", 20, "ok"),
    prompt("c", 30, "else"),
    prompt("d", null, "ok"),
  ];
  const none = new Set<string>();
  test("takes the oldest that fits", () => expect(findUncertain("ok", 0, log, none)).toBe("a"));
  test("takes none that another prompt has", () => expect(findUncertain("ok", 0, log, new Set(["a"]))).toBe("b"));
  test("takes none that is older than the sending", () => expect(findUncertain("ok", 15, log, none)).toBe("b"));
  test("takes a queued one, whatever the time", () => expect(findUncertain("ok", 99, log, none)).toBe("d"));
  test("takes none with another text", () => expect(findUncertain("okay", 0, log, none)).toBeNull());
  test("takes no reply", () => expect(findUncertain("…", 0, log, none)).toBeNull());
  test("takes the processed one before the queued one, in whatever order they were found", () =>
    expect(findUncertain("ok", 15, log.toReversed(), none)).toBe("b"));

  test("maps equal prompts one to one, in order", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom("ok", "no"), { maxLength: 12 }), fc.nat(12), (texts, queued) => {
        const events = texts.map((text, i) => prompt(`e${i}`, i < texts.length - queued ? i : null, text));
        const mapped = new Set<string>();
        for (const [i, text] of texts.entries()) {
          const found = findUncertain(text, 0, events, mapped);
          expect(found).toBe(`e${i}`);
          mapped.add(found ?? "");
        }
        expect(findUncertain("ok", 0, events, mapped)).toBeNull();
      }),
    );
  });
});

test("inLogOrder keeps ties as they came and puts queued entries last", () => {
  const events = [prompt("a", null), prompt("b", 2), prompt("c", 1), prompt("d", 2), prompt("e", null)];
  expect(inLogOrder(events).map(({ id }) => id)).toEqual(["c", "b", "d", "a", "e"]);
});

describe("what a session waits for, by its log alone", () => {
  const use = (
    id: string,
    at: number,
    more: { isAsk?: boolean; isLocal?: boolean } = { isAsk: true },
  ): SessionEvent => ({
    id,
    at,
    type: "tool_use",
    name: "bash",
    input: null,
    isAsk: false,
    isLocal: false,
    ...more,
  });
  const error = (at: number, retry: "retrying" | "exhausted" | "terminal", code = "some_error"): SessionEvent => ({
    id: `err${at}`,
    at,
    type: "error",
    code,
    retry,
  });
  const read = (...log: SessionEvent[]) => log.reduce(readEntry, openLog);
  const waitsFor = (...log: SessionEvent[]): string[] => {
    const { uses, isWaiting } = read(...log);
    return isWaiting ? uses.map(({ id }) => id) : [];
  };
  const two = [use("a", 1), use("b", 2), idle("i", 3, asks("a", "b"))];

  test("a question is open where the session last stopped for it and nothing has answered it; one that was interrupted is not", () => {
    expect(waitsFor(...two)).toEqual(["a", "b"]);
    expect(waitsFor(...two, confirmation("a", 4))).toEqual(["b"]);
    expect(waitsFor(...two, confirmation("a", 4), confirmation("b", 5))).toEqual([]);
    expect(waitsFor(use("a", 1), use("b", 2), confirmation("a", 2), idle("i", 3, asks("a", "b")))).toEqual(["b"]);
    expect(waitsFor(...two, idle("j", 4))).toEqual([]);
    expect(waitsFor(...two, idle("j", 4), use("c", 5), idle("k", 6, asks("c")))).toEqual(["c"]);
  });
  test("a tool of ours waits for its result; what runs at Claude is not waited for", () => {
    const local = use("l", 1, { isLocal: true });
    const result = { id: "r", at: 3, type: "tool_result", toolUseId: "l", isError: false } as const;
    expect(waitsFor(local, use("x", 1, {}), idle("i", 2, asks("l")))).toEqual(["l"]);
    expect(waitsFor(local, idle("i", 2, asks("l")), result)).toEqual([]);
  });
  test("it waits only while it rests, and again where it rests again", () => {
    expect(waitsFor(use("a", 1))).toEqual([]);
    expect(waitsFor(...two, running(4))).toEqual([]);
    expect(waitsFor(...two, running(4), idle("j", 5, asks("a", "b")))).toEqual(["a", "b"]);
  });
  test("an error is overcome by a reply, by running again and by the end of a turn; not by the end that it caused", () => {
    const died = error(1, "exhausted");
    expect(read(error(1, "retrying")).error).toBeNull();
    expect(read(died, error(2, "retrying")).error).toMatchObject({ id: "err1" });
    expect(read(died, idle("i", 2, exhausted)).error).toMatchObject({ id: "err1" });
    for (const overcome of [reply("r", 2), running(2), idle("i", 2), idle("i", 2, asks("a"))])
      expect(read(died, overcome).error).toBeNull();
    expect(read(died, error(2, "terminal", "worse")).error).toMatchObject({ code: "worse" });
  });
});
