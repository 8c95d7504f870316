/**
 * The whole program in this process, over the in-memory Signal and the scripted Claude, on a virtual clock: what the phone sees
 * is written down line by line, the same in every run.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createScriptedClaude, type Script, type ScriptedClaude } from "../../src/claude/scripted.ts";
import { loadConfig } from "../../src/config.ts";
import type { Envelope, Outbound, StyleRange } from "../../src/core/model.ts";
import { startDaemon, type Daemon } from "../../src/daemon.ts";
import type { Log } from "../../src/log.ts";
import { createMemoryTransport, type MemorySignal } from "../../src/signal/memory.ts";
import type { Person, WriteOptions } from "../../src/signal/memory-people.ts";
import type { Transport } from "../../src/signal/transport.ts";
import { boundary, createVirtualClock, runUntil, seeded, type VirtualClock } from "../sim/clock.ts";

export const group = "Z3JvdXAtb2YtZnJpZW5kcw==";
const anna = { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00a001", number: "+15550100011" };
const ben = { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002", number: null };

export interface Stage {
  readonly clock: VirtualClock;
  readonly signal: MemorySignal;
  readonly claude: ScriptedClaude;
  readonly daemon: Daemon;
  readonly home: string;
  /** Allowed by number; Ben is only a member of the group. */
  readonly anna: Person;
  readonly ben: Person;
  /** What the program logged, as `message reason`. */
  readonly log: readonly string[];
  write(text: string, options?: WriteOptions, who?: Person): Envelope;
  edit(target: Envelope, text: string): void;
  remove(target: Envelope): void;
  /** Reacts to the last message that Claude's side sent. */
  react(emoji: string, who?: Person): void;
  /** A line of the transcript about what is not seen on the phone. */
  note(text: string): void;
  /** Lets so many seconds pass. */
  pass(seconds: number): Promise<void>;
  /** Ends the process and starts it anew on the same home. */
  restart(): Promise<void>;
  /** What the phone has seen. */
  transcript(): string;
  close(): Promise<void>;
}

export type StageOptions = {
  readonly script?: Script;
  readonly flags?: Readonly<Record<string, string>>;
  /** False as with signal-cli: a message is known by the timestamp that its sending gives it. */
  readonly ownTimestamps?: boolean;
};

export async function openStage(options: StageOptions = {}): Promise<Stage> {
  const clock = createVirtualClock(Date.UTC(2026, 10, 23, 9));
  const signal = createMemoryTransport({ clock, ownTimestamps: options.ownTimestamps });
  const claude = createScriptedClaude({ clock, ...(options.script ? { script: options.script } : {}) });
  const home = mkdtempSync(join(tmpdir(), "signalman-stage-"));
  const lines: string[] = [];
  const log: string[] = [];
  const names = new Map<number, string>();
  const put = (who: string, text: string): void => {
    const time = new Date(clock.now()).toISOString().slice(11, 19);
    const [first = "", ...rest] = text.split("\n").map(clipped);
    lines.push(`${time}  ${who.padEnd(6)} │ ${first}`, ...rest.map((line) => `${" ".repeat(17)}│ ${line}`.trimEnd()));
  };
  const person = { anna: signal.person(anna, "Anna"), ben: signal.person(ben, "Ben") };
  const nameOf = (who: Person): string => (who === person.anna ? "Anna" : who === person.ben ? "Ben" : "me");
  const stage = { lastSentAt: 0, group: undefined as string | undefined };

  const watch = (transport: Transport): Transport => ({
    ...transport,
    async send(message) {
      const outcome = await transport.send(message);
      if (message.body.kind === "text") stage.lastSentAt = outcome.timestamp;
      stage.group = message.chat.kind === "group" ? message.chat.id : undefined;
      show(message, outcome.timestamp);
      return outcome;
    },
    async markRead(envelope) {
      await transport.markRead(envelope);
      put("", `  ✓ read: ${quoted(names.get(envelope.sentAt) ?? "")}`);
    },
    async typing(chat, isTyping) {
      const was = signal.typing().size;
      await transport.typing(chat, isTyping);
      if (signal.typing().size !== was) put("", isTyping ? "  Claude is typing …" : "  (no longer typing)");
    },
  });
  const show = ({ body, timestamp }: Outbound, sentAt: number): void => {
    if (body.kind === "reaction") {
      const what = quoted(names.get(body.targetSentAt) ?? "?");
      return put("", body.isRemove ? `  ${body.emoji} taken off ${what}` : `  ${body.emoji} on ${what}`);
    }
    const files =
      body.kind === "text" ? body.files.map((file) => `\n[file ${file.fileName}, ${sizeOf(file.base64)}]`) : [];
    names.set(sentAt, body.text);
    names.set(timestamp, body.text);
    put(body.kind === "edit" ? "Claude✎" : "Claude", marked(body.text, body.styles) + files.join(""));
  };

  const { config } = loadConfig({
    flags: {
      transport: "signal-cli",
      account: "+15550100001",
      allow: `self,${anna.number},group:${group}`,
      listen: "off",
      welcome: "false",
      readReceipts: "false",
      ...options.flags,
      home,
    },
    env: {},
  });
  let ids = 0;
  const start = (): Promise<Daemon> =>
    startDaemon(config, {
      log: heard(log),
      clock,
      random: seeded(7),
      networkKey: () => "",
      newId: () => `${String(++ids).padStart(8, "0")}-5eed-4000-8000-000000000000`,
      buildTransport: () => Promise.resolve(watch(signal.transport)),
      buildBackend: () => Promise.resolve(claude.backend),
    });
  let daemon = await start();
  const stop = async (): Promise<void> => {
    let isOver = false;
    void daemon.stop().then(() => (isOver = true));
    if (!(await runUntil(clock, () => isOver, 60_000))) throw new Error("the daemon does not stop");
  };
  await runUntil(clock, () => daemon.isReady(), 5_000);
  return {
    clock,
    signal,
    claude,
    home,
    get daemon() {
      return daemon;
    },
    ...person,
    log,
    write(text, write = {}, who = signal.owner) {
      const envelope = who.write(text, write);
      const files = (write.files ?? []).map((file) => `[${file.fileName}]`);
      names.set(envelope.sentAt, text === "" ? files.join(" ") : text);
      put(nameOf(who), [text, ...files].filter((line) => line !== "").join("\n"));
      return envelope;
    },
    edit(target, text) {
      const envelope = signal.owner.edit(target.sentAt, text);
      names.set(envelope.sentAt, text);
      put("me", `✎ ${quoted(names.get(target.sentAt) ?? "")} → ${text}`);
      names.set(target.sentAt, text);
    },
    remove(target) {
      signal.owner.delete(target.sentAt);
      put("me", `🗑 ${quoted(names.get(target.sentAt) ?? "")}`);
    },
    react(emoji, who = signal.owner) {
      const where = stage.group === undefined ? {} : { group: stage.group };
      who.react({ author: signal.account, sentAt: stage.lastSentAt }, emoji, where);
      put(nameOf(who), `${emoji} on ${quoted(names.get(stage.lastSentAt) ?? "")}`);
    },
    note: (text) => void lines.push(`${" ".repeat(10)}— ${text} —`),
    async pass(seconds) {
      const until = clock.monotonic() + seconds * 1000;
      await runUntil(clock, () => false, seconds * 1000);
      clock.jump(Math.max(0, until - clock.monotonic()));
      await boundary();
    },
    async restart() {
      await stop();
      daemon = await start();
      await runUntil(clock, () => daemon.isReady(), 5_000);
    },
    transcript: () => `${lines.join("\n")}\n`,
    async close() {
      await stop();
      rmSync(home, { recursive: true, force: true });
    },
  };
}

function heard(log: string[]): Log {
  const hear = (message: string, fields: Readonly<Record<string, unknown>> = {}): void =>
    void log.push(`${message}${typeof fields["reason"] === "string" ? `: ${fields["reason"]}` : ""}`);
  return { debug: hear, info: hear, warn: hear, error: hear };
}

const quoted = (text: string): string => `“${text.length > 28 ? `${text.slice(0, 27)}…` : text}”`.replaceAll("\n", " ");
const clipped = (line: string): string =>
  line.length > 160 ? `${line.slice(0, 75)} […${line.length - 150}…] ${line.slice(-75)}` : line;
const sizeOf = (base64: string): string => `${((base64.length * 3) / 4 / 1000).toFixed(1)} kB`;

/** The styles as they are usually typed. */
function marked(text: string, styles: readonly StyleRange[]): string {
  const marks = { BOLD: "**", ITALIC: "_", STRIKETHROUGH: "~~", MONOSPACE: "`", SPOILER: "||" } as const;
  let out = "";
  for (let at = 0; at <= text.length; at++) {
    for (const { start, length, style } of styles) if (start + length === at || start === at) out += marks[style];
    out += text[at] ?? "";
  }
  return out;
}
