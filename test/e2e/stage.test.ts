import { afterEach, expect, test } from "bun:test";
import type { Line } from "../../src/claude/line.ts";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { openStage, type Stage, type StageOptions } from "./stage.ts";

let stage: Stage | null = null;
afterEach(async () => {
  await stage?.close();
  stage = null;
});

const open = async (options?: StageOptions): Promise<Stage> => (stage = await openStage(options));

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

test("presence: a hiccup of seconds is no waiting that a person sees", async () => {
  const seen = await open({ script: () => [{ say: "Here." }] });
  seen.claude.fail("create", { kind: "refuse", code: "claude_overloaded" });
  seen.write("are you there?");
  await seen.pass(30);
  expect(seen.signal.reactions().map(({ emoji }) => emoji)).toEqual(["👀", "✅"]);
});

const slowly: StageOptions["script"] = () => [
  { write: ["One.", " Two.", " Three.", " Four."], everyMs: 5_000 },
  { say: "And a second message." },
];
const whole = ["One. Two. Three. Four.", "And a second message."];

test.each([true, false])(
  "progress: the draft is the answer, where timestamps are our own: %p",
  async (ownTimestamps) => {
    const seen = await open({ script: slowly, ownTimestamps });
    seen.write("count");
    await seen.pass(60);
    expect(seen.texts()).toEqual(whole);
    expect(seen.signal.screen()[0]?.editCount).toBe(3);
  },
);

test.each([true, false])(
  "progress: an answer that took longer than half a minute rings, where timestamps are our own: %p",
  async (ownTimestamps) => {
    const script: StageOptions["script"] = () => [{ write: ["One.", " Two.", " Three.", " Four."], everyMs: 15_000 }];
    const seen = await open({ script, ownTimestamps });
    seen.write("count");
    await seen.pass(120);
    expect(seen.signal.screen()).toMatchObject([
      { text: "(see below)", editCount: 3 },
      { text: "One. Two. Three. Four.", editCount: 0 },
    ]);
  },
);

test.each([true, false])(
  "progress: an answer whose draft is too old when the line is back is a message, where timestamps are our own: %p",
  async (ownTimestamps) => {
    const seen = await open({ script: slowly, ownTimestamps });
    seen.write("count");
    await seen.pass(7);
    seen.signal.faults.cut();
    await seen.pass(25 * 3600);
    seen.signal.faults.mend();
    await seen.pass(120);
    expect(seen.texts()).toEqual([expect.stringMatching(/…$/u), ...whole]);
  },
);

test("progress: an edit that may have arrived is not repeated where timestamps are not our own, the answer comes by itself", async () => {
  const seen = await open({ script: slowly, ownTimestamps: false, flags: { reactions: "off" } });
  seen.write("count");
  await seen.pass(7);
  seen.signal.faults.loseAnswers();
  await seen.pass(60);
  expect(seen.texts()).toEqual(["One. Two. …", ...whole]);
});

test("progress: over a restart in the middle the draft still ends as the one answer", async () => {
  const seen = await open({ script: slowly });
  seen.write("count");
  await seen.pass(7);
  await seen.restart();
  await seen.pass(120);
  expect(seen.texts()).toEqual(whole);
});

test("progress: a draft that may not have arrived is not repeated, the answer comes by itself", async () => {
  const seen = await open({ script: slowly, ownTimestamps: false, flags: { reactions: "off" } });
  seen.signal.faults.loseAnswers();
  seen.write("count");
  await seen.pass(60);
  expect(seen.texts()).toEqual(["One. …", ...whole]);
});

test("progress: /stop ends the draft, and what was shown says so", async () => {
  const seen = await open({ script: slowly });
  seen.write("count");
  await seen.pass(7);
  seen.write("/stop");
  await seen.pass(30);
  expect(seen.texts()).toEqual(["(stopped)", "Stopped."]);
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

test("an approval that is not given in time is a no, and said", async () => {
  const seen = await open({
    flags: { approvalMinutes: "30" },
    script: () => [{ ask: "bash", input: { command: "rm -rf build" } }, { say: "Left as it was." }],
  });
  seen.write("wipe the build");
  await seen.pass(29 * 60);
  await seen.restart();
  // The question was repeated at half of its time.
  expect(seen.texts()).toHaveLength(2);
  await seen.pass(2 * 60);
  expect(seen.texts().slice(2)).toEqual([
    "Claude's question was not answered in time, so the answer was no.",
    "Left as it was.",
  ]);
});

test("what waits is announced once, also where the line flaps", async () => {
  const seen = await open({ script: (prompt) => [{ pauseMs: 30_000 }, { say: `About ${prompt}: yes.` }] });
  seen.signal.faults.cut();
  await seen.pass(5);
  for (const text of ["one", "two"]) {
    seen.write(text);
    await seen.pass(45 * 60);
  }
  for (let flaps = 0; flaps < 2; flaps++) {
    seen.signal.faults.mend();
    await seen.pass(10);
    seen.signal.faults.cut();
    await seen.pass(5);
  }
  seen.signal.faults.mend();
  await seen.pass(200);
  expect(seen.texts()).toEqual([
    "2 messages waiting, the oldest 1 h 30 min: answering now; /skip to drop them.",
    "About one: yes.",
    "About two: yes.",
  ]);
});

test("a command ends at once while Claude is away, in words, and holds up nothing", async () => {
  const seen = await open();
  seen.claude.setDown(true);
  seen.write("/model");
  seen.write("/status");
  await seen.pass(10);
  expect(seen.texts()).toEqual([expect.stringContaining("Model: "), expect.stringContaining("Everything works")]);
  await seen.pass(90);
  expect(seen.texts()).toHaveLength(2);
});

test("/privacy: the page for people, readable without the other documents", async () => {
  const seen = await open();
  seen.write("/privacy");
  await seen.pass(10);
  const page = seen.texts().join("\n");
  expect(page).toStartWith("What leaves your machine\n");
  expect(page).toContain("What it costs\n");
  expect(page).not.toMatch(/\.md\b|[\]]\(/u);
  expect(seen.texts().length).toBeLessThanOrEqual(5);
});

test("a prompt says when it was written, the same on every repetition", async () => {
  const heard: string[] = [];
  const script: StageOptions["script"] = (prompt) => {
    heard.push(prompt);
    return [{ say: "Noted." }];
  };
  const seen = await open({ script, timeZone: "Europe/Berlin" });
  seen.claude.setDown(true);
  seen.write("what day is it?");
  await seen.pass(7 * 60);
  await seen.restart();
  seen.claude.fail("post", { kind: "refuse", code: "claude_overloaded" });
  seen.claude.setDown(false);
  await seen.pass(10 * 60);
  seen.write("/sessions");
  seen.write("/retry");
  await seen.pass(60);
  const question = "[Monday, 23 November 2026, 10:00, Europe/Berlin]\nwhat day is it?";
  expect(heard).toEqual([question, question]);
  expect(seen.texts().find((text) => text.includes("/resume"))).toStartWith("1. “what day is it?” (this one)");
});

test("what a day may cost: told at 80 %, refused beyond, asked again on the next day", async () => {
  const heard: string[] = [];
  const script: StageOptions["script"] = (prompt) => {
    heard.push(prompt);
    return [{ say: `About ${prompt}.` }];
  };
  // The scripted Claude takes a cent for a turn.
  const seen = await open({ script, flags: { spendLimit: "0.05" }, timeZone: "UTC" });
  const ask = async (...words: readonly string[]): Promise<void> => {
    for (const word of words) seen.write(word);
    await seen.pass(60);
  };
  await ask("one", "two", "three");
  expect(seen.texts()).toHaveLength(3);
  await ask("four");
  const told = "Your questions today cost $0.04 of the $0.05 allowed, until midnight (UTC).";
  expect(seen.texts().slice(3)).toEqual([expect.stringMatching(/four\.$/u), told]);
  await seen.restart();
  await ask("five", "six", "seven");
  const refused = expect.stringMatching(/^Your questions today cost \$0\.05 .* So this one was not asked/u);
  expect(seen.texts().slice(5)).toEqual([expect.stringMatching(/five\.$/u), refused, refused]);
  expect(seen.signal.reactions().at(-1)?.emoji).toBe("⚠️");
  await ask("/usage", "/status");
  const [usage, status] = seen.texts().slice(8);
  const sum = "50 tokens in, 25 out, $0.05";
  expect(usage).toBe(`This conversation: ${sum}\nToday: ${sum}\nThis month: ${sum}`);
  expect(status).toContain("cost $0.05 of the $0.05 allowed");
  expect(seen.daemon.status().usage).toMatchObject({ inputTokens: 50, costDollars: 0.05, todayDollars: 0.05 });
  await ask("/forget");
  await ask("eight");
  expect(seen.texts().at(-1)).toEqual(refused);
  await seen.pass(16 * 3600);
  await ask("/retry");
  expect(heard.at(-1)).toEndWith("eight");
});

test("/forget: nothing of the conversation is left, neither here nor at Claude; /forget all wants a yes", async () => {
  const seen = await open({ script: (prompt) => [{ say: `The answer to ${prompt}` }] });
  const left = (): string => {
    const tables = ["inbox", "outbox", "events", "posts", "sessions"];
    return JSON.stringify(tables.map((table) => seen.daemon.store.db.all(`SELECT * FROM ${table}`)));
  };
  const ask = async (text: string): Promise<void> => {
    seen.write(text);
    await seen.pass(20);
  };
  await ask("/model claude-scripted");
  await ask("the plan 4711");
  await ask("/new");
  await ask("the plan 4712");
  const there = (): number => seen.claude.world.sessions().length;
  expect(there()).toBe(2);
  await ask("/forget");
  expect(there()).toBe(1);
  expect(left()).not.toContain("4712");
  expect(left()).toContain("4711");
  await ask("/retry");
  expect(seen.texts().at(-1)).toBe("Nothing was asked yet.");
  await ask("/forget all");
  expect(seen.texts().at(-1)).toContain("/forget all yes");
  expect(left()).toContain("4711");
  seen.claude.setDown(true);
  await ask("/forget all yes");
  expect(left()).not.toContain("4711");
  const bytes = await Bun.file(`${seen.home}/signalman.db`).bytes();
  expect(Buffer.from(bytes).includes("4711")).toBe(false);
  seen.claude.setDown(false);
  await seen.pass(20 * 60);
  expect(there()).toBe(0);
  await ask("hello again");
  await ask("/model");
  expect(seen.texts().at(-1)).toStartWith("Model: claude-scripted");
});

test.each([true, false])(
  "an archive goes to Claude's sandbox where there is one (%p), else it is said in words",
  async (hasSandbox) => {
    const asked: { readonly text: string; readonly files: readonly { readonly fileName: string | null }[] }[] = [];
    const line: StageOptions["line"] = (clock) => {
      const { line } = createScriptedClaude({ clock, script: () => [{ say: "Seen." }] });
      const post: Line["post"] = (session, requests, ...more) => {
        for (const request of requests) if (request.kind === "prompt") asked.push(request);
        return line.post(session, requests, ...more);
      };
      return { ...line, hasSandbox: () => hasSandbox, post };
    };
    // Loaded when it is first needed, which takes real time, and this clock is a virtual one.
    await import("file-type");
    const seen = await open({ line });
    const zip = Uint8Array.from([0x50, 0x4b, 5, 6, ...new Uint8Array(18)]).toBase64();
    seen.write("what is in there?", {
      files: [{ fileName: "plans.zip", contentType: "application/zip", base64: zip }],
    });
    await seen.pass(30);
    const words = '[The attached file "plans.zip" (application/zip) is of a kind that cannot be read here.]';
    const text = hasSandbox ? "what is in there?" : `what is in there?\n${words}`;
    expect(asked).toMatchObject([{ text, files: hasSandbox ? [{ fileName: "plans.zip" }] : [] }]);
    expect(seen.texts()).toEqual(["Seen."]);
  },
);

test("/allow: by the owner alone, a person or a group; the settings stay, and /disallow takes it back", async () => {
  const seen = await open({ script: (prompt) => [{ say: `About ${prompt}.` }] });
  const group = "bGlzdGVkLWdyb3VwLi4uLi4uLi4uLi4uLi4uLi4uLi4=";
  const bea = seen.signal.person({ aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00a001", number: "+15550100011" }, "Bea");
  const turn = async (write: () => unknown): Promise<string[]> => {
    const before = seen.texts().length;
    write();
    await seen.pass(30);
    return seen.texts().slice(before);
  };
  expect(await turn(() => bea.write("hello?"))).toEqual([]);
  const [yes] = await turn(() => seen.write("/allow +1 (555) 010-0011"));
  expect(yes).toContain("may ask from now on. Claude answers them in your name.");
  expect(await turn(() => bea.write("hello?"))).toEqual(["About hello?."]);
  expect(await turn(() => bea.write("/allow +15550100012"))).toEqual([
    "Only the owner of this account can say who may ask.",
  ]);
  // A group is not heard before the owner has said so in it.
  expect(await turn(() => bea.write("/allow", { group }))).toEqual([]);
  expect(await turn(() => seen.write("what?", { group }))).toEqual([]);
  const [here] = await turn(() => seen.write("/allow", { group }));
  expect(here).toStartWith("This group's members may ask here");
  expect(await turn(() => bea.write("and now?", { group, isMention: true }))).toEqual([
    expect.stringContaining("and now?"),
  ]);
  await seen.restart();
  expect((await turn(() => seen.write("/people")))[0]).toBe(
    "You, in Note to Self (settings)\nBea · +15550100011\n/allow NUMBER lets a person ask.",
  );
  expect((await turn(() => seen.write("/groups")))[0]).toStartWith(group);
  expect(await turn(() => seen.write("/disallow bea"))).toEqual([expect.stringContaining("may no longer ask")]);
  expect(await turn(() => bea.write("still there?"))).toEqual([]);
  expect(await turn(() => seen.write("/disallow", { group }))).toEqual(["This group may no longer ask."]);
  expect(await turn(() => bea.write("and here?", { group, isMention: true }))).toEqual([]);
  expect((await turn(() => seen.write("/disallow self")))[0]).toStartWith("No one is known here as self.");
});
