/**
 * The native transport against Signal's own mock server on loopback. The server runs in a process of its own, which also says
 * how long it took for its part; as a second figure, in this process, where its half of the cryptography waits for ours.
 *
 * By itself: `bun test/bench/native.ts --messages 20000` exchanges so many, half of them in and half out, and shows the memory;
 * `--flood 20000` does so with the compiled program, as a service runs it.
 */
import { fork, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { systemClock, systemRandom } from "../../src/clock.ts";
import type { Chat } from "../../src/core/model.ts";
import { loadService, type ServiceFile } from "../../src/signal/native/signal-service.ts";
import { createNative, linkNative } from "../../src/signal/native/linked-device.ts";
import { startClaudeDouble } from "../doubles/claude.ts";
import { startSignalMock } from "../doubles/signal-mock.ts";
import { command, newHome, start } from "../e2e/harness.ts";
import { commit, never, openNativeDatabase, recordLog, startRig } from "../native/mock.ts";
import { asService, type Engine } from "./engine.ts";
import type { Figure } from "./measure.ts";
import { cpuMs, residentMegabytes, until } from "./program.ts";
import type { Order } from "./signal-server.ts";

const group = "native";

/** Linked to a server of its own; receives, commits and acknowledges until it is stopped. */
async function startPair() {
  const home = newHome();
  const server = fork(join(import.meta.dir, "signal-server.ts"));
  server.once("exit", (code) => {
    if (code !== 0 && code !== null) throw new Error("the server ended");
  });
  const answer = <T>() => new Promise<T>((resolve) => server.once("message", (message) => resolve(message as T)));
  const { service, contact } = await answer<{ service: ServiceFile; contact: string }>();
  const order = (what: Order): Promise<readonly number[]> => {
    const answered = answer<readonly number[]>();
    server.send(what);
    return answered;
  };
  const servicePath = join(home.path, "service.json");
  writeFileSync(servicePath, JSON.stringify(service));
  const deps = {
    database: await openNativeDatabase(join(home.path, "signalman.db")),
    service: await loadService(servicePath, systemClock),
    clock: systemClock,
    random: systemRandom,
    log: recordLog().log,
    userAgent: "signalman/0.0.0",
    isAllowed: () => true,
    allowedNumbers: [],
  };
  let scanned: Promise<unknown> = Promise.resolve();
  for await (const progress of linkNative(deps)("bench", never))
    if (progress.event === "url") scanned = order({ do: "scan", url: progress.url });
  await scanned;
  const transport = createNative(deps);
  await transport.connect(never);
  const stopping = new AbortController();
  const receiving = (async () => {
    while (!stopping.signal.aborted) {
      const batch = await transport.receive(1_000, stopping.signal);
      commit(deps.database, batch);
      await transport.ack(batch, true);
    }
  })();
  const chat: Chat = { kind: "direct", peer: { aci: contact, number: null } };
  let timestamp = 0;
  return {
    order,
    async send(text: string): Promise<number> {
      timestamp = Math.max(timestamp + 1, Date.now());
      const from = performance.now();
      await transport.send({ chat, timestamp, body: { kind: "text", text, styles: [], quote: null, files: [] } });
      return performance.now() - from;
    },
    async stop() {
      stopping.abort();
      await receiving;
      await transport.disconnect();
      deps.database.close();
      server.disconnect();
      home.remove();
    },
  };
}

/** Each with a commit of its own, as in the program. */
export async function exchange(runs: number): Promise<Figure[]> {
  const pair = await startPair();
  try {
    await pair.order({ do: "write", count: 10 });
    const came = await pair.order({ do: "write", count: runs });
    for (let run = 0; run < 10; run++) await pair.send(`warm ${run}`);
    await pair.order({ do: "handled" });
    const went: number[] = [];
    for (let run = 0; run < runs; run++) went.push(await pair.send(`pong ${run}`));
    const handled = await pair.order({ do: "handled" });
    return [
      { group, name: "receive: handed to the server → committed, acknowledged", unit: "ms", values: came, target: 2 },
      { group, name: "send: one commit, two requests (contact, own phone)", unit: "ms", values: went, target: 4 },
      { group, name: "the server's part of one such request", unit: "ms", values: handled },
      ...(await exchangeInside(runs)),
    ];
  } finally {
    await pair.stop();
  }
}

/** The same with the server on our own thread, where it also decrypts what it received. */
async function exchangeInside(runs: number): Promise<Figure[]> {
  const home = newHome();
  const rig = await startRig({ databasePath: join(home.path, "signalman.db") });
  try {
    const came: number[] = [];
    const went: number[] = [];
    for (let run = -5; run < runs; run++) {
      const waiting = rig.poll();
      const text = await rig.contact.encryptText(rig.device, `ping ${run}`, { timestamp: Date.now() + run });
      const from = performance.now();
      const sending = rig.mock.server.send(rig.device, text);
      await waiting;
      if (run >= 0) came.push(performance.now() - from);
      await rig.acked(sending);
      const sendFrom = performance.now();
      await rig.send(rig.direct, `pong ${run}`);
      if (run >= 0) went.push(performance.now() - sendFrom);
      await rig.contact.waitForMessage();
    }
    return [
      { group, name: "receive, the server on the same thread", unit: "ms", values: came },
      { group, name: "send, the server on the same thread", unit: "ms", values: went },
    ];
  } finally {
    await rig.stop();
    home.remove();
  }
}

/** RSS of this process in MB, after garbage collection, as `[messages, megabytes]`. */
async function memoryOver(messages: number): Promise<[number, number][]> {
  const pair = await startPair();
  const marks = [0.1, 0.25, 0.5, 0.75, 1].map((share) => Math.round((messages * share) / (2 * batch)) * 2 * batch);
  const measured: [number, number][] = [];
  try {
    for (let done = 2 * batch; done <= messages; done += 2 * batch) {
      await pair.order({ do: "write", count: batch });
      for (let n = 0; n < batch; n++) await pair.send(`message ${done + n}`);
      await pair.order({ do: "handled" });
      if (!marks.includes(done)) continue;
      Bun.gc(true);
      await Bun.sleep(200);
      Bun.gc(true);
      measured.push([done, residentMegabytes(process.pid)]);
    }
    return measured;
  } finally {
    await pair.stop();
  }
}

/** Flat: what the second half adds is noise. */
export async function memory(messages: number): Promise<Figure[]> {
  const measured = await memoryOver(messages);
  const at = (share: number) => measured.findLast(([done]) => done <= messages * share)?.[1] ?? Number.NaN;
  return [
    ...measured.map(([done, megabytes]): Figure => ({
      group: "memory",
      name: `RSS after ${done} messages (native, from source)`,
      unit: "MB",
      values: [megabytes],
    })),
    { group: "memory", name: "RSS added by the second half of them", unit: "MB", values: [at(1) - at(0.5)], target: 5 },
  ];
}

async function link(
  signal: { scan(url: string): Promise<unknown> },
  env: Readonly<Record<string, string>>,
): Promise<number> {
  const from = performance.now();
  const child = spawn(command[0] ?? "", [...command.slice(1), "link", "--json"], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    const { url } = JSON.parse(line) as { url?: string };
    if (url !== undefined) void signal.scan(url);
  });
  await new Promise((resolve) => child.once("close", resolve));
  return performance.now() - from;
}

/** The compiled program: linked in an empty folder, connected, idle. */
export async function linkAndIdle(): Promise<Figure[]> {
  const claude = await startClaudeDouble();
  const signal = await startSignalMock();
  const home = newHome();
  try {
    const env = {
      SIGNALMAN_HOME: home.path,
      SIGNALMAN_SIGNAL_SERVICE: await signal.writeService(join(home.path, "service.json")),
      SIGNALMAN_LOG: "info",
      ANTHROPIC_API_KEY: claude.apiKey,
      ANTHROPIC_BASE_URL: claude.url,
    };
    const linked = await link(signal, env);
    const from = performance.now();
    const running = await start(env);
    await running.state("CONNECTED");
    const connected = performance.now() - from;
    // By then the pre-keys were counted and the phone was asked for what only it knows.
    await Bun.sleep(3_000);
    const idle = residentMegabytes(running.pid);
    await running.stop("SIGKILL");
    return [
      { group: "start", name: "exec to CONNECTED (native)", unit: "ms", values: [connected] },
      { group: "memory", name: "RSS, connected and idle (native)", unit: "MB", values: [idle], target: 115 },
      {
        group: "start",
        name: "link: exec to linked, the phone scanning at once (native)",
        unit: "ms",
        values: [linked],
      },
    ];
  } finally {
    await signal.stop();
    await claude.close();
    home.remove();
  }
}

/** Prompts that come one upon the other, before their answers are waited for. */
const batch = 100;
/** The longest that a flood may take. */
const [floodStartMs, floodMessageMs] = [60_000, 250];

/** The compiled program under prompts that come as fast as it acknowledges them; each of them is answered. @throws Error where it takes too long */
export async function flood(
  messages: number,
  engine: Engine,
  onBatch: (done: number, megabytes: number) => void = () => undefined,
): Promise<Figure[]> {
  const latest = performance.now() + floodStartMs + messages * floodMessageMs;
  const claude = await startClaudeDouble();
  const home = newHome();
  const server = fork(join(import.meta.dir, "signal-server.ts"));
  const answer = <T>() => new Promise<T>((resolve) => server.once("message", (message) => resolve(message as T)));
  const order = (what: Order): Promise<readonly number[]> => {
    const answered = answer<readonly number[]>();
    server.send(what);
    return answered;
  };
  const { service, contact } = await answer<{ service: ServiceFile; contact: string }>();
  const servicePath = join(home.path, "service.json");
  writeFileSync(servicePath, JSON.stringify(service));
  const env = {
    SIGNALMAN_HOME: home.path,
    SIGNALMAN_SIGNAL_SERVICE: servicePath,
    SIGNALMAN_ALLOW: `self,${contact}`,
    SIGNALMAN_LOG: "info",
    SIGNALMAN_TOOLS: "off",
    SIGNALMAN_BACKEND: "messages",
    ANTHROPIC_API_KEY: claude.apiKey,
    ANTHROPIC_BASE_URL: claude.url,
    ...engine,
  };
  await link({ scan: (url) => order({ do: "scan", url }) }, env);
  const running = await start(env);
  try {
    await running.state("CONNECTED");
    // The start has a peak of its own. **Source:** proc(5), clear_refs.
    writeFileSync(`/proc/${running.pid}/clear_refs`, "5");
    const from = performance.now();
    for (let done = 0; done < messages; done += batch) {
      await order({ do: "write", count: batch });
      await until(async () => {
        if (performance.now() > latest) throw new Error(`Only ${done} of ${messages} prompts were answered in time`);
        await order({ do: "handled" });
        const { inbox, outbox } = await running.status();
        return inbox.pending + outbox.pending === 0 ? true : null;
      }, 50);
      // A person starts over now and then; no person has a conversation of thousands of turns.
      await order({ do: "say", text: "/new" });
      claude.requests.splice(0);
      onBatch(done + batch, residentMegabytes(running.pid));
    }
    const seconds = (performance.now() - from) / 1_000;
    const cpu = cpuMs(running.pid) / messages;
    const peak = /^VmHWM:\s+(\d+) kB$/mu.exec(readFileSync(`/proc/${running.pid}/status`, "utf8"))?.[1];
    // What the last answers left is collected by then.
    await Bun.sleep(10_000);
    const how =
      Object.entries(engine)
        .map(([name, value]) => `${name}=${value}`)
        .join(" ") || "as the engine chooses";
    const name = `${messages.toLocaleString("en-US")} prompts in a flood (native, ${how})`;
    return [
      { group: "memory", name: `peak RSS under ${name}`, unit: "MB", values: [Number(peak) / 1024] },
      { group: "memory", name: `RSS 10 s after ${name}`, unit: "MB", values: [residentMegabytes(running.pid)] },
      { group: "native", name: `CPU time of ${name}`, unit: "ms", values: [cpu] },
      { group: "native", name, unit: "/s", values: [messages / seconds] },
    ];
  } finally {
    await running.stop("SIGKILL");
    server.disconnect();
    await claude.close();
    home.remove();
  }
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { messages: { type: "string", default: "20000" }, flood: { type: "string" } },
  });
  const show = (done: number, megabytes: number): void => {
    if (done % 1_000 === 0) console.log(`${megabytes.toFixed(1).padStart(8)} MB RSS after ${done}`);
  };
  const found = values.flood ? flood(Number(values.flood), asService, show) : memory(Number(values.messages));
  for (const { name, unit, values: figures } of await found)
    console.log(`${(figures[0] ?? 0).toFixed(1).padStart(8)} ${unit} ${name}`);
  process.exit(0);
}
