/** What is kept in the home folder, looked at beside the running daemon: settings, sessions, and a copy of the database. */
import { closeSync, existsSync, openSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { BridgeError } from "../core/errors.ts";
import type { Session, SessionEvent } from "../core/model.ts";
import { redactText } from "../log.ts";
import { fileKey, settingKeys, settingRow, variableOf } from "../settings.ts";
import { toTime } from "../status/status.ts";
import { openDatabase } from "../store/database.ts";
import { openStore, type Store } from "../store/store.ts";
import { configOf, load, printJson, toTable, type Cli } from "./io.ts";

type Options = { readonly json?: true };

const cellLengthMax = 72;

/** The owner's own numbers are shown whole: it is their terminal, and what they need to check. */
export function showConfig(cli: Cli, { json }: Options): number {
  const { given, origins } = load(cli);
  const rows = settingKeys.map((key) => ({
    key: fileKey(key),
    variable: variableOf(key),
    value: masked(given[key], settingRow(key).isSecret === true),
    origin: origins[key],
  }));
  if (json) printJson(cli, rows);
  else cli.out(toTable(rows.map(({ key, value, origin }) => [key, origin, toCell(value)])));
  return 0;
}

/** A key, and the user and password that a URL may carry. */
function masked(value: unknown, isSecret: boolean): unknown {
  if (isSecret && value !== null) return "(hidden)";
  return typeof value === "string" ? value.replace(/^(https?:\/\/)[^\s/@]+@/i, "$1…@") : value;
}

function toCell(value: unknown): string {
  if (value === null) return "-";
  const given = Array.isArray(value) ? value.join(", ") : typeof value === "string" ? value : JSON.stringify(value);
  const text = given.replace(/\s+/g, " ");
  return text.length > cellLengthMax ? `${text.slice(0, cellLengthMax - 1)}…` : text;
}

const sessionsMax = 1_000;

export async function listSessions(cli: Cli, { json }: Options): Promise<number> {
  const sessions = (await withStore(cli, (store) => store.sessions.list(sessionsMax)))?.map(toView) ?? [];
  const rows = sessions.map(({ id, chat, title, state, usedAt }) => [id, chat, state, usedAt, title ?? ""]);
  if (json) printJson(cli, sessions);
  else if (rows.length === 0) cli.out("No sessions yet.\n");
  else cli.out(toTable([["ID", "CHAT", "STATE", "LAST USED", "TITLE"], ...rows]));
  return 0;
}

export async function showSession(cli: Cli, { json }: Options, id = ""): Promise<number> {
  const found = await withStore(cli, ({ sessions, log }) => {
    const session = sessions.find(id);
    return session && { session: toView(session), events: log.events(session.id) };
  });
  if (!found)
    throw new BridgeError("config", `Cannot show ${id} as there is no such session here`, {
      hint: "`signalman sessions` lists them.",
    });
  const { session, events } = found;
  const rows = Object.entries(session).map(([name, value]) => [name, String(value ?? "-")]);
  if (json) printJson(cli, { ...session, events });
  else cli.out(toTable(rows) + events.map(toLines).join(""));
  return 0;
}

/** Null where there is no database yet: looking must not make one. */
async function withStore<T>(cli: Cli, read: (store: Store) => T): Promise<T | null> {
  const { home } = configOf(cli);
  if (!existsSync(join(home, "signalman.db"))) return null;
  using stack = new DisposableStack();
  const store = await openStore(home, { isExclusive: false });
  stack.defer(() => store.close());
  return read(store);
}

const toView = (session: Session) => ({
  id: session.id,
  remoteId: session.remoteId,
  chat: redactText(session.chatKey),
  title: typeof session.context["title"] === "string" ? session.context["title"] : null,
  backend: session.backend,
  state: session.state,
  isStale: session.isStale,
  createdAt: toTime(session.createdAt),
  usedAt: toTime(session.usedAt),
  syncedAt: session.syncedAt === 0 ? null : toTime(session.syncedAt),
});

/** What people read; the rest of the log is for `--json`. */
function toLines(event: SessionEvent): string {
  const time = toTime(event.at) ?? "queued";
  switch (event.type) {
    case "prompt":
      return `\n${time}  you\n${event.text}\n`;
    case "reply":
      return `\n${time}  Claude\n${event.text}\n`;
    case "tool_use":
      return `\n${time}  Claude uses ${event.name}\n`;
    default:
      return "";
  }
}

/**
 * A copy that is consistent while the daemon works. It holds keys and messages, so it is 0600 from its first byte.
 * @throws BridgeError `config` `database`
 */
export async function backup(cli: Cli, _: unknown, file = ""): Promise<number> {
  const source = join(configOf(cli).home, "signalman.db");
  if (!existsSync(source)) throw new BridgeError("config", `Cannot back up ${source} as there is no such file`);
  const target = resolve(file);
  try {
    // SQLite fills an empty file as gladly as none.
    closeSync(openSync(target, "wx", 0o600));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : "it cannot be made";
    const isThere = existsSync(target);
    const hint = `Name another file${isThere ? ": a backup overwrites nothing" : ", in a folder that you may write to"}.`;
    throw new BridgeError("config", `Cannot write a backup as the system says: ${why}`, { hint, cause });
  }
  try {
    using stack = new DisposableStack();
    stack.adopt(await openDatabase(source), (db) => db.close()).copyTo(target);
  } catch (error) {
    rmSync(target, { force: true });
    throw error;
  }
  cli.out(`${target}  ${statSync(target).size} bytes\n`);
  return 0;
}
