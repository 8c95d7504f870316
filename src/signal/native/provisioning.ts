/**
 * The crypto of linking: what the phone hands over through the QR code, and the name under which it lists us.
 * **Source:** SIGNAL-NATIVE 2.2, 2.3, 2.5 (read in signal-cli, mautrix-signal; verified against the mock server).
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import * as libsignal from "@signalapp/libsignal-client";
import { createCipheriv, createDecipheriv, createHmac, timingSafeEqual } from "node:crypto";
import { BridgeError } from "../../core/errors.ts";
import { type Bytes, concat, owned, toBase64, utf8 } from "./bytes.ts";
import * as wire from "./proto/signal_pb.ts";

/** What the phone gives to a new device. */
export type Provision = {
  /** Single use, short lived. */
  readonly code: string;
  readonly aci: string;
  readonly aciIdentity: libsignal.PrivateKey;
  /** Null for an account without a number. */
  readonly pniIdentity: libsignal.PrivateKey | null;
  readonly number: string | null;
  readonly profileKey: Bytes | null;
  readonly entropyPool: string | null;
  readonly credentialSalt: Bytes | null;
  readonly sendsReadReceipts: boolean;
};

const macBytes = 32;
const ivBytes = 16;

/** For the QR code. Empty `capabilities` declines the transfer of old messages. */
export function linkUrl(address: string, publicKey: libsignal.PublicKey): string {
  const key = encodeURIComponent(toBase64(publicKey.serialize()));
  return `sgnl://linkdevice?uuid=${encodeURIComponent(address)}&pub_key=${key}&capabilities=`;
}

/**
 * Opens the envelope that came for the key `ephemeral`.
 * @throws BridgeError `signal_protocol` when it was not made for this key, was changed on the way, or lacks what a device needs
 */
export function openProvision(bytes: Uint8Array, ephemeral: libsignal.PrivateKey): Provision {
  try {
    const envelope = fromBinary(wire.ProvisionEnvelopeSchema, bytes);
    return toProvision(decrypt(envelope.body, libsignal.PublicKey.deserialize(owned(envelope.publicKey)), ephemeral));
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    throw refuse("it cannot be read", error);
  }
}

const refuse = (why: string, cause?: unknown) =>
  new BridgeError("signal_protocol", `Cannot link as what the phone sent is not right: ${why}`, { cause });

/** body = version(1) ‖ iv(16) ‖ ciphertext ‖ mac(32). The MAC is checked first, in constant time. */
function decrypt(body: Uint8Array, theirs: libsignal.PublicKey, ephemeral: libsignal.PrivateKey): Bytes {
  if (body[0] !== 1) throw refuse("its version is unknown");
  if (body.length < 1 + ivBytes + macBytes) throw refuse("it is too short");
  const keys = libsignal.hkdf(64, ephemeral.agree(theirs), utf8("TextSecure Provisioning Message"), null);
  const mac = createHmac("sha256", keys.subarray(32)).update(body.subarray(0, -macBytes)).digest();
  if (!timingSafeEqual(mac, body.subarray(-macBytes))) throw refuse("its MAC is wrong");
  const decipher = createDecipheriv("aes-256-cbc", keys.subarray(0, 32), body.subarray(1, 1 + ivBytes));
  return concat(decipher.update(body.subarray(1 + ivBytes, -macBytes)), decipher.final());
}

function toProvision(plain: Bytes): Provision {
  const message = fromBinary(wire.ProvisionMessageSchema, plain);
  const aci =
    message.aciBinary.length === 16 ? libsignal.Aci.fromUuidBytes(message.aciBinary).getServiceIdString() : message.aci;
  const aciIdentity = toIdentity(message.aciIdentityKeyPrivate, message.aciIdentityKeyPublic);
  if (aciIdentity === null || aci === "" || message.provisioningCode === "") throw refuse("a field is missing");
  const hasPni = message.pniBinary.length === 16 || message.pni !== "";
  const sized = (bytes: Uint8Array, length: number) => (bytes.length === length ? owned(bytes) : null);
  return {
    code: message.provisioningCode,
    aci: aci.toLowerCase(),
    aciIdentity,
    pniIdentity: hasPni ? toIdentity(message.pniIdentityKeyPrivate, message.pniIdentityKeyPublic) : null,
    number: message.number || null,
    profileKey: sized(message.profileKey, 32),
    entropyPool: message.accountEntropyPool || null,
    credentialSalt: sized(message.authCredentialSalt, 16),
    sendsReadReceipts: message.readReceipts,
  };
}

function toIdentity(secret: Uint8Array, announced: Uint8Array): libsignal.PrivateKey | null {
  if (secret.length === 0) return null;
  const key = libsignal.PrivateKey.deserialize(owned(secret));
  const isMatching =
    announced.length === 0 || libsignal.PublicKey.deserialize(owned(announced)).equals(key.getPublicKey());
  if (!isMatching) throw refuse("an identity key does not match its public half");
  return key;
}

/** The device's name, readable to the account's own devices only; base64 of the sealed form, different each time. */
export function sealDeviceName(name: string, identity: libsignal.PublicKey): string {
  const ephemeral = libsignal.PrivateKey.generate();
  const master = ephemeral.agree(identity);
  const mac = (key: Uint8Array, data: Uint8Array) => createHmac("sha256", key).update(data).digest();
  const plain = utf8(name);
  const syntheticIv = owned(mac(mac(master, utf8("auth")), plain).subarray(0, 16));
  const cipher = createCipheriv("aes-256-ctr", mac(mac(master, utf8("cipher")), syntheticIv), new Uint8Array(16));
  const sealed = create(wire.DeviceNameSchema, {
    ephemeralPublic: ephemeral.getPublicKey().serialize(),
    syntheticIv,
    ciphertext: concat(cipher.update(plain), cipher.final()),
  });
  return toBase64(toBinary(wire.DeviceNameSchema, sealed));
}
