/** What Claude asks a yes or no for, when, and what an answer means: views, facts, the changes in words. */
import { describe, expect, test } from "bun:test";
import { decide } from "../../src/core/chat.ts";
import type { Ask, Fact, Looked, View } from "../../src/core/changes.ts";
import { plainText } from "../../src/core/reply.ts";
import { owner } from "../doubles/chats.ts";
import {
  ask,
  at,
  decided,
  idle,
  log,
  logged,
  processed,
  quoting,
  received,
  session,
  standings,
  textsOf,
  thumb,
  together,
  use,
} from "./chat-cases.ts";

const stop = idle({ kind: "requires_action", eventIds: ["a"] });
const three = together(["a", "b", "c"]);
const waiting = (asks: readonly Ask[]): View => ({ ...standings.waiting, asks });
const unsaid = (ids: readonly string[]): Ask[] => ids.map((id) => ask(id, 0, { question: null, shown: [] }));
const sevenIds = ["a", "b", "c", "d", "e", "f", "g"];

describe("what asks at the same time is one question", () => {
  test("five things at most; the rest wait until all of it is answered", () => {
    const posted = { ...standings.posted, turn: log(processed, stop) };
    const asked = { ...posted, asks: unsaid(sevenIds) };
    expect(decided(asked, logged(stop))).toEqual(["say ask s:a,b,c,d,e", "wait 1"]);
    const open = [...together(["a", "b", "c", "d", "e"]).slice(4), ...unsaid(["f", "g"])];
    expect(decided(waiting(open), logged(stop))).toEqual([]);
    expect(decided(waiting(unsaid(["f", "g"])), logged(stop))).toEqual(["say ask s:f,g"]);
  });
  test("it has numbers, says how to answer, and what always would free", () => {
    const [text = ""] = textsOf({ ...standings.posted, asks: unsaid(["a", "b", "c"]) }, logged(stop));
    expect(text.split("\n")).toEqual([
      "Claude wants to do 3 things, as you asked “question 1”:",
      "",
      "1. run: make a",
      "2. run: make b",
      "3. run: make c",
      "",
      "In Claude's sandbox.",
      "👍 or yes for all 3, 👎 or no for none; by number: yes 1 3.",
      "♾️ or always: yes, and bash in this conversation without asking.",
    ]);
  });
  const looked = (ids: readonly string[], mayAlways = false): Fact => ({
    type: "looked",
    session,
    looked: ids.map((id): Looked => {
      const item = { what: `edit ${id}`, detail: "-a\n+b", where: "project garden", fileName: "change.diff" };
      return { use: use(id), item, basis: id, mayAlways, project: "garden" };
    }),
  });
  const called = (ids: readonly string[], more: Partial<View> = {}): View => ({
    ...standings.posted,
    calls: ids.map(use),
    ...more,
  });
  test("calls of our own tools likewise, looked at as soon as Claude rests", () => {
    expect(decided(called(["a"]), logged(stop))).toEqual(["look"]);
    expect(decided(called(sevenIds), looked(sevenIds))).toEqual([
      ...["a", "b", "c", "d", "e"].map((id) => `ask for ${id}`),
      "say ask s:a,b,c,d,e",
      "wait 1",
    ]);
    expect(textsOf(called(["a"]), looked(["a"], true))[0]).toEndWith(
      "👍 or yes, 👎 or no.\n♾️ or always: yes, and edits in garden for an hour without asking.",
    );
    expect(textsOf(called(["a"]), looked(["a"]))[0]).toEndWith("👍 or yes, 👎 or no.");
  });
  test("what was dropped while it was looked at is not asked; more is not while a question is open", () => {
    expect(decided(called([]), looked(["a"]))).toEqual([]);
    expect(decided(called(["b", "c"]), looked(["a", "b"]))[0]).toBe("ask for b");
    expect(decided(called(["b"], { asks: [ask("a", 50)] }), looked(["b"]))).toEqual([]);
  });
});

describe("an answer with numbers", () => {
  test.each([
    ["all", "yes", ["yes to a", "yes to b", "yes to c", "go on 1"]],
    ["none", "no", ["no to a", "no to b", "no to c", "go on 1"]],
    ["some, in their order", "yes 3, 1", ["yes to a", "yes to c", "say reminder s:a,b,c"]],
    ["one of them no", "no 2", ["no to b", "say reminder s:a,b,c"]],
    ["all by their numbers", "yes 1-3", ["yes to a", "yes to b", "yes to c", "go on 1"]],
    ["a number that there is not", "yes 1 4", ["say note 9"]],
    ["by command", "/approve 2", ["yes to b", "say reminder s:a,b,c"]],
    ["by command, no", "/deny 2 it is in use", ["no to b", "say reminder s:a,b,c"]],
    ["a yes with conditions is none", "/approve 2 but slowly", ["say command 9"]],
    ["always, one of them", "always 2", ["grant bash", "say note 9", "yes to b", "say reminder s:a,b,c"]],
  ] as const)("%s: %p", (_, text, then) => expect(decided(waiting(three), received(text))).toEqual([...then]));

  test("the rest keeps its numbers, and says so", () => {
    expect(textsOf(waiting(three), received("yes 1 3"))).toEqual([
      "Yes to 1, 3. Claude still waits for your yes or no:\n2. 🔧 run: make b",
    ]);
    const rest = waiting(three.filter(({ use: { id } }) => id === "b"));
    expect(textsOf(rest, received("yes 1"))).toEqual([
      "Not open, so nothing was done: 1. Claude still waits for your yes or no:\n2. 🔧 run: make b",
    ]);
    for (const fact of [received("yes"), received("yes 2"), thumb(50), quoting(50, "yes 2")])
      expect(decided(rest, fact)).toEqual(["yes to b", "go on 1"]);
  });
  test("Claude hears why it was no, of what it was no", () => {
    const confirmed = decide(waiting(three), received("no 2, use the other file")).flatMap((change) =>
      change.do === "answer" ? [[change.use.id, change.reason]] : [],
    );
    expect(confirmed).toEqual([["b", "The person said no. use the other file"]]);
  });
  test("without a question, numbers are words", () => {
    expect(decided(standings.nothing, received("yes 1"))).toEqual(["open 9", "ask 9"]);
    expect(decided(waiting(unsaid(["a", "b"])), received("yes 1"))[0]).toBe("open 9");
    expect(decided(standings.waiting, received("yes 1"))).toEqual(["yes to a", "go on 1"]);
  });
  test("what Signal did not take is said again whole, when the person writes and at half its time", () => {
    const text = "Claude wants to run 3 things";
    const body = plainText(text);
    const unsent = three.map((one) => ({
      ...one,
      shown: [],
      question: one.question && { ...one.question, unsent: body },
    }));
    expect(textsOf(waiting(unsent), received("yes"))).toEqual([text]);
    expect(decided(waiting(unsent), received("yes 2"))).toEqual(["open 9", "say ask s:a,b,c"]);
    const half: Fact = { type: "expired", askIds: ["a", "b", "c"], isLast: false };
    expect([decided(waiting(unsent), half), textsOf(waiting(unsent), half)]).toEqual([["say ask s:a,b,c"], [text]]);
  });
  test("a person is reminded of what is open", () =>
    expect(textsOf(waiting(three.slice(1)), received("hm"))).toEqual([
      "Claude still waits for your yes or no:\n2. 🔧 run: make b\n3. 🔧 run: make c\nYour message is answered after that.",
    ]));
});

describe("when a call of our own tool waits for a yes", () => {
  const ours = (id: string, mayAlways: boolean): Ask => ask(id, 50, { call: { project: "garden", mayAlways } });
  const call = (mayAlways: boolean, more: Partial<View> = {}): View => ({
    ...standings.waiting,
    asks: [ours("c", mayAlways)],
    ...more,
  });
  test.each([
    ["yes", call(true), received("yes"), ["c allowed by OWNER", "go on 1"]],
    ["no", call(true), received("no"), ["c dropped", "go on 1"]],
    [
      "always: edits of the project, for an hour",
      call(true),
      received("always"),
      ["edits in garden are free", "say note 9", "c allowed by OWNER", "go on 1"],
    ],
    [
      "always, to a command: this one",
      call(false),
      received("always"),
      ["say note 9", "c allowed by OWNER", "go on 1"],
    ],
    [
      "always, to a command and an edit",
      waiting(
        ["c", "d"].map((id, n) => ({
          ...ours(id, n > 0),
          question: { subject: { sessionId: "s", uses: ["c", "d"] }, number: n + 1, unsent: null },
        })),
      ),
      received("always"),
      ["edits in garden are free", "say note 9", "c allowed by OWNER", "d allowed by OWNER", "go on 1"],
    ],
    [
      "yes to one of two",
      waiting(together(["c", "d"], { call: { project: "garden", mayAlways: true } })),
      received("yes 2"),
      ["d allowed by OWNER", "say reminder s:c,d"],
    ],
    [
      "a yes of a person who is not the owner of this machine",
      call(true, { isOwner: () => false }),
      received("yes"),
      ["say note 9"],
    ],
    [
      "a plain yes before the phones had the question",
      call(true, { asks: [ask("c", 50, { shown: [{ sentAt: 50, at: at + 99 }] })] }),
      received("yes"),
      ["open 9", "say note 9"],
    ],
  ] as const)("%s", (_, view, fact, then) => {
    const changes = decided(view, fact).map((line) => line.replace(owner.aci ?? "", "OWNER"));
    expect(changes).toEqual([...then]);
  });
  test("/stop drops it: nothing runs for a person who has gone on to something else", () =>
    expect(decided(call(true, { calls: [ours("c", true).use] }), received("/stop"))).toContain("c dropped"));
  test("it expires as a question of Claude's does", () =>
    expect(decided(call(true), { type: "expired", askIds: ["c"], isLast: true })[0]).toBe("say expired s:c"));
});

describe("when a question waits long", () => {
  const half: Fact = { type: "expired", askIds: ["a"], isLast: false };
  test("after half of its time its person is reminded", () =>
    expect(decided(standings.waiting, half)).toEqual(["say reminder s:a"]));
  test("what was answered meanwhile does not expire", () => {
    expect(decided(standings.posted, half)).toEqual([]);
    expect(decided(standings.posted, { ...half, isLast: true })).toEqual([]);
  });
  test("several at once are one sentence", () => {
    const fact = { type: "expired", askIds: ["a", "b", "c"] } as const;
    expect(decided(waiting(three), { ...fact, isLast: false })).toEqual(["say reminder s:a,b,c"]);
    expect(decided(waiting(three), { ...fact, isLast: true })).toEqual([
      "say expired s:a,b,c",
      "no to a",
      "no to b",
      "no to c",
      "go on 1",
    ]);
  });
  test("one of two: Claude goes on waiting for the other", () =>
    expect(decided(waiting([ask("a", 50), ask("b", 51)]), { type: "expired", askIds: ["a"], isLast: true })).toEqual([
      "say expired s:a",
      "no to a",
    ]));
});
