/**
 * A small world where Claude is played by a script: sessions with an event log, a queue and live streams, as the API has
 * them, in memory. Sessions work whether or not they are listened to. Deterministic: it waits only by the injected clock and by
 * the promises of a script.
 * **Source:** Managed Agents guide, "Session event stream", for the order of events and what is accepted when.
 */
import type { Clock } from "../../src/clock.ts";
import { BridgeError, type ErrorCode } from "../../src/core/errors.ts";
import type { JsonValue, Millis, SessionEvent, StopReason } from "../../src/core/model.ts";
import type { Frame, RemoteFile } from "../../src/claude/line.ts";

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
  /** Calls a tool that runs with us, and waits for its result. */
  | { readonly call: string; readonly input: JsonValue }
  /** Several at once, of either kind. */
  | { readonly asks: readonly Use[] }
  | { readonly calls: readonly Use[] }
  /** Writes a file for the person, with a tool that needs no yes. */
  | { readonly make: string; readonly contentType: string; readonly bytes: Uint8Array }
  | { readonly fail: string; readonly retry: "retrying" | "exhausted" | "terminal" }
  | { readonly stop: StopReason };

type Use = { readonly name: string; readonly input: JsonValue };

export type Script = (prompt: string) => readonly Beat[];

/** One event without its id and time, variant by variant. */
type Draft = SessionEvent extends infer E ? (E extends SessionEvent ? Omit<E, "id" | "at"> : never) : never;

type Metadata<Value> = { readonly [key: string]: Value };
/** A change of title and metadata, by us or elsewhere; null removes a key. */
type Patch = { readonly title?: string | undefined; readonly metadata?: Metadata<string | null> };

/** `isFirst` begins a message. */
export type WorldFrame = Frame & { readonly isFirst?: boolean };

export type WorldSession = {
  readonly id: string;
  title: string;
  metadata: Metadata<string>;
  status: "idle" | "running" | "terminated";
  isArchived: boolean;
  updatedAt: Millis;
  /** Processed entries in the order of processing. */
  readonly log: SessionEvent[];
  readonly queue: (SessionEvent & { readonly type: "prompt" })[];
  readonly files: (RemoteFile & { readonly bytes: Uint8Array })[];
  /** Null ends a stream. */
  readonly listeners: Set<(frame: WorldFrame | null) => void>;
  /** Ends the running turn. */
  stop: AbortController;
  /** The asks and calls that are waited on, and their answers. */
  asks: readonly { readonly id: string; readonly isLocal: boolean; readonly answer: () => void }[];
  /** A turn is being played: it takes up what is queued by itself. */
  isPlaying: boolean;
};

/** **Source:** Managed Agents reference, "Sessions". */
const metadataPairsMax = 16;

export type World = ReturnType<typeof createWorld>;

/** What a session does is refused with `claude_request` where the API would refuse it. @param skewMs the world's clock minus ours */
export function createWorld(clock: Clock, script: Script, skewMs: Millis = 0) {
  const now = (): Millis => clock.now() + skewMs;
  const scribe = createScribe(now);
  const { append, newId } = scribe;
  /** What is still open is listed once more. */
  const restAgain = (session: WorldSession): void => {
    const eventIds = session.asks.map((ask) => ask.id);
    if (eventIds.length > 0) scribe.rest(session, { kind: "requires_action", eventIds });
  };
  const run = createPlayer(clock, now, scribe, (prompt) => script(prompt));
  const sessions = new Map<string, WorldSession>();
  const need = (id: string): WorldSession => {
    const session = sessions.get(id);
    if (!session) throw refused("there is no such session");
    return session;
  };
  return {
    sessions: (): readonly WorldSession[] => [...sessions.values()],
    /** Null when it was deleted or never was. */
    find: (id: string): WorldSession | null => sessions.get(id) ?? null,
    create(title: string, metadata: Metadata<string>): WorldSession {
      const own = { id: newId("sesn"), title, metadata, updatedAt: now(), stop: new AbortController() };
      const state = { status: "idle", isArchived: false, asks: [], isPlaying: false } as const;
      const session = { ...own, ...state, log: [], queue: [], files: [], listeners: new Set<never>() };
      sessions.set(session.id, session);
      return need(session.id);
    },
    /** A prompt arrives, from us or from another device. */
    post(id: string, text: string): SessionEvent {
      const session = need(id);
      const lastStop = session.log.findLast((event) => event.type === "idle")?.stop.kind;
      if (session.status === "terminated") throw refused("the session is over");
      if (session.asks.length > 0) throw refused("the session waits for an answer first", "claude_busy");
      if (session.status === "idle" && lastStop === "budget_reached")
        throw refused("the session's budget is used up", "claude_budget");
      const prompt = { id: newId("sevt"), at: null, type: "prompt", text } as const;
      session.queue.push(prompt);
      publish(session, { kind: "event", event: prompt });
      if (!session.isPlaying) void run(session);
      return prompt;
    },
    /** Claude speaks without being asked, listened to or not. */
    say: (id: string, text: string) => void append(need(id), { type: "reply", text }),
    confirm(id: string, toolUseId: string, isAllowed: boolean): SessionEvent {
      const session = need(id);
      const answer = settle(session, toolUseId, false);
      const event = append(session, { type: "confirmation", toolUseId, isAllowed });
      append(session, { type: "tool_result", toolUseId, isError: !isAllowed });
      restAgain(session);
      answer();
      return event;
    },
    /** The outcome of a call of ours. */
    result(id: string, toolUseId: string, isError: boolean): SessionEvent {
      const session = need(id);
      const answer = settle(session, toolUseId, true);
      const event = append(session, { type: "tool_result", toolUseId, isError });
      restAgain(session);
      answer();
      return event;
    },
    interrupt(id: string): SessionEvent {
      const session = need(id);
      if (isOver(session)) throw refused("the session is over");
      const event = append(session, { type: "other", name: "user.interrupt" });
      session.stop.abort();
      return event;
    },
    /** Title and metadata change, by us or elsewhere; null removes a key. */
    patch: (id: string, change: Patch): void => scribe.patch(need(id), change),
    archive(id: string): void {
      need(id).isArchived = true;
      need(id).status = "terminated";
      need(id).stop.abort();
    },
    delete(id: string): void {
      const session = need(id);
      sessions.delete(id);
      session.stop.abort();
      publish(session, { kind: "deleted" });
      publish(session, null);
    },
    /** Ends every open stream of one session, or of all: the turns go on. */
    cut: (id?: string): void =>
      (id === undefined ? [...sessions.values()] : [need(id)]).forEach((session) => publish(session, null)),
    setScript: (next: Script): void => void (script = next),
  };
}

/** Takes an answer to what is waited for; what it returns lets the turn go on. */
function settle(session: WorldSession, toolUseId: string, isLocal: boolean): () => void {
  const asked = session.asks.find((ask) => ask.id === toolUseId && ask.isLocal === isLocal);
  if (!asked) throw refused("nothing waits for this answer");
  session.asks = session.asks.filter((ask) => ask !== asked);
  return asked.answer;
}

/** Adds to logs, and shows it on the streams. */
function createScribe(now: () => Millis) {
  let count = 0;
  const newId = (prefix: string): string => `${prefix}_${++count}`;
  /** Never before what is in the log already: ties are normal. */
  const append = (session: WorldSession, draft: Draft, id = newId("sevt")): SessionEvent => {
    const event = { id, at: Math.max(now(), session.log.at(-1)?.at ?? 0), ...draft };
    session.log.push(event);
    session.updatedAt = now();
    publish(session, { kind: "event", event });
    return event;
  };
  return {
    append,
    newId,
    rest(session: WorldSession, stop: StopReason): void {
      const turns = session.log.filter(({ type }) => type === "usage").length + 1;
      append(session, {
        type: "usage",
        inputTokens: 10 * turns,
        outputTokens: 5 * turns,
        costCents: turns,
        isTotal: true,
      });
      session.status = "idle";
      append(session, { type: "idle", stop });
    },
    use(session: WorldSession, name: string, input: JsonValue): void {
      const { id: toolUseId } = append(session, { type: "tool_use", name, input, isAsk: false, isLocal: false });
      append(session, { type: "tool_result", toolUseId, isError: false });
    },
    patch(session: WorldSession, { title, metadata = {} }: Patch): void {
      const entries = Object.entries({ ...session.metadata, ...metadata });
      const bag = Object.fromEntries(entries.filter((entry): entry is [string, string] => entry[1] !== null));
      if (Object.keys(bag).length > metadataPairsMax) throw refused("the metadata has too many keys");
      session.metadata = bag;
      session.title = title ?? session.title;
      const hasMetadata = Object.keys(metadata).length > 0 && Object.keys(bag).length > 0;
      append(session, { type: "updated", title: title ?? null, metadata: hasMetadata ? bag : null });
    },
  };
}

/** Plays what Claude does to the prompts of a session. */
function createPlayer(clock: Clock, now: () => Millis, scribe: ReturnType<typeof createScribe>, script: Script) {
  const { append, newId, rest, use } = scribe;
  const write = async (session: WorldSession, pieces: readonly string[], everyMs: Millis): Promise<void> => {
    const eventId = newId("sevt");
    const { signal } = session.stop;
    for (const [index, text] of pieces.entries()) {
      if (everyMs > 0) await clock.sleep(everyMs, signal);
      if (signal.aborted) return;
      publish(session, { kind: "delta", eventId, text, isFirst: index === 0 });
    }
    append(session, { type: "reply", text: pieces.join("") }, eventId);
  };
  const ask = async (session: WorldSession, uses: readonly Use[], isLocal: boolean): Promise<void> => {
    const answers = uses.map((use) => {
      const { id } = append(session, { type: "tool_use", ...use, isAsk: !isLocal, isLocal });
      const { promise, resolve: answer } = Promise.withResolvers<void>();
      session.asks = [...session.asks, { id, isLocal, answer }];
      return promise;
    });
    rest(session, { kind: "requires_action", eventIds: session.asks.map(({ id }) => id) });
    await Promise.race([Promise.all(answers), aborted(session.stop.signal)]);
    session.asks = [];
    if (isOver(session)) return;
    session.status = "running";
    append(session, { type: "running" });
  };
  const play = async (session: WorldSession, beats: readonly Beat[]): Promise<StopReason> => {
    const { signal } = session.stop;
    for (const beat of beats) {
      if (signal.aborted) break;
      if ("say" in beat) append(session, { type: "reply", text: beat.say });
      else if ("write" in beat) await write(session, beat.write, beat.everyMs ?? 0);
      else if ("use" in beat) use(session, beat.use, beat.input);
      else if ("pauseMs" in beat) await clock.sleep(beat.pauseMs, signal);
      else if ("hold" in beat) await Promise.race([beat.hold, aborted(signal)]);
      else if ("ask" in beat) await ask(session, [{ name: beat.ask, input: beat.input }], false);
      else if ("call" in beat) await ask(session, [{ name: beat.call, input: beat.input }], true);
      else if ("asks" in beat) await ask(session, beat.asks, false);
      else if ("calls" in beat) await ask(session, beat.calls, true);
      else if ("stop" in beat) return beat.stop;
      else if ("make" in beat) {
        const { make: name, bytes, ...file } = beat;
        use(session, "write", { file_path: `/mnt/session/outputs/${name}` });
        session.files.push({ id: newId("file"), name, ...file, sizeBytes: bytes.length, createdAt: now(), bytes });
      } else {
        append(session, { type: "error", code: beat.fail, retry: beat.retry });
        if (beat.retry === "exhausted") return { kind: "retries_exhausted" };
        if (beat.retry === "retrying") continue;
        session.status = "terminated";
        append(session, { type: "terminated" });
        break;
      }
    }
    return { kind: "end_turn" };
  };
  /** One running period: it takes up every prompt that is queued meanwhile, and ends in one stop. */
  const run = async (session: WorldSession): Promise<void> => {
    session.status = "running";
    session.isPlaying = true;
    // May precede the very prompt that caused it.
    append(session, { type: "running" });
    let stop: StopReason = { kind: "end_turn" };
    for (let prompt = session.queue.shift(); prompt; prompt = session.queue.shift()) {
      const { id, type, text } = prompt;
      session.stop = new AbortController();
      append(session, { type, text }, id);
      stop = await play(session, script(text));
      if (isOver(session)) return;
      if (stop.kind === "retries_exhausted") session.queue.length = 0;
      if (stop.kind !== "end_turn") break;
    }
    session.isPlaying = false;
    rest(session, stop);
    if (session.queue.length > 0) void run(session);
  };
  return run;
}

const isOver = (session: WorldSession): boolean => session.status === "terminated";

function publish(session: WorldSession, frame: WorldFrame | null): void {
  for (const listener of session.listeners) listener(frame);
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

const refused = (why: string, code: ErrorCode = "claude_request"): BridgeError =>
  new BridgeError(code, `Cannot do that in Claude's world as ${why}`);
