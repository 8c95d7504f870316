/** Commit before acknowledge: nothing is lost, nothing comes twice, whatever fails in between. */
import { afterEach, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BridgeError } from "../../src/core/errors.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import type { Database } from "../../src/store/database.ts";
import { commit, never, type Rig, rigOf, startRig } from "./mock.ts";

let rig: Rig;
const folders: string[] = [];
afterEach(async () => {
  await rig?.stop();
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true });
});

const at = 1_795_000_000_000;
const texts = () =>
  rig.database.all<{ text: string }>("SELECT text FROM inbox WHERE kind = 'text'").map(({ text }) => text);

/** Batches without texts are committed; the first with one is given back uncommitted. */
async function untilText(sending: Promise<unknown>) {
  void sending.catch(() => undefined);
  for (;;) {
    const batch = await rig.transport.receive(5_000, never);
    if (batch.envelopes.some(({ content }) => content.kind === "text")) return batch;
    commit(rig.database, batch);
    await rig.transport.ack(batch, true);
  }
}

test("a batch whose commit failed is not acknowledged, and comes again whole", async () => {
  rig = await startRig();
  const batch = await untilText(rig.contact.sendText(rig.device, "once", { timestamp: at }));
  await rig.transport.ack(batch, false);
  expect(rig.database.all("SELECT 1 FROM signal_sessions WHERE service_id = ?", rig.contact.device.aci)).toEqual([]);
  await rig.transport.connect(never);
  await rig.expect(1, "text");
  expect(texts()).toEqual(["once"]);
});

test("what was committed and not acknowledged comes again, and makes no second row", async () => {
  rig = await startRig();
  const batch = await untilText(rig.contact.sendText(rig.device, "once", { timestamp: at }));
  commit(rig.database, batch);
  // The line goes down before the acknowledgement gets out.
  await rig.transport.disconnect();
  await rig.transport.ack(batch, true);
  await rig.transport.connect(never);
  await rig.receive(rig.contact.sendText(rig.device, "later", { timestamp: at + 1 }));
  expect(texts()).toEqual(["once", "later"]);
});

test("a repetition that only the ratchet remembers is acknowledged too", async () => {
  rig = await startRig();
  const bytes = await rig.contact.encryptText(rig.device, "once", { timestamp: at });
  await rig.receive(rig.mock.server.send(rig.device, bytes));
  rig.database.exec("DELETE FROM signal_seen");
  const again = rig.mock.server.send(rig.device, bytes);
  await rig.receive(rig.contact.sendText(rig.device, "later", { timestamp: at + 1 }));
  await again;
  expect(texts()).toEqual(["once", "later"]);
  expect(rig.database.all("SELECT 1 FROM signal_quarantine")).toEqual([]);
});

test("a disk that is full holds the message back until there is room", async () => {
  rig = await startRig();
  // Longer than what the used-up pre-keys make free.
  const text = "patient ".repeat(8_000);
  const batch = await untilText(rig.contact.sendText(rig.device, text, { timestamp: at }));
  const { pages } = rig.database.get<{ pages: number }>("SELECT page_count AS pages FROM pragma_page_count") ?? {
    pages: 1,
  };
  rig.database.exec(`PRAGMA max_page_count = ${pages}`);
  const filler = "INSERT INTO inbox (kind, sent_at, text) VALUES ('filler', ?, ?)";
  expect(() => {
    for (let n = 0; n < 10_000; n++) rig.database.run(filler, n, "x".repeat(500));
  }).toThrow(BridgeError);
  expect(() => commit(rig.database, batch)).toThrow(BridgeError);
  await rig.transport.ack(batch, false);
  rig.database.exec("PRAGMA max_page_count = 100000");
  await rig.transport.connect(never);
  await rig.expect(1, "text");
  expect(texts()).toEqual([text]);
});

test("a store that fails under a decryption is a fault of ours: not acknowledged, not set aside", async () => {
  let isBroken = false;
  const wrap = (database: Database): Database => ({
    ...database,
    get: (sql, ...params) => {
      if (isBroken && sql.includes("FROM signal_pre_keys"))
        throw new BridgeError("database", "Cannot use the database: disk I/O error");
      return database.get(sql, ...params);
    },
  });
  rig = await startRig({ wrap });
  isBroken = true;
  void rig.contact.sendText(rig.device, "patient", { timestamp: at }).catch(() => undefined);
  const failure = await rig.expect(1, "text").catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: "database" });
  isBroken = false;
  await rig.transport.connect(never);
  await rig.expect(1, "text");
  expect(texts()).toEqual(["patient"]);
  expect(rig.database.all("SELECT 1 FROM signal_quarantine")).toEqual([]);
});

test("a message over which the process died five times is set aside", async () => {
  rig = await startRig();
  const bytes = await rig.contact.encryptText(rig.device, "deadly", { timestamp: at });
  const hash = new Bun.CryptoHasher("sha256").update(bytes).digest();
  rig.database.run("INSERT INTO signal_attempts (hash, count, at) VALUES (?, 5, 0)", new Uint8Array(hash));
  const sent = rig.mock.server.send(rig.device, bytes);
  await rig.receive(rig.contact.sendText(rig.device, "harmless", { timestamp: at + 1 }));
  await sent;
  expect(texts()).toEqual(["harmless"]);
  expect(rig.database.all("SELECT reason FROM signal_quarantine")).toEqual([
    { reason: "it ended the process each time" },
  ]);
});

for (const moment of ["before", "after"] as const) {
  test(`a kill ${moment} the commit loses nothing and doubles nothing`, async () => {
    const folder = await mkdtemp(join(tmpdir(), "signal-kill-"));
    folders.push(folder);
    const databasePath = join(folder, "signalman.db");
    rig = await startRig({ databasePath, isConnected: false });
    const servicePath = await rig.mock.writeService(join(folder, "service.json"));
    const child = Bun.spawn(
      [process.execPath, join(import.meta.dir, "kill-child.ts"), databasePath, servicePath, moment],
      {
        stdout: "pipe",
      },
    );
    // The child is connected when its first byte comes.
    await child.stdout.getReader().read();
    void rig.contact.sendText(rig.device, "survivor", { timestamp: at }).catch(() => undefined);
    await child.exited;
    expect(child.signalCode).toBe("SIGKILL");
    // The try is counted although its count did not wait for the disk.
    const tries = rig.database.all("SELECT count FROM signal_attempts");
    expect(tries.length > 0).toBe(moment === "before");
    const transport = createNative(rig.deps);
    await transport.connect(never);
    const revived = rigOf(rig.mock, rig.device, rig.deps, transport);
    if (moment === "before") await revived.expect(1, "text");
    await revived.receive(rig.contact.sendText(rig.device, "later", { timestamp: at + 1 }));
    expect(texts()).toEqual(["survivor", "later"]);
    await transport.disconnect();
  });
}
