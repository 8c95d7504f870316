/** Two programs with homes of their own and one session at Claude: what each changed while the other was away, both have. */
import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { createWorld } from "../doubles/world.ts";
import { nextStamp } from "../../src/core/hlc.ts";
import { decodeMetadata } from "../../src/core/metadata.ts";
import { assert, type Chat, type Context } from "../../src/core/model.ts";
import { startDaemon, type Daemon } from "../../src/daemon.ts";
import { createMemorySignal, type MemorySignal } from "../doubles/memory.ts";
import { openStore } from "../../src/store/store.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { boundary, createVirtualClock, runUntil } from "../doubles/clock.ts";
import { seeded } from "../sim/dice.ts";
import { simConfig } from "../sim/config.ts";

type House = {
  readonly daemon: Daemon;
  readonly signal: MemorySignal;
  setDown(isDown: boolean): void;
  context(): Context;
};

const chat: Chat = { kind: "self" };
const clock = createVirtualClock();
const world = createWorld(clock, (prompt) => [{ say: `re: ${prompt}` }]);
const homes: string[] = [];
const houses: House[] = [];

/** A home whose Note to Self is the session `remoteId` already, as after a restored backup. */
async function openHouse(seed: number, remoteId: string, beforeUpdate = (): void => undefined): Promise<House> {
  const home = mkdtempSync(join(tmpdir(), "signalman-two-"));
  homes.push(home);
  const store = await openStore(home, { isExclusive: true });
  store.sessions.setRemote(store.sessions.create(`s${seed}`, chat, "scripted", {}, {}, clock.now()).id, remoteId);
  store.close();
  const signal = createMemorySignal({ clock });
  const claude = createScriptedClaude({ clock, world });
  const { remote } = claude.line;
  assert(remote !== null, "the scripted line is remote");
  const update: typeof remote.update = (...wanted) => {
    beforeUpdate();
    return remote.update(...wanted);
  };
  const daemon = await startDaemon(simConfig(home, { welcome: "false", reactions: "off" }), {
    log: quietLog,
    clock,
    random: seeded(seed),
    networkKey: () => "",
    newId: () => `id${seed}`,
    buildTransport: async () => signal.transport,
    buildLine: async () => ({ ...claude.line, remote: { ...remote, update } }),
  });
  const context = (): Context => daemon.store.sessions.active("self")?.context ?? {};
  const house = { daemon, signal, setDown: claude.setDown, context };
  houses.push(house);
  await runUntil(clock, () => daemon.status().connection.state === "CONNECTED", 10_000);
  return house;
}

async function write({ signal, daemon }: House, text: string): Promise<void> {
  const before = signal.screen().length;
  signal.owner.write(text);
  await runUntil(clock, () => signal.screen().length > before && daemon.status().inbox.pending === 0, 60_000);
}

async function sync({ daemon }: House): Promise<void> {
  let isDone = false;
  void daemon.sync().then(() => (isDone = true));
  await runUntil(clock, () => isDone, 60_000);
}

afterEach(async () => {
  const stopped = Promise.all(houses.splice(0).map(({ daemon }) => daemon.stop()));
  while (!(await Promise.race([stopped.then(() => true), boundary().then(() => false)]))) clock.next(Infinity);
  for (const home of homes.splice(0)) rmSync(home, { recursive: true });
});

test("two homes on one session converge: different settings are both kept, of the same setting the later one", async () => {
  const remote = world.create("", {});
  world.patch(remote.id, { title: "as it began" });
  const one = await openHouse(1, remote.id);
  const two = await openHouse(2, remote.id);
  expect([one.context()["title"], two.context()["title"]]).toEqual(["as it began", "as it began"]);

  // Claude is out of reach of both: each writes down what it was told.
  for (const house of [one, two]) house.setDown(true);
  await write(one, "/title from one");
  await write(one, "/verbose on");
  await runUntil(clock, () => false, 5_000);
  await write(two, "/title from two");
  const titles = [one.context()["title"], two.context()["title"]];
  expect(titles).toEqual(["from one", "from two"]);
  for (const house of [one, two]) house.setDown(false);

  // Either may be the first to come back; the first needs a second look to hear of the other.
  for (const house of [two, one, two]) await sync(house);
  expect(one.context()).toMatchObject({ title: "from two", verbose: true });
  expect(two.context()).toEqual(one.context());
  expect(world.find(remote.id)?.title).toBe("from two");

  // At rest nothing more is written, however often they look.
  const updatedAt = world.find(remote.id)?.updatedAt;
  for (const house of [one, two, one]) await sync(house);
  expect(world.find(remote.id)?.updatedAt).toBe(updatedAt as number);
});

test("what one home asks and Claude answers is in the log of both once, and on the screen of the first once", async () => {
  const remote = world.create("shared", {});
  const one = await openHouse(3, remote.id);
  const two = await openHouse(4, remote.id);
  await write(one, "hello");
  await sync(two);
  await sync(two);
  const said = ({ daemon: { store } }: House): string[] =>
    store.log
      .events(store.sessions.active("self")?.id ?? "")
      .flatMap((event) => (event.type === "prompt" || event.type === "reply" ? [event.text] : []));
  expect(said(two)).toEqual(said(one));
  expect(said(one)).toEqual(["hello", "re: hello"]);
  expect(one.signal.screen().filter(({ text }) => text === "re: hello")).toHaveLength(1);
});

test("what another device changes while a sync writes is merged, never overwritten", async () => {
  const remote = world.create("", {});
  const set = (color: string): void => {
    world.patch(remote.id, { metadata: { "c.color": `${nextStamp(null, clock.now(), "beef")}~"${color}"` } });
  };
  set("red");
  let isMeanwhile = false;
  const one = await openHouse(3, remote.id, () => {
    if (isMeanwhile) set("blue");
    isMeanwhile = false;
  });
  expect(one.context()["color"]).toBe("red");

  isMeanwhile = true;
  await write(one, "/verbose on");
  await sync(one);

  expect(isMeanwhile).toBe(false);
  expect(one.context()).toMatchObject({ color: "blue", verbose: true });
  const { context } = decodeMetadata(world.find(remote.id)?.metadata ?? {});
  expect(context).toMatchObject({ color: "blue", verbose: true });
});
