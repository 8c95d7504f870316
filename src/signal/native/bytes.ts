/** Byte strings as libsignal wants them: on an ArrayBuffer of their own, never on a shared pool. */
import { Buffer } from "node:buffer";
import type { Bytes } from "./context.ts";

/** A copy of its own: parts of a decoded message are views of the whole. */
export const owned = (bytes: ArrayLike<number>): Bytes => new Uint8Array(bytes);

export const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
/** Tolerates missing padding, as the server leaves it out at times. */
export const fromBase64 = (text: string): Bytes => owned(Buffer.from(text, "base64"));
export const concat = (...parts: readonly Uint8Array[]): Bytes => owned(Buffer.concat(parts));
export const utf8 = (text: string): Bytes => owned(Buffer.from(text, "utf8"));

export const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
