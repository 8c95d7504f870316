import { BuildVariant, Net } from "@signalapp/libsignal-client/dist/net.js";
import type { Group, PrimaryDevice } from "@signalapp/mock-server";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, systemClock } from "../../src/clock.ts";
import { BridgeError } from "../../src/core/errors.ts";
import type {
  FetchGroup,
  GroupAccount,
  ChatLine,
  PinnedRequest,
  PinnedResponse,
  ServiceReply,
  ServiceRequest,
  Service,
} from "../../src/signal/native/context.ts";
import { groupFetcher } from "../../src/signal/native/groups.ts";
import { groupIdOf } from "../../src/signal/native/ids.ts";
import { loadService } from "../../src/signal/native/signal-service.ts";
import { type SignalMock, startSignalMock } from "../doubles/signal-mock.ts";

const never = new AbortController().signal;
const dayMs = 86_400_000;

async function faultOf(work: () => unknown): Promise<BridgeError> {
  try {
    await work();
  } catch (error) {
    if (error instanceof BridgeError) return error;
    throw error;
  }
  throw new Error("Expected a BridgeError");
}

describe("a group", () => {
  const folder = mkdtempSync(join(tmpdir(), "native-test-"));
  let signal: SignalMock;
  let service: Service;
  let owner: PrimaryDevice;
  let friend: PrimaryDevice;
  let group: Group;
  let account: GroupAccount;
  let connection: Awaited<ReturnType<Net["connectAuthenticatedChat"]>>;
  let fetchGroup: FetchGroup;
  let credentialRequests: ServiceRequest[] = [];
  let storageRequests: PinnedRequest[] = [];
  /** Ahead of the machine's clock; the mock issues credentials for its own day and the following ones. */
  let aheadMs = 0;
  const clock: Clock = { ...systemClock, now: () => systemClock.now() + aheadMs };
  /** What the storage host answers instead, once each. */
  let insteads: PinnedResponse[] = [];

  beforeAll(async () => {
    signal = await startSignalMock();
    service = await loadService(await signal.writeService(join(folder, "service.json")), clock);
    owner = await signal.server.createPrimaryDevice({ profileName: "Owner", password: "secret" });
    friend = await signal.server.createPrimaryDevice({ profileName: "Friend" });
    group = await owner.createGroup({ title: "Chess ♞", members: [owner, friend] });
    account = { aci: owner.device.aci, pni: owner.device.pni ?? null, salt: null };
    const net = new Net(service.netOptions("test/1"));
    net.setRemoteConfig(service.remoteConfig, BuildVariant.Production);
    const ignore = () => undefined;
    const listener = { onIncomingMessage: ignore, onQueueEmpty: ignore, onConnectionInterrupted: ignore };
    connection = await net.connectAuthenticatedChat(`${owner.device.aci}.1`, "secret", false, listener);
  });
  afterAll(async () => {
    await connection.disconnect();
    await signal.stop();
    rmSync(folder, { recursive: true });
  });
  beforeEach(() => {
    aheadMs = 0;
    insteads = [];
    credentialRequests = [];
    storageRequests = [];
    const watched = {
      ...service,
      fetch: async (what: PinnedRequest) => {
        storageRequests.push(what);
        return insteads.shift() ?? service.fetch(what);
      },
    };
    const request: ChatLine["request"] = async (what) => {
      credentialRequests.push(what);
      const { status, body } = await connection.fetch({ verb: what.verb, path: what.path, headers: [] });
      return { status, json: JSON.parse(Buffer.from(body ?? []).toString()), retryAfterMs: null };
    };
    fetchGroup = groupFetcher(watched, request, clock.now);
  });

  test("shows its title, members, roles and profile keys", async () => {
    const state = await fetchGroup(account, group.masterKey, never);
    expect(state).toMatchObject({
      id: groupIdOf(group.masterKey),
      revision: 0,
      title: "Chess ♞",
      expiresInSeconds: 0,
      isAnnouncementsOnly: false,
      isTerminated: false,
    });
    expect(Buffer.from(state?.id ?? "", "base64")).toHaveLength(32);
    const members = [...(state?.members ?? [])].sort(
      (a, b) => (a.aci === owner.device.aci ? -1 : 1) - (b.aci === owner.device.aci ? -1 : 1),
    );
    expect(members.map(({ aci, isAdmin }) => [aci, isAdmin])).toEqual([
      [owner.device.aci, true],
      [friend.device.aci, true],
    ]);
    expect(members.map(({ profileKey }) => Buffer.from(profileKey ?? []).toString("hex"))).toEqual(
      [owner, friend].map(({ profileKey }) => Buffer.from(profileKey.serialize()).toString("hex")),
    );
  });

  test("shows a new timer under a new revision", async () => {
    const changing = await owner.createGroup({ title: "Timer", members: [owner, friend] });
    expect(await fetchGroup(account, changing.masterKey, never)).toMatchObject({ revision: 0, expiresInSeconds: 0 });
    await owner.modifyGroupDisappearingMessageTimer(changing, 3600);
    expect(await fetchGroup(account, changing.masterKey, never)).toMatchObject({
      revision: 1,
      expiresInSeconds: 3600,
      title: "Timer",
    });
  });

  test("does not count those who are merely invited", async () => {
    const guest = await signal.server.createPrimaryDevice({ profileName: "Guest" });
    const inviting = await owner.createGroup({ title: "Invite", members: [owner] });
    await owner.inviteToGroup(inviting, guest.device, { sendUpdateTo: [] });
    const state = await fetchGroup(account, inviting.masterKey, never);
    expect(state?.revision).toBe(1);
    expect(state?.members.map(({ aci }) => aci)).toEqual([owner.device.aci]);
  });

  test("asks for a credential once per UTC day and identity", async () => {
    await fetchGroup(account, group.masterKey, never);
    await fetchGroup(account, group.masterKey, never);
    expect(credentialRequests).toHaveLength(1);
    expect(storageRequests).toHaveLength(2);
    // A presentation is never shown twice: the host could recognise it.
    expect(storageRequests[0]?.headers?.["authorization"]).not.toBe(storageRequests[1]?.headers?.["authorization"]);
    const start = Number(/redemptionStartSeconds=(\d+)/.exec(credentialRequests[0]?.path ?? "")?.[1]);
    expect(start % 86_400).toBe(0);
    aheadMs = dayMs;
    expect(await fetchGroup(account, group.masterKey, never)).not.toBeNull();
    expect(credentialRequests).toHaveLength(2);
    expect(credentialRequests[1]?.path).toContain(`redemptionStartSeconds=${start + 86_400}&`);
  });

  test("that the host does not know, or that we are not in, is null", async () => {
    const unknown = new Uint8Array(32).fill(7);
    expect(await fetchGroup(account, unknown, never)).toBeNull();
    insteads = [
      { status: 403, headers: new Map(), body: new Uint8Array() },
      { status: 403, headers: new Map(), body: new Uint8Array() },
    ];
    expect(await fetchGroup(account, group.masterKey, never)).toBeNull();
  });

  test("is asked for again with a fresh credential when a kept one is refused", async () => {
    await fetchGroup(account, group.masterKey, never);
    insteads = [{ status: 403, headers: new Map(), body: new Uint8Array() }];
    expect(await fetchGroup(account, group.masterKey, never)).toMatchObject({ title: "Chess ♞" });
    expect(credentialRequests).toHaveLength(2);
  });

  test("that cannot be had says why", async () => {
    const instead = async (status: number, headers: [string, string][] = [], body = new Uint8Array()) => {
      insteads = [{ status, headers: new Map(headers), body }];
      return faultOf(() => fetchGroup(account, group.masterKey, never));
    };
    expect(await instead(503)).toMatchObject({ code: "signal_unreachable" });
    expect(await instead(429, [["retry-after", "9"]])).toMatchObject({
      code: "signal_rate_limited",
      retryAfterMs: 9000,
    });
    expect(await instead(400)).toMatchObject({ code: "signal_protocol" });
    expect(await instead(200, [], new Uint8Array([0xff, 0xff]))).toMatchObject({ code: "signal_protocol" });
    expect(await instead(200)).toMatchObject({ code: "signal_protocol", message: expect.stringContaining("no group") });
    expect(await faultOf(() => groupIdOf(new Uint8Array(31)))).toMatchObject({ code: "signal_protocol" });
  });

  test("cannot be read without a credential, and says why", async () => {
    const withAnswer = (request: ChatLine["request"]) =>
      faultOf(() => groupFetcher(service, request, clock.now)(account, group.masterKey, never));
    const answer =
      (status: number, json: unknown = null, retryAfterMs: number | null = null) =>
      async (): Promise<ServiceReply> => ({ status, json, retryAfterMs });
    expect(await withAnswer(answer(500))).toMatchObject({ code: "signal_unreachable" });
    expect(await withAnswer(answer(429, null, 4000))).toMatchObject({
      code: "signal_rate_limited",
      retryAfterMs: 4000,
    });
    expect(await withAnswer(answer(200, { credentials: "no" }))).toMatchObject({ code: "signal_protocol" });
    const none = await withAnswer(answer(200, { credentials: [] }));
    expect(none.message).toBe("Cannot read a group as its credential is not valid: the server gave none for today");
    const ours = new BridgeError("signal_timeout", "Cannot ask");
    expect(await withAnswer(() => Promise.reject(ours))).toBe(ours);
  });
});
