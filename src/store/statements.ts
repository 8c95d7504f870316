/** Statements with their values in place; and reads that are not repeated before their tables are written. */
import { tablesRead, type Database, type Holds, type Row, type SqlValue } from "./database.ts";

type Tag<T> = (text: TemplateStringsArray, ...params: SqlValue[]) => T;

/** Tables whose rows one message asks for over and over, and that the daemon alone writes. */
const ownTables = ["inbox", "outbox", "posts", "reminders", "sessions", "calls", "counters", "file_looks"];
/** A table like those that a command beside the daemon may write, too, though not within a transaction of the daemon. */
const sharedTables = ["settings"];

/** How long the result of a `SELECT` of these tables is kept; null for any other statement. */
function holds(sql: string): Holds | null {
  const tables = tablesRead(sql);
  const isAmong = (names: readonly string[]): boolean => tables.every((name) => names.includes(name));
  if (!/^\s*SELECT\b/u.test(sql)) return null;
  return isAmong(ownTables) ? "always" : isAmong([...ownTables, ...sharedTables]) ? "transaction" : null;
}

/** Rows of one read that are kept by their ids; of a longer read none are. */
const keptRowsMax = 16;

/** Makes a value once for each key and keeps it, as a message asks for the same over and over. */
function onceEach<K, T>(make: (key: K) => T): (key: K) => T {
  const made = new Map<K, T>();
  return (key) => {
    const known = made.get(key);
    if (known !== undefined) return known;
    const fresh = make(key);
    made.set(key, fresh);
    return fresh;
  };
}

/**
 * Statements with their values in place: run`UPDATE t SET a = ${a}`. Every value is a parameter, never part of the text.
 * `one` and `many` read whole rows, so that their text begins where `select` ends; a row that one of them has read is not read again by
 * its id. The result of a read may be shared.
 */
export function statements<Item = Row>(db: Database, select = "", toItem = (row: Row) => row as Item) {
  const reading = <T>(start: string, read: (sql: string, params: readonly SqlValue[]) => T): Tag<T> => {
    const siteOf = onceEach((text: TemplateStringsArray) => {
      const sql = start + text.join("?");
      return { sql, kept: holds(sql) };
    });
    return (text, ...params) => {
      const { sql, kept } = siteOf(text);
      return kept ? db.remember(sql, params, kept, () => read(sql, params)) : read(sql, params);
    };
  };
  // As `one` asks for the row of an id.
  const byId = `${select} WHERE id = ?`;
  const isKept = holds(byId) === "always";
  const keepRow = (item: Item): Item => {
    const { id } = item as { readonly id?: SqlValue };
    return isKept && id !== undefined ? db.remember(byId, [id], "always", () => item) : item;
  };
  const first = (row: object): unknown => Object.values(row)[0];
  const sqlOf = onceEach((text: TemplateStringsArray) => text.join("?"));
  return {
    one: reading(`${select} `, (sql, params): Item | null => {
      const row = db.get(sql, ...params);
      return row === undefined ? null : keepRow(db.read(() => toItem(row)));
    }),
    many: reading(`${select} `, (sql, params): readonly Item[] => {
      const rows = db.all(sql, ...params);
      const items = db.read(() => rows.map(toItem));
      return items.length > keptRowsMax ? items : items.map(keepRow);
    }),
    /** The number of rows it touched. */
    run: ((text, ...params) => db.run(sqlOf(text), ...params).changes) satisfies Tag<number>,
    get: reading("", (sql, params) => db.get(sql, ...params)) as <T>(...tag: Parameters<Tag<T>>) => T | undefined,
    all: reading("", (sql, params) => db.all(sql, ...params)) as <T>(...tag: Parameters<Tag<T>>) => readonly T[],
    /** The first column of the first row; null where there is none. */
    value: reading("", (sql, params) => first(db.get(sql, ...params) ?? {}) ?? null) as <T>(
      ...tag: Parameters<Tag<T>>
    ) => T | null,
    /** The first column of every row. */
    values: reading("", (sql, params) => db.all(sql, ...params).map(first)) as <T>(...tag: Parameters<Tag<T>>) => T[],
    /** Whether there is any row. */
    has: reading("", (sql, params) => db.get(sql, ...params) !== undefined),
  };
}

/** The statements of a table whose rows are items: a column is called as its field, in snake case; it may hold JSON, or a flag as 0 or 1. */
export function table<Item>(
  db: Database,
  name: string,
  fields: readonly (keyof Item & string)[],
  { json = [], flags = [] }: { readonly [kind in "json" | "flags"]?: readonly (keyof Item & string)[] } = {},
) {
  const columns = fields.map(
    (field) => `${field.replaceAll(/[A-Z]/gu, (letter) => `_${letter.toLowerCase()}`)} AS ${field}`,
  );
  return statements<Item>(db, `SELECT ${columns.join(", ")} FROM ${name}`, (row) => {
    const item: Record<string, unknown> = { ...row };
    for (const field of json) item[field] = JSON.parse(String(row[field])) as unknown;
    for (const field of flags) item[field] = row[field] === 1;
    return item as Item;
  });
}
