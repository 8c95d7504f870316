/** The ten points of "a pleasure on the phone", each as one transcript of what a phone sees. `UPDATE=1` writes them anew. */
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Group } from "@signalapp/mock-server";
import type { Who } from "./page.ts";
import { startCodeBrain } from "../doubles/code-brain.ts";
import { openScene, type Scene } from "./scene.ts";

const moments = /\b(?:today|tomorrow|[A-Z][a-z]{2} \d+ [A-Z][a-z]{2}(?: \d{4})?) \d\d:\d\d/gu;

const ids = /[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}|[\w+/]{43}=/gu;

/** Compares with the file of that name; `UPDATE=1` writes it. */
function golden(name: string, title: string, seen: Scene): void {
  const url = new URL(`transcripts/${name}.txt`, import.meta.url);
  const text = `${title}\n\n${seen.transcript().replaceAll(moments, "‹time›").replaceAll(ids, "‹id›")}`;
  if (process.env["UPDATE"] === "1" || !existsSync(url)) writeFileSync(url, text);
  expect(text).toBe(readFileSync(url, "utf8"));
}

const dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

// These wait, mostly: for a backoff, a draft that is due, the line.
test.concurrent("presence: read, taken, typing, answered; waiting while Claude is away; failed where it cannot be", async () => {
  await using seen = await openScene();
  seen.claude.setScript((prompt) => [
    { hold: seen.shows("is typing") },
    prompt.includes("secret") ? { stop: { kind: "refusal" } } : { say: "Lima. It is the largest city, too." },
  ]);
  await seen.answered(seen.write("Anna", "What is the capital of Peru?"));
  seen.claude.setDown(true);
  seen.note("Claude cannot be reached");
  const asked = seen.write("Anna", "And of Chile?");
  await seen.shows("⏳");
  seen.claude.setDown(false);
  seen.note("Claude is back");
  await seen.answered(asked);
  await seen.answered(seen.write("Anna", "Tell me the secret formula"));
  golden("01-presence", "1. PRESENCE: a reaction tells how a message stands", seen);
});

test.concurrent("progress: a long answer is one message that grows, and ends as the answer", async () => {
  await using seen = await openScene();
  const search = Promise.withResolvers<void>();
  const writing = Promise.withResolvers<void>();
  const ending = Promise.withResolvers<void>();
  seen.claude.setScript(() => [
    { hold: search.promise },
    { use: "web_search", input: { query: "starting a garden" } },
    {
      write: [
        writing.promise,
        "Let me think about the garden. First, the soil: it wants **compost**.",
        ending.promise,
        " Then roses, and a hedge, and a bench to look at them.",
      ],
    },
  ]);
  const asked = seen.write("Anna", "How do I begin with my garden?");
  await seen.shows("is typing");
  await seen.pass(4);
  search.resolve();
  await seen.shows("🔧");
  await seen.pass(4);
  writing.resolve();
  await seen.shows("Let me think");
  ending.resolve();
  await seen.answered(asked);
  golden("03-progress", "3. PROGRESS: one message, edited now and then (✎), ends as the answer", seen);
});

test.concurrent("approvals: what, where and why; by reaction or word; by the right person; several at once; over a restart", async () => {
  // Marks travel beside the messages, and are shown by the scene of presence.
  await using seen = await openScene({ SIGNALMAN_REACTIONS: "off" });
  const { friends: place } = seen;
  seen.claude.setScript((prompt) => {
    const commands = prompt.includes("clean") ? ["rm -rf build", "rm -rf cache"] : ["make test"];
    // In Note to Self there is none. Before the question, and again after its answer.
    const typing = (): Promise<void> => (prompt.includes("clean") ? Promise.resolve() : seen.shows("is typing"));
    return [
      { hold: typing() },
      { asks: commands.map((command) => ({ name: "bash", input: { command } })) },
      { hold: typing() },
      { say: "Done." },
    ];
  });
  seen.write("Ben", "run the tests", { place, isMention: true });
  await seen.shows("make test");
  await seen.sent();
  seen.react("Ben", "👍", place);
  await seen.program.log("envelope ignored", { reason: "reaction" });
  seen.write("Ben", "/approve", { place, isMention: true });
  await seen.shows("allowed by name");
  seen.note("Ben may ask, but not approve");
  seen.react("Anna", "👍", place, "make test");
  await seen.shows("Done.");
  seen.write("me", "clean up");
  await seen.shows("do 2 things");
  await seen.sent();
  await seen.restart();
  seen.note("signalman was restarted");
  await seen.cut();
  await seen.mend();
  seen.note("the line was lost, and is back");
  seen.write("me", "yes");
  await seen.shows("Done.");
  seen.write("me", "clean up again");
  await seen.shows("do 2 things");
  await seen.sent();
  seen.write("me", "yes 2");
  await seen.shows("Yes to 2.");
  await seen.sent();
  seen.write("me", "no, keep the build folder");
  await seen.shows("Done.");
  golden("08-approvals", "8. APPROVALS: Claude asks before it runs something", seen);
});

test.concurrent("errors: one plain sentence, once, and the answer when it is over", async () => {
  await using seen = await openScene();
  seen.claude.setScript(() => [{ hold: seen.shows("⏳") }, { say: "Here I am." }]);
  seen.claude.fail(/POST \/v1\/sessions$/u, {
    kind: "status",
    status: 400,
    message: "Your credit balance is too low",
    type: "invalid_request_error",
  });
  await seen.answered(seen.write("me", "are you there?"));
  golden("09-errors", "9. ERRORS: one sentence, and what happens next", seen);
});

test.concurrent("after a long absence: one digest, then the answers in order", async () => {
  // Marks go out beside the messages: in a backlog their place is chance.
  await using seen = await openScene({ SIGNALMAN_REACTIONS: "false" });
  seen.claude.setScript((prompt) => [{ say: `About ${prompt}: yes.` }]);
  await seen.cut();
  seen.note("the line is cut");
  const texts = ["one", "two", "three", "four"];
  for (const [index, text] of texts.entries()) seen.write("me", text, { minutesAgo: 180 - 45 * index });
  seen.note("the line is back");
  await seen.mend();
  for (const text of texts) await seen.shows(`About ${text}`);
  golden("11-absence", "11. AFTER A LONG ABSENCE: one digest, then the answers", seen);
});

// These are quick.
test("text: styles, lists and tables for a small screen; long code as a file; many parts are counted", async () => {
  const code = Array.from({ length: 60 }, (_, line) => `print("line ${line + 1}")`).join("\n");
  const essay = Array.from(
    { length: 36 },
    (_, n) => `Sentence ${n + 1} says ${"a little more ".repeat(9)}than the last.`,
  );
  const replies: Record<string, string> = {
    styles: "**Bold**, *italic*, ~~struck~~, `mono`, ||spoiler||; 👨‍👩‍👧 **after emoji**; שלום **מודגש** ok.",
    table:
      "# Trains\n\n| From | To | Time |\n|---|---|---|\n| Bern | Rome | **7 h** |\n| Bern | Paris | 4 h |\n\n- [x] booked\n- [ ] *seat*\n\n> Mind the gap\n\nMore: [timetable](https://example.org/t)",
    wide: "| City | What to see |\n|---|---|\n| Bern | the old town and the bears |\n| Rome | `Forum|Palatine` | on foot |",
    kept: "3. Oktober\n25. Dezember\n\n1. [x] `*.ts` in src/*.ts, lib/*.ts\n2. [ ] 3*4*5, __init__, COUNT(*), SUM(*), ~5 or ~6\n\n* 3 * * * /bin/job\n\n\\( a_1 * b_1 \\) or a||b||c",
    cjk: "**「重要」**です。**标题：**正文，请看https://example.org/路。**주의:**내용",
    fences: "1. ```sh\n   make\n    ```\n2. Then\n\n> [!TIP]\n> ```\n> make test\n> ```\n\nThat is **all**.",
    behind: "Use: ```sh\nmake test\n``` and look. Else:\n```sh\nmake```\n**Then** \\\\( a_1 * b_1 \\\\) holds.",
    script: `Here is \`count.py\`:\n\n\`\`\`python\n${code}\n\`\`\`\n\nRun it with \`python count.py\`.`,
    essay: essay.join(" "),
    book: essay.map((text, n) => `## ${n + 1}\n\n${`${text} `.repeat(6)}`).join("\n\n"),
  };
  await using seen = await openScene({ SIGNALMAN_REACTIONS: "off" });
  seen.claude.setScript((prompt) => [{ say: replies[prompt] ?? "?" }]);
  for (const [word, end] of [
    ["styles", "ok."],
    ["table", "timetable"],
    ["wide", "on foot"],
    ["kept", "or a"],
    ["cjk", "내용"],
    ["fences", "That is"],
    ["behind", "holds"],
    ["script", "count.py, "],
    ["essay", "(3/3)"],
    ["book", "(10/10)"],
  ] as const) {
    seen.write("me", word);
    await seen.shows(end);
  }
  golden("02-text", "2. TEXT: Markdown as Signal shows it", seen);
});

test("attachments: what Claude can read goes along, voice notes are written down, the rest is said in words", async () => {
  await using seen = await openScene({ SIGNALMAN_TRANSCRIBE: "cat", SIGNALMAN_TOOLS: "off" });
  seen.claude.setScript((prompt) => [{ say: `I was given:\n${prompt}` }]);
  const file = (name: string, type: string, text = "some bytes", announcedBytes?: number) => ({
    name,
    type,
    bytes: new TextEncoder().encode(text),
    announcedBytes,
  });
  const files = [
    // A picture by its bytes, whatever its name says.
    { ...file("cat.jpg", "image/jpeg"), bytes: Uint8Array.fromBase64(dot) },
    file("film.mov", "video/quicktime"),
    file("index.ts", "video/mp2t", "let a = 1;"),
    file("broken.png", "image/png", "<!doctype html><p>Not found"),
    file("atlas.pdf", "application/pdf", "%PDF", 30_000_000),
  ];
  await seen.answered(seen.write("me", "What is this?", { files }));
  const blocks = JSON.stringify(seen.claude.requests.findLast(({ path }) => path.endsWith("/events"))?.body);
  expect(blocks.match(/"type":"(image|document)"/gu)).toEqual(['"type":"image"', '"type":"document"']);
  const voice = [file("voice.aac", "audio/aac", "Remember the milk.")];
  await seen.answered(seen.write("me", "", { files: voice }));
  await seen.restart({ SIGNALMAN_TRANSCRIBE: "false" });
  seen.note("the program that writes voice notes down fails");
  await seen.answered(seen.write("me", "", { files: voice }));
  golden("04-attachments", "4. ATTACHMENTS: pictures, PDFs and text go to Claude; the rest is said", seen);
});

test("files: what Claude makes comes as a file; what is too large is said", async () => {
  await using seen = await openScene({ SIGNALMAN_MARK: "🤖" });
  seen.claude.setScript((prompt) => [
    prompt.includes("plan")
      ? {
          make: "/mnt/session/outputs/plan.csv",
          contentType: "text/csv",
          bytes: Buffer.from("when,what\n9:00,weeding\n"),
        }
      : { make: "film.mp4", contentType: "video/mp4", bytes: Buffer.alloc(11 * 2 ** 20) },
    { say: "There it is." },
  ]);
  for (const [text, file] of [
    ["Put the plan into a table", "plan.csv"],
    ["And make a film of it", "film.mp4"],
  ] as const) {
    await seen.answered(seen.write("me", text));
    await seen.shows(file);
  }
  golden("04-files", "4. FILES: what Claude makes comes as a file", seen);
});

test("conversation: a quote is context, an edit asks again, a deletion cancels, a timer is kept", async () => {
  await using seen = await openScene();
  seen.claude.setScript((prompt) => [
    // Note to Self shows no typing.
    { hold: /And the/u.test(prompt) ? seen.shows("is typing") : Promise.resolve() },
    { hold: /Wich|Never mind/u.test(prompt) ? new Promise(() => undefined) : Promise.resolve() },
    { say: prompt.includes("plant") ? "Roses need sun." : `You asked:\n${prompt}` },
  ]);
  await seen.answered(seen.write("me", "What shall I plant?"));
  await seen.answered(seen.write("me", "How much?", { quote: seen.last("Roses") }));
  const posted = seen.claude.next(/POST .*\/events/u);
  const typo = seen.write("me", "Wich rose is best?");
  await posted;
  await seen.shows("👀 on “Wich");
  await seen.answered(seen.edit(typo, "Which rose is best?"));
  const asked = seen.claude.next(/POST .*\/events/u);
  const regretted = seen.write("me", "Never mind this one");
  await asked;
  await seen.shows("👀 on “Never");
  const interrupted = seen.claude.next(/POST .*\/events/u);
  seen.remove(regretted);
  await interrupted;
  seen.note("with disappearing messages: Note to Self, Anna's chat, the group");
  await seen.answered(seen.write("me", "Where is the key?", { expiresInSeconds: 300 }));
  await seen.answered(seen.write("Anna", "And the car?", { expiresInSeconds: 600 }));
  const place = await seen.setGroupTimer(900);
  await seen.answered(seen.write("Ben", "And the cat?", { place, isMention: true, expiresInSeconds: 900 }));
  golden("05-conversation", "5. CONVERSATION: quotes, edits, deletions and timers", seen);
});

test("conversation: while Claude works a new message waits its turn, or takes the place, as set", async () => {
  await using seen = await openScene();
  const second = Promise.withResolvers<void>();
  seen.claude.setScript((prompt) => [
    { hold: prompt === "one" ? second.promise : Promise.resolve() },
    { say: `About ${prompt}.` },
  ]);
  seen.write("me", "one");
  await seen.shows("👀 on “one”");
  const two = seen.write("me", "two");
  await seen.shows("👀 on “two”");
  second.resolve();
  await seen.answered(two);
  golden("05-busy", "5. CONVERSATION: a new message while Claude works", seen);
});

test("groups: only when mentioned or quoted, with the sender's name; every drop has its reason", async () => {
  await using seen = await openScene();
  const { friends: place, strangers } = seen;
  // What Claude is given ends in `Name: text`, in a group.
  const reply = (prompt: string): string => {
    const name = /(\w+): [^\n]*$/u.exec(prompt)?.[1];
    if (name === undefined) return "That was in another conversation.";
    return prompt.includes("> Friday") ? `Nine it is, ${name}.` : `Friday at eight, ${name}?`;
  };
  seen.claude.setScript((prompt) => [{ hold: seen.shows("is typing") }, { say: reply(prompt) }]);
  const dropped = async (): Promise<void> => {
    const { fields } = await seen.program.log("envelope dropped");
    seen.note(`dropped: ${fields["reason"]}`);
  };
  seen.write("Anna", "who is coming on Friday?", { place });
  await dropped();
  await seen.answered(seen.write("Ben", "when shall we meet?", { place, isMention: true }));
  await seen.answered(seen.write("Anna", "rather at nine", { place, quote: seen.last("Friday") }));
  seen.write("Anna", "and in this group?", { place: strangers, isMention: true });
  await dropped();
  seen.write("Ben", "hello from a stranger");
  await dropped();
  seen.note("Anna alone with Claude: another conversation");
  await seen.answered(seen.write("Anna", "what did Ben ask?"));
  expect(seen.claude.engine.sessions.size).toBe(2);
  golden("06-groups", "6. GROUPS: Anna is on the list herself; Ben only as a member of the listed group", seen);
});

test("commands: short answers, near misses, settings that stay with the conversation", async () => {
  await using seen = await openScene({ SIGNALMAN_REACTIONS: "off" });
  seen.claude.setScript((prompt) => [
    { hold: prompt.includes("everything") ? new Promise(() => undefined) : Promise.resolve() },
    { say: "Tomatoes like company." },
    { use: "web_search", input: { query: "basil and tomatoes" } },
    { say: "Basil, for one." },
  ]);
  // To type, and what the answer has in it.
  const dialogue = [
    ["/help", "/verbose"],
    ["what grows beside tomatoes?", "Basil, for one"],
    ["/status", "Nothing waits"],
    ["/title Garden", "Garden"],
    ["/titel", "Did you mean"],
    ["/model", "claude-haiku"],
    ["/model claude-hiku-5-5", "Did you mean"],
    ["/model claude-haiku", "from the next /new on"],
    ["/model claude-opus-5-5", "Model: claude-opus"],
    ["/usage", "This month"],
    ["/verbose", "shown"],
    ["and once more?", "Basil, for one"],
    ["/new", "New"],
    ["/model", "Model: claude-opus"],
    ["/verbose off", "not shown"],
    ["and in pots?", "Basil, for one"],
    ["/sessions", "/resume"],
    ["/resume 2", "Garden"],
    ["tell me everything about them", ""],
    ["/stop", "Stopped"],
    ["/stop", "Nothing"],
    ["/skip", "Nothing"],
    ["/approve", "Nothing"],
  ] as const;
  const pushed = seen.claude.next(/^POST \/v1\/sessions\/[^/]+$/u);
  for (const [text, answer] of dialogue) {
    if (text === "/status") await seen.idle();
    const asked = seen.claude.next(/^POST .*\/events$/u);
    seen.write("me", text);
    await (answer === "" ? asked : seen.shows(answer));
  }
  await pushed;
  const sessions = [...seen.claude.engine.sessions.values()].map(({ title, model }) => [title, model]);
  expect(sessions).toEqual([
    ["Garden", "claude-sonnet-5-5"],
    [expect.stringContaining("Signal chat"), "claude-opus-5-5"],
  ]);
  golden("07-commands", "7. COMMANDS", seen);
});

test("onboarding: a person is greeted once, over restarts too", async () => {
  await using seen = await openScene({ SIGNALMAN_WELCOME: "true" });
  seen.claude.setScript(() => [{ hold: seen.shows("is typing") }, { say: "Hello Anna." }]);
  await seen.answered(seen.write("Anna", "hi"));
  await seen.shows("/help");
  await seen.restart();
  seen.note("signalman was restarted");
  await seen.answered(seen.write("Anna", "hi again"));
  golden("10-welcome", "10. ONBOARDING: two lines at the first message", seen);
});

/** Works in a folder with a README, which is the project garden; without a sandbox, so that every machine shows the
 * same; and without marks, which travel beside the messages. */
async function inGarden(play: (seen: Scene, read: (name: string) => string | null) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "signalman-garden-"));
  writeFileSync(join(folder, "README.md"), "# Teh garden\n\nRoses, mostly.\n");
  const config = `[projects.garden]\nfolder = "${folder}"\nrun = true\n`;
  const read = (name: string): string | null =>
    existsSync(join(folder, name)) ? readFileSync(join(folder, name), "utf8") : null;
  try {
    await using seen = await openScene({ PATH: "/nonexistent", SIGNALMAN_REACTIONS: "off" }, config);
    await play(seen, read);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const typo = { file_path: "README.md", old_string: "Teh", new_string: "The" };

test("projects: what Claude would change is shown, done after a yes, and taken back", () =>
  inGarden(async (seen, read) => {
    seen.claude.setScript(() => [
      { call: "local_read", input: { file_path: "README.md" } },
      { call: "local_edit", input: typo },
      { say: "The title reads “The garden” now." },
    ]);
    seen.write("me", "/projects");
    await seen.shows("garden");
    seen.write("me", "/project garden");
    await seen.shows("Project garden");
    seen.write("me", "There is a typo in the title. Can you fix it?");
    await seen.shows("Claude wants to");
    await seen.sent();
    expect(read("README.md")).toStartWith("# Teh garden\n");
    await seen.restart();
    seen.note("the program is started again while Claude waits");
    seen.react("me", "👍", null, "Claude wants to");
    await seen.shows("reads “The garden”");
    expect(read("README.md")).toStartWith("# The garden\n");
    seen.write("me", "/diff");
    await seen.shows("+# The garden");
    seen.write("me", "/undo");
    await seen.shows("Taken back");
    expect(read("README.md")).toStartWith("# Teh garden\n");
    const asked = seen.write("Anna", "/project garden");
    await seen.shows("Only the owner");
    await seen.read(asked);
    golden("12-projects", "12. PROJECTS: Claude works on a folder of this machine, with its owner's yes", seen);
  }));

test("projects: several things are one question, answered by their numbers", () =>
  inGarden(async (seen, read) => {
    seen.claude.setScript(() => [
      {
        calls: [
          { name: "local_write", input: { file_path: "beds.md", content: "Two beds.\n" } },
          { name: "local_write", input: { file_path: "herbs.md", content: "Mint.\n" } },
          { name: "local_edit", input: { ...typo, old_string: "mostly", new_string: "and beds" } },
        ],
      },
      { say: "Planted, but for the herbs." },
    ]);
    seen.write("me", "/project garden");
    await seen.shows("Project garden");
    seen.write("me", "Plant the rest");
    await seen.shows("do 3 things");
    await seen.sent();
    seen.write("me", "yes 1 3");
    await seen.shows("Yes to 1, 3.");
    await seen.sent();
    seen.write("me", "no 2, herbs are in the kitchen");
    await seen.shows("Planted");
    expect([read("beds.md"), read("herbs.md")]).toEqual(["Two beds.\n", null]);
    golden("14-several", "14. SEVERAL AT ONCE: one message, answered by its numbers", seen);
  }));

test("projects: a command is shown whole, ended by /stop; always frees edits for an hour", () =>
  inGarden(async (seen, read) => {
    seen.claude.setScript((prompt) => {
      if (prompt.includes("count"))
        return [
          { call: "local_run", input: { command: "echo begun >> log\nwhile :; do :; done" } },
          { say: "Counted." },
        ];
      const edit = prompt.includes("title") ? typo : { ...typo, old_string: "mostly", new_string: "and beds" };
      return [{ call: "local_edit", input: edit }, { say: "Done." }];
    });
    seen.write("me", "/project garden");
    await seen.shows("Project garden");
    seen.write("me", "count the roses");
    await seen.shows("Claude wants to");
    await seen.sent();
    seen.write("me", "ok");
    while (read("log") === null) await seen.program.status();
    seen.write("me", "/stop");
    await seen.shows("Stopped.");
    await seen.idle();
    expect(read("log")).toBe("begun\n");
    seen.write("me", "mend the title");
    await seen.shows("Claude wants to");
    await seen.sent();
    seen.react("me", "♾️", null, "Claude wants to");
    await seen.shows("Done.");
    seen.write("me", "and the roses");
    await seen.shows("Done.");
    expect(read("README.md")).toBe("# The garden\n\nRoses, and beds.\n");
    seen.write("me", "/status");
    await seen.shows("edits in garden");
    seen.write("me", "/ask");
    await seen.shows("asks again");
    golden("15-commands-and-always", "15. COMMANDS: each is asked for, whole; ALWAYS: edits alone, for an hour", seen);
  }));

test.concurrent.each(["sessions", "messages"])(
  "reminders (%s): set by Claude, shown, listed, taken back, delivered",
  async (backend) => {
    await using seen = await openScene({ SIGNALMAN_BACKEND: backend });
    seen.claude.setScript((prompt) => {
      const set = (text: string, more: object) => [
        { hold: seen.shows("👀") },
        { call: "remind", input: { text, kind: "reminder", ...more } },
        { say: "I will." },
      ];
      if (prompt.includes("six")) return set("Call home.", { when: "in 3 hours" });
      if (prompt.includes("water")) return set("Water the plants.", { rule: "0 7 * * 1-5" });
      if (prompt.includes("kettle")) return set("The tea!", { when: "in 3 seconds" });
      if (prompt.includes("As scheduled")) return [{ say: "Three degrees, and dry." }];
      if (prompt.includes("soon"))
        return [
          { hold: seen.shows("👀") },
          { call: "remind", input: { text: "The weather in Bern?", kind: "question", when: "in 3 seconds" } },
          { say: "I will look." },
        ];
      // The backend `messages` asks again with the result.
      return [{ say: "Done." }];
    });
    const ask = async (text: string): Promise<void> => seen.answered(seen.write("me", text));
    await ask("Remind me at six to call home");
    await ask("On working days at seven: water the plants");
    seen.write("me", "/reminders");
    await seen.shows("/reminders off N");
    seen.write("me", "/reminders off 1");
    await seen.shows("Taken back");
    await ask("The kettle is on: three seconds");
    await seen.shows("⏰ The tea!");
    await ask("Tell me soon what the weather in Bern is");
    await seen.shows("⏰ The weather in Bern?");
    await seen.shows("Three degrees");
    golden(`13-reminders-${backend}`, `13. REMINDERS (${backend}): what is asked for later comes, once`, seen);
  },
);

test.concurrent("guests: the owner lets a group and a person ask, from the chat, and takes it back", async () => {
  await using seen = await openScene({ SIGNALMAN_ALLOW: "self", SIGNALMAN_REACTIONS: "off" });
  const { strangers: place } = seen;
  seen.claude.setScript((prompt) => [{ say: `To that: ${/(\w+) please/u.exec(prompt)?.[1]}.` }]);
  const dropped = async (): Promise<void> => {
    const { fields } = await seen.program.log("envelope dropped");
    seen.note(`dropped: ${fields["reason"]}`);
  };
  const say = async (...[who, text, answer, place]: [Who, string, string, Group?]): Promise<void> => {
    const said = seen.write(who, text, place ? { place, isMention: !text.startsWith("/") } : {});
    await seen.shows(answer);
    if (who !== "me") await seen.read(said);
  };
  seen.write("Anna", "tea please", { place, isMention: true });
  await dropped();
  await say("me", "/allow", "members may ask here", place);
  await say("Anna", "coffee please", "coffee", place);
  await say("me", "/groups", "Others");
  await say("me", "/disallow others", "may no longer ask");
  seen.write("Anna", "cake please", { place, isMention: true });
  await dropped();
  seen.write("Anna", "tea please");
  await dropped();
  await say("me", "/allow anna", "may ask from now on");
  await say("Anna", "milk please", "milk");
  await say("me", "/people", "lets a person ask");
  await say("me", "/disallow Anna", "Anna may no longer ask");
  golden("14-guests", "14. GUESTS: who may ask is said in the chat", seen);
});

test("claude code: the owner's own program asks for what it does, goes on after a restart, and is the owner's alone", async () => {
  const brain = await startCodeBrain();
  const readme = join(brain.base, "README.md");
  writeFileSync(readme, "# Teh garden\n\nRoses, mostly.\n");
  brain.setScript((prompt) =>
    prompt.includes("typo")
      ? [
          { say: "I look at the title." },
          { ask: "Read", input: { file_path: readme } },
          { ask: "Edit", input: { file_path: readme, old_string: "Teh", new_string: "The" } },
          { say: "The title reads “The garden” now." },
        ]
      : [{ say: "Gladly." }],
  );
  try {
    await using seen = await openScene({
      SIGNALMAN_PROJECTS: `garden=${brain.base}`,
      SIGNALMAN_BACKEND: "claude-code",
      SIGNALMAN_CLAUDE_CODE: brain.program,
      CLAUDE_CONFIG_DIR: brain.config,
    });
    seen.write("me", "/project garden");
    await seen.shows("Project garden");
    const asked = seen.write("me", "There is a typo in the title. Can you fix it?");
    await seen.shows("Claude wants to");
    expect(readFileSync(readme, "utf8")).toStartWith("# Teh garden\n");
    seen.react("me", "👍", null, "Claude wants to");
    await seen.answered(asked);
    expect(readFileSync(readme, "utf8")).toStartWith("# The garden\n");
    await seen.restart();
    seen.note("the program is started again");
    await seen.answered(seen.write("me", "Thank you!"));
    seen.write("me", "/undo");
    await seen.shows("Taken back");
    expect(readFileSync(readme, "utf8")).toStartWith("# Teh garden\n");
    golden(
      "14-claude-code",
      "14. CLAUDE CODE: the owner's own program works on a project, with the same questions",
      seen,
    );
    seen.write("Anna", "Can I ask you, too?");
    await seen.shows("Only the owner");
  } finally {
    await brain.close();
  }
});
