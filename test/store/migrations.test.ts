/** A file that an older version wrote, with a row in every state, opens today: nothing is lost, and what was under way goes on. */
import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Bridge } from "../../src/loops/bridge.ts";
import { build } from "../../src/loops/request.ts";
import type { Row } from "../../src/store/database.ts";
import { openDatabase } from "../../src/store/database.ts";
import { makeVersion } from "../fixtures/store/steps.ts";
import { createChatRig, noteOf, owner, type ChatRig } from "../doubles/chats.ts";

const own = owner.aci;
const startedAt = 1_786_953_600_000;
const bob = "direct:0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002";
const bobChat = { kind: "direct", peer: { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002", number: null } } as const;

/** What each kind of key became: why, session, subject (of a question all that it shows), part. */
const names: Record<string, string> = {
  [`status:self|${own}|${startedAt + 1_000}:taken`]: "mark 1 0",
  [`status:self|${own}|${startedAt + 1_000}:done`]: "mark 1 2",
  [`status:self|${own}|${startedAt + 2_000}:taken`]: "mark 2 0",
  [`status:self|${own}|${startedAt + 3_000}:taken`]: "mark 3 0",
  "reply:s-self:r1:0": "reply s-self r1 0",
  "reply:s-self:r1:1": "reply s-self r1 1",
  "reply:s-self:local:42:0": "reply s-self local:42 0",
  "reply:s-self:local:42:0:files": "reply s-self local:42 1000",
  [`welcomed:${own}`]: `welcome ${own} 0`,
  "draft:2": "draft 2 0",
  "draft:2:1": "draft 2 1",
  "below:7": "below 2 0",
  "control:4": "command 4 0",
  "digest:self:3": "digest 3 0",
  "told:5": "told 5 0",
  "end:5": "end 5 0",
  "end:5:files": "end 5 1000",
  "ask:s-bob:ask5": 'ask s-bob ["ask5"] 0',
  [`expired:6:${startedAt + 3_600_000}`]: `expired 6:${startedAt + 3_600_000} 0`,
  "failed:9": "failed 9 0",
  "stopped:10": "stopped 10 0",
  "gone:s-group": "gone s-group 0",
  "tool:s-self:u2": "tool s-self u2 0",
  "file:s-self:file_1": "file s-self file_1 0",
  "send:3f2c7a10-9d1e-4b5a-8c7b-9e1d2a3b4c5d": "send 3f2c7a10-9d1e-4b5a-8c7b-9e1d2a3b4c5d 0",
};

describe.each([3, 7])("a database of version %d", (version) => {
  let rig: ChatRig;
  const before: Record<string, Row[]> = {};
  let counted: Row[] = [];
  const same =
    "id, chat_key, chat, timestamp, body, state, attempts, is_uncertain, signal_timestamp, fault, created_at, done_at";
  const tables: Record<string, string> = {
    outbox: `SELECT ${same} FROM outbox ORDER BY id`,
    events: "SELECT * FROM events ORDER BY seq",
    sessions: "SELECT * FROM sessions ORDER BY id",
    settings: "SELECT * FROM settings WHERE key NOT GLOB 'count.*' ORDER BY key",
    files: "SELECT * FROM files",
    inbox: "SELECT id, chat_key, envelope, told, received_at FROM inbox ORDER BY id",
  };
  const keys = new Map<unknown, string>();
  const open = async (): Promise<void> => {
    rig = await createChatRig({ backend: "sessions" }, async (file) => {
      const db = await openDatabase(file);
      db.exec(readFileSync(join(import.meta.dir, `../fixtures/store/version-${version}.sql`), "utf8"));
      for (const [table, sql] of Object.entries(tables)) before[table] = db.all(sql);
      counted = db.all("SELECT key, value FROM settings WHERE key GLOB 'count.*' ORDER BY key");
      // Conversations of that time work on no project.
      for (const row of before["sessions"] ?? []) row["project"] = null;
      for (const { id, key } of db.all("SELECT id, key FROM outbox")) keys.set(id, String(key));
      db.close();
    });
    rig.now = startedAt + 20_000;
  };
  afterEach(() => rig.close());

  test("nothing is lost: each row is there, as it was", async () => {
    await open();
    // The one that is new says that a yes was not taken.
    rig.store.db.run("DELETE FROM outbox WHERE why = 'command' AND subject = '7'");
    for (const [table, sql] of Object.entries(tables)) {
      expect(before[table]?.length).toBeGreaterThan(0);
      expect({ table, rows: rig.store.db.all(sql) }).toEqual({ table, rows: before[table] ?? [] });
    }
  });

  test("what was counted is counted on", async () => {
    await open();
    expect(counted).not.toEqual([]);
    const sums = rig.store.db.all(
      "SELECT 'count.' || name AS key, CAST(value AS TEXT) AS value FROM counters ORDER BY key",
    );
    expect(sums).toEqual(counted);
  });

  test("a key became the reason, the subject and the part", async () => {
    await open();
    const rows = rig.store.db.all<{ id: number; name: string }>(
      "SELECT id, why || ' ' || iif(session_id = '', '', session_id || ' ') || coalesce(uses, subject) || ' ' || part AS name FROM outbox",
    );
    const became = Object.fromEntries(
      rows.flatMap(({ id, name }) => (keys.has(id) ? [[keys.get(id) ?? "", name]] : [])),
    );
    const known = Object.entries(names).filter(([key]) => version > 3 || !key.startsWith("below"));
    expect(became).toEqual(Object.fromEntries(known));
  });

  test("what was asked of Claude became a post; what was not is posted by the start", async () => {
    await open();
    const posts = (): string[] =>
      rig.store.db
        .all<{ line: string }>(
          "SELECT subject || ' ' || state || ' ' || session_id || ' ' || coalesce(event_id, '-') AS line FROM posts ORDER BY id",
        )
        .map(({ line }) => line);
    const old = [
      "1 done s-self p1",
      "2 posted s-self p2",
      "5 posting s-alice -",
      "6 waiting s-bob p5",
      "9 done s-group p7",
      "11 posting s-carl -",
    ];
    expect(posts()).toEqual(old);
    expect(rig.store.posts.ofPrompt(5)).toMatchObject({
      postedAt: startedAt + 4_100,
      request: { kind: "prompt", text: "with a picture" },
      tries: version > 3 ? { outage: 2 } : {},
    });
    expect(rig.store.inbox.get(5)?.told).toBe("claude_overloaded");
    rig.chats.tellAll({ type: "started" });
    // Another line keeps that conversation by the settings of today: its prompt is asked anew in a fresh one.
    const asked = old.map((row) => row.replace("11 posting s-carl", "11 queued s1"));
    expect(posts()).toEqual([...asked, "8 queued s-group -"]);
    expect(rig.store.posts.mappedEventIds("s-self")).toEqual(["p1", "p2"]);
  });

  test("open prompts are open, with every time of sending that names them; the rest has its one outcome", async () => {
    await open();
    const rows = rig.store.db.all<{ line: string }>(
      "SELECT id || ' ' || kind || ' ' || coalesce(outcome, state) AS line FROM inbox ORDER BY id",
    );
    expect(rows.map(({ line }) => line)).toEqual([
      "1 prompt answered",
      "2 prompt open",
      "3 prompt open",
      "4 command cancelled",
      "5 prompt open",
      "6 prompt open",
      "7 answer cancelled",
      "8 prompt open",
      "9 prompt failed",
      "10 prompt cancelled",
      "11 prompt open",
    ]);
    expect(rig.store.inbox.get(8)?.versions).toEqual([startedAt + 6_000, startedAt + 5_900]);
  });

  test("a command, or a yes, that was left open is over, and its person hears so", async () => {
    await open();
    expect(rig.store.outbox.of("command", "7")).toMatchObject([
      {
        chatKey: bob,
        chat: bobChat,
        state: "queued",
        body: { kind: "text", text: expect.stringContaining("send it again") },
      },
    ]);
    // What was answered already is answered.
    expect(rig.store.outbox.of("command", "4")).toMatchObject([{ body: { text: "Signal: connected" } }]);
  });

  test("a question that was open takes a plain yes", async () => {
    await open();
    expect(rig.chats.viewOf(bobChat).asks).toMatchObject([
      { use: { id: "ask5" }, question: { subject: { sessionId: "s-bob", uses: ["ask5"] }, number: 1 } },
    ]);
    const yes = noteOf("yes", startedAt + 30_000, { source: bobChat.peer, chat: bobChat, isOwn: false });
    rig.take(yes);
    expect(rig.store.posts.open("s-bob")).toMatchObject([
      { subject: "6", state: "posted" },
      { kind: "confirm", subject: "ask5", request: { isAllowed: true } },
    ]);
    expect(rig.store.inbox.head(bob).map(({ id }) => id)).toEqual([6]);
  });

  test("what is shown on the phones is known: a stop takes the mark off, and the preview ends", async () => {
    await open();
    rig.say("/stop", startedAt + 30_000);
    expect(rig.store.outbox.of("mark", "2").at(-1)?.body).toMatchObject({ emoji: "👀", isRemove: true });
    expect(rig.store.outbox.of("stopped", "2")[0]?.body).toMatchObject({ kind: "edit", text: "(stopped)" });
    expect(rig.store.posts.ofPrompt(3)?.state).toBe("queued");
  });

  test("a prompt that did not arrive goes out again with its files, which the older version did not keep", async () => {
    await open();
    const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    const transport = { attachment: async () => Uint8Array.fromBase64(pixel) };
    const line = { hasSandbox: () => false };
    const bridge = {
      config: {},
      lineOf: () => line,
      store: rig.store,
      account: () => owner,
      transport,
      transcribe: null,
      toolsOf: async () => ({ system: null, tools: [] }),
    } as unknown as Bridge;
    const post = rig.store.posts.ofPrompt(5);
    if (post === null) throw new Error("There is no post");
    const { request, isNew } = await build(bridge, post, new AbortController().signal);
    expect(request).toMatchObject({ text: "with a picture", files: [{ fileName: "a.png" }] });
    expect(isNew).toBe(true);
  });
});

test("a subject of version 16 became columns: whose log it is about, the entry, and all that a question shows", async () => {
  const subjects = {
    reply: "s:local:42",
    tool: "s:u1",
    ask: "s:u1,u2",
    reminder: "s:u3",
    expired: "s:u1,u2",
    refused: "s:u4",
    file: "gone:file_1",
    remind: `6:${startedAt}`,
    draft: "7",
  };
  const rig = await createChatRig({ backend: "sessions" }, async (file) => {
    const db = await openDatabase(file);
    makeVersion(db, 16);
    db.run(`INSERT INTO sessions (id, chat_key, chat, backend, state, context, stamps, created_at, used_at)
      VALUES ('s', 'self', '{"kind":"self"}', 'sessions', 'active', '{}', '{}', 1, 1)`);
    const add = `INSERT INTO outbox (why, subject, part, chat_key, chat, timestamp, body, state, created_at)
      VALUES (?, ?, 3, 'self', '{"kind":"self"}', ?, '{"kind":"text"}', 'queued', 1)`;
    Object.entries(subjects).forEach(([why, subject], index) => db.run(add, why, subject, index + 1));
    const post = "INSERT INTO posts (session_id, kind, subject, state, created_at) VALUES ('s', ?, ?, 'queued', 1)";
    db.run(post, "prompt", "7");
    db.run(post, "confirm", "s:u1");
    db.run(post, "result", "s:u2");
    db.run("INSERT INTO file_looks (session_id, due_at, looks) VALUES ('s', 0, 2)");
    db.close();
  });
  const rows = rig.store.db.all("SELECT why, session_id, subject, uses, part FROM outbox ORDER BY timestamp");
  const both = `["u1","u2"]`;
  expect(rows.map((row) => Object.values(row))).toEqual([
    ["reply", "s", "local:42", null, 3],
    ["tool", "s", "u1", null, 3],
    ["ask", "s", "u1", both, 3],
    ["reminder", "s", "u3", `["u3"]`, 3],
    ["expired", "s", "u1", both, 3],
    ["refused", "s", "u4", null, 3],
    ["file", "", "gone:file_1", null, 3],
    ["remind", "", `6:${startedAt}`, null, 3],
    ["draft", "", "7", null, 3],
  ]);
  expect(rig.store.outbox.questions("s").map(({ uses }) => uses)).toEqual([["u3"], ["u1", "u2"]]);
  expect(rig.store.posts.open("s").map(({ kind, subject }) => `${kind} ${subject}`)).toEqual([
    "prompt 7",
    "confirm u1",
    "result u2",
  ]);
  expect(rig.store.files.looks("s")).toBe(2);
  rig.close();
});
