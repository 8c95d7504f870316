import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDatabase, type Database } from "../../src/store/database.ts";
import { migrate } from "../../src/store/migrations.ts";
import { forget, prune } from "../../src/store/retention.ts";

/** A database with a chat whose messages disappear after a minute, and its conversation. */
let home: string;
let db: Database;
beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "signalman-disappear-"));
  db = await openDatabase(join(home, "signalman.db"));
  migrate(db);
  db.run("INSERT INTO settings (key, value) VALUES ('timer:self', '60')");
  db.run(
    "INSERT INTO sessions (id, chat_key, chat, backend, state, context, stamps, created_at, used_at) VALUES ('s', 'self', '{}', 'messages', 'active', '{}', '{}', 0, 100000)",
  );
});
afterEach(() => {
  db.close();
  rmSync(home, { recursive: true });
});

test("where messages disappear nothing of them stays in the log: no text, no tool's input, no block, no picture", () => {
  const bodies = [
    { type: "prompt", text: "SECRET" },
    { type: "other", name: "messages.user", raw: { content: [{ type: "image", source: { data: "SECRET" } }] } },
    { type: "other", name: "messages.assistant", raw: { content: [{ type: "thinking", thinking: "SECRET" }] } },
    { type: "tool_use", name: "local_read", input: { file_path: "SECRET" } },
    { type: "reply", text: "SECRET" },
    { type: "other", name: "session.something" },
    { type: "idle", stop: { kind: "end_turn" } },
  ];
  for (const [index, body] of bodies.entries())
    db.run(
      "INSERT INTO events (session_id, id, type, at, body) VALUES ('s', ?, ?, 1000, ?)",
      `e${index}`,
      body.type,
      JSON.stringify(body),
    );
  forget(db, 120_000);
  const rows = db.all<{ body: string }>("SELECT body FROM events ORDER BY seq").map(({ body }) => body);
  expect(rows.join("\n")).not.toContain("SECRET");
  expect(rows.map((body) => (JSON.parse(body) as { type: string }).type)).toEqual(bodies.map(({ type }) => type));
  expect(JSON.parse(rows[3] ?? "")).toEqual({ type: "tool_use", name: "local_read", input: null });
  // Where nothing disappears, pictures and whole blocks go by age, and what was said stays.
  prune(db, 1_000);
  expect(db.all("SELECT 1 FROM events")).toHaveLength(7);
  prune(db, 1_001);
  const left = db.all<{ type: string }>("SELECT type FROM events ORDER BY seq").map(({ type }) => type);
  expect(left).toEqual(["prompt", "tool_use", "reply", "idle"]);
  // The timer of the last message has run.
  db.run("UPDATE sessions SET remote_id = 'remote'");
  db.run(
    "INSERT INTO posts (session_id, kind, subject, state, created_at) VALUES ('s', 'prompt', '1', 'waiting', 100000)",
  );
  forget(db, 200_000);
  expect(db.all("SELECT 1 FROM sessions")).toHaveLength(1);
  db.run("UPDATE posts SET state = 'done'");
  forget(db, 160_000);
  expect(db.all("SELECT 1 FROM sessions")).toHaveLength(1);
  forget(db, 160_001);
  for (const table of ["sessions", "events", "posts"]) expect(db.all(`SELECT 1 FROM ${table}`)).toEqual([]);
  expect(db.all("SELECT key FROM settings ORDER BY key")).toEqual([{ key: "forget:remote" }, { key: "timer:self" }]);
});

test("of our messages the words disappear: what a row is stays, and a question that Signal did not take is kept while it is open", () => {
  db.run(
    "INSERT INTO posts (session_id, kind, subject, state, created_at) VALUES ('s', 'prompt', '1', 'waiting', 100000)",
  );
  const text = { kind: "text", text: "SECRET", styles: [{ start: 0 }], quote: { text: "SECRET" }, files: [] };
  const rows = [
    ["reply", "sent", text],
    ["reply", "sent", { kind: "edit", targetSentAt: 7, text: "SECRET", styles: [] }],
    ["mark", "sent", { kind: "reaction", emoji: "👍", targetSentAt: 7 }],
    ["file", "sent", { ...text, text: "", files: [{ data: "SECRET" }] }],
    ["ask", "sent", text],
    ["ask", "failed", text],
  ] as const;
  for (const [index, [why, state, body]] of rows.entries())
    db.run(
      "INSERT INTO outbox (why, session_id, subject, part, chat_key, chat, timestamp, body, state, created_at, done_at) VALUES (?, 's', ?, 0, 'self', '{}', ?, ?, ?, 0, 1000)",
      why,
      String(index),
      index,
      JSON.stringify(body),
      state,
    );
  const bodies = () => db.all<{ body: string }>("SELECT body FROM outbox ORDER BY id").map(({ body }) => body);
  forget(db, 120_000);
  const blank = { kind: "text", text: "", styles: [], quote: null, files: [] };
  const edit = { kind: "edit", targetSentAt: 7, text: "", styles: [] };
  expect(bodies().map((body) => JSON.parse(body) as unknown)).toEqual([blank, edit, rows[2][2], blank, blank, text]);
  db.run("UPDATE posts SET state = 'done'");
  forget(db, 120_000);
  expect(bodies().join("\n")).not.toContain("SECRET");
});
