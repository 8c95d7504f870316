/** Byte strings as libsignal wants them: on an ArrayBuffer of their own, never on a shared pool; and helpers for failures. */
import { Buffer } from "node:buffer";
import { createDecipheriv } from "node:crypto";
import { BridgeError } from "../../core/errors.ts";
import type { Bytes } from "./context.ts";

/** Copies `bytes`, since parts of a decoded message are views of the whole. */
export const owned = (bytes: ArrayLike<number>): Bytes => new Uint8Array(bytes);

export const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
/** Tolerates missing padding, as the server leaves it out at times. */
export const fromBase64 = (text: string): Bytes => owned(Buffer.from(text, "base64"));
export const concat = (...parts: readonly Uint8Array[]): Bytes => owned(Buffer.concat(parts));
/** nonce(12) ‖ AES-256-GCM ‖ tag(16), as profiles and the storage service have it. @throws Error when the key does not fit */
export function openGcm(key: Bytes, sealed: Uint8Array): Bytes {
  const opening = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, 12)).setAuthTag(sealed.subarray(-16));
  return concat(opening.update(sealed.subarray(12, -16)), opening.final());
}

export const utf8 = (text: string): Bytes => owned(Buffer.from(text, "utf8"));

/** The result of reading bytes that others made; null where `read` throws. */
export function readOrNull<T>(read: () => T): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}

/** The result of `read`. @throws BridgeError that `toError` makes of its failure */
export function readOrThrow<T>(read: () => T, toError: (cause: unknown) => BridgeError): T {
  try {
    return read();
  } catch (cause) {
    throw toError(cause);
  }
}

/** Waits for `work`; an expected failure goes to `onFault`, any other is thrown. */
export async function tolerate(work: Promise<unknown>, onFault: (error: BridgeError) => void): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    onFault(error);
  }
}

export const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
