/**
 * The backend `scripted`: a Claude without a key, for the demo, the tests and the simulation. The turn is the real one
 * (session-turn.ts); only the world behind it is played (world.ts). Several backends on one world are several devices.
 */
import type { Clock } from "../clock.ts";
import { BridgeError, type ErrorCode } from "../core/errors.ts";
import { inLogOrder } from "../core/turn.ts";
import type { Millis } from "../core/model.ts";
import { headersTimeoutMs, silenceMs } from "./api.ts";
import type { Backend, RemoteSession, RemoteSessions } from "./backend.ts";
import type { Frame } from "./events.ts";
import { runTurn, type SessionLine } from "./session-turn.ts";
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
  | "list"
  | "archive"
  | "confirm"
  | "check";

export type Fault =
  /** It is refused before anything happened. */
  | { readonly kind: "refuse"; readonly code: ErrorCode; readonly retryAfterMs?: Millis }
  /** It is done, but the answer is lost. */
  | { readonly kind: "lose" }
  /** Neither done nor answered, until the caller gives up: by its signal, or after as long as a real line waits for headers. */
  | { readonly kind: "hang" };

export interface ScriptedClaude {
  readonly world: World;
  readonly backend: Backend;
  /** The next request at this point goes wrong; several queue up. */
  fail(point: Point, fault: Fault): void;
  /** While set, nothing gets through and open streams are cut. */
  setDown(isDown: boolean): void;
  /** While set, open streams deliver nothing and do not end. */
  setMute(isMute: boolean): void;
  /** Somebody set our clock: the world's clock minus ours is this from now on. */
  setSkew(skewMs: Millis): void;
}

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
  { write: ["You wrote: ", prompt, "\n\nI am the scripted Claude. With ANTHROPIC_API_KEY set, the real one answers."] },
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

export function createScriptedClaude(options: ScriptedOptions): ScriptedClaude {
  const { clock, skewMs = 0 } = options;
  const world = options.world ?? createWorld(clock, options.script ?? parrot, skewMs);
  const line: Line = {
    world,
    clock,
    skewMs,
    pageMax: options.pageMax ?? 1000,
    faults: new Map(),
    isDown: false,
    isMute: false,
  };
  return {
    world,
    backend: createBackend(line),
    fail: (point, fault) => void line.faults.set(point, [...(line.faults.get(point) ?? []), fault]),
    setDown(isDown) {
      line.isDown = isDown;
      if (isDown) world.cut();
    },
    setMute: (isMute) => void (line.isMute = isMute),
    setSkew: (skewMs) => void (line.skewMs = skewMs),
  };
}

function createBackend(line: Line): Backend {
  const { world } = line;
  const remote = createRemote(line);
  const sessionLine: SessionLine = {
    retrieve: remote.retrieve,
    events: remote.events,
    skewMs: remote.skewMs,
    create: (session, signal) =>
      at(line, "create", signal, () => world.create(session.title, { ...session.metadata }).id),
    open: (remoteId, signal) => at(line, "open", signal, () => listen(line, need(world, remoteId), signal)),
    prompts: (remoteId, signal) =>
      at(line, "events", signal, () => {
        const { log, queue } = need(world, remoteId);
        return [...log.filter((event) => event.type === "prompt"), ...queue];
      }),
    send: (remoteId, prompt, signal) => at(line, "send", signal, () => world.post(remoteId, prompt.text)),
  };
  return {
    name: "scripted",
    remote,
    turn: (session, prompt, signal) => runTurn(sessionLine, session, prompt, signal),
    async interrupt(session, signal) {
      const { remoteId } = session;
      if (remoteId !== null) await at(line, "confirm", signal, () => world.interrupt(remoteId));
    },
    check: (signal) => at(line, "check", signal, () => {}),
    models: (signal) => at(line, "check", signal, () => [{ id: "claude-scripted", name: "Scripted Claude" }]),
  };
}

function createRemote(line: Line): RemoteSessions {
  const { world } = line;
  return {
    retrieve: (remoteId, signal) =>
      at(line, "retrieve", signal, () => {
        const session = world.find(remoteId);
        return session && toRemote(session);
      }),
    async *events(remoteId, since, signal) {
      const all = await at(line, "events", signal, () => {
        const { log, queue } = need(world, remoteId);
        return inLogOrder([...log.filter((event) => since === null || (event.at ?? 0) >= since), ...queue]);
      });
      for (let start = 0; start < all.length; start += line.pageMax) {
        if (start > 0) await at(line, "events", signal, () => {});
        yield all.slice(start, start + line.pageMax);
      }
    },
    update: (remoteId, patch, signal) =>
      at(line, "update", signal, () => {
        world.patch(remoteId, patch);
        return toRemote(need(world, remoteId));
      }),
    async *list(signal) {
      yield* await at(line, "list", signal, () => world.sessions().map(toRemote).reverse());
    },
    archive: (remoteId, signal) =>
      at(line, "archive", signal, () => {
        if (world.find(remoteId)?.isArchived === false) world.archive(remoteId);
      }),
    confirm: (remoteId, toolUseId, isAllowed, _reason, signal) =>
      at(line, "confirm", signal, () => {
        const isAnswered = need(world, remoteId).log.some(
          (event) => event.type === "confirmation" && event.toolUseId === toolUseId,
        );
        if (!isAnswered) world.confirm(remoteId, toolUseId, isAllowed);
      }),
    skewMs: () => line.skewMs,
  };
}

const toRemote = (session: WorldSession): RemoteSession => ({
  id: session.id,
  title: session.title,
  metadata: session.metadata,
  status: session.status,
  isArchived: session.isArchived,
  updatedAt: new Date(session.updatedAt).toISOString(),
});

function need(world: World, id: string): WorldSession {
  const session = world.find(id);
  if (!session) throw new BridgeError("claude_request", "Cannot find the session in Claude's world");
  return session;
}

/** One request: it takes a moment, and goes wrong where a fault waits for it. */
async function at<T>(line: Line, point: Point, signal: AbortSignal, work: () => T): Promise<T> {
  await Promise.resolve();
  if (signal.aborted || line.isDown) throw unreachable(point);
  const fault = line.faults.get(point)?.shift();
  if (!fault) return work();
  switch (fault.kind) {
    case "refuse":
      throw new BridgeError(fault.code, `Cannot ${point} as the world refuses`, { retryAfterMs: fault.retryAfterMs });
    case "lose":
      work();
      throw unreachable(point);
    case "hang":
      await line.clock.sleep(headersTimeoutMs, signal);
      throw unreachable(point);
  }
}

const unreachable = (point: Point): BridgeError =>
  new BridgeError("claude_unreachable", `Cannot ${point} as the world does not answer`);

/** Everything that happens from now on, until the world or the caller ends it. */
function listen(line: Line, session: WorldSession, signal: AbortSignal): AsyncIterable<Frame> {
  const frames: (Frame | null)[] = [];
  let wake = (): void => {};
  const hear = (frame: Frame | null): void => {
    if (frame !== null && line.isMute) return;
    frames.push(frame);
    wake();
  };
  const end = (): void => hear(null);
  session.listeners.add(hear);
  signal.addEventListener("abort", end, { once: true });
  const close = (): void => {
    session.listeners.delete(hear);
    signal.removeEventListener("abort", end);
  };
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
