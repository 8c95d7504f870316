/** The settings of a simulated home, read the way the program reads them. */
import { existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig, type Config } from "../../src/config.ts";
import type { Address } from "../../src/core/model.ts";

/** Who lives in the simulated world. Everything about the stranger, and the key, must never be seen in files or logs. */
export const people = {
  ann: { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00a001", number: "+15550100011" },
  bob: { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002", number: null },
  carl: { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00c003", number: "+15550100013" },
  stranger: { aci: "dead7a57-11d5-4c0e-9c53-6a1d3f00d004", number: "+15559999014" },
} as const satisfies Record<string, Address>;

export const listedGroup = "bGlzdGVkLWdyb3VwLi4uLi4uLi4uLi4uLi4uLi4uLi4=";
export const unlistedGroup = "dW5saXN0ZWQtZ3JvdXAuLi4uLi4uLi4uLi4uLi4uLi4=";
/** Begins everything that a stranger says, or a person who does not address us. */
export const secretWord = "zqstranger";
export const apiKey = "sk-ant-simulated-0123456789";

/** In memory where the machine has such a folder: a killed process needs no disk to find its files again. */
export const makeHome = (): string =>
  mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "signalman-sim-"));

export function simConfig(home: string, flags: Readonly<Record<string, string>> = {}): Config {
  const allow = ["self", people.ann.number, people.bob.aci, `group:${listedGroup}`].join(",");
  return loadConfig({
    flags: { home, transport: "signal-cli", account: "+15550100001", allow, listen: "off", log: "debug", ...flags },
    env: { ANTHROPIC_API_KEY: apiKey },
  }).config;
}
