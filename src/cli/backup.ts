/** `signalman backup FILE`: a copy of the database that is consistent while the daemon works. */
import { closeSync, existsSync, openSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { BridgeError } from "../core/errors.ts";
import { openDatabase } from "../store/database.ts";
import { configOf, type Flags, type Io } from "./io.ts";

/** Resolves when the copy is whole. It holds keys and messages, so it is 0600 from its first byte. @throws BridgeError `config` `database` */
export async function backup(io: Io, flags: Flags, file: string): Promise<number> {
  const source = join(configOf(io, flags).home, "signalman.db");
  if (!existsSync(source)) throw new BridgeError("config", `Cannot back up ${source} as there is no such file`);
  const target = resolve(file);
  create(target);
  try {
    const db = await openDatabase(source);
    try {
      db.copyTo(target);
    } finally {
      db.close();
    }
  } catch (error) {
    rmSync(target, { force: true });
    throw error;
  }
  io.out(`${target}  ${statSync(target).size} bytes\n`);
  return 0;
}

/** SQLite fills an empty file as gladly as none. */
function create(target: string): void {
  try {
    closeSync(openSync(target, "wx", 0o600));
  } catch (cause) {
    const isThere = cause instanceof Error && "code" in cause && cause.code === "EEXIST";
    const why = isThere ? "it exists, and a backup overwrites nothing" : "it cannot be created";
    throw new BridgeError("config", `Cannot write ${target} as ${why}`, { hint: "Name another file.", cause });
  }
}
