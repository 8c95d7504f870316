/**
 * Kills the binary again and again while people talk to Claude through it, and then compares both ends.
 *
 *   people ─▶ service ─▶ binary ─▶ Claude double ─▶ binary ─▶ service ─▶ people          SIGKILL at random instants, restart
 *
 * An instant is drawn from the seed: during the start, some time after CONNECTED, or within moments of something that the
 * other ends see (a request to Claude, a message on a phone). What the machine does in between is not seeded, so a seed draws
 * the same kills, not the same run.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { openDatabase } from "../../src/store/database.ts";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { command, newHome } from "../e2e/harness.ts";
import { createDice, type Dice } from "../sim/dice.ts";
import { openEnds, type Ends, type Seen, type TransportName, type Who } from "./ends.ts";

export type CampaignOptions = {
  readonly transport: TransportName;
  readonly kills: number;
  readonly seed: number;
  readonly onProgress?: (line: string) => void;
};

export type Tally = {
  readonly transport: TransportName;
  readonly kills: number;
  readonly written: number;
  readonly answered: number;
  /** No answer on the phone although the binary had the message in its inbox: a broken promise, whatever the transport. */
  readonly lost: number;
  /** Taken from Signal by the daemon for a poll that died with the binary: it never got here. Native has no such thing. */
  readonly lostInDaemon: number;
  /** Prompts whose answer is on a phone twice; copies with one author and timestamp count as one, as Signal clients drop them. */
  readonly doubled: number;
  /** Those that the phones dropped. */
  readonly secondCopies: number;
  /** What the binary itself counts as possibly sent twice. */
  readonly uncertain: number;
  /** Prompts that Claude was asked more than once. */
  readonly askedTwice: number;
  /** Answers that came before the answer to an earlier prompt of their chat. */
  readonly outOfOrder: number;
  /** Texts on a phone that are no answers, ends by itself, and what went wrong at the other ends. */
  readonly strange: readonly string[];
  readonly durationMs: number;
};

/** Prompts of the last seconds that wait at most: a backlog would hide the present. */
const openMax = 6;
const openMs = 5_000;
/** Longest wait for the end of all work, and how long all must rest to count as ended. */
const settleMs = 90_000;
const restMs = 400;

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** A campaign that kept the promises. Through a daemon a message may go out twice, where the binary says so. */
export const isKept = (tally: Tally): boolean =>
  tally.lost === 0 &&
  tally.askedTwice === 0 &&
  tally.outOfOrder === 0 &&
  tally.strange.length === 0 &&
  (tally.transport === "native" ? tally.doubled === 0 && tally.lostInDaemon === 0 : tally.doubled <= tally.uncertain);

export async function runCampaign({ transport, kills, seed, onProgress }: CampaignOptions): Promise<Tally> {
  const startedAt = performance.now();
  const dice = createDice(seed, 1);
  const home = newHome();
  const claude = await startClaudeDouble({
    script: (prompt) => [{ pauseMs: dice.chance(0.3) ? dice.between(1, 120) : 0 }, { say: `re: ${prompt}` }],
  });
  const ends = await openEnds(transport, home.path);
  const talk = createTalk(ends, dice);
  const env = { ...lifeEnv(ends, home.path, claude), SIGNALMAN_TOOLS: "off" };
  try {
    for (let kill = 1; kill <= kills; kill++) {
      const life = startLife(env);
      const stop = talk.chatter();
      await instant(dice, life, claude, talk, transport === "native" ? 1 : 8);
      life.kill();
      await life.ended;
      stop();
      if (life.isEarly()) talk.strange.push(`it ended by itself: ${life.tail()}`);
      const line = `${transport} seed ${seed}: kill ${kill}/${kills}, written ${talk.written()}, answered ${talk.answered()}`;
      onProgress?.(line);
    }
    const last = startLife(env);
    await last.connected;
    await settle(home.path, ends);
    last.kill("SIGTERM");
    await last.ended;
    return {
      transport,
      kills,
      ...(await compare(home.path, talk, claude)),
      strange: [...talk.strange, ...ends.faults()],
      durationMs: performance.now() - startedAt,
    };
  } finally {
    await ends.stop();
    await claude.close();
    home.remove();
  }
}

export const lifeEnv = (ends: Ends, home: string, claude: ClaudeDouble): NodeJS.ProcessEnv => ({
  PATH: process.env["PATH"],
  ...ends.env,
  SIGNALMAN_HOME: home,
  SIGNALMAN_LISTEN: "off",
  SIGNALMAN_LOG: "info",
  // What it says of its own accord would be in the way of counting.
  SIGNALMAN_WELCOME: "false",
  ANTHROPIC_API_KEY: claude.apiKey,
  ANTHROPIC_BASE_URL: claude.url,
});

type Life = {
  readonly connected: Promise<void>;
  readonly ended: Promise<void>;
  kill(signal?: NodeJS.Signals): void;
  /** It ended before it was killed. */
  isEarly(): boolean;
  tail(): string;
};

export function startLife(env: NodeJS.ProcessEnv): Life {
  const child: ChildProcess = spawn(command[0] ?? "", [...command.slice(1), "run"], {
    env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  const connected = Promise.withResolvers<void>();
  let output = "";
  let isKilled = false;
  let isEarly = false;
  child.stderr?.setEncoding("utf8").on("data", (piece: string) => {
    output = (output + piece).slice(-4_000);
    if (piece.includes('"state":"CONNECTED"')) connected.resolve();
  });
  const ended = new Promise<void>((resolve) =>
    child.once("close", () => {
      isEarly = !isKilled;
      connected.resolve();
      resolve();
    }),
  );
  return {
    connected: connected.promise,
    ended,
    kill(signal = "SIGKILL") {
      isKilled = child.exitCode === null;
      child.kill(signal);
    },
    isEarly: () => isEarly,
    tail: () => output.slice(-600),
  };
}

/** Waits for the instant of the kill. `reach`: how many times slower this transport is than native, whose messages are pushed. */
async function instant(dice: Dice, life: Life, claude: ClaudeDouble, talk: Talk, reach: number): Promise<void> {
  const kind = dice.pick(["start", "connected", "connected", "asking", "asked", "seen"] as const);
  const delayMs = kind === "start" ? dice.between(5, 300) : dice.between(0.2, kind === "connected" ? 400 * reach : 8);
  if (kind !== "start") await life.connected;
  // Nothing may happen that is waited for, when all has been answered.
  const late = sleep(400 * reach);
  if (kind === "asking") await Promise.race([late, claude.next(/POST \/v1\/sessions/u)]);
  if (kind === "asked") await Promise.race([late, claude.next(/POST .*\/events/u)]);
  if (kind === "seen") await Promise.race([late, talk.nextSeen()]);
  await sleep(delayMs);
}

type Talk = ReturnType<typeof createTalk>;

/** The people: they write numbered messages, and note what they see. */
function createTalk(ends: Ends, dice: Dice) {
  const written: Record<Who, string[]> = { self: [], ann: [] };
  const seen: Seen[] = [];
  const copies = new Set<string>();
  const strange: string[] = [];
  const waiters: (() => void)[] = [];
  const open = new Map<string, number>();
  let secondCopies = 0;
  ends.onSeen((message) => {
    const { who, timestamp, text } = message;
    const copy = `${who} ${timestamp}`;
    // A reaction has no text; that much waits is no answer.
    if (text === "" || text.endsWith("/skip to drop them.")) return;
    if (copies.has(copy)) return void secondCopies++;
    seen.push(message);
    copies.add(copy);
    const prompt = text.replace(/^re: /u, "");
    if (!written[who].includes(prompt)) strange.push(`${who} reads: ${text}`);
    open.delete(prompt);
    waiters.splice(0).forEach((wake) => wake());
  });
  const nextSeen = (): Promise<void> => new Promise((resolve) => waiters.push(resolve));
  const write = async (): Promise<void> => {
    const who = dice.pick(["self", "ann"] as const);
    const text = `${who} ${written[who].length + 1}`;
    written[who].push(text);
    open.set(text, performance.now());
    await ends.write(who, text);
  };
  const count = (): number => written.self.length + written.ann.length;
  return {
    strange,
    nextSeen,
    wroteOf: (who: Who): readonly string[] => written[who],
    seenOf: (who: Who): readonly Seen[] => seen.filter((message) => message.who === who),
    secondCopies: () => secondCopies,
    written: count,
    answered: () => count() - open.size,
    /** People go on writing until it is stopped. */
    chatter(): () => void {
      const over = new AbortController();
      const go = async (): Promise<void> => {
        while (!over.signal.aborted) {
          const since = performance.now() - openMs;
          if ([...open.values()].filter((at) => at > since).length < openMax) await write();
          await sleep(dice.between(1, 100));
        }
      };
      void go();
      return () => over.abort();
    },
  };
}

/** Waits until nothing waits at the service and every row has its outcome; a mark that went out is recorded by the next commit. */
async function settle(home: string, ends: Ends): Promise<void> {
  const db = await openDatabase(join(home, "signalman.db"));
  const sql =
    "SELECT (SELECT count(*) FROM inbox WHERE state <> 'done') + (SELECT count(*) FROM outbox WHERE done_at IS NULL AND why <> 'mark') AS n";
  const until = performance.now() + settleMs;
  let restedAt = performance.now();
  while (performance.now() < until && performance.now() - restedAt < restMs) {
    if (ends.waiting() + (db.get<{ n: number }>(sql)?.n ?? 0) > 0) restedAt = performance.now();
    await sleep(50);
  }
  db.close();
}

async function compare(home: string, talk: Talk, claude: ClaudeDouble) {
  const db = await openDatabase(join(home, "signalman.db"));
  const rows = db.all<{ envelope: string }>("SELECT envelope FROM inbox");
  const inbox = new Set(
    rows.map(({ envelope }) => (JSON.parse(envelope) as { content: { text?: string } }).content.text),
  );
  const uncertain = db.get<{ value: number }>("SELECT value FROM counters WHERE name = 'uncertain'")?.value ?? 0;
  db.close();
  const asked = new Map<string, number>();
  for (const session of claude.engine.sessions.values())
    for (const event of [...session.log, ...session.queue].filter(({ type }) => type === "user.message")) {
      const [block] = event["content"] as { text?: string }[];
      asked.set(block?.text ?? "", (asked.get(block?.text ?? "") ?? 0) + 1);
    }
  const tally = { answered: 0, lost: 0, lostInDaemon: 0, doubled: 0, outOfOrder: 0 };
  for (const who of ["self", "ann"] as const) {
    const texts = talk.seenOf(who).map(({ text }) => text);
    let last = -1;
    for (const prompt of talk.wroteOf(who)) {
      const at = texts.indexOf(`re: ${prompt}`);
      if (at < 0) tally[inbox.has(prompt) ? "lost" : "lostInDaemon"]++;
      else tally.answered++;
      if (at !== texts.lastIndexOf(`re: ${prompt}`)) tally.doubled++;
      if (at >= 0 && at < last) tally.outOfOrder++;
      last = Math.max(last, at);
    }
  }
  return {
    written: talk.written(),
    ...tally,
    secondCopies: talk.secondCopies(),
    uncertain,
    askedTwice: [...asked.values()].filter((times) => times > 1).length,
  };
}
