/** What a line promises besides when its sessions live elsewhere. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { Frame, Remote } from "../../src/claude/line.ts";
import type { SessionEvent } from "../../src/core/model.ts";
import { codeOf, createGate, createLocal, never, settled, whileTimePasses, type Bench } from "./line.ts";

type World = NonNullable<Bench["remote"]>;

export function remoteLineContract(name: string, setup: () => Promise<Bench>): void {
  describe(`line contract, sessions elsewhere: ${name}`, () => {
    let bench: Bench;
    let world: World;
    let remote: Remote;
    let local: ReturnType<typeof createLocal>;
    beforeEach(async () => {
      bench = await setup();
      if (!bench.remote || !bench.line.remote) throw new Error("this line has no remote side");
      world = bench.remote;
      ({ remote } = bench.line);
      bench.setScript((prompt) => [{ write: ["re: ", prompt] }]);
      local = createLocal(bench);
    });
    afterEach(() => bench.close());
    const isType = (frame: Frame, type: SessionEvent["type"]): boolean =>
      frame.kind === "event" && frame.event.type === type;

    test("creates the session with its title and metadata", async () => {
      expect(await remote.retrieve(await local.create(), never)).toMatchObject({
        title: "Signal chat 0f3a",
        metadata: { "sb.id": "0f3a", "sb.schema": "1" },
        status: "idle",
        isArchived: false,
      });
    });

    test("finds a session again whose creation was never answered, and no other", async () => {
      await createLocal(bench, { metadata: { "sb.id": "another" } }).create();
      expect(await remote.find(local.view(), never)).toBeNull();
      world.loseCreate();
      expect(await codeOf(local.create())).toBe("claude_unreachable");
      const found = await remote.find(local.view(), never);
      expect(found && (await remote.retrieve(found, never))?.metadata["sb.id"]).toBe("0f3a");
      expect(await remote.find({ ...local.view(), metadata: {} }, never)).toBeNull();
    });

    test("shows a prompt whose answer was lost among the prompts, also while it is queued", async () => {
      const gate = createGate();
      bench.setScript((prompt) => [...(prompt === "slow" ? [{ hold: gate.opened }] : []), { say: `re: ${prompt}` }]);
      await local.ask("one");
      world.post(local.remoteId(), "slow");
      await settled(() => world.isRunning(local.remoteId()));
      bench.losePost();
      expect(await codeOf(local.ask("mine"))).toBe("claude_unreachable");
      const prompts = await local.list("prompts");
      expect(prompts.map((event) => event.type === "prompt" && event.text)).toEqual(["one", "slow", "mine"]);
      expect(prompts.at(-1)?.at).toBeNull();
      gate.open();
    });

    test("says that it does not know what became of a post that is not echoed", async () => {
      await local.create();
      world.dropEcho();
      expect(await codeOf(local.ask("hello"))).toBe("claude_protocol");
      expect(world.prompts(local.remoteId())).toEqual(["hello"]);
    });

    test("shows no tail of a message whose beginning it did not hear", async () => {
      const gate = createGate();
      bench.setScript(() => [{ write: ["one"] }, { hold: gate.opened }, { write: ["two"] }]);
      const heard: string[] = [];
      await local.ask("go", (frame) => {
        if (frame.kind !== "delta") return;
        heard.push(frame.text);
        if (frame.text === "one") world.tail(local.remoteId(), "late");
        gate.open();
      });
      expect(heard).toEqual(["one", "two"]);
    });

    test("lists what was said unheard, every entry with the same content", async () => {
      const gates = [createGate(), createGate()];
      bench.setScript(() => [
        { say: "a" },
        { hold: gates[0]?.opened ?? Promise.resolve() },
        { say: "b" },
        { hold: gates[1]?.opened ?? Promise.resolve() },
        { say: "c" },
      ]);
      expect(await codeOf(local.ask("go", (frame) => isType(frame, "reply") && bench.cutStreams()))).toBe(
        "claude_stream_lost",
      );
      gates.forEach((gate) => gate.open());
      await settled(() => !world.isRunning(local.remoteId()));
      await local.list();
      expect(local.replies()).toEqual(["a", "b", "c"]);
      expect(world.prompts(local.remoteId())).toEqual(["go"]);
    });

    test("lists from a time on, and everything", async () => {
      await local.ask("hello");
      await bench.clock.advance(600_000);
      world.say(local.remoteId(), "by the way");
      const since = (local.entries("idle").at(-1)?.at ?? 0) + 1;
      const texts = (events: readonly SessionEvent[]): string[] =>
        events.flatMap((event) => (event.type === "reply" ? [event.text] : []));
      expect(texts(await local.list(since))).toEqual(["by the way"]);
      expect(texts(await local.list())).toEqual(["re: hello", "by the way"]);
    });

    test("lists page by page, oldest first, and what is queued last", async () => {
      const gate = createGate();
      bench.setScript((prompt) => [{ say: `re: ${prompt}` }, ...(prompt === "slow" ? [{ hold: gate.opened }] : [])]);
      for (const prompt of ["one", "two", "three"]) await local.ask(prompt);
      const cursor = local.entries("idle").at(-1)?.at ?? 0;
      world.post(local.remoteId(), "slow");
      await settled(() => world.isRunning(local.remoteId()));
      world.post(local.remoteId(), "queued");
      for (const part of ["all", cursor] as const) {
        const log = await local.list(part);
        const times = log.flatMap(({ at }) => (at === null ? [] : [at]));
        expect(times).toEqual([...times].sort((a, b) => a - b));
        expect(log.at(-1)).toMatchObject({ type: "prompt", text: "queued", at: null });
        expect(new Set(log.map(({ id }) => id)).size).toBe(log.length);
      }
      expect((await local.list()).length).toBeGreaterThan(10);
      gate.open();
    });

    test("waits for a person's yes or no, takes either, and takes it once", async () => {
      bench.setScript(() => [{ ask: "bash", input: { command: "ls" } }, { say: "done" }]);
      for (const isAllowed of [true, false]) {
        const stop = await local.ask("list the files");
        const toolUseId = stop?.kind === "requires_action" ? (stop.eventIds[0] ?? "") : "";
        expect(local.entries("tool_use").at(-1)).toMatchObject({ id: toolUseId, isAsk: true, isLocal: false });
        const confirm = { kind: "confirm", toolUseId, isAllowed, reason: isAllowed ? null : "no" } as const;
        const echo = await local.post([confirm]).then(() => local.entries("confirmation").at(-1));
        expect(echo).toMatchObject({ toolUseId, isAllowed });
        expect(await codeOf(bench.line.post(local.view(), [confirm], () => {}, never))).toBe("claude_request");
      }
      expect(local.replies()).toEqual(["done", "done"]);
    });

    test("refuses an answer that nothing waits for", async () => {
      await local.ask("hello");
      const confirm = { kind: "confirm", toolUseId: "sevt_nowhere", isAllowed: true, reason: null } as const;
      expect(await codeOf(bench.line.post(local.view(), [confirm], () => {}, never))).toBe("claude_request");
    });

    test("says no to a question, stops the turn and asks the next thing in one batch", async () => {
      bench.setScript((prompt) =>
        prompt === "work" ? [{ ask: "bash", input: { command: "ls" } }, { say: "worked" }] : [{ say: `re: ${prompt}` }],
      );
      const stop = await local.ask("work");
      const toolUseId = stop?.kind === "requires_action" ? (stop.eventIds[0] ?? "") : "";
      expect(await codeOf(local.ask("next"))).toBe("claude_busy");
      await local.post([
        { kind: "confirm", toolUseId, isAllowed: false, reason: "The person went on to something else." },
        { kind: "interrupt" },
        { kind: "prompt", text: "next", files: [] },
      ]);
      await settled(() => !world.isRunning(local.remoteId()));
      await local.list();
      expect(local.replies()).toEqual(["re: next"]);
      expect(local.entries("confirmation").map(({ isAllowed }) => isAllowed)).toEqual([false]);
    });

    test("interrupts a turn, which then ends", async () => {
      const gate = createGate();
      bench.setScript(() => [{ write: ["thinking"] }, { hold: gate.opened }, { say: "never said" }]);
      const stop = await local.ask("hello", (frame) => {
        if (frame.kind === "delta") void bench.line.post(local.view(), [{ kind: "interrupt" }], () => {}, never);
      });
      expect(stop).toEqual({ kind: "end_turn" });
      expect(local.replies()).toEqual(["thinking"]);
      gate.open();
    });

    test("shows that Claude gave a turn up, in its own words", async () => {
      bench.setScript(() => [
        { fail: "model_rate_limited_error", retry: "retrying" },
        { fail: "model_request_failed_error", retry: "exhausted" },
      ]);
      expect(await local.ask("hello")).toEqual({ kind: "retries_exhausted" });
      expect(local.entries("error")).toMatchObject([
        { code: "model_rate_limited_error", retry: "retrying" },
        { code: "model_request_failed_error", retry: "exhausted" },
      ]);
    });

    test("says that the budget is used up, also after an interrupt", async () => {
      bench.setScript(() => [{ say: "that is all" }, { stop: { kind: "budget_reached" } }]);
      expect(await local.ask("hello")).toEqual({ kind: "budget_reached" });
      for (let turn = 0; turn < 2; turn++) {
        expect(await codeOf(local.ask("more"))).toBe("claude_budget");
        await bench.line.post(local.view(), [{ kind: "interrupt" }], () => {}, never);
      }
    });

    test("refuses what is posted to a session that is gone, archived or over", async () => {
      for (const end of [world.remove, world.archive]) {
        local = createLocal(bench);
        await local.ask("hello");
        end(local.remoteId());
        const post = bench.line.post(local.view(), [{ kind: "prompt", text: "x", files: [] }], () => {}, never);
        expect(await codeOf(post)).toBe("claude_request");
        expect((await remote.retrieve(local.remoteId(), never))?.isArchived ?? true).toBe(true);
      }
    });

    test("shows that a session dies of its prompt, and that one is deleted", async () => {
      bench.setScript(() => [{ fail: "billing_error", retry: "terminal" }]);
      const frames: Frame[] = [];
      const dying = codeOf(local.ask("hello", (frame) => frames.push(frame)));
      await settled(() => frames.some((frame) => isType(frame, "terminated")));
      bench.cutStreams();
      expect(await dying).toBe("claude_stream_lost");
      const gate = createGate();
      bench.setScript(() => [{ write: ["…"] }, { hold: gate.opened }]);
      const other = createLocal(bench);
      await codeOf(
        other.ask("hello", (frame) => {
          frames.push(frame);
          if (frame.kind === "delta") world.remove(other.remoteId());
        }),
      );
      expect(frames.at(-1)).toEqual({ kind: "deleted" });
      gate.open();
    });

    test("merges metadata key by key, and shows what another device wrote", async () => {
      const id = await local.create();
      world.patch(id, "Renamed", { "c.topic": "a", "c.old": "x" });
      const updated = await remote.update(id, { metadata: { "c.old": null, "c.new": "b" } }, never);
      const bag = { "sb.id": "0f3a", "sb.schema": "1", "c.topic": "a", "c.new": "b" };
      expect(updated).toMatchObject({ title: "Renamed", metadata: bag });
      expect(updated.metadata["c.old"]).toBeUndefined();
      expect((await remote.update(id, { title: "Mine", metadata: {} }, never)).title).toBe("Mine");
      const changes = (await local.list()).filter((event) => event.type === "updated");
      expect(changes.map(({ title }) => title)).toEqual(["Renamed", null, "Mine"]);
      expect(changes[1]?.metadata).toEqual(bag);
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

    test("deletes a session with its files, also a second time, and also while Claude works", async () => {
      const gate = createGate();
      const bytes = new Uint8Array(3);
      bench.setScript(() => [
        { make: "a.csv", contentType: "text/csv", bytes },
        { write: ["…"] },
        { hold: gate.opened },
      ]);
      const asking = codeOf(local.ask("hello"));
      await settled(() => local.entries("reply").length > 0);
      const files = await remote.files(local.remoteId(), never);
      await whileTimePasses(bench.clock, remote.remove(local.remoteId(), never));
      await remote.remove(local.remoteId(), never);
      expect(await remote.retrieve(local.remoteId(), never)).toBeNull();
      expect(await remote.download(files[0]?.id ?? "", 10, never)).toBeNull();
      gate.open();
      await asking;
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
      expect(await remote.files(await createLocal(bench).create(), never)).toEqual([]);
    });
  });
}
