/** The groups we may write to: master key from their messages, members fetched when a newer revision was seen. */
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import type { NativeAccount } from "./account.ts";
import { type Bytes, fromBase64, owned, toBase64 } from "./bytes.ts";
import type { FetchGroup, GroupState } from "./groups.ts";
import { findRecipient, saveProfileKey, saveRecipient } from "./recipients.ts";

/** A state is asked for anew after this, even when no message spoke of a newer one. */
const freshForMs: Millis = 86_400_000;

export type KnownGroup = { readonly masterKey: Bytes; readonly state: GroupState };

export type GroupKeeper = {
  /**
   * The present state of a group on the allow list.
   * @throws BridgeError `send_rejected` when it is unknown or we are no member, and those of `FetchGroup`
   */
  load(groupId: string, signal: AbortSignal): Promise<KnownGroup>;
};

type Deps = {
  readonly database: Database;
  readonly clock: Clock;
  readonly account: () => NativeAccount;
  readonly fetchGroup: FetchGroup;
};

type Row = { master_key: Uint8Array; revision: number; state: string | null; fetched_at: number | null };

export function keepGroups({ database, clock, account, fetchGroup }: Deps): GroupKeeper {
  return {
    async load(groupId, signal) {
      const sql = "SELECT master_key, revision, state, fetched_at FROM signal_groups WHERE group_id = ?";
      const row = database.get<Row>(sql, groupId);
      if (row === undefined) throw new BridgeError("send_rejected", "Cannot use a group that never wrote to us");
      const masterKey = owned(row.master_key);
      const known = row.state === null ? null : fromStored(row.state);
      const isFresh = row.fetched_at !== null && clock.now() - row.fetched_at < freshForMs;
      if (known !== null && isFresh && known.revision >= row.revision) return { masterKey, state: known };
      const { aci, pni, credentialSalt } = account();
      const who = { aci: aci.serviceId, pni: pni?.serviceId.replace(/^PNI:/, "") ?? null, salt: credentialSalt };
      const state = await fetchGroup(who, masterKey, signal);
      if (state === null) throw new BridgeError("send_rejected", "Cannot use a group that we are no member of");
      database.transaction(() => save(database, groupId, state, clock.now()));
      return { masterKey, state };
    },
  };
}

function save(database: Database, groupId: string, state: GroupState, now: Millis): void {
  const sql = "UPDATE signal_groups SET state = ?, fetched_at = ?, revision = max(revision, ?) WHERE group_id = ?";
  database.run(sql, toStored(state), now, state.revision, groupId);
  for (const { aci, profileKey } of state.members) {
    // A key that came in a member's own message is newer than what the group says.
    if (profileKey === null || findRecipient(database, aci).profileKey !== null) continue;
    saveRecipient(database, aci, null, null);
    saveProfileKey(database, aci, profileKey);
  }
}

const toStored = (state: GroupState): string =>
  JSON.stringify({
    ...state,
    members: state.members.map((member) => ({
      ...member,
      profileKey: member.profileKey === null ? null : toBase64(member.profileKey),
    })),
  });

type Stored = Omit<GroupState, "members"> & {
  readonly members: readonly { readonly aci: string; readonly isAdmin: boolean; readonly profileKey: string | null }[];
};

function fromStored(text: string): GroupState {
  const stored = JSON.parse(text) as Stored;
  const members = stored.members.map((member) => ({
    ...member,
    profileKey: member.profileKey === null ? null : fromBase64(member.profileKey),
  }));
  return { ...stored, members };
}
