/**
 * The native transport's reading side: envelopes, ciphertexts, contents and files that a stranger, the owner's other devices
 * or the server could hand us. Everything is opened against a real key store, whose writes are rolled back after each input.
 */
import { fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { PrivateKey, PublicKey } from "@signalapp/libsignal-client";
import { ServiceIdKind } from "@signalapp/mock-server";
import { systemClock } from "../../src/clock.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { loadAccount } from "../../src/signal/native/account.ts";
import {
  decryptAttachment,
  encryptAttachment,
  pointerOfRef,
  parseContacts,
} from "../../src/signal/native/attachments.ts";
import { aciBytes } from "../../src/signal/native/ids.ts";
import { readContent } from "../../src/signal/native/content.ts";
import {
  BodyRange_Style,
  ContentSchema,
  type DataMessageSchema,
  Envelope_Type,
  ReceiptMessage_Type,
  TypingMessage_Action,
} from "../../src/signal/native/proto/signal_pb.ts";
import { openProvision } from "../../src/signal/native/linking.ts";
import { openEnvelope } from "../../src/signal/native/receiver.ts";
import { openOverlay } from "../../src/signal/native/key-store.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { bundleFrom, contentBytes, type ContentShape, envelopeBytes, openPeer, type Peer } from "../native/peer.ts";
import { startRig } from "../native/mock.ts";
import type { Dice } from "../sim/dice.ts";
import { mutateBytes } from "./mutate.ts";
import { checkSize, follow, type Target } from "./targets.ts";

const at = 1_795_000_000_000;
const stranger = "0f9e8d7c-6b5a-4c3d-8e2f-1a0b9c8d7e6f";
const bytes32 = new Uint8Array(32).fill(7);
const pointer = {
  identifier: { case: "cdnKey", value: "key" },
  contentType: "image/png",
  key: new Uint8Array(64).fill(1),
  size: 300,
  digest: bytes32,
  fileName: "a.png",
} as const;

function contentsFor(ownAci: string): ContentShape[] {
  const data = {
    body: "hello \u{1f600} world",
    timestamp: BigInt(at),
    attachments: [{ ...pointer }, { ...pointer, contentType: "text/x-signal-plain" }],
    expireTimer: 60,
    profileKey: bytes32,
    quote: { id: 5n, text: "before", authorAciBinary: aciBytes(stranger) },
    groupV2: { masterKey: bytes32, revision: 3 },
    bodyRanges: [
      { start: 0, length: 5, value: { case: "mentionAciBinary", value: aciBytes(ownAci) } },
      { start: 6, length: 2, value: { case: "style", value: BodyRange_Style.BOLD } },
    ],
  } satisfies MessageInitShape<typeof DataMessageSchema>;
  const plain = { body: "hi", timestamp: BigInt(at) } as const;
  const sync = (content: object): ContentShape => ({ content: { case: "syncMessage", value: { content } as never } });
  return [
    { content: { case: "dataMessage", value: plain } },
    { content: { case: "dataMessage", value: data } },
    {
      content: {
        case: "dataMessage",
        value: {
          ...plain,
          reaction: { emoji: "👍", targetSentTimestamp: 4n, targetAuthorAciBinary: aciBytes(ownAci) },
        },
      },
    },
    { content: { case: "dataMessage", value: { ...plain, delete: { targetSentTimestamp: 4n } } } },
    { content: { case: "editMessage", value: { targetSentTimestamp: 4n, dataMessage: data } } },
    { content: { case: "receiptMessage", value: { type: ReceiptMessage_Type.READ, timestamp: [1n, 2n, 3n] } } },
    {
      content: {
        case: "typingMessage",
        value: { timestamp: BigInt(at), action: TypingMessage_Action.STARTED, groupId: bytes32 },
      },
    },
    { content: { case: "decryptionErrorMessage", value: new Uint8Array([8, 1, 16, 2, 24, 3]) } },
    { content: { case: "nullMessage", value: {} }, senderKeyDistributionMessage: new Uint8Array(80).fill(51) },
    {
      content: { case: "dataMessage", value: plain },
      pniSignatureMessage: { pni: bytes32.slice(16), signature: new Uint8Array(64) },
    },
    sync({
      case: "sent",
      value: { timestamp: BigInt(at), destinationServiceIdBinary: aciBytes(ownAci), message: plain },
    }),
    sync({
      case: "sent",
      value: {
        timestamp: BigInt(at),
        destinationE164: "+15550100002",
        editMessage: { targetSentTimestamp: 1n, dataMessage: data },
      },
    }),
    sync({ case: "contacts", value: { blob: pointer, complete: true } }),
    sync({
      case: "blocked",
      value: { numbers: ["+15550100002"], acisBinary: [aciBytes(stranger)], groupIds: [bytes32] },
    }),
    sync({ case: "configuration", value: { readReceipts: true, typingIndicators: true } }),
    sync({ case: "keys", value: { master: bytes32, accountEntropyPool: "x".repeat(64) } }),
    sync({ case: "fetchLatest", value: { type: 1 } }),
    sync({
      case: "pniChangeNumber",
      value: {
        identityKeyPair: new Uint8Array(69).fill(10),
        signedPreKey: bytes32,
        registrationId: 1,
        newE164: "+15550100009",
      },
    }),
    sync({ case: "verified", value: { identityKey: bytes32, state: 1, destinationAciBinary: aciBytes(stranger) } }),
    sync({ case: "messageRequestResponse", value: { threadAciBinary: aciBytes(stranger), type: 3 } }),
  ];
}

const types = [
  Envelope_Type.DOUBLE_RATCHET,
  Envelope_Type.PREKEY_MESSAGE,
  Envelope_Type.SERVER_DELIVERY_RECEIPT,
  Envelope_Type.UNIDENTIFIED_SENDER,
  Envelope_Type.PLAINTEXT_CONTENT,
  Envelope_Type.UNKNOWN,
] as const;

const noGroups = {
  learn: () => Promise.reject(new Error("not asked")),
  load: () => Promise.reject(new Error("not asked")),
};
/** Rolls back whatever it did. */
const undo = new Error("undo");
/** A session that counts far ahead costs more and more to catch up with. */
const peerLifetime = 400;

/** Starts a mock service once, to be linked; after that nothing of it is used. */
export async function nativeTargets(): Promise<Target[]> {
  const rig = await startRig();
  const { database } = rig;
  const account = loadAccount(database);
  const ownAci = account.aci.serviceId;
  const corpus = contentsFor(ownAci).map(contentBytes);
  const keys = {
    own: await rig.phone.getIdentityKey(ServiceIdKind.ACI),
    other: PrivateKey.generate(),
  };
  const bundle = bundleFrom(database, rig.device.deviceId);
  const trustRoots = rig.deps.service.trustRoots.map((key) => PublicKey.deserialize(key));
  await rig.transport.disconnect();
  await rig.mock.stop();

  const peers = new Map<string, { peer: Peer; uses: number }>();
  const sealFrom = async (who: "own" | "other", plain: Uint8Array, isPadded: boolean) => {
    const known = peers.get(who);
    const aci = who === "own" ? ownAci : stranger;
    const entry =
      known && known.uses < peerLifetime ? known : { peer: await openPeer(aci, keys[who], ownAci, bundle), uses: 0 };
    entry.uses++;
    peers.set(who, entry);
    const sealed = await entry.peer.encrypt(plain, isPadded);
    return envelopeBytes(sealed.type, aci, at, sealed.bytes);
  };
  const addressOf = (aci: string) => ({ aci, number: null });

  const open = async (dice: Dice, bytes: Uint8Array<ArrayBuffer>): Promise<void> => {
    const overlay = openOverlay({ database, clock: systemClock, onIdentityChange: () => undefined });
    const standing = dice.pick(["member", "stranger", "blocked", "unreadable", "unknown"] as const);
    const isAllowed = dice.chance(0.8);
    const outcome = await openEnvelope(
      {
        database,
        overlay,
        waiting: new Map(),
        now: () => at + 1_000,
        notify: () => undefined,
        log: quietLog,
        account: () => account,
        trustRoots,
        isAllowed: () => isAllowed,
        groups: { ...noGroups, standing: () => standing, giveUp: () => undefined },
      },
      { bytes, serverAt: null, ack: () => undefined },
    );
    if (outcome.envelope) follow(outcome.envelope, bytes.length * 2);
    checkSize("quarantine", outcome.quarantine ?? null, 0);
    if ((outcome.jobs?.length ?? 0) > 10) throw new Error("too many jobs of one message");
    overlay.keep();
    try {
      database.transaction(() => {
        overlay.write();
        throw undo;
      });
    } catch (error) {
      if (error !== undo) throw error;
    }
  };

  const pick = (dice: Dice): Uint8Array => dice.pick(corpus);
  return [
    {
      name: "native: damaged envelopes",
      weight: 8,
      async run(dice) {
        const whole = await sealFrom(dice.pick(["own", "other"] as const), pick(dice), true);
        await open(dice, mutateBytes(dice, whole));
      },
    },
    {
      name: "native: damaged ciphertexts",
      weight: 6,
      async run(dice) {
        const bytes = mutateBytes(dice, pick(dice));
        await open(dice, envelopeBytes(dice.pick(types), dice.pick([ownAci, stranger]), at, bytes, dice.below(4)));
      },
    },
    {
      name: "native: damaged contents, well encrypted",
      weight: 10,
      async run(dice) {
        const content = mutateBytes(dice, pick(dice));
        await open(dice, await sealFrom(dice.pick(["own", "other"] as const), content, dice.chance(0.9)));
      },
    },
    {
      name: "native: contents",
      weight: 30,
      run(dice) {
        const bytes = mutateBytes(dice, pick(dice));
        let content;
        try {
          content = fromBinary(ContentSchema, bytes);
        } catch {
          return;
        }
        const sender = {
          aci: stranger,
          deviceId: 1,
          number: null,
          name: null,
          sentAt: at,
          serverAt: null,
          timerSeconds: 0,
          isBlocked: false,
        };
        const reading = readContent(content, { ...sender, isOwn: dice.chance(0.5) }, { latest: at, ownAci, addressOf });
        if (typeof reading !== "string") follow(reading, bytes.length * 4);
      },
    },
    {
      name: "native: files, contacts and provisioning",
      weight: 8,
      run(dice) {
        const bytes = mutateBytes(dice, pick(dice));
        const file = encryptAttachment(bytes.subarray(0, 500));
        for (const work of [
          () => decryptAttachment(mutateBytes(dice, file.blob), file),
          () => pointerOfRef(Buffer.from(bytes).toString("base64url")),
          () => openProvision(bytes, keys.other),
          () => {
            let count = 0;
            for (const contact of parseContacts(bytes)) {
              checkSize("contact", contact.name, bytes.length);
              if (++count > bytes.length) throw new Error("more contacts than bytes");
            }
          },
        ])
          try {
            work();
          } catch (error) {
            if (!(error instanceof BridgeError)) throw error;
          }
      },
    },
  ];
}
