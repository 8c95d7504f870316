/**
 * The requests that a linked device makes of the chat server, each in the one version that is used here: no other file names a
 * path. `isFixed`: the endpoint exists as long as its version does, so that a 404, or a 410, means that the version is gone.
 * **Source:** Signal-Server `controllers/`, August 2026.
 */
import * as v from "valibot";
import { BridgeError, type ErrorCode } from "../../core/errors.ts";
import type { OwnName, PinnedResponse, ServiceReply, ServiceRequest } from "./context.ts";

/**
 * The capabilities that all devices of an account must have: the server refuses to link a device that lacks one of them, and
 * ignores names that it does not know. **Source:** `docs/signal-protocol.md`, "Linking".
 */
export const capabilities = {
  attachmentBackfill: true,
  spqr: true,
  usernameChangeSyncMessage: true,
  optionalPhoneNumber: true,
  storage: true,
};

/** An answer of the chat host, or of a host that sends headers. */
type Answer = Pick<ServiceReply, "status"> &
  Partial<Pick<ServiceReply, "retryAfterMs"> & Pick<PinnedResponse, "headers">>;

/** The error for an unexpected answer; its code is `otherwise` where the status is neither a rate limit nor a server error. */
export function refused(what: string, answer: Answer, otherwise: ErrorCode = "signal_protocol", hint?: string) {
  const { status, headers } = answer;
  // Signal sends `retry-after` in seconds.
  const seconds = /^\d+$/u.exec(headers?.get("retry-after") ?? "")?.[0];
  const retryAfterMs = seconds === undefined ? answer.retryAfterMs : Number(seconds) * 1000;
  const code = status === 429 ? "signal_rate_limited" : status >= 500 ? "signal_unreachable" : otherwise;
  const details = { retryAfterMs: retryAfterMs ?? undefined, hint: code === otherwise ? hint : undefined };
  // With this scope a group that cannot be asked about now holds up its own chat alone.
  return new BridgeError(code, `Cannot ${what} as Signal answered ${status}`, { ...details, scope: "recipient" });
}

export const isGood = ({ status }: Pick<ServiceReply, "status">): boolean => status >= 200 && status <= 299;

/** The body of a good answer, checked against `schema`. @throws BridgeError as `refused`, also where the body does not fit */
export function answerOf<T>(schema: v.GenericSchema<unknown, T>, reply: ServiceReply, what: string): T {
  const parsed = v.safeParse(schema, reply.json);
  if (!isGood(reply) || !parsed.success) throw refused(what, reply);
  return parsed.output;
}

export const login = v.object({ username: v.string(), password: v.string() });

const get = (path: string): ServiceRequest => ({ verb: "GET", path });
const put = (path: string, json: unknown): ServiceRequest => ({ verb: "PUT", path, json });
const fixed = (request: ServiceRequest): ServiceRequest => ({ ...request, isFixed: true });

export const ask = {
  /** `login` is `<aci>:<password>` in base64; the password is the one that the device will have. */
  linkDevice: (json: unknown, login: string): ServiceRequest =>
    fixed({ ...put("/v1/devices/link", json), headers: [["authorization", `Basic ${login}`]] }),
  removeDevice: (deviceId: number): ServiceRequest => ({ verb: "DELETE", path: `/v1/devices/${deviceId}` }),
  setCapabilities: () => fixed(put("/v1/devices/capabilities", capabilities)),
  keepAlive: () => get("/v1/keepalive"),
  sendMessages: (aci: string, json: unknown) => put(`/v1/messages/${aci}`, json),
  bundles: (aci: string, device: number | "*") => get(`/v2/keys/${aci}/${device}`),
  /** An account that lost its number has no keys for it. */
  countKeys: (own: OwnName): ServiceRequest => ({ ...get(`/v2/keys?identity=${own}`), isFixed: own === "aci" }),
  uploadKeys: (own: OwnName, json: unknown) => fixed(put(`/v2/keys?identity=${own}`, json)),
  senderCertificate: () => fixed(get("/v1/certificate/delivery?includeE164=false")),
  /** Credentials of the UTC days from `start` to `end`, in Unix seconds. */
  groupCredentials: (start: number, end: number) =>
    get(`/v1/certificate/auth/group?redemptionStartSeconds=${start}&redemptionEndSeconds=${end}&zkcCredential=true`),
  profile: (aci: string, version: string) => get(`/v1/profile/${aci}/${version}`),
  storageLogin: () => fixed(get("/v1/storage/auth")),
  directoryLogin: () => get("/v2/directory/auth"),
  pushChallenge: (): ServiceRequest => ({ verb: "POST", path: "/v1/challenge/push" }),
  answerChallenge: (json: unknown) => put("/v1/challenge", json),
};
