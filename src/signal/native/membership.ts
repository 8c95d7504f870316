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
const askedMax = 1_000;

export type KnownGroup = { readonly masterKey: Bytes; readonly state: GroupState };

/** A message in a group, as far as its sender's right to write there goes. */
export type GroupClaim = { readonly groupId: string; readonly masterKey: Bytes; readonly revision: number };

export type GroupKeeper = {
  /**
   * Whether `aci` may write there; a person who left still has the key. `unknown`: only the server can tell, see `learn`.
   */
  standing(claim: GroupClaim, aci: string): "member" | "stranger" | "unknown";
  /**
   * Asks the server about the group; afterwards `standing` of this claim is never `unknown`.
   * @throws BridgeError `signal_unreachable` `signal_timeout` `signal_rate_limited` when nothing is known of the group at all
   */
  learn(claim: GroupClaim, signal: AbortSignal): Promise<void>;
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

export function keepGroups(deps: Deps): GroupKeeper {
  const { database, clock } = deps;
  /** Claims that the server was asked about: a made-up revision is not asked about twice. */
  const asked = new Set<string>();
  const nameOf = ({ groupId, revision }: GroupClaim) => `${groupId} ${revision}`;
  const find = (groupId: string) => {
    const sql = "SELECT master_key, revision, state, fetched_at FROM signal_groups WHERE group_id = ?";
    return database.get<Row>(sql, groupId);
  };
  return {
    standing(claim, aci) {
      const stored = find(claim.groupId)?.state ?? null;
      const state = stored === null ? null : fromStored(stored);
      if (!asked.has(nameOf(claim)) && (state === null || state.revision < claim.revision)) return "unknown";
      const member = state?.members.find((one) => one.aci === aci);
      return member === undefined || (state?.isAnnouncementsOnly === true && !member.isAdmin) ? "stranger" : "member";
    },
    async learn(claim, signal) {
      const { groupId, masterKey } = claim;
      try {
        const state = await fetchState(deps, masterKey, signal);
        if (state !== null) database.transaction(() => save(database, groupId, masterKey, state, clock.now()));
      } catch (error) {
        if (!(error instanceof BridgeError) || (find(groupId)?.state ?? null) === null) throw error;
      }
      if (asked.size >= askedMax) asked.clear();
      asked.add(nameOf(claim));
    },
    async load(groupId, signal) {
      const row = find(groupId);
      if (row === undefined) throw new BridgeError("send_rejected", "Cannot use a group that never wrote to us");
      const masterKey = owned(row.master_key);
      const known = row.state === null ? null : fromStored(row.state);
      const isFresh = row.fetched_at !== null && clock.now() - row.fetched_at < freshForMs;
      if (known !== null && isFresh && known.revision >= row.revision) return { masterKey, state: known };
      const state = await fetchState(deps, masterKey, signal);
      if (state === null) throw new BridgeError("send_rejected", "Cannot use a group that we are no member of");
      database.transaction(() => save(database, groupId, masterKey, state, clock.now()));
      return { masterKey, state };
    },
  };
}

function fetchState({ account, fetchGroup }: Deps, masterKey: Bytes, signal: AbortSignal): Promise<GroupState | null> {
  const { aci, pni, credentialSalt } = account();
  const who = { aci: aci.serviceId, pni: pni?.serviceId.replace(/^PNI:/, "") ?? null, salt: credentialSalt };
  return fetchGroup(who, masterKey, signal);
}

function save(database: Database, groupId: string, masterKey: Bytes, state: GroupState, now: Millis): void {
  database.run(
    `INSERT INTO signal_groups (group_id, master_key, revision, state, fetched_at) VALUES (?, ?, ?, ?, ?)
     ON CONFLICT DO UPDATE SET state = excluded.state, fetched_at = excluded.fetched_at,
     revision = max(revision, excluded.revision)`,
    groupId,
    masterKey,
    state.revision,
    toStored(state),
    now,
  );
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
