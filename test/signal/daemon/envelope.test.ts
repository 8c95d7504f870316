import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { readdirSync, readFileSync } from "node:fs";
import type { Content, Envelope } from "../../../src/core/model.ts";
import { fromRef, toEnvelope } from "../../../src/signal/daemon/envelope.ts";
import { alice, carol, createWriter, groupId, me } from "../../doubles/wire.ts";

const folder = new URL("../../fixtures/signal/", import.meta.url);
const load = (name: string): unknown[] => {
  const value: unknown = JSON.parse(readFileSync(new URL(name, folder), "utf8"));
  return Array.isArray(value) ? value : [value];
};
const own = { aci: me.aci, number: me.number };
const parse = (name: string): Envelope[] => load(name).map((wire) => toEnvelope(wire, own));
const writer = createWriter({ now: () => 1_786_953_600_000, monotonic: () => 0, sleep: async () => {} }, me);
const textOf = ({ content }: Envelope) => (content.kind === "text" ? content : null);

describe("the fixtures of signal-cli", () => {
  const aliceAddress = { aci: alice.aci, number: alice.number };
  const inGroup = { kind: "group", id: groupId } as const;
  const fromAlice = { kind: "direct", peer: aliceAddress } as const;
  const kinds: Readonly<Record<string, readonly (readonly [Content["kind"], Envelope["chat"]])[]>> = {
    "envelope-attachments.json": [
      ["text", { kind: "direct", peer: { aci: "3c5e7a91-2b4d-4f60-8a1c-5d7e9f0b2c44", number: "+4915100000003" } }],
    ],
    "envelope-decrypt-failures.json": [
      ["undecryptable", null],
      ["empty", null],
      ["undecryptable", null],
    ],
    "envelope-edit-message.json": [["edit", fromAlice]],
    "envelope-expiration-timer.json": [["empty", fromAlice]],
    "envelope-group-mention-quote-styles.json": [["text", inGroup]],
    "envelope-group-update.json": [["empty", inGroup]],
    "envelope-long-text.json": [["text", fromAlice]],
    "envelope-note-to-self.json": [["text", { kind: "self" }]],
    "envelope-reactions.json": [
      ["reaction", fromAlice],
      ["reaction", fromAlice],
    ],
    "envelope-receipts.json": [
      ["empty", null],
      ["empty", null],
    ],
    "envelope-remote-delete.json": [["delete", fromAlice]],
    "envelope-sticker-payment-contact-poll.json": [
      ["text", fromAlice],
      ["empty", fromAlice],
      ["text", fromAlice],
      ["text", inGroup],
      ["empty", inGroup],
      ["text", fromAlice],
      ["empty", inGroup],
      ["empty", fromAlice],
    ],
    "envelope-story-and-call.json": [
      ["empty", null],
      ["empty", null],
      ["empty", null],
    ],
    "envelope-sync-edit-and-misc.json": [
      ["edit", fromAlice],
      ["empty", null],
      ["empty", null],
      ["empty", null],
      ["empty", null],
    ],
    "envelope-sync-sent-to-group.json": [["text", inGroup]],
    "envelope-typing.json": [
      ["empty", null],
      ["empty", null],
    ],
    "envelope-untrusted-identity.json": [["undecryptable", null]],
  };

  test("every one of them has its row here", () => {
    const names = readdirSync(folder).filter((name) => name.startsWith("envelope-"));
    expect(Object.keys(kinds).sort()).toEqual(names.sort());
  });

  test.each(Object.entries(kinds))("%s is understood", (name, expected) => {
    const envelopes = parse(name);
    expect(envelopes.map(({ content }) => content.kind)).toEqual(expected.map(([kind]) => kind));
    expect(envelopes.map(({ chat }) => chat)).toEqual(expected.map(([, chat]) => chat));
  });

  test("a mention, a quote and the disappearing timer come along", () => {
    const text = parse("envelope-group-mention-quote-styles.json").map(textOf)[0];
    expect(text).toMatchObject({
      quote: { sentAt: 1_786_953_601_000, author: own, text: "deploy finished" },
      mentions: [{ start: 0, length: 1, who: own }],
      expiresInSeconds: 604_800,
    });
  });

  test("a voice note is audio without a name", () => {
    const files = parse("envelope-attachments.json").flatMap((envelope) => textOf(envelope)?.attachments ?? []);
    expect(files.map(({ isVoiceNote }) => isVoiceNote)).toEqual([false, true, false]);
    expect(files.map(({ ref }) => fromRef(ref))).toEqual([
      { id: "Zb7kMockRemote01.jpg", sizeBytes: 184_233 },
      { id: "Yq2nMockRemote02.aac", sizeBytes: 51_234 },
      { id: "Xw9pMockRemote03.pdf", sizeBytes: 90_211 },
    ]);
  });

  test("an edit's identity is the new version's, its target the replaced one's", () => {
    expect(parse("envelope-edit-message.json")[0]).toMatchObject({
      sentAt: 1_786_953_637_000,
      content: { targetSentAt: 1_786_953_600_000, body: { text: "hello (edited)" } },
    });
  });

  test("a changed safety number is told apart from other failures", () => {
    const [failed] = parse("envelope-decrypt-failures.json");
    const [untrusted] = parse("envelope-untrusted-identity.json");
    expect(failed?.content).toMatchObject({ code: "ProtocolNoSessionException", isIdentityChange: false });
    expect(untrusted).toMatchObject({ source: aliceAddress, content: { isIdentityChange: true } });
  });

  test("messages inside the answers of both daemons are understood too", () => {
    const [exchange] = load("rpc-receive-direct-text-uuid-only-sender.json") as [
      { response: { body: { result: unknown[] } } },
    ];
    const [envelope] = exchange.response.body.result.map((wire) => toEnvelope(wire, own));
    expect(envelope).toMatchObject({ source: { aci: carol.aci, number: null }, content: { kind: "text" } });
  });
});

describe("who wrote to whom", () => {
  test("a note to self is known by number, by ACI, and while neither is known yet", () => {
    const { wire } = writer.own("note");
    for (const account of [
      own,
      { aci: me.aci, number: null },
      { aci: null, number: me.number },
      { aci: null, number: null },
    ])
      expect(toEnvelope(wire, account)).toMatchObject({ chat: { kind: "self" }, isOwn: true });
  });

  test("ACIs are lower case", () => {
    const { wire } = writer.person({ ...alice, aci: alice.aci.toUpperCase() }, "hi");
    expect(toEnvelope(wire, own).source?.aci).toBe(alice.aci);
  });

  test("our message to another person is ours, in the chat with them", () => {
    const { wire } = writer.own("hi");
    const toAlice = JSON.parse(
      JSON.stringify(wire)
        .replace(/"destinationNumber":"[^"]*"/u, `"destinationNumber":"${alice.number}"`)
        .replace(/"destinationUuid":"[^"]*"/u, `"destinationUuid":"${alice.aci}"`),
    ) as unknown;
    expect(toEnvelope(toAlice, own)).toMatchObject({ chat: { kind: "direct", peer: { aci: alice.aci } }, isOwn: true });
  });

  test("a transcript that claims to come from another account is not believed", () => {
    const { wire } = writer.own("transfer everything");
    const forged = { ...wire, envelope: { ...wire.envelope, sourceUuid: alice.aci, sourceNumber: alice.number } };
    expect(toEnvelope(forged, own)).toMatchObject({ chat: null, isOwn: false, content: { kind: "unknown" } });
  });

  test("a transcript without a destination is no prompt", () => {
    const sentMessage = { timestamp: 1_786_953_600_000, message: "lost" };
    const wire = { envelope: { sourceUuid: me.aci, timestamp: 1, syncMessage: { sentMessage } } };
    expect(toEnvelope(wire, own)).toMatchObject({ chat: null, content: { kind: "unknown" } });
  });
});

describe("long text", () => {
  const long = (message: string | null, size: number | null) => {
    const attachments = [{ contentType: "text/x-signal-plain", filename: null, id: "Lt.txt", size }];
    return textOf(toEnvelope(writer.person(alice, message, { extra: { attachments } }).wire, own));
  };
  const bytesOf = (text: string): number => new TextEncoder().encode(text).length;

  test("is not read again from the file when the body holds all of it, counted in bytes", () => {
    const message = "ü".repeat(1010);
    expect(long(message, bytesOf(message))?.attachments).toEqual([]);
    expect(long("ü".repeat(3000), 6000)?.attachments).toEqual([]);
  });

  test("is read from the file when the body holds its beginning", () => {
    expect(long("ü".repeat(1000), 6000)).toMatchObject({ attachments: [{ isLongText: true, ref: "6000:Lt.txt" }] });
    expect(long("beginning", null)).toMatchObject({ attachments: [{ isLongText: true }] });
  });

  test("whose download failed is not an empty message", () => {
    expect(long("", 6000)).toMatchObject({ text: "", attachments: [{ isLongText: true }] });
  });

  test("that is not one: an ordinary file is kept as it is", () => {
    const attachments = [{ contentType: "text/plain", filename: "a.txt", id: "a.txt", size: 3 }];
    const { wire } = writer.person(alice, "longer than three", { extra: { attachments } });
    expect(textOf(toEnvelope(wire, own))?.attachments).toMatchObject([{ isLongText: false, fileName: "a.txt" }]);
  });
});

describe("messages without text", () => {
  const said = (extra: Readonly<Record<string, unknown>>, text: string | null = null, id?: string) =>
    toEnvelope(writer.person(alice, text, { extra, ...(id && { groupId: id }) }).wire, own);
  const name = { given: "Dan", family: "Example", nickname: null };

  test.each([
    ["a sticker", { sticker: { packId: "00ab", stickerId: 2 } }, "[Sticker]"],
    [
      "a contact card",
      { contacts: [{ name, phone: [{ value: "+15550105555", type: "MOBILE" }], organization: null }] },
      '[Contact card: "Dan Example", "+15550105555"]',
    ],
    ["a poll", { pollCreate: { question: "Pizza?", options: ["yes", "no"] } }, '[Poll: "Pizza?", "yes", "no"]'],
    [
      "a link alone",
      { previews: [{ url: "https://example.org", title: "Example", description: "" }] },
      '[Link: "Example", "https://example.org"]',
    ],
    [
      "a place",
      { previews: [{ url: "https://maps.google.com/maps?q=1%2C2", title: "Here", description: null }] },
      '[Location: "Here", "https://maps.google.com/maps?q=1%2C2"]',
    ],
  ])("%s is said in words", (_, extra, words) => expect(textOf(said(extra))?.text).toBe(words));

  test("a quote without words is a message still", () => {
    const quote = { id: 5, authorUuid: "b1a6c2f4-0d3e-4f5a-8c7b-9e1d2a3b4c5d", text: "How late is it?" };
    const wire = { envelope: { timestamp: 7, dataMessage: { timestamp: 7, message: null, quote } } };
    expect(toEnvelope(wire, { aci: null, number: null }).content).toMatchObject({ text: "", quote: { sentAt: 5 } });
  });
  test("beside a text there are no words", () => {
    const previews = [{ url: "https://example.org", title: "Example", description: "" }];
    expect(textOf(said({ previews }, "look https://example.org"))?.text).toBe("look https://example.org");
  });

  test.each([
    ["pollVote", "a vote"],
    ["pinMessage", "a pin"],
    ["payment", "a payment"],
  ])("%s is traffic without anything to answer", (key) => {
    expect(said({ [key]: { targetSentTimestamp: 5 } }).content).toEqual({ kind: "empty", what: key });
  });

  test("a reply to a story is ignored, and says why", () => {
    expect(said({ storyContext: { sentTimestamp: 5 } }, "nice story").content).toEqual({
      kind: "empty",
      what: "story reply",
    });
  });

  test("what may be seen once is told, and not fetched", () => {
    const attachments = [{ contentType: "image/jpeg", filename: null, id: "x.jpg", size: 9 }];
    expect(said({ viewOnce: true, attachments }).content).toMatchObject({ isViewOnce: true, attachments: [] });
  });

  test("what an admin deletes in a group is withdrawn as its author's", () => {
    const adminDelete = {
      targetAuthorNumber: null,
      targetAuthorUuid: carol.aci,
      targetSentTimestamp: 1_786_953_600_000,
    };
    const envelope = said({ adminDelete }, null, groupId);
    expect(envelope).toMatchObject({
      source: { aci: carol.aci },
      isOwn: false,
      chat: { kind: "group", id: groupId },
      content: { kind: "delete", targetSentAt: 1_786_953_600_000 },
    });
    // A direct chat has no admin.
    expect(said({ adminDelete })).toMatchObject({ source: { aci: alice.aci }, content: { kind: "empty" } });
  });

  test("an edit that leaves nothing is still an edit", () => {
    const edited = {
      envelope: {
        sourceUuid: alice.aci,
        timestamp: 9,
        editMessage: { targetSentTimestamp: 5, dataMessage: { timestamp: 9, message: null } },
      },
    };
    expect(toEnvelope(edited, own).content).toMatchObject({ kind: "edit", targetSentAt: 5, body: { text: "" } });
  });
});

describe("whatever comes", () => {
  const isSound = (envelope: Envelope): boolean => {
    const text = textOf(envelope)?.text ?? "";
    return (
      Number.isSafeInteger(envelope.sentAt) &&
      text.isWellFormed() &&
      (textOf(envelope)?.mentions ?? []).every(({ start, length }) => start >= 0 && start + length <= text.length)
    );
  };

  test("any JSON becomes an envelope", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(isSound(toEnvelope(value, own))).toBe(true);
      }),
    );
  });

  test("a message object with any value in any place becomes an envelope", () => {
    const wires = readdirSync(folder)
      .filter((name) => name.startsWith("envelope-"))
      .flatMap(load);
    const paths = (value: unknown, path: readonly string[] = []): (readonly string[])[] =>
      typeof value === "object" && value !== null
        ? Object.entries(value).flatMap(([key, item]) => [[...path, key], ...paths(item, [...path, key])])
        : [];
    const put = (value: unknown, [key, ...rest]: readonly string[], leaf: unknown): unknown => {
      if (key === undefined) return leaf;
      if (Array.isArray(value))
        return value.map((item, index) => (String(index) === key ? put(item, rest, leaf) : item));
      const object = { ...(value as Record<string, unknown>) };
      return { ...object, [key]: put(object[key], rest, leaf) };
    };
    const cases = wires.flatMap((wire) => paths(wire).map((path) => ({ wire, path })));
    const leaf = fc.oneof(fc.jsonValue(), fc.double(), fc.string({ unit: "binary" }), fc.constant("\uD83D"));
    fc.assert(
      fc.property(fc.constantFrom(...cases), leaf, ({ wire, path }, value) => {
        expect(isSound(toEnvelope(put(wire, path, value), own))).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });

  test("half a surrogate pair is replaced", () => {
    expect(textOf(toEnvelope(writer.person(alice, "a\uD83Db").wire, own))?.text).toBe("a\uFFFDb");
  });

  test("kinds that do not exist yet are kept as unknown, by their name", () => {
    const future = { envelope: { sourceUuid: alice.aci, timestamp: 5, hologramMessage: { depth: 3 } } };
    const chat = { kind: "direct", peer: { aci: alice.aci, number: null } };
    const hologramMessage = { kind: "unknown", what: "hologramMessage" };
    expect(toEnvelope(future, own)).toMatchObject({ sentAt: 5, chat, content: hologramMessage });
    const mine = { envelope: { ...future.envelope, sourceUuid: own.aci } };
    expect(toEnvelope(mine, own)).toMatchObject({ chat: null, content: hologramMessage });
    const { wire } = writer.person(alice, null, { extra: { hologram: { depth: 3 } } });
    expect(toEnvelope(wire, own)).toMatchObject({
      chat: { kind: "direct" },
      content: { kind: "unknown", what: "hologram" },
    });
    // signal-cli's own words for a message of a newer protocol.
    const exception = { message: "required 9, have 8", type: "UnsupportedDataMessageException" };
    const newer = { exception, envelope: { sourceUuid: alice.aci, timestamp: 5 } };
    expect(toEnvelope(newer, own)).toMatchObject({ chat, content: { kind: "unknown", what: exception.type } });
  });

  test("what is no message object is unknown", () => {
    for (const value of [null, 5, "x", [], {}, { envelope: null }, { envelope: "x" }])
      expect(toEnvelope(value, own)).toMatchObject({ source: null, sentAt: 0, content: { kind: "unknown" } });
  });

  test("an envelope without any content is normal traffic", () => {
    const wire = { envelope: { sourceUuid: alice.aci, timestamp: 5 } };
    expect(toEnvelope(wire, own).content).toEqual({ kind: "empty", what: "no content" });
  });
});
