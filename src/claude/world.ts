/**
 * A small world where Claude is played by a script: sessions with an event log, a queue and live streams, as the API has
 * them, in memory. Sessions work whether or not anybody listens. Deterministic: it waits only by the injected clock and by
 * the promises of a script.
 * **Source:** claude/CLAUDE-API.md sections 1.3 to 1.9, for the order of events and what is accepted when.
 */
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { JsonValue, Millis, SessionEvent, StopReason } from "../core/model.ts";
import type { RemoteFile } from "./backend.ts";
import type { Frame } from "./wire.ts";

/** What Claude does next in a turn. A turn without a `stop` or `fail` at its end stops with `end_turn`. */
export type Beat =
  | { readonly say: string }
  /** A reply in pieces: previews first, with a pause before each where one is given, then the whole. */
  | { readonly write: readonly string[]; readonly everyMs?: Millis }
  | { readonly pauseMs: Millis }
  | { readonly hold: Promise<void> }
  /** Uses a tool without asking. */
  | { readonly use: string; readonly input: JsonValue }
  /** Asks to use a tool, and waits for a person's yes or no. */
  | { readonly ask: string; readonly input: JsonValue }
  /** Writes a file for the person, with a tool that needs no yes. */
  | { readonly make: string; readonly contentType: string; readonly bytes: Uint8Array }
  | { readonly fail: string; readonly retry: "retrying" | "exhausted" | "terminal" }
  | { readonly stop: StopReason };

export type Script = (prompt: string) => readonly Beat[];

/** One event without its id and time, variant by variant. */
type Draft = SessionEvent extends infer E ? (E extends SessionEvent ? Omit<E, "id" | "at"> : never) : never;

export type WorldSession = {
  readonly id: string;
  title: string;
  metadata: { readonly [key: string]: string };
  status: "idle" | "running" | "terminated";
  isArchived: boolean;
  updatedAt: Millis;
  /** Processed entries in the order of processing. */
  readonly log: SessionEvent[];
  readonly queue: (SessionEvent & { readonly type: "prompt" })[];
  readonly files: (RemoteFile & { readonly bytes: Uint8Array })[];
  readonly listeners: Set<(frame: Frame | null) => void>;
  /** Ends the running turn. */
  stop: AbortController;
  /** The ask that is waited on, and its answer. */
  asking: { readonly id: string; readonly answer: () => void } | null;
};

export interface World {
  sessions(): readonly WorldSession[];
  /** Null when it was deleted or never was. */
  find(id: string): WorldSession | null;
  create(title: string, metadata: { readonly [key: string]: string }): WorldSession;
  /** Somebody prompts: we, or another device. @throws BridgeError `claude_request` when the session takes none */
  post(id: string, text: string): SessionEvent;
  /** Claude speaks without being asked, listened to or not. */
  say(id: string, text: string): void;
  confirm(id: string, toolUseId: string, isAllowed: boolean): void;
  interrupt(id: string): void;
  /** Title and metadata change, by us or elsewhere; null removes a key. */
  patch(
    id: string,
    change: {
      readonly title?: string | undefined;
      readonly metadata?: { readonly [key: string]: string | null };
    },
  ): void;
  archive(id: string): void;
  delete(id: string): void;
  /** Ends every open stream of one session, or of all: the turns go on. */
  cut(id?: string): void;
  setScript(script: Script): void;
}

/** **Source:** claude/CLAUDE-API.md section 1.3. */
const metadataPairsMax = 16;

type Core = { readonly clock: Clock; readonly skewMs: Millis; script: Script; count: number };

/** @param skewMs the world's clock minus ours */
export function createWorld(clock: Clock, script: Script, skewMs: Millis = 0): World {
  const core: Core = { clock, skewMs, script, count: 0 };
  const sessions = new Map<string, WorldSession>();
  const need = (id: string): WorldSession => {
    const session = sessions.get(id);
    if (!session) throw refused("there is no such session");
    return session;
  };
  return {
    sessions: () => [...sessions.values()],
    find: (id) => sessions.get(id) ?? null,
    create(title, metadata) {
      const session = newSession(core, title, metadata);
      sessions.set(session.id, session);
      return session;
    },
    post: (id, text) => post(core, need(id), text),
    say: (id, text) => void append(core, need(id), { type: "reply", text }),
    confirm: (id, toolUseId, isAllowed) => confirm(core, need(id), toolUseId, isAllowed),
    interrupt(id) {
      append(core, need(id), { type: "other", name: "user.interrupt" });
      need(id).stop.abort();
    },
    patch: (id, change) => patch(core, need(id), change),
    archive(id) {
      const session = need(id);
      session.isArchived = true;
      session.status = "terminated";
      session.stop.abort();
    },
    delete(id) {
      const session = need(id);
      sessions.delete(id);
      session.stop.abort();
      publish(session, { kind: "deleted" });
      publish(session, null);
    },
    cut: (id) => (id === undefined ? [...sessions.values()] : [need(id)]).forEach((session) => publish(session, null)),
    setScript: (next) => void (core.script = next),
  };
}

const newSession = (core: Core, title: string, metadata: WorldSession["metadata"]): WorldSession => ({
  id: `sesn_${++core.count}`,
  title,
  metadata,
  status: "idle",
  isArchived: false,
  updatedAt: now(core),
  log: [],
  queue: [],
  files: [],
  listeners: new Set(),
  stop: new AbortController(),
  asking: null,
});

function post(core: Core, session: WorldSession, text: string): SessionEvent {
  if (session.status === "terminated") throw refused("the session is over");
  const lastStop = session.log.findLast((event) => event.type === "idle")?.stop.kind;
  if (session.asking || (session.status === "idle" && lastStop === "budget_reached"))
    throw refused("the session takes no message now");
  const prompt = { id: newId(core), at: null, type: "prompt", text } as const;
  session.queue.push(prompt);
  publish(session, { kind: "event", event: prompt });
  if (session.status === "idle") void run(core, session);
  return prompt;
}

/** One running period: it takes up every prompt that is queued meanwhile, and ends in one stop. */
async function run(core: Core, session: WorldSession): Promise<void> {
  session.status = "running";
  // May precede the very prompt that caused it.
  append(core, session, { type: "running" });
  let stop: StopReason = { kind: "end_turn" };
  for (let prompt = session.queue.shift(); prompt; prompt = session.queue.shift()) {
    const { id, type, text } = prompt;
    session.stop = new AbortController();
    append(core, session, { type, text }, id);
    stop = await play(core, session, core.script(text));
    if (isOver(session)) return;
    if (stop.kind === "retries_exhausted") session.queue.length = 0;
    if (stop.kind !== "end_turn") break;
  }
  rest(core, session, stop);
  if (session.queue.length > 0) void run(core, session);
}

async function play(core: Core, session: WorldSession, beats: readonly Beat[]): Promise<StopReason> {
  const { signal } = session.stop;
  for (const beat of beats) {
    if (signal.aborted) break;
    if ("say" in beat) append(core, session, { type: "reply", text: beat.say });
    else if ("write" in beat) await write(core, session, beat.write, beat.everyMs ?? 0);
    else if ("use" in beat) use(core, session, beat.use, beat.input);
    else if ("make" in beat) make(core, session, beat.make, beat.contentType, beat.bytes);
    else if ("pauseMs" in beat) await core.clock.sleep(beat.pauseMs, signal);
    else if ("hold" in beat) await Promise.race([beat.hold, aborted(signal)]);
    else if ("ask" in beat) await ask(core, session, beat.ask, beat.input);
    else if ("stop" in beat) return beat.stop;
    else {
      append(core, session, { type: "error", code: beat.fail, retry: beat.retry });
      if (beat.retry === "exhausted") return { kind: "retries_exhausted" };
      if (beat.retry === "terminal") {
        session.status = "terminated";
        append(core, session, { type: "terminated" });
        break;
      }
    }
  }
  return { kind: "end_turn" };
}

async function write(core: Core, session: WorldSession, pieces: readonly string[], everyMs: Millis): Promise<void> {
  const eventId = newId(core);
  const { signal } = session.stop;
  publish(session, { kind: "start", eventId });
  for (const text of pieces) {
    if (everyMs > 0) await core.clock.sleep(everyMs, signal);
    if (signal.aborted) return;
    publish(session, { kind: "delta", eventId, text });
  }
  append(core, session, { type: "reply", text: pieces.join("") }, eventId);
}

function use(core: Core, session: WorldSession, name: string, input: JsonValue): void {
  const toolUseId = append(core, session, { type: "tool_use", name, input, isAsk: false });
  append(core, session, { type: "tool_result", toolUseId, isError: false });
}

function make(core: Core, session: WorldSession, name: string, contentType: string, bytes: Uint8Array): void {
  use(core, session, "write", { file_path: `/mnt/session/outputs/${name}` });
  const id = `file_${++core.count}`;
  session.files.push({ id, name, contentType, sizeBytes: bytes.length, createdAt: now(core), bytes });
}

async function ask(core: Core, session: WorldSession, name: string, input: JsonValue): Promise<void> {
  const id = append(core, session, { type: "tool_use", name, input, isAsk: true });
  const answered = new Promise<void>((resolve) => {
    session.asking = { id, answer: resolve };
  });
  rest(core, session, { kind: "requires_action", eventIds: [id] });
  await Promise.race([answered, aborted(session.stop.signal)]);
  session.asking = null;
  if (isOver(session)) return;
  session.status = "running";
  append(core, session, { type: "running" });
}

function confirm(core: Core, session: WorldSession, toolUseId: string, isAllowed: boolean): void {
  if (session.asking?.id !== toolUseId) throw refused("nothing waits for this answer");
  append(core, session, { type: "confirmation", toolUseId, isAllowed });
  append(core, session, { type: "tool_result", toolUseId, isError: !isAllowed });
  session.asking.answer();
  session.asking = null;
}

function rest(core: Core, session: WorldSession, stop: StopReason): void {
  append(core, session, { type: "usage", inputTokens: 10, outputTokens: 5, costCents: 1 });
  session.status = "idle";
  append(core, session, { type: "idle", stop });
}

function patch(core: Core, session: WorldSession, change: Parameters<World["patch"]>[1]): void {
  const { title, metadata = {} } = change;
  const entries = Object.entries({ ...session.metadata, ...metadata });
  const bag = Object.fromEntries(entries.filter((entry): entry is [string, string] => entry[1] !== null));
  if (Object.keys(bag).length > metadataPairsMax) throw refused("the metadata has too many keys");
  session.metadata = bag;
  session.title = title ?? session.title;
  const hasMetadata = Object.keys(metadata).length > 0 && Object.keys(bag).length > 0;
  append(core, session, { type: "updated", title: title ?? null, metadata: hasMetadata ? bag : null });
}

/** Adds an entry, never before what is in the log already (ties are normal); resolves to its id. */
function append(core: Core, session: WorldSession, draft: Draft, id = newId(core)): string {
  const event = { id, at: Math.max(now(core), session.log.at(-1)?.at ?? 0), ...draft };
  session.log.push(event);
  session.updatedAt = now(core);
  publish(session, { kind: "event", event });
  return id;
}

/** Null ends the streams. */
function publish(session: WorldSession, frame: Frame | null): void {
  for (const listener of session.listeners) listener(frame);
}

const isOver = (session: WorldSession): boolean => session.status === "terminated";

const now = (core: Core): Millis => core.clock.now() + core.skewMs;

const newId = (core: Core): string => `sevt_${++core.count}`;

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

const refused = (why: string): BridgeError =>
  new BridgeError("claude_request", `Cannot do that in Claude's world as ${why}`);
