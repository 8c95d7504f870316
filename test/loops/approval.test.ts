/** A yes means the question that it points to, or the one that the person has seen. */
import { expect, test } from "bun:test";
import type { Script } from "../doubles/scripted.ts";
import { wordsOnly, type Quote } from "../../src/core/model.ts";
import { listedGroup, people } from "../sim/config.ts";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";

/** Asks for `rm one`, and after it for `rm two`. */
const asking: Script = (prompt) =>
  prompt.endsWith("work")
    ? [{ ask: "bash", input: { command: "rm one" } }, { ask: "bash", input: { command: "rm two" } }, { say: "worked" }]
    : [{ say: `re: ${prompt}` }];

const shown = (bench: Bench, text: string) => bench.signal.screen().find((seen) => seen.text.includes(text));
/** How the tool uses were answered, in order. */
const answers = (bench: Bench): boolean[] =>
  bench.world.sessions().flatMap(({ log }) => log.flatMap((at) => (at.type === "confirmation" ? [at.isAllowed] : [])));

async function openAsking(ownTimestamps = true) {
  const bench = await openBench({ script: asking, ownTimestamps });
  const { owner, account } = bench.signal;
  owner.write("hello");
  await bench.until("an answer", () => isSettled(bench));
  owner.write("work");
  await bench.until("the first question", () => shown(bench, "rm one") !== undefined);
  await bench.pass(1_000);
  const at = (text: string) => ({ author: account, sentAt: shown(bench, text)?.timestamp ?? 0 });
  const quote = (text: string): { quote: Quote } => ({ quote: { ...at(text), text } });
  return { bench, owner, at, quote, [Symbol.asyncDispose]: () => bench[Symbol.asyncDispose]() };
}

for (const ownTimestamps of [true, false]) {
  test(`own timestamps ${ownTimestamps}: a thumb on another message than the question is no answer`, async () => {
    await using stage = await openAsking(ownTimestamps);
    const { bench, owner, at } = stage;
    owner.react(at("re: hello"), "👍");
    await bench.pass(60_000);
    expect(answers(bench)).toEqual([]);
    owner.react(at("rm one"), "👍");
    await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
    expect(answers(bench)).toEqual([true]);
    owner.react(at("rm one"), "👍");
    await bench.pass(60_000);
    expect(answers(bench)).toEqual([true]);
    owner.react(at("rm two"), "👎");
    await bench.until("order", () => isSettled(bench));
    expect(answers(bench)).toEqual([true, false]);
  });

  test(`own timestamps ${ownTimestamps}: a yes that quotes another message is a prompt, one that quotes the question an answer`, async () => {
    await using stage = await openAsking(ownTimestamps);
    const { bench, owner, quote } = stage;
    owner.write("yes", quote("re: hello"));
    await bench.pass(60_000);
    expect(answers(bench)).toEqual([]);
    owner.write("yes", quote("rm one"));
    await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
    owner.write("no", quote("rm two"));
    await bench.until("order", () => isSettled(bench));
    expect(answers(bench)).toEqual([true, false]);
    expect(bench.posts.at(-1)).toContain("yes");
  });

  test(`own timestamps ${ownTimestamps}: a second question does not take the first one's yes`, async () => {
    await using stage = await openAsking(ownTimestamps);
    const { bench, owner } = stage;
    owner.write("yes");
    owner.write("yes");
    await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
    await bench.pass(60_000);
    expect(answers(bench)).toEqual([true]);
    owner.write("yes");
    await bench.until("order", () => isSettled(bench));
    expect(answers(bench)).toEqual([true, true]);
  });

  test(`own timestamps ${ownTimestamps}: a yes that was written while the line was down, before the question came, is a prompt`, async () => {
    await using bench = await openBench({ script: asking, ownTimestamps });
    bench.claude().setDown(true);
    bench.signal.owner.write("work");
    await bench.pass(1_000);
    bench.signal.faults.cut();
    await bench.until("the loss", () => bench.state() === "DISCONNECTED");
    bench.claude().setDown(false);
    await bench.until("the question at Claude", () => bench.world.sessions()[0]?.asks[0]?.id !== undefined);
    await bench.pass(60_000);
    bench.signal.owner.write("yes");
    await bench.pass(60_000);
    bench.signal.faults.mend();
    await bench.until("the question", () => shown(bench, "rm one") !== undefined);
    await bench.pass(60_000);
    expect(answers(bench)).toEqual([]);
    bench.signal.owner.write("/deny");
    await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
    await bench.pass(1);
    bench.signal.owner.write("no");
    await bench.until("order", () => isSettled(bench));
    expect(answers(bench)).toEqual([false, false]);
    expect(bench.posts.at(-1)).toBe("yes");
  });
}

test("a yes to a question that was seen before the line went down counts when the line is back", async () => {
  await using stage = await openAsking();
  const { bench, owner } = stage;
  bench.signal.faults.cut();
  await bench.until("the loss", () => bench.state() === "DISCONNECTED");
  owner.write("yes");
  await bench.pass(60_000);
  bench.signal.faults.mend();
  await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
  expect(answers(bench)).toEqual([true]);
});

test("in a group a thumb on a member's message of the question's millisecond is no answer", async () => {
  await using bench = await openBench({ script: asking });
  const ann = bench.signal.person(people.ann, "Ann");
  ann.write("work", { group: listedGroup, isMention: true });
  await bench.until("the question", () => shown(bench, "rm one") !== undefined);
  const sentAt = shown(bench, "rm one")?.timestamp ?? 0;
  ann.react({ author: people.carl, sentAt }, "👍", { group: listedGroup });
  await bench.pass(60_000);
  expect(answers(bench)).toEqual([]);
  ann.react({ author: bench.signal.account, sentAt }, "👍", { group: listedGroup });
  await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
  expect(answers(bench)).toEqual([true]);
});

test("a question that comes up while no stream is open, after the one before it was answered elsewhere, is sent", async () => {
  await using stage = await openAsking();
  const { bench, owner } = stage;
  const session = bench.world.sessions()[0];
  bench.world.confirm(session?.id ?? "", session?.asks[0]?.id ?? "", true);
  await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
  await bench.pass(1_000);
  owner.write("no");
  await bench.until("order", () => isSettled(bench));
  expect(answers(bench)).toEqual([true, false]);
});

test("a prompt edited to a yes is taken back, and allows nothing of its own", async () => {
  await using bench = await openBench({ script: asking });
  const { owner } = bench.signal;
  const { sentAt } = owner.write("work");
  await bench.until("the question", () => shown(bench, "rm one") !== undefined);
  await bench.pass(1_000);
  owner.edit(sentAt, "yes");
  await bench.pass(120_000);
  expect(answers(bench)).not.toContain(true);
  expect(isSettled(bench)).toBe(true);
});

test("the owner asks in a listed group by quoting Claude; other words of the owner's there are forgotten", async () => {
  await using bench = await openBench({ flags: { allow: `self,${people.ann.aci},group:${listedGroup}` } });
  const { owner, account } = bench.signal;
  bench.signal.person(people.ann, "Ann").write("hello", { group: listedGroup, isMention: true });
  await bench.until("the answer", () => isSettled(bench));
  owner.write("lunch?", { group: listedGroup });
  owner.write("sure", { group: listedGroup, quote: { sentAt: 5, author: account, text: "lunch?" } });
  const said = bench.signal.screen().at(-1);
  const quote = { sentAt: said?.timestamp ?? 0, author: account, text: said?.text ?? "" };
  owner.write("and now?", { group: listedGroup, quote });
  await bench.until("the second answer", () => bench.posts.length === 2 && isSettled(bench));
  expect(bench.posts[1]).toContain("and now?");
  expect(bench.posts.join()).not.toContain("lunch?\n\nMe: sure");
});

test("always: what was allowed for the conversation is not asked for again, over a restart too", async () => {
  await using stage = await openAsking();
  const { bench, owner } = stage;
  owner.write("always");
  await bench.until("the end", () => isSettled(bench));
  expect(answers(bench)).toEqual([true, true]);
  expect(shown(bench, "rm two")).toBeUndefined();
  await bench.kill();
  await bench.start();
  owner.write("more work");
  await bench.until("the end", () => isSettled(bench));
  expect(answers(bench)).toEqual([true, true, true, true]);
});

test("a question that was asked elsewhere does not lock out the message that came before it was known: its yes goes first", async () => {
  await using bench = await openBench({ script: asking });
  const { owner } = bench.signal;
  owner.write("hello");
  await bench.until("an answer", () => isSettled(bench));
  const session = bench.world.sessions()[0];
  // Another device of this person.
  bench.world.post(session?.id ?? "", "work");
  await bench.until("the question there", () => Boolean(session?.asks[0]));
  owner.write("and this?");
  await bench.until("the question", () => shown(bench, "rm one") !== undefined);
  await bench.pass(5_000);
  owner.write("yes");
  await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
  await bench.pass(1_000);
  owner.write("yes");
  await bench.until("the answers", () => isSettled(bench) && shown(bench, "re: and this?") !== undefined);
  expect(answers(bench)).toEqual([true, true]);
  expect(bench.posts.filter((text) => text === "and this?")).toHaveLength(1);
});

for (const by of ["👍", "yes"] as const)
  test(`a ${by} to the first copy of a question that was sent twice counts; one to a note of that time does not`, async () => {
    await using bench = await openBench({ script: asking, ownTimestamps: false });
    const { owner, account } = bench.signal;
    owner.write("hello");
    await bench.until("an answer", () => isSettled(bench));
    bench.signal.faults.loseAnswers();
    owner.write("work");
    await bench.until("the first copy", () => shown(bench, "rm one") !== undefined);
    const note = owner.write("a note of mine");
    const copies = () => bench.signal.screen().filter(({ text }) => text.startsWith("Claude wants to"));
    await bench.until("the second copy", () => copies().length === 2);
    await bench.pass(60_000);
    expect(bench.daemon().status().outbox.uncertain).toBe(1);
    const point = (sentAt: number) => {
      if (by === "yes") owner.write("yes", { quote: { author: account, sentAt, text: "rm one" } });
      else owner.react({ author: account, sentAt }, by);
    };
    point(note.sentAt);
    await bench.pass(60_000);
    expect(answers(bench)).toEqual([]);
    point(copies()[0]?.timestamp ?? 0);
    await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
    expect(answers(bench)).toEqual([true]);
  });

test("a yes that Claude's side refuses leaves its question open: the next one counts", async () => {
  await using stage = await openAsking();
  const { bench, owner, at } = stage;
  bench.claude().fail("post", { kind: "refuse", code: "claude_request" });
  owner.react(at("rm one"), "👍");
  await bench.pass(5_000);
  expect(answers(bench)).toEqual([]);
  owner.react(at("rm one"), "👎");
  await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
  expect(answers(bench)).toEqual([false]);
});

test.each([600_000, -600_000, 400 * 24 * 3_600_000, -30 * 3_600_000])(
  "a plain yes counts by Signal's clock where ours is off by %d ms, and one from before the question does not",
  async (offsetMs) => {
    const bench = await openBench({ script: asking });
    bench.signal.transport.skewMs = () => bench.machine.wallOffsetMs;
    bench.machine.wallOffsetMs = offsetMs;
    const { owner } = bench.signal;
    const early = owner.write("hello").sentAt - 60_000;
    await bench.until("an answer", () => isSettled(bench));
    owner.write("work");
    await bench.until("the first question", () => shown(bench, "rm one") !== undefined);
    await bench.pass(1_000);
    // Written before, and late on its way.
    const { account } = bench.signal;
    const times = { sentAt: early, serverAt: early };
    const from = { source: account, sourceDevice: 1, sourceName: "Me", isOwn: true, chat: { kind: "self" } } as const;
    bench.signal.deliver({ ...from, ...times, content: wordsOnly("yes") });
    await bench.pass(5_000);
    expect(answers(bench)).toEqual([]);
    owner.write("yes");
    await bench.until("the second question", () => shown(bench, "rm two") !== undefined);
    expect(answers(bench)).toEqual([true]);
    await bench[Symbol.asyncDispose]();
  },
);
