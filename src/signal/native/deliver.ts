/**
 * One content to all devices of one account.
 *
 *   devices with a session ─▶ (none: fetch bundles) ─▶ encrypt for each, COMMIT ─▶ PUT ─▶ 200 done
 *        ▲                                                                          ├ 401 seal refused: once more, unsealed
 *        └── 409, 410: sessions deleted, bundles of the named devices fetched ◀─────┘
 *
 * Sessions are committed before anything goes out: a message key may be burnt, never used twice. The server delivers to all
 * devices or to none. **Source:** SIGNAL-NATIVE 5.1 to 5.4.
 */
import {
  CiphertextMessage,
  type CiphertextMessageConvertible,
  ErrorCode,
  KEMPublicKey,
  LibSignalErrorBase,
  PreKeyBundle,
  processPreKeyBundle,
  ProtocolAddress,
  PublicKey,
  sealedSenderEncrypt,
  SenderCertificate,
  signalEncrypt,
  UnidentifiedSenderMessageContent,
} from "@signalapp/libsignal-client";
import { ProfileKey } from "@signalapp/libsignal-client/zkgroup.js";
import * as v from "valibot";
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { Log } from "../../log.ts";
import type { Database } from "../../store/database.ts";
import type { NativeAccount } from "./account.ts";
import { type Bytes, fromBase64, toBase64 } from "./bytes.ts";
import type { Line, Reply } from "./connect.ts";
import { pad } from "./decrypt.ts";
import { findRecipient, refuseSealed } from "./recipients.ts";
import { openOverlay, type OnIdentityChange, type Overlay } from "./store.ts";

/** The server names stale devices before missing ones, so that one change may take two rounds. */
const roundsMax = 4;
/** A certificate is renewed when it has less than this left. */
const certificateMinMs: Millis = 3_600_000;

export type DeliverDeps = {
  readonly database: Database;
  readonly clock: Clock;
  readonly log: Log;
  readonly line: () => Line;
  readonly account: () => NativeAccount;
  /** The account's mutex: held for the ratchet and its commit, never over the network. */
  readonly lock: <T>(work: () => Promise<T>) => Promise<T>;
  readonly certificate: () => Promise<SenderCertificate | null>;
  readonly onIdentityChange: OnIdentityChange;
};

export type Parcel = {
  /** ACI of the recipient, ours included: then it goes to our other devices. */
  readonly to: string;
  /** Serialized `Content`, or a request to send again, which is not encrypted. */
  readonly content: Bytes | CiphertextMessageConvertible;
  /** The message's identity; every repetition carries the same. */
  readonly timestamp: Millis;
  readonly isUrgent: boolean;
  /** Only for who is connected right now. */
  readonly isOnline: boolean;
  /** 0 default, 1 we can send it again, 2 nobody minds its loss. */
  readonly hint: 0 | 1 | 2;
  /** 32 bytes, named in the seal; null outside of a group. */
  readonly groupId: Bytes | null;
};

type Seal = { readonly accessKey: Bytes; readonly certificate: SenderCertificate };
type Wanted = "all" | readonly number[];

/**
 * Resolves when the server has it for every device of the recipient; `isSealed` says how it went.
 * @throws BridgeError `unregistered` `untrusted_identity` `send_rejected` `captcha` `signal_rate_limited` `send_uncertain`
 *   `signal_unreachable` `signal_protocol` `database`
 */
export async function deliver(deps: DeliverDeps, parcel: Parcel): Promise<{ readonly isSealed: boolean }> {
  let mayBeSealed = parcel.to !== deps.account().aci.serviceId;
  let wanted: Wanted = [];
  for (let round = 0; round < roundsMax; round++) {
    const seal = mayBeSealed ? await sealFor(deps, parcel.to) : null;
    const bundles = await fetchBundles(
      deps,
      parcel.to,
      wanted.length > 0 ? wanted : firstWanted(deps, parcel.to),
      seal,
    );
    const messages = await deps.lock(() => encrypt(deps, parcel, bundles, seal));
    // Only our own account can be without any other device.
    if (messages.length === 0) return { isSealed: false };
    const request = {
      verb: "PUT",
      path: `/v1/messages/${parcel.to}`,
      json: { messages, timestamp: parcel.timestamp, online: parcel.isOnline, urgent: parcel.isUrgent },
    } as const;
    const reply =
      seal === null
        ? await deps.line().request(request)
        : await deps.line().sealedRequest({ ...request, headers: [accessHeader(seal)] });
    if (reply === null) {
      mayBeSealed = false;
      continue;
    }
    if (reply.status >= 200 && reply.status < 300) return { isSealed: seal !== null };
    if (reply.status === 401 && seal !== null) {
      refuseSealed(deps.database, parcel.to);
      mayBeSealed = false;
      continue;
    }
    wanted = await adjust(deps, parcel.to, reply);
  }
  throw new BridgeError("send_uncertain", "Cannot send as the recipient's devices change all the time");
}

const accessHeader = (seal: Seal): [string, string] => ["unidentified-access-key", toBase64(seal.accessKey)];

/** Null where a message to this person goes unsealed. */
async function sealFor(deps: DeliverDeps, to: string): Promise<Seal | null> {
  const { profileKey, isSealedRefused } = findRecipient(deps.database, to);
  if (profileKey === null || isSealedRefused) return null;
  const certificate = await deps.certificate();
  return certificate === null ? null : { accessKey: new ProfileKey(profileKey).deriveAccessKey(), certificate };
}

/** Every device, when we have a session with none. */
function firstWanted(deps: DeliverDeps, to: string): Wanted {
  const overlay = openOverlay(deps.database, deps.clock, deps.onIdentityChange);
  return usableDevices(overlay, deps.account(), to, deps.clock.now()).length === 0 ? "all" : [];
}

function usableDevices(overlay: Overlay, account: NativeAccount, to: string, now: Millis): number[] {
  const isSelf = to === account.aci.serviceId;
  return overlay
    .devices("aci", to)
    .filter((id) => !(isSelf && id === account.deviceId))
    .filter((id) => overlay.session("aci", to, id)?.hasCurrentState(new Date(now)) === true);
}

const signedKey = v.object({ keyId: v.number(), publicKey: v.string(), signature: v.string() });
const bundleList = v.object({
  identityKey: v.string(),
  devices: v.array(
    v.object({
      deviceId: v.number(),
      registrationId: v.number(),
      signedPreKey: signedKey,
      preKey: v.nullish(v.object({ keyId: v.number(), publicKey: v.string() })),
      pqPreKey: signedKey,
    }),
  ),
});

/** Bundles are rationed by the server: none is fetched for a device that has a session. */
async function fetchBundles(deps: DeliverDeps, to: string, wanted: Wanted, seal: Seal | null): Promise<PreKeyBundle[]> {
  const bundles: PreKeyBundle[] = [];
  for (const device of wanted === "all" ? ["*"] : wanted) {
    const request = { verb: "GET", path: `/v2/keys/${to}/${device}` } as const;
    let reply = seal === null ? null : await deps.line().sealedRequest({ ...request, headers: [accessHeader(seal)] });
    if (reply === null || reply.status === 401) reply = await deps.line().request(request);
    if (reply.status === 404 && device !== "*") continue;
    if (reply.status !== 200) throw refusal(deps, reply, "fetch keys");
    const parsed = v.safeParse(bundleList, reply.json);
    if (!parsed.success) throw new BridgeError("signal_protocol", "Cannot read the keys of a recipient");
    const { deviceId, aci } = deps.account();
    for (const entry of parsed.output.devices)
      if (to !== aci.serviceId || entry.deviceId !== deviceId) bundles.push(toBundle(parsed.output.identityKey, entry));
  }
  return bundles;
}

type BundleEntry = v.InferOutput<typeof bundleList>["devices"][number];

function toBundle(
  identityKey: string,
  { deviceId, registrationId, preKey, signedPreKey, pqPreKey }: BundleEntry,
): PreKeyBundle {
  const publicKey = (text: string) => PublicKey.deserialize(fromBase64(text));
  try {
    return PreKeyBundle.new(
      registrationId,
      deviceId,
      preKey?.keyId ?? null,
      preKey ? publicKey(preKey.publicKey) : null,
      signedPreKey.keyId,
      publicKey(signedPreKey.publicKey),
      fromBase64(signedPreKey.signature),
      publicKey(identityKey),
      pqPreKey.keyId,
      KEMPublicKey.deserialize(fromBase64(pqPreKey.publicKey)),
      fromBase64(pqPreKey.signature),
    );
  } catch (cause) {
    throw new BridgeError("signal_protocol", "Cannot read the keys of a recipient", { cause });
  }
}

type WireMessage = {
  readonly type: number;
  readonly destinationDeviceId: number;
  readonly destinationRegistrationId: number;
  readonly content: string;
};

/** Under the mutex. When it resolves, the sessions are committed. */
async function encrypt(
  deps: DeliverDeps,
  { to, content, hint, groupId }: Parcel,
  bundles: readonly PreKeyBundle[],
  seal: Seal | null,
): Promise<WireMessage[]> {
  const account = deps.account();
  const me = account.aci.address;
  const overlay = openOverlay(deps.database, deps.clock, deps.onIdentityChange);
  const { sessions, identities } = overlay.stores(account.aci);
  const now = new Date(deps.clock.now());
  try {
    for (const bundle of bundles)
      await processPreKeyBundle(bundle, ProtocolAddress.new(to, bundle.deviceId()), me, sessions, identities, now);
    const messages: WireMessage[] = [];
    const padded = content instanceof Uint8Array ? pad(content) : null;
    for (const deviceId of usableDevices(overlay, account, to, now.getTime())) {
      const peer = ProtocolAddress.new(to, deviceId);
      const inner =
        padded === null
          ? CiphertextMessage.from(content as CiphertextMessageConvertible)
          : await signalEncrypt(padded, peer, me, sessions, identities, now);
      const outer = seal === null ? null : UnidentifiedSenderMessageContent.new(inner, seal.certificate, hint, groupId);
      messages.push({
        type: outer === null ? envelopeType(inner) : 6,
        destinationDeviceId: deviceId,
        destinationRegistrationId: overlay.session("aci", to, deviceId)?.remoteRegistrationId() ?? 0,
        content: toBase64(outer === null ? inner.serialize() : await sealedSenderEncrypt(outer, peer, identities)),
      });
    }
    overlay.keep();
    deps.database.transaction(() => overlay.write());
    return messages;
  } catch (error) {
    throw toEncryptError(overlay, error);
  }
}

/** A ratchet message is 2 among ciphertexts and 1 among envelopes. */
const envelopeType = (message: CiphertextMessage): number => (message.type() === 2 ? 1 : message.type());

function toEncryptError(overlay: Overlay, cause: unknown): BridgeError {
  if (cause instanceof BridgeError) return cause;
  if (overlay.fault() !== null) return new BridgeError("database", "Cannot encrypt as the key store failed", { cause });
  if (LibSignalErrorBase.is(cause, ErrorCode.UntrustedIdentity))
    return new BridgeError("untrusted_identity", "Cannot send as the recipient's identity key changed", { cause });
  return new BridgeError("send_rejected", `Cannot encrypt: ${cause instanceof Error ? cause.message : "unknown"}`, {
    cause,
  });
}

const mismatch = v.object({
  missingDevices: v.optional(v.array(v.number()), []),
  extraDevices: v.optional(v.array(v.number()), []),
  staleDevices: v.optional(v.array(v.number()), []),
});

/** Takes the server's word about a recipient's devices; gives those whose bundles are needed now. */
async function adjust(deps: DeliverDeps, to: string, reply: Reply): Promise<readonly number[]> {
  const parsed = v.safeParse(mismatch, reply.json);
  if ((reply.status !== 409 && reply.status !== 410) || !parsed.success) throw refusal(deps, reply, "send");
  const { missingDevices, extraDevices, staleDevices } = parsed.output;
  await deps.lock(async () =>
    deps.database.transaction(() => {
      for (const id of [...extraDevices, ...staleDevices])
        deps.database.run("DELETE FROM signal_sessions WHERE own = 'aci' AND service_id = ? AND device_id = ?", to, id);
    }),
  );
  return [...missingDevices, ...staleDevices];
}

/** **Source:** SIGNAL-NATIVE 5.4, 5.12. */
export function refusal(
  deps: Pick<DeliverDeps, "database">,
  { status, json, retryAfterMs }: Reply,
  what: string,
): BridgeError {
  const message = `Cannot ${what} as the server answered ${status}`;
  switch (status) {
    case 404:
      return new BridgeError("unregistered", message);
    case 428: {
      const token = v.safeParse(v.object({ token: v.string() }), json);
      deps.database.run("UPDATE signal_account SET challenge = ?", token.success ? token.output.token : null);
      return new BridgeError("captcha", message, { retryAfterMs: retryAfterMs ?? undefined });
    }
    case 429:
      return new BridgeError("signal_rate_limited", message, { retryAfterMs: retryAfterMs ?? undefined });
    default:
      return new BridgeError(status >= 500 ? "send_uncertain" : "send_rejected", message);
  }
}

const certificateAnswer = v.object({ certificate: v.string() });

/** The certificate that our sealed messages carry, kept until shortly before it expires; null while the server gives none. */
export function certificateKeeper(
  deps: Pick<DeliverDeps, "line" | "clock" | "log">,
): () => Promise<SenderCertificate | null> {
  let kept: SenderCertificate | null = null;
  return async () => {
    if (kept !== null && kept.expiration() - deps.clock.now() > certificateMinMs) return kept;
    const reply = await deps.line().request({ verb: "GET", path: "/v1/certificate/delivery?includeE164=false" });
    const answer = v.safeParse(certificateAnswer, reply.json);
    if (reply.status !== 200 || !answer.success) {
      deps.log.warn("no sender certificate: messages go unsealed", { status: reply.status });
      return null;
    }
    kept = SenderCertificate.deserialize(fromBase64(answer.output.certificate));
    return kept;
  };
}
