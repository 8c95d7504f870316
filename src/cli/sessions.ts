/** `signalman sessions`: what is cached here, read beside the running daemon; sync and archive are the daemon's to do. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../config.ts";
import { BridgeError } from "../core/errors.ts";
import type { SessionEvent } from "../core/model.ts";
import { redactText } from "../log.ts";
import { toTime } from "../status/status.ts";
import type { Session } from "../store/sessions.ts";
import { openStore, type Store } from "../store/store.ts";
import { configOf, toTable, type Flags, type Io } from "./io.ts";
import { command } from "./remote.ts";

type Options = { readonly json?: true };

const listMax = 1_000;

export async function listSessions(io: Io, flags: Flags, options: Options): Promise<number> {
  const sessions = (await withStore(configOf(io, flags), (store) => store.sessions.list(listMax))) ?? [];
  if (options.json) io.out(`${JSON.stringify(sessions.map(toView), null, 2)}\n`);
  else if (sessions.length === 0) io.out("No sessions yet.\n");
  else {
    const rows = sessions
      .map(toView)
      .map(({ id, chat, title, state, usedAt }) => [id, chat, state, usedAt, title ?? ""]);
    io.out(toTable([["ID", "CHAT", "STATE", "LAST USED", "TITLE"], ...rows]));
  }
  return 0;
}

export async function showSession(io: Io, flags: Flags, id: string, options: Options): Promise<number> {
  const found = await withStore(configOf(io, flags), (store) => {
    const session = store.sessions.find(id);
    return session && { session, events: store.sessions.events(session.id) };
  });
  if (!found)
    throw new BridgeError("config", `Cannot show ${id} as there is no such session here`, {
      hint: "`signalman sessions` lists them.",
    });
  const { session, events } = found;
  if (options.json) io.out(`${JSON.stringify({ ...toView(session), events }, null, 2)}\n`);
  else io.out(describe(session) + events.map(toLines).join(""));
  return 0;
}

export async function syncSessions(io: Io, flags: Flags): Promise<number> {
  await command(configOf(io, flags), "sync", {}, io.signal);
  io.out("Synchronized.\n");
  return 0;
}

export async function archiveSession(io: Io, flags: Flags, id: string): Promise<number> {
  await command(configOf(io, flags), "archive", { id }, io.signal);
  io.out("Archived.\n");
  return 0;
}

/** Null where there is no database yet: looking must not make one. */
async function withStore<T>({ home }: Config, read: (store: Store) => T): Promise<T | null> {
  if (!existsSync(join(home, "signalman.db"))) return null;
  const store = await openStore(home, { render: () => [], isExclusive: false });
  try {
    return read(store);
  } finally {
    store.close();
  }
}

const toView = (session: Session) => ({
  id: session.id,
  remoteId: session.remoteId,
  chat: redactText(session.chatKey),
  title: typeof session.context["title"] === "string" ? session.context["title"] : null,
  backend: session.backend,
  state: session.state,
  isStale: session.isStale,
  createdAt: new Date(session.createdAt).toISOString(),
  usedAt: new Date(session.usedAt).toISOString(),
  syncedAt: session.syncedAt === 0 ? null : toTime(session.syncedAt),
});

const describe = (session: Session): string =>
  toTable(Object.entries(toView(session)).map(([name, value]) => [name, String(value ?? "-")]));

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
