/**
 * What every line to Claude promises, as tests: its primitives, and the classes of its failures. Each `setup` brings one line and a
 * world behind it that can be told to fail. `createLocal` plays the other side: it keeps the log, and decides nothing.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { Frame, Line, LocalTool, Request, SessionView } from "../../src/claude/line.ts";
import { BridgeError } from "../../src/core/errors.ts";
import type { PromptFile, SessionEvent, StopReason } from "../../src/core/model.ts";
import type { VirtualClock } from "../doubles/clock.ts";
import type { Script } from "../doubles/world.ts";

export type Bench = {
  readonly line: Line;
  readonly clock: VirtualClock;
  setScript(script: Script): void;
  /** The next post arrives, but its answer is lost. */
  losePost(): void;
  /** The next post does not arrive. */
  cutPost(): void;
  /** The next post gets no answer at all; resolves when it is on its way. */
  hangPost(): Promise<void>;
  /** The next post is refused: 429 with Retry-After 7 s. */
  limitPost(): void;
  /** The next post is refused with 529. */
  overloadPost(): void;
  cutStreams(): void;
  /** Streams deliver nothing any more and stay open. */
  setMute(isMute: boolean): void;
  openStreams(): number;
  close(): Promise<void>;
  /** Null where no session lives elsewhere. */
  readonly remote: {
    /** What the server has been told, in order, queued prompts last. */
    prompts(remoteId: string): string[];
    say(remoteId: string, text: string): void;
    /** Streams show a piece of a message whose beginning was never shown. */
    tail(remoteId: string, text: string): void;
    /** Another device prompts. */
    post(remoteId: string, text: string): void;
    patch(remoteId: string, title: string, metadata: { readonly [key: string]: string | null }): void;
    remove(remoteId: string): void;
    archive(remoteId: string): void;
    isRunning(remoteId: string): boolean;
    /** The answer to the next `create` is lost; the session is there. */
    loseCreate(): void;
    /** The answer to the next post says nothing of what was posted. */
    dropEcho(): void;
  } | null;
};

export const never = new AbortController().signal;
const prompt = (text: string, files: readonly PromptFile[] = []): Request => ({ kind: "prompt", text, files });
type Of<T extends SessionEvent["type"]> = SessionEvent & { readonly type: T };

/** The entries that a post tells of. */
export async function heardOf(
  line: Line,
  session: SessionView,
  requests: readonly Request[],
  signal: AbortSignal = never,
): Promise<SessionEvent[]> {
  const heard: SessionEvent[] = [];
  await line.post(
    session,
    requests,
    (frame) => {
      if (frame.kind === "event") heard.push(frame.event);
    },
    signal,
  );
  return heard;
}

/** The local side of one chat. */
export function createLocal({ line }: Pick<Bench, "line">, change: Partial<SessionView> = {}) {
  const log = new Map<string, SessionEvent>();
  let remoteId: string | null = null;
  const store = (events: readonly SessionEvent[]): void => {
    for (const event of events) {
      const known = log.get(event.id);
      if (known) {
        // The same entry always says the same; only null → set changes.
        expect({ ...known, at: event.at }).toEqual(event);
        if (event.at === null) continue;
        if (known.at !== null) expect(event.at).toBe(known.at);
        if (known.at === null) log.delete(event.id);
      }
      log.set(event.id, event);
    }
  };
  const entries = <T extends SessionEvent["type"]>(type: T): Of<T>[] =>
    [...log.values()].filter((event): event is Of<T> => event.type === type);
  const view = (): SessionView => ({
    id: "0f3a",
    remoteId,
    title: "Signal chat 0f3a",
    model: "claude-sonnet-5-5",
    effort: "medium",
    system: "You answer in a Signal chat.",
    tools: [],
    metadata: { "sb.id": "0f3a", "sb.schema": "1" },
    history: () => [...log.values()].reverse(),
    ...change,
  });
  const create = async (): Promise<string> => {
    if (line.remote) remoteId ??= await line.remote.create(view(), never);
    return remoteId ?? "";
  };
  const list = async (part: number | "all" | "prompts" = "all"): Promise<readonly SessionEvent[]> => {
    const all: SessionEvent[] = [];
    for await (const page of line.remote?.list(await create(), part, never) ?? []) all.push(...page);
    store(all);
    return all;
  };
  const lastStop = (): StopReason | null => entries("idle").at(-1)?.stop ?? null;
  /** Posts, and stores the log until a turn has come to rest. Where the log lives elsewhere it is listened to meanwhile. */
  const post = async (
    requests: readonly Request[],
    onFrame: (frame: Frame) => void = () => {},
    signal: AbortSignal = never,
  ): Promise<StopReason | null> => {
    if (line.remote === null) {
      const heard: SessionEvent[] = [];
      await line.post(
        view(),
        requests,
        (frame) => {
          if (frame.kind === "event") heard.push(frame.event);
          onFrame(frame);
        },
        signal,
      );
      store(heard);
      return lastStop();
    }
    const cut = new AbortController();
    const frames = await line.remote.open(await create(), AbortSignal.any([signal, cut.signal]));
    const before = entries("idle").length;
    const heard = (async (): Promise<"idle" | "ended" | "silent"> => {
      for await (const frame of frames) {
        if (frame.kind === "event") store([frame.event]);
        onFrame(frame);
        if (frame.kind === "silent") return "silent";
        if (frame.kind !== "event" || frame.event.type !== "idle") continue;
        const isQueued = (): boolean => entries("prompt").some(({ at }) => at === null);
        // The stream may have shown the prompt once only, unprocessed. The log knows.
        if (isQueued()) await list();
        if (!isQueued() && entries("idle").length > before) return "idle";
      }
      return "ended";
    })();
    try {
      store(await heardOf(line, view(), requests, signal));
      const how = await heard;
      if (how !== "idle") throw new BridgeError("claude_stream_lost", `the stream is ${how}`);
      return lastStop();
    } finally {
      cut.abort();
      await heard;
    }
  };
  return {
    view,
    store,
    entries,
    create,
    list,
    post,
    ask: (text: string, onFrame?: (frame: Frame) => void, signal?: AbortSignal, files: readonly PromptFile[] = []) =>
      post([prompt(text, files)], onFrame, signal),
    remoteId: (): string => {
      if (remoteId === null) throw new Error("there is no session yet");
      return remoteId;
    },
    forget: () => (remoteId = null),
    replies: () => entries("reply").map(({ text }) => text),
    prompts: () => entries("prompt").map(({ text }) => text),
  };
}

export type Gate = { readonly opened: Promise<void>; open(): void };
export function createGate(): Gate {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { opened: promise, open: resolve };
}

/** How `work` failed, or null. */
export const faultOf = (work: Promise<unknown>): Promise<BridgeError | null> =>
  work.then(
    () => null,
    (error: unknown) => {
      if (error instanceof BridgeError) return error;
      throw error;
    },
  );
/** The code with which `work` failed, or null. */
export const codeOf = async (work: Promise<unknown>): Promise<string | null> => (await faultOf(work))?.code ?? null;

/** Time passes until `work` is done. */
export async function whileTimePasses<T>(clock: VirtualClock, work: Promise<T>): Promise<T> {
  const state = { isDone: false };
  const mark = (): void => void (state.isDone = true);
  work.then(mark, mark);
  while (!state.isDone) await clock.advance(5_000);
  return work;
}

/** Lets `rounds` macrotasks pass. */
export async function pass(rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) await new Promise((resolve) => setImmediate(resolve));
}

/** Waits by macrotasks, without a clock, for what another socket has to notice; fails where it never does. */
export async function settled(isDone: () => boolean): Promise<void> {
  const roundsMax = 200_000;
  for (let round = 0; !isDone(); round++) {
    if (round >= roundsMax) throw new Error("waited for something that never happened");
    await pass(1);
  }
}

const parrot: Script = (text) => [{ write: ["re: ", text] }];
export const readTool: LocalTool = {
  name: "local_read",
  description: "Reads a file of this machine.",
  inputSchema: { type: "object", properties: { file_path: { type: "string" } }, required: ["file_path"] },
  isOfMachine: true,
};
/** The smallest picture there is. */
export const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

export function lineContract(name: string, setup: () => Promise<Bench>): void {
  describe(`line contract: ${name}`, () => {
    let bench: Bench;
    let local: ReturnType<typeof createLocal>;
    beforeEach(async () => {
      bench = await setup();
      bench.setScript(parrot);
      local = createLocal(bench);
    });
    afterEach(() => bench.close());
    const posted = (): string[] | null => bench.remote?.prompts(local.remoteId()) ?? null;

    test("answers a prompt, and says so in the log", async () => {
      expect(await local.ask("Grüße 🌍")).toEqual({ kind: "end_turn" });
      expect(local.prompts()).toEqual(["Grüße 🌍"]);
      expect(local.replies()).toEqual(["re: Grüße 🌍"]);
      expect(local.entries("usage").at(-1)?.inputTokens).toBeGreaterThan(0);
    });

    test("tells of a post what it is in the log, the prompt first", async () => {
      await local.create();
      const [first] = await heardOf(bench.line, local.view(), [prompt("one")]);
      expect(first).toMatchObject({ type: "prompt", text: "one" });
    });

    test("previews the answer under the id that it gets", async () => {
      const deltas: (Frame & { kind: "delta" })[] = [];
      await local.ask("two", (frame) => frame.kind === "delta" && deltas.push(frame));
      expect(deltas.map(({ text }) => text).join("")).toBe("re: two");
      expect(new Set(deltas.map(({ eventId }) => eventId))).toEqual(new Set([local.entries("reply")[0]?.id ?? "none"]));
    });

    test("goes on in the same conversation", async () => {
      await local.ask("first");
      await local.ask("second");
      expect(local.replies()).toEqual(["re: first", "re: second"]);
    });

    test("hands on how long a rate limit asks to wait, and posts nothing", async () => {
      await local.create();
      bench.limitPost();
      expect(await faultOf(local.ask("hello"))).toMatchObject({ code: "claude_rate_limited", retryAfterMs: 7000 });
      await local.ask("hello");
      if (bench.remote) expect(posted()).toEqual(["hello"]);
    });

    test("says that Claude is overloaded", async () => {
      await local.create();
      bench.overloadPost();
      expect(await codeOf(local.ask("hello"))).toBe("claude_overloaded");
    });

    test("says that the line is down", async () => {
      await local.create();
      bench.cutPost();
      expect(await codeOf(local.ask("hello"))).toBe("claude_unreachable");
      await local.ask("hello");
      if (bench.remote) expect(posted()).toEqual(["hello"]);
    });

    test("does not try again by itself what may have arrived", async () => {
      await local.create();
      bench.losePost();
      expect(await codeOf(local.ask("hello"))).toBe("claude_unreachable");
      if (bench.remote) expect(posted()).toEqual(["hello"]);
    });

    test("ends by its signal while a request hangs", async () => {
      await local.create();
      const hanging = bench.hangPost();
      const stop = new AbortController();
      const asking = faultOf(bench.line.post(local.view(), [prompt("hello")], () => {}, stop.signal));
      await hanging;
      await pass(5);
      stop.abort();
      expect(await asking).toBeInstanceOf(BridgeError);
    });

    test("ends by its signal while Claude speaks, and leaves nothing open", async () => {
      const gate = createGate();
      bench.setScript(() => [{ write: ["…"] }, { hold: gate.opened }]);
      const stop = new AbortController();
      const asking = faultOf(local.ask("hello", (frame) => frame.kind === "delta" && stop.abort(), stop.signal));
      expect(await asking).toBeInstanceOf(BridgeError);
      await settled(() => bench.openStreams() === 0);
      gate.open();
    });

    test("says what had come when a stream breaks off", async () => {
      const gate = createGate();
      bench.setScript(() => [{ write: ["part "] }, { hold: gate.opened }, { say: "more" }]);
      const fault = await faultOf(local.ask("hello", (frame) => frame.kind === "delta" && bench.cutStreams()));
      expect(fault?.code).toBe("claude_stream_lost");
      if (bench.remote === null) expect(fault?.partial).toBe("part ");
      gate.open();
    });

    test("says that nothing comes for too long", async () => {
      const gate = createGate();
      bench.setScript(() => [{ write: ["…"] }, { hold: gate.opened }]);
      const asking = local.ask("hello", (frame) => frame.kind === "delta" && bench.setMute(true));
      expect(await whileTimePasses(bench.clock, codeOf(asking))).toBe("claude_stream_lost");
      gate.open();
    });

    test("takes a refusal as an end, not as an error", async () => {
      bench.setScript(() => [{ stop: { kind: "refusal" } }]);
      expect(await local.ask("hello")).toEqual({ kind: "refusal" });
    });

    test("takes images, PDFs and text files along", async () => {
      const base64 = btoa("hello");
      await local.ask("look", () => {}, never, [
        { contentType: "image/jpeg", fileName: "a.jpg", base64: pixel },
        { contentType: "application/pdf", fileName: "b.pdf", base64 },
        { contentType: "text/plain; charset=utf-8", fileName: null, base64 },
        { contentType: "application/zip", fileName: "c.zip", base64: btoa("PK\u0003\u0004\u0000\u00ff") },
      ]);
      expect(local.replies().join("")).toContain("look");
      expect(local.prompts()).toEqual(["look"]);
    });

    test("waits for the results of calls that run here, and goes on with them", async () => {
      local = createLocal(bench, { tools: [readTool] });
      const input = { file_path: "notes.md" };
      bench.setScript((text) =>
        /read/u.test(text) ? [{ call: "local_read", input }, { say: "it says hi" }] : [{ say: "it says hi" }],
      );
      const stop = await local.ask("read it");
      const [use] = local.entries("tool_use");
      expect(use).toMatchObject({ name: "local_read", input, isLocal: true, isAsk: false });
      const toolUseId = use?.id ?? "";
      expect(stop).toEqual({ kind: "requires_action", eventIds: [toolUseId] });
      expect(await codeOf(local.ask("are you there?"))).toBe("claude_busy");
      expect(await local.post([{ kind: "result", toolUseId, text: "hi", isError: false }])).toEqual({
        kind: "end_turn",
      });
      expect(local.entries("tool_result")).toMatchObject([{ toolUseId, isError: false }]);
      expect(local.replies()).toEqual(["it says hi"]);
    });

    test("drops what is waited for and asks the next thing, in one batch", async () => {
      local = createLocal(bench, { tools: [readTool] });
      bench.setScript((text) =>
        /read/u.test(text) ? [{ call: "local_read", input: {} }, { say: "never said" }] : [{ say: `re: next` }],
      );
      await local.ask("read it");
      const toolUseId = local.entries("tool_use")[0]?.id ?? "";
      await local.post([
        { kind: "result", toolUseId, text: "No.", isError: true },
        { kind: "interrupt" },
        prompt("next"),
      ]);
      await local.list();
      expect(local.replies()).toEqual(["re: next"]);
      expect(local.entries("tool_result").map(({ isError }) => isError)).toEqual([true]);
    });

    test("is in order, and knows its models", async () => {
      await bench.line.check(never);
      const [model] = await bench.line.models(never);
      expect(await bench.line.model(model?.id ?? "", never)).toEqual(model ?? null);
      expect(await bench.line.model("claude-nope", never)).toBeNull();
    });
  });
}
