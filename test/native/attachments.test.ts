import { create, toBinary } from "@bufbuild/protobuf";
import { sizeDelimitedEncode } from "@bufbuild/protobuf/wire";
import { ErrorCode, LibSignalErrorBase } from "@signalapp/libsignal-client";
import { BuildVariant, Net, type UploadForm } from "@signalapp/libsignal-client/dist/net.js";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { createHash, createHmac } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/clock.ts";
import { BridgeError } from "../../src/core/errors.ts";
import {
  decryptAttachment,
  downloadAttachment,
  encryptAttachment,
  pointerOfRef,
  paddedBytes,
  parseContacts,
  splitLongText,
  toRef,
  uploadAttachment,
} from "../../src/signal/native/attachments.ts";
import type { PinnedRequest, PinnedResponse, Service } from "../../src/signal/native/context.ts";
import { AttachmentPointerSchema, ContactDetailsSchema } from "../../src/signal/native/proto/signal_pb.ts";
import { loadService } from "../../src/signal/native/signal-service.ts";
import { type SignalMock, startSignalMock } from "../doubles/signal-mock.ts";

const never = new AbortController().signal;
const bytesOf = (length: number): Uint8Array<ArrayBuffer> =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) & 0xff);

async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work();
  } catch (error) {
    if (error instanceof BridgeError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return "no error";
}

describe("sealing a file", () => {
  test("what was sealed opens to the same bytes, whatever the length", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3000 }), (plain) => {
        const sealed = encryptAttachment(plain);
        expect(Buffer.from(decryptAttachment(sealed.blob, sealed)).equals(Buffer.from(plain))).toBe(true);
      }),
    );
  });

  test("no bit of a blob can be changed, and no byte cut off or added, without refusal", () => {
    const sealed = encryptAttachment(bytesOf(700));
    fc.assert(
      fc.property(fc.nat(sealed.blob.length - 1), fc.nat(7), (at, bit) => {
        const blob = sealed.blob.slice();
        blob[at] = (blob[at] ?? 0) ^ (1 << bit);
        expect(() => decryptAttachment(blob, sealed)).toThrow("digest is wrong");
        // A sender who also controls the digest still lacks the MAC key.
        const digest = createHash("sha256").update(blob).digest();
        expect(() => decryptAttachment(blob, { ...sealed, digest: new Uint8Array(digest) })).toThrow("MAC is wrong");
      }),
      { numRuns: 50 },
    );
    expect(() => decryptAttachment(sealed.blob.subarray(0, -16), sealed)).toThrow("digest is wrong");
    expect(() => decryptAttachment(sealed.blob.subarray(0, -1), sealed)).toThrow("cut short");
    expect(() => decryptAttachment(new Uint8Array(48), sealed)).toThrow("cut short");
    expect(() => decryptAttachment(new Uint8Array(), sealed)).toThrow("cut short");
  });

  test("a good MAC over bad padding is refused too", () => {
    const { blob, key, size } = encryptAttachment(bytesOf(10));
    const broken = blob.slice();
    const last = broken.length - 33;
    broken[last] = (broken[last] ?? 0) ^ 0xff;
    broken.set(createHmac("sha256", key.subarray(32)).update(broken.subarray(0, -32)).digest(), broken.length - 32);
    const digest = new Uint8Array(createHash("sha256").update(broken).digest());
    expect(() => decryptAttachment(broken, { key, digest, size })).toThrow("cannot be decrypted");
  });

  test("a size beyond the data, a missing digest and a short key are refused", () => {
    const sealed = encryptAttachment(bytesOf(100));
    expect(() => decryptAttachment(sealed.blob, { ...sealed, size: 542 })).toThrow("541 of the 542 bytes");
    expect(() => decryptAttachment(sealed.blob, { ...sealed, digest: new Uint8Array() })).toThrow("no digest");
    expect(() => decryptAttachment(sealed.blob, { ...sealed, key: sealed.key.subarray(0, 32) })).toThrow("no key");
  });

  test("the padded length is at least 541, never below the length, never more than 5 % above, and hides the length", () => {
    expect([0, 1, 541].map(paddedBytes)).toEqual([541, 541, 541]);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 150_000_000 }), (length) => {
        const padded = paddedBytes(length);
        expect(padded).toBeGreaterThanOrEqual(Math.max(541, length));
        expect(padded).toBeLessThanOrEqual(Math.max(541, Math.ceil(length * 1.05)));
        expect(paddedBytes(padded)).toBeLessThanOrEqual(Math.ceil(padded * 1.05));
      }),
    );
    expect(paddedBytes(300_001)).toBe(paddedBytes(300_500));
  });

  test("two seals of one file share no key and no blob", () => {
    const [a, b] = [encryptAttachment(bytesOf(9)), encryptAttachment(bytesOf(9))];
    expect(Buffer.from(a.key).equals(b.key)).toBe(false);
    expect(Buffer.from(a.blob).equals(b.blob)).toBe(false);
  });
});

describe("a file at the CDN", () => {
  const folder = mkdtempSync(join(tmpdir(), "native-test-"));
  let signal: SignalMock;
  let service: Service;

  beforeAll(async () => {
    signal = await startSignalMock();
    service = await loadService(await signal.writeService(join(folder, "service.json")), systemClock);
  });
  afterAll(async () => {
    await signal.stop();
    rmSync(folder, { recursive: true });
  });

  /** CDN 0 of the mock: a method that its types hide. */
  const inMemory = () => signal.server as unknown as { storeAttachment(blob: Buffer): Promise<string> };

  /** Stores `plain` and gives the pointer, as a sender's message would carry it. */
  async function stored(plain: Uint8Array, cdnNumber: 0 | 3) {
    const { blob, key, digest, size } = encryptAttachment(plain);
    const name = `file ${size}/α`;
    const inCdn3 = async () => {
      await signal.server.storeAttachmentOnCdn(3, encodeURIComponent(name).replaceAll("%", "_"), blob);
      return encodeURIComponent(name).replaceAll("%", "_");
    };
    const value = cdnNumber === 3 ? await inCdn3() : await inMemory().storeAttachment(Buffer.from(blob));
    return create(AttachmentPointerSchema, { identifier: { case: "cdnKey", value }, cdnNumber, key, digest, size });
  }

  for (const cdn of [0, 3] as const) {
    for (const length of [0, 1, 300_000]) {
      test(`${length} bytes come back from CDN ${cdn}, by a reference that was text in between`, async () => {
        const pointer = pointerOfRef(toRef(await stored(bytesOf(length), cdn)));
        const plain = await downloadAttachment(service, pointer, 1_000_000, never);
        expect(Buffer.from(plain).equals(bytesOf(length))).toBe(true);
      });
    }
  }

  test("a contact list that the phone uploaded is read entry by entry", async () => {
    const friend = await signal.server.createPrimaryDevice({ profileName: "Friend" });
    const { aciBinary, number, profileName } = friend.toContact();
    const details = create(ContactDetailsSchema, {
      aciBinary,
      name: profileName,
      ...(number === undefined ? {} : { number }),
    });
    const blob = sizeDelimitedEncode(ContactDetailsSchema, details);
    const [read, ...rest] = parseContacts(await downloadAttachment(service, await stored(blob, 0), 10_000, never));
    expect(rest).toEqual([]);
    expect(read?.name).toBe("Friend");
    expect(Buffer.from(read?.aciBinary ?? []).equals(aciBinary)).toBe(true);
  });

  test("a file that the CDN has no more is unavailable", async () => {
    const pointer = await stored(bytesOf(10), 3);
    await signal.server.removeAllCDNAttachments();
    expect(await codeOf(() => downloadAttachment(service, pointer, 100, never))).toBe(
      "attachment_unavailable: Cannot fetch a file as the CDN has it no more",
    );
  });

  test("a blob larger than the announced size allows is not read to its end", async () => {
    const pointer = await stored(bytesOf(50_000), 0);
    pointer.size = 10;
    expect(await codeOf(() => downloadAttachment(service, pointer, 100_000, never))).toContain("larger than announced");
  });

  test("nothing is fetched for a file above the limit, from an unknown CDN, or without a name", async () => {
    let fetches = 0;
    const watched = { ...service, fetch: (what: PinnedRequest) => (fetches++, service.fetch(what)) };
    const pointer = await stored(bytesOf(101), 0);
    expect(await codeOf(() => downloadAttachment(watched, pointer, 100, never))).toContain("100 are allowed");
    expect(await codeOf(() => downloadAttachment(watched, { ...pointer, cdnNumber: 7 }, 1000, never))).toContain(
      "CDN 7",
    );
    const nameless = { ...pointer, identifier: { case: undefined } };
    expect(await codeOf(() => downloadAttachment(watched, nameless, 1000, never))).toContain("names no file");
    expect(fetches).toBe(0);
    await downloadAttachment(watched, pointer, 101, never);
    expect(fetches).toBe(1);
  });

  test("a key is escaped into one path segment, an id is written in decimal, a CDN in trouble is worth another try", async () => {
    const urls: string[] = [];
    const busy = {
      ...service,
      fetch: async ({ url }: PinnedRequest): Promise<PinnedResponse> => {
        urls.push(new URL(url).pathname);
        return { status: 503, headers: new Map(), body: new Uint8Array() };
      },
    };
    const base = { key: new Uint8Array(64), digest: new Uint8Array(32), cdnNumber: 3 };
    const byKey = create(AttachmentPointerSchema, { ...base, identifier: { case: "cdnKey", value: "../a b?c" } });
    const byId = create(AttachmentPointerSchema, { ...base, identifier: { case: "cdnId", value: 2n ** 63n + 1n } });
    expect(await codeOf(() => downloadAttachment(busy, byKey, 10, never))).toContain("signal_unreachable");
    expect(await codeOf(() => downloadAttachment(busy, byId, 10, never))).toContain("signal_unreachable");
    expect(urls).toEqual(["/cdn3/attachments/..%2Fa%20b%3Fc", "/cdn3/attachments/9223372036854775809"]);
  });

  test("a damaged reference is refused", async () => {
    expect(await codeOf(() => pointerOfRef("////"))).toContain("attachment_unavailable");
  });

  test("an uploaded file can be fetched by the pointer that came back", async () => {
    const phone = await signal.server.createPrimaryDevice({ profileName: "Owner", password: "secret" });
    const net = new Net(service.netOptions("test/1"));
    net.setRemoteConfig(service.remoteConfig, BuildVariant.Production);
    const ignore = () => undefined;
    const listener = { onIncomingMessage: ignore, onQueueEmpty: ignore, onConnectionInterrupted: ignore };
    const connection = await net.connectAuthenticatedChat(`${phone.device.aci}.1`, "secret", false, listener);
    try {
      const plain = bytesOf(300_000);
      const file = {
        plain,
        contentType: "image/png",
        fileName: "a.png",
        uploadedAt: 1_700_000_000_000,
      };
      const pointer = await uploadAttachment(service, connection, file, never);
      expect(pointer).toMatchObject({
        cdnNumber: 3,
        contentType: "image/png",
        fileName: "a.png",
        size: 300_000,
      });
      expect(pointer.uploadTimestamp).toBe(1_700_000_000_000n);
      expect(pointer.clientUuid).toHaveLength(16);
      expect(Buffer.from(await downloadAttachment(service, pointer, 300_000, never)).equals(plain)).toBe(true);
      const empty = {
        plain: new Uint8Array(),
        contentType: "audio/ogg",
        fileName: null,
        uploadedAt: 1,
      };
      const nothing = await uploadAttachment(service, connection, empty, never);
      expect(nothing).toMatchObject({ size: 0, fileName: "" });
      expect(await downloadAttachment(service, nothing, 10, never)).toHaveLength(0);
    } finally {
      await connection.disconnect();
    }
  });
});

describe("uploading to a CDN that is played by the test", () => {
  const form = (cdn: number): UploadForm => ({
    cdn,
    key: "the-key",
    headers: new Map([["x-given", "yes"]]),
    signedUploadUrl: new URL("http://elsewhere.example/upload/the-key?sig=1"),
  });
  const file = { plain: bytesOf(5), contentType: "text/plain", fileName: null, uploadedAt: 1 };

  function played(answers: readonly { status: number; headers?: Record<string, string> }[]) {
    const requests: PinnedRequest[] = [];
    const rest = [...answers];
    return {
      requests,
      cdnUrl: (cdn: number) => (cdn === 9 ? null : `https://cdn${cdn}.test`),
      fetch: async (what: PinnedRequest): Promise<PinnedResponse> => {
        requests.push(what);
        const { status, headers } = rest.shift() ?? { status: 200 };
        return { status, headers: new Map(Object.entries(headers ?? {})), body: new Uint8Array() };
      },
    };
  }
  const upload = (cdn: number, answers: Parameters<typeof played>[0]) => {
    const service = played(answers);
    const result = uploadAttachment(service, { getUploadForm: async () => form(cdn) }, file, never);
    return { service, result };
  };

  test("CDN 3 gets the blob in one tus request, at its own host whatever the form says", async () => {
    const { service, result } = upload(3, [{ status: 201 }]);
    const pointer = await result;
    expect(service.requests).toHaveLength(1);
    const [only] = service.requests;
    expect(only).toMatchObject({ method: "POST", url: "https://cdn3.test/upload/the-key?sig=1" });
    expect(only?.headers).toEqual({
      "x-given": "yes",
      "tus-resumable": "1.0.0",
      "upload-length": String(only?.body?.length),
      "upload-metadata": "filename dGhlLWtleQ==",
      "content-type": "application/offset+octet-stream",
    });
    expect(Buffer.from(decryptAttachment(only?.body ?? new Uint8Array(), pointer)).equals(file.plain)).toBe(true);
  });

  test("CDN 2 opens a place first and then puts the blob there", async () => {
    const { service, result } = upload(2, [
      { status: 201, headers: { location: "https://elsewhere.example/place?id=7" } },
    ]);
    expect((await result).cdnNumber).toBe(2);
    expect(service.requests.map(({ method, url }) => `${method} ${url}`)).toEqual([
      "POST https://cdn2.test/upload/the-key?sig=1",
      "PUT https://cdn2.test/place?id=7",
    ]);
    const octets = { "content-type": "application/octet-stream" };
    expect(service.requests.map(({ headers }) => headers)).toEqual([{ "x-given": "yes", ...octets }, octets]);
    expect(service.requests[0]?.body).toHaveLength(0);
  });

  test("each refusal says what it means for the message", async () => {
    const fault = (cdn: number, status: number, headers = {}) =>
      codeOf(() => upload(cdn, [{ status, headers }]).result);
    expect(await fault(3, 413)).toStartWith("send_rejected");
    expect(await fault(3, 429, { "retry-after": "7" })).toStartWith("signal_rate_limited");
    expect(await fault(3, 500)).toStartWith("signal_unreachable");
    expect(await fault(2, 200)).toContain("named no place");
    expect(await fault(9, 200)).toStartWith("signal_protocol");
    const limited = upload(3, [{ status: 429, headers: { "retry-after": "7" } }]).result;
    expect(await limited.catch((error: BridgeError) => error.retryAfterMs)).toBe(7000);
  });

  test("a form that does not come is translated", async () => {
    const fault = (cause: Error) =>
      uploadAttachment(played([]), { getUploadForm: () => Promise.reject(cause) }, file, never).catch(
        (e: BridgeError) => e,
      );
    const limited = new LibSignalErrorBase("slow down", "RateLimitedError", "op", { retryAfterSecs: 3 });
    expect(limited.code).toBe(ErrorCode.RateLimitedError);
    expect(await fault(limited)).toMatchObject({ code: "signal_rate_limited", retryAfterMs: 3000 });
    expect(await fault(new LibSignalErrorBase("big", "UploadTooLarge", "op"))).toMatchObject({ code: "send_rejected" });
    expect(await fault(new LibSignalErrorBase("lost", "IoError", "op"))).toMatchObject({ code: "signal_unreachable" });
  });
});

describe("long texts", () => {
  test("a text of up to 2048 bytes stays whole", () => {
    expect(splitLongText("a".repeat(2048))).toEqual({ body: "a".repeat(2048), file: null });
  });

  test("a longer one is cut between characters, and the file holds all of it", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", minLength: 500, maxLength: 3000 }), (text) => {
        const { body, file } = splitLongText(text);
        if (Buffer.byteLength(text) <= 2048) return expect(file).toBeNull();
        expect(Buffer.from(file ?? []).toString("utf8")).toBe(text);
        expect(text.startsWith(body)).toBe(true);
        expect(Buffer.byteLength(body)).toBeGreaterThan(2048 - 4);
        expect(Buffer.byteLength(body)).toBeLessThanOrEqual(2048);
      }),
    );
    expect(splitLongText(`${"a".repeat(2047)}😀`).body).toBe("a".repeat(2047));
  });
});

describe("contact lists", () => {
  const entry = (name: string, avatarBytes: number) => {
    const avatar = avatarBytes === 0 ? {} : { avatar: { contentType: "image/png", length: avatarBytes } };
    const details = toBinary(ContactDetailsSchema, create(ContactDetailsSchema, { name, ...avatar }));
    return Buffer.concat([Buffer.from([details.length]), details, Buffer.alloc(avatarBytes, 0xff)]);
  };
  const names = (blob: Uint8Array) => [...parseContacts(blob)].map(({ name }) => name);

  test("pictures between the entries are skipped", () => {
    expect(names(Buffer.concat([entry("Ada", 300), entry("Grace", 0), entry("Edsger", 1)]))).toEqual([
      "Ada",
      "Grace",
      "Edsger",
    ]);
    expect(names(new Uint8Array())).toEqual([]);
  });

  test("any garbage ends the list and never throws", () => {
    expect(names(Buffer.concat([entry("Ada", 0), Buffer.from([200])]))).toEqual(["Ada"]);
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (blob) => names(blob).length <= blob.length));
  });
});
