import { expect, test } from "bun:test";
import { promptBounds } from "../../src/core/backoff.ts";
import { BridgeError } from "../../src/core/errors.ts";
import type { Bridge } from "../../src/loops/bridge.ts";
import { createFileLoop } from "../../src/loops/made-files.ts";
import { createChatRig, owner } from "../doubles/chats.ts";
import { createVirtualClock, runUntil } from "../doubles/clock.ts";
import { createHeardLog } from "../doubles/quiet-log.ts";
import type { Beat, Script } from "../doubles/scripted.ts";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";

const file = (make: string, size = 5, contentType = "text/csv"): Beat => ({
  make,
  contentType,
  bytes: new TextEncoder().encode("x".repeat(size)),
});
const making =
  (...beats: readonly Beat[]): Script =>
  (prompt) =>
    prompt === "make" ? [...beats, { say: "done" }] : [{ say: `re: ${prompt}` }];

/** What the phone shows: texts, and files by their names. */
const seen = (bench: Bench): string[] =>
  bench.signal
    .screen()
    .map(({ text, files }) => (files.length === 0 ? text : files.map((sent) => sent.fileName).join()));

test("files that Claude makes arrive as attachments behind its answer, each once, also over a restart and a lost line", async () => {
  await using bench = await openBench({ script: making(file("a.csv"), file("b.csv")) });
  bench.signal.owner.write("make");
  await bench.until("the files", () => seen(bench).length === 3);
  expect(seen(bench)).toEqual(["done", "a.csv", "b.csv"]);
  expect(bench.signal.screen()[1]?.files).toEqual([
    { fileName: "a.csv", contentType: "text/csv", base64: btoa("xxxxx") },
  ]);
  await bench.kill();
  await bench.start();
  bench.world.setScript(making(file("c.csv")));
  bench.signal.faults.cut();
  bench.signal.owner.write("make");
  await bench.pass(120_000);
  bench.signal.faults.mend();
  await bench.until("the next file", () => seen(bench).length === 5);
  await bench.pass(15 * 60_000);
  expect(seen(bench)).toEqual(["done", "a.csv", "b.csv", "done", "c.csv"]);
});

test("a process killed at any write between the answer and the file sends the file once", async () => {
  let writes = 0;
  for (let wasKilled = true; wasKilled; writes++) {
    await using bench = await openBench({ script: making(file("a.csv")) });
    bench.signal.owner.write("make");
    await bench.until("the answer", () => isSettled(bench));
    bench.life().killAfterWrites(writes + 1);
    await bench.until("the file", () => bench.life().isDead() || seen(bench).length === 2);
    await bench.pass(60_000);
    wasKilled = bench.life().isDead();
    if (wasKilled) {
      bench.life().release();
      await bench.start();
      await bench.until("the file", () => seen(bench).length >= 2 && isSettled(bench));
      await bench.pass(60_000);
    }
    expect(seen(bench)).toEqual(["done", "a.csv"]);
  }
  expect(writes).toBeGreaterThan(4);
});

test("an outage of Claude between the answer and the file makes the file late, not lost", async () => {
  await using bench = await openBench({ script: making(file("a.csv")) });
  bench.signal.owner.write("make");
  await bench.until("the answer", () => isSettled(bench));
  bench.claude().setDown(true);
  await bench.pass(30 * 60_000);
  expect(seen(bench)).toEqual(["done"]);
  bench.claude().setDown(false);
  await bench.until("the file", () => seen(bench).length === 2);
  expect(bench.texts()).not.toContain("I can't reach Claude");
});

test("what is too large, one too many, or gone meanwhile is said in words", async () => {
  const many = Array.from({ length: 12 }, (_, index) => file(`${index}.txt`));
  await using bench = await openBench({ script: making(file("movie.mp4", 11 * 2 ** 20), ...many) });
  bench.signal.owner.write("make");
  await bench.until("the files", () => seen(bench).length === 12);
  expect(seen(bench).slice(0, 3)).toEqual([
    "done",
    "Claude made movie.mp4, which is too large to be sent here: 11 MB, and 10 MB are allowed.",
    "0.txt",
  ]);
  expect(seen(bench).at(-1)).toBe("Claude made 3 more: at most 10 files are sent at once.");
  bench.world.setScript(making(file("gone.txt")));
  bench.signal.owner.write("make");
  await bench.until("the answer", () => seen(bench).at(-1) === "done");
  const made = bench.world.sessions()[0]?.files ?? [];
  const last = made.at(-1);
  // Listed with its size, and larger when it comes.
  if (last) made[made.length - 1] = { ...last, bytes: new Uint8Array(11 * 2 ** 20) };
  await bench.until("the word", () => seen(bench).length === 14);
  expect(seen(bench).at(-1)).toBe("Claude made gone.txt, but it could not be fetched.");
});

test("what was sent is not kept a second time", async () => {
  await using bench = await openBench({ script: making(file("a.csv", 100_000)) });
  bench.signal.owner.write("make");
  await bench.until("the file", () => seen(bench).length === 2 && isSettled(bench));
  const { db } = bench.daemon().store;
  expect(db.get<{ bytes: number }>("SELECT max(length(body)) AS bytes FROM outbox")?.bytes).toBeLessThan(1_000);
});

test("a name from the sandbox is only a name", async () => {
  await using bench = await openBench({ script: making(file("../../etc/\u202Ecod.exe"), file("\n", 1, "no type")) });
  bench.signal.owner.write("make");
  await bench.until("the files", () => seen(bench).length === 3);
  expect(seen(bench).slice(1)).toEqual(["cod.exe", "file"]);
  expect(bench.signal.screen().at(-1)?.files[0]?.contentType).toBe("application/octet-stream");
});

test("what fails for one session alone is looked for for a week, ever more quietly, and then said to be lost", async () => {
  const rig = await createChatRig();
  const clock = createVirtualClock();
  const log = createHeardLog();
  rig.say("make");
  const session = rig.store.sessions.active("self")?.id ?? "";
  rig.store.sessions.setRemote(session, "remote");
  rig.log([{ id: "r", at: rig.now, type: "tool_result", toolUseId: "t", isError: false }]);
  let looks = 0;
  const broken = new BridgeError("claude_unreachable", "Cannot list the files as the Claude API answered 500");
  const line = { remote: { files: () => Promise.reject((looks++, broken)) } } as unknown as Bridge["line"];
  const { store, chats } = rig;
  const bridge = { store, chats, line, clock, log, random: () => 0.5, account: () => owner };
  const stop = new AbortController();
  const startedAt = clock.monotonic();
  const ended = createFileLoop(bridge as unknown as Bridge).run(stop.signal, stop.signal);
  expect(await runUntil(clock, () => rig.store.files.due().length === 0, 8 * 24 * 3_600_000)).toBe(true);
  expect((clock.monotonic() - startedAt) / 3_600_000).toBeCloseTo(7 * 24, 0);
  expect(rig.texts()).toEqual([expect.stringContaining("for a week")]);
  expect(looks).toBe(promptBounds.outage.triesMax);
  expect(log.lines().filter((line) => line.startsWith("warn"))).toHaveLength(15);
  stop.abort();
  await ended;
  rig.close();
});
