/**
 * A signal-cli-rest-api in normal mode without its container. Strict like its sibling: unknown paths, fields and types fail
 * or are kept as violations; every call for the number waits for the account's lock, in order; what a `receive` has taken is
 * gone, whether or not its client still listens.
 */
import type { Clock } from "../../src/clock.ts";
import { systemClock } from "../../src/clock.ts";
import type { Chat, Millis } from "../../src/core/model.ts";
import type { RawReply, RawRequest } from "./raw-http.ts";
import { startRawServer } from "./raw-http.ts";
import { createVersions } from "./versions.ts";
import { parseStyledText } from "./styled-text.ts";
import type { SentMessage, WirePerson, WireWrite } from "./wire.ts";
import { createBell, createTape, createWriter, groupId, me } from "./wire.ts";

export type RestRoute =
  | "about"
  | "accounts"
  | "receive"
  | "send"
  | "typing-indicator"
  | "receipts"
  | "reactions"
  | "attachments"
  | "identities";

export type RestFault =
  /** Never answered, never carried out; the lock stays free. */
  | "hang"
  /** The connection is cut before anything happens. */
  | "cut"
  /** Carried out; the connection is cut instead of an answer. */
  | "lost"
  /** Carried out; the connection is cut in the middle of the answer. */
  | "truncated"
  /** Carried out; signal-cli's log lines stand behind the output, with status 200. */
  | "stray"
  /** Carried out; then signal-cli fails: 400 with its whole output as the error. */
  | "failed"
  /** Not carried out. */
  | { readonly status: number; readonly body?: string; readonly headers?: Readonly<Record<string, string>> };

export type RestDoubleOptions = {
  readonly port?: number;
  readonly clock?: Clock;
  readonly mode?: "normal" | "native" | "json-rpc";
  readonly accounts?: readonly WirePerson[];
  readonly groups?: readonly string[];
  readonly version?: string;
  /** The identities have our own account with its ACI, as they have from linking on. */
  readonly tellsOwnAci?: boolean;
  /** Since July 2026 `/v2/send` answers with a list. */
  readonly answersWithList?: boolean;
};

const sendKeys: Readonly<Record<string, (value: unknown) => boolean>> = {
  number: isString,
  recipients: isStrings,
  message: isString,
  base64_attachments: isStrings,
  text_mode: (value) => value === "normal" || value === "styled",
  notify_self: (value) => typeof value === "boolean",
  quote_timestamp: Number.isSafeInteger,
  quote_author: isString,
  quote_message: isString,
  edit_timestamp: Number.isSafeInteger,
};

export type RestDouble = Awaited<ReturnType<typeof startRestDouble>>;

export async function startRestDouble(options: RestDoubleOptions = {}) {
  const clock = options.clock ?? systemClock;
  const accounts = [...(options.accounts ?? [me])];
  const owner = accounts[0] ?? me;
  const groups = new Set(options.groups ?? [groupId]);
  const writer = createWriter(clock, owner);
  const sent = createTape<SentMessage>();
  const versions = createVersions();
  const calls = createTape<{ readonly method: string; readonly path: string }>();
  const queue: unknown[] = [];
  const dropped: unknown[] = [];
  const faults: { readonly route: RestRoute; readonly fault: RestFault }[] = [];
  const violations: string[] = [];
  const files = new Map<string, string>();
  const readMarks: Millis[] = [];
  const typing: string[] = [];
  const arrivals = createBell();
  const changes = createBell();
  let lock: Promise<unknown> = Promise.resolve();
  let waiting = 0;
  let waitingMax = 0;
  let isParked = false;

  const enqueue = ({ sentAt, wire }: { sentAt: Millis; wire: unknown }): Millis => {
    queue.push(wire);
    arrivals.ring();
    return sentAt;
  };

  /** One process per call; they wait for each other at the account's file. */
  function locked<T>(work: () => Promise<T> | T): Promise<T> {
    waitingMax = Math.max(waitingMax, ++waiting);
    const result = lock.then(work);
    lock = result.then(
      () => waiting--,
      () => waiting--,
    );
    return result;
  }

  async function receive(query: URLSearchParams): Promise<string[]> {
    const timeoutMs = Number(query.get("timeout") ?? 1) * 1000;
    const max = Number(query.get("max_messages") ?? 0);
    const lines: string[] = [];
    const mayTake = () => max === 0 || lines.length < max;
    for (;;) {
      while (queue.length > 0 && mayTake()) lines.push(JSON.stringify(queue.shift()));
      if (!mayTake() || timeoutMs === 0) return lines;
      const done = new AbortController();
      const arrival = arrivals.next();
      isParked = true;
      changes.ring();
      const over = clock.sleep(timeoutMs, done.signal).then(() => true);
      const isOver = await Promise.race([over, arrival.then(() => false)]);
      isParked = false;
      done.abort();
      if (isOver && queue.length === 0) return lines;
    }
  }

  function toChat(name: string): Chat | null {
    if (name.startsWith("group.")) {
      const id = atob(name.slice("group.".length));
      return groups.has(id) ? { kind: "group", id } : null;
    }
    if (name === owner.number || name === owner.aci) return { kind: "self" };
    const isAci = /^[0-9a-f-]{36}$/u.test(name);
    return { kind: "direct", peer: isAci ? { aci: name, number: null } : { aci: null, number: name } };
  }

  function send(body: Readonly<Record<string, unknown>>): RawReply & object {
    const [recipient, ...others] = toStrings(body["recipients"]);
    if (recipient === undefined) return error("Couldn't process request - please provide at least one recipient");
    if (others.length > 0) violations.push("several recipients");
    if (body["number"] !== owner.number) return error(`User ${String(body["number"])} is not registered.\n`);
    const chat = toChat(recipient);
    if (chat === null) return error("Group not found\n");
    if (chat.kind === "self" && body["notify_self"] !== false) violations.push("a note to self that notifies");
    const message = toStrings([body["message"]]).join("");
    const { text, styles } = body["text_mode"] === "styled" ? parseStyledText(message) : { text: message, styles: [] };
    const attachments = toStrings(body["base64_attachments"]).map(toFile);
    if (attachments.includes(null)) return error("Couldn't process request - illegal base64 data");
    const timestamp = writer.stamp();
    const editOf = toNumber(body["edit_timestamp"]);
    // The real one sends whatever it is told; the phones would not take it for an edit.
    if (!versions.note(chat, timestamp, editOf)) return error("An edit of what is not the newest version\n");
    sent.push({
      chat,
      timestamp,
      text,
      styles,
      quoteSentAt: toNumber(body["quote_timestamp"]),
      editOf,
      reaction: null,
      files: attachments.flatMap((file) => (file ? [file] : [])),
    });
    const answer = { timestamp: String(timestamp) };
    return json(201, options.answersWithList ? [answer] : answer);
  }

  function react(body: Readonly<Record<string, unknown>>, isRemove: boolean): RawReply & object {
    const chat = toChat(String(body["recipient"]));
    if (chat === null || !isString(body["target_author"]) || !Number.isSafeInteger(body["timestamp"]))
      return error("Couldn't process request - invalid request");
    const targetSentAt = Number(body["timestamp"]);
    const reaction = { emoji: String(body["reaction"]), targetSentAt, isRemove };
    const nothing = { text: "", styles: [], quoteSentAt: null, editOf: null, files: [] };
    sent.push({ chat, timestamp: writer.stamp(), ...nothing, reaction });
    return { status: 204 };
  }

  /** What would be done, as a function, so that a fault can come before or after it. */
  function route(
    request: RawRequest,
  ): { readonly name: RestRoute; readonly work: () => Promise<RawReply & object> } | null {
    const url = new URL(request.path, "http://double");
    const [, version, name = "", rawNumber = ""] = url.pathname.split("/");
    const number = decodeURIComponent(rawNumber);
    const key = `${request.method} /${version}/${name}`;
    const body = request.body === "" ? null : parseBody(request);
    const isKnown = accounts.some((account) => account.number === number);
    const own = (work: () => Promise<RawReply & object> | (RawReply & object)) => async () =>
      locked(() => (isKnown ? work() : error(`User ${number} is not registered.\n`)));
    const withBody = (work: (body: Readonly<Record<string, unknown>>) => RawReply & object) =>
      own(() => (body ? work(body) : malformed));
    switch (key) {
      case "GET /v1/about":
        return {
          name: "about",
          work: async () =>
            json(200, {
              versions: ["v1", "v2"],
              build: 2,
              mode: options.mode ?? "normal",
              version: options.version ?? "0.100",
            }),
        };
      case "GET /v1/accounts":
        return {
          name: "accounts",
          work: async () =>
            json(
              200,
              accounts.map((account) => account.number),
            ),
        };
      case "GET /v1/identities":
        return {
          name: "identities",
          work: own(() =>
            json(
              200,
              (options.tellsOwnAci ?? true)
                ? [{ number: owner.number, uuid: owner.aci, status: "TRUSTED_VERIFIED", added: "0", safety_number: "" }]
                : [],
            ),
          ),
        };
      case "GET /v1/receive":
        checkQuery(url.searchParams, violations);
        return {
          name: "receive",
          work: own(async () => {
            const lines = await receive(url.searchParams);
            if (request.isGone()) dropped.push(...lines);
            return {
              status: 200,
              headers: { "Content-Type": "text/plain; charset=utf-8" },
              body: `[${lines.join(",")}]`,
            };
          }),
        };
      case "POST /v2/send":
        return { name: "send", work: () => locked(() => (body && isSend(body, violations) ? send(body) : malformed)) };
      case "PUT /v1/typing-indicator":
        return {
          name: "typing-indicator",
          work: withBody((given) => (typing.push(String(given["recipient"])), { status: 204 })),
        };
      case "POST /v1/receipts":
        return {
          name: "receipts",
          work: withBody((given) => {
            if (given["receipt_type"] !== "read")
              return error("Couldn't process request - receipt type must be read or viewed");
            readMarks.push(Number(given["timestamp"]));
            return { status: 204 };
          }),
        };
      case "POST /v1/reactions":
      case "DELETE /v1/reactions":
        return { name: "reactions", work: withBody((given) => react(given, request.method === "DELETE")) };
      case "GET /v1/attachments": {
        const file = files.get(number);
        const found = {
          status: 200,
          headers: { "Content-Type": "application/octet-stream" },
          body: Buffer.from(file ?? "", "base64"),
        };
        return {
          name: "attachments",
          work: async () => (file === undefined ? json(404, { error: "No attachment with that name found" }) : found),
        };
      }
      default:
        return null;
    }
  }

  async function handle(request: RawRequest): Promise<RawReply> {
    const found = route(request);
    if (!found) return { status: 404, headers: { "Content-Type": "text/plain" }, body: "404 page not found" };
    calls.push({ method: request.method, path: request.path });
    const index = faults.findIndex(({ route: name }) => name === found.name);
    const fault = index < 0 ? null : (faults.splice(index, 1)[0]?.fault ?? null);
    if (fault === "hang" || fault === "cut") return fault;
    if (typeof fault === "object" && fault) return fault;
    const reply = await found.work();
    const body = String(reply.body ?? "");
    switch (fault) {
      case null:
        return reply;
      case "lost":
        return "cut";
      case "truncated":
        return { ...reply, cutAfterBytes: Math.max(1, Buffer.byteLength(body) - 3) };
      case "stray":
        return { ...reply, body: body.replace(/\]$/u, ",ERROR ReceiveHelper - Unknown error when handling messages]") };
      case "failed":
        return error(
          `${body.replaceAll(/^\[|\]$/gu, "").replaceAll('},{"envelope"', '}\n{"envelope"')}\nError while receiving messages: closed (IOException)\n`,
        );
    }
  }

  const server = await startRawServer(handle, options.port ?? 0);
  return {
    url: server.url,
    port: server.port,
    /** Closes the port and cuts every connection; queue and lock stay. */
    stop: () => server.stop(),
    start: () => server.start(),
    phoneWrites: (text: string, write?: WireWrite) => enqueue(writer.own(text, write)),
    personWrites: (from: WirePerson, text: string | null, write?: WireWrite) =>
      enqueue(writer.person(from, text, write)),
    personTypes: (from: WirePerson) => enqueue(writer.typing(from)),
    deliver: (wire: unknown) => void enqueue({ sentAt: 0, wire }),
    sent: () => sent.items,
    nextSent: () => sent.next(),
    calls: () => calls.items,
    nextCall: () => calls.next(),
    typing: () => typing as readonly string[],
    readMarks: () => readMarks as readonly Millis[],
    addFile: (id: string, base64: string) => void files.set(id, base64),
    fail(route: RestRoute, fault: RestFault, times = 1) {
      for (let index = 0; index < times; index++) faults.push({ route, fault });
    },
    /** Resolves when a `receive` has taken all there is and waits. */
    parked: () => changes.until(() => isParked),
    dropped: () => dropped as readonly unknown[],
    queued: () => queue as readonly unknown[],
    /** How many calls stood at the account's lock at once, at most. */
    waitingMax: () => waitingMax,
    unlink: () => void accounts.splice(0),
    violations: () => violations as readonly string[],
  };
}

function json(status: number, value: unknown): RawReply & object {
  const headers = { "Content-Type": "application/json; charset=utf-8" };
  return { status, headers, body: JSON.stringify(value).replaceAll("<", String.raw`\u003c`) };
}

const error = (text: string): RawReply & object => json(400, { error: text });

/** Its header is out before the body is read. */
const malformed: RawReply & object = {
  status: 400,
  headers: { "Content-Type": "text/plain; charset=utf-8" },
  body: '{"error":"Couldn\'t process request - invalid request"}',
};

function parseBody(request: RawRequest): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(request.body);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : null;
  } catch {
    return null;
  }
}

function isSend(body: Readonly<Record<string, unknown>>, violations: string[]): boolean {
  for (const key of Object.keys(body)) if (!(key in sendKeys)) violations.push(`send ignores ${key}`);
  return Object.entries(body).every(([key, value]) => sendKeys[key]?.(value) ?? true);
}

function checkQuery(query: URLSearchParams, violations: string[]): void {
  for (const [key, value] of query) {
    if (key.startsWith("ignore_") ? value !== "true" && value !== "false" : !/^\d+$/u.test(value))
      violations.push(`receive refuses ${key}=${value}`);
  }
}

function toFile(uri: string) {
  const match =
    /^data:([\w.+-]+\/[\w.+-]+);filename=([^;]+);base64,((?:[\w+/]{4})+(?:[\w+/]{2}==|[\w+/]{3}=)?|[\w+/]{2}==|[\w+/]{3}=)$/u.exec(
      uri,
    );
  const [, contentType = "", fileName = "", base64 = ""] = match ?? [];
  return match ? { fileName, contentType, base64 } : null;
}

function isString(value: unknown): value is string {
  return typeof value === "string";
}
function isStrings(value: unknown): boolean {
  return Array.isArray(value) && value.every(isString);
}
const toStrings = (value: unknown): string[] => (Array.isArray(value) ? value.filter(isString) : []);
const toNumber = (value: unknown): number | null => (typeof value === "number" ? value : null);
