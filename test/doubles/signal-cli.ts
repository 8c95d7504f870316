/**
 * A `signal-cli daemon --http --receive-mode manual` without Java and without Signal. It is strict: what the real one
 * refuses is refused in its words, what the real one swallows silently is kept as a violation. Like the real one it holds the
 * account's receive lock and goes on consuming messages after its client hung up, and drops what it then has collected.
 */
import type { Clock } from "../../src/clock.ts";
import { systemClock } from "../../src/clock.ts";
import type { Chat, Millis } from "../../src/core/model.ts";
import type { RawReply, RawRequest } from "./raw-http.ts";
import { startRawServer } from "./raw-http.ts";
import { createVersions } from "./versions.ts";
import { checkParams, typedKeys } from "./signal-cli-params.ts";
import type { SentMessage, WirePerson, WireWrite } from "./wire.ts";
import { createBell, createTape, createWriter, groupId, me } from "./wire.ts";

type Params = Readonly<Record<string, unknown>>;
export type RpcFailure = { readonly code: number; readonly message: string; readonly data?: unknown };
export type SendResult = {
  readonly type: string;
  readonly token?: string;
  readonly retryAfterSeconds?: number;
  readonly recipientAddress?: { readonly uuid: string | null; readonly number: string | null };
};

export type Fault =
  /** Never answered, never carried out. */
  | "hang"
  /** The connection is cut before anything happens. */
  | "cut"
  /** Carried out; the connection is cut instead of an answer. */
  | "lost"
  /** Carried out; the answer is no JSON. */
  | "garbage"
  /** Carried out; the connection is cut in the middle of the answer. */
  | "truncated"
  | { readonly status: number; readonly headers?: Readonly<Record<string, string>> }
  | { readonly error: RpcFailure }
  /** Not carried out. */
  | { readonly result: unknown }
  /** For `send`: signal-cli's own rule decides whether that is a success. */
  | { readonly results: readonly SendResult[] };

export type SignalCliDoubleOptions = {
  readonly port?: number;
  readonly clock?: Clock;
  readonly mode?: "multi" | "single";
  /** The first is the one the phone API writes to. */
  readonly accounts?: readonly WirePerson[];
  readonly groups?: readonly string[];
  readonly version?: string;
  /** Which list has our own account with its ACI: as a rule the identities, whose own one is trusted from linking on. */
  readonly tellsOwnAci?: "contacts" | "identities" | "directory" | "never";
};

class RpcRefusal extends Error {
  readonly failure: RpcFailure;
  constructor(failure: RpcFailure) {
    super(failure.message);
    this.failure = failure;
  }
}
const refuse = (code: number, message: string, data: unknown = null): never => {
  throw new RpcRefusal({ code, message, data });
};

export type SignalCliDouble = Awaited<ReturnType<typeof startSignalCliDouble>>;

export async function startSignalCliDouble(options: SignalCliDoubleOptions = {}) {
  const clock = options.clock ?? systemClock;
  const mode = options.mode ?? "multi";
  const accounts = [...(options.accounts ?? [me])];
  const owner = accounts[0] ?? me;
  const groups = new Set(options.groups ?? [groupId]);
  const writer = createWriter(clock, owner);
  const sent = createTape<SentMessage>();
  const versions = createVersions();
  const calls = createTape<{ readonly method: string; readonly params: Params }>();
  const faults: { readonly method: string; readonly fault: Fault }[] = [];
  const violations: string[] = [];
  const queue: unknown[] = [];
  const dropped: unknown[] = [];
  const files = new Map<string, string>();
  const readMarks: Millis[] = [];
  const typing: { readonly target: unknown; readonly isTyping: boolean }[] = [];
  let isReceiving = false;
  let lives = 0;
  let isParked = false;
  let isStalled = false;
  const arrivals = createBell();
  const changes = createBell();

  const enqueue = ({ sentAt, wire }: { sentAt: Millis; wire: unknown }): Millis => {
    queue.push(wire);
    arrivals.ring();
    return sentAt;
  };

  /** Idle time-out, restarted by every envelope; `maxMessages` counts envelopes. What is taken is acknowledged to Signal. */
  async function receive(params: Params): Promise<unknown[]> {
    if (isReceiving) refuse(-1, "Receive command cannot be used if messages are already being received.");
    const timeoutMs = Number(params["timeout"] ?? 3) * 1000;
    const maxMessages = Number(params["maxMessages"] ?? -1);
    const batch: unknown[] = [];
    if (timeoutMs === 0 || maxMessages === 0) return batch;
    isReceiving = true;
    const life = lives;
    const mayTake = () => maxMessages < 0 || batch.length < maxMessages;
    try {
      for (;;) {
        if (isStalled) await changes.until(() => !isStalled);
        if (life !== lives) return batch;
        while (queue.length > 0 && mayTake()) batch.push(queue.shift());
        if (!mayTake()) return batch;
        const done = new AbortController();
        const over = timeoutMs < 0 ? new Promise<void>(() => {}) : clock.sleep(timeoutMs, done.signal);
        const arrival = arrivals.next();
        isParked = true;
        changes.ring();
        const isOver = await Promise.race([over.then(() => true), arrival.then(() => false)]);
        isParked = false;
        done.abort();
        if (isOver && queue.length === 0 && !isStalled) return batch;
      }
    } finally {
      if (life === lives) isReceiving = false;
      isParked = false;
    }
  }

  function send(method: string, params: Params): unknown {
    const isReaction = method === "sendReaction";
    const targets = toTargets(params, groups, owner);
    if (targets.length === 0) refuse(-1, "No recipients given");
    const attachments = toList(params["attachment"] ?? params["attachments"]);
    const text = typeof params["message"] === "string" ? params["message"] : "";
    const isEmpty = text === "" && attachments.length === 0 && params["quoteTimestamp"] === undefined;
    if (!isReaction && isEmpty)
      refuse(-1, "Sending empty message is not allowed, either a message, attachment or sticker must be given.");
    if (params["quoteTimestamp"] !== undefined && params["quoteAuthor"] === undefined)
      refuse(-1, "Quote author parameter is missing");
    const timestamp = writer.stamp();
    const editOf = toNumber(params["editTimestamp"]);
    // The real one sends whatever it is told; the phones would not take it for an edit.
    if (!isReaction && !targets.every((chat) => versions.note(chat, timestamp, editOf)))
      refuse(-1, "An edit of what is not the newest version");
    for (const chat of targets)
      sent.push({
        chat,
        timestamp,
        text,
        styles: toList(params["textStyle"]).map((style) => toStyle(style)),
        quoteSentAt: toNumber(params["quoteTimestamp"]),
        editOf,
        reaction: isReaction
          ? {
              emoji: String(params["emoji"]),
              targetSentAt: Number(params["targetTimestamp"]),
              isRemove: params["remove"] === true,
            }
          : null,
        files: attachments.map((uri) => toFile(uri)),
      });
    return {
      timestamp,
      results: targets.map((chat) => ({ recipientAddress: toWireAddress(chat, owner), type: "SUCCESS" })),
    };
  }

  /** **Source of the rule:** SendMessageResultUtils.java. */
  function judge(results: readonly SendResult[]): unknown {
    const timestamp = writer.stamp();
    const unknownPerson = { uuid: "b1a6c2f4-0d3e-4f5a-8c7b-9e1d2a3b4c5d", number: null, username: null };
    const report = { timestamp, results: results.map((result) => ({ recipientAddress: unknownPerson, ...result })) };
    const all = (type: string) => results.every((result) => result.type === type);
    if (results.length === 0 || results.some(({ type }) => type === "SUCCESS")) return report;
    if (all("IDENTITY_FAILURE")) refuse(-4, "Failed to send message due to untrusted identities", { response: report });
    if (all("RATE_LIMIT_FAILURE")) refuse(-5, "Failed to send message due to rate limiting", { response: report });
    return refuse(-1, "Failed to send message", { response: report });
  }

  const isMulti = mode === "multi";
  async function run(method: string, given: Params | undefined): Promise<unknown> {
    if (method === "version") return { version: options.version ?? "0.14.6" };
    if (isMulti && method === "listAccounts") return accounts.map(({ number }) => ({ number }));
    if (!methods.has(method)) refuse(-32601, "Method not implemented");
    let params = given ?? {};
    if (isMulti) {
      const { account, ...rest } = params;
      if (account === undefined && accounts.length !== 1) refuse(-32602, "Method requires valid account parameter");
      if (account !== undefined && !accounts.some(({ number }) => number === account))
        refuse(-32602, "Specified account does not exist");
      params = rest;
    }
    checkParams(method, given === undefined ? undefined : params, violations, refuse);
    switch (method) {
      case "receive":
        return receive(params);
      case "send":
      case "sendReaction":
        return send(method, params);
      case "submitRateLimitChallenge":
        return {};
      case "sendTyping":
        typing.push({ target: params["recipient"] ?? params["groupId"], isTyping: params["stop"] !== true });
        return { timestamp: writer.stamp(), results: [] };
      case "sendReceipt":
        readMarks.push(...toList(params["targetTimestamp"]).map(Number));
        return { timestamp: writer.stamp(), results: [] };
      case "listContacts":
        return options.tellsOwnAci === "contacts" ? [{ number: owner.number, uuid: owner.aci, name: "" }] : [];
      case "listIdentities":
        if ((options.tellsOwnAci ?? "identities") !== "identities" || params["number"] !== owner.number) return [];
        return [{ number: owner.number, uuid: owner.aci, trustLevel: "TRUSTED_VERIFIED", addedTimestamp: 0 }];
      case "getUserStatus":
        return toList(params["recipient"]).map((recipient) => {
          const isKnown = options.tellsOwnAci === "directory" && recipient === owner.number;
          return { recipient, number: recipient, uuid: isKnown ? owner.aci : null, isRegistered: isKnown };
        });
      case "getAttachment": {
        if (params["id"] === undefined) refuse(-1, "Missing attachment id parameter");
        const data = files.get(String(params["id"]));
        return data === undefined ? refuse(-1, `Could not find attachment with ID: ${String(params["id"])}`) : { data };
      }
      default:
        return {};
    }
  }

  async function rpc(value: unknown, isGone: () => boolean): Promise<{ reply: unknown; fault: Fault | null } | null> {
    const answer = (id: unknown, part: object, fault: Fault | null) => ({
      reply: { jsonrpc: "2.0", ...part, id },
      fault,
    });
    const wrong = (id: unknown, code: number, message: string) =>
      answer(id, { error: { code, message, data: null } }, null);
    if (typeof value !== "object" || value === null || Array.isArray(value))
      return wrong(null, -32600, "invalid request");
    const request: Readonly<Record<string, unknown>> = { ...value };
    const stray = Object.keys(request).find((key) => !["jsonrpc", "method", "params", "id"].includes(key));
    // A response to a question that it never asked.
    if ("result" in request || "error" in request) return null;
    if (stray !== undefined) return wrong(request["id"] ?? null, -32600, `Unrecognized field "${stray}"`);
    const { jsonrpc, method, params, id } = request;
    if (typeof id === "object" && id !== null) return wrong(null, -32600, "Cannot deserialize the id");
    if (jsonrpc !== "2.0") return wrong(id ?? null, -32600, "only jsonrpc version 2.0 is supported");
    if (typeof method !== "string") return wrong(id ?? null, -32600, "method field must be set");
    if (params !== undefined && params !== null && (typeof params !== "object" || Array.isArray(params)))
      return wrong(id ?? null, -32600, "Cannot deserialize the params");
    const given = params ? ({ ...params } satisfies Params) : undefined;
    calls.push({ method, params: given ?? {} });
    const index = faults.findIndex((planned) => planned.method === method);
    const fault = index < 0 ? null : (faults.splice(index, 1)[0]?.fault ?? null);
    if (fault === "hang" || fault === "cut" || (typeof fault === "object" && fault && "status" in fault))
      return answer(id, {}, fault);
    try {
      if (typeof fault === "object" && fault && "error" in fault) throw new RpcRefusal(fault.error);
      if (typeof fault === "object" && fault && "result" in fault) return answer(id, { result: fault.result }, fault);
      const isJudged = typeof fault === "object" && fault && "results" in fault;
      const result = isJudged ? judge(fault.results) : await run(method, given);
      const isLost = isGone() || fault === "lost" || fault === "garbage";
      if (method === "receive" && Array.isArray(result) && isLost) dropped.push(...result);
      return id === undefined ? null : answer(id, { result }, fault);
    } catch (error) {
      if (!(error instanceof RpcRefusal)) throw error;
      const { code, message, data = null } = error.failure;
      return id === undefined ? null : answer(id, { error: { code, message, data } }, fault);
    }
  }

  async function handle(request: RawRequest): Promise<RawReply> {
    if (request.path === "/api/v1/check") return { status: request.method === "GET" ? 200 : 405 };
    if (request.path !== "/api/v1/rpc") return { status: 404 };
    if (request.method !== "POST") return { status: 405 };
    if (!request.headers["content-type"]?.startsWith("application/json")) return { status: 415 };
    // The Host check came with 0.14.4.
    const isNamed = new RegExp(`^(?:localhost|127\\.0\\.0\\.1|\\[::1\\])(?::${server.port})?$`, "u");
    if (!isNamed.test(request.headers["host"] ?? "")) return { status: 421 };
    const json = (value: unknown): RawReply & object => ({
      status: 200,
      headers: { "Content-type": "application/json" },
      body: JSON.stringify(value),
    });
    let value: unknown;
    try {
      value = JSON.parse(request.body);
    } catch {
      const [code, message] =
        request.body === "" ? [-32600, "unexpected type: MISSING"] : [-32700, "Unrecognized token"];
      return json({ jsonrpc: "2.0", error: { code, message, data: null }, id: null });
    }
    if (hasLongString(value))
      return json({
        jsonrpc: "2.0",
        error: { code: -32603, message: "An internal server error has occurred.", data: null },
        id: null,
      });
    // A request that was written into a dying connection has no known outcome.
    const isDoubtful = /"method":"(?:send|receive)"/u.test(request.body);
    if (isDoubtful && request.headers["connection"]?.toLowerCase() !== "close")
      violations.push("a used connection for a send or a poll");
    if (Array.isArray(value) && value.length > 0) {
      const replies = await Promise.all(value.map((one) => rpc(one, request.isGone)));
      const shown = replies.flatMap((one) => (one ? [one.reply] : []));
      return shown.length > 0 ? json(shown) : { status: 201 };
    }
    const outcome = await rpc(value, request.isGone);
    if (!outcome) return { status: 201 };
    const { reply, fault } = outcome;
    if (fault === "hang" || fault === "cut") return fault;
    if (fault === "lost") return "cut";
    if (fault === "garbage") return { status: 200, body: "<html>no JSON</html>" };
    if (fault === "truncated") {
      const whole = json(reply);
      return { ...whole, cutAfterBytes: Math.max(1, Buffer.byteLength(JSON.stringify(reply)) - 30) };
    }
    if (typeof fault === "object" && fault && "status" in fault) return fault;
    return json(reply);
  }

  const server = await startRawServer(handle, options.port ?? 0);
  return {
    url: server.url,
    port: server.port,
    connections: server.connections,
    /** Closes the port and cuts every connection; queue and locks stay. */
    stop: () => server.stop(),
    start: () => server.start(),
    /** The daemon itself ends: like `stop`, but its running `receive` ends too, and what waits stays with Signal. */
    async die() {
      lives++;
      isReceiving = false;
      arrivals.ring();
      await server.stop();
    },
    /** The owner writes in Note to Self (or in a group) on the phone; the message's timestamp. */
    phoneWrites: (text: string, write?: WireWrite) => enqueue(writer.own(text, write)),
    personWrites: (from: WirePerson, text: string | null, write?: WireWrite) =>
      enqueue(writer.person(from, text, write)),
    personTypes: (from: WirePerson) => enqueue(writer.typing(from)),
    /** Puts any message object into Signal's queue. */
    deliver: (wire: unknown) => void enqueue({ sentAt: 0, wire }),
    /** What arrived on the phones, in order. */
    sent: () => sent.items,
    nextSent: () => sent.next(),
    calls: () => calls.items,
    nextCall: () => calls.next(),
    typing: () => typing as readonly (typeof typing)[number][],
    readMarks: () => readMarks as readonly Millis[],
    addFile: (id: string, base64: string) => void files.set(id, base64),
    /** The next `times` calls of `method` fail so. */
    fail(method: string, fault: Fault, times = 1) {
      for (let index = 0; index < times; index++) faults.push({ method, fault });
    },
    /** Resolves when a `receive` has taken all there is and waits. */
    parked: () => changes.until(() => isParked),
    isReceiving: () => isReceiving,
    /** The daemon is offline: a `receive` goes on reconnecting, whatever its time-out, until `resume`. */
    stall: () => {
      isStalled = true;
    },
    resume: () => {
      isStalled = false;
      changes.ring();
    },
    /** Messages that Signal has forgotten and no client got. */
    dropped: () => dropped as readonly unknown[],
    queued: () => queue as readonly unknown[],
    /** The server no longer accepts the account: it vanishes from the daemon. */
    unlink: () => void accounts.splice(0),
    /** What the real daemon would have swallowed without a word. */
    violations: () => violations as readonly string[],
  };
}

const methods = new Set(Object.keys(typedKeys));

/** Jackson reads no string of more than 20 million characters. */
const hasLongString = (value: unknown): boolean =>
  typeof value === "string"
    ? value.length > 20_000_000
    : typeof value === "object" && value !== null && Object.values(value).some(hasLongString);

const toList = (value: unknown): unknown[] => (value === undefined ? [] : Array.isArray(value) ? value : [value]);
const toNumber = (value: unknown): number | null => (typeof value === "number" ? value : null);

function toTargets(params: Params, groups: ReadonlySet<string>, owner: WirePerson): Chat[] {
  const chats: Chat[] = toList(params["recipient"] ?? params["recipients"]).map((value) => {
    const name = String(value);
    if (/^[0-9a-f-]{36}$/iu.test(name))
      return name === owner.aci
        ? { kind: "self" }
        : { kind: "direct", peer: { aci: name.toLowerCase(), number: null } };
    if (!/^\+\d{5,15}$/u.test(name)) refuse(-1, `Invalid phone number '${name}': null`);
    return name === owner.number ? { kind: "self" } : { kind: "direct", peer: { aci: null, number: name } };
  });
  for (const value of toList(params["groupId"] ?? params["groupIds"])) {
    const id = String(value);
    if (!/^(?:[\w+/]{4})+(?:[\w+/]{2}==|[\w+/]{3}=)?$/u.test(id)) refuse(-1, `Invalid group id: ${id}`);
    if (!groups.has(id)) refuse(-1, `Group not found: ${id}`);
    chats.push({ kind: "group", id });
  }
  if (params["noteToSelf"] === true) chats.push({ kind: "self" });
  return chats;
}

function toWireAddress(chat: Chat, owner: WirePerson) {
  const peer = chat.kind === "direct" ? chat.peer : owner;
  return { uuid: peer.aci, number: peer.number, username: null };
}

function toStyle(value: unknown) {
  const [, start, length, style = ""] = /^(\d+):(\d+):(\w+)$/u.exec(String(value)) ?? [];
  if (start === undefined) refuse(-1, `Invalid textStyle syntax (${String(value)})`);
  if (!isStyle(style)) return refuse(-1, `Invalid style: ${style}`);
  return { start: Number(start), length: Number(length), style };
}

const isStyle = (name: string): name is "BOLD" | "ITALIC" | "STRIKETHROUGH" | "MONOSPACE" | "SPOILER" =>
  ["BOLD", "ITALIC", "STRIKETHROUGH", "MONOSPACE", "SPOILER"].includes(name);

/** Anything that does not read as a data URI is tried as a path, and fails. */
function toFile(value: unknown) {
  const uri = String(value);
  const [head = "", base64 = ""] = uri.split(";base64,");
  const [whole, contentType = "", name = ""] = /^data:([\w.+-]+\/[\w.+-]+)(?:;filename=([^;,]*))?$/u.exec(head) ?? [];
  // Groups in groups would overflow the stack with a file of megabytes.
  if (!whole || base64 === "" || base64.length % 4 !== 0 || !/^[\w+/]+={0,2}$/u.test(base64))
    return refuse(-32603, "Failed to send message: (AttachmentInvalidException) (UnexpectedErrorException)");
  return { fileName: decodeURIComponent(name.replaceAll("+", " ")), contentType, base64 };
}
