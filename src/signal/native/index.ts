/**
 * Signal as a linked device, inside this process: the only door to this folder.
 *
 *   link ─▶ (scan) ─▶ account, keys      open ─▶ Transport      schema: its tables      findAccount: who is linked
 *
 * The folder in layers, from the top: a file imports from lower layers only (`test/tidy.test.ts` reads this table), and all take
 * the types that they share from `context.ts`.
 *
 *   | index                                      | the door; libsignal is loaded behind it, when first needed          |
 *   | linked-device                              | connect, receive, acknowledge, send: the life of one connection     |
 *   | linking · receiver · sender · upkeep       | becoming a device; deliveries in; messages out; what keeps it sound |
 *   | claims · news · deliver · groups · storage | what a content tells besides; one content to one account            |
 *   | content · compose · decrypt                | wire to model, model to wire; the ratchet                           |
 *   | account · attachments · keys · key-store   | rows and records; files                                             |
 *   | connect · ids                              | the line                                                            |
 *   | load · signal-service                      | libsignal itself; the hosts                                         |
 *   | tables · server                            | tables; the endpoints                                               |
 *   | bytes                                      | byte strings                                                        |
 *   | context · proto                            | types; the wire                                                     |
 */
import type { Account } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import type { Link } from "../transport.ts";
import type { NativeAllow, NativeDeps } from "./context.ts";
import type { NativeTransport } from "./linked-device.ts";

export { signalSchema as schema } from "./tables.ts";

type NativePlace = Omit<NativeDeps, "service"> & {
  /** `production`, or the path of a service file. */
  readonly signalService: string;
  /** Holds libsignal's addon: a folder of our own, from which programs may be executed. */
  readonly libraryFolder: string;
  /** `http://` or `https://`, for all of Signal's hosts; null: none. A service on loopback is reached directly. */
  readonly proxy: string | null;
};

/** Opens the account that `link` left in the database; asks Signal nothing before `connect`. @throws BridgeError `config` `unsupported` */
export async function open({
  isAllowed,
  allowedNumbers,
  ...place
}: NativePlace & NativeAllow): Promise<NativeTransport> {
  const deps = await load(place);
  return (await import("./linked-device.ts")).createNative({ ...deps, isAllowed, allowedNumbers });
}

/** Makes this program a linked device; `onReplaced` is part of the transaction that replaces another account. @throws BridgeError `config` `unsupported` */
export async function link(place: NativePlace, onReplaced: () => void): Promise<Link> {
  const deps = await load(place);
  return (await import("./linked-device.ts")).linkNative(deps, onReplaced);
}

/** The linked account, or null when this database has none; without libsignal. */
export function findAccount(database: Database): Account | null {
  const sql = `SELECT service_id AS aci, number, device_id AS deviceId FROM signal_account, signal_own WHERE own = 'aci'`;
  return database.get<Account>(sql) ?? null;
}

async function load({ signalService, libraryFolder, proxy, ...deps }: NativePlace): Promise<NativeDeps> {
  const [{ loadLibsignal }, { loadService }] = [await import("./load.ts"), await import("./signal-service.ts")];
  await loadLibsignal(libraryFolder);
  return { ...deps, service: await loadService(signalService, deps.clock, proxy) };
}
