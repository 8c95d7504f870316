import { expect, test } from "bun:test";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";

/** A message, killed somewhere on its way, and the next process. True where the kill came before all was done. */
async function killedOnce(bench: Bench, arm: () => void): Promise<boolean> {
  arm();
  bench.signal.owner.write("hello");
  await bench.until("the end", () => bench.life().isDead() || isSettled(bench));
  const wasKilled = bench.life().isDead();
  if (wasKilled) {
    bench.life().release();
    await bench.start();
    await bench.until("order", () => isSettled(bench));
  }
  return wasKilled;
}

test("a process killed before or after any single write asks once and is heard once", async () => {
  let writes = 0;
  for (let wasKilled = true; wasKilled; writes++) {
    await using bench = await openBench();
    wasKilled = await killedOnce(bench, () => bench.life().killAfterWrites(writes + 1));
    expect(bench.posts).toEqual(["hello"]);
    expect(bench.texts()).toEqual(["re: hello"]);
  }
  // Accepted, asked, answered, sent: with less than these it killed nothing.
  expect(writes).toBeGreaterThan(20);
});

test("a process killed at any await asks once and is heard once", async () => {
  for (let ticks = 0; ticks < 60; ticks += 3) {
    await using bench = await openBench();
    bench.signal.owner.write("hello");
    for (let tick = 0; tick < ticks; tick++) await Promise.resolve();
    await bench.kill();
    await bench.start();
    await bench.until("order", () => isSettled(bench));
    expect(bench.posts).toEqual(["hello"]);
    expect(bench.texts()).toEqual(["re: hello"]);
  }
});

test("a prompt whose echo was never seen is found in the log, not asked again", async () => {
  await using bench = await openBench();
  expect(await killedOnce(bench, () => bench.life().killOn("prompt"))).toBe(true);
  expect(bench.posts).toEqual(["hello"]);
  expect(bench.texts()).toEqual(["re: hello"]);
});

test("a prompt whose echo was never seen is found although the clock was set back before the next start", async () => {
  await using bench = await openBench();
  bench.signal.owner.write("first");
  await bench.until("the first answer", () => isSettled(bench));
  bench.life().killOn("prompt");
  bench.signal.owner.write("hello");
  await bench.until("the kill", () => bench.life().isDead());
  bench.life().release();
  bench.machine.wallOffsetMs = -600_000;
  await bench.start();
  await bench.until("order", () => isSettled(bench));
  expect(bench.posts).toEqual(["first", "hello"]);
});

test("a prompt is built once: one whose echo was never seen is found although its file cannot be had any more", async () => {
  await using bench = await openBench();
  bench.life().killOn("prompt");
  const files = [{ fileName: "note.txt", contentType: "text/plain", base64: "aGVsbG8=" }];
  const { content } = bench.signal.owner.write("look", { files });
  await bench.until("the kill", () => bench.life().isDead());
  bench.life().release();
  bench.signal.faults.loseFile(content.kind === "text" ? (content.attachments[0]?.ref ?? "") : "");
  await bench.start();
  await bench.until("order", () => isSettled(bench));
  expect(bench.posts).toEqual(["look"]);
  expect(bench.texts()).toEqual(["re: look"]);
});

test("a message that went out as the process died is seen once where the timestamp is ours", async () => {
  await using bench = await openBench();
  expect(await killedOnce(bench, () => bench.life().killOn("message"))).toBe(true);
  expect(bench.texts()).toEqual(["re: hello"]);
});

test("a message that went out as the process died is repeated and counted where the timestamp is not ours", async () => {
  await using bench = await openBench({ ownTimestamps: false });
  expect(await killedOnce(bench, () => bench.life().killOn("message"))).toBe(true);
  expect(bench.texts()).toEqual(["re: hello", "re: hello"]);
  expect(bench.daemon().status().outbox.uncertain).toBe(1);
});
