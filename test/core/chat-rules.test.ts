/** What holds of the chat whatever comes: its invariants, and the rules that its decisions keep. */
import { expect, test } from "bun:test";
import { checkChat, decide } from "../../src/core/chat.ts";
import type { Fact, Post, Prompt, View } from "../../src/core/changes.ts";
import type { ErrorCode } from "../../src/core/errors.ts";
import { promptBounds, type FaultClass } from "../../src/core/backoff.ts";
import {
  at,
  prompt,
  ask,
  session,
  viewOf,
  log,
  processed,
  idle,
  standings,
  withTwoAsks,
  received,
  edited,
  deleted,
  thumb,
  logged,
  failed,
  refused,
  gone,
  decided,
  changeOf,
  table,
} from "./chat-cases.ts";

test("one: at most one prompt is under way, and it is the oldest", () => {
  for (const view of Object.values(standings)) checkChat(view);
  const broken = (prompts: readonly Prompt[]) => () => checkChat(viewOf(prompts));
  expect(broken([prompt(1, "posted"), prompt(2, "queued")])).toThrow("one: at most one");
  expect(broken([prompt(1, null), prompt(2, "queued")])).toThrow("one: the prompt under way is the oldest");
});

test("asked: an open prompt is posted, or Claude waits for a person", () => {
  expect(() => checkChat(viewOf([prompt(1, null)]))).toThrow("asked:");
  expect(() => checkChat(viewOf([prompt(1, null)], { asks: [ask("a", 50)] }))).not.toThrow();
  // What an older version, or a crash, left lying goes on with the start.
  expect(decided(viewOf([prompt(1, null), prompt(2, null)]), { type: "started" })).toEqual(["ask 1"]);
  expect(decided(viewOf([prompt(1, null)], { asks: [ask("a", 50)] }), { type: "started" })).toEqual([]);
});

test("asked: a prompt under way in a conversation of another backend is asked anew with the start, and the person is told", () => {
  const left = { ...session, id: "other" };
  const post = { sessionId: "other", state: "posted", tries: {} } as const;
  const view = viewOf([prompt(1, null, { post })], { session: null, left });
  expect(decided(view, { type: "started" })).toEqual(["end other", "again 1 anew", "say gone other"]);
});

/** Every fact of this page, in every standing. */
const facts: readonly Fact[] = [
  ...Object.values(table).map(([, fact]) => fact),
  ...["yes", "no", "/stop", "/skip", "/new", "/new words", "/forget", "/resume 1", "/approve", "/retry"].map((words) =>
    received(words),
  ),
  edited(at + 1, "better"),
  edited(at + 2, "better"),
  edited(at + 1, "yes"),
  deleted(at + 1),
  deleted(at + 2),
  thumb(50),
  logged(idle({ kind: "end_turn" })),
  logged({ id: "x", at: at + 3, type: "terminated" }),
  ...(["claude_request", "claude_key", "claude_overloaded", "claude_stream_lost", "claude_failed"] as const).map(
    (code) => failed(code),
  ),
  { ...gone, isElsewhere: true },
  refused(2),
  refused(1, { isResult: true }),
  refused(2, { isResult: true }),
];
const views: readonly View[] = [
  ...Object.values(standings),
  withTwoAsks,
  viewOf([prompt(1, "posted"), prompt(2, null)], { turn: log(processed, idle({ kind: "end_turn" })) }),
  viewOf([prompt(1, "posted"), prompt(2, null)], { turn: log(processed, idle({ kind: "retries_exhausted" })) }),
  viewOf([prompt(1, "posted"), prompt(2, null)], { lastError: { code: "x", isTerminal: true } }),
  viewOf([prompt(1, null)], { asks: [ask("a", 50)] }),
  viewOf([], { session: null }),
];
const all = views.flatMap((view) => facts.map((fact) => [view, fact] as const));

test("settled: a prompt ends once, and its end is said or shown, unless its message is gone", () => {
  for (const [view, fact] of all) {
    const changes = decided(view, fact);
    const finished = changes.filter((line) => line.startsWith("finish"));
    const ids = finished.map((line) => line.split(" ")[1]);
    expect(new Set(ids).size).toBe(ids.length);
    const isGone =
      fact.type === "received" && (fact.envelope.content.kind === "delete" || fact.envelope.content.kind === "edit");
    for (const id of ids) {
      const isShown = changes.some((line) => line.startsWith(`finish ${id} `) && !line.endsWith(" unseen"));
      expect([changes, isShown || isGone]).toEqual([changes, true]);
    }
  }
});

test("asked: whatever comes, one prompt at most is posted, and only where nothing is under way and nothing waits for a person", () => {
  for (const [view, fact] of all) {
    const changes = decide(view, fact);
    const asked = changes.filter((change) => change.do === "ask");
    const ended = new Set(changes.flatMap((change) => (change.do === "finish" ? change.id : [])));
    const isBusy = view.head.some(({ id, post }) => post !== null && !ended.has(id));
    expect(asked.length).toBeLessThanOrEqual(isBusy ? 0 : 1);
    const opened = changes.flatMap((change) => (change.do === "open" ? change.id : []));
    const left = [
      ...view
        .prompts()
        .map(({ id }) => id)
        .filter((id) => !ended.has(id)),
      ...opened,
    ];
    const answered = changes.flatMap((change) => (change.do === "answer" ? change.use.id : []));
    const isOver = changes.some(
      (change) => change.do === "endSession" || change.do === "forget" || change.do === "resumeSession",
    );
    const isWaiting = !isOver && view.asks.some((open) => !answered.includes(open.use.id));
    if (!isBusy && !isWaiting) expect(asked.map(({ id }) => id)).toEqual(left.slice(0, 1));
  }
});

test("named: within a decision no two messages have the same reason, subject and part", () => {
  for (const [view, fact] of all) {
    const said = decide(view, fact).flatMap((change) =>
      change.do === "say" ? `${change.why} ${JSON.stringify(change.subject)} ${change.part}` : [],
    );
    expect(new Set(said).size).toBe(said.length);
  }
});

test("rule 3: a decision is a pure function of what it is told", () => {
  const deepFreeze = (value: unknown): unknown => {
    if (typeof value === "object" && value !== null && !(value instanceof Set)) {
      Object.freeze(value);
      Object.values(value).forEach(deepFreeze);
    }
    return value;
  };
  for (const [view, fact] of all) {
    deepFreeze(view);
    deepFreeze(fact);
    expect(decide(view, fact)).toEqual(decide(view, fact));
  }
});

/** The first fault of each class, as a request meets it. */
const faults: { readonly [Kind in Exclude<FaultClass, "answer">]: readonly [ErrorCode, Partial<View>] } = {
  refused: ["claude_request", {}],
  outage: ["claude_unreachable", {}],
  lookup: ["claude_stream_lost", {}],
  broken: ["claude_stream_lost", { isAskedAnew: true }],
  died: ["claude_failed", {}],
  busy: ["claude_busy", {}],
  fatal: ["claude_failed", { lastError: { code: "x", isTerminal: true } }],
};

test.each(Object.entries(faults) as [keyof typeof faults, readonly [ErrorCode, Partial<View>]][])(
  "rule 8: every retry counts, by the class of its fault, and has an end, in words: %s",
  (kind, [code, more]) => {
    let [told, tries]: [string | null, Post["tries"]] = [null, {}];
    for (let count = 1; count <= promptBounds[kind].triesMax; count++) {
      const view = viewOf([prompt(1, "posting", { told, post: { sessionId: "s", state: "posting", tries } })], more);
      const changes = decide(view, failed(code));
      const isLast = count === promptBounds[kind].triesMax;
      const again = changes.find((change) => change.do === "again");
      if (changes.some((change) => change.do === "finish") !== isLast || (again === undefined) !== isLast)
        throw new Error(`Try ${count} of ${kind}: ${JSON.stringify(changes)}`);
      if (isLast) {
        expect(changes.some((change) => change.do === "say")).toBe(true);
        expect(changes.find((change) => change.do === "finish")).toMatchObject({ outcome: "failed", envelope: {} });
      } else {
        expect([again?.tries[kind], (again?.waitMs ?? 0) > 0]).toEqual([count, true]);
        tries = again?.tries ?? {};
      }
      if (changes.some((change) => change.do === "tell")) told = code;
    }
  },
);

test("rule 8: an answer that Claude does not take is asked for again, as often as its class allows; then the turn is stopped, in words", () => {
  const { triesMax } = promptBounds.answer;
  for (const view of views)
    for (const isResult of [false, true])
      for (let count = 1; count <= triesMax; count++) {
        const changes = decide(view, refused(count, { isResult }));
        const isLast = count === triesMax;
        expect(changes.some((change) => change.do === "interrupt")).toBe(isLast);
        expect(changes.some((change) => change.do === "result")).toBe(isResult && !isLast);
        expect(changes.some((change) => change.do === "say")).toBe(!isResult || isLast);
      }
});

test("rule 8: faults of one class do not use up the tries of another", () => {
  const tries = { outage: 500, lookup: 300, died: 1 };
  const view = viewOf([prompt(1, "posting", { post: { sessionId: "s", state: "posting", tries } })]);
  expect(changeOf(view, failed("claude_unreachable"), "again")?.tries).toEqual({ ...tries, outage: 501 });
});
