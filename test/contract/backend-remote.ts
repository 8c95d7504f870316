/** What a backend promises besides when its sessions live elsewhere. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { RemoteSessions, TurnStep } from "../../src/claude/backend.ts";
import type { SessionEvent } from "../../src/core/model.ts";
import { createGate, createLocal, pass, settled, whileTimePasses, type Bench, type Outcome } from "./backend.ts";

type World = NonNullable<Bench["remote"]>;
const kindsOf = (outcome: Outcome): string[] => outcome.steps.map(({ kind }) => kind);

export function remoteBackendContract(name: string, setup: () => Promise<Bench>): void {
  describe(`backend contract, sessions elsewhere: ${name}`, () => {
    const never = new AbortController().signal;
    let bench: Bench;
    let world: World;
    let remote: RemoteSessions;
    let local: ReturnType<typeof createLocal>;
    beforeEach(async () => {
      bench = await setup();
      if (!bench.remote || !bench.backend.remote) throw new Error("this backend has no remote side");
      world = bench.remote;
      ({ remote } = bench.backend);
      bench.setScript((prompt) => [{ write: ["re: ", prompt] }]);
      local = createLocal(bench);
    });
    afterEach(() => bench.close());

    const list = async (since: number | null): Promise<SessionEvent[]> => {
      const all: SessionEvent[] = [];
      for await (const page of remote.events(local.remoteId(), since, never)) all.push(...page);
      return all;
    };
    const isType = (step: TurnStep, type: SessionEvent["type"]): boolean =>
      step.kind === "events" && step.events.some((event) => event.type === type);

    test("creates the session with its title and metadata, and says so first", async () => {
      const { steps } = await local.ask("hello");
      expect(steps[0]).toEqual({ kind: "created", remoteId: local.remoteId() });
      expect(await remote.retrieve(local.remoteId(), never)).toMatchObject({
        title: "Signal chat 0f3a",
        metadata: { "sb.schema": "1" },
        status: "idle",
        isArchived: false,
      });
    });

    test("tells two equal prompts apart when an answer is lost", async () => {
      await local.ask("ok");
      bench.loseSend();
      await local.ask("ok");
      const outcome = await local.again();
      expect(outcome.progress.kind).toBe("ended");
      expect(world.prompts(local.remoteId())).toEqual(["ok", "ok"]);
      expect(local.replies()).toEqual(["re: ok", "re: ok"]);
    });

    test("does not take an old prompt of another device for the uncertain one", async () => {
      await local.ask("one");
      world.post(local.remoteId(), "ok");
      await settled(() => !world.isRunning(local.remoteId()));
      await bench.clock.advance(3_600_000);
      bench.cutSend();
      expect((await local.ask("ok")).fault?.code).toBe("claude_unreachable");
      expect(kindsOf(await local.again())).toContain("sending");
      expect(world.prompts(local.remoteId())).toEqual(["one", "ok", "ok"]);
    });

    test("shows no tail of a message whose beginning it did not hear", async () => {
      const gate = createGate();
      bench.setScript(() => [{ write: ["one"] }, { hold: gate.opened }, { write: ["two"] }]);
      const heard: string[] = [];
      await local.ask("go", (step) => {
        if (step.kind !== "delta") return;
        heard.push(step.text);
        if (step.text === "one") world.tail(local.remoteId(), "late");
        gate.open();
      });
      expect(heard).toEqual(["one", "two"]);
    });

    test("finds an uncertain prompt that a sync has long passed", async () => {
      await local.ask("one");
      bench.loseSend();
      await local.ask("lost");
      await settled(() => !world.isRunning(local.remoteId()));
      await bench.clock.advance(3_600_000);
      world.say(local.remoteId(), "much later");
      local.store(await list(local.cursor()));
      expect(local.cursor()).toBeGreaterThan(bench.clock.now() - 60_000);
      expect((await local.again()).progress.kind).toBe("ended");
      expect(world.prompts(local.remoteId())).toEqual(["one", "lost"]);
    });

    test("finds an uncertain prompt that is still queued", async () => {
      const gate = createGate();
      bench.setScript((prompt) => [...(prompt === "slow" ? [{ hold: gate.opened }] : []), { say: `re: ${prompt}` }]);
      await local.ask("one");
      world.post(local.remoteId(), "slow");
      await settled(() => world.isRunning(local.remoteId()));
      bench.loseSend();
      expect((await local.ask("mine")).fault?.code).toBe("claude_unreachable");
      const outcome = await local.again((step) => step.kind === "asked" && gate.open());
      expect(outcome.progress.kind).toBe("ended");
      expect(world.prompts(local.remoteId())).toEqual(["one", "slow", "mine"]);
      expect(local.replies()).toEqual(["re: one", "re: slow", "re: mine"]);
    });

    test("follows a dropped stream again, every entry with the same content", async () => {
      const gates = [createGate(), createGate()];
      bench.setScript(() => [
        { say: "a" },
        { hold: gates[0]?.opened ?? Promise.resolve() },
        { say: "b" },
        { hold: gates[1]?.opened ?? Promise.resolve() },
        { say: "c" },
      ]);
      expect((await local.ask("go", (step) => isType(step, "reply") && bench.cutStreams())).fault?.code).toBe(
        "claude_stream_lost",
      );
      // `b` is said while nobody listens, `c` on the second stream.
      gates[0]?.open();
      await pass(20);
      const outcome = await local.again((step) => isType(step, "reply") && gates[1]?.open());
      expect(outcome.progress.kind).toBe("ended");
      expect(local.replies()).toEqual(["a", "b", "c"]);
      expect(world.prompts(local.remoteId())).toEqual(["go"]);
    });

    test("finds what Claude said while nobody listened, from the cursor on", async () => {
      await local.ask("hello");
      const { remoteId } = local;
      await bench.clock.advance(600_000);
      world.say(remoteId(), "by the way");
      const found = await list(local.cursor());
      expect(found.filter((event) => event.type === "reply").map(({ text }) => text)).toContain("by the way");
      local.store(found);
      expect(local.replies()).toEqual(["re: hello", "by the way"]);
    });

    test("lists page by page, oldest first, and what is queued last", async () => {
      const gate = createGate();
      bench.setScript((prompt) => [{ say: `re: ${prompt}` }, ...(prompt === "slow" ? [{ hold: gate.opened }] : [])]);
      for (const prompt of ["one", "two", "three"]) await local.ask(prompt);
      world.post(local.remoteId(), "slow");
      await settled(() => world.isRunning(local.remoteId()));
      world.post(local.remoteId(), "queued");
      for (const since of [null, local.cursor()]) {
        const log = await list(since);
        const times = log.flatMap(({ at }) => (at === null ? [] : [at]));
        expect(times).toEqual([...times].sort((a, b) => a - b));
        expect(log.at(-1)).toMatchObject({ type: "prompt", text: "queued", at: null });
        expect(new Set(log.map(({ id }) => id)).size).toBe(log.length);
      }
      expect((await list(null)).length).toBeGreaterThan(10);
      gate.open();
    });

    test("ends with the turn that took the prompt in, when turns merge", async () => {
      const gate = createGate();
      bench.setScript((prompt) => [...(prompt === "mine" ? [{ hold: gate.opened }] : []), { say: `re: ${prompt}` }]);
      const outcome = await local.ask("mine", (step) => {
        if (!isType(step, "running")) return;
        world.post(local.remoteId(), "theirs");
        gate.open();
      });
      expect(outcome.progress.kind).toBe("ended");
      expect(local.replies()).toEqual(["re: mine", "re: theirs"]);
    });

    test("waits for a person, and goes on after the answer", async () => {
      bench.setScript(() => [{ ask: "bash", input: { command: "ls" } }, { say: "done" }]);
      for (const isAllowed of [true, false]) {
        const waiting = await local.ask("list the files");
        expect(waiting.fault).toBeNull();
        if (waiting.progress.kind !== "waiting") throw new Error(`expected to wait: ${waiting.progress.kind}`);
        const [id = ""] = waiting.progress.toolUseIds;
        await remote.confirm(local.remoteId(), id, isAllowed, isAllowed ? null : "no", never);
        // A second answer, its first echo lost: settled is settled.
        await remote.confirm(local.remoteId(), id, isAllowed, null, never);
        expect((await local.again()).progress.kind).toBe("ended");
      }
      expect(local.replies()).toEqual(["done", "done"]);
    });

    test("answers a question that nobody waits for any more with no, before it asks the next thing", async () => {
      bench.setScript((prompt) =>
        prompt === "work" ? [{ ask: "bash", input: { command: "ls" } }, { say: "worked" }] : [{ say: `re: ${prompt}` }],
      );
      for (const pause of [0, 3_600_000]) {
        expect((await local.ask("work")).progress.kind).toBe("waiting");
        // What was said since has moved the cursor past the question.
        await bench.clock.advance(pause);
        world.patch(local.remoteId(), `Renamed ${pause}`, {});
        local.store(await list(local.cursor()));
        const outcome = await local.ask("next");
        expect(outcome.fault).toBeNull();
        expect(outcome.progress.kind).toBe("ended");
      }
      expect(local.replies()).toEqual(["re: next", "re: next"]);
      const verdicts = (await list(null)).flatMap((event) => (event.type === "confirmation" ? [event.isAllowed] : []));
      expect(verdicts).toEqual([false, false]);
    });

    test("puts another device's question aside that keeps our prompt in the queue for too long, and asks once", async () => {
      const gate = createGate();
      bench.setScript((prompt) =>
        prompt === "theirs" ? [{ hold: gate.opened }, { ask: "bash", input: null }] : [{ say: `re: ${prompt}` }],
      );
      await local.ask("one");
      world.post(local.remoteId(), "theirs");
      await settled(() => world.isRunning(local.remoteId()));
      const asking = local.ask("mine", (step) => step.kind === "asked" && gate.open());
      await settled(() => !world.isRunning(local.remoteId()));
      const outcome = await whileTimePasses(bench.clock, asking);
      expect(outcome.fault).toBeNull();
      expect(outcome.progress.kind).toBe("ended");
      expect(world.prompts(local.remoteId())).toEqual(["one", "theirs", "mine"]);
      expect(local.replies()).toEqual(["re: one", "re: mine"]);
    });

    test("asks anew when Claude gave a turn up, and not before it is told to go on", async () => {
      let isDown = true;
      bench.setScript((prompt) =>
        isDown
          ? [
              { fail: "model_rate_limited_error", retry: "retrying" },
              { fail: "model_rate_limited_error", retry: "exhausted" },
            ]
          : [{ say: `re: ${prompt}` }],
      );
      expect((await local.ask("hello")).fault?.code).toBe("claude_rate_limited");
      expect(world.prompts(local.remoteId())).toEqual(["hello"]);
      isDown = false;
      await bench.clock.advance(10_000);
      const outcome = await local.again();
      expect(outcome.progress.kind).toBe("ended");
      expect(local.replies()).toEqual(["re: hello"]);
      expect(world.prompts(local.remoteId())).toEqual(["hello", "hello"]);
    });

    test("does not take a prompt that was given up for the uncertain one after it", async () => {
      let isDown = true;
      bench.setScript((prompt) =>
        isDown ? [{ fail: "model_overloaded_error", retry: "exhausted" }] : [{ say: `re: ${prompt}` }],
      );
      expect((await local.ask("hello")).fault?.code).toBe("claude_overloaded");
      isDown = false;
      bench.loseSend();
      expect((await local.again()).fault?.code).toBe("claude_unreachable");
      expect((await local.again()).progress.kind).toBe("ended");
      expect(local.replies()).toEqual(["re: hello"]);
    });

    test("asks anew where the session rests and the prompt never left the queue", async () => {
      await local.ask("one");
      // As if it had been accepted and then thrown away without a word.
      const state = { kind: "asked", eventId: "sevt_nowhere" } as const;
      const turn = bench.backend.turn(local.view(), { text: "two", files: [], state }, never);
      const run = (async () => {
        const steps: TurnStep[] = [];
        for await (const step of turn) steps.push(step);
        return steps.map(({ kind }) => kind);
      })();
      expect(await whileTimePasses(bench.clock, run)).toContain("sending");
      expect(world.prompts(local.remoteId())).toEqual(["one", "two"]);
    });

    test("says when the session is gone: deleted, archived, or deleted while Claude speaks", async () => {
      for (const end of [world.remove, world.archive]) {
        await local.ask("hello");
        end(local.remoteId());
        const outcome = await local.ask("anybody there?");
        expect(outcome.fault).toBeNull();
        expect(outcome.steps.at(-1)).toEqual({ kind: "gone" });
      }
      const gate = createGate();
      bench.setScript(() => [{ write: ["…"] }, { hold: gate.opened }]);
      const outcome = await local.ask("hello", (step) => step.kind === "delta" && world.remove(local.remoteId()));
      expect(outcome.steps.at(-1)).toEqual({ kind: "gone" });
      gate.open();
    });

    test("says by its name what a session died of, also when it is looked at again", async () => {
      bench.setScript(() => [{ fail: "billing_error", retry: "terminal" }]);
      expect((await local.ask("hello")).fault?.code).toBe("claude_credit");
      expect((await local.again()).fault?.code).toBe("claude_credit");
      expect((await local.ask("anybody there?")).steps.at(-1)).toEqual({ kind: "gone", isBroken: true });
    });

    test("merges metadata key by key, and shows what another device wrote", async () => {
      await local.ask("hello");
      const id = local.remoteId();
      world.patch(id, "Renamed", { "c.topic": "a", "c.old": "x" });
      const updated = await remote.update(id, { metadata: { "c.old": null, "c.new": "b" } }, never);
      expect(updated).toMatchObject({ title: "Renamed", metadata: { "sb.schema": "1", "c.topic": "a", "c.new": "b" } });
      expect(updated.metadata["c.old"]).toBeUndefined();
      expect((await remote.update(id, { title: "Mine", metadata: {} }, never)).title).toBe("Mine");
      const changes = (await list(null)).filter((event) => event.type === "updated");
      expect(changes.map(({ title }) => title)).toEqual(["Renamed", null, "Mine"]);
      expect(changes[1]?.metadata).toEqual({ "sb.schema": "1", "c.topic": "a", "c.new": "b" });
    });

    test("archives, also a second time, and also while Claude works", async () => {
      const gate = createGate();
      bench.setScript((prompt) => (prompt === "slow" ? [{ hold: gate.opened }] : [{ say: "hi" }]));
      await local.ask("hello");
      world.post(local.remoteId(), "slow");
      await settled(() => world.isRunning(local.remoteId()));
      await whileTimePasses(bench.clock, remote.archive(local.remoteId(), never));
      await remote.archive(local.remoteId(), never);
      expect((await remote.retrieve(local.remoteId(), never))?.isArchived ?? true).toBe(true);
      gate.open();
    });

    test("lists the files that Claude made, oldest first, and fetches them", async () => {
      const bytes = new TextEncoder().encode("a,b\n1,ü\n");
      bench.setScript((prompt) => [
        { make: `${prompt}.csv`, contentType: "text/csv", bytes },
        { make: `${prompt}.html`, contentType: "text/html", bytes: new Uint8Array(300_000) },
        { say: "done" },
      ]);
      await local.ask("one");
      await bench.clock.advance(1_000);
      await local.ask("two");
      const files = await remote.files(local.remoteId(), never);
      expect(files.map(({ name }) => name)).toEqual(["one.csv", "one.html", "two.csv", "two.html"]);
      const [csv, html] = files;
      expect(csv).toMatchObject({ contentType: "text/csv", sizeBytes: bytes.length });
      expect(await remote.download(csv?.id ?? "", 1_000, never)).toEqual(bytes);
      expect((await remote.download(html?.id ?? "", 300_000, never))?.length).toBe(300_000);
      expect(await remote.download(html?.id ?? "", 299_999, never)).toBeNull();
      expect(await remote.download("file_nowhere", 1_000, never)).toBeNull();
      const other = createLocal(bench);
      bench.setScript(() => [{ say: "nothing made" }]);
      await other.ask("hello");
      expect(await remote.files(other.remoteId(), never)).toEqual([]);
    });

    test("interrupts a turn, which then ends", async () => {
      const gate = createGate();
      bench.setScript(() => [{ write: ["thinking"] }, { hold: gate.opened }, { say: "never said" }]);
      const stop = (step: TurnStep): void => {
        if (step.kind === "delta") void remote.interrupt(local.remoteId(), never);
      };
      const outcome = await local.ask("hello", stop);
      expect(outcome.progress).toMatchObject({ kind: "ended", stop: { kind: "end_turn" } });
      expect(local.replies()).toEqual(["thinking"]);
      gate.open();
    });

    test("follows a session that somebody else set running until it rests", async () => {
      const gate = createGate();
      await local.ask("hello");
      bench.setScript((prompt) => [{ hold: gate.opened }, { say: `re: ${prompt}` }]);
      world.post(local.remoteId(), "from the laptop");
      await settled(() => world.isRunning(local.remoteId()));
      const following = local.follow();
      await settled(() => bench.openStreams() > 0);
      gate.open();
      expect((await following).fault).toBeNull();
      await local.follow();
      expect(local.replies()).toEqual(["re: hello", "re: from the laptop"]);
    });
  });
}
