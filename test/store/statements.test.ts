/** What was read is not read again before its table is written: by whichever statement, and also where that is taken back. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createCounters } from "../../src/store/counters.ts";
import { openDatabase, type Database } from "../../src/store/database.ts";
import { statements, table } from "../../src/store/statements.ts";
import { countCommits } from "../doubles/commits.ts";

let home: string;
let db: Database;
let disk: ReturnType<typeof countCommits>;

beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "signalman-statements-"));
  db = await openDatabase(join(home, "x.db"));
  db.exec("CREATE TABLE inbox (id INTEGER PRIMARY KEY, word TEXT) STRICT; CREATE TABLE settings (word TEXT) STRICT");
  db.exec("CREATE TABLE posts (id INTEGER REFERENCES inbox (id)) STRICT");
  disk = countCommits(db);
});

afterEach(() => {
  db.close();
  rmSync(home, { recursive: true });
});

function createWords() {
  const { one, many, run, get, all } = statements(db, "SELECT word FROM inbox", ({ word }) => word as string);
  return {
    first: (id: number) => one`WHERE id = ${id}`,
    words: () => many`ORDER BY id`,
    posted: () => get<{ n: number }>`SELECT count(*) AS n FROM inbox JOIN posts USING (id)`?.n,
    setting: () => get<{ word: string }>`SELECT word FROM settings`?.word,
    add: (word: string) => run`INSERT INTO inbox (word) VALUES (${word})`,
    replace: (id: number, word: string) => run`INSERT OR REPLACE INTO inbox (id, word) VALUES (${id}, ${word})`,
    change: (id: number, word: string) => run`UPDATE inbox SET word = ${word} WHERE id = ${id}`,
    take: () => all<{ word: string }>`DELETE FROM inbox RETURNING word`,
    post: (id: number) => run`INSERT INTO posts (id) VALUES (${id})`,
  };
}

test("a read is not repeated while nothing wrote its tables, each by its own values", () => {
  const words = createWords();
  words.add("a");
  words.add("b");
  disk();
  for (let look = 0; look < 3; look++) {
    expect([words.first(1), words.first(2), words.first(3)]).toEqual(["a", "b", null]);
    expect(words.words()).toEqual(["a", "b"]);
    expect(words.posted()).toBe(0);
  }
  expect(disk().statements).toBe(5);
});

test("a row that was read with others is not read again by its id, unless it came with very many", () => {
  const words = createWords();
  for (const word of ["a", "b"]) words.add(word);
  const rows = table<{ id: number; word: string }>(db, "inbox", ["id", "word"]);
  const all = () => rows.many`ORDER BY id`;
  const word = (id: number) => rows.one`WHERE id = ${id}`?.word;
  all();
  disk();
  expect([word(1), word(2), word(3)]).toEqual(["a", "b", undefined]);
  expect(disk().statements).toBe(1);
  words.change(2, "c");
  expect(word(2)).toBe("c");
  for (let count = 2; count < 20; count++) words.add("x");
  expect([all().length, word(2)]).toEqual([20, "c"]);
  disk();
  expect([word(1), disk().statements]).toEqual(["a", 1]);
});

test("whichever way a table is written, what is read next is true", () => {
  const words = createWords();
  const writes: readonly (readonly [write: () => unknown, words: string[], posted: number])[] = [
    [() => words.add("a"), ["a"], 0],
    [() => words.change(1, "b"), ["b"], 0],
    [() => words.replace(1, "c"), ["c"], 0],
    [() => words.post(1), ["c"], 1],
    [() => db.exec("PRAGMA foreign_keys = OFF; UPDATE inbox SET word = 'd'"), ["d"], 1],
    [() => words.take(), [], 0],
  ];
  for (const [write, left, posted] of writes) {
    write();
    expect([words.words(), words.first(1), words.posted()]).toEqual([left, left[0] ?? null, posted]);
  }
});

test("what a transaction read of its own writes is forgotten with them", () => {
  const words = createWords();
  words.add("a");
  expect(() =>
    db.transaction(() => {
      words.change(1, "b");
      expect(words.first(1)).toBe("b");
      throw new Error("taken back");
    }),
  ).toThrow("taken back");
  expect(words.first(1)).toBe("a");
});

test("tables that a command beside the daemon writes are read each time", async () => {
  const words = createWords();
  expect(words.setting()).toBeUndefined();
  const other = await openDatabase(join(home, "x.db"));
  other.run("INSERT INTO settings (word) VALUES ('allowed')");
  other.close();
  expect(words.setting()).toBe("allowed");
});

test("within a transaction they are read once, and again where another process has written since the last", async () => {
  const words = createWords();
  const look = () => db.transaction(() => [words.setting(), words.setting()]);
  expect(look()).toEqual([undefined, undefined]);
  disk();
  expect([look(), disk().statements]).toEqual([[undefined, undefined], 0]);
  const other = await openDatabase(join(home, "x.db"));
  other.run("INSERT INTO settings (word) VALUES ('allowed')");
  other.close();
  expect([look(), disk().statements]).toEqual([["allowed", "allowed"], 1]);
  db.run("UPDATE settings SET word = 'ours'");
  expect(look()).toEqual(["ours", "ours"]);
});

test("what is counted in a transaction is one statement at its end, and nothing where it is taken back", () => {
  db.exec("CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT");
  const counters = createCounters(db);
  const count = () =>
    db.transaction(() => {
      counters.add({ sent: 1 });
      counters.add({ sent: 1, answered: 1 });
    });
  disk();
  count();
  expect(disk()).toMatchObject({ statements: 1, commits: 1 });
  expect(() =>
    db.transaction(() => {
      counters.add({ sent: 5 });
      throw new Error("taken back");
    }),
  ).toThrow("taken back");
  count();
  counters.add({ dropped: 1 });
  expect([counters.get("sent"), counters.get("answered"), counters.get("dropped")]).toEqual([4, 2, 1]);
});
