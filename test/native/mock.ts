/** The native transport, linked to a mock service, with the smallest receive loop that keeps its contract. */
import { type Device, type PrimaryDevice, type Proto } from "@signalapp/mock-server";
import { Connection } from "@signalapp/mock-server/src/server/ws/connection";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, systemClock, systemRandom } from "../../src/clock.ts";
import type { Chat, Content, Envelope, Outbound, OutboundBody } from "../../src/core/model.ts";
import type { Log, LogFields } from "../../src/log.ts";
import type { IsAllowed, NativeAllow, NativeDeps, Service } from "../../src/signal/native/context.ts";
import { signalSchema } from "../../src/signal/native/tables.ts";
import { loadService } from "../../src/signal/native/signal-service.ts";
import { createNative, linkNative, type NativeTransport } from "../../src/signal/native/linked-device.ts";
import type { Batch } from "../../src/signal/transport.ts";
import { type Database, openDatabase } from "../../src/store/database.ts";
import { type SignalMock, startSignalMock, type SignalMockOptions } from "../doubles/signal-mock.ts";

export type LogLine = { readonly level: string; readonly message: string; readonly fields: LogFields };

export type Rig = {
  readonly mock: SignalMock;
  readonly phone: PrimaryDevice;
  readonly contact: PrimaryDevice;
  readonly device: Device;
  readonly database: Database;
  readonly deps: NativeDeps & NativeAllow;
  readonly transport: NativeTransport;
  readonly log: readonly LogLine[];
  /** One receive, committed with its rows in `inbox` and acknowledged. */
  poll(timeoutMs?: number): Promise<Batch>;
  /** Polls until `count` envelopes of these kinds have come; a send of the mock resolves only when we acknowledged. */
  expect(count: number, ...kinds: Content["kind"][]): Promise<Envelope[]>;
  /** Waits for a send of the mock, and for the one envelope of that kind. */
  receive(sending: Promise<unknown>, kind?: Content["kind"]): Promise<Envelope>;
  /** Resolves when the transport's background work is done, without a new connection. */
  settled(): Promise<void>;
  /** Polls until a send of the mock was acknowledged. */
  acked(sending: Promise<unknown>): Promise<void>;
  send(chat: Chat, body: OutboundBody | string, timestamp?: number): ReturnType<NativeTransport["send"]>;
  readonly direct: Chat;
  stop(): Promise<void>;
};

export type RigOptions = SignalMockOptions & {
  readonly isAllowed?: IsAllowed;
  readonly clock?: Clock;
  readonly databasePath?: string;
  /** Wraps the database, for faults. */
  readonly wrap?: (database: Database) => Database;
  readonly isConnected?: boolean;
  /** Changes the service, for hosts that fail. */
  readonly change?: (service: Service) => Service;
  readonly allowedNumbers?: readonly string[];
};

export const never = new AbortController().signal;

export function recordLog(): { readonly log: Log; readonly lines: LogLine[] } {
  const lines: LogLine[] = [];
  const at =
    (level: string) =>
    (message: string, fields: LogFields = {}) =>
      void lines.push({ level, message, fields });
  return { log: { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") }, lines };
}

/** A rough inbox: the loop's identity of a message, and that it committed. */
export const inboxSchema = `CREATE TABLE inbox (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, source TEXT, device INTEGER,
  sent_at INTEGER NOT NULL, text TEXT, UNIQUE (source, device, sent_at, kind)) STRICT;`;

export async function openNativeDatabase(path = ":memory:"): Promise<Database> {
  const database = await openDatabase(path);
  if (database.get("SELECT 1 FROM sqlite_master WHERE name = 'inbox'") === undefined)
    database.exec([...signalSchema, inboxSchema].join(""));
  return database;
}

export async function serviceOf(mock: SignalMock, proxy: string | null = null): Promise<Service> {
  const folder = await mkdtemp(join(tmpdir(), "signal-service-"));
  try {
    return await loadService(await mock.writeService(join(folder, "service.json")), systemClock, proxy);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Commits a batch as the loop does. */
export function commit(database: Database, batch: Batch): void {
  database.transaction(() => {
    batch.persist?.();
    for (const { content, source, sourceDevice, sentAt } of batch.envelopes) {
      const text = content.kind === "text" ? content.text : content.kind === "edit" ? content.body.text : null;
      const sql = "INSERT OR IGNORE INTO inbox (kind, source, device, sent_at, text) VALUES (?, ?, ?, ?, ?)";
      database.run(sql, content.kind, source?.aci ?? null, sourceDevice, sentAt, text);
    }
  });
}

/** Runs the whole link; the mock's phone scans. */
export async function linkRig(mock: SignalMock, deps: NativeDeps): Promise<Device> {
  let scanned: Promise<Device> | null = null;
  for await (const progress of linkNative(deps)("signalman test", never)) {
    if (progress.event !== "url") continue;
    scanned = mock.scan(progress.url);
    // Where the link fails, the phone waits in vain.
    scanned.catch(() => undefined);
  }
  if (scanned === null) throw new Error("no code was shown");
  return scanned;
}

/** A linked, and connected, transport. */
export async function startRig(options: RigOptions = {}): Promise<Rig> {
  const mock = await startSignalMock(options);
  const plain = await openNativeDatabase(options.databasePath);
  const database = options.wrap?.(plain) ?? plain;
  const { log, lines } = recordLog();
  const deps = {
    database,
    service: (options.change ?? ((same) => same))(await serviceOf(mock)),
    clock: options.clock ?? systemClock,
    random: systemRandom,
    log,
    userAgent: "signalman/0.0.0",
    isAllowed: options.isAllowed ?? (() => true),
    allowedNumbers: options.allowedNumbers ?? [],
  };
  const device = await linkRig(mock, deps);
  const transport = createNative(deps);
  const rig = { ...rigOf(mock, device, deps, transport), log: lines };
  if (options.isConnected === false) return rig;
  await transport.connect(never);
  // The phone answers our requests for contacts, block list and settings.
  await rig.expect(3, "empty");
  await transport.settled();
  return rig;
}

export function rigOf(
  mock: SignalMock,
  device: Device,
  deps: Rig["deps"],
  transport: NativeTransport,
): Omit<Rig, "log"> {
  const { database } = deps;
  const expect: Rig["expect"] = async (count, ...kinds) => {
    const found: Envelope[] = [];
    for (let polls = 0; found.length < count && polls < 100; polls++) {
      const { envelopes } = await poll();
      found.push(...envelopes.filter(({ content }) => kinds.length === 0 || kinds.includes(content.kind)));
    }
    return found;
  };
  const poll = async (timeoutMs = 5_000) => {
    const batch = await transport.receive(timeoutMs, never);
    commit(database, batch);
    await transport.ack(batch, true);
    return batch;
  };
  return {
    mock,
    phone: mock.phone,
    contact: mock.contact,
    device,
    database,
    deps,
    transport,
    poll,
    expect,
    async receive(sending, kind = "text") {
      const [[envelope]] = await Promise.all([expect(1, kind), sending]);
      if (envelope === undefined) throw new Error(`no ${kind} came`);
      return envelope;
    },
    settled: () => transport.settled(),
    async acked(sending) {
      const done = sending.then(() => true);
      for (let isDone = false; !isDone;) {
        await poll(20);
        isDone = await Promise.race([done, Promise.resolve(false)]);
      }
    },
    send: (chat, body, timestamp = Date.now()) => {
      const said: OutboundBody =
        typeof body === "string" ? { kind: "text", text: body, styles: [], quote: null, files: [] } : body;
      return transport.send({ chat, timestamp, body: said } satisfies Outbound);
    },
    direct: { kind: "direct", peer: { aci: mock.contact.device.aci, number: null } },
    async stop() {
      await transport.disconnect();
      database.close();
      await mock.stop();
    },
  };
}

/** What a promise rejected with. Bun's own `rejects` waits in a nested event loop, in which the mock server does not run. */
export const failureOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    (value) => new Error(`it did not fail, and gave ${JSON.stringify(value)}`),
    (error: unknown) => error,
  );

export type Asked = { readonly verb: string; readonly path: string; readonly json: unknown };
type Answer = { readonly status: number; readonly json?: unknown; readonly headers?: readonly string[] };

/**
 * Answers requests of our device in the place of the mock server, on both kinds of connection: what production does and the mock
 * does not. `undefined` leaves a request to the mock. Gives all that was asked; disposed of at the end of a test.
 */
export function answerInstead(answer: (asked: Asked) => Answer | undefined) {
  const server = Connection.prototype as unknown as { handleRequest(request: unknown): Promise<unknown> };
  const { handleRequest } = server;
  const asked: Asked[] = [];
  type ServerRequest = { id: unknown; verb: string; path: string; body: Uint8Array | null };
  server.handleRequest = async function (this: unknown, request: ServerRequest) {
    const text = Buffer.from(request.body ?? []).toString();
    const one = { verb: request.verb, path: request.path, json: text.startsWith("{") ? JSON.parse(text) : null };
    asked.push(one);
    const given = answer(one);
    if (given === undefined) return handleRequest.call(this, request);
    const body = given.json === undefined ? null : Buffer.from(JSON.stringify(given.json));
    return { id: request.id, status: given.status, message: "", headers: given.headers ?? [], body };
  };
  return { asked, [Symbol.dispose]: () => void (server.handleRequest = handleRequest) };
}

/** A content for `sendRaw`, with the three fields that it insists on. */
export const rawContent = (content: NonNullable<Proto.Content.Params["content"]>): Proto.Content.Params => ({
  content,
  pniSignatureMessage: null,
  senderKeyDistributionMessage: null,
});
