/**
 * Which Signal service the native transport talks to: the real one, or one that a JSON file describes (mock, test).
 *
 *   loadService(name, clock) ─▶ Service { netOptions → libsignal's Net · fetch → CDN and storage hosts, TLS roots pinned }
 *
 * libsignal speaks with the chat host by itself; files and group state are plain HTTPS and are ours.
 */
import type { NetConstructorOptions, REMOTE_CONFIG_KEYS } from "@signalapp/libsignal-client/dist/net.js";
import { X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import * as v from "valibot";
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import { type Bytes, fromBase64, toBase64 } from "./bytes.ts";
import { type PinnedFetch, pinnedFetch } from "./https.ts";
import { production } from "./production.ts";

export type Service = {
  /** The chat host is on this machine's loopback. */
  readonly isLocal: boolean;
  /** For `new Net(…)`; libsignal appends its own version to the user agent (`name/version`). */
  readonly netOptions: (userAgent: string) => NetConstructorOptions;
  /** For `net.setRemoteConfig(…, BuildVariant.Production)`, before the first connection. */
  readonly remoteConfig: ReadonlyMap<(typeof REMOTE_CONFIG_KEYS)[number], string>;
  /** Serialized public keys, 33 bytes each: a sender certificate is good when any of them validates it. */
  readonly trustRoots: readonly Bytes[];
  /** For zkgroup's `ServerPublicParams`. */
  readonly serverPublicParams: Bytes;
  /** Base URL without a slash at its end. */
  readonly storageUrl: string;
  /** Base URL of a CDN without a slash at its end; null for a number that nobody knows. */
  readonly cdnUrl: (cdnNumber: number) => string | null;
  /** Plain HTTPS that trusts this service's TLS roots and no others. */
  readonly fetch: PinnedFetch;
};

const base64 = v.pipe(
  v.string("must be text"),
  v.nonEmpty("must not be empty"),
  v.base64("must be standard base64"),
  v.transform(fromBase64),
);
const certificate = v.pipe(base64, v.check(isCertificate, "must be an X.509 certificate (DER)"));
const publicKey = v.pipe(
  base64,
  v.check((key) => key.length === 33 && key[0] === 5, "must be a public key of 33 bytes"),
);
const httpsUrl = v.pipe(
  v.string("must be text"),
  v.check((text) => URL.parse(text)?.protocol === "https:", "must be an https:// URL"),
  v.transform((text) => text.replace(/\/+$/, "")),
);
const hosts = {
  tlsRoots: v.pipe(v.array(certificate), v.minLength(1, "must name at least one certificate")),
  trustRoots: v.pipe(v.array(publicKey), v.minLength(1, "must name at least one key")),
  serverPublicParams: base64,
  storage: httpsUrl,
  cdn: v.object({ "0": httpsUrl, "2": httpsUrl, "3": httpsUrl }),
};
const port = v.pipe(
  v.number("must be a number"),
  v.integer("must be whole"),
  v.minValue(1, "must be 1 or more"),
  v.maxValue(65535, "must be 65535 or less"),
);
/** Every field is required, so a misspelt one is found; what a test service writes besides is its own affair. */
const serviceFile = v.object({
  /** On localhost, HTTP/2. */
  chat: v.object({ port, certificateDer: certificate }),
  ...hosts,
});

/** A service file as written: DESIGN.md, "The service file". */
export type ServiceFile = v.InferInput<typeof serviceFile>;

/**
 * `name` is `production`, or the path of a service file. `clock` bounds the time of each `fetch`.
 * @throws BridgeError `config` naming the field that cannot be
 */
export async function loadService(name: string, clock: Clock): Promise<Service> {
  if (name === "production") return toService(v.parse(v.object(hosts), production), null, clock);
  const fault = (why: string, cause?: unknown) =>
    new BridgeError("config", `Cannot use the Signal service file ${name}: ${why}`, { cause });
  let json: unknown;
  try {
    json = JSON.parse(await readFile(name, "utf8"));
  } catch (error) {
    throw fault(error instanceof SyntaxError ? "it is not JSON" : "it cannot be read", error);
  }
  const result = v.safeParse(serviceFile, json);
  if (!result.success) {
    const [issue] = result.issues;
    throw fault(`${v.getDotPath(issue) ?? "the whole"}: ${issue.input === undefined ? "is missing" : issue.message}`);
  }
  const { chat, ...rest } = result.output;
  return toService(rest, chat, clock);
}

type Hosts = Omit<v.InferOutput<typeof serviceFile>, "chat">;

function toService(given: Hosts, chat: v.InferOutput<typeof serviceFile>["chat"] | null, clock: Clock): Service {
  const cdnOf: Record<number, string> = { 0: given.cdn[0], 1: given.cdn[0], 2: given.cdn[2], 3: given.cdn[3] };
  return {
    isLocal: chat !== null,
    netOptions: (userAgent) => (chat === null ? productionNet(userAgent) : localNet(userAgent, chat)),
    remoteConfig: new Map(chat === null ? [] : [["grpc.AttachmentsGetUploadForm", "true"]]),
    trustRoots: given.trustRoots,
    serverPublicParams: given.serverPublicParams,
    storageUrl: given.storage,
    cdnUrl: (cdnNumber) => cdnOf[cdnNumber] ?? null,
    fetch: pinnedFetch(given.tlsRoots.map(toPem), clock),
  };
}

/** `Environment.Production` and `BuildVariant.Production`, both pinned by a test. */
const productionNet = (userAgent: string): NetConstructorOptions =>
  // oxlint-disable-next-line typescript/no-unsafe-enum-assignment -- the enums themselves would load libsignal here
  ({ env: 1, userAgent, buildVariant: 0 });

/** The test service is HTTP/2 only, and the other ports are never contacted. **Source:** libsignal-client `net.d.ts`. */
const localNet = (userAgent: string, chat: { port: number; certificateDer: Bytes }): NetConstructorOptions => ({
  localTestServer: true,
  userAgent,
  TESTING_localServer_chatPort: chat.port,
  TESTING_localServer_cdsiPort: 1,
  TESTING_localServer_svr2Port: 1,
  TESTING_localServer_svrBPort: 1,
  TESTING_localServer_rootCertificateDer: chat.certificateDer,
  TESTING_localServer_httpVersion: 2,
});

function isCertificate(der: Bytes): boolean {
  try {
    return new X509Certificate(der).raw.length > 0;
  } catch {
    return false;
  }
}

/** **Source:** RFC 7468, section 2: base64 in lines of 64. */
function toPem(der: Bytes): string {
  const lines = toBase64(der).match(/.{1,64}/g) ?? [];
  return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
}
