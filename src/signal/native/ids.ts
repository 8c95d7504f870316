/** Ids of people and groups, between the bytes of the wire and the texts of the model. */
import { Aci } from "@signalapp/libsignal-client";
import { GroupMasterKey, GroupSecretParams } from "@signalapp/libsignal-client/zkgroup.js";
import { BridgeError } from "../../core/errors.ts";
import { owned, readOrThrow, toBase64 } from "./bytes.ts";
import type { Bytes } from "./context.ts";

/** An ACI in either of its forms, as lower-case UUID; null for a PNI, or for nothing. */
export function toAci(binary: Uint8Array | null, text: string): string | null {
  if (binary !== null && binary.length > 0)
    return binary.length === 16 ? Aci.fromUuidBytes(owned(binary)).getServiceIdString() : null;
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text) ? text.toLowerCase() : null;
}

/** The 16 bytes of a UUID. @throws Error when it is none */
export const aciBytes = (uuid: string): Bytes => owned(Aci.fromUuid(uuid).getServiceIdBinary());

/** @throws BridgeError `signal_protocol` when the master key is not one (32 bytes) */
export const groupSecretsOf = (masterKey: Uint8Array): GroupSecretParams =>
  readOrThrow(
    () => GroupSecretParams.deriveFromMasterKey(new GroupMasterKey(owned(masterKey))),
    (cause) => new BridgeError("signal_protocol", "Cannot read a group as its master key is damaged", { cause }),
  );

/** The group's id as `Chat` has it: standard base64 of 32 bytes. @throws BridgeError `signal_protocol` */
export const groupIdOf = (masterKey: Uint8Array): string =>
  toBase64(groupSecretsOf(masterKey).getPublicParams().getGroupIdentifier().serialize());
