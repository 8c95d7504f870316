import { fromBinary } from "@bufbuild/protobuf";
import { PrivateKey, PublicKey } from "@signalapp/libsignal-client";
import { Net } from "@signalapp/libsignal-client/dist/net.js";
import { ServiceIdKind } from "@signalapp/mock-server";
import { deriveMasterKey, deriveStorageKey } from "@signalapp/mock-server/src/crypto";
import { Connection } from "@signalapp/mock-server/src/server/ws/connection";
import { afterEach, expect, test } from "bun:test";
import { createDecipheriv, createHmac } from "node:crypto";
import { systemClock, systemRandom } from "../../src/clock.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { readAccount } from "../../src/signal/native/account.ts";
import { fromBase64, owned } from "../../src/signal/native/bytes.ts";
import type { NativeDeps } from "../../src/signal/native/context.ts";
import { DeviceNameSchema, ProvisionEnvelopeSchema } from "../../src/signal/native/proto/signal_pb.ts";
import { sealDeviceName } from "../../src/signal/native/linking.ts";
import { createNative, linkNative } from "../../src/signal/native/linked-device.ts";
import type { Database } from "../../src/store/database.ts";
import { startSignalMock, type SignalMock } from "../doubles/signal-mock.ts";
import {
  answerInstead,
  failureOf,
  linkRig,
  never,
  openNativeDatabase,
  recordLog,
  type Rig,
  rigOf,
  serviceOf,
  startRig,
} from "./mock.ts";

let mock: SignalMock;
let rig: Rig | null = null;
afterEach(async () => {
  await rig?.stop();
  rig = null;
  await mock?.stop();
});

async function prepare(options: Parameters<typeof startSignalMock>[0] = {}): Promise<NativeDeps> {
  mock = await startSignalMock(options);
  const service = await serviceOf(mock);
  const database = await openNativeDatabase();
  return {
    database,
    service,
    clock: systemClock,
    random: systemRandom,
    log: recordLog().log,
    userAgent: "signalman/0.0.0",
  };
}

const count = (database: Database, what: string) =>
  database.get<{ n: number }>(`SELECT count(*) AS n FROM ${what}`)?.n ?? 0;

/** Lets the phone's answer be changed on its way. */
function tamper(change: (body: Uint8Array) => void): void {
  const original = mock.server.getProvisioningResponse.bind(mock.server);
  mock.server.getProvisioningResponse = async (...args) => {
    const { envelope } = await original(...args);
    const copy = Buffer.from(envelope);
    const { body } = fromBinary(ProvisionEnvelopeSchema, copy);
    const start = copy.indexOf(Buffer.from(body));
    change(copy.subarray(start, start + body.length));
    return { envelope: copy };
  };
}

test("linking makes us a device of the phone's account, with keys on the server that are in the database first", async () => {
  const deps = await prepare();
  const { database } = deps;
  const rowsAtUpload: number[] = [];
  const original = mock.server.updateDeviceKeys.bind(mock.server);
  mock.server.updateDeviceKeys = (device, kind, keys) => {
    if (keys.preKeys) rowsAtUpload.push(count(database, `signal_pre_keys WHERE own = '${kind.toLowerCase()}'`));
    return original(device, kind, keys);
  };
  const urls: URL[] = [];
  let scanned = null;
  let account = null;
  for await (const progress of linkNative(deps)("bot", never)) {
    if (progress.event === "linked") account = progress.account;
    else {
      urls.push(new URL(progress.url));
      scanned = mock.scan(progress.url);
    }
  }
  const device = await scanned;
  expect([...(urls[0]?.searchParams.keys() ?? [])]).toEqual(["uuid", "pub_key", "capabilities"]);
  expect(urls[0]?.searchParams.get("capabilities")).toBe("");
  expect(account).toEqual({ aci: mock.phone.device.aci, number: mock.phone.device.checkedNumber, deviceId: 2 });
  expect(rowsAtUpload).toEqual([100, 100]);
  // Two are used by the phone and the contact, who can write at once.
  expect(await device?.getPreKeyCount()).toBe(98);
  expect(await device?.getPreKeyCount(ServiceIdKind.PNI)).toBe(100);
  expect(await device?.getKyberPreKeyCount(ServiceIdKind.PNI)).toBe(100);
  expect(readAccount(database)).toMatchObject({
    deviceId: 2,
    profileKey: owned(mock.phone.profileKey.serialize()),
    storageKey: owned(deriveStorageKey(deriveMasterKey(mock.phone.accountEntropyPool))),
    pni: { serviceId: mock.phone.device.checkedPni },
  });
  // Of what the phone gave, the account's pool of secrets is not kept: all others could be derived from it.
  expect(JSON.stringify(database.get("SELECT * FROM signal_account"))).not.toContain(mock.phone.accountEntropyPool);
});

for (const [what, change] of [
  ["a byte was flipped", (body: Uint8Array) => body.set([(body[40] ?? 0) ^ 1], 40)],
  ["the version is unknown", (body: Uint8Array) => body.set([2], 0)],
] as const) {
  test(`what the phone sent is refused when ${what}: nothing is stored, nothing is asked of the server`, async () => {
    const deps = await prepare();
    tamper(change);
    let puts = 0;
    mock.server.provisionDevice = () => {
      puts++;
      throw new Error("not expected");
    };
    const run = async () => {
      for await (const progress of linkNative(deps)("bot", never))
        if (progress.event === "url") void mock.scan(progress.url).catch(() => undefined);
    };
    expect(await failureOf(run())).toMatchObject({ code: "signal_protocol" });
    expect(puts).toBe(0);
    expect(count(deps.database, "signal_account")).toBe(0);
  });
}

test("a provisioning socket that died before its envelope was acknowledged does not keep us from linking", async () => {
  const deps = await prepare();
  const { connectProvisioning } = Net.prototype;
  Net.prototype.connectProvisioning = async function (this: Net, listener, ...more) {
    const { onReceivedEnvelope } = listener;
    const dying = async (...given: Parameters<typeof onReceivedEnvelope>) => {
      await connection.disconnect();
      onReceivedEnvelope(...given);
    };
    const deaf = { ...listener, onReceivedEnvelope: dying, onConnectionInterrupted: () => undefined };
    const connection = await connectProvisioning.call(this, deaf, ...more);
    return connection;
  };
  try {
    await linkRig(mock, deps);
  } finally {
    Net.prototype.connectProvisioning = connectProvisioning;
  }
  expect(readAccount(deps.database)?.deviceId).toBe(2);
});

test("a code that the server gave up is replaced by another with another key", async () => {
  const deps = await prepare();
  const original = Connection.prototype["handleProvision"];
  Connection.prototype["handleProvision"] = async function (id: never, socket: { close(code: number): void }) {
    Connection.prototype["handleProvision"] = original;
    void original.call(this, id, socket).catch(() => undefined);
    socket.close(1000);
  };
  const keys: (string | null)[] = [];
  let scanned = null;
  for await (const progress of linkNative(deps)("bot", never)) {
    if (progress.event !== "url") continue;
    keys.push(new URL(progress.url).searchParams.get("pub_key"));
    if (keys.length === 2) scanned = mock.scan(progress.url);
  }
  await scanned;
  expect(new Set(keys).size).toBe(2);
  expect(readAccount(deps.database)?.deviceId).toBe(2);
});

test("a link that a crash cut short asks for another code, and leaves no half account", async () => {
  const deps = await prepare();
  let isBroken = true;
  const database: Database = {
    ...deps.database,
    transaction: (work) => {
      if (isBroken) throw new BridgeError("database", "Cannot use the database: disk I/O error");
      return deps.database.transaction(work);
    },
  };
  const first = async () => {
    for await (const progress of linkNative({ ...deps, database })("bot", never))
      if (progress.event === "url") void mock.scan(progress.url).catch(() => undefined);
  };
  expect(await failureOf(first())).toMatchObject({ code: "database" });
  expect(readAccount(deps.database)).toBeNull();
  isBroken = false;
  const { error } = console;
  console.error = () => undefined;
  await linkRig(mock, { ...deps, database });
  console.error = error;
  expect(readAccount(deps.database)?.deviceId).toBe(3);
});

test("what was said with another account goes in the transaction that replaces its keys: no crash leaves it to the next", async () => {
  const deps = await prepare();
  await linkRig(mock, deps);
  let times = 0;
  const again = async (onReplaced: () => void): Promise<void> => {
    for await (const progress of linkNative(deps, onReplaced)("bot", never))
      if (progress.event === "url") void mock.scan(progress.url).catch(() => undefined);
  };
  await again(() => void times++);
  expect(times).toBe(0);
  const other = "00000000-0000-4000-8000-00000000000a";
  deps.database.run("UPDATE signal_own SET service_id = ? WHERE own = 'aci'", other);
  const crash = (): never => {
    throw new BridgeError("database", "the process ends here");
  };
  const { error } = console;
  console.error = () => undefined;
  expect(await failureOf(again(crash))).toMatchObject({ code: "database" });
  expect(readAccount(deps.database)?.aci.serviceId).toBe(other);
  await again(() => void times++);
  console.error = error;
  expect([times, readAccount(deps.database)?.aci.serviceId]).toEqual([1, mock.phone.device.aci]);
});

test("an account without a number has one identity, and works", async () => {
  rig = await startRig({ hasNumber: false });
  expect(readAccount(rig.database)).toMatchObject({ number: null, pni: null });
  const envelope = await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: 1_795_000_000_000 }));
  expect(envelope.content).toMatchObject({ text: "hello" });
});

test("after linking the phone tells contacts, settings and keys", async () => {
  rig = await startRig({ isConnected: false });
  rig.database.run("UPDATE signal_account SET storage_key = NULL");
  await rig.transport.connect(never);
  await rig.expect(4, "empty");
  await rig.settled();
  // Contacts, settings and block list are what a phone waits for before it calls a new device synchronized.
  await rig.phone.waitForSync(rig.device);
  expect(rig.database.all("SELECT aci, name FROM signal_recipients")).toEqual([
    { aci: rig.contact.device.aci, name: "Alice" },
  ]);
  const row = rig.database.get("SELECT length(storage_key) AS bytes, synced_at > 0 AS isSynced FROM signal_account");
  expect(row).toEqual({ bytes: 32, isSynced: 1 });
});

test("of the contacts only those on the allow list are kept", async () => {
  rig = await startRig({ isAllowed: () => false });
  expect(rig.database.all("SELECT aci FROM signal_recipients")).toEqual([]);
});

test("a number that comes onto the allow list later is asked for again, as long as it is not known", async () => {
  rig = await startRig({ isAllowed: () => false });
  await rig.transport.disconnect();
  const { database } = rig;
  const number = rig.contact.device.number ?? "";
  const contacts = () => database.all("SELECT number FROM signal_recipients");
  // The phone is asked once a minute at most, over a restart, too.
  database.run("UPDATE signal_account SET asked_at = asked_at - 60000");
  const transport = createNative({ ...rig.deps, isAllowed: () => true, allowedNumbers: [number] });
  const again = rigOf(rig.mock, rig.device, rig.deps, transport);
  await transport.connect(never);
  await again.expect(1, "empty");
  await again.settled();
  expect(contacts()).toEqual([{ number }]);
  await transport.connect(never);
  await again.settled();
  expect((await again.poll(200)).envelopes).toEqual([]);
  await transport.disconnect();
});

test("linking anew wipes the sessions and keys of before", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: 1_795_000_000_000 }));
  await rig.transport.disconnect();
  await linkRig(rig.mock, rig.deps);
  expect(readAccount(rig.database)?.deviceId).toBe(3);
  expect(count(rig.database, "signal_sessions")).toBe(0);
  expect(count(rig.database, "signal_pre_keys")).toBe(200);
  expect(count(rig.database, "signal_recipients")).toBe(1);
});

test("a long name of the device is cut between characters, to 50 of them and to the 225 bytes that the server takes sealed", async () => {
  const deps = await prepare();
  const family = "👩‍👩‍👧‍👦";
  for (const [given, cut] of [
    ["x".repeat(300), "x".repeat(50)],
    [family.repeat(100), family.repeat(6)],
  ] as const) {
    using answering = answerInstead(({ path }) => (path === "/v1/devices/link" ? { status: 422 } : undefined));
    const link = async () => {
      for await (const progress of linkNative(deps)(given, never))
        if (progress.event === "url") mock.scan(progress.url).catch(() => undefined);
    };
    expect(await failureOf(link())).toMatchObject({ code: "rejected" });
    const asked = answering.asked.find(({ path }) => path === "/v1/devices/link")?.json as {
      accountAttributes: { name: string };
    };
    const sealed = fromBase64(asked.accountAttributes.name);
    expect(sealed.length).toBeLessThanOrEqual(225);
    expect(fromBinary(DeviceNameSchema, sealed).ciphertext.length).toBe(Buffer.byteLength(cut));
  }
});

test("the device's name is readable to the account alone, and sealed differently each time", () => {
  const identity = PrivateKey.generate();
  const [first, second] = [
    sealDeviceName("signalman ☎", identity.getPublicKey()),
    sealDeviceName("x", identity.getPublicKey()),
  ];
  expect(first).not.toBe(sealDeviceName("signalman ☎", identity.getPublicKey()));
  expect(second).not.toBe(first);
  const { ephemeralPublic, syntheticIv, ciphertext } = fromBinary(DeviceNameSchema, fromBase64(first));
  const master = identity.agree(PublicKey.deserialize(owned(ephemeralPublic)));
  const mac = (key: Uint8Array, data: Uint8Array | string) => createHmac("sha256", key).update(data).digest();
  const decipher = createDecipheriv("aes-256-ctr", mac(mac(master, "cipher"), syntheticIv), new Uint8Array(16));
  const plain = Buffer.concat([decipher.update(ciphertext), decipher.final()]);
  expect(plain.toString()).toBe("signalman ☎");
  expect(mac(mac(master, "auth"), plain).subarray(0, 16)).toEqual(Buffer.from(syntheticIv));
});
