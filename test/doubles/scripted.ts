/**
 * The backend `scripted`: a Claude without a key, for the tests and the simulation. The turn is the real one
 * (src/claude/session-turn.ts); only the world behind it is played (world.ts). Several backends on one world are several devices.
 */
import type { Clock } from "../../src/clock.ts";
import { BridgeError, type ErrorCode } from "../../src/core/errors.ts";
import { inLogOrder } from "../../src/core/turn.ts";
import type { Millis } from "../../src/core/model.ts";
import { headersTimeoutMs, silenceMs } from "../../src/claude/api.ts";
import type { Backend, RemoteSession } from "../../src/claude/backend.ts";
import { runTurn, type SessionLine } from "../../src/claude/session-turn.ts";
import type { Frame } from "../../src/claude/wire.ts";
import { createWorld, type Script, type World, type WorldSession } from "./world.ts";

export type { Beat, Script, World } from "./world.ts";

/** Where a request goes wrong. */
export type Point =
  | "create"
  | "open"
  | "events"
  | "send"
  | "retrieve"
  | "update"
  | "archive"
  | "confirm"
  | "files"
  | "check";

export type Fault =
  /** It is refused before anything happened. */
  | { readonly kind: "refuse"; readonly code: ErrorCode; readonly retryAfterMs?: Millis }
  /** It is done, but the answer is lost. */
  | { readonly kind: "lose" }
  /** Neither done nor answered, until the caller gives up: by its signal, or after as long as a real line waits for headers. */
  | { readonly kind: "hang" };

export type ScriptedClaude = ReturnType<typeof createScriptedClaude>;

export type ScriptedOptions = {
  readonly clock: Clock;
  readonly script?: Script;
  /** A world that other devices use too; `script` and `skewMs` are its own then. */
  readonly world?: World;
  /** The world's clock minus ours. */
  readonly skewMs?: Millis;
  /** Largest page of a listing. */
  readonly pageMax?: number;
};

/** Says what it heard, in pieces and after a moment. */
export const parrot: Script = (prompt) => [
  { pauseMs: 400 },
  { write: ["You wrote: ", prompt, "\n\nI am a script. With ANTHROPIC_API_KEY set, Claude itself answers."] },
];

type Line = {
  readonly world: World;
  readonly clock: Clock;
  readonly pageMax: number;
  readonly faults: Map<Point, Fault[]>;
  skewMs: Millis;
  isDown: boolean;
  isMute: boolean;
};

export function createScriptedClaude(options: ScriptedOptions) {
  const { clock, skewMs = 0, pageMax = 1000 } = options;
  const world = options.world ?? createWorld(clock, options.script ?? parrot, skewMs);
  const line: Line = { world, clock, skewMs, pageMax, faults: new Map(), isDown: false, isMute: false };
  const remote = createLine(line);
  const backend: Backend = {
    name: "scripted",
    remote,
    turn: (session, prompt, signal) => runTurn(remote, session, prompt, signal),
    check: (signal) => at(line, "check", signal, () => {}),
    models: (signal) => at(line, "check", signal, () => [{ id: "claude-scripted", name: "Scripted Claude" }]),
  };
  return {
    world,
    backend,
    /** The next request at this point goes wrong; several queue up. */
    fail: (point: Point, fault: Fault): void => void line.faults.set(point, [...(line.faults.get(point) ?? []), fault]),
    /** While set, nothing gets through and open streams are cut. */
    setDown(isDown: boolean): void {
      line.isDown = isDown;
      if (isDown) world.cut();
    },
    /** While set, open streams deliver nothing and do not end. */
    setMute: (isMute: boolean): void => void (line.isMute = isMute),
    /** Somebody set our clock: the world's clock minus ours is this from now on. */
    setSkew: (skewMs: Millis): void => void (line.skewMs = skewMs),
  };
}

function createLine(line: Line): SessionLine {
  const { world } = line;
  /** One request about one session. */
  const on = <T>(point: Point, id: string, signal: AbortSignal, work: (session: WorldSession) => T): Promise<T> =>
    at(line, point, signal, () => work(need(world, id)));
  return {
    create: (session, signal) =>
      at(line, "create", signal, () => world.create(session.title, { ...session.metadata }).id),
    open: (id, signal) => on("open", id, signal, (session) => listen(line, session, signal)),
    prompts: (id, signal) =>
      on("events", id, signal, ({ log, queue }) => [...log.filter(({ type }) => type === "prompt"), ...queue]),
    send: (id, prompt, signal) => at(line, "send", signal, () => world.post(id, prompt.text)),
    putAside: (id, toolUseIds, signal) =>
      at(line, "confirm", signal, () => {
        for (const toolUseId of toolUseIds) world.confirm(id, toolUseId, false);
        world.interrupt(id);
      }),
    retrieve: (id, signal) =>
      at(line, "retrieve", signal, () => {
        const session = world.find(id);
        return session && toRemote(session);
      }),
    async *events(id, since, signal) {
      const all = await on("events", id, signal, ({ log, queue }) =>
        inLogOrder([...log.filter((event) => since === null || (event.at ?? 0) >= since), ...queue]),
      );
      for (let start = 0; start < all.length; start += line.pageMax) {
        if (start > 0) await at(line, "events", signal, () => {});
        yield all.slice(start, start + line.pageMax);
      }
    },
    update: (id, patch, signal) =>
      on("update", id, signal, (session) => {
        world.patch(id, patch);
        return toRemote(session);
      }),
    archive: (id, signal) =>
      at(line, "archive", signal, () => {
        if (world.find(id)?.isArchived === false) world.archive(id);
      }),
    interrupt: (id, signal) => at(line, "confirm", signal, () => world.interrupt(id)),
    confirm: (id, toolUseId, isAllowed, _reason, signal) =>
      on("confirm", id, signal, ({ log }) => {
        if (!log.some((event) => event.type === "confirmation" && event.toolUseId === toolUseId))
          world.confirm(id, toolUseId, isAllowed);
      }),
    files: (id, signal) => on("files", id, signal, ({ files }) => [...files]),
    download: (fileId, bytesMax, signal) =>
      at(line, "files", signal, () => {
        const file = world.sessions().flatMap(({ files }) => files.filter(({ id }) => id === fileId))[0];
        return file && file.bytes.length <= bytesMax ? file.bytes : null;
      }),
    skewMs: () => line.skewMs,
  };
}

const toRemote = ({ id, title, metadata, status, isArchived, updatedAt }: WorldSession): RemoteSession => ({
  id,
  title,
  metadata,
  status,
  isArchived,
  updatedAt: new Date(updatedAt).toISOString(),
});

function need(world: World, id: string): WorldSession {
  const session = world.find(id);
  if (!session) throw new BridgeError("claude_request", "Cannot find the session in Claude's world");
  return session;
}

/** One request: it takes a moment, and goes wrong where a fault waits for it. */
async function at<T>(line: Line, point: Point, signal: AbortSignal, work: () => T): Promise<T> {
  await Promise.resolve();
  const unreachable = new BridgeError("claude_unreachable", `Cannot ${point} as the world does not answer`);
  if (signal.aborted || line.isDown) throw unreachable;
  const fault = line.faults.get(point)?.shift();
  switch (fault?.kind) {
    case undefined:
      return work();
    case "refuse":
      throw new BridgeError(fault.code, `Cannot ${point} as the world refuses`, { retryAfterMs: fault.retryAfterMs });
    case "lose":
      work();
      throw unreachable;
    case "hang":
      await line.clock.sleep(headersTimeoutMs, signal);
      throw unreachable;
  }
}

/** Everything that happens from now on, until the world or the caller ends it. */
function listen(line: Line, session: WorldSession, signal: AbortSignal): AsyncIterable<Frame> {
  const frames: (Frame | null)[] = [];
  let wake = (): void => {};
  const hear = (frame: Frame | null): void => {
    if (frame !== null && line.isMute) return;
    frames.push(frame);
    wake();
  };
  const close = (): void => {
    session.listeners.delete(hear);
    hear(null);
  };
  session.listeners.add(hear);
  signal.addEventListener("abort", close, { once: true });
  return (async function* () {
    try {
      for (;;) {
        const frame = frames.shift();
        if (frame === null) return;
        if (frame) yield frame;
        else if (!(await isHeard(line, (resolve) => (wake = resolve)))) yield { kind: "silent" };
      }
    } finally {
      signal.removeEventListener("abort", close);
      close();
    }
  })();
}

/** Waits for the next frame; false when none came for as long as a real line may be silent. */
async function isHeard(line: Line, onWake: (resolve: () => void) => void): Promise<boolean> {
  const timer = new AbortController();
  const heard = new Promise<true>((resolve) => onWake(() => resolve(true)));
  const waited = line.clock.sleep(silenceMs, timer.signal).then(() => false);
  return Promise.race([heard, waited]).finally(() => timer.abort());
}
