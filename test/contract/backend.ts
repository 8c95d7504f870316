/**
 * What every Claude backend promises, as tests. Each `setup` brings one adapter and a world behind it that can be told to
 * fail. The local side is played by `createLocal`: it stores steps the way the loops do, and never decides anything itself.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { Backend, Prompt, PromptState, SessionView, TurnStep } from "../../src/claude/backend.ts";
import type { Script } from "../doubles/world.ts";
import { BridgeError } from "../../src/core/errors.ts";
import type { Millis, PromptFile, SessionEvent } from "../../src/core/model.ts";
import { progressOf, trackTurn, type Progress } from "../../src/core/turn.ts";
import type { FakeClock } from "../doubles/fake-clock.ts";

export type Bench = {
  readonly backend: Backend;
  readonly clock: FakeClock;
  setScript(script: Script): void;
  /** The next prompt arrives, but its answer is lost. */
  loseSend(): void;
  /** The next prompt does not arrive. */
  cutSend(): void;
  /** The next prompt gets no answer at all; resolves when it is on its way. */
  hangSend(): Promise<void>;
  /** The next prompt is refused: 429 with Retry-After 7 s. */
  limitSend(): void;
  /** Everything is refused with 529 once. */
  overloadSend(): void;
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
  } | null;
};

export type Outcome = { readonly steps: TurnStep[]; readonly progress: Progress; readonly fault: BridgeError | null };

/** The local side of one chat. */
export function createLocal(bench: Pick<Bench, "backend" | "clock">) {
  const log = new Map<string, SessionEvent>();
  const mapped = new Set<string>();
  let remoteId: string | null = null;
  let cursor: Millis | null = null;
  let state: PromptState = { kind: "new" };
  let asked: { text: string; files: readonly PromptFile[] } | null = null;

  const store = (events: readonly SessionEvent[]): void => {
    for (const event of events) {
      const known = log.get(event.id);
      if (known) {
        // The same entry always says the same; only null → set changes.
        expect({ ...known, at: event.at }).toEqual(event);
        if (event.at === null) continue;
        if (known.at !== null) expect(event.at).toBe(known.at);
      }
      log.set(event.id, event);
      cursor = Math.max(cursor ?? 0, event.at ?? 0);
    }
  };
  const view = (): SessionView => ({
    id: "0f3a",
    remoteId,
    cursor,
    title: "Signal chat 0f3a",
    model: "claude-sonnet-5-5",
    system: "You answer in a Signal chat.",
    metadata: { "sb.schema": "1" },
    mappedEventIds: mapped,
    history: () => [...log.values()],
  });
  const run = async (
    prompt: Prompt | null,
    signal: AbortSignal,
    onStep: (step: TurnStep) => void,
  ): Promise<Outcome> => {
    const steps: TurnStep[] = [];
    let progress = progressOf(prompt?.state.kind === "asked" ? prompt.state.eventId : null);
    let fault: BridgeError | null = null;
    try {
      for await (const step of bench.backend.turn(view(), prompt, signal)) {
        steps.push(step);
        if (step.kind === "created") ({ remoteId } = step);
        if (step.kind === "sending")
          state = { kind: "uncertain", askedAt: bench.clock.now(), text: prompt?.text ?? "" };
        if (step.kind === "asked") {
          state = { kind: "asked", eventId: step.eventId };
          mapped.add(step.eventId);
          progress = progressOf(step.eventId);
        }
        if (step.kind === "gone") {
          remoteId = null;
          cursor = null;
          state = { kind: "new" };
        }
        if (step.kind === "events") {
          store(step.events);
          progress = step.events.reduce(trackTurn, progress);
        }
        onStep(step);
      }
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      fault = error;
    }
    return { steps, progress, fault };
  };
  const never = new AbortController().signal;
  return {
    view,
    store,
    remoteId: (): string => {
      if (remoteId === null) throw new Error("there is no session yet");
      return remoteId;
    },
    cursor: () => cursor,
    state: () => state,
    replies: () => [...log.values()].flatMap((event) => (event.type === "reply" ? [event.text] : [])),
    prompts: () => [...log.values()].flatMap((event) => (event.type === "prompt" ? [event.text] : [])),
    /** Asks something new. */
    ask(text: string, onStep: (step: TurnStep) => void = () => {}, signal = never, files: readonly PromptFile[] = []) {
      state = { kind: "new" };
      asked = { text, files };
      return run({ text, files, state }, signal, onStep);
    },
    /** Goes on with what was asked last. */
    again: (onStep: (step: TurnStep) => void = () => {}, signal = never) =>
      run(asked && { ...asked, state }, signal, onStep),
    follow: (onStep: (step: TurnStep) => void = () => {}, signal = never) => run(null, signal, onStep),
  };
}

export type Gate = { readonly opened: Promise<void>; open(): void };
export function createGate(): Gate {
  let open = (): void => {};
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open: () => open() };
}

const kinds = (outcome: Outcome): string[] => [
  ...new Set(outcome.steps.map(({ kind }) => kind).filter((kind) => kind !== "delta")),
];
const parrot: Script = (prompt) => [{ write: ["re: ", prompt] }];

/** The code with which `work` failed, or null. */
export const codeOf = (work: Promise<unknown>): Promise<string | null> =>
  work.then(
    () => null,
    (error: unknown) => (error instanceof BridgeError ? error.code : String(error)),
  );

/** Time passes until `work` is done. */
export async function whileTimePasses<T>(clock: FakeClock, work: Promise<T>): Promise<T> {
  const state = { isDone: false };
  const mark = (): void => void (state.isDone = true);
  work.then(mark, mark);
  while (!state.isDone) await clock.advance(5_000);
  return work;
}

export function backendContract(name: string, setup: () => Promise<Bench>): void {
  describe(`backend contract: ${name}`, () => {
    let bench: Bench;
    let local: ReturnType<typeof createLocal>;
    beforeEach(async () => {
      bench = await setup();
      bench.setScript(parrot);
      local = createLocal(bench);
    });
    afterEach(() => bench.close());

    test("answers a prompt, and says so in the log", async () => {
      const outcome = await local.ask("Grüße 🌍");
      expect(outcome.fault).toBeNull();
      expect(outcome.progress).toMatchObject({ kind: "ended", stop: { kind: "end_turn" } });
      expect(local.prompts()).toEqual(["Grüße 🌍"]);
      expect(local.replies()).toEqual(["re: Grüße 🌍"]);
    });

    test("announces the send before it happens and the prompt's id before its events", async () => {
      const outcome = await local.ask("one");
      const order = kinds(outcome);
      expect(order.indexOf("sending")).toBeGreaterThanOrEqual(0);
      expect(order.indexOf("asked")).toBeGreaterThan(order.indexOf("sending"));
      expect(order.indexOf("events")).toBeGreaterThan(order.indexOf("asked"));
    });

    test("previews the reply under the id that it gets", async () => {
      const { steps } = await local.ask("two");
      const deltas = steps.flatMap((step) => (step.kind === "delta" ? [step] : []));
      const events = steps.flatMap((step) => (step.kind === "events" ? step.events : []));
      const reply = events.find((event) => event.type === "reply");
      expect(deltas.map(({ text }) => text).join("")).toBe("re: two");
      expect(new Set(deltas.map(({ eventId }) => eventId))).toEqual(new Set([reply?.id ?? "none"]));
    });

    test("goes on in the same conversation", async () => {
      await local.ask("first");
      const outcome = await local.ask("second");
      expect(kinds(outcome)).not.toContain("created");
      expect(local.replies()).toEqual(["re: first", "re: second"]);
    });

    test("sends nothing before the caller has stored that it will", async () => {
      const turn = bench.backend.turn(
        local.view(),
        { text: "x", files: [], state: { kind: "new" } },
        new AbortController().signal,
      );
      let remoteId: string | null = null;
      for await (const step of turn) {
        if (step.kind === "created") ({ remoteId } = step);
        if (step.kind === "sending") break;
      }
      if (bench.remote && remoteId !== null) expect(bench.remote.prompts(remoteId)).toEqual([]);
    });

    test("waits as long as a rate limit asks, and asks once", async () => {
      bench.limitSend();
      const { fault } = await local.ask("hello");
      expect(fault).toMatchObject({ code: "claude_rate_limited", retryAfterMs: 7000 });
      await local.again();
      expect(local.replies()).toEqual(["re: hello"]);
      if (bench.remote) expect(bench.remote.prompts(local.remoteId())).toEqual(["hello"]);
    });

    test("says that Claude is overloaded", async () => {
      bench.overloadSend();
      expect((await local.ask("hello")).fault?.code).toBe("claude_overloaded");
    });

    test("says that the line is down", async () => {
      bench.cutSend();
      expect((await local.ask("hello")).fault?.code).toBe("claude_unreachable");
      expect((await local.again()).fault).toBeNull();
      expect(local.replies()).toEqual(["re: hello"]);
    });

    test("never answers twice when the answer to a send was lost", async () => {
      bench.loseSend();
      expect((await local.ask("hello")).fault?.code).toBe("claude_unreachable");
      expect(local.state().kind).toBe("uncertain");
      const outcome = await local.again();
      expect(outcome.progress.kind).toBe("ended");
      expect(local.replies()).toEqual(["re: hello"]);
      if (bench.remote) {
        expect(kinds(outcome)).not.toContain("sending");
        expect(bench.remote.prompts(local.remoteId())).toEqual(["hello"]);
      }
    });

    test("ends without a decision when it is aborted, and can go on later", async () => {
      const gate = createGate();
      bench.setScript((prompt) => [{ write: ["wait"] }, { hold: gate.opened }, { say: `re: ${prompt}` }]);
      const stop = new AbortController();
      const outcome = await local.ask("hello", (step) => step.kind === "delta" && stop.abort(), stop.signal);
      expect(outcome.fault).toBeNull();
      expect(outcome.progress.kind).not.toBe("ended");
      gate.open();
      const after = await local.again();
      expect(after.progress.kind).toBe("ended");
      expect(local.replies().join("")).toBe("waitre: hello");
      if (bench.remote) expect(bench.remote.prompts(local.remoteId())).toEqual(["hello"]);
    });

    test("ends without a decision when it is aborted while a request hangs", async () => {
      const hanging = bench.hangSend();
      const stop = new AbortController();
      const asking = local.ask("hello", () => {}, stop.signal);
      await hanging;
      await settled(() => local.state().kind === "uncertain");
      stop.abort();
      expect((await asking).fault).toBeNull();
      expect((await local.again()).progress.kind).toBe("ended");
      expect(local.replies()).toEqual(["re: hello"]);
    });

    test("closes its stream when the caller walks away", async () => {
      const gate = createGate();
      bench.setScript(() => [{ write: ["…"] }, { hold: gate.opened }]);
      const prompt = { text: "y", files: [], state: { kind: "new" } } as const;
      for await (const step of bench.backend.turn(local.view(), prompt, new AbortController().signal))
        if (step.kind === "delta") break;
      await settled(() => bench.openStreams() === 0);
      expect(bench.openStreams()).toBe(0);
      gate.open();
    });

    test("calls a stream that breaks off lost, whatever it had said", async () => {
      const gate = createGate();
      bench.setScript((prompt) => [{ write: ["part "] }, { hold: gate.opened }, { write: ["re: ", prompt] }]);
      const outcome = await local.ask("hello", (step) => step.kind === "delta" && bench.cutStreams());
      expect(outcome.fault?.code).toBe("claude_stream_lost");
      gate.open();
      expect((await local.again()).progress.kind).toBe("ended");
      expect(local.replies().join("")).toBe("part re: hello");
    });

    test("gives up a line on which nothing comes for too long", async () => {
      const gate = createGate();
      bench.setScript((prompt) => [{ write: ["…"] }, { hold: gate.opened }, { write: ["re: ", prompt] }]);
      const work = local.ask("hello", (step) => step.kind === "delta" && bench.setMute(true));
      expect((await whileTimePasses(bench.clock, work)).fault?.code).toBe("claude_stream_lost");
      bench.setMute(false);
      gate.open();
      expect((await local.again()).progress.kind).toBe("ended");
      expect(local.replies().join("")).toBe("…re: hello");
    });

    test("takes a refusal as an end, not as an error", async () => {
      bench.setScript(() => [{ stop: { kind: "refusal", category: "cyber" } }]);
      const outcome = await local.ask("hello");
      expect(outcome.fault).toBeNull();
      expect(outcome.progress).toMatchObject({ kind: "ended", stop: { kind: "refusal", category: "cyber" } });
    });

    test("takes images, PDFs and text files along", async () => {
      const base64 = btoa("hello");
      const outcome = await local.ask("look", () => {}, new AbortController().signal, [
        { contentType: "image/jpeg", fileName: "a.jpg", base64 },
        { contentType: "application/pdf", fileName: "b.pdf", base64 },
        { contentType: "text/plain; charset=utf-8", fileName: null, base64 },
        { contentType: "application/zip", fileName: "c.zip", base64 },
      ]);
      expect(outcome.fault).toBeNull();
      expect(local.replies().join("")).toContain("look");
    });

    test("is in order", async () => {
      await bench.backend.check(new AbortController().signal);
      expect((await bench.backend.models(new AbortController().signal)).length).toBeGreaterThan(0);
    });
  });
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
