/** docs/transports.md, "Kinds of messages": each row, as `native` and as the daemons bring it, ends as the table says. */
import { create, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { classify, type AllowRule } from "../../src/core/inbound.ts";
import { type Envelope, textOf } from "../../src/core/model.ts";
import { toEnvelope } from "../../src/signal/daemon/envelope.ts";
import { readContent, composeEnvelope as aside } from "../../src/signal/native/content.ts";
import { aciBytes, groupIdOf } from "../../src/signal/native/ids.ts";
import { ContentSchema, type DataMessageSchema } from "../../src/signal/native/proto/signal_pb.ts";
import { alice, carol, me } from "../doubles/wire.ts";

const at = 1_795_000_000_000;
const masterKey = new Uint8Array(32).fill(7);
const group = groupIdOf(masterKey);
const allow: AllowRule[] = [{ kind: "self" }, { kind: "aci", aci: alice.aci }, { kind: "group", id: group }];
const own = { aci: me.aci, number: me.number, deviceId: 2 };

type Data = MessageInitShape<typeof DataMessageSchema>;
type Json = Readonly<Record<string, unknown>>;
/** One message twice: as the protocol has it, and as signal-cli tells it. */
type Pair = { readonly native: () => Envelope; readonly daemon: () => Envelope };

function read(content: MessageInitShape<typeof ContentSchema>, isOwn = false): Envelope {
  const { aci, number } = isOwn ? own : alice;
  const from = {
    aci,
    number,
    deviceId: 1,
    name: "A",
    isOwn,
    sentAt: at,
    serverAt: at,
    timerSeconds: 0,
    isBlocked: false,
  };
  const known = { latest: at, ownAci: own.aci, addressOf: (given: string) => ({ aci: given, number: null }) };
  const envelope = readContent(create(ContentSchema, content), from, known);
  if (typeof envelope === "string") throw new Error(envelope);
  return envelope;
}

const wrap = (body: Json, from: { aci: string; number: string | null } = alice, beside: Json = {}): Envelope =>
  toEnvelope(
    {
      ...beside,
      account: own.number,
      envelope: { sourceUuid: from.aci, sourceNumber: from.number, timestamp: at, ...body },
    },
    own,
  );

const timestamp = BigInt(at);
const says = (data: Data, json: Json): Pair => ({
  native: () => read({ content: { case: "dataMessage", value: { timestamp, ...data } } }),
  daemon: () => wrap({ dataMessage: { timestamp: at, message: null, ...json } }),
});
const edits = (body: string): Pair => ({
  native: () =>
    read({ content: { case: "editMessage", value: { targetSentTimestamp: 5n, dataMessage: { timestamp, body } } } }),
  daemon: () => wrap({ editMessage: { targetSentTimestamp: 5, dataMessage: { timestamp: at, message: body } } }),
});
const inGroup = { groupV2: { masterKey, revision: 1 } };
const groupInfo = { groupId: group, type: "DELIVER" };
const mention = { start: 0, length: 1, value: { case: "mentionAciBinary", value: aciBytes(own.aci) } } as const;
const mentions = [{ start: 0, length: 1, uuid: own.aci, number: null }];
/** The owner, from the phone, to the listed group. */
const writesThere = (body: string): Pair => {
  const isCalled = body.startsWith("\uFFFC");
  const message = { timestamp, body, bodyRanges: isCalled ? [mention] : [], ...inGroup };
  const sentMessage = { timestamp: at, message: body, groupInfo, ...(isCalled && { mentions }) };
  return {
    native: () =>
      read(
        { content: { case: "syncMessage", value: { content: { case: "sent", value: { timestamp, message } } } } },
        true,
      ),
    daemon: () => wrap({ syncMessage: { sentMessage } }, own),
  };
};
const file = { cdnNumber: 3, contentType: "image/jpeg", fileName: "a.jpg", size: 3 };
const fileJson = { contentType: "image/jpeg", filename: "a.jpg", id: "a", size: 3 };
const link = { url: "https://example.org", title: "Example", description: "" };

/** Of each row one message or more, with what must be true of the envelope besides its end. */
const rows: Readonly<Record<string, readonly (readonly [Pair, object?])[]>> = {
  "text; a long one travels as a file": [
    [says({ body: "hi" }, { message: "hi" }), { text: "hi" }],
    [
      says(
        { body: "beginning", attachments: [{ ...file, contentType: "text/x-signal-plain", size: 9_000 }] },
        { message: "beginning", attachments: [{ ...fileJson, contentType: "text/x-signal-plain", size: 9_000 }] },
      ),
      { attachments: [{ isLongText: true }] },
    ],
  ],
  "mention, quote": [
    [says({ body: "\uFFFC hi", bodyRanges: [mention], ...inGroup }, { message: "\uFFFC hi", mentions, groupInfo })],
    [
      says(
        { body: "and?", quote: { id: 5n, text: "x", authorAciBinary: aciBytes(own.aci) }, ...inGroup },
        { message: "and?", quote: { id: 5, text: "x", authorUuid: own.aci }, groupInfo },
      ),
    ],
  ],
  "edit, whichever version it names, also one that leaves nothing": [[edits("")]],
  "delete for everyone": [[says({ delete: { targetSentTimestamp: 5n } }, { remoteDelete: { timestamp: 5 } })]],
  "deletion by an admin of the group": [
    [
      says(
        { adminDelete: { targetAuthorAciBinary: aciBytes(carol.aci), targetSentTimestamp: 5n }, ...inGroup },
        { adminDelete: { targetAuthorUuid: carol.aci, targetSentTimestamp: 5 }, groupInfo },
      ),
    ],
  ],
  "the owner in a listed group, from the phone of the linked account": [[writesThere("\uFFFC hi")]],
  reaction: [
    [
      says(
        { reaction: { emoji: "👍", targetAuthorAciBinary: aciBytes(own.aci), targetSentTimestamp: 5n } },
        { reaction: { emoji: "👍", targetAuthorUuid: own.aci, targetSentTimestamp: 5, isRemove: false } },
      ),
    ],
  ],
  "picture, document": [
    [says({ attachments: [file] }, { attachments: [fileJson] }), { attachments: [{ fileName: "a.jpg" }] }],
  ],
  "voice note": [
    [
      says(
        { attachments: [{ ...file, contentType: "audio/aac", fileName: "", flags: 1 }] },
        { attachments: [{ ...fileJson, contentType: "audio/aac", filename: null }] },
      ),
      { attachments: [{ isVoiceNote: true }] },
    ],
  ],
  "view-once picture": [
    [
      says({ attachments: [file], isViewOnce: true }, { attachments: [fileJson], viewOnce: true }),
      { isViewOnce: true, attachments: [] },
    ],
  ],
  sticker: [[says({ sticker: { emoji: "🙂" } }, { sticker: { packId: "00", stickerId: 1 } })]],
  "contact card": [
    [
      says(
        { contact: [{ name: { givenName: "Dan", familyName: "Example" }, number: [{ value: "+15550105555" }] }] },
        { contacts: [{ name: { given: "Dan", family: "Example" }, phone: [{ value: "+15550105555" }] }] },
      ),
    ],
  ],
  poll: [
    [
      says(
        { pollCreate: { question: "Pizza?", options: ["yes", "no"] } },
        { pollCreate: { question: "Pizza?", options: ["yes", "no"] } },
      ),
    ],
  ],
  "link or place without a text": [[says({ preview: [link] }, { previews: [link] })]],
  "nothing at all (an empty forward)": [[says({}, {})]],
  "reply to a story, vote, pin, payment, call, story, group update, read mark": [
    [says({ body: "nice", storyContext: {} }, { message: "nice", storyContext: { sentTimestamp: 5 } })],
    [says({ pollVote: {} }, { pollVote: { targetSentTimestamp: 5 } })],
    [says({ pinMessage: {} }, { pinMessage: {} })],
    [says({ payment: {} }, { payment: {} })],
    [
      says(
        { groupV2: { ...inGroup.groupV2, groupChange: new Uint8Array(3) } },
        { groupInfo: { ...groupInfo, type: "UPDATE" } },
      ),
    ],
    ...(["callMessage", "storyMessage", "receiptMessage"] as const).map((kind): [Pair] => [
      { native: () => read({ content: { case: kind, value: {} } }), daemon: () => wrap({ [kind]: {} }) },
    ]),
  ],
  "what cannot be decrypted": [
    [
      {
        native: () =>
          aside(
            {
              ...alice,
              aci: alice.aci,
              deviceId: 1,
              sentAt: at,
              serverAt: at,
              isOwn: false,
              timerSeconds: 0,
              isBlocked: false,
            },
            { kind: "undecryptable", code: "Generic", isIdentityChange: false },
            null,
          ),
        daemon: () => wrap({}, alice, { exception: { type: "ProtocolNoSessionException", message: null } }),
      },
    ],
  ],
  "a kind that is newer than this program (or the daemon)": [
    [says({ requiredProtocolVersion: 9 }, { hologram: { depth: 3 } })],
    [
      {
        native: () => read(fromBinary(ContentSchema, new BinaryWriter().tag(99, WireType.Varint).uint64(1).finish())),
        daemon: () => wrap({}, alice, { exception: { type: "UnsupportedDataMessageException", message: null } }),
      },
    ],
  ],
};

/** What the beginning of a cell promises. */
const ends: readonly (readonly [RegExp, object])[] = [
  [/^withdraws/u, { kind: "withdraw" }],
  [/^ignored/u, { kind: "ignore" }],
  [/^an answer/u, { kind: "answer" }],
  [/^a sentence says so/u, { kind: "hint" }],
  [/^counted as unknown; where we answer, a sentence/u, { kind: "drop", reason: "newer than this program" }],
  [/^counted, and a warning/u, { kind: "drop", reason: "undecryptable" }],
  [
    /^(?:a prompt|count by account id|answered where|fetched|marked as such|audio without|told in words|`\[)/u,
    { kind: "prompt" },
  ],
];

const page = readFileSync(new URL("../../docs/transports.md", import.meta.url), "utf8");
const table = [...page.matchAll(/^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$/gmu)].map(([, ...cells]) => cells);
const from = table.findIndex(([first]) => first === "from a phone");
const listed = table.slice(from + 1).filter(([first]) => first !== "---");

test("each row of the table has its messages here, and the other way round", () => {
  const until = listed.findIndex(([first]) => first === "to a phone");
  const names = (until < 0 ? listed : listed.slice(0, until)).map(([first]) => first ?? "");
  expect(names).toEqual(Object.keys(rows));
});

test.each(Object.keys(rows))("%s: ends as the table says", (name) => {
  const [, native = "", cell = ""] = listed.find(([first]) => first === name) ?? [];
  const daemon = /^(?:the same|likewise)/u.test(cell) ? native : cell;
  for (const [pair, more] of rows[name] ?? [])
    for (const [read, said] of [
      [pair.native, native],
      [pair.daemon, daemon],
    ] as const) {
      const envelope = read();
      const end = ends.find(([words]) => words.test(said))?.[1];
      expect({ said, end }).toMatchObject({ end: expect.any(Object) });
      expect(classify(envelope, { account: own, allow, isGroupAlways: false })).toMatchObject(end ?? {});
      if (more) expect(textOf(envelope)).toMatchObject(more);
      const words = /^`(\[[^`]*\])`$/u.exec(said)?.[1];
      if (words) expect(textOf(envelope)?.text).toBe(words);
    }
});

test("an edit that says something is the prompt in its place, and talk of the owner that is not for Claude is forgotten", () => {
  const judge = (envelope: Envelope) => classify(envelope, { account: own, allow, isGroupAlways: false });
  for (const read of [edits("better").native, edits("better").daemon])
    expect(judge(read())).toEqual({ kind: "prompt", replaces: 5 });
  for (const read of [writesThere("lunch?").native, writesThere("lunch?").daemon])
    expect(judge(read())).toEqual({ kind: "drop", reason: "own message to others" });
});
