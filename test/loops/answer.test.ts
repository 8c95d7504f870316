import { BridgeError } from "../../src/core/errors.ts";
import { expect, test } from "bun:test";
import type { Script } from "../doubles/scripted.ts";
import { listedGroup, people } from "../sim/config.ts";
import { isSettled, openBench } from "../sim/bench.ts";

const slow: Script = (prompt) => [{ pauseMs: 30_000 }, { say: `re: ${prompt}` }];
const asking: Script = (prompt) =>
  prompt === "work" ? [{ ask: "shell", input: { command: "ls" } }, { say: "worked" }] : [{ say: `re: ${prompt}` }];

test("an outage of Claude leaves the line CONNECTED, tells the person once, and is answered when it is over", async () => {
  await using bench = await openBench();
  bench.claude().setDown(true);
  bench.signal.owner.write("hello");
  await bench.pass(10 * 60_000);
  expect(bench.state()).toBe("CONNECTED");
  expect(bench.texts()).toEqual([expect.stringContaining("can't reach Claude")]);
  bench.claude().setDown(false);
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toEqual([expect.any(String), "re: hello"]);
  expect(bench.daemon().status().claude.lastError).toBeNull();
});

test("who was promised an answer hears when none will come", async () => {
  await using bench = await openBench();
  bench.claude().setDown(true);
  bench.signal.owner.write("huge");
  await bench.pass(10 * 60_000);
  bench.claude().fail("post", { kind: "refuse", code: "claude_too_large" });
  bench.claude().setDown(false);
  await bench.until("the refusal", () => isSettled(bench));
  expect(bench.texts()).toEqual([expect.stringContaining("can't reach Claude"), expect.stringContaining("too large")]);
});

test("a message that Claude does not take, or that never gets to Claude, does not make Claude unreachable in the status", async () => {
  await using bench = await openBench();
  bench.claude().fail("post", { kind: "refuse", code: "claude_too_large" });
  bench.signal.owner.write("huge");
  await bench.until("the refusal", () => isSettled(bench));
  const { claude } = bench.daemon().status();
  expect(claude).toMatchObject({ reachable: true, lastError: { code: "claude_too_large" } });
  bench.signal.owner.write("small");
  await bench.until("the answer", () => isSettled(bench));
  bench.signal.owner.write("", { files: [{ fileName: "note.aac", contentType: "audio/aac", base64: "AAAA" }] });
  await bench.until("the sentence", () => bench.texts().length === 3 && isSettled(bench));
  expect(bench.texts().at(-1)).toContain("voice notes");
  expect(bench.daemon().status().claude).toMatchObject({ reachable: true, lastError: null });
});

test("a question that is answered elsewhere is noticed within half a minute, although no stream is open", async () => {
  await using bench = await openBench({ script: asking });
  bench.signal.owner.write("work");
  await bench.until("the question", () => bench.texts().length === 1);
  const session = bench.world.sessions()[0];
  bench.world.confirm(session?.id ?? "", session?.asks[0]?.id ?? "", true);
  await bench.pass(31_000);
  expect(bench.texts().at(-1)).toBe("worked");
  expect(isSettled(bench)).toBe(true);
});

test("/stop ends the answer at work here and at Claude, and the next message is taken at once", async () => {
  await using bench = await openBench({ script: slow });
  bench.signal.owner.write("long");
  await bench.until("the question", () => bench.posts.length === 1);
  bench.signal.owner.write("/stop");
  await bench.until("the stop", () => isSettled(bench));
  expect(bench.texts()).toEqual(["Stopped."]);
  expect(bench.world.sessions()[0]?.status).toBe("idle");
  bench.signal.owner.write("next");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts()).toEqual(["Stopped.", "re: next"]);
});

test("/new starts a fresh session, and what comes after it is asked there only", async () => {
  await using bench = await openBench({ script: slow });
  bench.signal.owner.write("one");
  await bench.until("the question", () => bench.posts.length === 1);
  bench.signal.owner.write("/new");
  bench.signal.owner.write("two");
  await bench.until("order", () => isSettled(bench));
  expect(bench.posts).toEqual(["one", "two"]);
  expect(bench.world.sessions()).toHaveLength(2);
  expect(bench.texts().at(-1)).toBe("re: two");
});

test("what is written after /new waits until it is done, also where Claude is slow to let go of the old session", async () => {
  await using bench = await openBench({ script: slow });
  bench.signal.owner.write("one");
  await bench.until("the question", () => bench.posts.length === 1);
  bench.claude().fail("post", { kind: "hang" });
  bench.signal.owner.write("/new");
  await bench.pass(5_000);
  bench.signal.owner.write("two");
  await bench.until("order", () => isSettled(bench));
  expect(bench.posts).toEqual(["one", "two"]);
  expect(bench.world.sessions().map(({ log }) => log.filter(({ type }) => type === "prompt").length)).toEqual([1, 1]);
  expect(bench.texts().at(-1)).toBe("re: two");
});

test("a message right behind a command is answered at once", async () => {
  await using bench = await openBench();
  const from = bench.clock.monotonic();
  bench.signal.owner.write("/verbose on");
  bench.signal.owner.write("hello");
  await bench.until("the answers", () => isSettled(bench));
  expect(bench.texts()).toEqual(["Tool use is shown.", "re: hello"]);
  expect(bench.clock.monotonic() - from).toBeLessThan(1_000);
});

test("what was set in a chat outlives its conversation, and is shown as it will be", async () => {
  await using bench = await openBench();
  for (const text of ["/verbose on", "/effort high", "hello", "/new", "/effort", "/verbose"]) {
    bench.signal.owner.write(text);
    await bench.until("the answer", () => isSettled(bench));
  }
  expect(bench.texts().slice(-3)).toEqual([
    "New conversation.",
    "Effort: high\nOthers: low, medium, xhigh, max",
    "Tool use is not shown.",
  ]);
});

test("deleting a message that waits its turn does not disturb the answer before it", async () => {
  await using bench = await openBench({ script: slow });
  bench.signal.owner.write("first");
  const second = bench.signal.owner.write("second");
  await bench.until("the question", () => bench.posts.length === 1);
  bench.signal.owner.delete(second.sentAt);
  await bench.until("order", () => isSettled(bench));
  expect(bench.posts).toEqual(["first"]);
  expect(bench.texts()).toEqual(["re: first"]);
});

test("editing a message whose question is open ends that question, and the new version is answered", async () => {
  await using bench = await openBench({ script: asking });
  const work = bench.signal.owner.write("work");
  await bench.until("the question", () => bench.texts().some((text) => text.includes("shell")));
  bench.signal.owner.edit(work.sentAt, "rest");
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts().at(-1)).toBe("re: rest");
});

test("an answer of the same millisecond as the next prompt does not count as that prompt's answer", async () => {
  await using bench = await openBench({ script: (prompt) => (prompt === "silent" ? [] : [{ say: "something" }]) });
  bench.signal.owner.write("loud");
  bench.signal.owner.write("silent");
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toEqual(["something", "Claude finished without a message."]);
});

test("a question that was stopped while Claude could not hear of it does not stand in the way of the next message", async () => {
  await using bench = await openBench({ script: asking });
  bench.signal.owner.write("work");
  await bench.until("the question", () => bench.texts().some((text) => text.includes("shell")));
  bench.claude().setDown(true);
  bench.signal.owner.write("/stop");
  await bench.until("the stop", () => isSettled(bench));
  bench.claude().setDown(false);
  bench.signal.owner.write("next");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts().slice(1)).toEqual(["Stopped.", "re: next"]);
  expect(bench.posts).toEqual(["work", "next"]);
});

test("a question that waits for a yes survives a crash, and the yes is heard by the next process", async () => {
  await using bench = await openBench({ script: asking });
  bench.signal.owner.write("work");
  await bench.until("the question", () => bench.texts().some((text) => text.includes("shell")));
  await bench.kill();
  await bench.start();
  await bench.until("the line", () => bench.state() === "CONNECTED");
  bench.signal.owner.write("yes");
  await bench.until("order", () => isSettled(bench));
  expect(bench.posts).toEqual(["work"]);
  expect(bench.texts().at(-1)).toBe("worked");
});

test("in a group a member may ask, but only who is on the list by name may say yes, by command too", async () => {
  await using bench = await openBench({ script: (prompt) => asking(prompt.replace("Carl: ", "")) });
  const mention = { group: listedGroup, isMention: true };
  const carl = bench.signal.person(people.carl, "Carl");
  carl.write("work", mention);
  await bench.until("the question", () => bench.texts().some((text) => text.includes("shell")));
  carl.write("/approve", mention);
  carl.write("yes", mention);
  await bench.pass(60_000);
  expect(bench.texts()).not.toContain("worked");
  expect(bench.texts().filter((text) => text.includes("allowed by name"))).toHaveLength(2);
  expect(bench.posts).toHaveLength(1);
  bench.signal.person(people.ann, "Ann").write("/approve", mention);
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toContain("worked");
});

test("where the remote session is gone its open prompt is asked anew in a fresh one, and the person is told once", async () => {
  await using bench = await openBench({ script: slow });
  bench.signal.owner.write("hello");
  await bench.until("the question", () => bench.posts.length === 1);
  bench.world.delete(bench.world.sessions()[0]?.id ?? "");
  await bench.until("order", () => isSettled(bench));
  expect(bench.posts).toEqual(["hello", "hello"]);
  expect(bench.texts().filter((text) => text.includes("closed elsewhere"))).toHaveLength(1);
  expect(bench.texts().at(-1)).toBe("re: hello");
});

test("what Claude says while no stream is open is delivered after the reconnect, in order, once", async () => {
  await using bench = await openBench();
  bench.signal.owner.write("hello");
  await bench.until("the answer", () => isSettled(bench));
  bench.signal.faults.cut();
  await bench.until("the loss", () => bench.state() === "DISCONNECTED");
  const session = bench.world.sessions()[0]?.id ?? "";
  bench.world.say(session, "one");
  bench.world.say(session, "two");
  bench.signal.faults.mend();
  await bench.until("the news", () => bench.texts().length === 3);
  await bench.pass(15 * 60_000);
  expect(bench.texts()).toEqual(["re: hello", "one", "two"]);
});

test("/retry in a group asks one's own last prompt again, and no other person's", async () => {
  await using bench = await openBench();
  const { signal } = bench;
  const mention = { group: listedGroup, isMention: true };
  signal.owner.write("hello", mention);
  await bench.until("the answer", () => isSettled(bench));
  signal.person(people.ann, "Ann").write("/retry", mention);
  await bench.until("the word", () => bench.texts().some((text) => text.includes("asked by somebody else")));
  signal.owner.write("/retry", mention);
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.posts).toHaveLength(2);
});

test("members of a group are mentioned by the name that they gave themselves, in quotes too", async () => {
  await using bench = await openBench();
  const { signal } = bench;
  const carl = signal.person(people.carl, "Carl\nthe Bold");
  carl.write("hello", { group: listedGroup, isMention: true });
  await bench.until("the answer", () => isSettled(bench));
  const asked = signal.person(people.ann, "Ann").write("x", { group: listedGroup, isMention: true });
  if (asked.content.kind !== "text") throw new Error("no text");
  const { aci, number } = people.carl;
  const who = { aci, number };
  const quote = {
    sentAt: 1,
    author: who,
    text: "ask \uFFFC",
    mentions: [{ start: 4, length: 1, who }],
    described: "a photo",
  };
  const mentions = [...asked.content.mentions, { start: 10, length: 1, who }];
  const content = { ...asked.content, text: "\uFFFC what of \uFFFC?", mentions, quote };
  signal.deliver({ ...asked, sentAt: asked.sentAt + 1, content });
  await bench.until("the answers", () => bench.posts.length === 3 && isSettled(bench));
  expect(bench.posts[0]).toBe("Carl the Bold: hello");
  expect(bench.posts[2]).toBe("> [a photo] ask @Carl the Bold\n\nAnn: what of @Carl the Bold?");
});

test("a prompt that is refused does not make the next one wait", async () => {
  await using bench = await openBench();
  const { line } = bench.claude();
  const { post } = line;
  line.post = (session, requests, ...rest) =>
    requests.some((request) => request.kind === "prompt" && request.text.startsWith("bad"))
      ? Promise.reject(new BridgeError("claude_refusal", "Cannot ask as Claude declines"))
      : post(session, requests, ...rest);
  for (let index = 0; index < 8; index++) bench.signal.owner.write(`bad ${index}`);
  bench.signal.owner.write("good");
  const from = bench.clock.monotonic();
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toContain("re: good");
  expect(bench.clock.monotonic() - from).toBeLessThan(5_000);
});
