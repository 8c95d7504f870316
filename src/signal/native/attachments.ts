/**
 * Files of messages, sealed before they leave and checked before a byte of them is used.
 *
 *   upload    plain ─▶ pad ─▶ AES-CBC + HMAC ─▶ SHA-256 ─▶ form (chat host) ─▶ CDN ─▶ pointer (goes into the message)
 *   download  pointer ─▶ CDN, bytes bounded ─▶ SHA-256, HMAC, size ─▶ plain
 *
 * Blob: iv(16) ‖ ciphertext ‖ mac(32). Key: AES key(32) ‖ MAC key(32). **Source:** mautrix-signal pkg/signalmeow/attachments.go.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { ErrorCode, LibSignalErrorBase } from "@signalapp/libsignal-client";
import type { AuthMessagesService } from "@signalapp/libsignal-client/dist/net.js";
import { Buffer } from "node:buffer";
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { concat, owned, readOrNull, readOrThrow, toBase64, utf8 } from "./bytes.ts";
import { toBridgeError } from "./connect.ts";
import type { Bytes, PinnedResponse, Service } from "./context.ts";
import { isGood, refused } from "./server.ts";
import * as wire from "./proto/signal_pb.ts";

const ivBytes = 16;
const macBytes = 32;
const blockBytes = 16;
const transferTimeoutMs: Millis = 300_000;
/** Largest body of an answer to an upload, which we do not read. */
const noticeBytesMax = 64 * 1024;

const unavailable = (why: string, cause?: unknown): BridgeError =>
  new BridgeError("attachment_unavailable", `Cannot fetch a file as ${why}`, { cause });

/** The parts of a pointer that fetch and open the blob, its key included, as the opaque `ref` of an `Attachment`: base64url. */
export function toRef({ identifier, cdnNumber, key, digest, size }: wire.AttachmentPointer): string {
  const needed = create(wire.AttachmentPointerSchema, { identifier, cdnNumber, key, digest, size });
  return Buffer.from(toBinary(wire.AttachmentPointerSchema, needed)).toString("base64url");
}

/** @throws BridgeError `attachment_unavailable` for a `ref` that `toRef` did not make */
export const pointerOfRef = (ref: string): wire.AttachmentPointer =>
  readOrThrow(
    () => fromBinary(wire.AttachmentPointerSchema, owned(Buffer.from(ref, "base64url"))),
    (cause) => unavailable("its reference is damaged", cause),
  );

type Hosts = Pick<Service, "cdnUrl" | "fetch">;

type Pointer = wire.AttachmentPointer;

/**
 * Resolves to the whole plaintext, checked; a file announced as larger than `bytesMax` is not fetched.
 * @throws BridgeError `attachment_unavailable` when it is gone, too large or not what the sender announced;
 *   `signal_unreachable`, `signal_timeout` where the CDN cannot be reached now
 */
export async function downloadAttachment(service: Hosts, pointer: Pointer, bytesMax: number, signal: AbortSignal) {
  const { identifier, cdnNumber, size } = pointer;
  if (size > bytesMax) throw unavailable(`it has ${size} bytes and ${bytesMax} are allowed`);
  const base = service.cdnUrl(cdnNumber);
  if (base === null) throw unavailable(`CDN ${cdnNumber} is unknown`);
  if (!identifier.value) throw unavailable("its pointer names no file");
  // A `cdnKey` is an opaque text, a `cdnId` a number.
  const url = `${base}/attachments/${encodeURIComponent(String(identifier.value))}`;
  const asked = { method: "GET", url, bytesMax: blobBytesMax(size), timeoutMs: transferTimeoutMs, signal } as const;
  const { status, body } = await service.fetch(asked).catch((error: unknown) => {
    if (!(error instanceof BridgeError) || error.code !== "signal_protocol") throw error;
    throw unavailable("it is larger than announced", error);
  });
  if (status >= 500) throw new BridgeError("signal_unreachable", `Cannot fetch a file as the CDN answered ${status}`);
  if (status !== 200) throw unavailable(status === 404 ? "the CDN has it no more" : `the CDN answered ${status}`);
  return decryptAttachment(body, pointer);
}

type Announced = Pick<Pointer, "key" | "digest" | "size">;

/** Checks digest and MAC in constant time before decrypting, and then the size. @throws BridgeError `attachment_unavailable` */
export function decryptAttachment(blob: Uint8Array, { key, digest, size }: Announced): Bytes {
  if (key.length !== 64 || digest.length !== 32) throw unavailable("its pointer has no key or no digest");
  const cipherBytes = blob.length - ivBytes - macBytes;
  if (cipherBytes < blockBytes || cipherBytes % blockBytes !== 0) throw unavailable("it is cut short");
  if (!timingSafeEqual(createHash("sha256").update(blob).digest(), digest)) throw unavailable("its digest is wrong");
  const sealed = blob.subarray(0, -macBytes);
  const mac = createHmac("sha256", key.subarray(32)).update(sealed).digest();
  if (!timingSafeEqual(mac, blob.subarray(-macBytes))) throw unavailable("its MAC is wrong");
  const decipher = createDecipheriv("aes-256-cbc", key.subarray(0, 32), sealed.subarray(0, ivBytes));
  const open = () => Buffer.concat([decipher.update(sealed.subarray(ivBytes)), decipher.final()]);
  const plain = readOrThrow(open, (cause) => unavailable("it cannot be decrypted", cause));
  if (plain.length < size) throw unavailable(`it has ${plain.length} of the ${size} bytes announced`);
  return owned(plain.subarray(0, size));
}

/** The length of a file with the zeros that hide it: steps of 5 %, at least 541 bytes. **Source:** libsignal-service PaddingInputStream. */
export function paddedBytes(plainBytes: number): number {
  const step = Math.ceil(Math.log(Math.max(plainBytes, 1)) / Math.log(1.05));
  return Math.max(541, plainBytes, Math.floor(1.05 ** step));
}

/** PKCS#7 always adds at least one byte. A block more than exact is allowed for senders whose logarithm rounds another way. */
const blobBytesMax = (plainBytes: number): number =>
  ivBytes + (Math.floor(paddedBytes(plainBytes) / blockBytes) + 2) * blockBytes + macBytes;

export function encryptAttachment(plain: Uint8Array) {
  const key = owned(randomBytes(64));
  const iv = randomBytes(ivBytes);
  const cipher = createCipheriv("aes-256-cbc", key.subarray(0, 32), iv);
  const zeros = new Uint8Array(paddedBytes(plain.length) - plain.length);
  const sealed = concat(iv, cipher.update(plain), cipher.update(zeros), cipher.final());
  const blob = concat(sealed, createHmac("sha256", key.subarray(32)).update(sealed).digest());
  return { blob, key, digest: owned(createHash("sha256").update(blob).digest()), size: plain.length };
}

export type Upload = {
  readonly plain: Uint8Array;
  readonly contentType: string;
  readonly fileName: string | null;
  readonly uploadedAt: Millis;
};
type Forms = Pick<AuthMessagesService, "getUploadForm">;

/**
 * Seals and uploads a file; the pointer serves any number of recipients. A broken upload is not resumed.
 * @throws BridgeError `send_rejected` (too large), `signal_rate_limited`, `signal_unreachable`, `signal_timeout`
 */
export async function uploadAttachment(service: Hosts, connection: Forms, file: Upload, signal: AbortSignal) {
  const { blob, ...sealed } = encryptAttachment(file.plain);
  // The call ends with the line; it gets no `abortSignal`, which libsignal would never let go of.
  const asked = connection.getUploadForm({ uploadSize: BigInt(blob.length) });
  const form = await asked.catch((cause: unknown) => {
    if (!LibSignalErrorBase.is(cause, ErrorCode.UploadTooLarge)) throw toBridgeError("Cannot upload a file", cause);
    const message = `Cannot upload a file as its ${blob.length} bytes are too many for Signal`;
    throw new BridgeError("send_rejected", message, { cause });
  });
  const base = service.cdnUrl(form.cdn);
  if (base === null) throw new BridgeError("signal_protocol", `Cannot upload a file as CDN ${form.cdn} is unknown`);
  const put = async (url: string | URL, method: "POST" | "PUT", headers: Record<string, string>, body: Uint8Array) => {
    // The same path at the CDN we know: a form may name another scheme or host, whose certificate would not be trusted.
    const { pathname, search } = new URL(url);
    const bounds = { bytesMax: noticeBytesMax, timeoutMs: transferTimeoutMs, signal };
    const place = new URL(base).origin + pathname + search;
    return checked(await service.fetch({ method, url: place, headers, body, ...bounds }));
  };
  const given = Object.fromEntries(form.headers);
  const octets = { "content-type": "application/octet-stream" };
  if (form.cdn === 2) {
    const { headers } = await put(form.signedUploadUrl, "POST", { ...given, ...octets }, new Uint8Array());
    const location = headers.get("location");
    if (location === undefined)
      throw new BridgeError("signal_unreachable", "Cannot upload a file as the CDN named no place for it");
    await put(new URL(location, base), "PUT", octets, blob);
  } else {
    const name = { "upload-metadata": `filename ${toBase64(utf8(form.key))}`, "upload-length": String(blob.length) };
    const tus = { "tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream" };
    await put(form.signedUploadUrl, "POST", { ...given, ...name, ...tus }, blob);
  }
  return create(wire.AttachmentPointerSchema, {
    identifier: { case: "cdnKey", value: form.key },
    cdnNumber: form.cdn,
    contentType: file.contentType,
    clientUuid: owned(randomBytes(16)),
    uploadTimestamp: BigInt(file.uploadedAt),
    ...sealed,
    ...(file.fileName !== null && { fileName: file.fileName }),
  });
}

function checked(answer: PinnedResponse): PinnedResponse {
  if (isGood(answer)) return answer;
  const code = answer.status === 413 ? "send_rejected" : "signal_unreachable";
  throw refused("upload a file", answer, code);
}

export const longTextType = "text/x-signal-plain";
/** UTF-8 bytes of a body; the whole of anything longer travels as a file. **Source:** Signal-Android's limit (signal-cli: 2000). */
const bodyBytesMax = 2048;

/** The body of a text of any length, cut between characters, and the file that carries all of it where it was cut. */
export function splitLongText(text: string): { readonly body: string; readonly file: Bytes | null } {
  const bytes = utf8(text);
  if (bytes.length <= bodyBytesMax) return { body: text, file: null };
  let end = bodyBytesMax;
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return { body: Buffer.from(bytes.subarray(0, end)).toString("utf8"), file: bytes };
}

/** Repeated varint length ‖ ContactDetails ‖ picture, up to an entry that is cut short. **Source:** libsignal-service DeviceContactsInputStream. */
export function* parseContacts(blob: Uint8Array): Generator<wire.ContactDetails> {
  const reader = new BinaryReader(blob);
  while (reader.pos < reader.len) {
    const contact = readOrNull(() => fromBinary(wire.ContactDetailsSchema, reader.bytes()));
    if (contact === null) return;
    reader.pos += contact.avatar?.length ?? 0;
    yield contact;
  }
}
