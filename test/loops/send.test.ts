import { expect, test } from "bun:test";
import { BridgeError } from "../../src/core/errors.ts";
import type { Script } from "../doubles/scripted.ts";
import { people } from "../sim/config.ts";
import { isSettled, openBench } from "../sim/bench.ts";

test("replies reach each recipient in their order, whatever is refused on the way", async () => {
  await using bench = await openBench({ script: () => ["1", "2", "3"].map((say) => ({ say })) });
  bench.signal.faults.refuseSends("signal_unreachable", 2);
  bench.signal.faults.loseAnswers(2);
  bench.signal.owner.write("count");
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toEqual(["1", "2", "3"]);
});

test("an account that was unlinked is not hammered with sends", async () => {
  await using bench = await openBench();
  bench.signal.faults.refuseSends("unlinked", 1_000);
  bench.signal.owner.write("hello");
  await bench.pass(60_000);
  expect(bench.log.filter((line) => line.includes("send failed")).length).toBeLessThan(15);
});

test("a send whose record cannot be written is held, not said twice", async () => {
  await using bench = await openBench({ ownTimestamps: false, script: () => [{ pauseMs: 1_000 }, { say: "done" }] });
  bench.signal.faults.hang();
  bench.signal.owner.write("hello");
  bench.signal.faults.release();
  await bench.until("the question", () => bench.posts.length === 1);
  bench.signal.faults.hang();
  await bench.until(
    "the reply under way",
    () => bench.life().look()?.get("SELECT 1 FROM outbox WHERE state = 'sending'") !== undefined,
  );
  bench.machine.isDiskBroken = true;
  bench.signal.faults.release();
  await bench.pass(30_000);
  bench.machine.isDiskBroken = false;
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toEqual(["done"]);
  expect(bench.daemon().status().outbox).toMatchObject({ sent: 1, uncertain: 0 });
});

test("an answer that was to take the place of a draft comes as a message of its own where the draft never got out", async () => {
  const script: Script = () => [{ write: ["One.", " Two."], everyMs: 5_000 }];
  await using bench = await openBench({ script, flags: { progress: "true" } });
  const isQueued = (key: string): boolean =>
    bench.life().look()?.get("SELECT 1 FROM outbox WHERE why || ':' || subject LIKE ?", key) !== undefined;
  bench.signal.owner.write("count");
  await bench.until("the question", () => bench.posts.length === 1);
  bench.signal.faults.hang();
  await bench.until("the draft, on its way", () => isQueued("draft:%"));
  await bench.until("the answer, an edit of it", () => isQueued("reply:%"));
  bench.signal.faults.refuseSends("send_rejected");
  bench.signal.faults.release();
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toEqual(["One. Two."]);
});

test("a captcha stays in sight beside a message that was given up, and goes when it is solved", async () => {
  await using bench = await openBench();
  bench.signal.faults.refuseSends("captcha");
  bench.signal.owner.write("hello");
  const fault = () => bench.daemon().status().outbox.fault?.code ?? null;
  await bench.until("the captcha", () => fault() === "captcha");
  await bench.pass(10 * 60_000);
  expect(fault()).toBe("captcha");
  expect(bench.texts()).toEqual([]);
  bench.daemon().reconnect();
  await bench.until("order", () => isSettled(bench));
  expect(fault()).toBeNull();
  bench.signal.faults.refuseSends("unregistered");
  bench.signal.owner.write("and this");
  await bench.until("the end", () => bench.daemon().status().outbox.failed === 1);
  expect(fault()).toBeNull();
});

test("a server that has changed stops all sending, in sight and once an hour, until signalman is updated", async () => {
  await using bench = await openBench();
  const { transport } = bench.signal;
  const { send } = transport;
  let refused = 0;
  transport.send = async () => {
    refused++;
    throw new BridgeError("outdated", "Cannot ask Signal as the server answered 410 to PUT /v1/messages");
  };
  bench.signal.owner.write("hello");
  const fault = () => bench.daemon().status().outbox.fault;
  await bench.until("the fault", () => fault() !== null);
  const before = refused;
  await bench.pass(50 * 60_000);
  expect(refused).toBe(before);
  expect(fault()).toMatchObject({ code: "outdated", userAction: "update" });
  transport.send = send;
  bench.daemon().reconnect();
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toEqual(["re: hello"]);
  expect(fault()).toBeNull();
});

test("a captcha that one member of a group met stands in the status, until a send goes through", async () => {
  await using bench = await openBench();
  const { transport } = bench.signal;
  const { send } = transport;
  let isAsked = true;
  transport.send = async (message) => {
    const outcome = await send(message);
    return isAsked ? { ...outcome, failed: [{ recipient: "a", code: "captcha" }] } : outcome;
  };
  const fault = () => bench.daemon().status().outbox.fault;
  bench.signal.owner.write("hello");
  await bench.until("order", () => isSettled(bench));
  expect(fault()).toMatchObject({ code: "captcha", hint: expect.stringContaining("reconnect --captcha") });
  isAsked = false;
  bench.signal.owner.write("and this");
  await bench.until("order again", () => isSettled(bench) && fault() === null);
});

test("a rate limit holds all sending for as long as the server asks, and no longer", async () => {
  await using bench = await openBench();
  bench.signal.faults.refuseSends("signal_rate_limited", 1, 120_000);
  const from = bench.clock.monotonic();
  bench.signal.owner.write("hello");
  await bench.until("order", () => isSettled(bench));
  const tookMs = bench.clock.monotonic() - from;
  expect(tookMs).toBeGreaterThanOrEqual(120_000);
  expect(tookMs).toBeLessThan(125_000);
});

test("a limit of one recipient holds that chat alone", async () => {
  await using bench = await openBench();
  const { transport } = bench.signal;
  const { send } = transport;
  const refused: string[] = [];
  transport.send = async (message) => {
    if (message.chat.kind !== "self" || refused.length > 0) return send(message);
    refused.push(message.chat.kind);
    const limit = { retryAfterMs: 120_000, scope: "recipient" } as const;
    throw new BridgeError("signal_rate_limited", "Cannot send as the server answered 429", limit);
  };
  const from = bench.clock.monotonic();
  bench.signal.owner.write("slow");
  await bench.until("the refusal", () => refused.length > 0);
  const other = bench.signal.person(people.ann);
  other.write("quick");
  await bench.until("the other's answer", () => bench.texts().includes("re: quick"));
  expect(bench.clock.monotonic() - from).toBeLessThan(30_000);
  await bench.until("order", () => isSettled(bench));
  expect(bench.clock.monotonic() - from).toBeGreaterThanOrEqual(120_000);
  expect(bench.texts()).toContain("re: slow");
});

test("a clock that is set back makes nothing wait for hours, a full disk at that moment included", async () => {
  await using bench = await openBench();
  bench.machine.wallOffsetMs = 5 * 3_600_000;
  await bench.pass(5_000);
  bench.signal.faults.refuseSends("signal_unreachable", 6);
  bench.signal.owner.write("hello");
  await bench.until("the failures", () => bench.log.filter((line) => line.includes("send failed")).length === 6);
  bench.machine.isDiskBroken = true;
  bench.machine.wallOffsetMs = 0;
  await bench.pass(5_000);
  bench.machine.isDiskBroken = false;
  const from = bench.clock.monotonic();
  await bench.until("order", () => isSettled(bench));
  expect(bench.clock.monotonic() - from).toBeLessThan(70_000);
});

test("a mark that does not go out delays no answer, and the last one stands in the end", async () => {
  await using bench = await openBench({ flags: { reactions: "on" } });
  const { transport } = bench.signal;
  const { send } = transport;
  const held = Promise.withResolvers<void>();
  transport.send = async (message) => {
    if (message.body.kind === "reaction") await held.promise;
    return send(message);
  };
  bench.signal.owner.write("hello");
  await bench.until("the answer", () => bench.texts().includes("re: hello"));
  expect(bench.signal.reactions()).toEqual([]);
  held.resolve();
  await bench.until("order", () => isSettled(bench));
  expect(bench.signal.reactions().map(({ emoji }) => emoji)).toEqual(["👀", "✅"]);
});
