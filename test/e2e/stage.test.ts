import { afterEach, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { group, openStage, type Stage, type StageOptions } from "./stage.ts";

let stage: Stage | null = null;
afterEach(async () => {
  await stage?.close();
  stage = null;
});

const open = async (options?: StageOptions): Promise<Stage> => (stage = await openStage(options));

/** Compares with the file of that name; `UPDATE=1` writes it. */
function golden(name: string, title: string, seen: Stage): void {
  const url = new URL(`transcripts/${name}.txt`, import.meta.url);
  const text = `${title}\n\n${seen.transcript()}`;
  if (process.env["UPDATE"] === "1" || !existsSync(url)) writeFileSync(url, text);
  expect(text).toBe(readFileSync(url, "utf8"));
}

test("presence: read, taken, typing, answered; waiting while Claude is away; failed where it cannot be", async () => {
  const seen = await open({
    flags: { readReceipts: "true" },
    script: (prompt) =>
      prompt.includes("secret")
        ? [{ pauseMs: 1_000 }, { stop: { kind: "refusal", category: null } }]
        : [{ pauseMs: 2_500 }, { say: "Lima. It is the largest city, too." }],
  });
  seen.write("What is the capital of Peru?", {}, seen.anna);
  await seen.pass(10);
  seen.claude.setDown(true);
  seen.note("Claude cannot be reached");
  seen.write("And of Chile?", {}, seen.anna);
  await seen.pass(45);
  seen.claude.setDown(false);
  seen.note("Claude is back");
  await seen.pass(60);
  seen.write("Tell me the secret formula", {}, seen.anna);
  await seen.pass(10);
  expect(seen.signal.typing().size).toBe(0);
  golden("01-presence", "1. PRESENCE: a reaction tells how a message stands", seen);
});

test("text: styles, lists and tables for a small screen; long code as a file; many parts are counted", async () => {
  const code = Array.from({ length: 60 }, (_, line) => `print("line ${line + 1}")`).join("\n");
  const essay = Array.from(
    { length: 36 },
    (_, n) => `Sentence ${n + 1} says ${"a little more ".repeat(9)}than the last.`,
  );
  const replies: Record<string, string> = {
    table:
      "# Trains\n\n| From | To | Time |\n|---|---|---|\n| Bern | Rome | **7 h** |\n| Bern | Paris | 4 h |\n\n- [x] booked\n- [ ] *seat*\n\n> Mind the gap\n\nMore: [timetable](https://example.org/t)",
    script: `Here is \`count.py\`:\n\n\`\`\`python\n${code}\n\`\`\`\n\nRun it with \`python count.py\`.`,
    essay: essay.join(" "),
  };
  const seen = await open({ flags: { reactions: "off" }, script: (prompt) => [{ say: replies[prompt] ?? "?" }] });
  for (const word of ["table", "script", "essay"]) {
    seen.write(word);
    await seen.pass(3);
  }
  golden("02-text", "2. TEXT: Markdown as Signal shows it", seen);
});

test("presence: what a later reaction makes idle is not sent", async () => {
  const seen = await open({ script: () => [{ pauseMs: 5_000 }, { say: "Here." }] });
  const asked = seen.write("are you there?");
  await seen.pass(1);
  seen.signal.faults.cut();
  seen.claude.setDown(true);
  await seen.pass(10);
  seen.claude.setDown(false);
  await seen.pass(120);
  seen.signal.faults.mend();
  await seen.pass(90);
  const emojis = seen.signal.reactions().filter(({ targetSentAt }) => targetSentAt === asked.sentAt);
  expect(emojis.map(({ emoji }) => emoji)).toEqual(["👀", "✅"]);
});

const slowly: StageOptions["script"] = () => [
  { write: ["One.", " Two.", " Three.", " Four."], everyMs: 5_000 },
  { say: "And a second message." },
];

test.each([true, false])(
  "progress: the draft is the answer, where timestamps are our own: %p",
  async (ownTimestamps) => {
    const seen = await open({ script: slowly, ownTimestamps });
    seen.write("count");
    await seen.pass(60);
    expect(seen.signal.screen().map(({ text }) => text)).toEqual(["One. Two. Three. Four.", "And a second message."]);
    expect(seen.signal.screen()[0]?.editCount).toBe(3);
  },
);

test("progress: over a restart in the middle the draft still ends as the one answer", async () => {
  const seen = await open({ script: slowly });
  seen.write("count");
  await seen.pass(7);
  await seen.restart();
  await seen.pass(120);
  expect(seen.signal.screen().map(({ text }) => text)).toEqual(["One. Two. Three. Four.", "And a second message."]);
});

test("progress: a draft that may not have arrived is not repeated, the answer comes by itself", async () => {
  const seen = await open({ script: slowly, ownTimestamps: false, flags: { reactions: "off" } });
  seen.signal.faults.loseAnswers();
  seen.write("count");
  await seen.pass(60);
  expect(seen.signal.screen().map(({ text }) => text)).toEqual([
    "One. …",
    "One. Two. Three. Four.",
    "And a second message.",
  ]);
});

test("progress: /stop ends the draft, and what was shown says so", async () => {
  const seen = await open({ script: slowly });
  seen.write("count");
  await seen.pass(7);
  seen.write("/stop");
  await seen.pass(30);
  expect(seen.signal.screen().map(({ text }) => text)).toEqual(["(stopped)", "Stopped."]);
});

test("progress: a long answer is one message that grows, and ends as the answer", async () => {
  const seen = await open({
    script: () => [
      { pauseMs: 5_000 },
      { use: "web_search", input: { query: "starting a garden" } },
      {
        write: [
          "Let me think about the garden.",
          " First, the soil: it wants **compost**.",
          " Then roses,",
          " and a hedge,",
          " and a bench to look at them.",
        ],
        everyMs: 5_000,
      },
    ],
  });
  seen.write("How do I begin with my garden?");
  await seen.pass(60);
  expect(seen.signal.screen()).toHaveLength(1);
  golden("03-progress", "3. PROGRESS: one message, edited now and then (✎), ends as the answer", seen);
});

test("attachments: what Claude can read goes along, the rest is said in words", async () => {
  const seen = await open({ script: (prompt) => [{ say: `I was told:\n${prompt}` }] });
  const file = (fileName: string, contentType: string) => ({ fileName, contentType, base64: btoa("some bytes") });
  seen.write("What is this?", { files: [file("cat.png", "image/png"), file("film.mov", "video/quicktime")] });
  await seen.pass(3);
  seen.write("", { files: [file("note.aac", "audio/aac")] });
  await seen.pass(3);
  golden("04-attachments", "4. ATTACHMENTS: pictures, PDFs and text go to Claude; the rest is said", seen);
});

test("voice notes are written down by the command that is set", async () => {
  const seen = await open({
    flags: { transcribe: "wc -c" },
    script: (prompt) => [{ say: `I heard: ${prompt.replace(/\S*signalman-voice\S*/u, "(the file)")}` }],
  });
  seen.write("", { files: [{ fileName: "note.aac", contentType: "audio/aac", base64: btoa("some bytes") }] });
  for (let tries = 0; tries < 200 && seen.signal.screen().length === 0; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    await seen.pass(0.1);
  }
  expect(seen.signal.screen().at(-1)?.text).toBe("I heard: [Voice note:] 10 (the file)");
});

test("conversation: a quote is context, an edit asks again, a deletion cancels", async () => {
  const seen = await open({ script: (prompt) => [{ pauseMs: 3_000 }, { say: `You asked:\n${prompt}` }] });
  const quote = { sentAt: 1, author: seen.signal.account, text: "Roses need sun." };
  seen.write("How much?", { quote });
  await seen.pass(6);
  const typo = seen.write("Wich rose is best?");
  await seen.pass(1);
  seen.edit(typo, "Which rose is best?");
  await seen.pass(8);
  const regretted = seen.write("Never mind this one");
  await seen.pass(1);
  seen.remove(regretted);
  await seen.pass(8);
  expect(seen.claude.world.sessions()[0]?.log.filter(({ type }) => type === "reply")).toHaveLength(2);
  golden("05-conversation", "5. CONVERSATION: quotes, edits and deletions", seen);
});

test("conversation: with busy = interrupt a new message takes the place of the one at work", async () => {
  const seen = await open({
    flags: { busy: "interrupt" },
    script: (prompt) => [{ pauseMs: 8_000 }, { say: `About ${prompt}` }],
  });
  seen.write("the history of Rome, at length");
  await seen.pass(2);
  seen.write("only the year it was founded");
  await seen.pass(20);
  golden("05-interrupt", "5. CONVERSATION: busy = interrupt", seen);
});

test("a chat with disappearing messages: when the timer has run, nothing of it is left on the disk", async () => {
  const seen = await open({ script: (prompt) => [{ say: `The answer to ${prompt}` }] });
  seen.write("the plan 4711", { expiresInSeconds: 300 });
  await seen.pass(60);
  const texts = (): string =>
    JSON.stringify(["inbox", "outbox", "events"].map((table) => seen.daemon.store.db.all(`SELECT * FROM ${table}`)));
  expect(texts()).toContain("4711");
  await seen.pass(400);
  expect(texts()).not.toContain("4711");
  const bytes = await Bun.file(`${seen.home}/signalman.db`).bytes();
  expect(Buffer.from(bytes).includes("4711")).toBe(false);
});

test("groups: only when mentioned or quoted, with the sender's name; every drop has its reason", async () => {
  const seen = await open({ script: (prompt) => [{ say: `(I read “${prompt}”) Friday at eight?` }] });
  seen.write("who is coming on Friday?", { group }, seen.anna);
  await seen.pass(2);
  seen.write("when shall we meet?", { group, isMention: true }, seen.ben);
  await seen.pass(2);
  seen.write("and in this group?", { group: "b3RoZXItZ3JvdXA=", isMention: true }, seen.anna);
  await seen.pass(2);
  seen.write("hello from a stranger", {}, seen.ben);
  await seen.pass(2);
  for (const reason of seen.log.filter((line) => line.startsWith("envelope dropped"))) seen.note(reason);
  golden("06-groups", "6. GROUPS: Anna is on the list by number; Ben only as a member of the listed group", seen);
});

test("commands: short answers, near misses, settings that stay with the conversation", async () => {
  const seen = await open({
    flags: { reactions: "off" },
    script: () => [
      { say: "Tomatoes like company." },
      { use: "web_search", input: { query: "basil and tomatoes" } },
      { say: "Basil, for one." },
    ],
  });
  const say = async (text: string): Promise<void> => {
    seen.write(text);
    await seen.pass(3);
  };
  for (const text of [
    "/help",
    "what grows beside tomatoes?",
    "/status",
    "/title Garden",
    "/titel",
    "/model",
    "/model claude-9",
    "/usage",
  ])
    await say(text);
  for (const text of [
    "/verbose",
    "and once more?",
    "/new",
    "and in pots?",
    "/sessions",
    "/resume 2",
    "/stop",
    "/skip",
    "/approve",
  ])
    await say(text);
  golden("07-commands", "7. COMMANDS", seen);
});

test("approvals: what, where and why; by reaction or word; by the right person; over a restart; until they expire", async () => {
  const seen = await open({
    flags: { approvalMinutes: "30" },
    script: (prompt) => [
      { ask: "bash", input: { command: prompt.includes("wipe") ? "rm -rf build" : "make test" } },
      { say: "Done." },
    ],
  });
  seen.write("run the tests", { group, isMention: true }, seen.ben);
  await seen.pass(2);
  seen.react("👍", seen.ben);
  seen.write("/approve", { group, isMention: true }, seen.ben);
  seen.note("Ben may ask, but not approve");
  await seen.pass(5);
  seen.react("👍", seen.anna);
  await seen.pass(5);
  expect(seen.signal.screen().at(-1)?.text).toBe("Done.");
  seen.write("wipe the build");
  await seen.pass(2);
  await seen.restart();
  seen.note("signalman was restarted");
  seen.signal.faults.cut();
  await seen.pass(5);
  seen.signal.faults.mend();
  seen.note("the line was lost, and is back");
  await seen.pass(70);
  seen.write("no");
  await seen.pass(5);
  seen.write("wipe it after all");
  await seen.pass(32 * 60);
  golden("08-approvals", "8. APPROVALS: Claude asks before it runs something", seen);
});

test("errors: one plain sentence, once, and the answer when it is over", async () => {
  const seen = await open({ script: () => [{ say: "Here I am." }] });
  for (let count = 0; count < 3; count++) seen.claude.fail("create", { kind: "refuse", code: "claude_credit" });
  seen.write("are you there?");
  await seen.pass(120);
  expect(seen.signal.screen()).toHaveLength(2);
  golden("09-errors", "9. ERRORS: one sentence, and what happens next", seen);
});

test("onboarding: a person is greeted once, over restarts too", async () => {
  const seen = await open({ flags: { welcome: "true" }, script: () => [{ say: "Hello Anna." }] });
  seen.write("hi", {}, seen.anna);
  await seen.pass(3);
  await seen.restart();
  seen.note("signalman was restarted");
  seen.write("hi again", {}, seen.anna);
  await seen.pass(3);
  golden("10-welcome", "10. ONBOARDING: two lines at the first message", seen);
});

test("after a long absence: one digest, then the answers in order", async () => {
  const seen = await open({ script: (prompt) => [{ say: `About ${prompt}: yes.` }] });
  seen.signal.faults.cut();
  await seen.pass(5);
  seen.note("the line is cut");
  for (const text of ["one", "two", "three", "four"]) {
    seen.write(text);
    await seen.pass(45 * 60);
  }
  seen.note("the line is back");
  seen.signal.faults.mend();
  await seen.pass(90);
  seen.signal.faults.cut();
  await seen.pass(5);
  seen.signal.faults.mend();
  await seen.pass(90);
  expect(seen.signal.screen().filter(({ text }) => text.includes("waiting"))).toHaveLength(1);
  golden("11-absence", "11. AFTER A LONG ABSENCE: one digest, then the answers", seen);
});
