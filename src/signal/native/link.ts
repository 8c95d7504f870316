/**
 * Becoming a linked device.
 *
 *   provisioning socket ─▶ address ─▶ QR ─▶ (the phone scans) ─▶ keys ─▶ pending row ─▶ PUT link ─▶ ONE transaction ─▶ pre-keys
 *          └── closed before the scan: a new key, a new code
 *
 * The pending row holds all that was generated, before the server hears of it: after a crash in between, the same request goes
 * out once more; the code is single use, so a refusal then means that the person scans again. **Source:** SIGNAL-NATIVE 2.
 */
import { KyberPreKeyRecord, PrivateKey, SignedPreKeyRecord } from "@signalapp/libsignal-client";
import type { Net, ProvisioningConnection } from "@signalapp/libsignal-client/dist/net.js";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import * as v from "valibot";
import type { Clock, Random } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { Log } from "../../log.ts";
import type { Database } from "../../store/database.ts";
import type { Link, LinkProgress } from "../transport.ts";
import { findAccount, loadAccount, type OwnName, toAccount } from "./account.ts";
import { type Bytes, fromBase64, owned, toBase64 } from "./bytes.ts";
import { exchange, openLine, type Reply, withDeadline } from "./connect.ts";
import { makeFirstId, makeRegistrationId, makeStandingKeys, refreshKeys, saveStandingKeys, toUpload } from "./keys.ts";
import { linkUrl, openProvision, type Provision, sealDeviceName } from "./provisioning.ts";

/** After this the phone's code has surely expired. */
const pendingMaxMs: Millis = 600_000;
/** A code lives for a minute or two; nobody stares at a terminal longer than this many of them. */
const codesMax = 30;

export type LinkDeps = {
  readonly database: Database;
  readonly net: Net;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
};

/** What all our devices must be able to do: leaving one out would be refused as a downgrade. */
export const capabilities = { attachmentBackfill: true, spqr: true, usernameChangeSyncMessage: true };

/**
 * The link of the native transport. Yields the account once it is committed and the pre-keys are uploaded, so that others can
 * write to us at once. An account linked before is replaced: its sessions and keys are wiped.
 * @throws BridgeError `signal_unreachable` `signal_timeout` `signal_protocol` `signal_rate_limited` `rejected` `database`
 */
export function makeLink(deps: LinkDeps): Link {
  return async function* (deviceName: string, signal: AbortSignal): AsyncIterable<LinkProgress> {
    let isDone = await resume(deps, signal);
    for (let codes = 0; !isDone; codes++) {
      if (codes === codesMax) throw new BridgeError("signal_timeout", "Cannot link as nobody scanned the code");
      const code = await openCode(deps, signal);
      try {
        yield { event: "url", url: code.url };
        const provision = await code.scanned;
        if (provision === null) continue;
        await complete(deps, prepare(deps, provision, deviceName), signal);
        isDone = true;
      } finally {
        await code.close();
      }
    }
    await announceKeys(deps, signal);
    yield { event: "linked", account: toAccount(loadAccount(deps.database)) };
  };
}

type Code = {
  readonly url: string;
  /** What the phone sent; null when the server closed the socket first. */
  readonly scanned: Promise<Provision | null>;
  readonly close: () => Promise<void>;
};

async function openCode({ net, clock }: LinkDeps, signal: AbortSignal): Promise<Code> {
  const ephemeral = PrivateKey.generate();
  const address = Promise.withResolvers<string | null>();
  const scanned = Promise.withResolvers<Provision | null>();
  scanned.promise.catch(() => undefined);
  const give = () => {
    address.resolve(null);
    scanned.resolve(null);
  };
  const connection: ProvisioningConnection = await withDeadline(clock, signal, (abortSignal) =>
    net.connectProvisioning(
      {
        onReceivedAddress: (value, ack) => {
          address.resolve(value);
          ack.send(200);
        },
        onReceivedEnvelope: (bytes, ack) => {
          try {
            scanned.resolve(openProvision(owned(bytes), ephemeral));
          } catch (error) {
            scanned.reject(error);
          }
          ack.send(200);
        },
        onConnectionInterrupted: give,
      },
      { abortSignal },
    ),
  );
  const cancel = () => {
    scanned.reject(new BridgeError("signal_unreachable", "Cannot link as it was cancelled"));
    address.resolve(null);
  };
  signal.addEventListener("abort", cancel, { once: true });
  if (signal.aborted) cancel();
  const close = async () => {
    signal.removeEventListener("abort", cancel);
    await connection.disconnect();
  };
  const given = await address.promise;
  if (given === null) {
    await close();
    throw new BridgeError("signal_unreachable", "Cannot link as the server gave no address");
  }
  return { url: linkUrl(given, ephemeral.getPublicKey()), scanned: scanned.promise, close };
}

type PendingOwn = {
  readonly name: OwnName;
  readonly identity: string;
  readonly registrationId: number;
  readonly nextId: number;
  readonly signed: string;
  readonly lastResort: string;
};
/** All that the link needs after the answer, as JSON; byte strings in base64. */
type Pending = {
  readonly aci: string;
  readonly number: string | null;
  readonly password: string;
  readonly profileKey: string | null;
  readonly entropyPool: string | null;
  readonly masterKey: string | null;
  readonly credentialSalt: string | null;
  readonly sendsReadReceipts: boolean;
  readonly owns: readonly PendingOwn[];
  readonly request: unknown;
};

function prepare({ database, clock, random }: LinkDeps, provision: Provision, deviceName: string): Pending {
  const at = clock.now();
  const identities: [OwnName, PrivateKey][] = [["aci", provision.aciIdentity]];
  if (provision.pniIdentity !== null) identities.push(["pni", provision.pniIdentity]);
  const made = identities.map(([name, identity]) => {
    const firstId = makeFirstId(random);
    const keys = makeStandingKeys(identity, firstId, firstId + 1, at);
    return { name, identity, keys, nextId: firstId + 2, registrationId: makeRegistrationId(random) };
  });
  const of = (name: OwnName) => made.find((own) => own.name === name);
  const keysOf = (name: OwnName) => {
    const keys = of(name)?.keys;
    if (keys === undefined) return {};
    return {
      [`${name}SignedPreKey`]: toUpload(keys.signed),
      [`${name}PqLastResortPreKey`]: toUpload(keys.lastResort),
    };
  };
  const base64 = (bytes: Bytes | null) => (bytes === null ? null : toBase64(bytes));
  const pni = of("pni");
  const pending: Pending = {
    aci: provision.aci,
    number: provision.number,
    password: randomBytes(24).toString("base64url"),
    profileKey: base64(provision.profileKey),
    entropyPool: provision.entropyPool,
    masterKey: base64(provision.masterKey),
    credentialSalt: base64(provision.credentialSalt),
    sendsReadReceipts: provision.sendsReadReceipts,
    owns: made.map(({ name, identity, keys, nextId, registrationId }) => ({
      name,
      identity: toBase64(identity.serialize()),
      registrationId,
      nextId,
      signed: toBase64(keys.signed.serialize()),
      lastResort: toBase64(keys.lastResort.serialize()),
    })),
    request: {
      verificationCode: provision.code,
      accountAttributes: {
        fetchesMessages: true,
        registrationId: of("aci")?.registrationId,
        ...(pni === undefined ? {} : { pniRegistrationId: pni.registrationId }),
        name: sealDeviceName(deviceName, provision.aciIdentity.getPublicKey()),
        capabilities,
      },
      ...keysOf("aci"),
      ...keysOf("pni"),
    },
  };
  const sql = "INSERT OR REPLACE INTO signal_pending_link (id, at, state) VALUES (1, ?, ?)";
  database.run(sql, at, JSON.stringify(pending));
  return pending;
}

/** True when a link that a crash cut short could be finished. */
async function resume(deps: LinkDeps, signal: AbortSignal): Promise<boolean> {
  const row = deps.database.get<{ at: number; state: string }>("SELECT at, state FROM signal_pending_link");
  if (row === undefined) return false;
  if (deps.clock.now() - row.at < pendingMaxMs) {
    try {
      await complete(deps, JSON.parse(row.state) as Pending, signal);
      return true;
    } catch (error) {
      if (!(error instanceof BridgeError) || error.code !== "rejected") throw error;
      deps.log.info("a link that was cut short cannot be finished: the code must be scanned again");
    }
  }
  deps.database.run("DELETE FROM signal_pending_link");
  return false;
}

const linked = v.object({ deviceId: v.number(), uuid: v.string(), pni: v.nullish(v.string()) });

async function complete(deps: LinkDeps, pending: Pending, signal: AbortSignal): Promise<void> {
  const listener = { onConnectionInterrupted: () => undefined };
  const connection = await withDeadline(deps.clock, signal, (abortSignal) =>
    deps.net.connectUnauthenticatedChat(listener, { abortSignal }),
  );
  try {
    const credentials = Buffer.from(`${pending.aci}:${pending.password}`).toString("base64");
    const reply = await exchange(connection, {
      verb: "PUT",
      path: "/v1/devices/link",
      headers: [["authorization", `Basic ${credentials}`]],
      json: pending.request,
    });
    const answer = v.safeParse(linked, reply.json);
    if (reply.status < 200 || reply.status > 299 || !answer.success) throw refusal(reply);
    if (answer.output.uuid.toLowerCase() !== pending.aci)
      throw new BridgeError("signal_protocol", "Cannot link as the server names another account than the phone did");
    deps.database.transaction(() => save(deps, pending, answer.output));
  } finally {
    await connection.disconnect();
  }
}

/** **Source:** SIGNAL-NATIVE 2.4. */
function refusal({ status, retryAfterMs }: Reply): BridgeError {
  const what = `Cannot link as the server answered ${status}`;
  if (status === 429) return new BridgeError("signal_rate_limited", what, { retryAfterMs: retryAfterMs ?? undefined });
  if (status === 411)
    return new BridgeError("rejected", what, {
      hint: "The account has too many linked devices: remove one on the phone.",
    });
  return new BridgeError("rejected", what, { hint: "Run `signalman link` again and scan the new code soon." });
}

/** All of the new account, and nothing of an earlier link. Inside a transaction of the caller. */
function save({ database, clock }: LinkDeps, pending: Pending, answer: v.InferOutput<typeof linked>): void {
  const at = clock.now();
  const isSamePerson = findAccount(database)?.aci.serviceId === pending.aci;
  for (const table of ["account", "own", "pending_link", "sessions", "pre_keys", "signed_pre_keys", "kyber_pre_keys"])
    database.run(`DELETE FROM signal_${table}`);
  for (const table of ["kyber_used", "sender_keys", "send_log"]) database.run(`DELETE FROM signal_${table}`);
  if (!isSamePerson)
    for (const table of ["identities", "recipients", "groups"]) database.run(`DELETE FROM signal_${table}`);
  const blob = (text: string | null) => (text === null ? null : fromBase64(text));
  database.run(
    `INSERT INTO signal_account (id, number, device_id, password, profile_key, entropy_pool, master_key, credential_salt,
       sends_read_receipts, linked_at) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    pending.number,
    answer.deviceId,
    pending.password,
    blob(pending.profileKey),
    pending.entropyPool,
    blob(pending.masterKey),
    blob(pending.credentialSalt),
    pending.sendsReadReceipts ? 1 : 0,
    at,
  );
  for (const own of pending.owns) {
    if (own.name === "pni" && !answer.pni) continue;
    const serviceId = own.name === "aci" ? pending.aci : `PNI:${answer.pni?.toLowerCase()}`;
    const signed = SignedPreKeyRecord.deserialize(fromBase64(own.signed));
    const lastResort = KyberPreKeyRecord.deserialize(fromBase64(own.lastResort));
    const identity = PrivateKey.deserialize(fromBase64(own.identity));
    database.run(
      `INSERT INTO signal_own (own, service_id, identity, registration_id, next_id, signed_id, last_resort_id, rotated_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
      own.name,
      serviceId,
      identity.serialize(),
      own.registrationId,
      own.nextId,
      signed.id(),
      lastResort.id(),
      at,
    );
    saveStandingKeys(database, own.name, { signed, lastResort }, at);
    const sql = "INSERT OR REPLACE INTO signal_identities (service_id, record, at) VALUES (?, ?, ?)";
    database.run(sql, serviceId, identity.getPublicKey().serialize(), at);
  }
}

/** The account is linked by now, so a failure is only noted: the next connect uploads what is missing. */
async function announceKeys(deps: LinkDeps, signal: AbortSignal): Promise<void> {
  const account = loadAccount(deps.database);
  try {
    const line = await openLine(deps, account, signal);
    try {
      await refreshKeys({ ...deps, line }, account.aci);
      if (account.pni !== null) await refreshKeys({ ...deps, line }, account.pni);
    } finally {
      await line.close();
    }
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    deps.log.warn("pre-keys not uploaded yet", { reason: error.message });
  }
}
