/**
 * Opens one delivery: its sender, and the plaintext. Changes the overlay, and nothing else.
 *
 *   envelope ─▶ which of our identities? ─▶ type 1, 3: ratchet · 6: sealed, certificate checked, then ratchet or sender key
 *                                          · 8: a request to send again
 *
 * **Source:** `docs/signal-protocol.md`, "Envelopes".
 */
import * as libsignal from "@signalapp/libsignal-client";
import type { Millis } from "../../core/model.ts";
import { owned, readOrNull } from "./bytes.ts";
import type { Bytes, NativeAccount, Own, ReceiveDeps } from "./context.ts";
import { toAci } from "./ids.ts";
import { type Envelope, Envelope_Type } from "./proto/signal_pb.ts";
import type { Overlay } from "./key-store.ts";

/** The facts about a message that are known before, or without, its decryption. */
export type Sealing = {
  /** Null while a sealed envelope has not been opened. */
  aci: string | null;
  deviceId: number;
  number: string | null;
  isSealed: boolean;
  /** 1: the sender answers a request to send again. 2: its loss matters to no person. Unsealed messages count as 1. */
  hint: number;
  groupId: Bytes | null;
  /** The inner ciphertext, for a request to send again; null where there is none. */
  original: { readonly bytes: Bytes; readonly type: CipherType } | null;
};

const nothing = { aci: null, deviceId: 0, number: null, isSealed: false, hint: 1, groupId: null, original: null };
export const unsealed = (): Sealing => ({ ...nothing });

const sourceOf = (envelope: Envelope) => ({
  aci: toAci(envelope.sourceServiceIdBinary, envelope.sourceServiceId),
  deviceId: envelope.sourceDeviceId,
});

type CipherType = libsignal.CiphertextMessageType;
export type Plain = { readonly body: Bytes; readonly own: Own; readonly type: CipherType };

type Who = Pick<ReceiveDeps, "account" | "trustRoots"> & { readonly overlay: Overlay };

/** Which of our identities an envelope is for; null for neither. Absent means the ACI. */
function destinationOf(envelope: Envelope, { aci, pni }: NativeAccount): Own | null {
  const { destinationServiceIdBinary: binary, destinationServiceId: text } = envelope;
  // A PNI has a byte before its UUID.
  const given = binary.length === 0 ? text : `${binary.length === 17 ? "PNI:" : ""}${toAci(binary.subarray(-16), "")}`;
  return given === "" || given === aci.serviceId ? aci : given === pni?.serviceId ? pni : null;
}

const { Whisper, PreKey, SenderKey, Plaintext } = libsignal.CiphertextMessageType;
/** The types of unsealed messages, which are numbered otherwise than those inside a seal. */
const openTypes = new Map<Envelope_Type, CipherType>([
  [Envelope_Type.DOUBLE_RATCHET, Whisper],
  [Envelope_Type.PREKEY_MESSAGE, PreKey],
  [Envelope_Type.PLAINTEXT_CONTENT, Plaintext],
]);

/**
 * Resolves to the plaintext, or to the reason why the envelope is not for us. Fills `sealing` as soon as its facts are known,
 * so that a failure can be answered; `at` is when the server received the envelope. @throws what libsignal throws
 */
export async function decrypt(who: Who, envelope: Envelope, at: Millis, sealing: Sealing): Promise<Plain | string> {
  const { overlay } = who;
  const own = destinationOf(envelope, who.account());
  if (own === null) return "for another account";
  let type: number | undefined = openTypes.get(envelope.type);
  let bytes = owned(envelope.content);
  if (envelope.type === Envelope_Type.UNIDENTIFIED_SENDER) {
    if (own.name === "pni") return "sealed for a number";
    const inner = await libsignal.sealedSenderDecryptToUsmc(bytes, overlay.stores(own).identities);
    const refusal = readSeal(who, own, inner, at, sealing);
    if (refusal !== null) return refusal;
    type = inner.msgType();
    bytes = owned(inner.contents());
  } else Object.assign(sealing, sourceOf(envelope));
  return openCipher(overlay, own, type, bytes, sealing);
}

type Inner = libsignal.UnidentifiedSenderMessageContent;

export const unknownType = "unknown type of message";

/** Checks the certificate; null when it is good. libsignal opens a seal without that check, so that only this one stops a forger. */
function readSeal({ account, trustRoots }: Who, own: Own, inner: Inner, at: Millis, sealing: Sealing): string | null {
  const certificate = inner.senderCertificate();
  const [aci, number] = [certificate.senderAci()?.getServiceIdString() ?? null, certificate.senderE164()];
  const seal = { isSealed: true, hint: inner.contentHint(), groupId: inner.groupId() };
  Object.assign(sealing, { aci, number, deviceId: certificate.senderDeviceId(), ...seal } satisfies Partial<Sealing>);
  if (!certificate.validateWithTrustRoots([...trustRoots], at)) {
    // A certificate may name its signer by a number that this version of libsignal has no key for.
    const signer = readOrNull(() => certificate.serverCertificate().keyId());
    return signer === null ? "signed by an unknown key: update signalman" : "forged or expired certificate";
  }
  return sealing.aci === own.serviceId && sealing.deviceId === account().deviceId ? "our own" : null;
}

async function openCipher(overlay: Overlay, own: Own, type: number | undefined, bytes: Bytes, sealing: Sealing) {
  if (sealing.aci === null) return "no sender";
  const from = libsignal.ProtocolAddress.new(sealing.aci, sealing.deviceId);
  const { sessions, identities, preKeys, signedPreKeys, kyberPreKeys, senderKeys } = overlay.stores(own);
  const give = (body: Bytes, as: CipherType): Plain => ({ body: unpad(body), own, type: as });
  switch (type) {
    case Whisper: {
      const message = libsignal.SignalMessage.deserialize(bytes);
      sealing.original = { bytes, type };
      return give(await libsignal.signalDecrypt(message, from, own.address, sessions, identities), type);
    }
    case PreKey: {
      const message = libsignal.PreKeySignalMessage.deserialize(bytes);
      sealing.original = { bytes, type };
      const keys = [preKeys, signedPreKeys, kyberPreKeys] as const;
      return give(await libsignal.signalDecryptPreKey(message, from, own.address, sessions, identities, ...keys), type);
    }
    case SenderKey:
      sealing.original = { bytes, type };
      return give(await libsignal.groupDecrypt(from, senderKeys, bytes), type);
    case Plaintext:
      return give(libsignal.PlaintextContent.deserialize(bytes).body(), type);
    default:
      return unknownType;
  }
}

/** Content ‖ 0x80 ‖ zeros. @throws Error when the padding is not that */
function unpad(padded: Bytes): Bytes {
  const end = padded.findLastIndex((byte) => byte !== 0);
  if (padded[end] !== 0x80) throw new Error("bad padding");
  return padded.slice(0, end);
}

/** Content as it is encrypted: byte for byte as official clients pad it. */
export function pad(content: Uint8Array): Bytes {
  const padded = new Uint8Array(160 * Math.ceil((content.length + 2) / 160) - 1);
  padded.set(content);
  padded[content.length] = 0x80;
  return padded;
}
