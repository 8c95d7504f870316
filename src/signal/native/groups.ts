/**
 * Groups, read only: who is in one, what it is called, who may write.
 *
 *   credential of the UTC day (chat host, cached) ─▶ presentation for the group ─▶ GET /v2/groups (storage host) ─▶ decrypt
 *
 * The storage host learns that some member of this group asks, not which one. **Source:** for all of it, mautrix-signal
 * pkg/signalmeow/groups.go and signal-cli's libsignal-service GroupsV2Operations.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { Aci, Pni } from "@signalapp/libsignal-client";
import {
  type AuthCredentialWithPni,
  AuthCredentialWithPniResponse,
  ClientZkAuthOperations,
  ClientZkGroupCipher,
  GroupMasterKey,
  GroupSecretParams,
  ProfileKeyCiphertext,
  ServerPublicParams,
  UuidCiphertext,
} from "@signalapp/libsignal-client/zkgroup.js";
import { Buffer } from "node:buffer";
import * as v from "valibot";
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { type Bytes, fromBase64, owned, toBase64, utf8 } from "./bytes.ts";
import type { Line, Reply } from "./connect.ts";
import { type PinnedResponse, retryAfterMsOf } from "./https.ts";
import { type Group, Group_Member_Role, GroupAttributeBlobSchema, GroupResponseSchema } from "./proto/signal_pb.ts";
import type { Service } from "./service.ts";

const daySeconds = 86_400;
const timeoutMs: Millis = 30_000;
/** A group has up to 1001 members, each of some 300 bytes. */
const groupBytesMax = 4 * 1024 * 1024;

export type GroupMember = {
  readonly aci: string;
  readonly isAdmin: boolean;
  /** 32 bytes; a key that the member sent in a message wins over this one. Null when it does not decrypt. */
  readonly profileKey: Bytes | null;
};

export type GroupState = {
  /** As `Chat` has it: standard base64 of 32 bytes. */
  readonly id: string;
  readonly revision: number;
  readonly title: string;
  /** Full members, ourselves included; invited and asking ones get nothing. */
  readonly members: readonly GroupMember[];
  /** Disappearing messages, 0 = off. */
  readonly expiresInSeconds: number;
  /** Only admins may write. */
  readonly isAnnouncementsOnly: boolean;
  /** Nobody may write any more. */
  readonly isTerminated: boolean;
};

/** Whose credential it is. `salt` is `authCredentialSalt` of the provisioning message, for accounts without a PNI. */
export type GroupAccount = { readonly aci: string; readonly pni: string | null; readonly salt: Bytes | null };

/**
 * Resolves to the present state, or to null when we are no member or the group is gone.
 * @throws BridgeError `signal_unreachable` `signal_timeout` `signal_rate_limited` `signal_protocol`
 */
export type FetchGroup = (
  account: GroupAccount,
  masterKey: Uint8Array,
  signal: AbortSignal,
) => Promise<GroupState | null>;

/** The group's id as `Chat` has it. @throws BridgeError `signal_protocol` when the master key is not one (32 bytes) */
export function groupIdOf(masterKey: Uint8Array): string {
  return idOf(secretsOf(masterKey));
}

/** `request` goes out on the authenticated line of the moment. Credentials are kept per identity and UTC day. */
export function groupFetcher(
  service: Pick<Service, "fetch" | "storageUrl" | "serverPublicParams">,
  request: Line["request"],
  clock: Clock,
): FetchGroup {
  const operations = guard(
    "the server parameters are damaged",
    () => new ClientZkAuthOperations(new ServerPublicParams(service.serverPublicParams)),
  );
  let cached: { readonly key: string; readonly credential: AuthCredentialWithPni } | null = null;

  const get = (secrets: GroupSecretParams, credential: AuthCredentialWithPni, signal: AbortSignal) => {
    const presentation = operations.createAuthCredentialWithPniPresentation(secrets, credential);
    const login = `${hex(secrets.getPublicParams().serialize())}:${hex(presentation.serialize())}`;
    return service.fetch({
      method: "GET",
      url: `${service.storageUrl}/v2/groups`,
      headers: { authorization: `Basic ${toBase64(utf8(login))}` },
      bytesMax: groupBytesMax,
      timeoutMs,
      signal,
    });
  };

  return async (account, masterKey, signal) => {
    const secrets = secretsOf(masterKey);
    const day = Math.floor(clock.now() / 1000 / daySeconds) * daySeconds;
    const key = `${account.aci}/${account.pni}/${day}`;
    const isCached = cached?.key === key;
    if (cached?.key !== key) cached = { key, credential: await fetchCredential(operations, request, account, day) };
    let answer = await get(secrets, cached.credential, signal);
    if (answer.status === 403 && isCached) {
      // 403 says "no member" and "bad credential" alike: only with a fresh credential is it the former.
      cached = { key, credential: await fetchCredential(operations, request, account, day) };
      answer = await get(secrets, cached.credential, signal);
    }
    if (answer.status === 403 || answer.status === 404) return null;
    if (answer.status !== 200) throw refused(answer.status, retryAfterMsOf(answer));
    return guard("its state cannot be decrypted", () => toState(secrets, answer));
  };
}

const credentialsSchema = v.object({
  pni: v.nullish(v.string()),
  credentials: v.array(v.object({ credential: v.pipe(v.string(), v.base64()), redemptionTime: v.number() })),
});

/** A week may be had at once, but the server counts it from its own day: one day leaves room for a clock that is ahead. */
async function fetchCredential(
  operations: ClientZkAuthOperations,
  request: Line["request"],
  account: GroupAccount,
  day: number,
): Promise<AuthCredentialWithPni> {
  const query = `redemptionStartSeconds=${day}&redemptionEndSeconds=${day + daySeconds}&zkcCredential=true`;
  const reply = await ask(request, `/v1/certificate/auth/group?${query}`);
  return guard("its credential is not valid", () => {
    const { pni, credentials } = v.parse(credentialsSchema, reply.json);
    const todays = credentials.find((entry) => entry.redemptionTime === day);
    if (todays === undefined) throw new Error("the server gave none for today");
    const response = new AuthCredentialWithPniResponse(fromBase64(todays.credential));
    const aci = Aci.parseFromServiceIdString(account.aci);
    const ownPni = pni ?? account.pni;
    if (ownPni !== null)
      return operations.receiveAuthCredentialWithPniAsServiceId(aci, parsePni(ownPni), day, response);
    if (account.salt === null) throw new Error("the account has neither a PNI nor a salt");
    return operations.receiveAuthCredentialWithoutPni(aci, account.salt, day, response);
  });
}

async function ask(request: Line["request"], path: string): Promise<Reply> {
  const reply = await request({ verb: "GET", path }).catch((error: unknown) => {
    // Nothing is uncertain about a question whose answer was lost.
    if (!(error instanceof BridgeError) || error.code !== "send_uncertain") throw error;
    throw new BridgeError("signal_unreachable", "Cannot read a group as the line broke", { cause: error });
  });
  if (reply.status !== 200) throw refused(reply.status, reply.retryAfterMs);
  return reply;
}

/** The server writes the bare UUID, libsignal the UUID behind `PNI:`. */
const parsePni = (text: string): Pni => Pni.fromUuid(text.replace(/^PNI:/, ""));

function toState(secrets: GroupSecretParams, answer: PinnedResponse): GroupState {
  const { group } = fromBinary(GroupResponseSchema, answer.body);
  if (group === undefined) throw new Error("the answer holds no group");
  const cipher = new ClientZkGroupCipher(secrets);
  const title = openBlob(cipher, group.title);
  const timer = openBlob(cipher, group.disappearingMessagesTimer);
  return {
    id: idOf(secrets),
    revision: group.version,
    title: title.case === "title" ? title.value : "",
    members: group.members.flatMap((member) => toMember(cipher, member) ?? []),
    expiresInSeconds: timer.case === "disappearingMessagesDurationSeconds" ? timer.value : 0,
    isAnnouncementsOnly: group.announcementsOnly,
    isTerminated: group.terminated,
  };
}

/** Null for an entry that is not a person's ACI. */
function toMember(cipher: ClientZkGroupCipher, member: Group["members"][number]): GroupMember | null {
  const id = cipher.decryptServiceId(new UuidCiphertext(owned(member.userId)));
  if (!(id instanceof Aci)) return null;
  let profileKey: Bytes | null = null;
  try {
    profileKey = owned(cipher.decryptProfileKey(new ProfileKeyCiphertext(owned(member.profileKey)), id).serialize());
  } catch {
    // Only the sealed-sender route to this member is lost.
  }
  return { aci: id.getServiceIdString(), isAdmin: member.role === Group_Member_Role.ADMINISTRATOR, profileKey };
}

/** Empty bytes mean: not set. */
function openBlob(cipher: ClientZkGroupCipher, sealed: Uint8Array) {
  return fromBinary(
    GroupAttributeBlobSchema,
    sealed.length === 0 ? new Uint8Array() : cipher.decryptBlob(owned(sealed)),
  ).content;
}

function secretsOf(masterKey: Uint8Array): GroupSecretParams {
  return guard("its master key is damaged", () =>
    GroupSecretParams.deriveFromMasterKey(new GroupMasterKey(owned(masterKey))),
  );
}

const idOf = (secrets: GroupSecretParams): string =>
  toBase64(secrets.getPublicParams().getGroupIdentifier().serialize());

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

function refused(status: number, retryAfterMs: Millis | null): BridgeError {
  const code = status === 429 ? "signal_rate_limited" : status >= 500 ? "signal_unreachable" : "signal_protocol";
  return new BridgeError(code, `Cannot read a group as Signal answered ${status}`, {
    retryAfterMs: retryAfterMs ?? undefined,
  });
}

function guard<T>(why: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    throw new BridgeError("signal_protocol", `Cannot read a group as ${why}: ${detail}`, { cause: error });
  }
}
