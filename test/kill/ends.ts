/**
 * What stands at the other end of the binary in a kill campaign: two people who write and read over one transport. The people,
 * and the service that holds their messages, live on while the binary is killed.
 */
import type { Device, PrimaryDevice, Server } from "@signalapp/mock-server";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Chat } from "../../src/core/model.ts";
import { startSignalCliDouble } from "../doubles/signal-cli.ts";
import { startSignalMock } from "../doubles/signal-mock.ts";
import { startRestDouble } from "../doubles/signal-rest.ts";
import { alice, me, type SentMessage } from "../doubles/wire.ts";
import { command } from "../e2e/harness.ts";

export const transports = ["native", "signal-cli", "rest"] as const;
export type TransportName = (typeof transports)[number];

/** `self` writes in Note to Self, `ann` from an account of her own. */
export type Who = "self" | "ann";
export type Seen = { readonly who: Who; readonly timestamp: number; readonly text: string };

export type Ends = {
  /** What the binary must be told to meet these people. */
  readonly env: Readonly<Record<string, string>>;
  /** Does not wait for the binary: the service keeps the message. */
  write(who: Who, text: string): Promise<void>;
  /** Called for every message that arrives, second copies included. */
  onSeen(listener: (seen: Seen) => void): void;
  /** Messages that the service still holds for the binary. */
  waiting(): number;
  /** What went wrong at this end: messages that could not be decrypted, calls that a real daemon would swallow. */
  faults(): readonly string[];
  stop(): Promise<void>;
};

export function openEnds(name: TransportName, home: string): Promise<Ends> {
  return name === "native" ? openNative(home) : openDaemon(name);
}

async function openDaemon(name: "signal-cli" | "rest"): Promise<Ends> {
  const double = name === "rest" ? await startRestDouble() : await startSignalCliDouble();
  const listeners: ((seen: Seen) => void)[] = [];
  const listen = async (): Promise<never> => {
    for (;;) {
      const sent = await double.nextSent();
      for (const listener of listeners) listener({ who: whoOf(sent.chat), ...pick(sent) });
    }
  };
  void listen();
  return {
    env: {
      SIGNALMAN_TRANSPORT: name,
      SIGNALMAN_SIGNAL_URL: double.url,
      SIGNALMAN_ACCOUNT: me.number,
      SIGNALMAN_ALLOW: `self,${alice.number}`,
    },
    async write(who, text) {
      if (who === "self") double.phoneWrites(text);
      else double.personWrites(alice, text);
    },
    onSeen: (listener) => void listeners.push(listener),
    waiting: () => double.queued().length,
    faults: double.violations,
    stop: () => double.stop(),
  };
}

const whoOf = (chat: Chat): Who => (chat.kind === "self" ? "self" : "ann");
const pick = ({ timestamp, text }: SentMessage) => ({ timestamp, text });

async function openNative(home: string): Promise<Ends> {
  const signal = await startSignalMock();
  const { phone, contact, server } = signal;
  const env = { SIGNALMAN_SIGNAL_SERVICE: await signal.writeService(join(home, "service.json")) };
  const device = await link({ SIGNALMAN_HOME: home, ...env }, signal.scan);
  const faults: string[] = [];
  for (const [name, person] of [["phone", phone] as const, ["contact", contact] as const]) watch(name, person, faults);
  const deliver = keepUntilAcknowledged(server, device);
  const listeners: ((seen: Seen) => void)[] = [];
  const see = (seen: Seen): void => listeners.forEach((listener) => listener(seen));
  const over = new AbortController();
  /** The queues of the mock give up after a while of silence. */
  const forever = async (next: () => Promise<void>): Promise<void> => {
    while (!over.signal.aborted) await next().catch(() => undefined);
  };
  void forever(async () => {
    const { syncMessage } = await phone.waitForSyncMessage();
    const { sent } = syncMessage.content ?? {};
    const text = sent?.message?.body;
    // Transcripts of what went to others are on the phone too, in their chats.
    if (text && sent?.destinationServiceIdBinary && isOwn(sent.destinationServiceIdBinary, phone))
      see({ who: "self", timestamp: Number(sent.timestamp), text });
  });
  void forever(async () => {
    const { dataMessage } = await contact.waitForMessage();
    if (dataMessage.body) see({ who: "ann", timestamp: Number(dataMessage.timestamp), text: dataMessage.body });
  });
  let lastSentAt = 0;
  return {
    env: { ...env, SIGNALMAN_ALLOW: `self,${contact.device.aci}` },
    async write(who, text) {
      const timestamp = (lastSentAt = Math.max(lastSentAt + 1, Date.now()));
      const destinationServiceId = phone.device.aci;
      deliver.send(
        who === "self"
          ? await phone.encryptSyncSent(device, text, { timestamp, destinationServiceId })
          : await contact.encryptText(device, text, { timestamp }),
      );
    },
    onSeen: (listener) => void listeners.push(listener),
    waiting: deliver.waiting,
    faults: () => faults,
    async stop() {
      over.abort();
      await signal.stop();
    },
  };
}

const isOwn = (bytes: Uint8Array, person: PrimaryDevice): boolean =>
  Buffer.from(bytes).toString("hex") === person.device.aci.replaceAll("-", "");

/** A message that a phone cannot decrypt is a message lost. */
function watch(name: string, person: PrimaryDevice, faults: string[]): void {
  const handle = person.handleEnvelope.bind(person);
  person.handleEnvelope = async (...args) => {
    try {
      await handle(...args);
    } catch (error) {
      faults.push(`the ${name} could not read a message: ${error instanceof Error ? error.message : String(error)}`);
      throw error;
    }
  };
}

type Socket = { sendMessage(message: Uint8Array | "empty"): Promise<void> };

/**
 * Signal keeps a message until the device has acknowledged it, and delivers what waits, in order, at every connect. The mock
 * forgets what it handed out at a connect (signal/SIGNAL-NATIVE.md section 7.5), so its queue is replaced for our device.
 */
function keepUntilAcknowledged(server: Server, device: Device) {
  const waiting = new Set<Uint8Array>();
  const inner = server as unknown as {
    webSockets: Map<Device, Socket>;
    send(target: Device, message: Uint8Array): Promise<void>;
    sendQueue(target: Device, socket: Socket): Promise<void>;
  };
  const hand = (socket: Socket, envelope: Uint8Array): Promise<void> =>
    socket.sendMessage(envelope).then(
      () => void waiting.delete(envelope),
      () => undefined,
    );
  const deliver = (envelope: Uint8Array): void => {
    waiting.add(envelope);
    const socket = inner.webSockets.get(device);
    if (socket) void hand(socket, envelope);
  };
  const { send, sendQueue } = inner;
  inner.send = async (target, message) => (target === device ? deliver(message) : send.call(inner, target, message));
  inner.sendQueue = async (target, socket) => {
    if (target !== device) return sendQueue.call(inner, target, socket);
    for (const envelope of waiting) void hand(socket, envelope);
    await socket.sendMessage("empty").catch(() => undefined);
  };
  return { send: deliver, waiting: () => waiting.size };
}

/** `signalman link --json`, with the phone scanning the code it shows. */
async function link(env: Record<string, string>, scan: (url: string) => Promise<Device>): Promise<Device> {
  const child = spawn(command[0] ?? "", [...command.slice(1), "link", "--json"], {
    env: { PATH: process.env["PATH"], ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = new Promise<void>((resolve) => child.once("close", () => resolve()));
  let scanned: Promise<Device> | null = null;
  createInterface({ input: child.stdout }).on("line", (line) => {
    const { url } = JSON.parse(line) as { url?: string };
    if (url !== undefined) scanned = scan(url);
  });
  await exited;
  if (scanned === null) throw new Error("Cannot link as no code was shown");
  return scanned;
}
