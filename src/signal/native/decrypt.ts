/**
 * One delivery, opened: who sent it, and the plaintext. Touches the overlay, and nothing else.
 *
 *   envelope ─▶ which of our identities? ─▶ type 1, 3: ratchet · 6: sealed, certificate checked, then ratchet or sender key
 *                                          · 5: a receipt of the server · 8: a request to send again
 *
 * **Source:** SIGNAL-NATIVE 4.1, 4.2.
 */
import {
  CiphertextMessageType,
  groupDecrypt,
  PlaintextContent,
  PreKeySignalMessage,
  ProtocolAddress,
  type PublicKey,
  sealedSenderDecryptToUsmc,
  signalDecrypt,
  signalDecryptPreKey,
  SignalMessage,
  ServiceId,
} from "@signalapp/libsignal-client";
import type { Millis } from "../../core/model.ts";
import type { NativeAccount, Own } from "./account.ts";
import { type Bytes, owned } from "./bytes.ts";
import { type Envelope, Envelope_Type } from "./proto/signal_pb.ts";
import type { Overlay } from "./store.ts";
import { toAci } from "./content.ts";

/** What is known of a message before, or without, its decryption. */
export type Sealing = {
  /** Null while a sealed envelope has not been opened. */
  aci: string | null;
  deviceId: number;
  number: string | null;
  isSealed: boolean;
  /** 1: the sender answers a request to send again. 2: nobody minds its loss. Unsealed ones count as 1. */
  hint: number;
  /** The group as the seal names it; null outside of one. */
  groupId: Bytes | null;
  /** The inner ciphertext, for a request to send again; null where there is none. */
  original: { readonly bytes: Bytes; readonly type: CiphertextMessageType } | null;
};

export type Plain = {
  readonly body: Bytes;
  readonly own: Own;
  readonly isPlaintext: boolean;
  readonly usedPreKey: boolean;
};

/** Not a failure: this is not for us, or forged; acknowledged and forgotten. */
export type Dropped = { readonly dropped: string };

export type DecryptDeps = { readonly account: NativeAccount; readonly trustRoots: readonly PublicKey[] };

/** Which of our identities an envelope is for; null for neither. Absent means the ACI. */
export function destinationOf(envelope: Envelope, account: NativeAccount): Own | null {
  const { destinationServiceIdBinary: binary, destinationServiceId: text } = envelope;
  const given = binary.length > 0 ? serviceIdOf(binary) : text;
  if (given === "" || given === account.aci.serviceId) return account.aci;
  return given !== null && given === account.pni?.serviceId ? account.pni : null;
}

function serviceIdOf(binary: Uint8Array): string | null {
  try {
    return ServiceId.parseFromServiceIdBinary(owned(binary)).getServiceIdString();
  } catch {
    return null;
  }
}

/** Fills `sealing` as soon as something is known, so that a failure can be answered. @throws what libsignal throws */
export async function decrypt(
  deps: DecryptDeps,
  overlay: Overlay,
  envelope: Envelope,
  now: Millis,
  sealing: Sealing,
): Promise<Plain | Dropped> {
  const own = destinationOf(envelope, deps.account);
  if (own === null) return { dropped: "for another account" };
  const content = owned(envelope.content);
  if (envelope.type === Envelope_Type.UNIDENTIFIED_SENDER) {
    if (own.name === "pni") return { dropped: "sealed for a number" };
    return unseal(deps, overlay, own, content, now, sealing);
  }
  sealing.aci = toAci(envelope.sourceServiceIdBinary, envelope.sourceServiceId);
  sealing.deviceId = envelope.sourceDeviceId;
  if (sealing.aci === null) return { dropped: "no sender" };
  const from = ProtocolAddress.new(sealing.aci, sealing.deviceId);
  const open = (type: CiphertextMessageType) => openCipher(overlay, own, from, type, content, sealing);
  switch (envelope.type) {
    case Envelope_Type.DOUBLE_RATCHET:
      return open(CiphertextMessageType.Whisper);
    case Envelope_Type.PREKEY_MESSAGE:
      return open(CiphertextMessageType.PreKey);
    case Envelope_Type.PLAINTEXT_CONTENT:
      return open(CiphertextMessageType.Plaintext);
    default:
      return { dropped: `envelope type ${envelope.type}` };
  }
}

/** Numbered otherwise than the types of envelopes. */
const { Whisper, PreKey, SenderKey, Plaintext } = CiphertextMessageType;
const sealedTypes = new Map<number, CiphertextMessageType>(
  [Whisper, PreKey, SenderKey, Plaintext].map((type) => [type, type]),
);

async function unseal(
  { account, trustRoots }: DecryptDeps,
  overlay: Overlay,
  own: Own,
  content: Bytes,
  now: Millis,
  sealing: Sealing,
): Promise<Plain | Dropped> {
  const inner = await sealedSenderDecryptToUsmc(content, overlay.stores(own).identities);
  const certificate = inner.senderCertificate();
  // libsignal opens the seal without looking at the certificate: a forger is told apart here, and only here.
  if (!certificate.validateWithTrustRoots([...trustRoots], now)) return { dropped: "forged or expired certificate" };
  const aci = certificate.senderAci()?.getServiceIdString() ?? null;
  if (aci === null) return { dropped: "no sender" };
  if (aci === account.aci.serviceId && certificate.senderDeviceId() === account.deviceId) return { dropped: "our own" };
  sealing.aci = aci;
  sealing.deviceId = certificate.senderDeviceId();
  sealing.number = certificate.senderE164();
  sealing.isSealed = true;
  sealing.hint = inner.contentHint();
  sealing.groupId = inner.groupId();
  const from = ProtocolAddress.new(aci, sealing.deviceId);
  const type = sealedTypes.get(inner.msgType());
  if (type === undefined) return { dropped: `ciphertext type ${inner.msgType()}` };
  return openCipher(overlay, own, from, type, owned(inner.contents()), sealing);
}

async function openCipher(
  overlay: Overlay,
  own: Own,
  from: ProtocolAddress,
  type: CiphertextMessageType,
  bytes: Bytes,
  sealing: Sealing,
): Promise<Plain | Dropped> {
  const stores = overlay.stores(own);
  const give = (body: Bytes): Plain => ({
    body: unpad(body),
    own,
    isPlaintext: type === CiphertextMessageType.Plaintext,
    usedPreKey: type === CiphertextMessageType.PreKey,
  });
  switch (type) {
    case CiphertextMessageType.Whisper: {
      const message = SignalMessage.deserialize(bytes);
      sealing.original = { bytes, type };
      return give(await signalDecrypt(message, from, own.address, stores.sessions, stores.identities));
    }
    case CiphertextMessageType.PreKey: {
      const message = PreKeySignalMessage.deserialize(bytes);
      sealing.original = { bytes, type };
      const { sessions, identities, preKeys, signedPreKeys, kyberPreKeys } = stores;
      return give(
        await signalDecryptPreKey(
          message,
          from,
          own.address,
          sessions,
          identities,
          preKeys,
          signedPreKeys,
          kyberPreKeys,
        ),
      );
    }
    case CiphertextMessageType.SenderKey:
      sealing.original = { bytes, type };
      return give(await groupDecrypt(from, stores.senderKeys, bytes));
    case CiphertextMessageType.Plaintext:
      return give(PlaintextContent.deserialize(bytes).body());
  }
}

/** Content ‖ 0x80 ‖ zeros. @throws Error when the padding is not that */
function unpad(padded: Bytes): Bytes {
  let end = padded.length;
  while (end > 0 && padded[end - 1] === 0) end--;
  if (end === 0 || padded[end - 1] !== 0x80) throw new Error("bad padding");
  return padded.slice(0, end - 1);
}

/** Content as it is encrypted: byte for byte as official clients pad it. **Source:** SIGNAL-NATIVE 5.3. */
export function pad(content: Uint8Array): Bytes {
  const padded = new Uint8Array(160 * Math.ceil((content.length + 2) / 160) - 1);
  padded.set(content);
  padded[content.length] = 0x80;
  return padded;
}
