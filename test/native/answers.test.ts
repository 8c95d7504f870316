/** What the server answers to a linked device, and what becomes of the message then: what the mock server never says. */
import { afterEach, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, systemClock } from "../../src/clock.ts";
import type { BridgeError } from "../../src/core/errors.ts";
import { Proto } from "@signalapp/mock-server";
import { groupIdOf } from "../../src/signal/native/ids.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import type { Notice } from "../../src/signal/transport.ts";
import { answerInstead, failureOf, never, type Rig, startRig } from "./mock.ts";

let rig: Rig;
let closing: Disposable[] = [];
afterEach(async () => {
  for (const one of closing) one[Symbol.dispose]();
  closing = [];
  await rig?.stop();
});

const at = 1_795_000_000_000;
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const instead = (answer: Parameters<typeof answerInstead>[0]) => {
  const answering = answerInstead(answer);
  closing.push(answering);
  return answering;
};
for (const [status, code, scope] of [
  [429, "signal_rate_limited", "recipient"],
  [503, "signal_unreachable", "account"],
  [508, "send_rejected", "account"],
  [500, "send_uncertain", "account"],
  [405, "outdated", "account"],
] as const) {
  test(`a send that is answered ${status} is ${code}`, async () => {
    rig = await startRig();
    const { asked } = instead(({ path }) =>
      path === `/v1/messages/${rig.contact.device.aci}`
        ? { status, headers: status === 429 ? ["retry-after:7"] : [] }
        : undefined,
    );
    const fault = (await failureOf(rig.send(rig.direct, "hello", at))) as BridgeError;
    expect({ code: fault.code, scope: fault.scope }).toEqual({ code, scope });
    expect(fault.retryAfterMs).toBe(status === 429 ? 7_000 : null);
    if (code === "outdated") expect(fault.hint).toContain("Update signalman");
    expect(asked.filter(({ verb }) => verb === "PUT").length).toBe(1);
  });
}

for (const [verb, path, status] of [
  ["PUT", "/v2/keys", 404],
  ["GET", "/v2/keys?identity=aci", 410],
  ["PUT", "/v1/devices/capabilities", 410],
] as const)
  test(`an endpoint that is gone (${status} to ${verb} ${path}) is told to the owner: update signalman`, async () => {
    rig = await startRig();
    // Two days later the keys are replaced.
    rig.database.run("UPDATE signal_own SET rotated_at = 0");
    instead((asked) => (asked.verb === verb && asked.path.startsWith(path) ? { status } : undefined));
    await rig.transport.connect(never);
    let told: readonly Notice[] = [];
    while (told.length === 0) told = (await rig.poll(50)).notices ?? [];
    expect(told).toEqual([{ code: "outdated", text: expect.stringContaining("Update signalman") }]);
  });

test("a 410 that names no stale device is no word about devices: the endpoint is gone", async () => {
  rig = await startRig();
  for (const json of [undefined, {}]) {
    using _ = answerInstead(({ path }) =>
      path.startsWith("/v1/messages/") ? { status: 410, ...(json && { json }) } : undefined,
    );
    const fault = (await failureOf(rig.send(rig.direct, "hello", at))) as BridgeError;
    expect(fault).toMatchObject({ code: "outdated", hint: expect.stringContaining("Update signalman") });
  }
});

test("a line on which something comes at each poll has its hourly upkeep all the same", async () => {
  let aheadMs = 0;
  rig = await startRig({ clock: { ...systemClock, monotonic: () => systemClock.monotonic() + aheadMs } });
  const { asked } = instead(() => undefined);
  const capabilities = () => asked.filter(({ path }) => path === "/v1/devices/capabilities").length;
  for (let hours = 0; hours < 2; hours++) {
    aheadMs += hourMs;
    // It is there already as the poll begins.
    await rig.receive(rig.contact.sendText(rig.device, "busy", { timestamp: at + hours }));
    await rig.settled();
  }
  expect(capabilities()).toBe(2);
});

test("keys that a clock far ahead replaced are replaced again in time", async () => {
  rig = await startRig();
  rig.database.run("UPDATE signal_own SET rotated_at = ?", Date.now() + 400 * dayMs);
  const { asked } = instead(() => undefined);
  await rig.transport.connect(never);
  await rig.settled();
  expect(asked.filter(({ verb, path }) => verb === "PUT" && path.startsWith("/v2/keys")).length).toBeGreaterThan(0);
});

test("a limit on reading a group holds up that group alone", async () => {
  rig = await startRig({
    change: (service) => ({
      ...service,
      fetch: async (what) =>
        what.url.endsWith("/v2/groups")
          ? { status: 429, headers: new Map([["retry-after", "7"]]), body: new Uint8Array() }
          : service.fetch(what),
    }),
  });
  const id = groupIdOf(new Uint8Array(32).fill(3));
  const sql = "INSERT INTO signal_groups (group_id, master_key, revision) VALUES (?, ?, 1)";
  rig.database.run(sql, id, new Uint8Array(32).fill(3));
  expect(await failureOf(rig.send({ kind: "group", id }, "hello", at))).toMatchObject({
    code: "signal_rate_limited",
    scope: "recipient",
    retryAfterMs: 7_000,
  });
});

test("a limit of one member of a group holds up no other, and the member gets the message later, with its timestamp", async () => {
  const sleep: Clock["sleep"] = (ms, signal) => systemClock.sleep(ms === 10_000 ? 5 : ms, signal);
  rig = await startRig({ clock: { ...systemClock, sleep } });
  const bob = await rig.mock.server.createPrimaryDevice({ profileName: "Bob" });
  const group = await rig.phone.createGroup({ title: "Team", members: [rig.phone, rig.contact, bob] });
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at, group }));
  await rig.settled();
  let limits = 1;
  instead(({ path }) =>
    path === `/v1/messages/${rig.contact.device.aci}` && limits-- > 0
      ? { status: 429, headers: ["retry-after:0"] }
      : undefined,
  );
  const outcome = await rig.send({ kind: "group", id: groupIdOf(group.masterKey) }, "to all", at + 1);
  expect(outcome.failed).toEqual([{ recipient: rig.contact.device.aci, code: "signal_rate_limited" }]);
  expect((await bob.waitForMessage()).body).toBe("to all");
  const late = await rig.contact.waitForMessage();
  expect({ body: late.body, at: Number(late.dataMessage.timestamp) }).toEqual({ body: "to all", at: at + 1 });
});

test("what a member of a group is owed is not forgotten by a restart, nor by a lost line; who left meanwhile is owed nothing", async () => {
  const waits: number[] = [];
  const sleep: Clock["sleep"] = (ms, signal) => {
    if (ms >= 10_000 && ms < 3_600_000) waits.push(ms);
    return systemClock.sleep(ms, signal);
  };
  const folder = await mkdtemp(join(tmpdir(), "signal-owed-"));
  rig = await startRig({ clock: { ...systemClock, sleep }, databasePath: join(folder, "signalman.db") });
  const bob = await rig.mock.server.createPrimaryDevice({ profileName: "Bob" });
  const carol = await rig.mock.server.createPrimaryDevice({ profileName: "Carol" });
  const members = [rig.phone, rig.contact, bob, carol];
  const group = await rig.phone.createGroup({ title: "Team", members });
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at, group }));
  await rig.settled();
  const limited = [rig.contact, carol].map(({ device }) => `/v1/messages/${device.aci}`);
  const limit = instead(({ path }) =>
    limited.includes(path) ? { status: 429, headers: ["retry-after:3000"] } : undefined,
  );
  const outcome = await rig.send({ kind: "group", id: groupIdOf(group.masterKey) }, "to all", at + 1);
  expect(outcome.failed).toHaveLength(2);
  // A line that comes back is no reason to ask again before the server wants it.
  await rig.transport.connect(never);
  expect(waits.filter((ms) => ms > 2_990_000)).toHaveLength(4);
  limit[Symbol.dispose]();
  await rig.transport.disconnect();
  const state = rig.database.get<{ state: string }>("SELECT state FROM signal_groups")?.state ?? "";
  const { members: known, ...rest } = JSON.parse(state) as { members: { aci: string }[] };
  const left = { ...rest, members: known.filter(({ aci }) => aci !== carol.device.aci) };
  rig.database.run("UPDATE signal_groups SET state = ?", JSON.stringify(left));
  const { asked } = instead(() => undefined);
  const restarted = createNative(rig.deps);
  await restarted.connect(never);
  const late = await rig.contact.waitForMessage();
  expect({ body: late.body, at: Number(late.dataMessage.timestamp) }).toEqual({ body: "to all", at: at + 1 });
  for (let count = 1; count > 0;) {
    await restarted.settled();
    count = rig.database.all("SELECT 1 FROM signal_owed").length;
  }
  expect(asked.filter(({ path }) => path === limited[1])).toEqual([]);
  await restarted.disconnect();
  await rm(folder, { recursive: true });
});

test("a captcha for one member of a group is waited for in hours, and ends in words to the owner", async () => {
  const waits: number[] = [];
  const sleep: Clock["sleep"] = (ms, signal) => {
    if (ms >= 3_600_000) waits.push(ms);
    return systemClock.sleep(ms >= 3_600_000 ? 1 : ms, signal);
  };
  rig = await startRig({ clock: { ...systemClock, sleep } });
  const bob = await rig.mock.server.createPrimaryDevice({ profileName: "Bob" });
  const group = await rig.phone.createGroup({ title: "Team", members: [rig.phone, rig.contact, bob] });
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at, group }));
  await rig.settled();
  const json = { token: "t1", options: ["captcha"] };
  instead(({ path }) => (path === `/v1/messages/${rig.contact.device.aci}` ? { status: 428, json } : undefined));
  const outcome = await rig.send({ kind: "group", id: groupIdOf(group.masterKey) }, "to all", at + 1);
  expect(outcome.failed).toEqual([{ recipient: rig.contact.device.aci, code: "captcha" }]);
  let told: readonly Notice[] = [];
  while (told.length === 0) told = (await rig.poll(100)).notices ?? [];
  expect(told).toEqual([{ code: "member_missed", text: expect.stringContaining("signalman reconnect --captcha") }]);
  expect(waits).toEqual([3_600_000, 7_200_000, 10_800_000]);
  // Once it is solved, the token is there to be used.
  expect(rig.database.get("SELECT challenge FROM signal_account")).toEqual({ challenge: "t1" });
});

test("a 401 says that this device is gone: the message waits, and the line ends as unlinked", async () => {
  rig = await startRig();
  instead(({ path }) => (path.startsWith("/v1/messages/") ? { status: 401 } : undefined));
  expect(await failureOf(rig.send(rig.direct, "hello", at))).toMatchObject({ code: "signal_unreachable" });
  expect(await failureOf(rig.poll())).toMatchObject({ code: "unlinked" });
});

test("a challenge is settled by the phone, unseen; only where that does not help a person is asked", async () => {
  rig = await startRig();
  const json = { token: "t1", options: ["pushChallenge", "captcha"] };
  let isAsked = true;
  let solution = 428;
  const { asked } = instead(({ verb, path }) => {
    if (path === "/v1/challenge/push") return { status: 200 };
    if (path === "/v1/challenge" && verb === "PUT") return { status: solution };
    return isAsked && path === `/v1/messages/${rig.contact.device.aci}` ? { status: 428, json } : undefined;
  });
  const first = (await failureOf(rig.send(rig.direct, "hello", at))) as BridgeError;
  expect({ code: first.code, scope: first.scope }).toEqual({ code: "signal_rate_limited", scope: "account" });
  expect(first.retryAfterMs).toBeGreaterThan(0);
  expect(await failureOf(rig.send(rig.direct, "hello", at))).toMatchObject({ code: "captcha" });
  expect(asked.filter(({ path }) => path === "/v1/challenge/push")).toHaveLength(1);
  // A wrong solution costs nothing: the token at hand stays good.
  expect(await failureOf(rig.transport.answerChallenge("signalcaptcha://wrong"))).toMatchObject({
    code: "send_rejected",
  });
  solution = 200;
  await rig.transport.answerChallenge("signalcaptcha://right");
  expect(asked.at(-1)?.json).toEqual({ type: "captcha", token: "t1", captcha: "right" });
  isAsked = false;
  await rig.send(rig.direct, "hello", at);
});

test("a refused seal is tried again after a day", async () => {
  let aheadMs = 0;
  rig = await startRig({ clock: { ...systemClock, now: () => Date.now() + aheadMs } });
  await rig.receive(rig.contact.sendText(rig.device, "one", { timestamp: at, withProfileKey: true }));
  const sealed: boolean[] = [];
  let isRefusing = true;
  instead(({ verb, path, json }) => {
    if (verb !== "PUT" || path !== `/v1/messages/${rig.contact.device.aci}`) return undefined;
    const isSealed = (json as { messages: { type: number }[] }).messages.every(({ type }) => type === 6);
    sealed.push(isSealed);
    return isSealed && isRefusing ? { status: 401 } : undefined;
  });
  await rig.send(rig.direct, "a", at + 1);
  isRefusing = false;
  await rig.send(rig.direct, "b", at + 2);
  aheadMs = dayMs + 1;
  await rig.send(rig.direct, "c", at + 3);
  expect(sealed).toEqual([true, false, false, true]);
});

test("each sealed message is said to have arrived, at once and whatever the owner's settings; strangers get nothing", async () => {
  rig = await startRig();
  rig.database.run("UPDATE signal_account SET sends_read_receipts = 0");
  await rig.transport.connect(never);
  const prompt = await rig.receive(rig.contact.sendText(rig.device, "sealed", { timestamp: at, sealed: true }));
  await rig.settled();
  const { receiptMessage } = await rig.contact.waitForReceipt();
  expect(receiptMessage.type).toBe(Proto.ReceiptMessage.Type.DELIVERY);
  expect(receiptMessage.timestamp?.map(Number)).toEqual([at]);
  const { asked } = instead(() => undefined);
  await rig.receive(rig.contact.sendText(rig.device, "open", { timestamp: at + 1 }));
  await rig.transport.markRead(prompt);
  await rig.settled();
  expect(asked.filter(({ path }) => path.includes(rig.contact.device.aci))).toEqual([]);
});

test("strangers get no receipt", async () => {
  rig = await startRig({ isAllowed: () => false });
  const { asked } = instead(() => undefined);
  await rig.acked(rig.contact.sendText(rig.device, "sealed", { timestamp: at, sealed: true }));
  await rig.settled();
  expect(asked.filter(({ path }) => path.includes(rig.contact.device.aci))).toEqual([]);
});

test("an account that lost its number goes on: keys of the account, requests, and all else", async () => {
  rig = await startRig({ isConnected: false });
  const { asked } = instead(({ verb, path }) =>
    verb === "GET" && path === "/v2/keys?identity=pni" ? { status: 400 } : undefined,
  );
  await rig.transport.connect(never);
  await rig.expect(3, "empty");
  await rig.settled();
  expect(asked.some(({ path }) => path === "/v1/storage/auth")).toBe(true);
});

test("the phone is asked for its contacts once a minute at most, however often the line breaks", async () => {
  rig = await startRig({ isConnected: false });
  const { asked } = instead(() => undefined);
  for (let n = 0; n < 3; n++) {
    await rig.transport.connect(never);
    await rig.settled();
    await rig.poll(100);
  }
  expect(asked.filter(({ path }) => path === `/v1/messages/${rig.phone.device.aci}`)).toHaveLength(3);
});

for (const alert of ["idle-primary-device", "critical-idle-primary-device"])
  test(`an alert of the server (${alert}) is told to the owner once`, async () => {
    rig = await startRig({ isConnected: false });
    rig.mock.server.setWebsocketUpgradeResponseHeaders({ "x-signal-alert": alert });
    const notices: string[] = [];
    for (let n = 0; n < 2; n++) {
      await rig.transport.connect(never);
      for (let polls = 0; polls < 5; polls++)
        notices.push(...((await rig.poll(50)).notices ?? []).map(({ code }) => code));
    }
    expect(notices).toEqual(["phone_idle"]);
  });
