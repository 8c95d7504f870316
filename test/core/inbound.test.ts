import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  classify,
  inboxKey,
  isPerson,
  withFilesOf,
  type AllowRule,
  type InboundOptions,
} from "../../src/core/inbound.ts";
import type { Account, Address, Content, Envelope, TextContent } from "../../src/core/model.ts";
import { planFiles } from "../../src/core/prompt.ts";
import { oneLine, spokenText, withNames } from "../../src/core/text.ts";

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
  classify(what, { account: own, allow, isGroupAlways: false, ...more });
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
  test("an empty list lets no person in, the owner included", () => {
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
  test("a sender that is not known is dropped", () => {
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
  test("the owner is heard there where Claude's words are quoted or the account is mentioned, and nowhere else", () => {
    const mine = { ...toGroup, isOwn: true, source: own };
    const quoting = (sentAt: number, said = "and then?") =>
      text(said, { quote: { sentAt, author: own, text: "first" } });
    const isSaid = (sentAt: number): boolean => sentAt === 5;
    expect(ask(envelope(quoting(5), mine), rules, { isSaid }).kind).toBe("prompt");
    expect(ask(envelope(text("\uFFFC hi", { mentions: [mention] }), mine), rules).kind).toBe("prompt");
    const drop = { kind: "drop", reason: "own message to others" } as const;
    expect(ask(envelope(quoting(4), mine), rules, { isSaid })).toEqual(drop);
    expect(ask(envelope(text("lunch?"), mine), rules, { isGroupAlways: true })).toEqual(drop);
    expect(ask(envelope(quoting(5, "yes"), mine), rules, { isSaid })).toMatchObject({
      kind: "answer",
      isEntitled: true,
    });
  });
  test("a mention alone is told how to ask", () => {
    const called = ask(envelope(text("\uFFFC", { mentions: [mention] }), toGroup), rules);
    expect(called).toEqual({ kind: "hint", text: expect.stringContaining("quote") });
  });
  test("a command is found behind the mention", () => {
    const command = envelope(text("\uFFFC /new now", { mentions: [mention] }), toGroup);
    expect(ask(command, rules)).toEqual({ kind: "command", name: "new", argument: "now", replaces: null });
  });
  test("a member who is not on the list by name cannot approve", () => {
    for (const words of ["\uFFFC yes", "\uFFFC /approve"]) {
      const answer = envelope(text(words, { mentions: [mention] }), toGroup);
      expect(ask(answer, rules)).toMatchObject({ kind: "answer", isEntitled: false });
      expect(ask(answer, [...rules, ...byAci])).toMatchObject({ kind: "answer", isEntitled: true });
    }
    const thumb = { kind: "reaction", emoji: "👍", targetAuthor: own, targetSentAt: 5, isRemove: false } as const;
    expect(ask(envelope(thumb, toGroup), rules).kind).toBe("ignore");
    expect(ask(envelope(thumb, toGroup), [...rules, ...byAci]).kind).toBe("answer");
  });
});

describe("what an allowed message is", () => {
  const quoting = (sentAt: number, author: Address = own) => text("yes", { quote: { sentAt, author, text: "?" } });
  const thumb = (targetSentAt: number, targetAuthor: Address = own): Content => ({
    kind: "reaction",
    emoji: "👍",
    targetAuthor,
    targetSentAt,
    isRemove: false,
  });
  /** Which question it means, if any, is decided with the chat before one: `chat.test.ts`. */
  test.each([
    ["a plain yes", text("Yes."), "yes by text to null"],
    ["a plain no", text("no!"), "no by text to null"],
    ["a yes with more to say", text("yes, and add a test"), "prompt"],
    ["a yes with a file", text("yes", { attachments: [file] }), "prompt"],
    ["a yes quoting a message of ours", quoting(5), "yes by text to 5"],
    ["a yes quoting another person's message of the same millisecond", quoting(5, alice), "prompt"],
    ["a thumb on a message of ours", thumb(5), "yes by reaction to 5"],
    ["a thumb on another person's message of the same millisecond", thumb(5, alice), "ignore"],
    ["a thumb down", { ...thumb(5), emoji: "👎" } as Content, "no by reaction to 5"],
    ["a thumb that is taken off again", { ...thumb(5), isRemove: true } as Content, "ignore"],
    ["a heart", { ...thumb(5), emoji: "❤️" } as Content, "ignore"],
    ["/approve", text("/approve"), "yes by command to null"],
    ["/deny", text("/DENY"), "no by command to null"],
    ["/approve with conditions", text("/yes but only the first"), "hint"],
    ["/yes please", text("/yes please"), "yes by command to null"],
    ["/always", text("/always"), "always by command to null"],
    ["/approve quoting a message of ours", { ...quoting(5), text: "/approve" }, "yes by command to 5"],
    ["a prompt edited to a yes", { kind: "edit", targetSentAt: 7, body: text("yes") }, "yes by text to null"],
  ] as const)("%s", (_, content, expected) => {
    const verdict = ask(envelope(content), byAci);
    if (verdict.kind !== "answer") return expect(verdict.kind).toBe(expected as typeof verdict.kind);
    const { answer, by, targetSentAt } = verdict;
    expect(`${answer} by ${by} to ${targetSentAt}`).toBe(expected);
  });
  test("an edit replaces, a deletion withdraws", () => {
    expect(ask(envelope({ kind: "edit", targetSentAt: 7, body: text("better") }), byAci)).toEqual({
      kind: "prompt",
      replaces: 7,
    });
    expect(ask(envelope({ kind: "delete", targetSentAt: 7 }), byAci)).toEqual({ kind: "withdraw", targetSentAt: 7 });
  });
  test.each([
    ["a command", text("/help"), { kind: "command", name: "help", replaces: 7 }],
    ["a yes", text("yes"), { kind: "answer", answer: "yes", replaces: 7 }],
    ["nothing", text(" "), { kind: "withdraw", targetSentAt: 7 }],
  ] as const)("an edit that becomes %s takes the prompt back", (_, body, expected) => {
    expect(ask(envelope({ kind: "edit", targetSentAt: 7, body }), byAci)).toMatchObject(expected);
  });
  test("an edit that loses the mention takes the prompt back", () => {
    const edit = envelope({ kind: "edit", targetSentAt: 7, body: text("lunch?") }, toGroup);
    expect(ask(edit, [{ kind: "group", id: group }])).toEqual({ kind: "withdraw", targetSentAt: 7 });
  });
  test("what has no words of its own is a prompt where it quotes something", () => {
    const quote = { sentAt: 1, author: alice, text: "How late is it?" };
    expect(ask(envelope(text("", { quote })), byAci).kind).toBe("prompt");
    expect(ask(envelope(text("", { quote: { ...quote, text: null, described: "a photo" } })), byAci).kind).toBe(
      "prompt",
    );
  });
  test("the caption of a photo edited: the photo stays", () => {
    const photo = envelope(text("what is it?", { attachments: [file], quote: { sentAt: 1, author: own, text: "x" } }));
    const edit = envelope({ kind: "edit", targetSentAt: 7, body: text("who is it?") });
    expect(withFilesOf(edit, photo).content).toMatchObject({
      body: { text: "who is it?", attachments: [file], quote: { sentAt: 1 } },
    });
    const other = envelope({
      kind: "edit",
      targetSentAt: 7,
      body: text("x", { attachments: [{ ...file, ref: "2" }] }),
    });
    expect(withFilesOf(other, photo)).toEqual(other);
  });
  test("what says nothing needs nothing, a path is not a command", () => {
    const content = { kind: "empty", what: "group update" } as const;
    expect(ask(envelope(content), byAci)).toEqual({ kind: "ignore", reason: "group update" });
    expect(ask(envelope(text("   ")), byAci).kind).toBe("hint");
    expect(ask(envelope(text("/etc/hosts is what?")), byAci).kind).toBe("prompt");
  });
  test("a kind that is newer than this program is told of where we answer, and nowhere else", () => {
    const hologram = { kind: "unknown", what: "hologram" } as const;
    const listed: AllowRule[] = [...byAci, { kind: "group", id: group }];
    const told = { kind: "drop", reason: "newer than this program" } as const;
    const silent = { kind: "drop", reason: "unknown content" } as const;
    const isTold = (more: Partial<Envelope>, isGroupAlways = false, body?: TextContent) =>
      ask(envelope({ ...hologram, ...(body && { body }) }, more), listed, { isGroupAlways });
    expect(isTold({})).toEqual(told);
    expect(ask(envelope(hologram), [])).toEqual(silent);
    expect(isTold({ isOwn: true, source: own })).toEqual(silent);
    expect(isTold({ chat: null })).toEqual(silent);
    expect(isTold(toGroup)).toEqual(silent);
    expect(isTold(toGroup, false, text("\uFFFC see", { mentions: [mention] }))).toEqual(told);
    expect(isTold(toGroup, true)).toEqual(told);
    expect(isTold({ ...toGroup, isOwn: true, source: own }, true)).toEqual(silent);
  });
  test("what cannot be decrypted is dropped, never thrown", () => {
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
