/**
 * Makes this program a linked device.
 *
 *   provisioning socket ─▶ address ─▶ QR ─▶ (the phone scans) ─▶ keys ─▶ PUT link ─▶ ONE transaction ─▶ pre-keys
 *          └── closed before the scan: a new key, a new code                 └ another account, or device, before: wiped, unlinked
 *
 * The code is single use: after a crash between the request and the transaction the person scans again. **Source:**
 * `docs/signal-protocol.md`, "Linking".
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import * as libsignal from "@signalapp/libsignal-client";
import type { Net } from "@signalapp/libsignal-client/dist/net.js";
import { createCipheriv, createDecipheriv, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import * as v from "valibot";
import { BridgeError } from "../../core/errors.ts";
import type { Link, LinkProgress } from "../transport.ts";
import { loadAccount, readAccount, storageKeyOf, toAccount } from "./account.ts";
import { tolerate, concat, owned, readOrThrow, toBase64, utf8 } from "./bytes.ts";
import { connectSealed, exchange, once, openLine, withDeadline } from "./connect.ts";
import type { Bytes, NativeContext, ChatLine, NativeAccount, NativeDeps, OwnName } from "./context.ts";
import { keyIdMax, makeStandingKeys, refreshKeys, saveOwn, toUpload } from "./keys.ts";
import * as wire from "./proto/signal_pb.ts";
import { putRow } from "./tables.ts";
import { answerOf, ask, capabilities, isGood, refused } from "./server.ts";

/** The server takes a sealed name of at most 225 bytes; sealing adds some sixty. */
const nameLengthMax = 50;
const nameBytesMax = 160;
/** A code lives for 90 s, so that this many last 45 minutes. */
const codesMax = 30;

type LinkDeps = NativeDeps &
  Pick<NativeContext, "net"> & {
    /** Runs in the transaction that replaces an earlier account, so that a crash afterwards leaves nothing of it. */
    readonly onReplaced: () => void;
  };

/**
 * Yields the account once it is committed and its pre-keys are uploaded, so that others can write at once. An earlier account
 * is replaced.
 * @throws BridgeError `signal_unreachable` `signal_timeout` `signal_protocol` `signal_rate_limited` `rejected` `database`
 */
export function makeLink(deps: LinkDeps): Link {
  return async function* (deviceName: string, signal: AbortSignal): AsyncIterable<LinkProgress> {
    let provision: Provision | null = null;
    for (let codes = 0; provision === null; codes++) {
      if (codes === codesMax) throw new BridgeError("signal_timeout", "Cannot link as the code was not scanned");
      const { url, scanned, open } = await openCode(deps, signal);
      await using _ = open;
      yield { event: "url", url };
      provision = await scanned();
    }
    await complete(deps, prepare(deps, provision, deviceName), signal);
    const account = loadAccount(deps.database);
    await tolerate(announceKeys(deps, account, signal), ({ message: reason }) =>
      deps.log.warn("pre-keys not uploaded yet", { reason }),
    );
    yield { event: "linked", account: toAccount(account) };
  };
}

/** `scanned` resolves to what the phone sent; null when the server closed the socket first. */
async function openCode({ net, clock }: LinkDeps, signal: AbortSignal) {
  const ephemeral = libsignal.PrivateKey.generate();
  const address = Promise.withResolvers<string | null>();
  const envelope = Promise.withResolvers<Bytes | null>();
  const end = () => {
    address.resolve(null);
    envelope.resolve(null);
  };
  const listener: Parameters<Net["connectProvisioning"]>[0] = {
    onReceivedAddress: (value, ack) => {
      address.resolve(value);
      once(ack)();
    },
    onReceivedEnvelope: (bytes, ack) => {
      envelope.resolve(owned(bytes));
      once(ack)();
    },
    onConnectionInterrupted: end,
  };
  const connection = await withDeadline(clock, signal, (abortSignal) =>
    net.connectProvisioning(listener, { abortSignal }),
  );
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  await using stack = new AsyncDisposableStack();
  stack.defer(async () => {
    signal.removeEventListener("abort", end);
    await connection.disconnect();
  });
  const given = await address.promise;
  if (given === null) throw new BridgeError("signal_unreachable", "Cannot link as the server gave no address");
  const scanned = async () => {
    const bytes = await envelope.promise;
    if (signal.aborted) throw new BridgeError("signal_unreachable", "Cannot link as it was cancelled");
    return bytes && openProvision(bytes, ephemeral);
  };
  return { url: linkUrl(given, ephemeral.getPublicKey()), scanned, open: stack.move() };
}

function prepare({ clock, random }: LinkDeps, provision: Provision, deviceName: string) {
  const at = clock.now();
  const makeOwn = (name: OwnName, identity: libsignal.PrivateKey) => {
    // Key ids start anywhere in the lower half of their range.
    let nextId = 1 + Math.floor(random() * (keyIdMax / 2));
    const keys = makeStandingKeys(identity, () => nextId++, at);
    // 14 bits, never 0.
    return { name, identity, keys, nextId, registrationId: 1 + Math.floor(random() * 16_383) };
  };
  const aci = makeOwn("aci", provision.aciIdentity);
  const pni = provision.pniIdentity && makeOwn("pni", provision.pniIdentity);
  const owns = pni === null ? [aci] : [aci, pni];
  const request = {
    verificationCode: provision.code,
    accountAttributes: {
      fetchesMessages: true,
      registrationId: aci.registrationId,
      ...(pni && { pniRegistrationId: pni.registrationId }),
      name: sealDeviceName(cutName(deviceName), provision.aciIdentity.getPublicKey()),
      capabilities,
    },
    ...Object.fromEntries(owns.map(({ name, keys }) => [`${name}SignedPreKey`, toUpload(keys.signed)])),
    ...Object.fromEntries(owns.map(({ name, keys }) => [`${name}PqLastResortPreKey`, toUpload(keys.lastResort)])),
  };
  return { provision, owns, request, password: randomBytes(24).toString("base64url") };
}

type Pending = ReturnType<typeof prepare>;

/** Cuts a name to `nameLengthMax` characters and `nameBytesMax` bytes, without cutting a character. */
function cutName(name: string): string {
  let cut = "";
  let length = 0;
  for (const { segment } of new Intl.Segmenter().segment(name.trim()))
    if (++length <= nameLengthMax && utf8(cut + segment).length <= nameBytesMax) cut += segment;
    else break;
  return cut;
}

const linked = v.object({ deviceId: v.number(), uuid: v.string(), pni: v.nullish(v.string()) });
type Linked = v.InferOutput<typeof linked>;

async function complete(deps: LinkDeps, pending: Pending, signal: AbortSignal): Promise<void> {
  const connection = await connectSealed(deps.net, deps.clock, signal, () => undefined);
  try {
    const login = toBase64(utf8(`${pending.provision.aci}:${pending.password}`));
    const reply = await exchange(connection, ask.linkDevice(pending.request, login));
    if (!isGood(reply)) throw refused("link", reply, "rejected", hints.get(reply.status) ?? expired);
    const answer = answerOf(linked, reply, "link");
    if (answer.uuid.toLowerCase() !== pending.provision.aci)
      throw new BridgeError("signal_protocol", "Cannot link as the server names another account than the phone did");
    const earlier = readAccount(deps.database);
    deps.database.transaction(() => {
      save(deps, pending, answer);
      if (earlier !== null && earlier.aci.serviceId !== pending.provision.aci) deps.onReplaced();
    });
    const note = ({ message: reason }: BridgeError) =>
      deps.log.info("the earlier device may still be listed on the phone", { reason });
    if (earlier !== null) await tolerate(unlink(deps, earlier, signal), note);
  } finally {
    await connection.disconnect();
  }
}

const hints = new Map([
  [409, "Update signalman: Signal asks for a newer client."],
  [411, "The account has too many linked devices: remove one on the phone."],
  [422, "Give the device a shorter name. If that does not help, update signalman."],
]);
const expired = "The code has expired or was used: run `signalman link` again and scan the new code soon.";

/** Removes the earlier device, which would keep a place and a queue for weeks. @throws BridgeError also where it is gone already */
async function unlink(deps: LinkDeps, earlier: NativeAccount, signal: AbortSignal): Promise<void> {
  await using line = await openLineOf(deps, earlier, signal);
  await line.request(ask.removeDevice(earlier.deviceId));
}

function openLineOf(deps: LinkDeps, account: NativeAccount, signal: AbortSignal): Promise<ChatLine> {
  const nothing = () => undefined;
  return openLine({ ...deps, onServerTime: nothing, notify: nothing }, account, signal);
}

/** The tables that every link empties, and those that only the link of another account empties. */
const deviceTables =
  "account own sessions pre_keys signed_pre_keys kyber_pre_keys kyber_used sender_keys owed send_log";
const accountTables = "identities recipients groups seen attempts quarantine";

/** Writes all rows of the new account, after deleting those of an earlier link. Inside a transaction of the caller. */
function save({ database, clock }: LinkDeps, { provision, owns, password }: Pending, answer: Linked): void {
  const at = clock.now();
  const isSameAccount = readAccount(database)?.aci.serviceId === provision.aci;
  for (const table of `${deviceTables} ${isSameAccount ? "" : accountTables}`.trim().split(" "))
    database.run(`DELETE FROM signal_${table}`);
  const { number, profileKey: profile_key, entropyPool, credentialSalt: credential_salt } = provision;
  const storage_key = entropyPool === null ? null : storageKeyOf(entropyPool);
  const settings = { sends_read_receipts: Number(provision.sendsReadReceipts), linked_at: at };
  const login = { number, device_id: answer.deviceId, password };
  putRow(database, "account", { id: 1, ...login, profile_key, storage_key, credential_salt, ...settings });
  for (const own of owns) {
    if (own.name === "pni" && !answer.pni) continue;
    const serviceId = own.name === "aci" ? provision.aci : `PNI:${answer.pni?.toLowerCase()}`;
    saveOwn(database, { ...own, serviceId }, own.keys, at);
  }
}

/** Uploads the pre-keys; the next connect uploads what is missing. @throws BridgeError those of the line */
async function announceKeys(deps: LinkDeps, account: NativeAccount, signal: AbortSignal): Promise<void> {
  await using line = await openLineOf(deps, account, signal);
  const now = () => deps.clock.now();
  await refreshKeys({ ...deps, now }, line, account.aci);
  if (account.pni !== null) await refreshKeys({ ...deps, now }, line, account.pni);
}

// --- what the phone hands over through the QR code, and the name under which it lists us

type Provision = ReturnType<typeof toProvision>;
const macBytes = 32;
const ivBytes = 16;

function linkUrl(address: string, publicKey: libsignal.PublicKey): string {
  const key = encodeURIComponent(toBase64(publicKey.serialize()));
  return `sgnl://linkdevice?uuid=${encodeURIComponent(address)}&pub_key=${key}&capabilities=`;
}

/** @throws BridgeError `signal_protocol` when `bytes` were not made for this key, were changed on the way, or lack what a device needs */
export function openProvision(bytes: Uint8Array, ephemeral: libsignal.PrivateKey): Provision {
  const open = () => {
    const { body, publicKey } = fromBinary(wire.ProvisionEnvelopeSchema, bytes);
    return toProvision(decrypt(body, libsignal.PublicKey.deserialize(owned(publicKey)), ephemeral));
  };
  return readOrThrow(open, (error) => (error instanceof BridgeError ? error : refuse("it cannot be read", error)));
}

const refuse = (why: string, cause?: unknown) =>
  new BridgeError("signal_protocol", `Cannot link as what the phone sent is not right: ${why}`, { cause });

/** body = version(1) ‖ iv(16) ‖ ciphertext ‖ mac(32). The MAC is checked first, in constant time. */
function decrypt(body: Uint8Array, theirs: libsignal.PublicKey, ephemeral: libsignal.PrivateKey): Bytes {
  if (body[0] !== 1) throw refuse("its version is unknown");
  if (body.length < 1 + ivBytes + macBytes) throw refuse("it is too short");
  const keys = libsignal.hkdf(64, ephemeral.agree(theirs), utf8("TextSecure Provisioning Message"), null);
  const mac = createHmac("sha256", keys.subarray(32)).update(body.subarray(0, -macBytes)).digest();
  if (!timingSafeEqual(mac, body.subarray(-macBytes))) throw refuse("its MAC is wrong");
  const decipher = createDecipheriv("aes-256-cbc", keys.subarray(0, 32), body.subarray(1, 1 + ivBytes));
  return concat(decipher.update(body.subarray(1 + ivBytes, -macBytes)), decipher.final());
}

function toProvision(plain: Bytes) {
  const message = fromBinary(wire.ProvisionMessageSchema, plain);
  const aci =
    message.aciBinary.length === 16 ? libsignal.Aci.fromUuidBytes(message.aciBinary).getServiceIdString() : message.aci;
  const aciIdentity = toIdentity(message.aciIdentityKeyPrivate, message.aciIdentityKeyPublic);
  if (aciIdentity === null || aci === "" || message.provisioningCode === "") throw refuse("a field is missing");
  const hasPni = message.pniBinary.length === 16 || message.pni !== "";
  const sized = (bytes: Uint8Array, length: number) => (bytes.length === length ? owned(bytes) : null);
  return {
    code: message.provisioningCode,
    aci: aci.toLowerCase(),
    aciIdentity,
    pniIdentity: hasPni ? toIdentity(message.pniIdentityKeyPrivate, message.pniIdentityKeyPublic) : null,
    number: message.number || null,
    profileKey: sized(message.profileKey, 32),
    entropyPool: message.accountEntropyPool || null,
    credentialSalt: sized(message.authCredentialSalt, 16),
    sendsReadReceipts: message.readReceipts,
  };
}

function toIdentity(secret: Uint8Array, announced: Uint8Array): libsignal.PrivateKey | null {
  if (secret.length === 0) return null;
  const key = libsignal.PrivateKey.deserialize(owned(secret));
  if (announced.length === 0 || libsignal.PublicKey.deserialize(owned(announced)).equals(key.getPublicKey()))
    return key;
  throw refuse("an identity key does not match its public half");
}

/** The device's name, readable to the account's own devices only; base64 of the sealed form, different each time. */
export function sealDeviceName(name: string, identity: libsignal.PublicKey): string {
  const ephemeral = libsignal.PrivateKey.generate();
  const master = ephemeral.agree(identity);
  const mac = (key: Uint8Array, data: Uint8Array) => createHmac("sha256", key).update(data).digest();
  const plain = utf8(name);
  const syntheticIv = owned(mac(mac(master, utf8("auth")), plain).subarray(0, 16));
  const cipher = createCipheriv("aes-256-ctr", mac(mac(master, utf8("cipher")), syntheticIv), new Uint8Array(16));
  const sealed = create(wire.DeviceNameSchema, {
    ephemeralPublic: ephemeral.getPublicKey().serialize(),
    syntheticIv,
    ciphertext: concat(cipher.update(plain), cipher.final()),
  });
  return toBase64(toBinary(wire.DeviceNameSchema, sealed));
}
