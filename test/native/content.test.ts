/** What people send besides text, written by the mock server's own protocol and read by ours. */
import { expect, test } from "bun:test";
import { fromBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { EMPTY_DATA_MESSAGE, Proto } from "@signalapp/mock-server";
import { readContent } from "../../src/signal/native/content.ts";
import { keepGroups } from "../../src/signal/native/groups.ts";
import { aciBytes, groupIdOf } from "../../src/signal/native/ids.ts";
import * as wire from "../../src/signal/native/proto/signal_pb.ts";
import { signalSchema } from "../../src/signal/native/tables.ts";
import { openDatabase } from "../../src/store/database.ts";
import { rawContent } from "./mock.ts";

const at = 1_795_000_000_000;
const [alice, carol] = ["b1a6c2f4-0d3e-4f5a-8c7b-9e1d2a3b4c5d", "0f9e8d7c-6b5a-4c3d-8e2f-1a0b9c8d7e6f"];
const sender = {
  aci: alice,
  deviceId: 1,
  number: null,
  name: "Alice",
  isOwn: false,
  sentAt: at,
  serverAt: at,
  timerSeconds: 0,
  isBlocked: false,
};
const known = { latest: at, ownAci: "none", addressOf: (aci: string) => ({ aci, number: null }) };
const masterKey = new Uint8Array(32).fill(7);
const inGroup = { groupV2: { masterKey, revision: 1, groupChange: null } };

type Data = typeof EMPTY_DATA_MESSAGE;

function readBytes(bytes: Uint8Array) {
  const envelope = readContent(fromBinary(wire.ContentSchema, bytes), sender, known);
  if (typeof envelope === "string") throw new Error(envelope);
  return envelope;
}

function read(more: Partial<Data>) {
  const dataMessage = { ...EMPTY_DATA_MESSAGE, timestamp: BigInt(at), ...more };
  return readBytes(Proto.Content.encode(rawContent({ dataMessage })));
}

/** An empty message in that field. */
const field = (number: number) => new BinaryWriter().tag(number, WireType.LengthDelimited).bytes(new Uint8Array());
const withField = (number: number, body = "") =>
  new BinaryWriter()
    .tag(1, WireType.LengthDelimited)
    .bytes(
      field(number).tag(1, WireType.LengthDelimited).string(body).tag(7, WireType.Varint).uint64(BigInt(at)).finish(),
    )
    .finish();

const name = { givenName: "Dan", familyName: "Example", prefix: "Dr", suffix: null, middleName: null, nickname: null };
const number = [{ value: "+15550105555", type: null, label: null }];
const card = { name, number, email: [], address: [], avatar: null, organization: "Example Ltd" };
const link = { url: "https://example.org", title: "Example", image: null, description: "A page", date: null };

test.each<[string, Partial<Data>, string]>([
  ["a contact card", { contact: [card] }, '[Contact card: "Dr Dan Example", "Example Ltd", "+15550105555"]'],
  [
    "a sticker",
    { sticker: { packId: masterKey, packKey: masterKey, stickerId: 2, data: null, emoji: "🙂" } },
    '[Sticker: "🙂"]',
  ],
  [
    "a poll",
    { pollCreate: { question: "Pizza?", allowMultiple: false, options: ["yes", "no"] } },
    '[Poll: "Pizza?", "yes", "no"]',
  ],
  ["a link alone", { preview: [link] }, '[Link: "Example", "A page", "https://example.org"]'],
])("%s is said in words, as behind the daemons", (_, more, words) => {
  expect(read(more).content).toMatchObject({ kind: "text", text: words });
});

test("beside a text there are no words", () => {
  expect(read({ body: "look https://example.org", preview: [link] }).content).toMatchObject({
    text: "look https://example.org",
  });
});

test("a message with nothing in it is a text without words; in a group it is none", () => {
  expect(read({}).content).toMatchObject({ kind: "text", text: "", attachments: [] });
  expect(read(inGroup).content).toEqual({ kind: "empty", what: "no text" });
});

test("payments are ignored; a kind that is newer than this program is unknown, in any chat; beside words it is not missed", () => {
  expect([20, 22].map((number) => readBytes(withField(number)).content)).toEqual([
    { kind: "empty", what: "payment" },
    { kind: "empty", what: "payment" },
  ]);
  const direct = { kind: "direct", peer: { aci: alice, number: null } } as const;
  const newer = { kind: "unknown", what: "field 99" } as const;
  expect(readBytes(withField(99))).toMatchObject({ chat: direct, content: newer });
  expect(readBytes(field(99).finish())).toMatchObject({ chat: direct, content: newer });
  // Beside a key of a group it is no message to us.
  expect(readBytes(field(99).tag(7, WireType.LengthDelimited).bytes(new Uint8Array(1)).finish()).chat).toBeNull();
  const bodyRanges = [{ start: 0, length: 1, associatedValue: { mentionAci: alice } }];
  expect(read({ body: "\uFFFC look", requiredProtocolVersion: 9, bodyRanges, ...inGroup })).toMatchObject({
    chat: { kind: "group" },
    content: { kind: "unknown", what: "newer protocol", body: { mentions: [{ who: { aci: alice } }] } },
  });
  expect(readBytes(withField(99, "look")).content).toMatchObject({ kind: "text", text: "look" });
});

test("a quote without words is a message still, also in a group", () => {
  const quote = { id: 5n, authorAci: alice, authorAciBinary: null, text: "before", attachments: [], bodyRanges: [] };
  const more = { ...inGroup, quote: { ...quote, type: Proto.DataMessage.Quote.Type.NORMAL } };
  expect(read(more).content).toMatchObject({ kind: "text", text: "", quote: { text: "before" } });
});

test("a reply to a story and a vote are ignored, and say why", () => {
  const storyContext = { authorAci: alice, sentTimestamp: 5n, authorAciBinary: null };
  expect(read({ body: "nice", storyContext }).content).toEqual({ kind: "empty", what: "story reply" });
  const pollVote = {
    targetAuthorAciBinary: aciBytes(alice),
    targetSentTimestamp: 5n,
    optionIndexes: [0],
    voteCount: 1,
  };
  expect(read({ pollVote }).content).toEqual({ kind: "empty", what: "poll" });
});

test("what an admin deletes in a group is withdrawn as its author's; elsewhere it is refused", () => {
  const adminDelete = { targetAuthorAciBinary: aciBytes(carol), targetSentTimestamp: 5n };
  expect(read({ ...inGroup, adminDelete })).toMatchObject({
    source: { aci: carol },
    isOwn: false,
    chat: { kind: "group", id: groupIdOf(masterKey) },
    content: { kind: "delete", targetSentAt: 5 },
  });
  expect(() => read({ adminDelete })).toThrow("deletion by an admin of nothing");
});

const unasked = (): never => {
  throw new Error("not asked for");
};

test("who was in a group with us counts no more once we are out of it", async () => {
  const database = await openDatabase(":memory:");
  database.exec(signalSchema.join(""));
  const state = { revision: 1, title: "Team", members: [{ aci: alice, isAdmin: true }], expiresInSeconds: 0 };
  const sql = "INSERT INTO signal_groups (group_id, master_key, revision, state, fetched_at) VALUES ('g', ?, 1, ?, 1)";
  database.run(sql, masterKey, JSON.stringify(state));
  const account = () => ({ aci: { serviceId: carol }, pni: null, credentialSalt: null }) as never;
  const fetchGroup = () => Promise.resolve(null);
  const groups = keepGroups({ database, now: () => at, account, fetchGroup, learnMore: unasked });
  const standing = (revision: number) =>
    groups.standing({ groupId: "g", masterKey, revision, isAdminOnly: false }, alice);
  expect([standing(1), standing(2)]).toEqual(["member", "unknown"]);
  await groups.learn({ groupId: "g", masterKey, revision: 2, isAdminOnly: false }, new AbortController().signal);
  expect(standing(2)).toBe("stranger");
  database.close();
});

test("only an admin of the group may delete what others wrote", async () => {
  const database = await openDatabase(":memory:");
  database.exec(signalSchema.join(""));
  const members = [alice, carol].map((aci) => ({ aci, isAdmin: aci === alice, profileKey: null }));
  const state = { revision: 1, title: "Team", members, expiresInSeconds: 0, isAnnouncementsOnly: false };
  database.run(
    "INSERT INTO signal_groups (group_id, master_key, revision, state, fetched_at) VALUES ('g', ?, 1, ?, ?)",
    masterKey,
    JSON.stringify(state),
    at,
  );
  const groups = keepGroups({ database, now: () => at, account: unasked, fetchGroup: unasked, learnMore: unasked });
  const claim = { groupId: "g", masterKey, revision: 1 };
  const standing = (aci: string, isAdminOnly: boolean) => groups.standing({ ...claim, isAdminOnly }, aci);
  expect([standing(alice, true), standing(carol, true), standing(carol, false)]).toEqual([
    "member",
    "stranger",
    "member",
  ]);
  database.close();
});
