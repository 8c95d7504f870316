import { expect, test } from "bun:test";
import { BridgeError } from "../../src/core/errors.ts";
import type { Address, Chat } from "../../src/core/model.ts";
import { listedGroup, people, secretWord, unlistedGroup } from "../sim/config.ts";
import { isSettled, openBench } from "../sim/bench.ts";

test("rule 1: with a full disk the batch is held, nothing is acknowledged, and it is answered when there is room", async () => {
  await using bench = await openBench();
  bench.machine.isDiskBroken = true;
  bench.signal.owner.write("hello");
  await bench.pass(120_000);
  expect(bench.signal.queued()).toHaveLength(1);
  expect(bench.daemon().health()).toContain("disk I/O error");
  bench.machine.isDiskBroken = false;
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toEqual(["re: hello"]);
  expect(bench.daemon().health()).toBeNull();
});

test("a batch that is held as its line ends is not acknowledged: it comes again with the next line", async () => {
  await using bench = await openBench();
  bench.machine.isDiskBroken = true;
  bench.signal.owner.write("hello");
  await bench.pass(1_000);
  bench.daemon().reconnect();
  await bench.pass(1_000);
  expect(bench.signal.queued()).toHaveLength(1);
  bench.machine.isDiskBroken = false;
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toEqual(["re: hello"]);
});

test("a database that refuses to be written is known within a minute, before any message comes", async () => {
  await using bench = await openBench();
  await bench.pass(1_000);
  bench.machine.isDiskBroken = true;
  await bench.pass(61_000);
  expect(bench.daemon().health()).toContain("disk I/O error");
  bench.machine.isDiskBroken = false;
  await bench.pass(61_000);
  expect(bench.daemon().health()).toBeNull();
});

test("a database that cannot be read for a minute ends nothing", async () => {
  await using bench = await openBench();
  let isOver = false;
  void bench.daemon().finished.then(() => (isOver = true));
  const { db } = bench.daemon().store;
  const { get } = db;
  db.get = () => {
    throw new BridgeError("database", "Cannot use the database: disk I/O error");
  };
  await bench.pass(60_000);
  db.get = get;
  bench.signal.owner.write("hello");
  await bench.until("order", () => isOver || isSettled(bench));
  expect(isOver).toBe(false);
  expect(bench.texts()).toEqual(["re: hello"]);
});

test("stopping ends cleanly although the database cannot be read", async () => {
  await using bench = await openBench();
  await bench.pass(1_000);
  const daemon = bench.daemon();
  daemon.store.db.get = () => {
    throw new BridgeError("database", "Cannot use the database: disk I/O error");
  };
  let code: number | null = null;
  void daemon.finished.then((ended) => (code = ended));
  void daemon.stop();
  await bench.until("the end", () => code !== null);
  expect(code as number | null).toBe(0);
});

test("a real full disk, page by page, loses nothing and says nothing twice", async () => {
  await using bench = await openBench({ script: (prompt) => [{ say: `${prompt} ${"x".repeat(1_500)}` }] });
  bench.machine.isDiskFull = true;
  bench.life().applyDisk();
  for (let index = 0; index < 10; index++) bench.signal.owner.write(`m${index} `);
  await bench.pass(180_000);
  bench.machine.isDiskFull = false;
  bench.life().applyDisk();
  await bench.until("order", () => isSettled(bench));
  const heads = bench.texts().map((text) => text.split(" ")[0]);
  // The one in front says how many were waiting.
  expect(heads.filter((head) => head !== "10")).toEqual(Array.from({ length: 10 }, (_, index) => `m${index}`));
});

test("a redelivered message is answered once", async () => {
  await using bench = await openBench();
  bench.signal.faults.loseAcks(2);
  const hello = bench.signal.owner.write("hello");
  await bench.until("order", () => isSettled(bench));
  bench.signal.deliver(hello);
  await bench.pass(60_000);
  expect(bench.posts).toEqual(["hello"]);
  expect(bench.texts()).toEqual(["re: hello"]);
});

test("a command that is redelivered is done once, also where its row has taken other words", async () => {
  await using bench = await openBench();
  bench.signal.owner.write("hello");
  await bench.until("order", () => isSettled(bench));
  const commands = [bench.signal.owner.write("/new buy milk"), bench.signal.owner.write("/retry")];
  await bench.until("order", () => isSettled(bench));
  const posts = [...bench.posts];
  for (const command of commands) bench.signal.deliver(command);
  await bench.pass(60_000);
  expect(bench.posts).toEqual(posts);
  expect(posts).toEqual(["hello", "buy milk", "hello"]);
});

test("strangers, unlisted groups and talk without a mention are acknowledged, and nothing of them is kept or logged", async () => {
  await using bench = await openBench();
  const stranger = bench.signal.person(people.stranger, secretWord);
  stranger.write(secretWord);
  stranger.write("/status");
  bench.signal.person(people.ann).write(secretWord, { group: unlistedGroup, isMention: true });
  bench.signal.person(people.ann).write(secretWord, { group: listedGroup });
  await bench.until("the acknowledgement", () => bench.signal.queued().length === 0);
  const dump = bench.life().look()?.all("SELECT * FROM inbox");
  expect(dump).toEqual([]);
  expect(bench.log.filter((line) => line.includes(secretWord))).toEqual([]);
  expect(bench.texts()).toEqual([]);
  expect(bench.daemon().status().inbox.dropped).toBe(4);
});

test("CONNECTED is taken back when no proof of life has come for as long as it counts", async () => {
  await using bench = await openBench();
  bench.signal.faults.hang();
  await bench.pass(85_000);
  expect(bench.state()).toBe("CONNECTED");
  await bench.until("the stall", () => bench.state() !== "CONNECTED");
  expect(bench.daemon().status().connection.fault?.code ?? "stalled").toBe("stalled");
  bench.signal.faults.release();
  await bench.until("the line", () => bench.state() === "CONNECTED");
});

test("a proof of life counts from when it came, not from when the disk had room for what came with it", async () => {
  await using bench = await openBench();
  const proofAt = () => Date.parse(bench.daemon().status().connection.lastProofAt ?? "");
  bench.machine.isDiskBroken = true;
  const { sentAt } = bench.signal.owner.write("hello");
  await bench.pass(1_000);
  bench.signal.faults.hang();
  await bench.pass(30_000);
  bench.machine.isDiskBroken = false;
  await bench.pass(30_000);
  expect(bench.signal.queued()).toEqual([]);
  expect(proofAt()).toBeLessThan(sentAt + 2_000);
});

test("stopping finishes the turn at work and sends its answer before it ends", async () => {
  await using bench = await openBench({ script: (prompt) => [{ pauseMs: 5_000 }, { say: `re: ${prompt}` }] });
  bench.signal.owner.write("hello");
  await bench.until("the question", () => bench.posts.length === 1);
  const codes: number[] = [];
  void bench.daemon().finished.then((code) => void codes.push(code));
  void bench.daemon().stop();
  await bench.until("the end", () => codes.length > 0);
  expect(codes).toEqual([0]);
  expect(bench.texts()).toEqual(["re: hello"]);
  bench.life().kill("by its own end");
});

test("what Signal tells the owner is said in their chat, once a day", async () => {
  await using bench = await openBench();
  const { transport } = bench.signal;
  const { receive } = transport;
  const notice = { code: "phone_idle", text: "Open Signal on your phone soon." } as const;
  transport.receive = async (...given) => ({ ...(await receive(...given)), notices: [notice] });
  await bench.until("the notice", () => bench.texts().length > 0);
  await bench.pass(60_000);
  expect(bench.texts()).toEqual([notice.text]);
});

test("a kind that is newer than this program gets one sentence a day, in the chats that we answer in", async () => {
  const aci = "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002";
  await using bench = await openBench({ flags: { allow: `self,${aci}` } });
  const show = (source: Address, chat: Chat, sentAt: number, isOwn = false) =>
    bench.signal.deliver({
      source,
      sourceDevice: 1,
      sourceName: "Ben",
      serverAt: sentAt,
      sentAt,
      chat,
      isOwn,
      content: { kind: "unknown", what: "field 99" },
    });
  const ben = { aci, number: null };
  const stranger = { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b003", number: null };
  show(stranger, { kind: "direct", peer: stranger }, 1);
  show(ben, { kind: "group", id: "Z3JvdXA=" }, 2);
  show(bench.signal.account, { kind: "direct", peer: ben }, 3, true);
  for (let sentAt = 10; sentAt < 20; sentAt++) show(ben, { kind: "direct", peer: ben }, sentAt);
  show(bench.signal.account, { kind: "self" }, 4, true);
  await bench.pass(5_000);
  const said = "I cannot read that kind of message: it needs a newer signalman.";
  const told = () => bench.signal.screen().map(({ chat, text }) => [chat.kind, text]);
  expect(told().toSorted((a, b) => String(a).localeCompare(String(b)))).toEqual([
    ["direct", said],
    ["self", said],
  ]);
  bench.machine.wallOffsetMs = 26 * 3_600_000;
  show(ben, { kind: "direct", peer: ben }, 30);
  await bench.pass(5_000);
  expect(told()).toHaveLength(3);
});

test("on an account of Claude's own the owner hears once of each person known by name who may not ask; on their own, never", async () => {
  const number = "+15550100009";
  await using bench = await openBench({ flags: { allow: number } });
  const ben = bench.signal.person({ aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002", number: "+15550100008" }, "Ben");
  ben.write("something private");
  ben.write("hello?");
  bench.signal.person({ aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b003", number: null }).write("who am I?");
  await bench.pass(5_000);
  expect(bench.texts()).toEqual([expect.stringMatching(/^“Ben”.* \/allow \+15550100008 lets them\.$/u)]);
  bench.machine.wallOffsetMs = 26 * 3_600_000;
  ben.write("still there?");
  for (let count = 1; count <= 9; count++)
    bench.signal.person({ aci: null, number: `+1555010001${count}` }, `Caller ${count}`).write("hi");
  await bench.pass(5_000);
  expect(bench.texts()).toHaveLength(1 + 5);
  await using own = await openBench({ flags: { allow: `self,${number}` } });
  own.signal.person({ aci: null, number: "+15550100008" }, "Ben").write("something private");
  await own.pass(5_000);
  expect(own.texts()).toEqual([]);
});
