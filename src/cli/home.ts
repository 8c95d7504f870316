/** Commands on the home folder, beside the running daemon: settings, sessions, people who may ask, and a copy of the database. */
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { join, resolve } from "node:path";
import parseWords from "string-argv";
import { resolveHome } from "../config.ts";
import { nameOf, transcriptOf } from "../core/conversation.ts";
import { toFault } from "../core/errors.ts";
import { changeGuests, listGuests, type Guests } from "../core/guests.ts";
import type { Session } from "../core/model.ts";
import { harmless, localTime, redactText } from "../log.ts";
import { fileKey, readAddressee, settingKeys, settingRow, variableOf } from "../settings.ts";
import { toTime } from "../status/status.ts";
import { createGuests, setAllowed } from "../store/allowed.ts";
import { openDatabase } from "../store/database.ts";
import { groupNameIn, namesIn } from "../store/names.ts";
import { openStore, takeLock, type Store } from "../store/store.ts";
import { configOf, load, print, runAttached, toTable, withStore, writePrivate, wrong, type Cli } from "./io.ts";
import { have } from "./remote.ts";

type Options = { readonly json?: true; readonly force?: true };

const cellLengthMax = 72;

/** Shows the owner's own numbers whole, since this is their terminal, and they need them to check the settings. */
export function showConfig(cli: Cli, options: Options): number {
  const { given, origins } = load(cli);
  const rows = settingKeys.map((key) => ({
    key: fileKey(key),
    variable: variableOf(key),
    value: masked(given[key], settingRow(key).isSecret === true),
    origin: origins[key],
  }));
  return print(cli, options, rows, () => toTable(rows.map(({ key, value, origin }) => [key, origin, toCell(value)])));
}

/** The value without a key, and without the user and password that a URL may carry. */
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

/** The path of config.toml, which need not exist. */
const configFile = (cli: Cli): string => join(resolveHome(cli), "config.toml");

export const showPath = (cli: Cli): number => (cli.out(`${configFile(cli)}\n`), 0);

/** Opens config.toml in the person's editor, and checks it afterwards. @throws BridgeError `config` */
export async function editConfig(cli: Cli): Promise<number> {
  const path = configFile(cli);
  if (!existsSync(path)) writePrivate(path, "# What may stand here: signalman config show\n");
  const [program = "", ...words] = parseWords(cli.env["VISUAL"] || cli.env["EDITOR"] || "vi");
  const code = await runAttached(program, [...words, path]);
  const hint = "Set EDITOR to an editor of yours, or edit the file by other means.";
  if (code !== 0) throw wrong(`Cannot edit ${path} as ${program} ended with ${code}`, hint);
  load(cli);
  cli.out(`${path} is in order. Restart the daemon to use it.\n`);
  return 0;
}

const sessionsMax = 1_000;

export async function listSessions(cli: Cli, options: Options): Promise<number> {
  const views = await withStore(configOf(cli), (store) =>
    store.sessions.list(sessionsMax).map((session) => ({
      ...toView(session),
      who: whoOf(store, session),
      title: nameOf(session, store.log.lastOfType(session.id, "prompt")),
    })),
  );
  const sessions = views ?? [];
  const rows = sessions.map(({ id, who, title, state, usedAt }, index) => {
    return [String(index + 1), id.slice(0, 8), who, state, localTime(Date.parse(usedAt)).slice(0, 16), toCell(title)];
  });
  const head = ["#", "ID", "CHAT", "STATE", "LAST USED", "ABOUT"];
  return print(cli, options, sessions, () => (rows.length === 0 ? "No sessions yet.\n" : toTable([head, ...rows])));
}

/** The name of a session's chat, where one is known. */
function whoOf({ settings }: Store, { chat, chatKey }: Session): string {
  if (chat.kind === "self") return "Note to Self";
  const name = chat.kind === "group" ? groupNameIn(settings, chat.id) : namesIn(settings)(chat.peer);
  return name ?? redactText(chatKey);
}

/** Finds a session by its number in the list, an id (ours or remote), or the start of one. @throws BridgeError `config` for none or several */
function findSession({ sessions }: Store, name: string): Session {
  const all = sessions.list(sessionsMax);
  const [numbered] = /^\d{1,4}$/u.test(name) ? all.slice(Number(name) - 1, Number(name)) : [];
  const exact = sessions.find(name) ?? numbered;
  if (exact) return exact;
  const near = all.filter(({ id, remoteId }) => name !== "" && (id.startsWith(name) || remoteId?.startsWith(name)));
  if (near[0] && near.length === 1) return near[0];
  const found = near.length === 0 ? "no session" : "more than one";
  throw wrong(`Cannot find ${name}: ${found} is called so`, "`signalman sessions` lists them, with numbers.");
}

export async function showSession(cli: Cli, options: Options, name = ""): Promise<number> {
  const found = await withStore(configOf(cli), (store) => {
    const session = findSession(store, name);
    return { session, events: store.log.events(session.id) };
  });
  if (!found) throw wrong(`Cannot show ${name} as there are no sessions yet`);
  const { session, events } = found;
  const view = toView(session);
  const rows = Object.entries(view).map(([name, value]) => [name, String(value ?? "-")]);
  return print(cli, options, { ...view, events }, () => `${toTable(rows)}\n${harmless(transcriptOf(session, events))}`);
}

/** Ends a session here and at Claude, through the running daemon. */
const endBy =
  (what: "archive" | "forget", done: string) =>
  async (cli: Cli, _: unknown, name = ""): Promise<number> => {
    const config = configOf(cli);
    // Without a database there is no daemon either, which `have` reports.
    const id = (await withStore(config, (store) => findSession(store, name).id)) ?? name;
    return have(cli, what, { id }, done);
  };
export const archiveByCommand = endBy("archive", "Archived.");
export const forgetByCommand = endBy("forget", "Forgotten here, and at Claude as soon as it can be reached.");

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

/**
 * Writes a copy that is consistent while the daemon works, and the settings beside it. The copy holds keys and messages, so it is 0600
 * from its first byte. @throws BridgeError `config` `database`
 */
export async function backup(cli: Cli, _: unknown, file = ""): Promise<number> {
  const source = join(configOf(cli).home, "signalman.db");
  if (!existsSync(source)) throw wrong(`Cannot back up ${source} as there is no such file`);
  const target = resolve(file);
  try {
    // SQLite takes an empty file as a new database.
    closeSync(openSync(target, "wx", 0o600));
  } catch (cause) {
    const isThere = existsSync(target);
    const hint = `Name another file${isThere ? ": a backup overwrites nothing" : ", in a folder that you may write to"}.`;
    throw wrong(`Cannot write a backup as the system says: ${toFault(cause).message}`, hint, cause);
  }
  try {
    using stack = new DisposableStack();
    stack.adopt(await openDatabase(source), (db) => db.close()).copyTo(target);
  } catch (error) {
    rmSync(target, { force: true });
    throw error;
  }
  cli.out(`${target}  ${statSync(target).size} bytes\n`);
  const settings = configFile(cli);
  if (existsSync(settings)) {
    writePrivate(settingsOf(target), readFileSync(settings));
    cli.out(`${settingsOf(target)}  your settings\n`);
  }
  return 0;
}

const settingsOf = (copy: string): string => `${copy}.config.toml`;

/** Replaces a home's database by a copy, and adds its settings where there are none. @throws BridgeError `config` `home_in_use` */
export async function restore(cli: Cli, { force }: Options, file = ""): Promise<number> {
  const { home } = configOf(cli);
  const [copy, target] = [resolve(file), join(home, "signalman.db")];
  const refuse = (why: string, hint: string) => wrong(`Cannot restore ${copy} as ${why}`, hint);
  if (!existsSync(copy)) throw refuse("there is no such file", "Name a file that `signalman backup` has written.");
  if (existsSync(target) && !force)
    throw refuse(
      `${home} has a database already`,
      "Add --force to lose that one, or set SIGNALMAN_HOME to another folder.",
    );
  {
    using stack = new DisposableStack();
    const db = stack.adopt(await openDatabase(copy), (opened) => opened.close());
    if (!db.get("SELECT 1 FROM sqlite_master WHERE name = 'inbox'"))
      throw refuse("it is no database of signalman", "Name a file that `signalman backup` has written.");
    mkdirSync(home, { recursive: true, mode: 0o700 });
    // The lock keeps the database of a running daemon. The old database may be damaged, so it is not opened.
    stack.adopt(await takeLock(home), (lock) => lock.release());
    // The copy is made beside the database: one that cannot be read to its end, or a full disk, leaves the old one.
    const fresh = `${target}.restored`;
    stack.defer(() => rmSync(fresh, { force: true }));
    rmSync(fresh, { force: true });
    db.copyTo(fresh);
    chmodSync(fresh, 0o600);
    for (const suffix of ["-wal", "-shm"]) rmSync(target + suffix, { force: true });
    renameSync(fresh, target);
  }
  const settings = configFile(cli);
  if (existsSync(settingsOf(copy)) && !existsSync(settings)) writePrivate(settings, readFileSync(settingsOf(copy)));
  cli.out(
    `Restored to ${target}. Never run two copies of one device: stop the other for good before you start this.\n`,
  );
  return 0;
}

// --- the people who may ask besides those of the settings, as by the commands of the chat; a running daemon heeds a change at once

type Said = { readonly text: string; readonly isRefused?: true };

async function withGuests(cli: Cli, work: (guests: Guests, store: Store) => Said): Promise<number> {
  const { home, allow } = configOf(cli);
  using stack = new DisposableStack();
  const store = stack.adopt(await openStore(home, { isExclusive: false }), (opened) => opened.close());
  const { text, isRefused } = work(createGuests(store.settings, allow, readAddressee), store);
  // The texts are those of the chat: its /allow is `signalman allow` here.
  (isRefused ? cli.err : cli.out)(`${harmless(text).replaceAll(/(?<=^|\s)\/(\w+)/gmu, "`signalman $1`")}\n`);
  return isRefused ? 2 : 0;
}

const list = (isGroups: boolean) => (cli: Cli) => withGuests(cli, (guests) => ({ text: listGuests(guests, isGroups) }));
export const listPeople = list(false);
export const listGroups = list(true);

const change =
  (isAllowed: boolean) =>
  (cli: Cli, _: unknown, ...words: string[]): Promise<number> =>
    withGuests(cli, (guests, store) => {
      const done = changeGuests(guests, { kind: "self" }, words.join(" "), isAllowed);
      for (const { rule } of done.changes) setAllowed(store.settings, rule, isAllowed);
      return done;
    });
export const allow = change(true);
export const disallow = change(false);
