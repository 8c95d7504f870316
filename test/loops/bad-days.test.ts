/** What hangs, jumps, floods or pings: a stop ends, `/health` stands, limits hold for whom they are meant. */
import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { countCommits } from "../doubles/commits.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { plainText } from "../../src/core/reply.ts";
import { openStore } from "../../src/store/store.ts";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";

const opened: Bench[] = [];
const open = async (...options: Parameters<typeof openBench>): Promise<Bench> => {
  const bench = await openBench(...options);
  opened.push(bench);
  return bench;
};
afterEach(async () => {
  for (const bench of opened.splice(0)) await bench[Symbol.asyncDispose]();
});

/** From the stop to the end of the process, in ms. */
async function stop(bench: Bench): Promise<number> {
  const from = bench.clock.monotonic();
  let code: number | null = null;
  void bench.daemon().finished.then((ended) => (code = ended));
  void bench.daemon().stop();
  await bench.until("the end", () => code !== null);
  expect(code as number | null).toBe(0);
  return bench.clock.monotonic() - from;
}

const drainMs = 10_000;
const never = new Promise<never>(() => undefined);

describe("a stop ends within the drain and five seconds", () => {
  test("under a send that does not come back; the message goes out after the next start", async () => {
    const bench = await open();
    const { transport } = bench.signal;
    const { send } = transport;
    transport.send = () => never;
    bench.signal.owner.write("hello");
    await bench.until("the reply, under way", () => bench.daemon().store.outbox.head("self")?.state === "sending");
    expect(await stop(bench)).toBeLessThanOrEqual(drainMs + 5_000);
    transport.send = send;
    await bench.kill();
    await bench.start();
    await bench.until("order", () => isSettled(bench));
    expect(bench.texts()).toEqual(["re: hello"]);
    expect(bench.posts).toEqual(["hello"]);
  });

  test("under a request that does not come back, and heeds no signal; it is not asked twice", async () => {
    const bench = await open();
    bench.claude().line.post = () => never;
    bench.signal.owner.write("hello");
    await bench.until("the question, under way", () => bench.daemon().store.posts.dueSessions().length > 0);
    expect(await stop(bench)).toBeLessThanOrEqual(drainMs + 5_000);
    await bench.kill();
    await bench.start();
    await bench.until("order", () => isSettled(bench));
    expect(bench.texts()).toEqual(["re: hello"]);
    expect(bench.posts).toEqual(["hello"]);
  });

  test("under a file that is not delivered", async () => {
    const bench = await open();
    bench.signal.transport.attachment = () => never;
    bench.signal.owner.write("look", { files: [{ fileName: "a.png", contentType: "image/png", base64: "aaaa" }] });
    await bench.until("the question", () => bench.daemon().store.posts.dueSessions().length > 0);
    expect(await stop(bench)).toBeLessThanOrEqual(drainMs + 5_000);
  });
});

test.each([
  ["a year ahead", 365 * 24 * 3_600_000],
  ["an hour back", -3_600_000],
  ["twenty years back", -20 * 365 * 24 * 3_600_000],
])("a clock that is set %s changes nothing about /health, and a dead line is still noticed", async (_, jumpMs) => {
  const bench = await open();
  await bench.pass(30_000);
  bench.machine.wallOffsetMs += jumpMs;
  for (let second = 0; second < 60; second++) {
    await bench.pass(1_000);
    expect(bench.daemon().health()).toBeNull();
  }
  expect(bench.state()).toBe("CONNECTED");
  bench.signal.faults.hang();
  await bench.pass(100_000);
  expect(bench.state()).not.toBe("CONNECTED");
  expect(bench.daemon().health()).toContain("no proof of life");
  bench.signal.faults.release();
  await bench.until("the line", () => bench.state() === "CONNECTED");
  bench.signal.owner.write("hello");
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toContain("re: hello");
});

test("a machine that sleeps again and again notices a dead line in the time that it is awake, and keeps one that lives", async () => {
  const bench = await open();
  const nap = async (): Promise<void> => {
    await bench.pass(12_000);
    bench.clock.jump(20 * 60_000);
  };
  for (let naps = 0; naps < 12; naps++) await nap();
  expect(bench.state()).toBe("CONNECTED");
  expect(bench.daemon().status().connection.reconnects).toBe(0);
  bench.signal.faults.hang();
  for (let naps = 0; naps < 8; naps++) await nap();
  expect(bench.state()).not.toBe("CONNECTED");
  bench.signal.faults.release();
  await bench.until("the line", () => bench.state() === "CONNECTED");
});

test("a limit on one recipient pauses that one, a limit of the account pauses all", async () => {
  const friend = { aci: "00000000-0000-4000-8000-000000000077", number: "+15550000077" };
  const bench = await open({ flags: { allow: `self,${friend.number}` } });
  const { transport } = bench.signal;
  const { send } = transport;
  let scope: "recipient" | "account" = "recipient";
  let isLimited = true;
  transport.send = (message) => {
    if (!isLimited || message.chat.kind !== "direct") return send(message);
    const details = { retryAfterMs: 600_000, scope };
    return Promise.reject(new BridgeError("signal_rate_limited", "Cannot send as there is a limit", details));
  };
  const writer = bench.signal.person(friend);
  writer.write("from a friend");
  await bench.until("the refusal", () => bench.log.some((line) => line.includes("send failed")));
  bench.signal.owner.write("from the owner");
  await bench.until("the owner's answer", () => bench.texts().includes("re: from the owner"));
  expect(bench.daemon().status().outbox.fault).toBeNull();
  isLimited = false;
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toContain("re: from a friend");
  [scope, isLimited] = ["account", true];
  writer.write("once more");
  await bench.until("the fault", () => bench.daemon().status().outbox.fault !== null);
  bench.signal.owner.write("and I");
  await bench.pass(300_000);
  expect(bench.texts()).not.toContain("re: and I");
  isLimited = false;
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toContain("re: and I");
});

test("a number that belongs to another account now is not let in, and its owner's new account only once it is on the list", async () => {
  const number = "+15550000077";
  const [old, other] = ["00000000-0000-4000-8000-000000000077", "00000000-0000-4000-8000-000000000078"];
  const bench = await open({ flags: { allow: `self,${number}` } });
  bench.signal.person({ aci: old, number }).write("hello");
  await bench.until("order", () => isSettled(bench));
  const stranger = bench.signal.person({ aci: other, number });
  stranger.write("let me in");
  stranger.write("please");
  await bench.until("order", () => isSettled(bench));
  await bench.pass(5_000);
  expect(bench.posts).toEqual(["hello"]);
  const word = `${number} of the allow list belongs to another Signal account now`;
  expect(bench.texts().filter((text) => text.startsWith(word) && text.endsWith(other))).toHaveLength(1);
  bench.signal.person({ aci: old, number }).write("still me");
  await bench.until("order", () => isSettled(bench));
  expect(bench.posts).toEqual(["hello", "still me"]);
});

test("in a group, too, who has the owner's number now is not the owner", async () => {
  const number = "+15550000077";
  const [old, other] = ["00000000-0000-4000-8000-000000000077", "00000000-0000-4000-8000-000000000078"];
  const id = "bGlzdGVkLWdyb3VwLi4uLi4uLi4uLi4uLi4uLi4uLi4=";
  const bench = await open({ flags: { allow: `${number},group:${id}` } });
  const isAllowed = (): boolean => bench.texts().some((text) => text.includes("+15550000099 may"));
  bench.signal.person({ aci: old, number }).write("hello");
  await bench.until("order", () => isSettled(bench));
  const word = { group: id, isMention: true };
  bench.signal.person({ aci: other, number }).write("/allow +15550000099", word);
  await bench.until("order", () => isSettled(bench));
  expect([bench.texts().at(-1), isAllowed()]).toEqual([expect.stringContaining("owner"), false]);
  bench.signal.person({ aci: old, number }).write("/allow +15550000099", word);
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts().at(-1)).toContain("+15550000099");
});

test("a burst is written in parts, so that nothing waits for all of it", async () => {
  const bench = await open({ flags: { allow: "self" } });
  bench.signal.faults.hang();
  for (let index = 0; index < 500; index++) bench.signal.owner.write(`m${index}`);
  const { db } = bench.daemon().store;
  let [inOne, most] = [0, 0];
  const { transaction, run } = db;
  db.transaction = (work) => {
    inOne = 0;
    return transaction(work);
  };
  db.run = (sql, ...params) => {
    if (sql.includes("INTO inbox")) most = Math.max(most, ++inOne);
    return run(sql, ...params);
  };
  bench.signal.faults.release();
  await bench.until("all of it", () => bench.daemon().status().inbox.pending + bench.posts.length >= 500);
  expect(most).toBeLessThanOrEqual(50);
});

test("timestamps follow the clock again when it is set right, and none is chosen twice", async () => {
  const home = mkdtempSync(join(tmpdir(), "signalman-stamps-"));
  const store = await openStore(home, { isExclusive: false });
  const [now, ahead] = [1_800_000_000_000, 400 * 24 * 3_600_000];
  let count = 0;
  const add = (at: number): number => {
    const subject = String(++count);
    store.outbox.add("note", subject, 0, { kind: "self" }, plainText("x"), at);
    return store.outbox.of("note", subject)[0]?.timestamp ?? 0;
  };
  expect([add(now), add(now), add(now - 60_000)]).toEqual([now, now + 1, now + 2]);
  // Ahead for a while, and right again.
  expect([add(now + ahead), add(now + ahead)]).toEqual([now + ahead, now + ahead + 1]);
  expect([add(now + 5), add(now + 5)]).toEqual([now + 5, now + 6]);
  // The time comes when what was chosen ahead is passed: from the first ms from which it is seen to the last.
  for (let at = now + ahead - 600_002; at <= now + ahead - 599_995; at++) expect(() => add(at)).not.toThrow();
  for (let at = now + ahead - 2; at <= now + ahead + 3; at++) expect(() => add(at)).not.toThrow();
  const all = store.db.all<{ timestamp: number }>("SELECT timestamp FROM outbox").map(({ timestamp }) => timestamp);
  expect(new Set(all).size).toBe(all.length);
  store.close();
  rmSync(home, { recursive: true });
});

/** Answers twenty of `count` prompts that wait; what that took of the database, and what `/health` took. */
async function answerTwentyOf(count: number) {
  const bench = await open();
  const { store } = bench.daemon();
  bench.claude().setDown(true);
  const envelope = bench.signal.owner.write("question 0");
  await bench.until("it waits", () => bench.signal.queued().length === 0);
  store.db.transaction(() => {
    for (let index = 1; index < count; index++)
      store.inbox.accept(`open|${index}`, "prompt", { ...envelope, sentAt: envelope.sentAt + index }, index);
  });
  const answered = () => bench.texts().filter((text) => text.startsWith("re:")).length;
  const { all } = store.db;
  const disk = countCommits(store.db);
  let rows = 0;
  const counted = store.db.all;
  store.db.all = ((sql: string, ...params: Parameters<typeof all> extends [string, ...infer P] ? P : never) => {
    const found = counted(sql, ...params);
    rows += found.length;
    return found;
  }) as typeof all;
  bench.claude().setDown(false);
  // What waits is announced, and the first answers have made the session.
  await bench.until("five answers", () => answered() >= 5);
  disk();
  for (let request = 0; request < 100; request++) expect(bench.daemon().health()).toBeNull();
  const health = disk().statements;
  rows = 0;
  const from = answered();
  await bench.until("twenty more", () => answered() >= from + 20);
  return { health, rows, statements: disk().statements };
}

test("ten thousand that wait cost an answer no more than a hundred do, and /health asks the database nothing", async () => {
  const few = await answerTwentyOf(100);
  const many = await answerTwentyOf(10_000);
  expect(many.health).toBe(0);
  expect(many.rows).toBeLessThanOrEqual(few.rows * 1.1);
  expect(many.statements).toBeLessThanOrEqual(few.statements * 1.1);
});
