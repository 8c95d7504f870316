/**
 * Delivers one content to all devices of one account.
 *
 *   encrypt for each device with a session, COMMIT ─▶ PUT ─▶ 200 done
 *        ▲          └ none: bundles of all               ├ 401 seal refused: once more, unsealed
 *        └── 409, 410: sessions deleted, bundles fetched ◀┘
 *
 * Sessions are committed before anything goes out: a message key may be wasted, but is never used twice. The server delivers to
 * all devices or to none. **Source:** `docs/signal-protocol.md`, "Sending".
 */
import * as libsignal from "@signalapp/libsignal-client";
import { ProfileKey } from "@signalapp/libsignal-client/zkgroup.js";
import * as v from "valibot";
import { BridgeError, type ErrorCode } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { findRecipient } from "./account.ts";
import { fromBase64, reasonOf, toBase64 } from "./bytes.ts";
import type { Bytes, NativeContext, Ratchets, ServiceReply, ServiceRequest } from "./context.ts";
import { pad } from "./decrypt.ts";
import { putRow } from "./tables.ts";
import { ask, isGood } from "./server.ts";

/** The server names stale devices before missing ones, so that one change may take two rounds. */
const roundsMax = 5;
/** A certificate is renewed when it has less than this left. */
const certificateMinMs: Millis = 3_600_000;
/** A refused seal (wrong key, or a person who left or registered anew) is tried again after this, since the cause may have passed. */
const sealedAgainMs: Millis = 24 * 3_600_000;
/** A push to the owner's phone settles a challenge within seconds, or not at all. */
const pushWaitMs: Millis = 30_000;
const pushEveryMs: Millis = 600_000;

/**
 * `isUrgent` wakes a phone; `isOnline` reaches only devices that are connected right now. `hint`: 0 default, 1 we can send it
 * again, 2 its loss matters to no person. A content that `isLogged` can be asked for again.
 */
const kinds = {
  message: { isUrgent: true, isOnline: false, hint: 1, isLogged: true },
  transcript: { isUrgent: true, isOnline: false, hint: 0, isLogged: true },
  request: { isUrgent: true, isOnline: false, hint: 0, isLogged: false },
  repair: { isUrgent: false, isOnline: false, hint: 0, isLogged: false },
  notice: { isUrgent: false, isOnline: false, hint: 2, isLogged: false },
  typing: { isUrgent: false, isOnline: true, hint: 2, isLogged: false },
} as const;

export type Parcel = {
  readonly kind: keyof typeof kinds;
  /** ACI; ours for our other devices. */
  readonly to: string;
  /** Serialized `Content`, or a request to send again, which is not encrypted. */
  readonly content: Bytes | libsignal.PlaintextContent;
  readonly timestamp: Millis;
  /** 32 bytes, named in the seal. */
  readonly groupId?: Bytes | null;
};

/** Devices whose bundles are needed; `*`: all of them. */
type Wanted = readonly (number | "*")[];
type Bundles = readonly libsignal.PreKeyBundle[];
type Seal = { readonly header: [string, string]; readonly certificate: libsignal.SenderCertificate };

/**
 * Resolves when the server has the parcel for every device of the recipient; to true when it went sealed.
 * @throws BridgeError `unregistered` `untrusted_identity` `send_rejected` `captcha` `signal_rate_limited` `send_uncertain`
 *   `signal_unreachable` `signal_protocol` `database`
 */
export async function deliver(context: NativeContext, parcel: Parcel, given?: Sealed): Promise<boolean> {
  const { to, timestamp } = parcel;
  const { isOnline: online, isUrgent: urgent } = kinds[parcel.kind];
  const isSelf = to === context.account().aci.serviceId;
  let mayBeSealed = !isSelf;
  let wanted: Wanted = [];
  for (let round = 0; round < roundsMax; round++) {
    const prepared = round === 0 ? given : undefined;
    const { seal, messages } = prepared ?? (await prepare(context, parcel, mayBeSealed, wanted));
    if (messages.length === 0) {
      if (isSelf && wanted.length > 0) return false;
      if (wanted.length > 0) throw new BridgeError("unregistered", "Cannot send as the recipient has no device");
      wanted = ["*"];
      continue;
    }
    wanted = [];
    const request = ask.sendMessages(to, { messages, timestamp, online, urgent });
    const reply = await (seal ? requestSealed(context, request, seal) : context.line().request(request));
    if (reply && isGood(reply)) return seal !== null;
    if (reply && (seal === null || reply.status !== 401)) wanted = await adjust(context, to, reply);
    else {
      mayBeSealed = false;
      const sql = "UPDATE signal_recipients SET sealed_refused_at = ? WHERE aci = ?";
      if (reply) context.database.run(sql, context.now(), to);
    }
  }
  throw new BridgeError("send_uncertain", "Cannot send as the recipient's devices change all the time");
}

const requestSealed = (
  context: NativeContext,
  request: ServiceRequest,
  { header }: Seal,
): Promise<ServiceReply | null> => context.line().sealedRequest({ ...request, headers: [header] });

/** An encrypted parcel whose sessions are committed, so that it may go out. */
type Sealed = { readonly seal: Seal | null; readonly messages: readonly object[] };

/** The first half of `deliver`, which takes its result as `given`. @throws BridgeError as `deliver` */
export async function prepare(
  context: NativeContext,
  parcel: Parcel,
  mayBeSealed: boolean,
  wanted: Wanted,
): Promise<Sealed> {
  const seal = mayBeSealed ? await sealFor(context, parcel.to) : null;
  const bundles = await fetchBundles(context, parcel.to, wanted, seal);
  const messages = await context.withRatchets((ratchets) => encrypt(context, ratchets, parcel, bundles, seal));
  return { seal, messages };
}

/** Delivers a parcel that is never repeated, under a timestamp of its own. */
export const deliverOnce = (context: NativeContext, parcel: Omit<Parcel, "timestamp">): Promise<boolean> =>
  deliver(context, { ...parcel, timestamp: context.freshTimestamp() });

/** Null where a message to this person goes unsealed. */
export async function sealFor(context: NativeContext, to: string): Promise<Seal | null> {
  const { profileKey, sealedRefusedAt } = findRecipient(context.database, to);
  const isRefused = sealedRefusedAt !== null && Math.abs(context.now() - sealedRefusedAt) < sealedAgainMs;
  if (profileKey === null || isRefused) return null;
  const certificate = await context.certificate();
  const accessKey = toBase64(new ProfileKey(profileKey).deriveAccessKey());
  return certificate && { header: ["unidentified-access-key", accessKey], certificate };
}

const id = v.number();
const key = v.pipe(v.string(), v.transform(fromBase64));
const toPublic = v.transform((bytes: Bytes) => libsignal.PublicKey.deserialize(bytes));
const toQuantum = v.transform((bytes: Bytes) => libsignal.KEMPublicKey.deserialize(bytes));
const publicKey = v.pipe(key, toPublic);
const bundle = v.object({
  deviceId: id,
  registrationId: id,
  preKey: v.nullish(v.object({ keyId: id, publicKey })),
  signedPreKey: v.object({ keyId: id, publicKey, signature: key }),
  pqPreKey: v.object({ keyId: id, publicKey: v.pipe(key, toQuantum), signature: key }),
});
const bundleList = v.object({ identityKey: publicKey, devices: v.array(bundle) });

/** The server rations bundles, so that none is fetched for a device that has a session. */
async function fetchBundles(context: NativeContext, to: string, wanted: Wanted, seal: Seal | null): Promise<Bundles> {
  const { aci, deviceId: ownId } = context.account();
  const bundles: libsignal.PreKeyBundle[] = [];
  for (const device of wanted) {
    const request = ask.bundles(to, device);
    let reply = seal && (await requestSealed(context, request, seal));
    if (reply === null || reply.status === 401) reply = await context.line().request(request);
    if (reply.status === 404 && device !== "*") continue;
    if (!isGood(reply)) throw await refusal(context, reply, "fetch keys");
    try {
      const { identityKey, devices } = v.parse(bundleList, reply.json);
      for (const { deviceId: id, registrationId, preKey, signedPreKey: signed, pqPreKey: pq } of devices) {
        const oneTime = [preKey?.keyId ?? null, preKey?.publicKey ?? null] as const;
        const lasting = [signed.keyId, signed.publicKey, signed.signature, identityKey] as const;
        const quantum = [pq.keyId, pq.publicKey, pq.signature] as const;
        if (to !== aci.serviceId || id !== ownId)
          bundles.push(libsignal.PreKeyBundle.new(registrationId, id, ...oneTime, ...lasting, ...quantum));
      }
    } catch (cause) {
      throw new BridgeError("signal_protocol", "Cannot read the keys of a recipient", { cause });
    }
  }
  return bundles;
}

async function encrypt(
  context: NativeContext,
  ratchets: Ratchets,
  parcel: Parcel,
  bundles: Bundles,
  seal: Seal | null,
) {
  const { kind, to, content, timestamp, groupId = null } = parcel;
  const { aci, deviceId } = context.account();
  const { sessions, identities } = ratchets.stores(aci);
  const now = new Date(context.now());
  const messages: object[] = [];
  try {
    for (const bundle of bundles) {
      const peer = libsignal.ProtocolAddress.new(to, bundle.deviceId());
      await libsignal.processPreKeyBundle(bundle, peer, aci.address, sessions, identities, now);
    }
    const padded = content instanceof Uint8Array ? pad(content) : content;
    for (const id of ratchets.devices("aci", to)) {
      const session = ratchets.session("aci", to, id);
      const isMe = to === aci.serviceId && id === deviceId;
      if (session === null || isMe || !session.hasCurrentState(now)) continue;
      const peer = libsignal.ProtocolAddress.new(to, id);
      const inner = await (padded instanceof Uint8Array
        ? libsignal.signalEncrypt(padded, peer, aci.address, sessions, identities, now)
        : libsignal.CiphertextMessage.from(padded));
      const outer =
        seal && libsignal.UnidentifiedSenderMessageContent.new(inner, seal.certificate, kinds[kind].hint, groupId);
      messages.push({
        // A ratchet message is 2 among ciphertexts and 1 among envelopes.
        type: outer !== null ? 6 : inner.type() === 2 ? 1 : inner.type(),
        destinationDeviceId: id,
        destinationRegistrationId: session.remoteRegistrationId(),
        content: toBase64(await (outer ? libsignal.sealedSenderEncrypt(outer, peer, identities) : inner.serialize())),
      });
    }
    if (messages.length > 0 && kinds[kind].isLogged && content instanceof Uint8Array) {
      const row = { sent_at: timestamp, service_id: to, content, group_id: groupId };
      ratchets.later(() => putRow(context.database, "send_log", row));
    }
    return messages;
  } catch (error) {
    throw toEncryptError(ratchets, error);
  }
}

function toEncryptError(ratchets: Ratchets, cause: unknown): BridgeError {
  if (cause instanceof BridgeError) return cause;
  if (ratchets.fault() !== null)
    return new BridgeError("database", "Cannot encrypt as the key store failed", { cause });
  if (libsignal.LibSignalErrorBase.is(cause, libsignal.ErrorCode.UntrustedIdentity))
    return new BridgeError("untrusted_identity", "Cannot send as the recipient's identity key changed", { cause });
  return new BridgeError("send_rejected", `Cannot encrypt: ${reasonOf(cause)}`, { cause });
}

const ids = v.optional(v.array(v.number()), []);
const mismatch = v.object({ missingDevices: ids, extraDevices: ids, staleDevices: ids });

/** Applies the server's changes to a recipient's devices; resolves to those whose bundles are needed now. */
async function adjust(context: NativeContext, to: string, reply: ServiceReply): Promise<readonly number[]> {
  const parsed = v.safeParse(mismatch, reply.json);
  const isGone = reply.status === 410 && !(parsed.success && parsed.output.staleDevices.length > 0);
  if (isGone || (reply.status === 404 && to === context.account().aci.serviceId))
    throw new BridgeError("outdated", "Cannot send as the server no longer takes messages this way");
  if ((reply.status !== 409 && reply.status !== 410) || !parsed.success) throw await refusal(context, reply, "send");
  const { missingDevices, extraDevices, staleDevices } = parsed.output;
  await context.withRatchets((ratchets) => {
    for (const id of [...extraDevices, ...staleDevices]) ratchets.putSession("aci", to, id, null);
  });
  return [...missingDevices, ...staleDevices];
}

/** 503: the server is read-only for now, and surely did not take the message; 508: it refuses the message for good. */
const codes = new Map<number, ErrorCode>([
  [404, "unregistered"],
  [428, "captcha"],
  [429, "signal_rate_limited"],
  [503, "signal_unreachable"],
  [508, "send_rejected"],
]);

/** The error for an unexpected answer. A rate limit concerns the recipient, a challenge the account. */
async function refusal(context: NativeContext, { status, json, retryAfterMs }: ServiceReply, what: string) {
  const message = `Cannot ${what} as the server answered ${status}`;
  if (status === 428 && (await pushChallenge(context, json)))
    return new BridgeError("signal_rate_limited", message, {
      retryAfterMs: pushWaitMs,
      scope: "account",
      hint: "Nothing to do: the phone answers Signal's question by itself while it is online.",
    });
  const code = codes.get(status) ?? (status >= 500 ? "send_uncertain" : "send_rejected");
  const scope = status === 429 ? "recipient" : "account";
  return new BridgeError(code, message, { retryAfterMs: retryAfterMs ?? undefined, scope });
}

const challenge = v.object({ token: v.string(), options: v.optional(v.array(v.string()), []) });

/** True when the owner's phone was asked to settle the challenge; at most every ten minutes, else a person must settle it. */
async function pushChallenge({ database, clock, line, last }: NativeContext, json: unknown): Promise<boolean> {
  const asked = v.safeParse(challenge, json);
  // The answer to a wrong solution has no token, so that the stored one stays good.
  if (!asked.success) return false;
  database.run("UPDATE signal_account SET challenge = ?", asked.output.token);
  if (!asked.output.options.includes("pushChallenge") || clock.monotonic() - last.pushedAt < pushEveryMs) return false;
  last.pushedAt = clock.monotonic();
  return line()
    .request(ask.pushChallenge())
    .then(isGood, () => false);
}

const certificateAnswer = v.object({ certificate: key });

type KeeperDeps = Pick<NativeContext, "line" | "now" | "log">;
/** The certificate that our sealed messages carry, kept until shortly before it expires; null while the server gives none. */
export function certificateKeeper({ line, now, log }: KeeperDeps): NativeContext["certificate"] {
  let kept: libsignal.SenderCertificate | null = null;
  let asking: Promise<libsignal.SenderCertificate | null> | null = null;
  const fetch = async () => {
    const reply = await line().request(ask.senderCertificate());
    const answer = v.safeParse(certificateAnswer, reply.json);
    kept = answer.success ? libsignal.SenderCertificate.deserialize(answer.output.certificate) : null;
    if (kept === null) log.warn("no sender certificate: messages go unsealed", { status: reply.status });
    return kept;
  };
  return async () => {
    if (kept !== null && kept.expiration() - now() > certificateMinMs) return kept;
    // The deliveries to all members of a group ask at once, and share one request.
    return (asking ??= fetch().finally(() => (asking = null)));
  };
}
