/**
 * Groups, read only: who is in one, what it is called, who may write. The key comes with the group's messages; the members are
 * fetched when a newer revision was seen.
 *
 *   credential of the UTC day (chat host, cached) ─▶ presentation for the group ─▶ GET /v2/groups (storage host) ─▶ decrypt
 *
 * The storage host learns that some member asks, not which one. **Source:** `docs/signal-protocol.md`, "Groups".
 */
import { fromBinary } from "@bufbuild/protobuf";
import { Aci, Pni } from "@signalapp/libsignal-client";
import * as zkgroup from "@signalapp/libsignal-client/zkgroup.js";
import { Buffer } from "node:buffer";
import * as v from "valibot";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { findRecipient, learnProfileKey, saveRecipient } from "./account.ts";
import { tolerate, fromBase64, openGcm, owned, readOrNull, readOrThrow, reasonOf, toBase64, utf8 } from "./bytes.ts";
import type { Bytes, NativeContext, FetchGroup, GroupAccount } from "./context.ts";
import type { GroupKeeper, GroupMember, GroupState, KnownGroup, ChatLine, Service } from "./context.ts";
import { groupSecretsOf } from "./ids.ts";
import * as wire from "./proto/signal_pb.ts";
import { answerOf, ask, isGood, refused } from "./server.ts";

type Hosts = Pick<Service, "fetch" | "storageUrl" | "serverPublicParams">;

const daySeconds = 86_400;
const timeoutMs: Millis = 30_000;
/** A group has up to 1001 members, each of some 300 bytes. */
const bytesMax = 4 * 1024 * 1024;
/** A state is asked for anew after this, even when no message spoke of a newer one. */
const freshForMs: Millis = 86_400_000;
const askedMax = 1_000;
const givenUpForMs: Millis = 3_600_000;

/** `request` goes out on the authenticated line of the moment. Credentials are kept per identity and UTC day, of the server's clock. */
export function groupFetcher(service: Hosts, request: ChatLine["request"], now: () => Millis): FetchGroup {
  const makeOperations = () =>
    new zkgroup.ClientZkAuthOperations(new zkgroup.ServerPublicParams(service.serverPublicParams));
  const operations = guard("the server parameters are damaged", makeOperations);
  let cached: { readonly key: string; readonly credential: zkgroup.AuthCredentialWithPni } | null = null;
  return async (account, masterKey, signal) => {
    const secrets = groupSecretsOf(masterKey);
    const day = Math.floor(now() / 1000 / daySeconds) * daySeconds;
    const key = `${account.aci}/${account.pni}/${day}`;
    for (;;) {
      const isCached = cached?.key === key;
      if (cached === null || !isCached)
        cached = { key, credential: await fetchCredential(operations, request, account, day) };
      const presentation = operations.createAuthCredentialWithPniPresentation(secrets, cached.credential);
      const login = `${hex(secrets.getPublicParams().serialize())}:${hex(presentation.serialize())}`;
      const url = `${service.storageUrl}/v2/groups`;
      const headers = { authorization: `Basic ${toBase64(utf8(login))}` };
      const answer = await service.fetch({ method: "GET", url, headers, bytesMax, timeoutMs, signal });
      // 403 means "no member" or "bad credential"; with a fresh credential it can only mean "no member".
      if (answer.status === 403 && isCached) {
        cached = null;
        continue;
      }
      if (answer.status === 403 || answer.status === 404) return null;
      if (!isGood(answer)) throw refused("read a group", answer);
      return guard("its state cannot be decrypted", () => toState(secrets, answer.body));
    }
  };
}

const daily = v.object({ credential: v.pipe(v.string(), v.base64()), redemptionTime: v.number() });
const credentialsSchema = v.object({ pni: v.nullish(v.string()), credentials: v.array(daily) });

type Operations = zkgroup.ClientZkAuthOperations;

/** The server gives a week of credentials, counted from its own day; asking for one leaves room for a clock that is ahead. */
async function fetchCredential(
  operations: Operations,
  request: ChatLine["request"],
  account: GroupAccount,
  day: number,
) {
  const reply = await request(ask.groupCredentials(day, day + daySeconds));
  const { pni, credentials } = answerOf(credentialsSchema, reply, "read a group");
  return guard("its credential is not valid", () => {
    const todays = credentials.find((entry) => entry.redemptionTime === day);
    if (todays === undefined) throw new Error("the server gave none for today");
    const response = new zkgroup.AuthCredentialWithPniResponse(fromBase64(todays.credential));
    const aci = Aci.parseFromServiceIdString(account.aci);
    // The server writes the bare UUID, libsignal the UUID behind `PNI:`.
    const ownPni = (pni ?? account.pni)?.replace(/^PNI:/, "");
    if (ownPni !== undefined)
      return operations.receiveAuthCredentialWithPniAsServiceId(aci, Pni.fromUuid(ownPni), day, response);
    if (account.salt === null) throw new Error("the account has neither a PNI nor a salt");
    return operations.receiveAuthCredentialWithoutPni(aci, account.salt, day, response);
  });
}

function toState(secrets: zkgroup.GroupSecretParams, body: Bytes): GroupState {
  const { group } = fromBinary(wire.GroupResponseSchema, body);
  if (group === undefined) throw new Error("the answer holds no group");
  const cipher = new zkgroup.ClientZkGroupCipher(secrets);
  const open = (sealed: Uint8Array) =>
    fromBinary(wire.GroupAttributeBlobSchema, sealed.length === 0 ? sealed : cipher.decryptBlob(owned(sealed))).content;
  const title = open(group.title);
  const timer = open(group.disappearingMessagesTimer);
  return {
    id: toBase64(secrets.getPublicParams().getGroupIdentifier().serialize()),
    revision: group.version,
    title: title.case === "title" ? title.value : "",
    members: group.members.flatMap((member) => toMember(cipher, member) ?? []),
    expiresInSeconds: timer.case === "disappearingMessagesDurationSeconds" ? timer.value : 0,
    isAnnouncementsOnly: group.announcementsOnly,
    isTerminated: group.terminated,
  };
}

/** Null for an entry that is not a person's ACI. */
function toMember(cipher: zkgroup.ClientZkGroupCipher, member: wire.Group["members"][number]): GroupMember | null {
  const id = cipher.decryptServiceId(new zkgroup.UuidCiphertext(owned(member.userId)));
  if (!(id instanceof Aci)) return null;
  // A profile key that does not decrypt costs only the sealed-sender route to this member.
  const profileKey = readOrNull(() => {
    const sealed = new zkgroup.ProfileKeyCiphertext(owned(member.profileKey));
    return owned(cipher.decryptProfileKey(sealed, id).serialize());
  });
  return { aci: id.getServiceIdString(), isAdmin: member.role === wire.Group_Member_Role.ADMINISTRATOR, profileKey };
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

const guard = <T>(why: string, read: () => T): T =>
  readOrThrow(read, (cause) => {
    const message = `Cannot read a group as ${why}: ${reasonOf(cause)}`;
    return new BridgeError("signal_protocol", message, { cause });
  });

type KeeperDeps = Pick<NativeContext, "database" | "now" | "account"> & {
  readonly fetchGroup: FetchGroup;
  /** Learns more about the members; `isNew`: the group has a member that it did not have before. Never rejects. */
  readonly learnMore: (state: GroupState, isNew: boolean) => Promise<void>;
};
type Row = Record<"masterKey", Bytes> &
  Record<"revision" | "isBlocked", number> & { state: string | null; fetchedAt: number | null };

export function keepGroups({ database, now, account, fetchGroup, learnMore }: KeeperDeps): GroupKeeper {
  /** Claims that the server was asked about: a made-up revision is not asked about twice. */
  const asked = new Set<string>();
  const unreadable = new Map<string, Millis>();
  const nameOf = (groupId: string, revision: number) => `${groupId} ${revision}`;
  const find = (groupId: string) => {
    const sql = `SELECT master_key AS masterKey, revision, state, fetched_at AS fetchedAt, is_blocked AS isBlocked
      FROM signal_groups WHERE group_id = ?`;
    const row = database.get<Row>(sql, groupId);
    return row && { ...row, state: row.state === null ? null : (JSON.parse(row.state) as KnownGroup["state"]) };
  };
  const refresh = async (groupId: string, masterKey: Bytes, signal: AbortSignal) => {
    const { aci, pni, credentialSalt } = account();
    const who = { aci: aci.serviceId, pni: pni?.serviceId ?? null, salt: credentialSalt };
    const before = new Set(find(groupId)?.state?.members.map(({ aci }) => aci));
    const state = await fetchGroup(who, masterKey, signal);
    if (state === null) {
      // We are no member any more, so the stored list of members counts no more.
      database.run("UPDATE signal_groups SET state = NULL WHERE group_id = ?", groupId);
      return null;
    }
    database.transaction(() => save(database, groupId, masterKey, state, now()));
    const isNew = state.members.some(({ aci }) => !before.has(aci));
    await learnMore(state, isNew);
    return state;
  };
  return {
    standing(claim, aci) {
      const row = find(claim.groupId);
      if (row?.isBlocked === 1) return "blocked";
      const state = row?.state ?? null;
      const isGivenUp = now() - (unreadable.get(claim.groupId) ?? -Infinity) < givenUpForMs;
      // A removed person still names the revision from before, so the newest that any member named counts.
      const revision = Math.max(claim.revision, row?.revision ?? 0);
      if (!asked.has(nameOf(claim.groupId, revision)) && (state === null || state.revision < revision))
        return isGivenUp ? "unreadable" : "unknown";
      const member = state?.members.find((one) => one.aci === aci);
      const isAdminNeeded = claim.isAdminOnly || state?.isAnnouncementsOnly === true;
      return member === undefined || (isAdminNeeded && !member.isAdmin) ? "stranger" : "member";
    },
    async learn(claim, signal) {
      // The stored state does not answer for a newer revision, which may be the one that removed the sender.
      await refresh(claim.groupId, claim.masterKey, signal);
      if (asked.size >= askedMax) asked.clear();
      asked.add(nameOf(claim.groupId, Math.max(claim.revision, find(claim.groupId)?.revision ?? 0)));
      unreadable.delete(claim.groupId);
    },
    giveUp: ({ groupId }) => void unreadable.set(groupId, now()),
    async load(groupId, signal) {
      const row = find(groupId);
      if (row === undefined) throw new BridgeError("send_rejected", "Cannot use a group that never wrote to us");
      const { masterKey, state: known, fetchedAt } = row;
      const isFresh = fetchedAt !== null && Math.abs(now() - fetchedAt) < freshForMs;
      if (known !== null && isFresh && known.revision >= row.revision) return { masterKey, state: known };
      const state = await refresh(groupId, masterKey, signal);
      if (state === null) throw new BridgeError("send_rejected", "Cannot use a group that we are no member of");
      return { masterKey, state };
    },
  };
}

function save(database: Database, groupId: string, masterKey: Bytes, state: GroupState, now: Millis): void {
  const members = state.members.map(({ aci, isAdmin }) => ({ aci, isAdmin }));
  const sql = `INSERT INTO signal_groups (group_id, master_key, revision, state, fetched_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET state = excluded.state, fetched_at = excluded.fetched_at,
    revision = max(revision, excluded.revision)`;
  database.run(sql, groupId, masterKey, state.revision, JSON.stringify({ ...state, members }), now);
  for (const { aci, profileKey } of state.members) {
    saveRecipient(database, aci, null, null);
    if (profileKey !== null) learnProfileKey(database, aci, profileKey);
  }
}

// --- the names of members, as their profiles have them: Claude reads a member's message with the name before it

/** Names asked for at once; those missing in a larger group are asked for when it is fetched again. */
const namesMax = 20;

const profile = v.object({ name: v.string() });

/** Asks for the names of members without one; a failure leaves a member nameless. */
export async function learnNames(
  { members }: GroupState,
  database: Database,
  request: ChatLine["request"],
): Promise<void> {
  const nameless = members.filter(({ aci }) => findRecipient(database, aci).name === null).slice(0, namesMax);
  const learn = async ({ aci, profileKey }: GroupMember) =>
    profileKey && saveRecipient(database, aci, null, await fetchName(request, aci, profileKey));
  await Promise.all(nameless.map((member) => tolerate(learn(member), () => undefined)));
}

/** Null where there is no profile, or the key does not open it. */
async function fetchName(request: ChatLine["request"], aci: string, key: Bytes): Promise<string | null> {
  const version = new zkgroup.ProfileKey(key).getProfileKeyVersion(Aci.fromUuid(aci)).toString();
  const { status, json } = await request(ask.profile(aci, version));
  const found = v.safeParse(profile, json);
  return status === 200 && found.success ? openName(fromBase64(found.output.name), key) : null;
}

/** The plain name is padded with NULs, and one stands between given and family name; null where the key does not open it. */
export const openName = (sealed: Bytes, key: Bytes): string | null =>
  readOrNull(() => Buffer.from(openGcm(key, sealed)).toString().replace(/\0+/gu, " ").trim()) || null;
