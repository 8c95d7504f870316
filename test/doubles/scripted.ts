/**
 * The line `scripted`: a Claude without a key, for the tests and the simulation, over a world that is played
 * (world.ts). Several lines on one world are several devices.
 */
import type { Clock } from "../../src/clock.ts";
import { BridgeError, type ErrorCode } from "../../src/core/errors.ts";
import { inLogOrder } from "../../src/core/turn.ts";
import type { Millis, SessionEvent } from "../../src/core/model.ts";
import { headersTimeoutMs, silenceMs } from "../../src/claude/api.ts";
import type { Frame, Hear, Line, Remote, RemoteSession, Request, SessionView } from "../../src/claude/line.ts";
import { createWorld, type Script, type World, type WorldFrame, type WorldSession } from "./world.ts";

export type { Beat, Script, World } from "./world.ts";

/** Where a request goes wrong. */
export type Point =
  | "create"
  | "find"
  | "open"
  | "list"
  | "post"
  | "retrieve"
  | "update"
  | "archive"
  | "remove"
  | "files"
  | "check";

export type Fault =
  /** It is refused before anything happened. */
  | { readonly kind: "refuse"; readonly code: ErrorCode; readonly retryAfterMs?: Millis; readonly isServerFault?: true }
  /** It is done, but the answer is lost. */
  | { readonly kind: "lose" }
  /** It is done and answered, but the answer says nothing of what became of it (`post`). */
  | { readonly kind: "unechoed" }
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

type Wire = {
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
  const wire: Wire = { world, clock, skewMs, pageMax, faults: new Map(), isDown: false, isMute: false };
  const known = { id: "claude-scripted", outputTokensMax: null };
  const line: Line = {
    name: "scripted",
    hasSandbox: () => false,
    remote: createRemote(wire),
    post: (session, requests, hear, signal) => post(wire, session, requests, hear, signal),
    check: (signal) => at(wire, "check", signal, () => {}),
    models: (signal) => at(wire, "check", signal, () => [known]),
    model: (name, signal) => at(wire, "check", signal, () => (name === known.id ? known : null)),
  };
  return {
    world,
    line,
    /** The next request at this point goes wrong; several queue up. */
    fail: (point: Point, fault: Fault): void => void wire.faults.set(point, [...(wire.faults.get(point) ?? []), fault]),
    /** While set, nothing gets through and open streams are cut. */
    setDown(isDown: boolean): void {
      wire.isDown = isDown;
      if (isDown) world.cut();
    },
    /** While set, open streams deliver nothing and do not end. */
    setMute: (isMute: boolean): void => void (wire.isMute = isMute),
    /** Our clock was set: the world's clock minus ours is this from now on. */
    setSkew: (skewMs: Millis): void => void (wire.skewMs = skewMs),
  };
}

async function post(
  wire: Wire,
  { remoteId }: SessionView,
  requests: readonly Request[],
  hear: Hear,
  signal: AbortSignal,
): Promise<void> {
  const { world } = wire;
  const id = remoteId ?? "";
  const one = (request: Request): SessionEvent => {
    switch (request.kind) {
      case "prompt":
        return world.post(id, request.text);
      case "confirm":
        return world.confirm(id, request.toolUseId, request.isAllowed);
      case "result":
        return world.result(id, request.toolUseId, request.isError);
      case "interrupt":
        return world.interrupt(id);
    }
  };
  const echoes = await at(wire, "post", signal, () => requests.map(one));
  for (const event of echoes) hear({ kind: "event", event });
}

function createRemote(wire: Wire): Remote {
  const { world } = wire;
  /** One request about one session. */
  const on = <T>(point: Point, id: string, signal: AbortSignal, work: (session: WorldSession) => T): Promise<T> =>
    at(wire, point, signal, () => work(need(world, id)));
  return {
    create: (session, signal) =>
      at(wire, "create", signal, () => world.create(session.title, { ...session.metadata }).id),
    find: ({ metadata }, signal) =>
      at(wire, "find", signal, () => {
        const isOurs = (session: WorldSession): boolean => session.metadata["sb.id"] === metadata["sb.id"];
        return (metadata["sb.id"] !== undefined && world.sessions().findLast(isOurs)?.id) || null;
      }),
    open: (id, signal) => on("open", id, signal, (session) => listen(wire, session, signal)),
    retrieve: (id, signal) =>
      at(wire, "retrieve", signal, () => {
        const session = world.find(id);
        return session && toRemote(session);
      }),
    async *list(id, part, signal) {
      const isIn = ({ at, type }: SessionEvent): boolean =>
        part === "all" || (part === "prompts" ? type === "prompt" : (at ?? 0) >= part);
      const all = await on("list", id, signal, ({ log, queue }) => inLogOrder([...log.filter(isIn), ...queue]));
      for (let start = 0; start < all.length; start += wire.pageMax) {
        if (start > 0) await at(wire, "list", signal, () => {});
        yield all.slice(start, start + wire.pageMax);
      }
    },
    update: (id, patch, signal) =>
      on("update", id, signal, (session) => {
        world.patch(id, patch);
        return toRemote(session);
      }),
    archive: (id, signal) =>
      at(wire, "archive", signal, () => {
        if (world.find(id)?.isArchived === false) world.archive(id);
      }),
    remove: (id, signal) =>
      at(wire, "remove", signal, () => {
        if (world.find(id)) world.delete(id);
      }),
    files: (id, signal) => on("files", id, signal, ({ files }) => [...files]),
    download: (fileId, bytesMax, signal) =>
      at(wire, "files", signal, () => {
        const file = world.sessions().flatMap(({ files }) => files.filter(({ id }) => id === fileId))[0];
        return file && file.bytes.length <= bytesMax ? file.bytes : null;
      }),
    skewMs: () => wire.skewMs,
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
async function at<T>(wire: Wire, point: Point, signal: AbortSignal, work: () => T): Promise<T> {
  await Promise.resolve();
  const unreachable = new BridgeError("claude_unreachable", `Cannot ${point} as the world does not answer`);
  if (signal.aborted || wire.isDown) throw unreachable;
  const fault = wire.faults.get(point)?.shift();
  switch (fault?.kind) {
    case undefined:
      return work();
    case "refuse":
      throw new BridgeError(fault.code, `Cannot ${point} as the world refuses`, fault);
    case "lose":
      work();
      throw unreachable;
    case "unechoed":
      work();
      throw new BridgeError("claude_protocol", `Cannot follow ${point} as the world does not say what became of it`);
    case "hang":
      await wire.clock.sleep(headersTimeoutMs, signal);
      throw unreachable;
  }
}

/** Everything that happens from now on, until the world or the caller ends it. */
function listen(wire: Wire, session: WorldSession, signal: AbortSignal): AsyncIterable<Frame> {
  const frames: (Frame | null)[] = [];
  const started = new Set<string>();
  let wake = (): void => {};
  const hear = (frame: WorldFrame | null): void => {
    if (frame !== null && wire.isMute) return;
    if (frame?.kind === "delta" && frame.isFirst) started.add(frame.eventId);
    // The tail of a message that began before we listened.
    if (frame?.kind === "delta" && !started.has(frame.eventId)) return;
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
        else if (!(await isHeard(wire, (resolve) => (wake = resolve)))) yield { kind: "silent" };
      }
    } finally {
      signal.removeEventListener("abort", close);
      close();
    }
  })();
}

/** Waits for the next frame; false when none came for as long as a real line may be silent. */
async function isHeard(wire: Wire, onWake: (resolve: () => void) => void): Promise<boolean> {
  const timer = new AbortController();
  const heard = new Promise<true>((resolve) => onWake(() => resolve(true)));
  const waited = wire.clock.sleep(silenceMs, timer.signal).then(() => false);
  return Promise.race([heard, waited]).finally(() => timer.abort());
}
