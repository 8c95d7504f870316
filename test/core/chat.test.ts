/**
 * The chat as a specification: given how it stands, when a fact comes, then these changes. What the words mean: `core/changes.ts`.
 * The same decisions over a real database, in any order: `chat-model.test.ts`.
 */
import { describe, expect, test } from "bun:test";
import { owner, textContent } from "../doubles/chats.ts";
import { decide } from "../../src/core/chat.ts";
import type { Fact, Post, View } from "../../src/core/changes.ts";
import { BridgeError, toFault } from "../../src/core/errors.ts";
import { callsMax, promptBounds } from "../../src/core/backoff.ts";
import type { Session, SessionEvent, StopReason } from "../../src/core/model.ts";
import {
  at,
  session,
  prompt,
  use,
  ask,
  viewOf,
  log,
  processed,
  idle,
  running,
  standings,
  withTwoAsks,
  unsaid,
  subjectText,
  received,
  edited,
  deleted,
  thumb,
  quoting,
  logged,
  failed,
  refused,
  gone,
  reply,
  decided,
  textsOf,
  changeOf,
  table,
  type Standing,
} from "./chat-cases.ts";

describe.each(Object.values(table))("when %s", (_, fact, row) => {
  test.each(Object.entries(row) as [Standing, readonly string[]][])("given %s", (standing, then) => {
    expect(decided(standings[standing], fact)).toEqual([...then]);
  });
});

/** Where the turn of the prompt under way stands when entries come: everything that can become of it. */
const ends: { readonly [Kind in StopReason["kind"] | "nothing was said" | "flushed"]: readonly string[] } = {
  end_turn: ["finish 1 answered", "ask 2"],
  "nothing was said": ["say end 1", "finish 1 answered", "ask 2"],
  max_tokens: ["say end 1", "finish 1 answered", "ask 2"],
  cut: ["say end 1", "finish 1 answered", "ask 2"],
  other: ["finish 1 answered", "ask 2"],
  refusal: ["say end 1", "finish 1 failed", "ask 2"],
  context_exceeded: ["say end 1", "finish 1 failed", "ask 2"],
  budget_reached: ["say end 1", "finish 1 failed", "ask 2"],
  requires_action: [],
  retries_exhausted: ["again 1 anew"],
  flushed: ["again 1 anew"],
};

describe("when a turn stops", () => {
  const stops: { readonly [Kind in keyof typeof ends]: StopReason } = {
    end_turn: { kind: "end_turn" },
    "nothing was said": { kind: "end_turn" },
    max_tokens: { kind: "max_tokens" },
    cut: { kind: "cut" },
    other: { kind: "other", name: "something" },
    refusal: { kind: "refusal" },
    context_exceeded: { kind: "context_exceeded" },
    budget_reached: { kind: "budget_reached" },
    requires_action: { kind: "requires_action", eventIds: ["local"] },
    retries_exhausted: { kind: "retries_exhausted" },
    flushed: { kind: "retries_exhausted" },
  };
  test.each(Object.entries(ends) as [keyof typeof ends, readonly string[]][])("%s", (kind, then) => {
    const stop = idle(stops[kind]);
    const queued: SessionEvent = { ...processed, at: null };
    const view = viewOf([prompt(1, "posted"), prompt(2, null)], {
      turn: kind === "flushed" ? log(queued, stop) : log(processed, stop),
      hasReply: () => kind !== "nothing was said",
    });
    expect(decided(view, logged(stop))).toEqual([...then]);
  });
  test("a word of another session ends nothing", () => {
    const stop = idle({ kind: "end_turn" });
    const view = viewOf([prompt(1, "posted")], { turn: log(processed, stop) });
    expect(decided(view, { type: "logged", session: { ...session, id: "other" }, events: [stop] })).toEqual([]);
  });
  test("who is answered for the first time is welcomed, after the answer", () => {
    const stop = idle({ kind: "end_turn" });
    const view = viewOf([prompt(1, "posted")], { turn: log(processed, stop), isWelcome: () => false });
    expect(decided(view, logged(reply, stop))).toEqual([
      "say reply s:r",
      "finish 1 answered",
      `say welcome ${owner.aci}`,
      "welcome",
    ]);
  });
  test("where it was given up over and over, its person hears of it, and it is not tried again", () => {
    const tries = { died: promptBounds.died.triesMax - 1 };
    const stop = idle({ kind: "retries_exhausted" });
    const view = viewOf([prompt(1, "posted", { post: { sessionId: "s", state: "posted", tries } }), prompt(2, null)], {
      turn: log(processed, stop),
      lastError: { code: "unknown_error", isTerminal: false },
    });
    expect(decided(view, logged(stop))).toEqual(["say told 1", "finish 1 failed", "ask 2"]);
  });
});

describe("when entries of a log are new", () => {
  test("a reply takes the place of its prompt's preview, in as many messages as it needs", () => {
    const long: SessionEvent = { ...reply, type: "reply", text: "word ".repeat(2_000) };
    const said = decide(standings.posted, logged(long)).filter((change) => change.do === "say");
    expect(said.length).toBeGreaterThan(1);
    expect(said.map(({ part }) => part)).toEqual(said.map((_, part) => part));
    expect(said.every(({ draftOf, subject }) => draftOf === 1 && subjectText(subject) === "s:r")).toBe(true);
    expect(changeOf(standings.queued, logged(reply), "say")?.draftOf).toBeNull();
  });
  test("use of tools is shown to who wants to see it, and what is only asked for is not use", () => {
    const verbose = { ...session, context: { verbose: true } };
    const events = [{ ...use("t"), isAsk: false }, use("a")];
    expect(decided(standings.posted, { type: "logged", session: verbose, events })).toEqual(["say tool s:t"]);
    expect(decided(standings.posted, { type: "logged", session, events })).toEqual([]);
  });
  test("a question is said once, and its prompt waits", () => {
    const stop = idle({ kind: "requires_action", eventIds: ["a"] });
    const view = { ...standings.posted, turn: log(processed, stop), asks: [unsaid] };
    expect(decided(view, logged(stop))).toEqual(["say ask s:a", "wait 1"]);
    expect(decided({ ...standings.waiting, asks: [ask("a", 50)] }, logged(stop))).toEqual([]);
  });
  test("a question that another device answered is not waited for any more", () => {
    const yes: SessionEvent = { id: "y", at, type: "confirmation", toolUseId: "a", isAllowed: true };
    expect(decided({ ...standings.waiting, turn: running, asks: [] }, logged(yes))).toEqual(["go on 1"]);
  });
  test("the end of the session there is the end of the conversation here", () => {
    const over: SessionEvent = { id: "x", at: at + 3, type: "terminated" };
    expect(decided(standings.posted, logged(over))).toEqual(["end s", "again 1 anew", "say gone s"]);
    const ended: Session = { ...session, state: "ended" };
    expect(decided(viewOf([], { session: null }), { type: "logged", session: ended, events: [over] })).toEqual([]);
  });
});

describe("when a person takes something back", () => {
  const shown = (standing: Standing): string[] => decided(standings[standing], deleted(at + 1));
  test("what never went out is over without a word to Claude", () =>
    expect(shown("queued")).toEqual(["finish 1 cancelled unseen", "ask 2"]));
  test("what is out is stopped there", () => {
    expect(shown("posting")).toEqual(["interrupt 1", "finish 1 cancelled unseen", "ask 2"]);
    expect(shown("posted")).toEqual(["interrupt 1", "finish 1 cancelled unseen", "ask 2"]);
  });
  test("what waits for an answer is answered with no first", () =>
    expect(shown("waiting")).toEqual(["no to a", "interrupt 1", "finish 1 cancelled unseen", "ask 2"]));
  test("what waits behind goes without a stop of what is under way", () =>
    expect(decided(standings.posted, deleted(at + 2))).toEqual(["finish 2 cancelled unseen"]));
  test("what is not known, or is over, changes nothing", () =>
    expect(decided(standings.posted, deleted(at + 77))).toEqual([]));
  test("another person's deletion of the same millisecond takes nothing back", () => {
    const other = { aci: "b1a6c2f4-0d3e-4f5a-8c7b-9e1d2a3b4c5d", number: null };
    const fact = received({ kind: "delete", targetSentAt: at + 1 }, 0, { source: other });
    expect(decided(standings.posted, fact)).toEqual([]);
  });
});

describe("when a person edits a message", () => {
  test("the new version takes its place, behind the others", () => {
    expect(decided(standings.queued, edited(at + 1, "better"))).toEqual([
      "finish 1 cancelled unseen",
      "open 9",
      "ask 2",
    ]);
    expect(decided(viewOf([prompt(1, "posted")]), edited(at + 1, "better"))).toEqual([
      "interrupt 1",
      "finish 1 cancelled unseen",
      "open 9",
      "ask 9",
    ]);
  });
  test("its versions all name it", () => {
    const view = viewOf([prompt(1, "posted", { versions: [at + 1, at - 5] })]);
    expect(changeOf(view, edited(at - 5, "better"), "open")?.versions).toEqual([at + 9, at - 5, at + 1, at - 5]);
  });
  test("to a command, or to nothing: the message is over", () => {
    expect(decided(viewOf([prompt(1, "queued")]), edited(at + 1, "/status"))).toEqual([
      "finish 1 cancelled unseen",
      "say command 9",
    ]);
    expect(decided(viewOf([prompt(1, "queued")]), edited(at + 1, " "))).toEqual(["finish 1 cancelled unseen"]);
  });
  test("the same words again change nothing: a link's preview came later", () => {
    expect(decided(standings.posted, edited(at + 1, " question 1 "))).toEqual([]);
    expect(decided(viewOf([], { endedText: () => "old" }), edited(at - 7, "old"))).toEqual([]);
    expect(decided(viewOf([], { endedText: () => "old" }), edited(at - 7, "new"))).toEqual(["open 9", "ask 9"]);
  });
  test("to a yes that answers nothing: the message is over all the same", () => {
    expect(decided(viewOf([prompt(1, "queued")]), edited(at + 1, "/approve"))).toEqual([
      "finish 1 cancelled unseen",
      "say command 9",
    ]);
    expect(decided(withTwoAsks, edited(at + 2, "yes"))).toEqual(["finish 2 cancelled unseen", "say note 9"]);
  });
  test("to a yes, of what was written before the phones had the question: it is no answer, unless it points to it", () => {
    const view = { ...standings.waiting, asks: [ask("a", 50, { shown: [{ sentAt: 50, at: at + 5 }] })] };
    const old = { kind: "edit", targetSentAt: at - 7 } as const;
    expect(decided(view, edited(at - 7, "yes"))).toEqual(["open 9", "say note 9"]);
    const quote = { sentAt: 50, author: owner, text: "?" };
    const pointing = received({ ...old, body: textContent("yes", { quote }) });
    expect(decided(view, pointing)).toEqual(["yes to a", "go on 1"]);
    expect(decided(view, edited(at + 6, "yes"))).toEqual(["yes to a", "go on 1"]);
  });
  test("to a yes: the question is answered, and the message is over", () =>
    expect(decided(standings.waiting, edited(at + 2, "yes"))).toEqual([
      "finish 2 cancelled unseen",
      "yes to a",
      "go on 1",
    ]));
});

describe("when a person answers", () => {
  test.each([
    ["a plain yes", standings.waiting, received("yes"), ["yes to a", "go on 1"]],
    ["a plain no", standings.waiting, received("no"), ["no to a", "go on 1"]],
    ["a thumb on the question", standings.waiting, thumb(50), ["yes to a", "go on 1"]],
    ["a thumb down on one of two", withTwoAsks, thumb(51, "👎"), ["no to b"]],
    ["a yes quoting one of two", withTwoAsks, quoting(50), ["yes to a"]],
    ["a plain yes where two are open: which?", withTwoAsks, received("yes"), ["say note 9"]],
    ["a thumb on another message of ours", standings.waiting, thumb(4), []],
    ["a yes quoting another message of ours is a prompt", standings.waiting, quoting(4), ["open 9", "say note 9"]],
    ["a yes with nothing open is a prompt", standings.posted, received("yes"), ["open 9"]],
    ["a yes with nothing at all is asked", standings.nothing, received("yes"), ["open 9", "ask 9"]],
    ["/approve with nothing open says so", standings.posted, received("/approve"), ["say command 9"]],
    ["/approve", standings.waiting, received("/approve"), ["yes to a", "go on 1"]],
    ["/deny quoting another message", standings.waiting, quoting(4, "/deny"), ["say command 9"]],
  ] as const)("%s", (_, view, fact, then) => expect(decided(view, fact)).toEqual([...then]));

  const shownAt = (since: number | null, sentAt: number | null = 50) => ({
    ...standings.waiting,
    asks: [ask("a", 50, { shown: [{ sentAt, at: since }] })],
  });
  test.each([
    ["written before the phones had the question", shownAt(at + 10), received("yes"), "prompt"],
    ["that the server had before", shownAt(at + 5), received("yes", 9, { serverAt: at + 4 }), "prompt"],
    ["while the question waits to be sent", shownAt(null), received("yes"), "prompt"],
    ["by a thumb while its sending is not confirmed", shownAt(null), thumb(50), "answer"],
    ["where Signal's name of the question is not known", shownAt(at - 1, null), received("yes"), "answer"],
    [
      "to the one of two that was sent",
      { ...standings.waiting, asks: [ask("a", 50), ask("b", 51, { shown: [{ sentAt: 51, at: null }] })] },
      received("yes"),
      "answer",
    ],
    [
      "to a reminder",
      {
        ...standings.waiting,
        asks: [
          ask("a", 50, {
            shown: [
              { sentAt: 50, at: null },
              { sentAt: 60, at: at - 5 },
            ],
          }),
        ],
      },
      quoting(60),
      "answer",
    ],
    [
      "to a copy of the question, from a send whose outcome was unknown",
      { ...standings.waiting, asks: [ask("a", 50, { shown: [{ sentAt: null, at: null, copiesFrom: 55 }] })] },
      quoting(60),
      "answer",
    ],
    [
      "to what is another message of ours, though the clock was set back since",
      {
        ...standings.waiting,
        asks: [ask("a", 50, { shown: [{ sentAt: null, at: null, copiesFrom: 55 }] })],
        isSaid: (sentAt: number) => sentAt === 60,
      },
      quoting(60),
      "prompt",
    ],
  ] as const)("a yes %s", (_, view, fact, expected) => {
    const changes = decided(view, fact);
    expect(changes.includes("yes to a") ? "answer" : "prompt").toBe(expected);
    expect(changes.includes("open 9")).toBe(expected === "prompt");
  });
  test("always: its tool is not asked for again in this conversation", () => {
    expect(decided(standings.waiting, received("always"))).toEqual(["grant bash", "say note 9", "yes to a", "go on 1"]);
    const granted = { ...standings.posted, asks: [unsaid], granted: ["bash"] };
    expect(decided(granted, logged(use("a")))).toEqual(["yes to a"]);
    expect(decided({ ...granted, asks: [] }, received("/ask"))).toEqual([
      "edits in null are free",
      "grant ",
      "say command 9",
    ]);
  });
  test("Claude hears why it was no", () => {
    expect(changeOf(standings.waiting, received("no"), "answer")?.reason).toBe("The person said no.");
  });
  test("only what is short enough to be meant as an answer is told that Claude waits", () => {
    expect(textsOf(standings.waiting, received("well, perhaps"))).toEqual([expect.stringContaining("yes or no")]);
    expect(textsOf(standings.waiting, received("x".repeat(100)))).toEqual([]);
  });
});

describe("when Claude rests for our side", () => {
  const rest = (...eventIds: string[]): SessionEvent => idle({ kind: "requires_action", eventIds });
  const stopped = ["interrupt 1", "say end 1", "finish 1 failed"];
  test("for what nobody can answer: the turn is stopped, in words", () => {
    for (const stop of [rest(), rest("x")]) {
      const view = { ...standings.posted, turn: log(processed, stop), canAnswer: () => false };
      expect(decided(view, logged(stop))).toEqual([...stopped, "ask 2"]);
    }
    expect(
      decided(
        { ...standings.posted, canAnswer: () => false, turn: log({ ...processed, at: null }) },
        logged(rest("x")),
      ),
    ).toEqual([]);
  });
  test("once more after all that a prompt may call: the call is dropped, and the turn stopped", () => {
    const call = { ...use("c"), isAsk: false, isLocal: true };
    const view = (count: number): View => ({
      ...standings.posted,
      turn: log(processed, call, rest("c")),
      callCount: () => count,
    });
    expect(decided(view(callsMax - 1), logged(call, rest("c")))).toEqual(["call c"]);
    expect(decided(view(callsMax), logged(call, rest("c")))).toEqual(["call c", "c dropped", ...stopped, "ask 2"]);
  });
});

describe("when Claude does not take an answer", () => {
  test("its person is told which question to answer once more", () =>
    expect(textsOf(standings.posted, refused(1))).toEqual([expect.stringMatching(/^Claude did not take.*make a/u)]));
  test("a result goes once more, as one that could not be handed over", () =>
    expect(decided(standings.posted, refused(1, { isResult: true }))).toEqual([
      "unanswered 1",
      "result of a: The result of this call could not be handed over.",
    ]));
  test.each([false, true])("twice: the turn is stopped, and its person hears (a result: %p)", (isResult) => {
    const two = { ...standings.posted, asks: [ask("a", 50), ask("b", 51)] };
    expect(decided(two, refused(2, { isResult }))).toEqual([
      "unanswered 2",
      "no to b",
      "interrupt 1",
      "say refused s:a",
      "finish 1 failed",
    ]);
    expect(textsOf(two, refused(2, { isResult }))).toEqual([expect.stringContaining("twice")]);
  });
  test("the reason is told where it has words of its own", () => {
    const fault = toFault(new BridgeError("claude_context", "it is too long"));
    expect(textsOf(standings.posted, refused(2, { fault }))).toEqual([expect.stringContaining("too long")]);
  });
  test("of a turn of another device too", () =>
    expect(decided(viewOf([], { asks: [ask("a", 50)] }), refused(2))).toEqual([
      "unanswered 2",
      "interrupt a",
      "say refused s:a",
    ]));
  test.each([
    ["it was answered elsewhere", { use: null }],
    ["it is being stopped", { isStopped: true }],
    ["its conversation is over", { session: { ...session, state: "ended" } }],
  ] as const)("no other is wanted where %s", (_, more) =>
    expect(decided(standings.posted, refused(1, more))).toEqual(["no answer is wanted"]),
  );
});

describe("when a command comes", () => {
  const { look } = standings.nothing;
  const lastOfProject = () => ({ ...session, id: "before", project: "garden" });
  const withLast = { ...standings.nothing, look: { ...look, lastOfProject } };
  test.each([
    [
      "/stop ends what is under way",
      standings.posted,
      "/stop",
      ["interrupt 1", "finish 1 cancelled", "say command 9", "ask 2"],
    ],
    [
      "/stop where a question waits",
      standings.waiting,
      "/stop",
      ["no to a", "interrupt 1", "finish 1 cancelled", "say command 9", "ask 2"],
    ],
    ["/stop with nothing to stop", standings.nothing, "/stop", ["say command 9"]],
    [
      "/skip drops all",
      standings.posted,
      "/skip",
      ["interrupt 1", "finish 1 cancelled", "finish 2 cancelled", "say command 9"],
    ],
    [
      "/new ends the conversation",
      standings.posted,
      "/new",
      [
        "interrupt 1",
        "finish 1 cancelled",
        "finish 2 cancelled",

        "end s",
        "say command 9",
      ],
    ],
    [
      "/new with words asks them in a fresh one",
      standings.nothing,
      "/new what is new?",
      ["end s", "open 9", "say command 9", "ask 9"],
    ],
    ["/new chat asks nothing", standings.nothing, "/new chat", ["end s", "say command 9"]],
    ["/compact has nothing to do", standings.nothing, "/compact", ["say command 9"]],
    ["/resume #1", standings.nothing, "/resume #1", ["say command 9"]],
    [
      "/project opens one in a conversation of its own",
      standings.nothing,
      "/project garden",
      ["end s", "open project garden", "say command 9"],
    ],
    [
      "/project goes back to the last conversation about it",
      withLast,
      "/project garden",
      ["end s", "open project garden", "resume before", "say command 9"],
    ],
    ["/forget", standings.nothing, "/forget", ["forget s", "say command 9"]],
    ["/verbose on", standings.posted, "/verbose on", ["set verbose true", "say command 9"]],
    ["one that waits behind nothing: it changes no turn", standings.posted, "/status", ["say command 9"]],
    ["an unknown one", standings.posted, "/statsu", ["say command 9"]],
  ] as const)("%s", (_, view, words, then) => {
    const changes = decided(view, received(words));
    expect(changes.toSorted()).toEqual([...then].toSorted());
  });
  test("a conversation that another line would keep now is over with the next prompt, and stays as it is until then", () => {
    const view = viewOf([], { session: null, left: session });
    expect(decided(view, received("hello"))).toEqual(["end s", "open 9", "ask 9"]);
    expect(decided(view, received("/verbose on"))).toEqual(["end s", "set verbose true", "say command 9"]);
    expect(decided(view, received("/status"))).toEqual(["say command 9"]);
  });
  test("/new with a photo asks about the photo", () => {
    const file = {
      ref: "1",
      contentType: "image/png",
      fileName: null,
      sizeBytes: 9,
      isVoiceNote: false,
      isLongText: false,
    };
    const photo = textContent("/new", { attachments: [file] });
    expect(decided(standings.nothing, received(photo))).toContain("open 9");
  });
  test("a number is read with what people put around it", () =>
    expect(textsOf(standings.nothing, received("/resume #1."))).toEqual(["This is: this"]));
  test("/stop of a question that was asked elsewhere says no to it", () => {
    const view = viewOf([], { asks: [ask("a", 50)] });
    expect(decided(view, received("/stop"))).toEqual(["no to a", "say command 9"]);
  });
});

describe("when a request fails", () => {
  const tried = (tries: Post["tries"], more: Partial<View> = {}, told: string | null = null): View =>
    viewOf([prompt(1, "posting", { told, post: { sessionId: "s", state: "posting", tries } })], more);

  test("what passes within seconds is not told, what lasts is told once", () => {
    expect(decided(tried({}), failed("claude_overloaded"))).toEqual(["again 1 going on"]);
    expect(decided(tried({ outage: 2 }), failed("claude_overloaded"))).toEqual([
      "say told 1",
      "tell 1 claude_overloaded",
      "again 1 going on",
    ]);
    expect(decided(tried({ outage: 3 }, {}, "claude_overloaded"), failed("claude_overloaded"))).toEqual([
      "again 1 going on",
    ]);
  });
  test.each(["claude_key", "claude_settings", "claude_credit"] as const)(
    "what a person must mend is told at once: %s",
    (code) => expect(decided(tried({}), failed(code))).toContain("say told 1"),
  );
  test("what will never be taken ends at once", () =>
    expect(decided(tried({}), failed("claude_request"))).toEqual(["say told 1", "finish 1 failed"]));
  test("a session that waits for what its log does not show is stopped before the last try", () => {
    const busy = (count: number, more: Partial<View> = {}): string[] =>
      decided(
        viewOf([prompt(1, "queued", { post: { sessionId: "s", state: "queued", tries: { busy: count } } })], more),
        failed("claude_busy"),
      );
    expect(busy(0)).toEqual(["again 1 going on"]);
    expect(busy(1)).toEqual(["interrupt busy:1", "again 1 going on"]);
    expect(busy(1, { asks: [ask("a", 50)] })).toEqual(["again 1 going on"]);
    expect(busy(2)).toEqual(["say told 1", "finish 1 failed"]);
  });
  test("what is given up while Claude works on it is stopped there", () => {
    const tries = { lookup: promptBounds.lookup.triesMax - 1 };
    const view = viewOf([prompt(1, "posted", { post: { sessionId: "s", state: "posted", tries } })]);
    expect(decided(view, failed("claude_stream_lost"))).toEqual(["interrupt 1", "say told 1", "finish 1 failed"]);
  });
  test("who was told that an answer comes hears that none does", () =>
    expect(decided(tried({ outage: 5 }, {}, "claude_overloaded"), failed("claude_request"))).toContain("say failed 1"));
  test("the fault of a prompt that is over, or is not the oldest, changes nothing", () => {
    expect(decided(viewOf([prompt(2, "posting")]), failed("claude_overloaded"))).toEqual([]);
  });
  test("a wish of the server to wait is kept to", () => {
    const fault = toFault(new BridgeError("claude_rate_limited", "slow down", { retryAfterMs: 90_000 }));
    expect(changeOf(tried({}), { ...failed("claude_rate_limited"), fault } as Fact, "again")?.waitMs).toBe(90_000);
  });
  test("of a session that died of it, its person hears, and the next message starts a fresh one", () => {
    const view = tried({}, { lastError: { code: "fatal", isTerminal: true } });
    expect(decided(view, gone)).toEqual(["end s", "say told 1", "finish 1 failed"]);
  });
});

describe("after an absence", () => {
  const many = [1, 2, 3, 4].map((id) => prompt(id, id === 1 ? "queued" : null));
  test("much that waits is announced, once", () => {
    expect(decided(viewOf(many), { type: "back" })).toEqual(["say digest 4", "announced 4"]);
    expect(decided(viewOf(many, { announcedUpTo: () => 4 }), { type: "back" })).toEqual([]);
  });
  test("something old is, too; what is under way is not", () => {
    const later = { now: at + 3.5 * 3_600_000 };
    expect(textsOf(viewOf([prompt(1, "queued")], later), { type: "back" })).toEqual([
      expect.stringContaining("the oldest 3 h "),
    ]);
    expect(decided(viewOf([prompt(1, "posted")], later), { type: "back" })).toEqual([]);
  });
});
