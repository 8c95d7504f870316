/**
 * Which Signal service the native transport talks to: the real one, or one that a JSON file describes (mock, test).
 *
 *   loadService(name, clock) ─▶ Service { netOptions → libsignal's Net · fetch → CDN and storage hosts, TLS roots pinned }
 *
 * libsignal speaks with the chat host by itself; this file fetches files and group state over plain HTTPS.
 */
import type { NetConstructorOptions } from "@signalapp/libsignal-client/dist/net.js";
import type { Buffer } from "node:buffer";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { Agent, request } from "node:https";
import * as v from "valibot";
import { type Clock, startDeadline } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { concat, fromBase64, readOrNull, reasonOf, toBase64 } from "./bytes.ts";
import type { Bytes, PinnedFetch, PinnedRequest, PinnedResponse, Service } from "./context.ts";

const filled = v.pipe(v.string("must be text"), v.nonEmpty("must not be empty"));
const base64 = v.pipe(filled, v.base64("must be standard base64"), v.transform(fromBase64));
const isCertificate = (der: Bytes) => readOrNull(() => new X509Certificate(der)) !== null;
const certificate = v.pipe(base64, v.check(isCertificate, "must be an X.509 certificate (DER)"));
const isPublicKey = (key: Bytes) => key.length === 33 && key[0] === 5;
const publicKey = v.pipe(base64, v.check(isPublicKey, "must be a public key of 33 bytes"));
const isHttps = (text: string) => URL.parse(text)?.protocol === "https:";
const trimmed = v.transform((text: string) => text.replace(/\/+$/, ""));
const httpsUrl = v.pipe(v.string("must be text"), v.check(isHttps, "must be an https:// URL"), trimmed);
const hosts = {
  tlsRoots: v.pipe(v.array(certificate), v.minLength(1, "must name at least one certificate")),
  trustRoots: v.pipe(v.array(publicKey), v.minLength(1, "must name at least one key")),
  serverPublicParams: base64,
  storage: httpsUrl,
  cdn: v.object({ "0": httpsUrl, "2": httpsUrl, "3": httpsUrl }),
};
const whole = v.pipe(v.number("must be a number"), v.integer("must be whole"));
const port = v.pipe(whole, v.minValue(1, "must be 1 or more"), v.maxValue(65535, "must be 65535 or less"));
const chatHost = v.object({ port, certificateDer: certificate });
/** Every field is required, so that a misspelt one is found; further fields of a test service are ignored. */
const serviceFile = v.object({ chat: chatHost, ...hosts });

export type ServiceFile = v.InferInput<typeof serviceFile>;

/** The public constants of the Signal service. No secrets. Chat hosts, their TLS roots and fallback addresses are inside libsignal. */
export const production: Omit<ServiceFile, "chat"> = {
  /**
   * Roots of storage and CDN hosts, in no public trust store: RSA, until 2032-01-24, and Ed25519, until 2036-06-16; hosts move
   * from one to the other. **Source:** libsignal rust/net/res/signal.cer and signal-ed25519.cer.
   */
  tlsRoots: [
    "MIIF2zCCA8OgAwIBAgIUAMHz4g60cIDBpPr1gyZ/JDaaPpcwDQYJKoZIhvcNAQELBQAwdTELMAkGA1UEBhMCVVMxEzARBgNVBAgTCkNhbGlmb3JuaWExFjAUBgNVBAcTDU1vdW50YWluIFZpZXcxHjAcBgNVBAoTFVNpZ25hbCBNZXNzZW5nZXIsIExMQzEZMBcGA1UEAxMQU2lnbmFsIE1lc3NlbmdlcjAeFw0yMjAxMjYwMDQ1NTFaFw0zMjAxMjQwMDQ1NTBaMHUxCzAJBgNVBAYTAlVTMRMwEQYDVQQIEwpDYWxpZm9ybmlhMRYwFAYDVQQHEw1Nb3VudGFpbiBWaWV3MR4wHAYDVQQKExVTaWduYWwgTWVzc2VuZ2VyLCBMTEMxGTAXBgNVBAMTEFNpZ25hbCBNZXNzZW5nZXIwggIiMA0GCSqGSIb3DQEBAQUAA4ICDwAwggIKAoICAQDEecifxMHHlDhxbERVdErOhGsLO08PUdNkATjZ1kT51uPf5JPiRbus9F4J/GgBQ4ANSAjIDZuFY0WOvG/i0qvxthpW70ocp8IjkiWTNiA81zQNQdCiWbGDU4B1sLi2o4JgJMweSkQFiyDynqWgHpw+KmvytCzRWnvrrptIfE4GPxNOsAtXFbVH++8JO42IaKRVlbfpe/lUHbjiYmIpQroZPGPY4Oql8KM3o39ObPnTo1WoM4moyOOZpU3lV1awftvWBx1sbTBL02sQWfHRxgNVF+Pj0fdDMMFdFJobArrLVfK2Ua+dYN4pV5XIxzVarSRW73CXqQ+2qloPW/ynpa3gRtYeGWV4jl7eD0PmeHpKOY78idP4H1jfAv0TAVeKpuB5ZFZ2szcySxrQa8d7FIf0kNJe9gIRjbQ+XrvnN+ZZvj6d+8uBJq8LfQaFhlVfI0/aIdggScapR7w8oLpvdflUWqcTLeXVNLVrg15cEDwdlV8PVscT/KT0bfNzKI80qBq8LyRmauAqP0CDjayYGb2UAabnhefgmRY6aBE5mXxdbyAEzzCS3vDxjeTD8v8nbDq+SD6lJi0i7jgwEfNDhe9XK50baK15Udc8Cr/ZlhGMjNmWqBd0jIpaZm1rzWA0k4VwXtDwpBXSz8oBFshiXs3FD6jHY2IhOR3ppbyd4qRUpwIDAQABo2MwYTAOBgNVHQ8BAf8EBAMCAQYwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUtfNLxuXWS9DlgGuMUMNnW7yx83EwHwYDVR0jBBgwFoAUtfNLxuXWS9DlgGuMUMNnW7yx83EwDQYJKoZIhvcNAQELBQADggIBABUeiryS0qjykBN75aoHO9bVPrrX+DSJIB9V2YzkFVyh/io65QJMG8naWVGOSpVRwUwhZVKh3JVp/miPgzTGAo7zhrDIoXc+ih7orAMb19qol/2Ha8OZLa75LojJNRbZoCR5C+gM8C+spMLjFf9k3JVxdajhtRUcR0zYhwsBS7qZ5Me0d6gRXD0ZiSbadMMxSw6KfKk3ePmPb9gX+MRTS63c8mLzVYB/3fe/bkpq4RUwzUHvoZf+SUD7NzSQRQQMfvAHlxk11TVNxScYPtxXDyiy3Cssl9gWrrWqQ/omuHipoH62J7h8KAYbr6oEIq+Czuenc3eCIBGBBfvCpuFOgckAXXE4MlBasEU0MO66GrTCgMt9bAmSw3TrRP12+ZUFxYNtqWluRU8JWQ4FCCPcz9pgMRBOgn4lTxDZG+I47OKNuSRjFEP94cdgxd3H/5BK7WHUz1tAGQ4BgepSXgmjzifFT5FVTDTl3ZnWUVBXiHYtbOBgLiSIkbqGMCLtrBtFIeQ7RRTb3L+IE9R0UB0cJB3AXbf1lVkOcmrdu2h8A32aCwtr5S1fBF1unlG7imPmqJfpOMWa8yIF/KWVm29JAPq8Lrsybb0z5gg8w7ZblEuB9zOW9M3l60DXuJO6l7g+deV6P96rv2unHS8UlvWiVWDy9qfgAJizyy3kqM4lOwBH",
    "MIIB6jCCAZygAwIBAgIQZ63sMAnwkztzx5hbyDXMeTAFBgMrZXAwdTELMAkGA1UEBhMCVVMxEzARBgNVBAgTCkNhbGlmb3JuaWExFjAUBgNVBAcTDU1vdW50YWluIFZpZXcxHjAcBgNVBAoTFVNpZ25hbCBNZXNzZW5nZXIsIExMQzEZMBcGA1UEAxMQU2lnbmFsIE1lc3NlbmdlcjAeFw0yNjA2MTYyMTI5MTRaFw0zNjA2MTYyMTM0MTRaMHUxCzAJBgNVBAYTAlVTMRMwEQYDVQQIEwpDYWxpZm9ybmlhMRYwFAYDVQQHEw1Nb3VudGFpbiBWaWV3MR4wHAYDVQQKExVTaWduYWwgTWVzc2VuZ2VyLCBMTEMxGTAXBgNVBAMTEFNpZ25hbCBNZXNzZW5nZXIwKjAFBgMrZXADIQDqbDeiChXLxNhkAWtVJrte76dVF3CQZ1H63vP730GLyKNCMEAwDgYDVR0PAQH/BAQDAgEGMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFD2GRYOuJn772ETt81dnsGIK3rsrMAUGAytlcANBAFNxxqNrwodMHn+fKEK7llObEOOiQHuIhb4hNhnQj8bR1nWSR3nDlEKHQGy2/fjCxAZ6iiAsTqwoGBF9djV4Rw4=",
  ],
  /** Keys that sign sender certificates; any one may. **Source:** signal-cli LiveConfig.java, as for all that follows. */
  trustRoots: ["BXu6QIKVz5MA8gstzfOgRQGqyLqOwNKHL6INkv3IHWMF", "BUkY0I+9+oPgDCn4+Ac6Iu813yvqkDr/ga8DzLxFxuk6"],
  serverPublicParams:
    "AMhf5ywVwITZMsff/eCyudZx9JDmkkkbV6PInzG4p8x3VqVJSFiMvnvlEKWuRob/1eaIetR31IYeAbm0NdOuHH8Qi+Rexi1wLlpzIo1gstHWBfZzy1+qHRV5A4TqPp15YzBPm0WSggW6PbSn+F4lf57VCnHF7p8SvzAA2ZZJPYJURt8X7bbg+H3i+PEjH9DXItNEqs2sNcug37xZQDLm7X36nOoGPs54XsEGzPdEV+itQNGUFEjY6X9Uv+Acuks7NpyGvCoKxGwgKgE5XyJ+nNKlyHHOLb6N1NuHyBrZrgtY/JYJHRooo5CEqYKBqdFnmbTVGEkCvJKxLnjwKWf+fEPoWeQFj5ObDjcKMZf2Jm2Ae69x+ikU5gBXsRmoF94GXTLfN0/vLt98KDPnxwAQL9j5V1jGOY8jQl6MLxEs56cwXN0dqCnImzVH3TZT1cJ8SW1BRX6qIVxEzjsSGx3yxF3suAilPMqGRp4ffyopjMD1JXiKR2RwLKzizUe5e8XyGOy9fplzhw3jVzTRyUZTRSZKkMLWcQ/gv0E4aONNqs4P+NameAZYOD12qRkxosQQP5uux6B2nRyZ7sAV54DgFyLiRcq1FvwKw2EPQdk4HDoePrO/RNUbyNddnM/mMgj4FW65xCoT1LmjrIjsv/Ggdlx46ueczhMgtBunx1/w8k8V+l8LVZ8gAT6wkU5J+DPQalQguMg12Jzug3q4TbdHiGCmD9EunCwOmsLuLJkz6EcSYXtrlDEnAM+hicw7iergYLLlMXpfTdGxJCWJmP4zqUFeTTmsmhsjGBt7NiEB/9pFFEB3pSbf4iiUukw63Eo8Aqnf4iwob6X1QviCWuc8t0LUlT9vALgh/f2DPVOOmR0RW6bgRvc7DSF20V/omg+YBw==",
  storage: "https://storage.signal.org",
  /** 0 also stands for 1 and for "none given". */
  cdn: { "0": "https://cdn.signal.org", "2": "https://cdn2.signal.org", "3": "https://cdn3.signal.org" },
};

/**
 * `name` is `production`, or the path of a service file, whose hosts are on loopback and reached directly, without `proxy`.
 * @throws BridgeError `config` naming the field that is wrong
 */
export async function loadService(name: string, clock: Clock, proxy: string | null = null): Promise<Service> {
  if (proxy !== null && !/^https?:$/.test(URL.parse(proxy)?.protocol ?? ""))
    throw new BridgeError("config", "Cannot use the proxy for Signal as it is neither http:// nor https://");
  if (name === "production") return toService(v.parse(v.object(hosts), production), null, clock, proxy);
  const fault = (why: string, cause?: unknown) =>
    new BridgeError("config", `Cannot use the Signal service file ${name}: ${why}`, { cause });
  const text = await readFile(name, "utf8").catch((cause: unknown) => {
    throw fault("it cannot be read", cause);
  });
  const result = v.safeParse(v.pipe(v.string(), v.parseJson({}, "it is not JSON"), serviceFile), text);
  if (!result.success) {
    const [issue] = result.issues;
    const why = issue.input === undefined ? "is missing" : issue.message;
    throw fault(issue.type === "parse_json" ? why : `${v.getDotPath(issue) ?? "the whole"}: ${why}`);
  }
  const { chat, ...rest } = result.output;
  return toService(rest, chat, clock, null);
}

type Chat = v.InferOutput<typeof chatHost>;
type Hosts = Omit<v.InferOutput<typeof serviceFile>, "chat">;

function toService(given: Hosts, chat: Chat | null, clock: Clock, proxy: string | null): Service {
  const cdnOf: Record<number, string> = { 0: given.cdn[0], 1: given.cdn[0], 2: given.cdn[2], 3: given.cdn[3] };
  return {
    isLocal: chat !== null,
    proxy,
    netOptions: (userAgent) => (chat === null ? productionNet(userAgent) : localNet(userAgent, chat)),
    remoteConfig: new Map(chat === null ? [] : [["grpc.AttachmentsGetUploadForm", "true"]]),
    trustRoots: given.trustRoots,
    serverPublicParams: given.serverPublicParams,
    storageUrl: given.storage,
    cdnUrl: (cdnNumber) => cdnOf[cdnNumber] ?? null,
    fetch: pinnedFetch(given.tlsRoots.map(toPem), clock, proxy),
  };
}

/** `Environment.Production` and `BuildVariant.Production`, both pinned by a test. */
const productionNet = (userAgent: string): NetConstructorOptions =>
  // oxlint-disable-next-line typescript/no-unsafe-enum-assignment -- the enums themselves would load libsignal here
  ({ env: 1, userAgent, buildVariant: 0 });

/** The test service is HTTP/2 only, and the other ports are never contacted. **Source:** libsignal-client `net.d.ts`. */
const localNet = (userAgent: string, chat: Chat): NetConstructorOptions => ({
  localTestServer: true,
  userAgent,
  TESTING_localServer_chatPort: chat.port,
  TESTING_localServer_cdsiPort: 1,
  TESTING_localServer_svr2Port: 1,
  TESTING_localServer_svrBPort: 1,
  TESTING_localServer_rootCertificateDer: chat.certificateDer,
  TESTING_localServer_httpVersion: 2,
});

/** **Source:** RFC 7468, section 2: base64 in lines of 64. */
const toPem = (der: Bytes): string =>
  `-----BEGIN CERTIFICATE-----\n${toBase64(der).replace(/.{64}/g, "$&\n")}\n-----END CERTIFICATE-----\n`;

// --- HTTPS that trusts given roots only; `node:https` is the one way to name them which Bun and Deno share

/** A connection that was idle for longer may be dead unnoticed, the more so after the machine slept. */
const idleMsMax: Millis = 2000;

export const openedTlsHint =
  "This network opens TLS; Signal does not allow that. Sign in to the network if it asks for that, use another one, or set SIGNALMAN_PROXY to a proxy that does not.";
/** Words by which Bun, Node and Deno report a certificate that none of our roots signed, or that is another host's. */
const openedTls = /cert|issuer|unable to verify/i;

/** Every answer is bounded in bytes and in time; redirects are not followed. The environment's proxy settings are ignored. */
function pinnedFetch(rootsPem: readonly string[], clock: Clock, proxy: string | null): PinnedFetch {
  const proxyEnv = proxy === null ? {} : { HTTPS_PROXY: proxy };
  const freshAgent = () => new Agent({ ca: [...rootsPem], keepAlive: true, proxyEnv });
  let agent = freshAgent();
  let active = 0;
  let usedAt: Millis = clock.now();
  return async (what) => {
    if (active === 0 && Math.abs(clock.now() - usedAt) > idleMsMax) {
      agent.destroy();
      agent = freshAgent();
    }
    using deadline = startDeadline(clock, what.timeoutMs, ...(what.signal ? [what.signal] : []));
    active++;
    try {
      return await exchange(agent, what, deadline.signal);
    } catch (cause) {
      if (cause instanceof BridgeError) throw cause;
      const isOpened = openedTls.test(`${(cause as { code?: string }).code} ${reasonOf(cause)}`);
      const place = `Cannot ${what.method} ${new URL(what.url).host} as`;
      if (deadline.isLate())
        throw new BridgeError("signal_timeout", `${place} there was no answer in ${what.timeoutMs} ms`, { cause });
      const why = what.signal?.aborted ? "it was cancelled" : isOpened ? "this network opens TLS" : reasonOf(cause);
      const hint = isOpened ? openedTlsHint : undefined;
      throw new BridgeError("signal_unreachable", `${place} ${why}`, { cause, hint });
    } finally {
      active--;
      usedAt = clock.now();
    }
  };
}

async function exchange(agent: Agent, what: PinnedRequest, signal: AbortSignal): Promise<PinnedResponse> {
  const { url, method, headers, body, bytesMax } = what;
  const length = body && { "content-length": String(body.length) };
  const outgoing = request(url, { method, headers: { ...headers, ...length }, agent, signal });
  // Reading the answer reports a later error; without a listener the `error` event would end the process.
  outgoing.on("error", () => undefined);
  const answered = once(outgoing, "response") as Promise<[IncomingMessage]>;
  outgoing.end(body);
  const [incoming] = await answered;
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of incoming as AsyncIterable<Buffer>) {
    parts.push(part);
    bytes += part.length;
    if (bytes <= bytesMax) continue;
    outgoing.destroy();
    const host = new URL(url).host;
    throw new BridgeError("signal_protocol", `Cannot ${method} ${host} as the answer is larger than ${bytesMax} bytes`);
  }
  if (!incoming.complete) throw new Error("the line broke");
  const names = Object.entries(incoming.headers).map(([name, value]) => [name, String(value)] as const);
  return { status: incoming.statusCode ?? 0, headers: new Map(names), body: concat(...parts) };
}
