/**
 * The names of group members, as their profiles have them: what one of them says goes to Claude with a name before it.
 * **Source:** `docs/signal-protocol.md`, "Profiles".
 */
import { Aci } from "@signalapp/libsignal-client";
import { ProfileKey } from "@signalapp/libsignal-client/zkgroup.js";
import { Buffer } from "node:buffer";
import * as v from "valibot";
import { BridgeError } from "../../core/errors.ts";
import type { Database } from "../../store/database.ts";
import { fromBase64, openGcm } from "./bytes.ts";
import type { Bytes, FetchGroup, Line } from "./context.ts";
import { findRecipient, saveRecipient } from "./account.ts";
import { ask } from "./server.ts";

/** Asked for at once; of a larger group the rest is named when it is fetched again. */
const namesMax = 20;

const profile = v.object({ name: v.string() });

/** Fetches a group's state, and the names that are not known of its members; a name that cannot be had is no reason to fail. */
export function withNames(fetchGroup: FetchGroup, database: Database, request: Line["request"]): FetchGroup {
  const learn = async (aci: string, key: Bytes): Promise<void> => {
    try {
      const name = await fetchName(request, aci, key);
      if (name !== null) saveRecipient(database, aci, null, name);
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
    }
  };
  return async (account, masterKey, signal) => {
    const state = await fetchGroup(account, masterKey, signal);
    const isNameless = (aci: string) => aci !== account.aci && findRecipient(database, aci).name === null;
    const nameless = (state?.members ?? []).filter(({ aci }) => isNameless(aci)).slice(0, namesMax);
    await Promise.all(nameless.map(async ({ aci, profileKey }) => profileKey && learn(aci, profileKey)));
    return state;
  };
}

/** Null where there is no profile, or the key does not open it. */
async function fetchName(request: Line["request"], aci: string, key: Bytes): Promise<string | null> {
  const version = new ProfileKey(key).getProfileKeyVersion(Aci.fromUuid(aci)).toString();
  const { status, json } = await request(ask.profile(aci, version));
  const found = v.safeParse(profile, json);
  return status === 200 && found.success ? openName(fromBase64(found.output.name), key) : null;
}

/** The plain name is padded with NULs, and one stands between given and family name; null where the key does not open it. */
export function openName(sealed: Bytes, key: Bytes): string | null {
  try {
    return Buffer.from(openGcm(key, sealed)).toString().replace(/\0+/gu, " ").trim() || null;
  } catch {
    return null;
  }
}
