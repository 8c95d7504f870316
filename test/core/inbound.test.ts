import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  decide,
  inboxKey,
  isPerson,
  oneLine,
  spokenText,
  withNames,
  type AllowRule,
  type InboundOptions,
} from "../../src/core/inbound.ts";
import type { Account, Address, Content, Envelope, TextContent } from "../../src/core/model.ts";
import { planFiles } from "../../src/core/prompt.ts";

const own: Account = { aci: "7d3c1e90-5b0f-4c43-9a7e-2f6b8d1c0a11", number: "+15550100001", deviceId: 2 };
const alice = { aci: "b1a6c2f4-0d3e-4f5a-8c7b-9e1d2a3b4c5d", number: "+15550100002" };
const group = "I/ikF3jXX5A3ygXVGxesR3UWsIQnfR5uzwFgxHaVZFs=";

const text = (body: string, more: Partial<TextContent> = {}): TextContent => ({
  kind: "text",
  text: body,
  quote: null,
  mentions: [],
  attachments: [],
  expiresInSeconds: 0,
  isViewOnce: false,
  ...more,
});
const envelope = (content: Content, more: Partial<Envelope> = {}): Envelope => ({
  source: alice,
  sourceDevice: 1,
  sentAt: 1_786_953_630_000,
  serverAt: null,
  chat: { kind: "direct", peer: alice },
  isOwn: false,
  sourceName: "Alice",
  content,
  ...more,
});
const file = {
  ref: "1",
  contentType: "image/png",
  fileName: null,
  sizeBytes: 1,
  isLongText: false,
  isVoiceNote: false,
};
const ask = (what: Envelope, allow: AllowRule[], more: Partial<InboundOptions> = {}) =>
  decide(what, { account: own, allow, questions: [], isGroupAlways: false, ...more });
const writtenAt = 1_786_953_630_000;
/** On the phones a minute before the envelopes here were written. */
const open = { sentAt: 5, shownAt: writtenAt - 60_000 };
const questions = [open];
const byAci: AllowRule[] = [{ kind: "aci", aci: alice.aci }];
const toGroup = { chat: { kind: "group", id: group } as const };
const mention = { start: 0, length: 1, who: own };

describe("access is denied by default", () => {
  test("a stranger is dropped, whatever is on the list for others", () => {
    const other: AllowRule[] = [
      { kind: "self" },
      { kind: "number", number: "+15550100009" },
      { kind: "group", id: group },
    ];
    expect(ask(envelope(text("hi")), other)).toEqual({ kind: "drop", reason: "not on the allow list" });
  });
  test("an empty list lets nobody in, the owner included", () => {
    const note = envelope(text("hi"), { chat: { kind: "self" }, isOwn: true, source: own });
    expect(ask(note, []).kind).toBe("drop");
    expect(ask(note, [{ kind: "self" }]).kind).toBe("prompt");
  });
  test("a person is let in by ACI, or by number where the number is known", () => {
    expect(ask(envelope(text("hi")), byAci).kind).toBe("prompt");
    expect(ask(envelope(text("hi")), [{ kind: "number", number: alice.number }]).kind).toBe("prompt");
    const hidden = envelope(text("hi"), { source: { aci: alice.aci, number: null } });
    expect(ask(hidden, [{ kind: "number", number: alice.number }]).kind).toBe("drop");
    expect(isPerson({ aci: null, number: null }, [...byAci, { kind: "number", number: alice.number }])).toBe(false);
  });
  test("what the owner writes to other people is not for us", () => {
    const transcript = envelope(text("see you"), { isOwn: true, source: own });
    expect(ask(transcript, [{ kind: "self" }, ...byAci])).toEqual({ kind: "drop", reason: "own message to others" });
  });
  test("a sender nobody could determine is dropped", () => {
    expect(ask(envelope(text("hi"), { source: null }), byAci)).toEqual({ kind: "drop", reason: "unknown sender" });
  });
  test("an allowed person gets nothing in a group that is not listed", () => {
    const inGroup = envelope(text("\uFFFC hi", { mentions: [mention] }), toGroup);
    expect(ask(inGroup, byAci)).toEqual({ kind: "drop", reason: "group not on the allow list" });
  });
  test("group ids are compared to the letter", () => {
    const inGroup = envelope(text("\uFFFC hi", { mentions: [mention] }), toGroup);
    expect(ask(inGroup, [{ kind: "group", id: group.toLowerCase() }]).kind).toBe("drop");
  });
});

test("what may be seen once is a prompt that says so, and its file is not for a machine that keeps its inbox", () => {
  const body = text("", { isViewOnce: true, attachments: [{ ...file, isVoiceNote: true }, file] });
  expect(ask(envelope(text("", { isViewOnce: true })), byAci).kind).toBe("prompt");
  expect(planFiles(body)).toEqual({ fetch: [], voice: [], refused: [expect.stringContaining("only once")] });
});

describe("in a listed group", () => {
  const rules: AllowRule[] = [{ kind: "group", id: group }];
  test("members ask by mention or by quoting us; other talk is dropped", () => {
    expect(ask(envelope(text("lunch?"), toGroup), rules)).toEqual({
      kind: "drop",
      reason: "group talk without a mention",
    });
    expect(ask(envelope(text("\uFFFC lunch?", { mentions: [mention] }), toGroup), rules).kind).toBe("prompt");
    const quoting = text("and then?", { quote: { sentAt: 1, author: own, text: "first" } });
    expect(ask(envelope(quoting, toGroup), rules).kind).toBe("prompt");
    expect(ask(envelope(text("lunch?"), toGroup), rules, { isGroupAlways: true }).kind).toBe("prompt");
  });
  test("a command is found behind the mention", () => {
    const command = envelope(text("\uFFFC /new now", { mentions: [mention] }), toGroup);
    expect(ask(command, rules)).toEqual({ kind: "command", name: "new", argument: "now", replaces: null });
  });
  test("a member who is not on the list by name cannot approve", () => {
    const answer = envelope(text("\uFFFC yes", { mentions: [mention] }), toGroup);
    expect(ask(answer, rules, { questions }).kind).toBe("prompt");
    expect(ask(answer, [...rules, ...byAci], { questions }).kind).toBe("approval");
  });
});

describe("what an allowed message is", () => {
  test("yes and no answer only while a question is open", () => {
    expect(ask(envelope(text("Yes.")), byAci).kind).toBe("prompt");
    const approval = { kind: "approval", targetSentAt: 5, reason: null, replaces: null } as const;
    expect(ask(envelope(text("Yes.")), byAci, { questions })).toEqual({ ...approval, answer: "yes" });
    const down = { kind: "reaction", emoji: "👎", targetAuthor: own, targetSentAt: 5, isRemove: false } as const;
    expect(ask(envelope(down), byAci, { questions })).toEqual({ ...approval, answer: "no" });
    expect(ask(envelope(text("no, use the other folder")), byAci, { questions })).toEqual({
      ...approval,
      answer: "no",
      reason: "use the other folder",
    });
    expect(ask(envelope({ ...down, emoji: "♾️" }), byAci, { questions })).toEqual({ ...approval, answer: "always" });
    expect(ask(envelope({ ...down, isRemove: true }), byAci, { questions }).kind).toBe("ignore");
    expect(ask(envelope(text("yes, and add a test")), byAci, { questions }).kind).toBe("prompt");
  });
  const quoting = (sentAt: number, author: Address = own) => text("yes", { quote: { sentAt, author, text: "?" } });
  const thumb = (targetSentAt: number, targetAuthor: Address = own): Content => ({
    kind: "reaction",
    emoji: "👍",
    targetAuthor,
    targetSentAt,
    isRemove: false,
  });
  const unsent = { sentAt: null, shownAt: null };
  const another = { sentAt: 6, shownAt: writtenAt - 30_000 };
  test.each([
    ["a yes quoting the question", quoting(5), {}, questions, "approval 5"],
    ["a yes quoting another message of ours", quoting(4), {}, questions, "prompt"],
    ["a yes quoting somebody's message of the same millisecond", quoting(5, alice), {}, questions, "prompt"],
    ["a thumb on the question", thumb(5), {}, questions, "approval 5"],
    ["a thumb on another message of ours", thumb(4), {}, questions, "ignore"],
    ["a thumb on somebody's message of the same millisecond", thumb(5, alice), {}, questions, "ignore"],
    ["a yes written before the question was sent", text("yes"), { sentAt: open.shownAt - 1 }, questions, "prompt"],
    ["a yes that the server had before", text("yes"), { serverAt: open.shownAt - 1 }, questions, "prompt"],
    ["a yes while the question waits to be sent", text("yes"), {}, [unsent], "prompt"],
    ["a yes to the one that was sent", text("yes"), {}, [open, unsent], "approval 5"],
    ["a yes before the second question", text("yes"), { sentAt: another.shownAt - 1 }, [open, another], "approval 5"],
    ["a yes where two are open", text("yes"), {}, [open, another], "approval null"],
    ["a yes quoting one of two", quoting(6), {}, [open, another], "approval 6"],
    ["/approve with one open", text("/approve"), {}, questions, "approval 5"],
    ["/approve with none open", text("/approve"), {}, [], "approval null"],
    ["/approve written before the question was sent", text("/approve"), { sentAt: 1 }, questions, "approval null"],
    ["/approve quoting another message", { ...quoting(4), text: "/approve" }, {}, questions, "approval null"],
  ] as const)("%s", (_, content, more, questions, expected) => {
    const decision = ask(envelope(content, more), byAci, { questions });
    expect(decision.kind === "approval" ? `approval ${decision.targetSentAt}` : decision.kind).toBe(expected);
  });
  test("an edit replaces, a deletion withdraws", () => {
    expect(ask(envelope({ kind: "edit", targetSentAt: 7, body: text("better") }), byAci)).toEqual({
      kind: "prompt",
      replaces: 7,
    });
    expect(ask(envelope({ kind: "delete", targetSentAt: 7 }), byAci)).toEqual({ kind: "withdraw", targetSentAt: 7 });
  });
  test.each([
    ["a command", text("/help"), { kind: "command", name: "help", argument: "", replaces: 7 }],
    ["a yes", text("yes"), { kind: "approval", answer: "yes", reason: null, targetSentAt: 5, replaces: 7 }],
    ["nothing", text(" "), { kind: "withdraw", targetSentAt: 7 }],
  ] as const)("an edit that becomes %s takes the prompt back", (_, body, expected) => {
    expect(ask(envelope({ kind: "edit", targetSentAt: 7, body }), byAci, { questions })).toEqual(expected);
  });
  test("an edit that loses the mention takes the prompt back", () => {
    const rules: AllowRule[] = [{ kind: "group", id: group }];
    const edit = envelope({ kind: "edit", targetSentAt: 7, body: text("lunch?") }, toGroup);
    expect(ask(edit, rules)).toEqual({ kind: "withdraw", targetSentAt: 7 });
  });
  test("what has no words of its own is a prompt where it is something, and else met with a sentence", () => {
    const quote = { sentAt: 1, author: alice, text: "How late is it?" };
    expect(ask(envelope(text("", { quote })), byAci).kind).toBe("prompt");
    const photo = { ...quote, text: null, described: "a photo" };
    expect(ask(envelope(text("", { quote: photo })), byAci).kind).toBe("prompt");
    expect(ask(envelope(text("   ")), byAci)).toMatchObject({ kind: "hint", text: expect.stringContaining("nothing") });
  });
  test("a path is not a command, a word that is no command's name is one only by itself", () => {
    expect(ask(envelope(text("/tmp is full, what can I delete?")), byAci).kind).toBe("prompt");
    expect(ask(envelope(text("/nwe")), byAci)).toMatchObject({ kind: "command", name: "nwe" });
  });
  test("receipts, typing, timers and empty messages need nothing, a path is not a command", () => {
    for (const content of [
      { kind: "typing", isTyping: true },
      { kind: "timer", expiresInSeconds: 60 },
      { kind: "empty", what: "group update" },
      { kind: "receipt", receipt: "read", sentAts: [1] },
    ] as const)
      expect(ask(envelope(content), byAci).kind).toBe("ignore");
    expect(ask(envelope(text("/etc/hosts is what?")), byAci).kind).toBe("prompt");
  });
  test("what nobody has seen and what cannot be decrypted is dropped, never thrown", () => {
    expect(ask(envelope({ kind: "unknown", what: "hologram" }), byAci).kind).toBe("drop");
    expect(ask(envelope({ kind: "undecryptable", code: "NoSession", isIdentityChange: false }), byAci).kind).toBe(
      "drop",
    );
  });
});

test("the identity of a message is account, sender, device, time and kind, never the text", () => {
  const first = inboxKey(envelope(text("one")), own);
  expect(inboxKey(envelope(text("two")), own)).toBe(first);
  expect(inboxKey(envelope(text("one"), { sourceDevice: 2 }), own)).not.toBe(first);
  expect(inboxKey(envelope({ kind: "delete", targetSentAt: 1 }), own)).not.toBe(first);
});

test("Claude reads no mention of ourselves, and a word where others are mentioned", () => {
  const others = [mention, { start: 6, length: 1, who: alice }, { start: 12, length: 1, who: alice }];
  expect(spokenText(text("\uFFFC ask \uFFFC and \uFFFC", { mentions: others }), own)).toBe("ask @someone and @someone");
  const names = (who: Address) => (who === alice ? "Alice\n\u202E:" : null);
  expect(spokenText(text("\uFFFC ask \uFFFC and \uFFFC", { mentions: others }), own, names)).toBe(
    "ask @Alice : and @Alice :",
  );
  const odd = [
    { start: 2, length: 1, who: alice },
    { start: 9, length: 5, who: alice },
    { start: -1, length: 1, who: alice },
  ];
  expect(withNames("🎉\uFFFC ok\uFFFC", odd, own)).toBe("🎉@someone ok");
});

test("what others chose is one line without what is not seen", () => {
  expect(oneLine("a\r\nb\u2028c\u200B\u202Ed\u0000")).toBe("a b c d");
  expect(oneLine(" \u200B\n")).toBeNull();
  expect(oneLine(null)).toBeNull();
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 200 }), (words) => {
      const line = oneLine(words, 20) ?? "";
      expect(line.length).toBeLessThanOrEqual(21);
      expect(line.isWellFormed()).toBe(true);
      expect(line).not.toMatch(/[\p{C}\p{Zl}\p{Zp}]/u);
    }),
  );
});
