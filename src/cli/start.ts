/** The start on a terminal: whatever is missing for the first answer is asked for, and nothing is asked twice. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../config.ts";
import { plainText } from "../core/reply.ts";
import { openStore } from "../store/store.ts";
import { configOf, hasPerson, type Cli } from "./io.ts";
import { link } from "./link.ts";
import { isFirstStart, onboard } from "./onboard.ts";
import { run } from "./run.ts";

/** `run`, after the questions of the first start, and after the code where this program is to be linked. */
export async function start(cli: Cli): Promise<number> {
  if (isFirstStart(cli)) await onboard(cli);
  const config = configOf(cli);
  if (hasPerson(cli) && config.transport === "native" && !(await isLinked(config))) {
    await link(cli, { isOptional: true });
    if (config.allow.some(({ kind }) => kind === "self")) await greetOwner(cli, config);
  }
  return run(cli);
}

async function isLinked({ home }: Config): Promise<boolean> {
  if (!existsSync(join(home, "signalman.db"))) return false;
  const store = await openStore(home, { isExclusive: false });
  try {
    return (await import("../signal/native/index.ts")).findAccount(store.db) !== null;
  } finally {
    store.close();
  }
}

/** The first word in Note to Self shows that all is well, and where to write. */
async function greetOwner(cli: Cli, { home }: Config): Promise<void> {
  const store = await openStore(home, { isExclusive: true });
  const text = "Hello from signalman. Write here, and Claude answers; /help shows what else there is.";
  store.outbox.add("send", "hello", 0, { kind: "self" }, plainText(text), cli.clock.now());
  // That was the welcome.
  const aci = (await import("../signal/native/index.ts")).findAccount(store.db)?.aci;
  if (aci) store.settings.set(`welcomed:${aci}`, String(cli.clock.now()));
  store.close();
  cli.err(
    "Write to Claude in Note to Self. Signal rings for nothing there: SIGNALMAN_NOTIFY can (docs/linking.md).\n\n",
  );
}
