/** The compiled program beside doubles on loopback: start, memory, overhead, backlog, recovery. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { startSignalCliDouble, type SignalCliDouble } from "../doubles/signal-cli.ts";
import { me, type WirePerson } from "../doubles/wire.ts";
import { newHome, start, type Running } from "../e2e/harness.ts";
import { asService, type Engine } from "./engine.ts";
import type { Figure } from "./measure.ts";

type Stage = {
  readonly claude: ClaudeDouble;
  readonly signal: SignalCliDouble;
  readonly home: string;
  run(env?: Readonly<Record<string, string>>): Promise<Running>;
};

async function onStage<T>(work: (stage: Stage) => Promise<T>): Promise<T> {
  const claude = await startClaudeDouble();
  const signal = await startSignalCliDouble();
  const home = newHome();
  const runs: Running[] = [];
  try {
    return await work({
      claude,
      signal,
      home: home.path,
      async run(env = {}) {
        const running = await start({
          SIGNALMAN_HOME: home.path,
          SIGNALMAN_TRANSPORT: "signal-cli",
          SIGNALMAN_SIGNAL_URL: signal.url,
          SIGNALMAN_ACCOUNT: me.number,
          SIGNALMAN_TOOLS: "off",
          SIGNALMAN_LOG: "info",
          ANTHROPIC_API_KEY: claude.apiKey,
          ANTHROPIC_BASE_URL: claude.url,
          ...env,
        });
        runs.push(running);
        return running;
      },
    });
  } finally {
    for (const running of runs) await running.stop("SIGKILL");
    await signal.stop();
    await claude.close();
    home.remove();
  }
}

/** Resident memory of a process in MB. Linux only. **Source:** proc(5), statm counts pages of 4 KiB on x64 and arm64. */
export function residentMegabytes(pid: number): number {
  const kilobytes = /^VmRSS:\s+(\d+) kB$/mu.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Number(kilobytes) / 1024;
}

/** CPU time of a process so far in ms. **Source:** proc(5), stat fields 14 and 15, in ticks of 10 ms. */
export function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /su, "")
    .split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** Resolves as soon as the look-up yields something; for what tells no event. */
export async function until<T>(look: () => Promise<T | null> | T | null, stepMs = 1): Promise<T> {
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    await Bun.sleep(stepMs);
  }
}

const healthy = (url: string): Promise<true | null> =>
  fetch(`${url}/health`).then(
    ({ ok }) => (ok ? true : null),
    () => null,
  );

/** From exec to the first 200 of /health, and to CONNECTED. The status server has a port of its own. */
export const coldStart = (runs: number): Promise<Figure[]> =>
  onStage(async (stage) => {
    const health: number[] = [];
    const connected: number[] = [];
    const idle: number[] = [];
    for (let run = 0; run <= runs; run++) {
      const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
      const { port } = probe;
      probe.stop(true);
      const from = performance.now();
      const starting = stage.run({ SIGNALMAN_LISTEN: `127.0.0.1:${port}` });
      await until(() => healthy(`http://127.0.0.1:${port}`));
      const healthyAt = performance.now();
      const running = await starting;
      await running.state("CONNECTED");
      // The first run fills the disk's cache, and makes the database.
      if (run > 0) health.push(healthyAt - from);
      if (run > 0) connected.push(performance.now() - from);
      if (run > 0) idle.push(residentMegabytes(running.pid));
      await running.stop("SIGKILL");
      // Its poll dies with the daemon; a clean stop would wait for it.
      await stage.signal.die();
      await stage.signal.start();
    }
    const group = "start";
    return [
      { group, name: "exec to /health", unit: "ms", values: health, target: 150 },
      { group, name: "exec to CONNECTED (one receive, one sync)", unit: "ms", values: connected },
      { group: "memory", name: "RSS, connected and idle (signal-cli)", unit: "MB", values: idle, target: 80 },
    ];
  });

/** Times of arrival at the doubles, by what arrived. */
function watch({ claude }: Stage) {
  const waiters: { readonly isIt: (line: string) => boolean; readonly resolve: (at: number) => void }[] = [];
  const push = claude.requests.push.bind(claude.requests);
  claude.requests.push = (...items) => {
    const at = performance.now();
    for (const { method, path } of items) {
      for (const waiter of waiters.filter(({ isIt }) => isIt(`${method} ${path}`))) {
        waiters.splice(waiters.indexOf(waiter), 1);
        waiter.resolve(at);
      }
    }
    return push(...items);
  };
  return {
    claude: (pattern: RegExp): Promise<number> =>
      new Promise((resolve) => waiters.push({ isIt: (line) => pattern.test(line), resolve })),
  };
}

/** Waits until the daemon's next poll is one that returns with the first envelope: pings in a row look like a backlog. */
const ready = (signal: SignalCliDouble): Promise<void> =>
  until(() => {
    const poll = signal.calls().findLast(({ method }) => method === "receive");
    return poll?.params["maxMessages"] === 1 ? true : null;
  }).then(() => signal.parked());

async function nextSend(signal: SignalCliDouble): Promise<number> {
  for (;;) if ((await signal.nextCall()).method === "send") return performance.now();
}

/** What the program adds to a message on its way in and on its way out, one message at a time. */
export const overhead = (backend: "sessions" | "messages", runs: number, engine: Engine = {}): Promise<Figure[]> =>
  onStage(async (stage) => {
    const { signal, claude } = stage;
    const arrival = watch(stage);
    let hold = Promise.withResolvers<void>();
    claude.setScript(() => [{ hold: hold.promise }, { say: "pong" }]);
    const running = await stage.run({ SIGNALMAN_BACKEND: backend, ...engine });
    await running.state("CONNECTED");
    const how = engine === asService ? `${backend}, as a service runs it` : backend;
    const used: number[] = [];
    const first: number[] = [];
    const asked: number[] = [];
    const out: number[] = [];
    for (let run = -5; run < runs; run++) {
      hold = Promise.withResolvers();
      await ready(signal);
      const firstRequest = arrival.claude(/./u);
      const prompt = arrival.claude(backend === "sessions" ? /^POST .*\/events/u : /^POST \/v1\/messages/u);
      const from = performance.now();
      signal.phoneWrites(`ping ${run}`);
      const [firstAt, askedAt] = await Promise.all([firstRequest, prompt]);
      // The double has read the request; its answer, and the typing indicator, come to rest.
      await Bun.sleep(15);
      const sent = nextSend(signal);
      const doneFrom = performance.now();
      hold.resolve();
      const doneAt = await sent;
      await Bun.sleep(15);
      if (run < 0) continue;
      if (run >= runs - 10) used.push(residentMegabytes(running.pid));
      first.push(firstAt - from);
      asked.push(askedAt - from);
      out.push(doneAt - doneFrom);
    }
    const group = "overhead";
    const listing: Figure[] =
      backend === "messages"
        ? []
        : [
            {
              group,
              name: `in: envelope handed over → prompt posted, after stream and list (${how})`,
              unit: "ms",
              values: asked,
            },
          ];
    return [
      { group: "memory", name: `RSS after ${runs} messages (${how})`, unit: "MB", values: used, target: 80 },
      { group, name: `in: envelope handed over → request sent (${how})`, unit: "ms", values: first, target: 5 },
      ...listing,
      { group, name: `out: Claude's end → send request (${how})`, unit: "ms", values: out, target: 5 },
    ];
  });

/** From exec to the request for a message that waited at Signal meanwhile: Claude is asked before the line is proven. */
export const firstAsked = (runs: number): Promise<Figure[]> =>
  onStage(async (stage) => {
    const { signal } = stage;
    const arrival = watch(stage);
    const values: number[] = [];
    for (let run = 0; run <= runs; run++) {
      signal.phoneWrites(`while away ${run}`);
      const asked = arrival.claude(/^POST \/v1\/messages/u);
      const from = performance.now();
      const starting = stage.run({ SIGNALMAN_BACKEND: "messages" });
      const at = await asked;
      // The first run makes the database.
      if (run > 0) values.push(at - from);
      const running = await starting;
      await until(async () => ((await running.status()).outbox.pending === 0 ? true : null));
      await running.stop("SIGKILL");
      await signal.die();
      await signal.start();
    }
    return [
      { group: "start", name: "exec to Claude asked, for a message that waited", unit: "ms", values, target: 120 },
    ];
  });

/** From Claude's call of a tool of this machine to its result: a file of a project is read, its names are listed. */
export const calls = (runs: number): Promise<Figure[]> =>
  onStage(async (stage) => {
    const { signal, claude } = stage;
    const arrival = watch(stage);
    const folder = mkdtempSync(join(tmpdir(), "signalman-garden-"));
    for (let file = 0; file < 200; file++) writeFileSync(join(folder, `${file}.md`), "A rose is a rose.\n".repeat(100));
    try {
      let holds = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      claude.setScript(() => [
        { hold: holds[0]?.promise ?? Promise.resolve() },
        { call: "local_read", input: { file_path: "7.md" } },
        { hold: holds[1]?.promise ?? Promise.resolve() },
        { call: "local_glob", input: { pattern: "*.md" } },
        { say: "pong" },
      ]);
      const running = await stage.run({ SIGNALMAN_BACKEND: "sessions", SIGNALMAN_PROJECTS: `garden=${folder}` });
      await running.state("CONNECTED");
      signal.phoneWrites("/project garden");
      await signal.nextSent();
      const took: readonly number[][] = [[], []];
      for (let run = -3; run < runs; run++) {
        holds = [Promise.withResolvers(), Promise.withResolvers()];
        await ready(signal);
        const prompt = arrival.claude(/^POST .*\/events/u);
        signal.phoneWrites(`ping ${run}`);
        await prompt;
        for (const [index, hold] of holds.entries()) {
          // What came before comes to rest.
          await Bun.sleep(30);
          const result = arrival.claude(/^POST .*\/events/u);
          const from = performance.now();
          hold.resolve();
          const at = await result;
          if (run >= 0) took[index]?.push(at - from);
        }
        await nextSend(signal);
      }
      return ["a file is read", "200 names are listed"].map((what, index): Figure => ({
        group: "overhead",
        name: `a call of Claude's → its result posted: ${what}`,
        unit: "ms",
        values: took[index] ?? [],
        target: 20,
      }));
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

/** A number of the range that is reserved for fiction. */
const personOf = (index: number): WirePerson => ({
  number: `+1555${String(5_000_000 + index)}`,
  aci: `00000000-0000-4000-8000-${String(index).padStart(12, "0")}`,
});

/**
 * A backlog that waits when the line comes up: every message is asked of Claude, answered and sent. The two doubles take part of
 * the machine: the Signal one lives here, the Claude one in a process of its own, and what each took is said.
 */
export const backlog = (chats: number, messages: number, backend: "sessions" | "messages"): Promise<Figure[]> =>
  onStage(async (stage) => {
    const { signal } = stage;
    const claude = Bun.spawn([process.execPath, join(import.meta.dir, "claude.ts")], {
      stdout: "pipe",
      stderr: "inherit",
    });
    try {
      const { value } = await claude.stdout.getReader().read();
      const { url, apiKey } = JSON.parse(new TextDecoder().decode(value)) as { url: string; apiKey: string };
      const people = Array.from({ length: chats }, (_, index) => personOf(index));
      for (let index = 0; index < messages; index++) {
        const person = people[index % chats];
        if (person) signal.personWrites(person, `question ${index}`);
      }
      const { pid } = await stage.run({
        ANTHROPIC_API_KEY: apiKey,
        ANTHROPIC_BASE_URL: url,
        SIGNALMAN_BACKEND: backend,
        SIGNALMAN_ALLOW: people.map(({ number }) => number).join(","),
        SIGNALMAN_READ_RECEIPTS: "false",
      });
      await until(() => (signal.queued().length < messages ? true : null));
      const from = performance.now();
      const cpu = [cpuMs(pid), cpuMs(process.pid), cpuMs(claude.pid)] as const;
      for (let count = 0; count < messages;) if ((await signal.nextSent()).text === "pong") count++;
      const seconds = (performance.now() - from) / 1000;
      const each = ([pid, process.pid, claude.pid] as const).map(
        (of, index) => (cpuMs(of) - (cpu[index] ?? 0)) / messages,
      );
      const name = `${messages} messages over ${chats} chats, binary and both doubles over HTTP (${backend})`;
      const group = "backlog";
      return [
        { group, name, unit: "/s", values: [messages / seconds] },
        ...["the program", "the Signal double", "the Claude double"].map((who, index): Figure => ({
          group,
          name: `… CPU per message of ${who} (${backend})`,
          unit: "ms",
          values: [each[index] ?? 0],
        })),
      ];
    } finally {
      claude.kill("SIGKILL");
      await claude.exited;
    }
  });

/** The daemon dies and comes back: from its port being there again to CONNECTED. */
export const recovery = (runs: number, outageMs: number): Promise<Figure[]> =>
  onStage(async (stage) => {
    const running = await stage.run({ SIGNALMAN_BACKEND: "messages" });
    await running.state("CONNECTED");
    const values: number[] = [];
    for (let run = 0; run < runs; run++) {
      await stage.signal.parked();
      await stage.signal.die();
      await running.state("DISCONNECTED");
      // Anywhere within the second between two probes.
      await Bun.sleep(outageMs + (run / runs) * 1000);
      await stage.signal.start();
      const from = performance.now();
      await running.state("CONNECTED");
      values.push(performance.now() - from);
    }
    return [
      {
        group: "recovery",
        name: `line back → CONNECTED, after an outage of ${outageMs / 1000} s`,
        unit: "ms",
        values,
        target: 2000,
      },
    ];
  });
