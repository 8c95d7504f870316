/**
 * Kills the binary again and again while Claude runs commands in a folder of this machine, and then counts.
 *
 *   owner ─▶ binary ─▶ Claude double: runs `echo N >> counter`, asks ─▶ owner: /approve ─▶ it runs ─▶ its result is posted
 *
 * Each command leaves a line, so that a second run would be seen. What ran when the binary died is told to Claude as unknown, once.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDatabase } from "../../src/store/database.ts";
import { unknownOutcome } from "../../src/store/calls.ts";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { newHome } from "../e2e/harness.ts";
import { createDice, type Dice } from "../sim/dice.ts";
import { sleep, lifeEnv, startLife } from "./campaign.ts";
import { openEnds, type Ends } from "./ends.ts";

export type GardenTally = {
  readonly kills: number;
  /** Commands that Claude called, and those that left their line. */
  readonly called: number;
  readonly ran: number;
  /** Those with more lines than one: a broken promise. */
  readonly ranTwice: number;
  /** Told as done without a line, or not told as unknown with half of its work done. */
  readonly mistold: number;
  /** Told as unknown: they ran, or not, when the binary died. */
  readonly unknown: number;
  /** Calls that Claude has no result of, or more than one. */
  readonly unposted: number;
  readonly durationMs: number;
};

/** Longest wait for an answer when nothing is killed any more. */
const settleMs = 60_000;
/** A yes that was written before the binary knew that its question arrived is said again. */
const againMs = 400;

export async function runGarden({
  kills,
  seed,
}: {
  readonly kills: number;
  readonly seed: number;
}): Promise<GardenTally> {
  const startedAt = performance.now();
  const dice = createDice(seed, 1);
  const home = newHome();
  const folder = mkdtempSync(join(tmpdir(), "signalman-garden-"));
  const counter = join(folder, "counter");
  writeFileSync(counter, "");
  writeFileSync(join(home.path, "config.toml"), `[projects.garden]\nfolder = "${folder}"\nrun = true\n`, {
    mode: 0o600,
  });
  const pause = (): string => `sleep 0.${String(dice.below(150)).padStart(3, "0")}`;
  const claude = await startClaudeDouble({
    script: (prompt) => [
      { call: "local_run", input: { command: `${pause()}; echo ${prompt} >> counter; ${pause()}; echo done` } },
      { say: `re: ${prompt}` },
    ],
  });
  const ends = await openEnds("native", home.path);
  const owner = createOwner(ends);
  const env = lifeEnv(ends, home.path, claude);
  try {
    await ends.write("self", "/project garden");
    for (let kill = 1; kill <= kills; kill++) {
      const life = startLife(env);
      // What was under way goes on to its end, at times; at others it is killed once more.
      if (dice.chance(0.6)) await owner.answered(performance.now() + settleMs);
      await owner.write();
      await instant(dice, life.connected, claude, owner);
      life.kill();
      await life.ended;
    }
    const last = startLife(env);
    await owner.answered(performance.now() + settleMs);
    last.kill("SIGTERM");
    await last.ended;
    const lines = readFileSync(counter, "utf8").split("\n").filter(Boolean);
    return { kills, ...(await count(home.path, claude, lines)), durationMs: performance.now() - startedAt };
  } finally {
    owner.stop();
    await ends.stop();
    await claude.close();
    home.remove();
    rmSync(folder, { recursive: true, force: true });
  }
}

type Owner = ReturnType<typeof createOwner>;

/** Writes one prompt at a time, and says yes to what is asked until it is answered. */
function createOwner(ends: Ends) {
  let written = 0;
  const prompt = { isOpen: false, isAsked: false };
  let change = Promise.withResolvers<void>();
  let allowed = Promise.withResolvers<void>();
  const over = new AbortController();
  ends.onSeen(({ text }) => {
    if (text.startsWith("Claude wants to")) prompt.isAsked = true;
    if (text === `re: ${written}`) Object.assign(prompt, { isOpen: false, isAsked: false });
    change.resolve();
    change = Promise.withResolvers();
  });
  const allow = async (): Promise<void> => {
    while (!over.signal.aborted) {
      if (prompt.isAsked && prompt.isOpen) {
        await ends.write("self", "/approve");
        allowed.resolve();
        allowed = Promise.withResolvers();
      }
      await Promise.race([sleep(againMs), change.promise]);
    }
  };
  void allow();
  return {
    async write(): Promise<void> {
      if (prompt.isOpen) return;
      prompt.isOpen = true;
      await ends.write("self", String(++written));
    },
    /** Something came to the phone. */
    seen: (): Promise<void> => change.promise,
    /** A yes was written. */
    allowed: (): Promise<void> => allowed.promise,
    async answered(until: number): Promise<void> {
      while (prompt.isOpen) {
        if (performance.now() > until) throw new Error(`${written} was never answered`);
        await Promise.race([sleep(againMs), change.promise]);
      }
    },
    stop: () => over.abort(),
  };
}

/** Waits for the instant of the kill: during the start, or within moments of what the other ends see. */
async function instant(dice: Dice, connected: Promise<void>, claude: ClaudeDouble, owner: Owner): Promise<void> {
  const kind = dice.pick(["start", "seen", "allowed", "allowed", "allowed", "allowed", "posting"] as const);
  if (kind !== "start") await connected;
  const late = sleep(1_500);
  if (kind === "seen") await Promise.race([late, owner.seen()]);
  if (kind === "allowed") await Promise.race([late, owner.allowed()]);
  if (kind === "posting") await Promise.race([late, claude.next(/POST .*\/events/u)]);
  await sleep(dice.between(kind === "allowed" ? 20 : 0.5, kind === "posting" ? 10 : 400));
}

async function count(home: string, claude: ClaudeDouble, lines: readonly string[]) {
  const db = await openDatabase(join(home, "signalman.db"));
  const calls = db.all<{ id: string; input: string; content: string; state: string }>(
    "SELECT id, input, content, state FROM calls",
  );
  db.close();
  const results = [...claude.engine.sessions.values()].flatMap(({ log }) =>
    log.flatMap((event) => (event.type === "user.custom_tool_result" ? [String(event["custom_tool_use_id"])] : [])),
  );
  const linesOf = ({ input }: { input: string }): number => {
    const [, number = ""] = /echo (\d+) >> counter/u.exec(input) ?? [];
    return lines.filter((line) => line === number).length;
  };
  const isUnknown = ({ content }: { content: string }): boolean => content === unknownOutcome;
  return {
    called: calls.length,
    ran: calls.filter((call) => linesOf(call) > 0).length,
    ranTwice: calls.filter((call) => linesOf(call) > 1).length,
    mistold: calls.filter((call) => !isUnknown(call) && call.content.endsWith("done") !== linesOf(call) > 0).length,
    unknown: calls.filter(isUnknown).length,
    unposted: calls.filter(({ id, state }) => state !== "posted" || results.filter((one) => one === id).length !== 1)
      .length,
  };
}
