/** Statements with their values in place; and reads that are not repeated while they stay true. */
import type { Database, Row, SqlValue } from "./database.ts";

type Tag<T> = (text: TemplateStringsArray, ...params: SqlValue[]) => T;

/**
 * Tables that the daemon alone writes, and whose rows one message asks for over and over: a row that was read is not read again before
 * its table is written.
 */
const ownTables: ReadonlySet<string> = new Set(["inbox", "outbox", "posts", "reminders", "sessions"]);
/** Answers kept for each statement; and rows in an answer, more of which are read anew. */
const keptMax = 64;

/**
 * Statements with their values in place: run`UPDATE t SET a = ${a}`. Every value is a parameter, never part of the text.
 * `one` and `many` read whole rows, so that their text begins where `select` ends. What a read resolves to may be shared.
 */
export function statements<Raw = Row, Item = Raw>(
  db: Database,
  select = "",
  toItem: (raw: Raw) => Item = (raw) => raw as unknown as Item,
) {
  const reading = <T>(start: string, read: (sql: string, params: readonly SqlValue[]) => T): Tag<T> => {
    const sites = new Map<TemplateStringsArray, Site<T>>();
    return (text, ...params) => {
      let site = sites.get(text);
      if (!site) sites.set(text, (site = createSite(start + text.join("?"))));
      return site.isOwn ? remembered(db, site, params, read) : read(site.sql, params);
    };
  };
  return {
    one: reading(`${select} `, (sql, params): Item | null => {
      const raw = db.get<Raw>(sql, ...params);
      return raw === undefined ? null : db.read(() => toItem(raw));
    }),
    many: reading(`${select} `, (sql, params): readonly Item[] => {
      const rows = db.all<Raw>(sql, ...params);
      return db.read(() => rows.map(toItem));
    }),
    /** The number of rows it touched. */
    run: ((text, ...params) => db.run(text.join("?"), ...params).changes) satisfies Tag<number>,
    get: reading("", (sql, params) => db.get(sql, ...params)) as <T>(...tag: Parameters<Tag<T>>) => T | undefined,
    all: reading("", (sql, params) => db.all(sql, ...params)) as <T>(...tag: Parameters<Tag<T>>) => readonly T[],
  };
}

/** A statement where it stands in the source. */
type Site<T> = {
  readonly sql: string;
  readonly tables: readonly string[];
  readonly isOwn: boolean;
  readonly kept: Map<SqlValue, { readonly writes: number; readonly found: T }>;
};

function createSite<T>(sql: string): Site<T> {
  const tables = [...sql.matchAll(/\b(?:FROM|JOIN|INTO|UPDATE)\s+(\w+)/gu)].flatMap(([, name]) => name ?? []);
  const isOwn = /^\s*SELECT\b/u.test(sql) && tables.every((name) => ownTables.has(name));
  return { sql, tables, isOwn, kept: new Map() };
}

function remembered<T>(
  db: Database,
  { sql, tables, kept }: Site<T>,
  params: readonly SqlValue[],
  read: (sql: string, params: readonly SqlValue[]) => T,
): T {
  const key = params.length === 1 ? (params[0] ?? null) : JSON.stringify(params);
  const writes = db.writesTo(tables);
  const known = kept.get(key);
  if (known?.writes === writes) return known.found;
  const found = read(sql, params);
  if (kept.size >= keptMax) kept.clear();
  if (!Array.isArray(found) || found.length <= keptMax) kept.set(key, { writes, found });
  return found;
}
