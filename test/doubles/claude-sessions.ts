/**
 * The sessions of the API double, in wire form and on their own feet: written from the API's documents and the SDK's types,
 * not from our code, so that the two can disagree. Sessions run whether or not a stream is open.
 */
import type { Clock } from "../../src/clock.ts";
import type { Beat as PlainBeat } from "./world.ts";
import { withoutTimeLine } from "../../src/core/when.ts";
import type { DoubleFile } from "./claude-files.ts";
import { badRequest, checkMetadata, notFound, text } from "./claude-checks.ts";

export type WireEvent = { id: string; type: string; processed_at?: string | null; [key: string]: unknown };
export type Listener = (event: WireEvent | { type: string; [key: string]: unknown }) => void;

/** What a script of the double may say besides: pieces that wait for a promise. */
export type Beat = PlainBeat | { readonly write: readonly (string | Promise<void>)[] };
export type Script = (prompt: string) => readonly Beat[];

export type DoubleSession = {
  readonly id: string;
  readonly agentId: string;
  readonly environmentId: string;
  readonly model: string;
  /** As the snapshot of the agent has it; null where none was given. */
  readonly effort: string | null;
  readonly system: string;
  tools: unknown;
  title: string | null;
  metadata: Record<string, string>;
  status: "idle" | "running" | "terminated";
  archivedAt: string | null;
  readonly createdAt: string;
  updatedAt: string;
  /** Processed, in order. */
  readonly log: WireEvent[];
  readonly queue: WireEvent[];
  readonly listeners: Set<Listener>;
  pending: Map<string, () => void>;
  stop: AbortController;
  /** It waits for what its log does not show. */
  waitsUnseen: "until stopped" | "for ever" | null;
  /** A turn is at work, though the status may say that it rests for an answer. */
  isPlaying: boolean;
};

export type EngineOptions = {
  clock: Clock;
  /** The server's clock minus that of the test. */
  skewMs: number;
  /** Every event is this much later than the one before; 0 makes all of them tie while the clock stands. */
  stepMs: number;
  /** How a user's message shows on the stream: as queued, as processed, or both. */
  echo: "both" | "queued" | "processed";
  /** A file is listed so long after it was made. */
  fileLagMs: number;
  script: Script;
};

type Stop = { readonly type: string; readonly details?: object };

export type Engine = ReturnType<typeof createEngine>;

export function createEngine(options: EngineOptions) {
  const sessions = new Map<string, DoubleSession>();
  const files = new Map<string, DoubleFile>();
  let count = 0;
  let lastAt = 0;
  const newId = (prefix: string): string => `${prefix}_${String(++count).padStart(6, "0")}`;
  const nowIso = (): string => {
    lastAt = Math.max(options.clock.now() + options.skewMs, lastAt + options.stepMs);
    return new Date(lastAt).toISOString();
  };
  const publish = (session: DoubleSession, event: Parameters<Listener>[0]): void => {
    for (const listener of session.listeners) listener(event);
  };
  const append = (session: DoubleSession, type: string, body: object = {}, id = newId("sevt")): WireEvent => {
    const event = { type, id, ...body, processed_at: nowIso() };
    session.log.push(event);
    session.updatedAt = event.processed_at;
    publish(session, event);
    return event;
  };
  const need = (id: string): DoubleSession => {
    const session = sessions.get(id);
    if (!session) throw notFound("session");
    return session;
  };

  const rest = (session: DoubleSession, stop_reason: object, stop_details: object | null = null): void => {
    append(session, "session.usage", {
      usage: { input_tokens: 12, output_tokens: 7, list_cost: { amount: "3", currency: "USD" } },
    });
    session.status = "idle";
    append(session, "session.status_idle", { stop_reason, stop_details });
  };

  const make = (
    { id: sessionId }: DoubleSession,
    file: Pick<DoubleFile, "filename" | "mime_type" | "bytes">,
    downloadable = true,
  ): DoubleFile => {
    const created_at = nowIso();
    const visibleAt = options.clock.now() + options.skewMs + options.fileLagMs;
    const made = { id: newId("file"), sessionId, ...file, created_at, visibleAt, downloadable };
    files.set(made.id, made);
    return made;
  };

  type Asking = Extract<
    Beat,
    { ask: string } | { call: string } | { asks: readonly unknown[] } | { calls: readonly unknown[] }
  >;
  const ask = (session: DoubleSession, beat: Asking): WireEvent[] => {
    if ("calls" in beat) return beat.calls.map((call) => append(session, "agent.custom_tool_use", { ...call }));
    if ("call" in beat) return [append(session, "agent.custom_tool_use", { name: beat.call, input: beat.input })];
    const uses = "asks" in beat ? beat.asks : [{ name: beat.ask, input: beat.input }];
    const evaluation = { evaluated_permission: "ask", evaluation: { type: "always_ask" } };
    return uses.map((use) => append(session, "agent.tool_use", { ...use, ...evaluation }));
  };

  const play = async (session: DoubleSession, beats: readonly Beat[]): Promise<Stop | "terminated"> => {
    const { signal } = session.stop;
    const stopped = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    for (const beat of beats) {
      if (signal.aborted) break;
      if ("say" in beat) append(session, "agent.message", { content: [{ type: "text", text: beat.say }] });
      else if ("write" in beat) {
        const id = newId("sevt");
        let text = "";
        publish(session, { type: "event_start", event: { type: "agent.message", id } });
        for (const piece of beat.write) {
          if (typeof piece !== "string") await Promise.race([piece, stopped]);
          if (typeof piece !== "string" || signal.aborted) continue;
          text += piece;
          publish(session, {
            type: "event_delta",
            event_id: id,
            delta: { type: "content_delta", index: 0, content: { type: "text", text: piece } },
          });
        }
        if (!signal.aborted) append(session, "agent.message", { content: [{ type: "text", text }] }, id);
      } else if ("pauseMs" in beat) await options.clock.sleep(beat.pauseMs, signal);
      else if ("hold" in beat) await Promise.race([beat.hold, stopped]);
      else if ("use" in beat) {
        const use = append(session, "agent.tool_use", { name: beat.use, input: beat.input });
        append(session, "agent.tool_result", { tool_use_id: use.id, content: [], is_error: false });
      } else if ("make" in beat) {
        const { make: filename, contentType: mime_type, bytes } = beat;
        const use = append(session, "agent.tool_use", { name: "write", input: { file_path: filename } });
        append(session, "agent.tool_result", { tool_use_id: use.id, content: [], is_error: false });
        make(session, { filename, mime_type, bytes });
      } else if ("ask" in beat || "asks" in beat || "call" in beat || "calls" in beat) {
        const asks = ask(session, beat);
        const answers = asks.map(({ id }) => new Promise<void>((resolve) => session.pending.set(id, resolve)));
        rest(session, { type: "requires_action", event_ids: asks.map(({ id }) => id) });
        await Promise.race([Promise.all(answers), stopped]);
        session.pending.clear();
        session.status = "running";
        append(session, "session.status_running");
      } else if ("stop" in beat) {
        const { stop } = beat;
        if (stop.kind === "refusal") {
          return { type: stop.kind, details: { type: "refusal", category: "cyber", explanation: null } };
        }
        return { type: stop.kind };
      } else {
        append(session, "session.error", {
          error: { type: beat.fail, message: "scripted", retry_status: { type: beat.retry } },
        });
        if (beat.retry === "exhausted") return { type: "retries_exhausted" };
        if (beat.retry === "terminal") {
          session.status = "terminated";
          append(session, "session.status_terminated");
          return "terminated";
        }
      }
    }
    return { type: "end_turn" };
  };

  const run = async (session: DoubleSession): Promise<void> => {
    session.status = "running";
    session.isPlaying = true;
    append(session, "session.status_running");
    let stop: Stop | "terminated" = { type: "end_turn" };
    for (let prompt = session.queue.shift(); prompt; prompt = session.queue.shift()) {
      prompt = { ...prompt, processed_at: nowIso() };
      session.log.push(prompt);
      if (options.echo !== "queued") publish(session, prompt);
      session.stop = new AbortController();
      const content = prompt["content"] as { type: string; text?: string }[];
      const text = content.flatMap((block) => (block.type === "text" ? [block.text ?? ""] : [])).join("");
      stop = await play(session, options.script(withoutTimeLine(text)));
      if (stop === "terminated") return;
      if (stop.type === "retries_exhausted") session.queue.length = 0;
      if (stop.type !== "end_turn") break;
    }
    session.isPlaying = false;
    rest(session, { type: stop.type }, stop.details);
    if (session.queue.length > 0) void run(session);
  };

  const postMessage = (session: DoubleSession, content: unknown): WireEvent => {
    const last = session.log.findLast((event) => event.type === "session.status_idle")?.["stop_reason"] as
      | { type: string }
      | undefined;
    if (session.status === "idle" && last?.type === "budget_reached") throw badRequest("the budget is used up");
    if (session.waitsUnseen !== null) throw badRequest("waiting on responses to events [sevt_unseen]");
    if (session.pending.size > 0)
      throw badRequest(`waiting on responses to events [${[...session.pending.keys()].join(", ")}]`);
    const event = { type: "user.message", id: newId("sevt"), content };
    const queued = { ...event, processed_at: null };
    session.queue.push(queued);
    if (options.echo !== "processed") publish(session, queued);
    // The answer to the POST goes out first.
    if (!session.isPlaying) queueMicrotask(() => !session.isPlaying && !isOver(session) && void run(session));
    return event;
  };

  /** What is still open is listed once more. */
  const settle = (session: DoubleSession, toolUseId: string, answer: () => void): void => {
    session.pending.delete(toolUseId);
    if (session.pending.size > 0) rest(session, { type: "requires_action", event_ids: [...session.pending.keys()] });
    answer();
  };

  return {
    sessions,
    files,
    make,
    need,
    newId,
    nowIso,
    append,
    create(
      fields: Pick<
        DoubleSession,
        "agentId" | "environmentId" | "model" | "effort" | "system" | "tools" | "title" | "metadata"
      >,
    ) {
      const createdAt = nowIso();
      const session: DoubleSession = {
        id: newId("sesn"),
        ...fields,
        status: "idle",
        archivedAt: null,
        createdAt,
        updatedAt: createdAt,
        log: [],
        queue: [],
        listeners: new Set(),
        pending: new Map(),
        stop: new AbortController(),
        isPlaying: false,
        waitsUnseen: null,
      };
      sessions.set(session.id, session);
      return session;
    },
    /** One event of a POST; shapes were checked before. */
    accept(session: DoubleSession, event: Record<string, unknown>): WireEvent {
      if (session.status === "terminated") throw badRequest("Cannot send events to archived session");
      switch (event["type"]) {
        case "user.message":
          return postMessage(session, event["content"]);
        case "user.interrupt":
          // Taken a moment later: until then what is asked for is asked for.
          session.stop.abort();
          if (session.waitsUnseen === "until stopped") session.waitsUnseen = null;
          return append(session, "user.interrupt");
        case "user.custom_tool_result": {
          const toolUseId = text(event["custom_tool_use_id"]);
          const answer = session.pending.get(toolUseId);
          const use = session.log.find(({ id }) => id === toolUseId);
          if (!answer || use?.type !== "agent.custom_tool_use") throw badRequest("no tool use waits for this result");
          const { type, ...body } = event;
          const echo = append(session, type, body);
          settle(session, toolUseId, answer);
          return echo;
        }
        default: {
          const toolUseId = text(event["tool_use_id"]);
          const answer = session.pending.get(toolUseId);
          const use = session.log.find(({ id }) => id === toolUseId);
          if (!answer || use?.type !== "agent.tool_use") throw badRequest("no tool use waits for this confirmation");
          const { type: _, ...body } = event;
          const echo = append(session, "user.tool_confirmation", body);
          append(session, "agent.tool_result", { tool_use_id: toolUseId, is_error: event["result"] === "deny" });
          settle(session, toolUseId, answer);
          return echo;
        }
      }
    },
    patch(session: DoubleSession, patch: { title?: string | null; metadata?: Record<string, string | null> | null }) {
      const bag = { ...session.metadata };
      for (const [key, value] of Object.entries(patch.metadata ?? {}))
        if (value === null) delete bag[key];
        else bag[key] = value;
      checkMetadata(bag);
      session.metadata = bag;
      if (patch.title !== undefined) session.title = patch.title;
      // Absent when unchanged, and also when cleared to empty.
      const metadata = patch.metadata && Object.keys(bag).length > 0 ? { metadata: bag } : {};
      append(session, "session.updated", { ...(patch.title === undefined ? {} : { title: patch.title }), ...metadata });
    },
    archive(session: DoubleSession) {
      if (session.status === "running") throw badRequest("a running session cannot be archived");
      session.stop.abort();
      session.status = "terminated";
      session.archivedAt = nowIso();
    },
    delete(session: DoubleSession) {
      sessions.delete(session.id);
      session.stop.abort();
      publish(session, { type: "session.deleted", id: newId("sevt"), processed_at: nowIso() });
    },
  };
}

const isOver = ({ status }: DoubleSession): boolean => status === "terminated";
