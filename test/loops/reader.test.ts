/** Rules 4 and 5 of the house: a log has one reader, which opens, lists and listens; an uncertain post is looked up. */
import { expect, test } from "bun:test";
import type { Remote } from "../../src/claude/line.ts";
import { BridgeError } from "../../src/core/errors.ts";
import type { Session } from "../../src/core/model.ts";
import { createLive } from "../../src/loops/live.ts";
import type { Bridge } from "../../src/loops/bridge.ts";
import { createChatRig } from "../doubles/chats.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import type { Script } from "../doubles/scripted.ts";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";

const minuteMs = 60_000;

async function openAnswered(script?: Script) {
  const bench = await openBench(script ? { script } : {});
  bench.signal.owner.write("hello");
  await bench.until("an answer", () => isSettled(bench));
  return bench;
}
const idOf = (bench: Bench): string => bench.world.sessions()[0]?.id ?? "";
function remoteOf(bench: Bench): Remote {
  const { remote } = bench.claude().line;
  if (remote === null) throw new Error("This line has no remote side");
  return remote;
}

test("rule 4: while a sync lists a log, the follower waits with its own listing", async () => {
  await using bench = await openAnswered();
  const gate = Promise.withResolvers<void>();
  const remote = remoteOf(bench);
  const { list } = remote;
  const listings = { now: 0, most: 0, all: 0 };
  Object.assign(remote, {
    async *list(...args: Parameters<typeof list>) {
      listings.all++;
      listings.most = Math.max(listings.most, ++listings.now);
      try {
        if (listings.all === 1) await gate.promise;
        yield* list(...args);
      } finally {
        listings.now--;
      }
    },
  });
  await bench.until("the sync's listing", () => bench.world.sessions().length > 0 && listings.now === 1);
  bench.signal.owner.write("and now?");
  await bench.pass(5_000);
  expect(listings.all).toBe(1);
  gate.resolve();
  await bench.until("the answer", () => isSettled(bench));
  expect(listings.all).toBeGreaterThan(1);
  expect(listings.most).toBe(1);
});

test("rule 4: SYNCING lasts until the log of each conversation in use was caught up with", async () => {
  await using bench = await openAnswered();
  bench.signal.faults.cut();
  await bench.until("the loss", () => bench.state() === "DISCONNECTED");
  const gate = Promise.withResolvers<void>();
  const remote = remoteOf(bench);
  const { list } = remote;
  Object.assign(remote, {
    async *list(...args: Parameters<typeof list>) {
      await gate.promise;
      yield* list(...args);
    },
  });
  bench.world.say(idOf(bench), "while you were away");
  bench.signal.faults.mend();
  await bench.until("the line", () => bench.state() === "SYNCING");
  await bench.pass(5_000);
  expect([bench.state(), bench.texts()]).toEqual(["SYNCING", ["re: hello"]]);
  gate.resolve();
  await bench.until("the end of the sync", () => bench.state() === "CONNECTED");
  await bench.until("what was said", () => bench.texts().length === 2);
  expect(bench.texts()[1]).toBe("while you were away");
});

test("rule 4: what is said between the listing of a log and the first frame is heard: the stream was open before", async () => {
  await using bench = await openAnswered();
  const remote = remoteOf(bench);
  const { list } = remote;
  let isSaid = false;
  Object.assign(remote, {
    async *list(...args: Parameters<typeof list>) {
      yield* list(...args);
      if (!isSaid) bench.world.say(idOf(bench), "by the way");
      isSaid = true;
    },
  });
  bench.signal.owner.write("and now?");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts()).toEqual(["re: hello", "by the way", "re: and now?"]);
});

test("rule 4: an entry of before the cursor that is listed late is stored, and said", async () => {
  await using bench = await openAnswered();
  await bench.kill();
  const session = bench.world.find(idOf(bench));
  const at = (session?.log.at(-1)?.at ?? 0) - 5_000;
  session?.log.push({ id: "sevt_late", at, type: "reply", text: "late" });
  await bench.start();
  await bench.until("the late word", () => bench.texts().includes("late"));
});

test("a prompt waits for a stopped session to rest: it is asked once, and not refused before that", async () => {
  await using bench = await openAnswered((prompt) => [
    ...(prompt === "long" ? [{ pauseMs: 10 * minuteMs }] : []),
    { say: `re: ${prompt}` },
  ]);
  bench.signal.owner.write("long");
  await bench.until("the prompt", () => bench.posts.includes("long"));
  await bench.pass(1_000);
  const { line } = bench.claude();
  const { post } = line;
  let isStopping = false;
  let asked = 0;
  // A stop is taken up a moment after it was answered; a prompt is refused meanwhile.
  line.post = async (session, requests, ...rest) => {
    if (requests.some(({ kind }) => kind === "prompt")) {
      asked++;
      if (isStopping) throw new BridgeError("claude_busy", "Cannot ask Claude as it waits for what it asked for");
      return post(session, requests, ...rest);
    }
    isStopping = true;
    void bench.clock.sleep(600, new AbortController().signal).then(async () => {
      await post(session, requests, ...rest);
      isStopping = false;
    });
  };
  bench.signal.owner.write("/stop");
  bench.signal.owner.write("next");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts()).toEqual(["re: hello", "Stopped.", "re: next"]);
  expect(asked).toBe(1);
});

test("silence is no end: a stream that says nothing is opened anew while the turn goes on", async () => {
  const end = Promise.withResolvers<void>();
  await using bench = await openAnswered((prompt) => [
    ...(prompt === "long" ? [{ hold: end.promise }] : []),
    { say: `re: ${prompt}` },
  ]);
  bench.signal.owner.write("long");
  await bench.until("the prompt", () => bench.posts.includes("long"));
  await bench.pass(1_000);
  bench.claude().setMute(true);
  await bench.pass(76_000);
  bench.claude().setMute(false);
  await bench.pass(6_000);
  end.resolve();
  await bench.pass(1_000);
  expect(bench.texts().at(-1)).toBe("re: long");
});

test("a session that was archived elsewhere is not asked again: the message is answered in a fresh one", async () => {
  await using bench = await openAnswered();
  bench.world.archive(idOf(bench));
  bench.signal.owner.write("and now?");
  await bench.until("the answer", () => bench.texts().includes("re: and now?"));
  expect(bench.world.sessions()).toHaveLength(2);
  expect(bench.texts().filter((text) => text.includes("closed elsewhere"))).toHaveLength(1);
});

test("a prompt that Claude takes and never begins with is asked three times at most, and ends in words", async () => {
  await using bench = await openAnswered();
  const { line } = bench.claude();
  const { post } = line;
  let asked = 0;
  line.post = async (session, requests, hear, signal) => {
    if (!requests.some(({ kind }) => kind === "prompt")) return post(session, requests, hear, signal);
    hear({ kind: "event", event: { id: `sevt_lost${++asked}`, at: null, type: "prompt", text: "never begun" } });
  };
  bench.signal.owner.write("never begun");
  await bench.until("the end", () => isSettled(bench));
  expect(asked).toBe(3);
  expect(bench.texts().slice(1)).toEqual([
    expect.stringContaining("I ask once more"),
    expect.stringContaining("stopped asking"),
  ]);
  line.post = post;
  bench.signal.owner.write("good");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts().at(-1)).toBe("re: good");
});

test("a sync that meets a follower whose listing fails is over with it", async () => {
  const end = Promise.withResolvers<void>();
  await using bench = await openBench({ script: () => [{ hold: end.promise }, { say: "done" }] });
  bench.signal.owner.write("long");
  await bench.until("the prompt", () => bench.posts.length === 1);
  await bench.pass(1_000);
  bench.signal.faults.cut();
  await bench.until("the loss", () => bench.state() === "DISCONNECTED");
  bench.claude().fail("list", { kind: "refuse", code: "claude_unreachable" });
  bench.signal.faults.mend();
  const beganAt = bench.clock.monotonic();
  await bench.until("the line", () => bench.state() === "CONNECTED");
  expect(bench.clock.monotonic() - beganAt).toBeLessThan(minuteMs);
  end.resolve();
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts()).toEqual(["done"]);
});

test("what still runs in a conversation that is over is stopped there, once", async () => {
  await using bench = await openBench({ script: () => [{ pauseMs: 10 * minuteMs }, { say: "done" }] });
  bench.signal.owner.write("long");
  await bench.until("the prompt", () => bench.posts.length === 1);
  await bench.pass(1_000);
  const { line } = bench.claude();
  const { post } = line;
  let stops = 0;
  line.post = (session, requests, ...rest) => {
    stops += requests.filter(({ kind }) => kind === "interrupt").length;
    return post(session, requests, ...rest);
  };
  // The follower of that time ends with it.
  bench.claude().fail("post", { kind: "refuse", code: "claude_unreachable" });
  bench.signal.owner.write("/new");
  await bench.pass(20 * minuteMs);
  expect(stops).toBe(2);
  expect(bench.world.sessions().map(({ status }) => status)).toEqual(["idle"]);
  expect(bench.texts()).toEqual([expect.stringContaining("New conversation.")]);
});

test("rule 5: a prompt whose answer was lost is found by the server's clock, which is behind ours by ten minutes", async () => {
  await using bench = await openAnswered();
  await bench.kill();
  bench.machine.wallOffsetMs += 10 * minuteMs;
  await bench.start();
  await bench.until("the line", () => bench.state() === "CONNECTED");
  bench.claude().fail("post", { kind: "lose" });
  bench.signal.owner.write("and now?");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.posts).toEqual(["hello", "and now?"]);
  expect(bench.texts()).toEqual(["re: hello", "re: and now?"]);
});

test("rule 5: a prompt that never arrived is not found in an earlier one of the same words", async () => {
  await using bench = await openAnswered();
  bench.claude().fail("post", { kind: "refuse", code: "claude_unreachable" });
  bench.signal.owner.write("hello");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.posts).toEqual(["hello", "hello"]);
  expect(bench.texts()).toEqual(["re: hello", "re: hello"]);
});

test("rule 5: nor in one that was stopped before its echo was seen, however short ago", async () => {
  await using bench = await openAnswered((prompt) => [{ pauseMs: 10_000 }, { say: `re: ${prompt}` }]);
  bench.claude().fail("post", { kind: "lose" });
  bench.signal.owner.write("ok");
  await bench.until("the lost post", () => bench.posts.length === 2);
  bench.signal.owner.write("/stop");
  await bench.until("the stop", () => isSettled(bench));
  await bench.pass(5_000);
  bench.claude().fail("post", { kind: "lose" });
  bench.signal.owner.write("ok");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.posts).toEqual(["hello", "ok", "ok"]);
  expect(bench.texts()).toEqual(["re: hello", "Stopped.", "re: ok"]);
});

test("the typing indicator ends where the database cannot be read, and nothing else does", async () => {
  const shown: boolean[] = [];
  const typing = (_: unknown, isTyping: boolean): Promise<void> => Promise.resolve(void shown.push(isTyping));
  const head = (): never => {
    throw new BridgeError("database", "Cannot use the database");
  };
  const bridge = {
    clock: createVirtualClock(0),
    log: quietLog,
    store: { outbox: { head } },
    transport: { capabilities: { typing: true }, typing },
    isConnected: () => true,
  };
  const live = createLive(bridge as unknown as Bridge);
  live.at({ inboxId: 1, session: { chat: { kind: "self" }, context: {} } as Session });
  await live.end();
  expect(shown).toEqual([true, false]);
});

test("no preview is shown of a prompt that is answered, stopped or taken back", async () => {
  const rig = await createChatRig();
  try {
    const id = rig.say("hello");
    const { store, chats } = rig;
    const clock = createVirtualClock(rig.now);
    const transport = { capabilities: { typing: false, edits: true } };
    const bridge = { store, chats, clock, transport, config: { progress: true }, isConnected: () => true };
    const live = createLive(bridge as unknown as Bridge);
    live.at({ inboxId: id, session: { chat: { kind: "self" }, context: {} } as Session });
    const previews = (): number => rig.names().filter((name) => name.startsWith("draft")).length;
    clock.jump(minuteMs);
    live.text("e", "Once upon a time ");
    expect(previews()).toBe(1);
    clock.jump(minuteMs);
    store.inbox.finish(id, "answered", clock.now());
    live.text("e", "there was a late piece");
    expect(previews()).toBe(1);
    await live.end();
  } finally {
    rig.close();
  }
});
