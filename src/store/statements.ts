/** Statements with their values in place; and reads that are not repeated before their tables are written. */
import type { Database, Row, SqlValue } from "./database.ts";

type Tag<T> = (text: TemplateStringsArray, ...params: SqlValue[]) => T;

/** Tables that the daemon alone writes, and whose rows one message asks for over and over. */
const ownTables: ReadonlySet<string> = new Set(["inbox", "outbox", "posts", "reminders", "sessions"]);

/** A `SELECT` of those alone: a command beside the daemon may write the others at any time. */
function isOwn(sql: string): boolean {
  const tables = [...sql.matchAll(/\b(?:FROM|JOIN)\s+(\w+)/gu)].flatMap(([, name]) => name ?? []);
  return /^\s*SELECT\b/u.test(sql) && tables.every((name) => ownTables.has(name));
}

/**
 * Statements with their values in place: run`UPDATE t SET a = ${a}`. Every value is a parameter, never part of the text.
 * `one` and `many` read whole rows, so that their text begins where `select` ends. What a read resolves to may be shared.
 */
export function statements<Item = Row>(db: Database, select = "", toItem = (row: Row) => row as Item) {
  const reading = <T>(start: string, read: (sql: string, params: readonly SqlValue[]) => T): Tag<T> => {
    const known = new Map<TemplateStringsArray, { readonly sql: string; readonly isKept: boolean }>();
    return (text, ...params) => {
      const sql = start + text.join("?");
      const site = known.get(text) ?? { sql, isKept: isOwn(sql) };
      known.set(text, site);
      return site.isKept ? db.remember(sql, params, () => read(sql, params)) : read(sql, params);
    };
  };
  const first = (row: object): unknown => Object.values(row)[0];
  return {
    one: reading(`${select} `, (sql, params): Item | null => {
      const row = db.get(sql, ...params);
      return row === undefined ? null : db.read(() => toItem(row));
    }),
    many: reading(`${select} `, (sql, params): readonly Item[] => {
      const rows = db.all(sql, ...params);
      return db.read(() => rows.map(toItem));
    }),
    /** The number of rows it touched. */
    run: ((text, ...params) => db.run(text.join("?"), ...params).changes) satisfies Tag<number>,
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
