/** The house rules that no linter knows, as tests: each says what to do instead. */
import { expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const root = join(import.meta.dir, "..");
const isGenerated = (file: string): boolean => /_pb\.ts$|fixtures\/|bun\.lock$|LICENSE$/u.test(file);

/** What is in the repository or about to be; in a source archive, everything that is not built or installed. */
function listFiles(): string[] {
  const git = spawnSync("git", ["ls-files", "-co", "--exclude-standard"], { cwd: root, encoding: "utf8" });
  const names =
    git.status === 0
      ? git.stdout.split("\n").filter(Boolean)
      : readdirSync(root, { recursive: true, encoding: "utf8" }).filter(
          (name) => !/^(node_modules|dist|\.git)\b/u.test(name),
        );
  return names.filter((name) => existsSync(join(root, name)) && /\.\w+$/u.test(name));
}

const files = listFiles();
const textOf = new Map(
  files
    .filter((name) => /\.(ts|md|json|toml|ya?ml|sh|rb|svg|lock)$/u.test(name))
    .map((name) => [name, readFileSync(join(root, name), "utf8")]),
);
const sources = [...textOf].filter(([name]) => /^src\/.*\.ts$/u.test(name) && !isGenerated(name));

const commentPattern = /\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/.*$/gmu;

/** The code without its comments; strings stay. Line numbers stay right. */
const codeOf = (text: string): string =>
  text.replaceAll(commentPattern, (comment) => comment.replaceAll(/[^\n]/gu, ""));

function find(pattern: RegExp, isAllowed: (file: string) => boolean): string[] {
  return sources
    .filter(([name]) => !isAllowed(name))
    .flatMap(([name, text]) =>
      codeOf(text)
        .split("\n")
        .flatMap((line, index) => (pattern.test(line) ? [`${name}:${index + 1}: ${line.trim()}`] : [])),
    );
}

const seams = ["src/store/database.ts", "src/status/listen.ts", "src/signal/native/load.ts"];

test.each([
  ["Bun is named in the seams only: use node: modules or web standards", /\bBun\b|["']bun:/u, seams],
  [
    "time comes from a Clock",
    /\bDate\.now\b|new Date\(\)|\bperformance\.now\b|\bset(Timeout|Interval)\(/u,
    ["src/clock.ts", "src/status/page.ts"],
  ],
  ["chance comes from a Random", /\bMath\.random\b/u, ["src/clock.ts"]],
  ["only main.ts ends the process", /\bprocess\.exit\(/u, ["src/main.ts"]],
  [
    "there are no enums, namespaces and parameter properties: Deno and Node strip types only",
    /^\s*(export )?(const )?(enum|namespace) /u,
    [],
  ],
])("%s", (_, pattern, allowed) => {
  expect(find(pattern, (file) => allowed.includes(file))).toEqual([]);
});

const importPattern = /(?:from|import)\s*\(?\s*["'](\.{1,2}\/[^"']+)["']/gu;
const importsOf = (name: string): string[] =>
  [...codeOf(textOf.get(name) ?? "").matchAll(importPattern)].map(([, path = ""]) =>
    relative(root, resolve(root, dirname(name), path)).replaceAll("\\", "/"),
  );

test("signal/native: a file imports from lower layers only, as the table in its index.ts says", () => {
  const folder = "src/signal/native/";
  const rows = [...(textOf.get(`${folder}index.ts`) ?? "").matchAll(/^ \*   \| ([\w ·-]+?) +\|/gmu)].map(
    ([, names = ""]) => names.split(" · "),
  );
  const layerOf = (name: string) =>
    rows.findIndex((row) => row.includes(name.slice(folder.length).split(/[./]/u)[0] ?? ""));
  const inside = sources.map(([name]) => name).filter((name) => name.startsWith(folder));
  const arrows = inside.flatMap((from) =>
    importsOf(from)
      .filter((to) => to.startsWith(folder))
      .map((to) => ({ from, to })),
  );
  expect(inside.filter((name) => layerOf(name) < 0)).toEqual([]);
  expect(arrows.filter(({ from, to }) => layerOf(from) >= layerOf(to))).toEqual([]);
  expect(arrows.length).toBeGreaterThan(50);
});

test("a condition stands in an if, not in an operator whose value is thrown away", () => {
  const hidden = /\bvoid \([^\n]*(&&|\|\||\?\?)/u;
  const found = [...textOf].flatMap(([name, text]) =>
    name.endsWith(".ts") && !isGenerated(name) && hidden.test(codeOf(text)) ? [name] : [],
  );
  expect(found).toEqual([]);
});

test("a file or folder that a comment names in backticks is there", () => {
  const houses = files.filter((name) => /^(src|test)\//u.test(name));
  const rooms = new Set(houses.flatMap((name) => name.split("/").slice(1, -1)));
  const isThere = (path: string): boolean =>
    files.some((name) => `/${name}`.endsWith(`/${path}`) || `/${name}`.endsWith(`/${path}.ts`)) ||
    houses.some((name) => `/${name}`.includes(`/${path.replace(/\/$/u, "")}/`));
  const named = [...textOf]
    .filter(([name]) => name.endsWith(".ts") && /^(src|test)\//u.test(name) && !isGenerated(name))
    .flatMap(([name, text]) =>
      (text.match(commentPattern) ?? [])
        .flatMap((comment) => [...comment.matchAll(/`([\w-]+(?:[./][\w-]+)*\/?)`/gu)])
        .map(([, path = ""]) => ({ name, path })),
    )
    .filter(({ path }) => /(?<!\.d)\.ts$/u.test(path) || (path.includes("/") && rooms.has(path.split("/")[0] ?? "")));
  expect(named.filter(({ path }) => !isThere(path))).toEqual([]);
  expect(named.length).toBeGreaterThan(50);
});

test("a comment names who acts", () => {
  const vague = /\b(nobody|somebody|anybody|everybody|whoever)\b/iu;
  const found = [...textOf]
    .filter(([name]) => name.endsWith(".ts") && !isGenerated(name))
    .flatMap(([name, text]) =>
      (text.match(commentPattern) ?? []).filter((comment) => vague.test(comment)).map((comment) => ({ name, comment })),
    );
  expect(found).toEqual([]);
});

test("every file of src is part of the program", () => {
  const reached = new Set<string>();
  const visit = (name: string): void => {
    if (reached.has(name)) return;
    reached.add(name);
    for (const next of importsOf(name)) visit(next);
  };
  visit("src/main.ts");
  expect([...textOf.keys()].filter((name) => /^src\/.*(?<!\.d)\.ts$/u.test(name) && !reached.has(name))).toEqual([]);
});

test("the linter sees no import() calls: from outside, signal/daemon is entered by its doors", () => {
  const doors = ["signal-cli.ts", "rest.ts", "releases.ts"].map((name) => `src/signal/daemon/${name}`);
  const entered = sources
    .filter(([name]) => !name.startsWith("src/signal/daemon/"))
    .flatMap(([name]) => importsOf(name).map((path) => ({ name, path })))
    .filter(({ path }) => path.startsWith("src/signal/daemon/"));
  expect(entered.length).toBeGreaterThan(0);
  expect(entered.filter(({ path }) => !doors.includes(path))).toEqual([]);
});

test("every value that src exports is used by another file", () => {
  const words = new Map(
    [...textOf]
      .filter(([name]) => name.endsWith(".ts"))
      .map(([name, text]) => [name, new Set(codeOf(text).match(/[\w$]+/gu))]),
  );
  const dead = sources.flatMap(([name, text]) =>
    [...codeOf(text).matchAll(/^export (?:async )?(?:function\*?|const|let|class) ([\w$]+)/gmu)]
      .map(([, word = ""]) => word)
      .filter((word) => ![...words].some(([other, used]) => other !== name && used.has(word)))
      .map((word) => `${name}: ${word}`),
  );
  expect(dead).toEqual([]);
});

/** What stands in the list more than once. */
const repeated = (words: readonly string[]): string[] => words.filter((word, index) => words.indexOf(word) !== index);

test("no two files of src have one name, and no two exports", () => {
  expect(repeated(sources.map(([name]) => name.slice(name.lastIndexOf("/") + 1)))).toEqual([]);
  const exported = sources.flatMap(([, text]) => {
    const found = codeOf(text).matchAll(
      /^export (?:async )?(?:function\*?|const|let|class|type|interface) ([\w$]+)/gmu,
    );
    // An overload is no export of its own.
    return [...new Set([...found].map(([, word = ""]) => word))];
  });
  expect(exported.length).toBeGreaterThan(500);
  expect(repeated(exported)).toEqual([]);
});

/** Where these are called; the comments of a file do not count. */
const callers = (pattern: RegExp): string[] => [
  ...new Set(find(pattern, (name) => name.startsWith("src/claude/")).map((line) => line.split(":")[0] ?? "")),
];

test("rule 3: only core/chat.ts decides", () => {
  expect(callers(/\bdecide\(/u)).toEqual(["src/core/chat.ts", "src/store/apply.ts"]);
  expect(callers(/\bdecide\b.*from/u)).toEqual(["src/store/apply.ts"]);
});

/** The methods of a table's file that write, by themselves or by another of them. */
function writersIn(...names: readonly string[]): string[] {
  const code = names.map((name) => codeOf(textOf.get(`src/store/${name}.ts`) ?? "")).join("\n");
  const start = String.raw`\n(?: {2}(?:const|function) (?=\w+(?: = |\())| {4}(?=\w+(?:\(|: \()))(\w+)`;
  const methods = [...code.matchAll(new RegExp(String.raw`${start}[\s\S]*?(?=${start}|\n\}|$)`, "gu"))];
  const writers = new Set<string>();
  for (let before = -1; before < writers.size;) {
    before = writers.size;
    const isWriting = new RegExp(
      `\\x60\\s*(?:INSERT|UPDATE|DELETE)\\b|\\b(?:${[...writers].join("|") || "-"})\\(`,
      "u",
    );
    for (const [text, name = ""] of methods)
      if (isWriting.test(text.slice(text.indexOf(name) + name.length + 1))) writers.add(name);
  }
  return [...writers];
}

/** What is written elsewhere than by `store/apply.ts`, and why that is no decision. */
const ownWrites: { readonly [file: string]: readonly [writes: string, why: string] } = {
  "src/cli/adapters.ts": ["forgetAll", "another account is linked: nothing of the one before stays"],
  "src/cli/home.ts": ["setAllowed", "`signalman allow` and `disallow`: chosen by `core/guests.ts`, as in the chat"],
  "src/cli/run.ts": [
    "forgetSession outbox.add sessions.end settings.set",
    "commands of the owner's: a conversation is forgotten or archived, words are sent; and the greeting after linking",
  ],
  "src/daemon.ts": [
    "outbox.recover settings.set",
    "the start: sends that a crash interrupted are uncertain; the device's tag is made once",
  ],
  "src/loops/checkup.ts": ["settings.set", "the database was set back: what was said is not said again"],
  "src/loops/due.ts": ["reminders.remove", "a reminder whose person may not ask any more, before anything is decided"],
  "src/loops/elsewhere.ts": [
    "calls.markPosted posts.finish posts.markQueued sessions.setRemote settings.remove settings.set",
    "what became of its posts: found, never there, or over; which session of Claude's it is; what is owed there",
  ],
  "src/loops/follow.ts": [
    "posts.setTries",
    "failures of answers and stops are counted; at their end `apply` hears of it",
  ],
  "src/loops/heartbeat.ts": ["settings.set store.forget store.prune", "the time when it was alive, and retention"],
  "src/loops/live.ts": ["drafts.addDraft", "a preview: best effort, and ended by `apply`"],
  "src/loops/made-files.ts": [
    "files.giveUp files.markDone files.markLooked outbox.add",
    "its looks for files, and each file, which no decision is needed for",
  ],
  "src/loops/owner.ts": ["outbox.add", "what the owner is told of the program itself"],
  "src/loops/posting.ts": ["posts.begin posts.markPosting posts.markQueued", "how far its posts have come"],
  "src/loops/reader.ts": ["posts.end", "its posts are over"],
  "src/loops/receive.ts": [
    "noteAccount noteName noteTimer settings.set",
    "what an envelope says of its chat and its sender, and strangers that the owner was told of",
  ],
  "src/loops/send.ts": [
    "outbox.markFailed outbox.markSending outbox.markSent outbox.markShown outbox.requeue",
    "how far its sends have come",
  ],
  "src/loops/sync.ts": [
    "sessions.setContext sessions.setStale sessions.setSynced",
    "a context as it was merged, and how far its sync has come",
  ],
  "src/loops/tool-calls.ts": [
    "calls.settleInterrupted",
    "the start: calls that a crash interrupted have an unknown outcome",
  ],
  "src/projects/executor.ts": ["calls.finish calls.start", "how far its call has come"],
  "src/projects/undo.ts": ["rows.drop rows.prune rows.put", "what files were before its call"],
  "src/store/allowed.ts": ["settings.remove settings.set", "`setAllowed`, for those that are named here"],
  "src/store/forgetting.ts": ["forgetSession", "a chat is all of its sessions"],
  "src/store/names.ts": ["settings.set", "`noteName` and `noteAccount`, for the receive loop"],
  "src/store/retention.ts": [
    "forgetUnused settings.remove settings.set",
    "`prune` and `forget`, for the heartbeat; `noteTimer`, for the receive loop",
  ],
  "src/store/spending.ts": ["usage.add", "`noteUsage`, for `apply`"],
};

test("rule 3: what was decided is written by store/apply.ts alone; all else that is written says how far its writer has come", () => {
  const tables: { readonly [name: string]: readonly string[] } = {
    inbox: writersIn("inbox"),
    posts: [...writersIn("posts"), "begin", "end"],
    "outbox|drafts": writersIn("outbox", "drafts"),
    sessions: writersIn("sessions"),
    log: writersIn("event-log"),
    files: writersIn("files"),
    calls: writersIn("calls"),
    "kept|rows": writersIn("kept"),
    usage: writersIn("usage"),
    reminders: writersIn("scheduled"),
    settings: writersIn("remembered"),
    store: ["forget", "prune"],
  };
  // A table whose writers are not found any more would be free.
  expect(Object.entries(tables).filter(([, writers]) => writers.length === 0)).toEqual([]);
  expect(tables["posts"]).toContain("markPosted");
  expect(tables["outbox|drafts"]).toContain("addDraft");
  const methods = Object.entries(tables).map(([name, writers]) => `(?:${name})\\.(?:${writers.join("|")})`);
  const functions =
    "setAllowed|noteTimer|noteName|noteAccount|noteUsage|forgetSession|forgetChat|forgetAll|forgetUnused";
  const write = new RegExp(`\\b(${methods.join("|")}|${functions})\\(`, "gu");
  const found = sources
    .filter(([name]) => !/^src\/(claude|signal|store\/apply(-calls)?\.ts)/u.test(name))
    .map(([name, text]): [string, string] => {
      const writes = [
        ...codeOf(text)
          .replaceAll(/\bfunction \w+/gu, "")
          .matchAll(write),
      ].map(([, word = ""]) => word);
      return [name, [...new Set(writes)].toSorted().join(" ")];
    })
    .filter(([, writes]) => writes !== "");
  expect(Object.fromEntries(found)).toEqual(
    Object.fromEntries(Object.entries(ownWrites).map(([file, [writes]]) => [file, writes])),
  );
  expect(callers(/from "\.\/apply-calls\.ts"/u)).toEqual(["src/store/apply.ts"]);
});

test("rule 3: rows are written in src/store; the tables of the native transport by itself", () => {
  const statement = /\b(INSERT INTO|DELETE FROM|UPDATE [a-z_]+ SET)\b/u;
  const writers = callers(statement).filter((name) => !name.startsWith("src/store/"));
  expect(writers.filter((name) => !name.startsWith("src/signal/native/"))).toEqual([]);
  const foreign = /\b(INSERT INTO|DELETE FROM|UPDATE) (?!signal_|OR )[a-z_]+/u;
  expect(find(foreign, (name) => !name.startsWith("src/signal/native/"))).toEqual([]);
});

test("rule 4: a log has one reader, and one that posts to it", () => {
  expect(callers(/\bremote\??\.open\(/u)).toEqual(["src/loops/reader.ts"]);
  expect(new Set(callers(/\bremote\??\.list\(/u))).toEqual(new Set(["src/loops/elsewhere.ts"]));
  const posters = ["elsewhere", "posting"].map((name) => `src/loops/${name}.ts`);
  expect(callers(/\b(line|lineOf\(session\))\.post\(|^\s*\.post\(/u).toSorted()).toEqual(posters);
  // All work for the follower alone.
  const users = (file: string): string[] =>
    sources.map(([name]) => name).filter((name) => importsOf(name).includes(file));
  expect(users("src/loops/reader.ts")).toEqual(["src/loops/follow.ts"]);
  expect(users("src/loops/posting.ts")).toEqual(["src/loops/reader.ts"]);
  expect(users("src/loops/elsewhere.ts").toSorted()).toEqual(
    ["follow", "posting", "reader", "sync"].map((name) => `src/loops/${name}.ts`),
  );
});

test("notices are told by loops, and decide nothing where they are heard", () => {
  const listeners = sources.filter(([, text]) => /\bnotices\.on\(/u.test(codeOf(text)));
  expect(listeners.map(([name]) => name).toSorted()).toEqual(["src/demo/demo.ts", "src/status/status.ts"]);
  const handlers = listeners.flatMap(([name, text]) =>
    codeOf(text)
      .split("notices.on(")
      .slice(1)
      .map((rest) => `${name}: ${rest.slice(0, Math.max(0, rest.search(/^ {2}\}\);|\);$/mu)))}`),
  );
  expect(handlers.length).toBeGreaterThan(5);
  expect(
    handlers.filter((text) =>
      /\b(store|chats|inbox|outbox|posts|settle|wake|dispatch|transport|line|stop|abort|fetch|then)\b\s*[.(]|\bawait\b/u.test(
        text,
      ),
    ),
  ).toEqual([]);
});

test("a document has one title", () => {
  const titles = [...textOf]
    .filter(([name]) => name.endsWith(".md"))
    .map(([name, text]): [string, number] => [
      name,
      text.replaceAll(/^```[\s\S]*?^```/gmu, "").match(/^# /gmu)?.length ?? 0,
    ]);
  expect(titles.filter(([, count]) => count !== 1)).toEqual([]);
  expect(titles.length).toBeGreaterThan(1);
});

test("nothing is put off, and nothing tells of the machine it was written on", () => {
  // Spelt so that this file is no finding of its own.
  const banned = [
    /\b(TO[D]O|FIX[M]E)\b/u,
    /(?<![\w.%~$}-])\/(work|root|home\/[a-z]+|Users\/[A-Za-z]+)\//u,
    /[r]egistry\.(npmjs|yarnpkg)|arti[f]actory|[n]pm\.pkg\./u,
  ];
  const pattern = new RegExp(banned.map(({ source }) => source).join("|"), "u");
  const found = [...textOf]
    .filter(([name]) => !isGenerated(name) && !name.startsWith("test/claude/"))
    .flatMap(([name, text]) =>
      text
        .split("\n")
        .flatMap((line, index) => (pattern.test(line) ? [`${name}:${index + 1}: ${line.trim().slice(0, 100)}`] : [])),
    );
  expect(found).toEqual([]);
});

test("packages are pinned exactly, and the lock names no host", () => {
  const manifest = JSON.parse(textOf.get("package.json") ?? "{}") as Record<string, Record<string, string>>;
  const pins = Object.entries({ ...manifest["dependencies"], ...manifest["devDependencies"] });
  expect(pins.filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/u.test(version))).toEqual([]);
  expect(pins.length).toBeGreaterThan(10);
  expect((textOf.get("bun.lock") ?? "").split("\n").filter((line) => line.includes("://"))).toEqual([]);
});
